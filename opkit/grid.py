"""Uniform grids on a box: where the points are, what they weigh, how fields move between grids.

An axis of length L with n points is one of three kinds, and nearly every resolution bug in this field is a
confusion between them:

    node      x_j = j L / (n - 1),      j = 0..n-1   both end points included (Dirichlet, Neumann walls)
    cell      x_j = (j + 1/2) L / n,    j = 0..n-1   centres of n cells
    periodic  x_j = j L / n,            j = 0..n-1   x = L is left out: it is x = 0 again
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Location = Literal["node", "cell", "periodic"]
LOCATIONS: tuple[Location, ...] = ("node", "cell", "periodic")
Boundary = Literal["periodic", "dirichlet", "neumann", "open"]
BOUNDARIES: tuple[Boundary, ...] = ("periodic", "dirichlet", "neumann", "open")
"""What is known of the solution on the walls: nothing of it, as there are none; zero; zero slope; nothing."""
Method = Literal["auto", "strided", "linear", "cubic", "spectral", "sine", "cosine", "fejer", "average"]


def axis_positions(
    n: int, location: Location, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Float[Tensor, " n"]:
    """Positions of `n` points on an axis of length one.

    Written so that `n` may be symbolic: models call it on the shape of their input, which is what lets one set of
    weights run, compile and export on every grid.
    """
    index = torch.arange(n, dtype=dtype, device=device)
    if location == "node":
        return index / (n - 1)
    if location == "cell":
        return (index + 0.5) / n
    return index / n


@dataclass(frozen=True)
class Grid:
    """A uniform tensor-product grid on the box [0, L_1] x ... x [0, L_d].

    Args:
        shape: Points along each axis, x first.
        location: "node", "cell" or "periodic", see the module's table.
        length: Edge L of the box, in the equation's unit of length; one number for a cube.
    """

    shape: tuple[int, ...]
    location: Location = "node"
    length: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if self.location not in LOCATIONS:
            raise ValueError(f"Grid location is one of {', '.join(LOCATIONS)}, got {self.location!r}.")
        if not 1 <= len(self.shape) <= 3:
            raise ValueError(f"Grid has 1 to 3 axes, got shape {self.shape}.")
        least = 2 if self.location == "node" else 1
        if any(n < least for n in self.shape):
            raise ValueError(f"A {self.location} grid needs at least {least} points per axis, got shape {self.shape}.")
        if any(not (math.isfinite(edge) and edge > 0) for edge in self.lengths):
            raise ValueError(f"Grid lengths must be positive, got {self.length}.")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def lengths(self) -> tuple[float, ...]:
        """Edge of the box along each axis."""
        return self.length if isinstance(self.length, tuple) else (float(self.length),) * len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring points along each axis."""
        gap = 1 if self.location == "node" else 0
        return tuple(edge / (n - gap) for edge, n in zip(self.lengths, self.shape, strict=True))

    def axis(self, i: int) -> Float[Tensor, " n"]:
        """Positions along axis `i`, float64."""
        return axis_positions(self.shape[i], self.location) * self.lengths[i]

    @property
    def coordinates(self) -> Float[Tensor, "d *x"]:
        """Position of every point, float64; `coordinates[0]` is x and varies along the first spatial axis."""
        return torch.stack(torch.meshgrid(*(self.axis(i) for i in range(self.ndim)), indexing="ij"))

    @property
    def weights(self) -> Float[Tensor, "*x"]:
        """Quadrature weights: trapezoid on nodes, midpoint on cells, uniform where periodic. They sum to the volume."""
        total = torch.ones(self.shape, dtype=torch.float64)
        for i, h in enumerate(self.spacing):
            line = torch.full((self.shape[i],), h, dtype=torch.float64)
            if self.location == "node":
                line[0] /= 2
                line[-1] /= 2
            total = total * line.reshape([-1 if j == i else 1 for j in range(self.ndim)])
        return total

    def refine(self, factor: int) -> "Grid":
        """The grid with `factor` times as many intervals. It contains this one; on cells only if `factor` is odd, where
        coarse centre j is fine centre `factor` j + (factor - 1) / 2."""
        shape = (factor * (n - 1) + 1 if self.location == "node" else factor * n for n in self.shape)
        return replace(self, shape=tuple(shape))

    def stride_in(self, fine: "Grid") -> int | None:
        """The stride that picks this grid's points out of `fine`, or None where they are not points of it.

        Picking begins at point 0, on cells at point (stride - 1) / 2; their stride is odd.
        """
        if (fine.location, fine.lengths, fine.ndim) != (self.location, self.lengths, self.ndim):
            return None
        gap = 1 if self.location == "node" else 0
        strides = {(m - gap) / (n - gap) for m, n in zip(fine.shape, self.shape, strict=True)}
        stride = strides.pop()
        if strides or stride != int(stride) or (self.location == "cell" and stride % 2 == 0):
            return None
        return int(stride)

    def resample(self, values: Tensor, target: "Grid", method: Method = "auto") -> Tensor:
        """Values of a field on `target`, given its values `(..., *x)` on this grid.

        Args:
            values: The field; any leading axes, then one axis per axis of this grid.
            target: A grid on the same box.
            method: "strided" copies coinciding points (and fails where there are none), "linear" and "cubic"
                (not-a-knot spline) interpolate, "spectral" is trigonometric and for periodic grids alone. Between walls
                "sine" and "cosine" do the same with the series of a field that vanishes on the walls, and of any;
                "fejer" is "cosine" with the k-th of n waves times 1 - k / n (Fejer 1904), which leaves neither the
                bounds of the values nor, on this very grid, their points as they were; "average" takes the mean over
                the cell a target point stands for. "auto" is strided where the points coincide, else spectral on
                periodic grids and cubic on the others.

        Raises:
            ValueError: The shape does not fit, the boxes differ, or the method does not apply.
        """
        if tuple(values.shape[values.ndim - self.ndim :]) != self.shape:
            raise ValueError(f"resample expects values of shape (..., {self.shape}), got {tuple(values.shape)}.")
        if target.lengths != self.lengths or (target.location == "periodic") != (self.location == "periodic"):
            raise ValueError(f"Cannot resample from {self} to {target}: the boxes or their boundaries differ.")
        stride = target.stride_in(self)
        if method == "auto":
            method = "strided" if stride else ("spectral" if self.location == "periodic" else "cubic")
        if method == "strided":
            if stride is None:
                raise ValueError(f"The points of {target} are not points of {self}; use another method.")
            start = stride // 2 if self.location == "cell" else 0
            for axis in range(-self.ndim, 0):
                rows = torch.arange(start, values.shape[axis], stride, device=values.device)
                values = values.index_select(axis, rows) if stride > 1 else values
            return values
        if method == "spectral":
            if self.location != "periodic":
                raise ValueError(f"Spectral resampling needs a periodic grid, got a {self.location} grid.")
            return _resample_periodic(values, target.shape)
        rule = _RULES.get(method, _interpolation_matrix)
        if rule is not _interpolation_matrix and self.location == "periodic":
            raise ValueError(f'Resampling by "{method}" is for fields between walls; use "spectral".')
        for i in range(self.ndim):
            key = (self.shape[i], self.location, target.shape[i], target.location, method)
            matrix = torch.from_numpy(rule(*key)).to(values)
            values = torch.movedim(torch.movedim(values, i - self.ndim, -1) @ matrix.mT, -1, i - self.ndim)
        return values


@lru_cache(maxsize=64)
def _interpolation_matrix(n: int, source: Location, m: int, target: Location, method: str) -> np.ndarray:
    """The (m, n) matrix that maps values at n points to the interpolant's values at m points of the same axis."""
    from scipy.interpolate import make_interp_spline

    x, y = axis_positions(n, source).numpy(), axis_positions(m, target).numpy()
    data = np.eye(n)
    if source == "periodic":  # close the circle: the last column repeats the first
        x, data = np.append(x, 1.0), np.vstack([data, data[:1]])
    degree = min(3 if method == "cubic" else 1, n - 1)
    boundary: Literal["periodic"] | None = "periodic" if source == "periodic" and degree == 3 else None
    return make_interp_spline(x, data, k=degree, bc_type=boundary)(y)


@lru_cache(maxsize=64)
def _wave_matrix(n: int, source: Location, m: int, target: Location, method: str) -> np.ndarray:
    """Likewise for a series of half waves: all that n points hold, less those that m do not."""
    first = 1 if method == "sine" else 0

    def last(points: int, location: Location) -> int:
        return points - 1 + first - 2 * first * (location == "node")

    k = np.arange(first, min(last(n, source), last(m, target)) + 1)
    wave = np.sin if method == "sine" else np.cos
    here, there = (wave(np.pi * np.outer(axis_positions(*g).numpy(), k)) for g in ((n, source), (m, target)))
    weights = np.ones(n)
    if source == "node":
        weights[[0, -1]] = 0.5
    projection = here.T * weights  # the waves are orthogonal in this sum
    projection /= (projection * here.T).sum(1, keepdims=True)
    if method == "fejer":
        projection *= np.maximum(0, 1 - k / (n - (source == "node")))[:, None]
    return there @ projection


@lru_cache(maxsize=64)
def _mean_matrix(n: int, source: Location, m: int, target: Location, method: str) -> np.ndarray:
    """Likewise for the mean over the target's cells of a field that is constant on the source's."""

    def edges(points: int, location: Location) -> np.ndarray:
        if location == "cell":
            return np.arange(points + 1) / points
        return np.clip((np.arange(points + 1) - 0.5) / (points - 1), 0, 1)

    own, other = edges(n, source), edges(m, target)
    shared = np.minimum(other[1:, None], own[1:]) - np.maximum(other[:-1, None], own[:-1])
    return shared.clip(0) / np.diff(other)[:, None]


_RULES = {"sine": _wave_matrix, "cosine": _wave_matrix, "fejer": _wave_matrix, "average": _mean_matrix}


def _resample_periodic(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Trigonometric interpolation (zero-pad) or spectral truncation, axis by axis; the Nyquist pair is split evenly."""
    for i, m in enumerate(shape):
        axis = i - len(shape)
        n = values.shape[axis]
        if n == m:
            continue
        spectrum = torch.movedim(torch.fft.rfft(values, dim=axis, norm="forward"), axis, -1)
        kept = min(n, m) // 2 + 1
        spectrum = spectrum[..., :kept].clone()
        if min(n, m) % 2 == 0:  # cos(pi j) on the coarse grid: half of it belongs to +k, half to -k
            spectrum[..., -1] = spectrum[..., -1] * 0.5 if m > n else 2 * spectrum[..., -1].real
        values = torch.movedim(torch.fft.irfft(spectrum, n=m, norm="forward"), -1, axis)
    return values


@dataclass(frozen=True)
class Spec:
    """What a model must know of the data it is built for, and all that `pdes` and `models` share.

    Args:
        inputs: Names of the input channels, such as ("a",).
        outputs: Names of the output channels, such as ("u",).
        grid: The training grid. Its number of axes and kind are every model's; its size only that of models that are
            tied to it and say so (`Operator.resolution`).
        boundary: What is known of the outputs on the walls.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    grid: Grid
    boundary: Boundary = "open"

    def __post_init__(self) -> None:
        if self.boundary not in BOUNDARIES:
            raise ValueError(f"boundary is one of {', '.join(BOUNDARIES)}, got {self.boundary!r}.")
        if self.grid.location == "periodic":
            object.__setattr__(self, "boundary", "periodic")

    @property
    def ndim(self) -> int:
        return self.grid.ndim

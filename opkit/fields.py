"""Gaussian random fields N(0, sigma^2 (-Laplacian + tau^2)^(-alpha)) as exact Karhunen-Loeve series.

On a box with edge L the Laplacian's orthonormal eigenfunctions are products, over the axes, of

    boundary    eigenfunction of wavenumber k                  eigenvalue
    neumann     1, sqrt(2) cos(pi k x / L)        / sqrt(L)    (pi k / L)^2      k = 0, 1, 2, ...
    dirichlet      sqrt(2) sin(pi k x / L)        / sqrt(L)    (pi k / L)^2      k = 1, 2, ...
    periodic    1, sqrt(2) cos, sin (2 pi k x / L) / sqrt(L)   (2 pi k / L)^2    k = 0, 1, 2, ...

and the coefficient of an eigenfunction with eigenvalue lambda is an independent normal of standard deviation
sigma (lambda + tau^2)^(-alpha / 2): `alpha` is the exponent of the *covariance*. Lord, Powell and Shardlow, "An
Introduction to Computational Stochastic PDEs" (2014), chapters 5 and 7. Because the series is summed at the points
asked for, one sample is the same function on every grid.
"""

import math
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from opkit.grid import Grid

Boundary = Literal["periodic", "neumann", "dirichlet"]
SPLITS = ("train", "val", "test")
SPLIT_STRIDE = 2**32
FFT_FROM = 2**16
"""Points times wavenumbers of an axis from which a periodic series is summed by FFT."""


def first_index(split: str) -> int:
    """Where the sample indices of a split begin: splits are disjoint index ranges, whatever their sizes."""
    return SPLITS.index(split) * SPLIT_STRIDE


def seed_key(stream: str, seed: int, index: int) -> np.random.SeedSequence:
    """The key of one sample: a pure function of (stream, seed, index), independent of batch, worker and device.

    Args:
        stream: What is drawn, usually the equation's name; different streams are independent.
        seed: The user's seed, not negative.
        index: The sample's public index, `split * 2**32 + j`.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and sample index must not be negative, got seed={seed}, index={index}.")
    split, j = divmod(index, SPLIT_STRIDE)
    return np.random.SeedSequence(seed, spawn_key=(zlib.crc32(stream.encode()), split, j))


def normals(stream: str, seed: int, index: int, count: int) -> np.ndarray:
    """`count` standard normals, float64, from the counter-based Philox generator of one sample."""
    return np.random.Generator(np.random.Philox(seed_key(stream, seed, index))).standard_normal(count)


@dataclass(frozen=True)
class GRF:
    """A Gaussian random field on a box.

    Args:
        ndim: Number of axes, 1 to 3.
        boundary: "periodic", "neumann" or "dirichlet", on all walls.
        alpha: Exponent of the covariance. The pointwise variance is finite for 2 alpha > ndim.
        tau: Inverse correlation length, 1 / length.
        sigma: Amplitude.
        modes: Highest wavenumber kept along each axis. It belongs to the law, not to the grid: the field is the same
            function wherever it is evaluated.
        mean: "keep" draws the constant mode like any other, "drop" sets it to zero (as the generators of several
            published datasets do).
        length: Edge of the box.
    """

    ndim: int
    boundary: Boundary
    alpha: float
    tau: float
    sigma: float = 1.0
    modes: int = 128
    mean: Literal["keep", "drop"] = "keep"
    length: float = 1.0

    def __post_init__(self) -> None:
        if 2 * self.alpha <= self.ndim:
            raise ValueError(
                f"GRF(alpha={self.alpha}) in {self.ndim}-D has infinite variance; alpha must exceed {self.ndim / 2}."
            )
        if self.modes < 1:
            raise ValueError(f"GRF needs modes >= 1, got {self.modes}.")
        if self.mean == "keep" and self.boundary != "dirichlet" and self.tau == 0:
            raise ValueError("GRF(tau=0) has an infinitely uncertain mean; pass mean='drop' or a positive tau.")

    def sample(self, grid: Grid, n: int, seed: int = 0, first: int = 0, stream: str = "grf") -> Float[Tensor, "n *x"]:
        """Samples `first .. first + n - 1` at the points of `grid`, float64."""
        return torch.stack([self.evaluate(self.coefficients(seed, first + i, stream), grid) for i in range(n)])

    def coefficients(self, seed: int, index: int, stream: str = "grf") -> Float[Tensor, "*k"]:
        """Karhunen-Loeve coefficients of one sample, one axis per axis of the box, ordered as `_basis`.

        Normals are handed out by shells of growing max-wavenumber, so raising `modes` adds fine scales to a sample
        and leaves its coarse ones alone.
        """
        order = _shell_order(self.ndim, self.boundary, self.modes)
        std = self._std.numpy()
        coefficients = np.empty(std.size)
        coefficients[order] = normals(stream, seed, index, std.size)
        return torch.from_numpy(coefficients.reshape(std.shape) * std)

    def evaluate(self, coefficients: Float[Tensor, "*k"], grid: Grid) -> Float[Tensor, "*x"]:
        """Sum of the series at the points of `grid`: one matrix product, or FFT where it is long, per axis."""
        if grid.ndim != self.ndim or set(grid.lengths) != {self.length}:
            raise ValueError(f"{self} cannot be evaluated on {grid}: number of axes or edge length differ.")
        values = coefficients
        for n in grid.shape:
            if grid.location == self.boundary == "periodic" and 2 * self.modes < n and n * self.modes > FFT_FROM:
                values = _periodic_series(values, self.modes, self.length, n)
                continue
            basis = _basis(self.boundary, self.modes, self.length, n, grid.location)
            values = torch.tensordot(values, basis, dims=([0], [1]))  # consumes axis 0, appends the points last
        return values

    def variance(self, grid: Grid) -> Float[Tensor, "*x"]:
        """Exact pointwise variance at the points of `grid`: sum of std^2 times the squared eigenfunctions."""
        values = self._std**2
        for i in range(self.ndim):
            basis = _basis(self.boundary, self.modes, self.length, grid.shape[i], grid.location)
            values = torch.tensordot(values, basis**2, dims=([0], [1]))
        return values

    @property
    def _std(self) -> Float[Tensor, "*k"]:
        return _standard_deviations(self)


def same_size(field: GRF, other: GRF) -> float:
    """The factor on `other` that gives it the root mean square of `field` over the box."""

    def mean_square(law: GRF) -> float:
        values = law._std**2
        return float(values.sum())  # the eigenfunctions are orthonormal

    return math.sqrt(mean_square(field) / mean_square(other))


@lru_cache(maxsize=8)
def _standard_deviations(grf: GRF) -> Tensor:
    k = torch.from_numpy(_wavenumbers(grf.boundary, grf.modes)).to(torch.float64)
    line = (k * math.pi * (2 if grf.boundary == "periodic" else 1) / grf.length) ** 2
    eigenvalue = sum(line.reshape([-1 if j == i else 1 for j in range(grf.ndim)]) for i in range(grf.ndim))
    assert isinstance(eigenvalue, Tensor)
    keep_mean = grf.boundary == "dirichlet" or grf.mean == "keep"
    if not keep_mean:
        eigenvalue = eigenvalue.clone()
        eigenvalue.view(-1)[0] = math.inf
    return grf.sigma * (eigenvalue + grf.tau**2) ** (-grf.alpha / 2)


@lru_cache(maxsize=8)
def _wavenumbers(boundary: Boundary, modes: int) -> np.ndarray:
    """Wavenumber of each eigenfunction of an axis: neumann 0 1 2 ..., dirichlet 1 2 ..., periodic 0 1 1 2 2 ..."""
    k = np.arange(1, modes + 1)
    if boundary == "dirichlet":
        return k
    return np.concatenate([[0], np.repeat(k, 2) if boundary == "periodic" else k])


@lru_cache(maxsize=8)
def _shell_order(ndim: int, boundary: Boundary, modes: int) -> np.ndarray:
    """Flat positions of the coefficients, sorted by max-wavenumber, then by each axis: independent of `modes`."""
    k = _wavenumbers(boundary, modes)
    axes = np.meshgrid(*[np.arange(len(k))] * ndim, indexing="ij")
    shell = np.max([k[a] for a in axes], axis=0)
    return np.lexsort([a.ravel() for a in reversed(axes)] + [shell.ravel()])


@lru_cache(maxsize=32)
def _basis(boundary: Boundary, modes: int, length: float, n: int, location: str) -> Tensor:
    """Eigenfunctions of one axis at its points, (points, eigenfunctions), float64."""
    x = Grid((n,), location).axis(0)[:, None] * math.pi  # type: ignore[arg-type]
    k = torch.arange(1, modes + 1, dtype=torch.float64)
    if boundary == "dirichlet":
        columns = torch.sin(x * k)
    elif boundary == "neumann":
        columns = torch.cos(x * k)
    else:  # interleave cos and sin, as `_wavenumbers` counts them
        columns = torch.stack([torch.cos(2 * x * k), torch.sin(2 * x * k)], dim=-1).flatten(1)
    columns = columns * math.sqrt(2 / length)
    if boundary == "dirichlet":
        return columns
    return torch.cat([torch.full((n, 1), 1 / math.sqrt(length), dtype=torch.float64), columns], dim=1)


def _periodic_series(values: Tensor, modes: int, length: float, n: int) -> Tensor:
    """The series along axis 0 of `values` at n > 2 modes periodic points, appended as the last axis."""
    cosines, sines = values[1::2].movedim(0, -1), values[2::2].movedim(0, -1)
    spectrum = torch.zeros(*cosines.shape[:-1], n // 2 + 1, dtype=torch.complex128)
    spectrum[..., 0] = values[0] / math.sqrt(length)
    spectrum[..., 1 : modes + 1] = torch.complex(cosines, -sines) * math.sqrt(1 / (2 * length))
    return torch.fft.irfft(spectrum, n=n, norm="forward")

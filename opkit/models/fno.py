"""Fourier neural operator: v <- gelu(W v + b + F^-1(R_k (F v)_k)), the low Fourier modes k mixed by learned matrices.

Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021 (arXiv 2010.08895),
equations 4 and 5. With `n_modes=(24, 22), width=32` this is the paper's Darcy network, 2 368 001 parameters.

Notes on this implementation, each the remedy of a known failure:

- Modes are indexed by their integer wavenumber, so odd, even and prime grids agree; a grid too coarse for all modes
  uses the ones it has. Both transforms carry one normalisation, so weights act on any grid.
- Weights are stored as real pairs `(..., 2)`: no complex parameter meets DDP, autocast, export or safetensors.
- Nothing in the module depends on the grid; coordinates and transform matrices are computed from the input's shape.
- Few modes of many points are wanted, so the transform can be two thin real matrix products instead of an FFT. Same
  numbers, faster where modes are few, and it compiles and exports without complex tensors.
- `padding` lengthens the period of the Fourier series to a fixed multiple of the domain, the same on every grid. The
  signal is continued by zero inside each spectral layer only, so pointwise layers never see padded points.
- With padding on node grids the transform's sum is a trapezoid rule: wall points weigh one half. Counting them in full,
  as zero-padding a plain FFT does, is a first-order error that changes with the grid, and most of what such a network
  loses on finer ones.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opkit.grid import LOCATIONS, Location, Spec, axis_positions
from opkit.models.base import Operator


class SpectralConv(nn.Module):
    """Multiply the lowest Fourier modes by learned matrices, in 1-D, 2-D or 3-D.

    Maps `(b, i, *x)` to `(b, o, *x)` on any grid. Kept are wavenumbers -n/2 <= k < n/2 on every axis but the last
    (-(n-1)/2 .. (n-1)/2 for odd n), and 0 <= k <= n/2 on the last, whose negative half is implied by real data.

    Args:
        in_channels: Channels i of the input.
        out_channels: Channels o of the output.
        n_modes: n for each axis.
    """

    def __init__(self, in_channels: int, out_channels: int, n_modes: tuple[int, ...]):
        super().__init__()
        self.n_modes = tuple(n_modes)
        kept = (*self.n_modes[:-1], self.n_modes[-1] // 2 + 1)
        weight = torch.randn(*kept, in_channels, out_channels, 2)
        self.weight = nn.Parameter(weight * math.sqrt(1 / (2 * in_channels)))

    def forward(self, u: Tensor, period: tuple[int, ...], spectral: str, walls: bool = False) -> Tensor:
        """Apply to `(b, i, *x)`.

        Args:
            u: Field on the grid, continued by zero beyond it.
            period: Length of the Fourier series in grid steps, at least the shape.
            spectral: "fft" or "dft".
            walls: Whether the first and last points are walls and weigh one half: the trapezoid rule, without which
                the transform of a field that does not vanish there changes with the grid at first order.
        """
        spans = [_span(n, m) for n, m in zip(self.n_modes[:-1], period[:-1], strict=True)]
        highest = self.n_modes[-1] // 2
        spans.append((0, (highest if period[-1] >= self.n_modes[-1] else min(highest, period[-1] // 2)) + 1))
        weight: Tensor = self.weight
        for axis, (low, high) in enumerate(spans[:-1]):
            centre = self.n_modes[axis] // 2  # position of k = 0
            weight = weight.narrow(axis, centre + low, high - low)
        weight = weight.narrow(len(spans) - 1, 0, spans[-1][1])
        transform = _by_matrices if spectral == "dft" else _by_fft
        if u.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(u.device.type):
            with torch.autocast(u.device.type, enabled=False):  # transforms sum thousands of terms: float32 at least
                return transform(u.float(), weight.float(), period, spans, walls).to(u.dtype)
        return transform(u, weight, period, spans, walls)


def _span(n_modes: int, points: int) -> tuple[int, int]:
    """Kept wavenumbers low <= k < high on an axis: those asked for that the grid has."""
    if points >= n_modes:  # apart, so that symbolic sizes leave constants behind
        return -(n_modes // 2), (n_modes + 1) // 2
    return max(-(n_modes // 2), -(points // 2)), min((n_modes + 1) // 2, (points + 1) // 2)


def _mix(z: Tensor, weight: Tensor) -> Tensor:
    """Channel mixing at every mode, (2, b, i, *k) -> (2, b, o, *k), as one real batched product over the modes.

    The leading axis of 2 is real and imaginary part, here and below.
    """
    w = weight.flatten(0, -4)  # (k, i, o, 2)
    wr, wi = w[..., 0], w[..., 1]
    block = torch.cat([torch.cat([wr, wi], 2), torch.cat([-wi, wr], 2)], 1)  # (k, 2i, 2o): [re im] -> [re im]
    v = z.flatten(3).permute(3, 1, 0, 2).flatten(2)  # (k, b, 2i)
    return torch.bmm(v, block).unflatten(2, (2, -1)).permute(2, 1, 3, 0).unflatten(3, z.shape[3:])


def _waves(span: tuple[int, int], points: int, period: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi k j / period, (points, k). Reduced modulo the period first: exact for large k j."""
    k = torch.arange(span[0], span[1], device=like.device)
    j = torch.arange(points, device=like.device)
    angle = (torch.outer(j, k) % period).to(torch.float64) * (2 * math.pi / period)
    return torch.cos(angle).to(like.dtype), torch.sin(angle).to(like.dtype)


def _rotate(z: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """Multiply (2, ..., n) by cos + sign i sin, two (n, m) matrices, along its last axis: one matrix product."""
    m = cos.shape[1]
    y = z @ torch.cat([cos, sin], 1)
    (rc, ic), (rs, i_s) = y[..., :m], y[..., m:]
    return torch.stack([rc - sign * i_s, ic + sign * rs])


def _trapezoid(points: int, like: Tensor) -> Tensor:
    """Ones with one half at both ends, (points, 1)."""
    j = torch.arange(points, device=like.device)
    return (1 - 0.5 * ((j == 0) | (j == points - 1)).to(like.dtype))[:, None]


def _by_matrices(
    u: Tensor, weight: Tensor, period: tuple[int, ...], spans: list[tuple[int, int]], walls: bool
) -> Tensor:
    """Forward transform, mixing and inverse as real matrix products with the kept waves only."""
    shape, ndim = u.shape[2:], u.ndim - 2
    waves = [_waves(s, n, p, u) for s, n, p in zip(spans, shape, period, strict=True)]
    forward = [
        (c * _trapezoid(n, u), s * _trapezoid(n, u)) if walls else (c, s)
        for (c, s), n in zip(waves, shape, strict=True)
    ]
    cos, sin = forward[-1]
    z = (u @ torch.cat([cos, -sin], 1)).unflatten(-1, (2, -1)).movedim(-2, 0)  # (2, b, c, *x, k)
    for axis in range(ndim - 2, -1, -1):
        z = _rotate(z.movedim(axis + 3, -1), *forward[axis], sign=-1).movedim(-1, axis + 3)
    z = _mix(z * (1 / math.prod(period)), weight)
    for axis in range(ndim - 1):
        c, s = waves[axis]
        z = _rotate(z.movedim(axis + 3, -1), c.mT, s.mT, sign=1).movedim(-1, axis + 3)
    # Real output: k and -k contribute twice the real part, but k = 0 and the Nyquist wave are their own partners.
    k = torch.arange(spans[-1][1], device=u.device)
    twice = 2 - ((k == 0) | (2 * k == period[-1])).to(u.dtype)
    cos, sin = waves[-1]
    return z.movedim(0, -2).flatten(-2) @ torch.cat([(cos * twice).mT, (-sin * twice).mT], 0)


def _by_fft(u: Tensor, weight: Tensor, period: tuple[int, ...], spans: list[tuple[int, int]], walls: bool) -> Tensor:
    """The same through the FFT, for many modes."""
    ndim = u.ndim - 2
    shape, dims = u.shape[2:], list(range(2, ndim + 2))
    if walls:
        for axis, n in enumerate(shape):
            u = u * _trapezoid(n, u).view(-1, *(1,) * (ndim - 1 - axis))
    spectrum = torch.fft.rfftn(u, s=period, dim=dims, norm="forward")
    spectrum = spectrum.narrow(-1, 0, spans[-1][1])
    for axis, (low, high) in enumerate(spans[:-1]):
        wanted = torch.arange(low, high, device=u.device) % period[axis]
        spectrum = spectrum.index_select(axis + 2, wanted)
    out = torch.complex(*_mix(torch.stack([spectrum.real, spectrum.imag]), weight))
    for axis, (low, high) in enumerate(spans[:-1]):
        wanted = torch.arange(low, high, device=u.device) % period[axis]
        full = out.new_zeros(*out.shape[: axis + 2], period[axis], *out.shape[axis + 3 :])
        out = torch.fft.ifft(full.index_copy(axis + 2, wanted, out), dim=axis + 2, norm="forward")
        out = out.narrow(axis + 2, 0, shape[axis])
    # One-dimensional inverse last: what a library does with a non-Hermitian k = 0 plane in several is undefined.
    return torch.fft.irfft(out, n=period[-1], norm="forward").narrow(-1, 0, shape[-1])


class Pointwise(nn.Linear):
    """The same linear layer at every point of `(b, c, *x)`."""

    def forward(self, u: Tensor) -> Tensor:
        weight = self.weight.expand(u.shape[0], *self.weight.shape)
        return torch.baddbmm(self.bias[:, None], weight, u.flatten(2)).unflatten(2, u.shape[2:])


class FNO(Operator):
    """Fourier neural operator on a uniform grid.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        n_modes: Fourier modes per axis, counted as in neuraloperator: wavenumbers -n/2 .. n/2 - 1, and 0 .. n/2 on the
            last axis. The paper's "12 modes" is (24, 22).
        width: Channels inside.
        n_layers: Fourier layers.
        projection_width: Hidden channels of the two-layer projection.
        padding: Length added to the period of the Fourier series, as a fraction of the domain; 0 assumes the field
            periodic. Data with walls want some, such as 1/7.
        coordinates: Whether positions join the input as channels: true for x in [0, 1], false, or "waves" for
            cos 2 pi x and sin 2 pi x of every axis. On a periodic grid x itself jumps where the period closes: its
            transform, and with it the network, then changes with the grid at first order.
        location: Kind of grid the positions are for: "node", "cell" or "periodic"; set from the data.
        activation: "gelu" or "relu".
        spectral: "fft", "dft" (truncated transform as matrix products) or "auto": "dft" where at most half of the modes
            of every axis are kept, which is where it is the faster of the two.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: tuple[int, ...] = (24, 24),
        width: int = 32,
        n_layers: int = 4,
        projection_width: int = 128,
        padding: float = 0.0,
        coordinates: bool | Literal["waves"] = True,
        location: Location = "node",
        activation: Literal["gelu", "relu"] = "gelu",
        spectral: Literal["auto", "fft", "dft"] = "auto",
    ):
        super().__init__()
        n_modes = tuple(n_modes)
        _check(in_channels, out_channels, n_modes, width, n_layers, projection_width, padding, location)
        self.n_modes, self.padding, self.coordinates, self.location = n_modes, padding, coordinates, location
        self.in_channels, self.spectral = in_channels, spectral
        activations: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}
        self.activation = activations[activation]
        ndim = len(n_modes)
        positions = {False: 0, True: 1, "waves": 2}[coordinates] * ndim
        self.lift = Pointwise(in_channels + positions, width)
        self.spectral_layers = nn.ModuleList(SpectralConv(width, width, n_modes) for _ in range(n_layers))
        self.pointwise_layers = nn.ModuleList(Pointwise(width, width) for _ in range(n_layers))
        self.project = nn.ModuleList([Pointwise(width, projection_width), Pointwise(projection_width, out_channels)])

    @property
    def ndim(self) -> int:
        return len(self.n_modes)

    @classmethod
    def check(cls, spec: Spec, arguments: dict) -> None:
        n_modes = tuple(arguments.get("n_modes", (24, 24)))
        if len(n_modes) != spec.grid.ndim:
            raise ValueError(
                f"n_modes={n_modes} has {len(n_modes)} entries, but the data have {spec.grid.ndim} axes. "
                f"Give one number of modes per axis."
            )
        for n, points in zip(n_modes, spec.grid.shape, strict=True):
            if n > points:
                raise ValueError(
                    f"n_modes={n_modes} asks for more modes than the training grid of {spec.grid.shape} points has. "
                    f"Lower model.n_modes to at most {spec.grid.shape}, or raise pde.resolution."
                )

    def forward(self, u: Tensor) -> Tensor:
        """Map `(b, c_in, *x)` to `(b, c_out, *x)`; every axis needs at least 2 points."""
        if u.ndim != self.ndim + 2 or u.shape[1] != self.in_channels:
            axes = ", ".join("xyz"[: self.ndim])
            raise ValueError(
                f"FNO with n_modes={self.n_modes} and {self.in_channels} input channels expects a tensor of shape "
                f"(batch, {self.in_channels}, {axes}), got {tuple(u.shape)}."
            )
        shape = u.shape[2:]
        period = tuple(self._period(n) for n in shape)
        spectral = self.spectral
        if spectral == "auto":
            spectral = "dft" if all(2 * n <= p for n, p in zip(self.n_modes, period, strict=True)) else "fft"
        walls = bool(self.padding) and self.location == "node"
        if self.coordinates:
            lines = [axis_positions(n, self.location, dtype=u.dtype, device=u.device) for n in shape]
            grid = torch.stack(torch.meshgrid(*lines, indexing="ij"))
            if self.coordinates == "waves":
                grid = torch.cat([torch.cos(2 * math.pi * grid), torch.sin(2 * math.pi * grid)])
            u = torch.cat([u, grid.expand(u.shape[0], *grid.shape)], 1)
        u = self.lift(u)
        last = len(self.spectral_layers) - 1
        for i, (conv, linear) in enumerate(zip(self.spectral_layers, self.pointwise_layers, strict=True)):
            u = conv(u, period, spectral, walls) + linear(u)
            if i < last:
                u = self.activation(u)
        return self.project[1](self.activation(self.project[0](u)))

    def prepare_export(self) -> int:
        self.spectral = "dft"
        return max(self.n_modes)

    def _period(self, points: int) -> int:
        """Grid steps in one period: the domain plus `padding` of it, rounded to the grid. Integers only, so that
        `points` may be symbolic."""
        if not self.padding:
            return points
        part = Fraction(self.padding).limit_denominator(1000)
        p, q = part.numerator, part.denominator
        steps = points - 1 if self.location == "node" else points
        return torch.sym_max(points, (2 * (p + q) * steps + q) // (2 * q))


def _check(
    in_channels: int,
    out_channels: int,
    n_modes: tuple[int, ...],
    width: int,
    n_layers: int,
    projection_width: int,
    padding: float,
    location: str,
) -> None:
    sizes = dict(in_channels=in_channels, out_channels=out_channels, width=width, n_layers=n_layers)
    sizes["projection_width"] = projection_width
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if not 1 <= len(n_modes) <= 3 or any(n < 1 for n in n_modes):
        raise ValueError(f"n_modes needs one positive number per axis (1 to 3 axes), got {n_modes}.")
    if not 0 <= padding <= 1:
        raise ValueError(f"padding is a fraction of the domain between 0 and 1, got {padding}.")
    if location not in LOCATIONS:
        raise ValueError(f"location is one of {', '.join(LOCATIONS)}, got {location!r}.")

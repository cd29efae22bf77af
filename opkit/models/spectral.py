"""Spectral convolution, F^-1(R_k (F v)_k) with a learned matrix R_k for each of the lowest Fourier modes k.

Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021 (arXiv 2010.08895),
equation 4; also the decoder of the Galerkin Transformer.

Two computations of the same numbers: through the FFT, and, where few modes of many points are kept, as thin real matrix
products with the kept waves only, which is then faster, and compiles and exports without complex tensors.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from opkit.models.positions import trapezoid


class SpectralConv(nn.Module):
    """Multiply the lowest Fourier modes by learned matrices, in 1-D, 2-D or 3-D.

    Maps `(b, i, *x)` to `(b, o, *x)` on any grid. Kept are wavenumbers -n/2 <= k < n/2 on every axis but the last
    (-(n-1)/2 .. (n-1)/2 for odd n), and 0 <= k <= n/2 on the last, whose negative half is implied by real data.

    Args:
        in_channels: Channels i of the input.
        out_channels: Channels o of the output.
        n_modes: n for each axis.
        bias: Whether a learned constant is added to each output channel.
    """

    def __init__(self, in_channels: int, out_channels: int, n_modes: tuple[int, ...], bias: bool = False):
        super().__init__()
        self.n_modes = tuple(n_modes)
        kept = (*self.n_modes[:-1], self.n_modes[-1] // 2 + 1)
        weight = torch.randn(*kept, in_channels, out_channels, 2)
        self.weight = nn.Parameter(weight * math.sqrt(1 / (2 * in_channels)))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, u: Tensor, period: tuple[int, ...], spectral: str, walls: bool = False) -> Tensor:
        """Apply to `(b, i, *x)`.

        Args:
            u: Field on the grid, continued by zero beyond it.
            period: Length of the Fourier series in grid steps: at least the shape; with `walls` and as matrix products
                also one step less, both walls then being one point of the circle.
            spectral: "fft" or "dft".
            walls: Whether the first and last points are walls and weigh one half: the trapezoid rule, without which
                the transform of a field that does not vanish there changes with the grid at first order.
        """
        out = convolve(u, self.weight, self.n_modes, period, spectral, walls)
        return out if self.bias is None else out + self.bias.to(out.dtype).view(-1, *(1,) * (u.ndim - 2))


def choose(spectral: str, n_modes: tuple[int, ...], period: tuple[int, ...]) -> str:
    """What "auto" stands for: "dft" where at most half of the modes of every axis are kept, else "fft"."""
    if spectral != "auto":
        return spectral
    return "dft" if all(2 * n <= p for n, p in zip(n_modes, period, strict=True)) else "fft"


Spans = list[tuple[int, int]]
"""Kept wavenumbers low <= k < high, axis by axis."""

Mix = Callable[[Tensor, Spans], Tensor]
"""What is done to the kept modes, `(2, b, i, *k)` to `(2, b, o, *k)`; the leading axis is real and imaginary part."""


def convolve(
    u: Tensor,
    weight: Tensor,
    n_modes: tuple[int, ...],
    period: tuple[int, ...],
    spectral: str,
    walls: bool = False,
    target: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
) -> Tensor:
    """Spectral convolution of `(b, i, *x)` with given weights, `(b, o, *x)`.

    Args:
        u: Field on the grid, continued by zero beyond it.
        weight: Matrices of the modes as real pairs, `(*k, i, o, 2)`; of each axis but the last k = 0 is entry n // 2.
        n_modes: As in `SpectralConv`.
        period: As in `SpectralConv`.
        spectral: "fft" or "dft".
        walls: As in `SpectralConv`.
        target: Points and period of another grid on which the output is wanted.
    """

    def mix(z: Tensor, spans: Spans) -> Tensor:
        return _mix(z, of_modes(weight, n_modes, spans).to(z.dtype))

    return filtered(u, mix, n_modes, period, spectral, walls, target)


def filtered(
    u: Tensor,
    mix: Mix,
    n_modes: tuple[int, ...],
    period: tuple[int, ...],
    spectral: str,
    walls: bool = False,
    target: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
) -> Tensor:
    """The field `(b, i, *x)` whose kept modes are changed by `mix` and whose others are dropped, `(b, o, *x)`.

    Arguments are those of `convolve`. The modes are Fourier coefficients, the same on every grid that resolves a field.
    """
    finest = period if target is None else tuple(torch.sym_min(p, q) for p, q in zip(period, target[1], strict=True))
    spans = [_span(n, m) for n, m in zip(n_modes[:-1], finest[:-1], strict=True)]
    highest = n_modes[-1] // 2
    spans.append((0, (highest if finest[-1] >= n_modes[-1] else min(highest, finest[-1] // 2)) + 1))
    transform = partial(_by_matrices if spectral == "dft" else _by_fft, mix=mix)
    if u.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(u.device.type):
        with torch.autocast(u.device.type, enabled=False):  # transforms sum thousands of terms: float32 at least
            return transform(u.float(), period=period, spans=spans, walls=walls, target=target).to(u.dtype)
    return transform(u, period=period, spans=spans, walls=walls, target=target)


def of_modes(values: Tensor, n_modes: tuple[int, ...], spans: Spans) -> Tensor:
    """The entries that belong to the kept wavenumbers, of a tensor that begins with one axis per axis of the grid."""
    for axis, (low, high) in enumerate(spans[:-1]):
        values = values.narrow(axis, n_modes[axis] // 2 + low, high - low)
    return values.narrow(len(spans) - 1, 0, spans[-1][1])


def from_factors(factorization: str, factors: list[Tensor]) -> Tensor:
    """The tensor that factors of a decomposition stand for, all complex and held as real pairs: `(*n, 2)`.

    Args:
        factorization: "dense", "tucker", "cp" or "tt".
        factors: The tensor itself; the core `(*r, 2)` and a matrix `(n, r, 2)` per axis; the weights `(r, 2)` and a
            matrix `(n, r, 2)` per axis; a tensor `(r, n, r', 2)` per axis, the first r and the last r' being 1. Kolda
            and Bader 2009; Oseledets 2011.
    """
    first, *others = factors
    if factorization == "tucker":
        for factor in others:  # each puts its axis last, so that after all of them the order is the first one again
            first = _product(first.movedim(0, -2), factor.transpose(0, 1))
        return first
    if factorization == "cp":  # two matrices whose rows are half of the axes each, so that nothing larger is formed
        half = len(others) // 2
        rows, columns = first[None], others[half]
        for factor in others[:half]:
            rows = _times(rows[:, None], factor).flatten(0, 1)
        for factor in others[half + 1 :]:
            columns = _times(columns[:, None], factor).flatten(0, 1)
        return _product(rows, columns.transpose(0, 1)).view(*(len(f) for f in others), 2)
    for factor in others:  # "tt"
        first = _product(first, factor.flatten(1, 2)).unflatten(-2, factor.shape[1:3])
    return first.flatten(0, 1).squeeze(-2) if factorization == "tt" else first


def _times(a: Tensor, b: Tensor) -> Tensor:
    """Complex product of real pairs, element by element."""
    (ar, ai), (br, bi) = a.unbind(-1), b.unbind(-1)
    return torch.stack([ar * br - ai * bi, ar * bi + ai * br], -1)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Complex matrix product of real pairs, (..., m, 2) and (m, n, 2) to (..., n, 2), as one real one."""
    br, bi = b.unbind(-1)
    block = torch.stack([torch.stack([br, bi], -1), torch.stack([-bi, br], -1)], 1)  # (m, 2, n, 2)
    return (a.flatten(-2) @ block.flatten(2).flatten(0, 1)).unflatten(-1, (-1, 2))


def _span(n_modes: int, points: int) -> tuple[int, int]:
    """Kept wavenumbers low <= k < high on an axis: those asked for that the grid has."""
    if points >= n_modes:  # apart, so that symbolic sizes leave constants behind
        return -(n_modes // 2), (n_modes + 1) // 2
    return max(-(n_modes // 2), -(points // 2)), min((n_modes + 1) // 2, (points + 1) // 2)


def _mix(z: Tensor, weight: Tensor) -> Tensor:
    """Channel mixing at every mode, (2, b, i, *k) -> (2, b, o, *k), as one real batched product over the modes."""
    w = weight.flatten(0, -4)  # (k, i, o, 2)
    wr, wi = w[..., 0], w[..., 1]
    if z.shape[1] == 1:  # a batched product of single rows is taken row by row, several times as slowly
        re, im = z[:, 0].flatten(2).mT[..., None].unbind(0)  # (k, i, 1)
        out = torch.stack([(re * wr - im * wi).sum(1), (re * wi + im * wr).sum(1)])  # (2, k, o)
        return out.mT[:, None].unflatten(3, z.shape[3:])
    block = torch.cat([torch.cat([wr, wi], 2), torch.cat([-wi, wr], 2)], 1)  # (k, 2i, 2o): [re im] -> [re im]
    v = z.flatten(3).permute(3, 1, 0, 2).flatten(2)  # (k, b, 2i)
    return torch.bmm(v, block).unflatten(2, (2, -1)).permute(2, 1, 3, 0).unflatten(3, z.shape[3:])


def waves(span: tuple[int, int], points: int, period: int, like: Tensor) -> tuple[Tensor, Tensor]:
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


def _by_matrices(
    u: Tensor,
    mix: Mix,
    period: tuple[int, ...],
    spans: Spans,
    walls: bool,
    target: tuple[tuple[int, ...], tuple[int, ...]] | None,
) -> Tensor:
    """Forward transform, mixing and inverse as real matrix products with the kept waves only."""
    shape, ndim = u.shape[2:], u.ndim - 2
    tables = [waves(s, n, p, u) for s, n, p in zip(spans, shape, period, strict=True)]
    forward = [
        (c * trapezoid(n, u), s * trapezoid(n, u)) if walls else (c, s) for (c, s), n in zip(tables, shape, strict=True)
    ]
    cos, sin = forward[-1]
    z = (u @ torch.cat([cos, -sin], 1)).unflatten(-1, (2, -1)).movedim(-2, 0)  # (2, b, c, *x, k)
    for axis in range(ndim - 2, -1, -1):
        z = _rotate(z.movedim(axis + 3, -1), *forward[axis], sign=-1).movedim(-1, axis + 3)
    z = mix(z * (1 / math.prod(period)), spans)
    if target is not None:
        period = target[1]
        tables = [waves(s, n, p, u) for s, n, p in zip(spans, *target, strict=True)]
    for axis in range(ndim - 1):
        c, s = tables[axis]
        z = _rotate(z.movedim(axis + 3, -1), c.mT, s.mT, sign=1).movedim(-1, axis + 3)
    # Real output: k and -k contribute twice the real part, but k = 0 and the Nyquist wave are their own partners.
    k = torch.arange(spans[-1][1], device=u.device)
    twice = 2 - ((k == 0) | (2 * k == period[-1])).to(u.dtype)
    cos, sin = tables[-1]
    return z.movedim(0, -2).flatten(-2) @ torch.cat([(cos * twice).mT, (-sin * twice).mT], 0)


def _by_fft(
    u: Tensor,
    mix: Mix,
    period: tuple[int, ...],
    spans: Spans,
    walls: bool,
    target: tuple[tuple[int, ...], tuple[int, ...]] | None,
) -> Tensor:
    """The same through the FFT, for many modes."""
    ndim = u.ndim - 2
    shape, dims = tuple(u.shape[2:]), list(range(2, ndim + 2))
    if walls:
        for axis, n in enumerate(shape):
            u = u * trapezoid(n, u).view(-1, *(1,) * (ndim - 1 - axis))
    spectrum = torch.fft.rfftn(u, s=period, dim=dims, norm="forward")
    spectrum = spectrum.narrow(-1, 0, spans[-1][1])
    for axis, (low, high) in enumerate(spans[:-1]):
        wanted = torch.arange(low, high, device=u.device) % period[axis]
        spectrum = spectrum.index_select(axis + 2, wanted)
    out = torch.complex(*mix(torch.stack([spectrum.real, spectrum.imag]), spans))
    if target is not None:
        shape, period = target
    for axis, (low, high) in enumerate(spans[:-1]):
        wanted = torch.arange(low, high, device=u.device) % period[axis]
        full = out.new_zeros(*out.shape[: axis + 2], period[axis], *out.shape[axis + 3 :])
        out = torch.fft.ifft(full.index_copy(axis + 2, wanted, out), dim=axis + 2, norm="forward")
        out = out.narrow(axis + 2, 0, shape[axis])
    # One-dimensional inverse last: what a library does with a non-Hermitian k = 0 plane in several is undefined.
    return torch.fft.irfft(out, n=period[-1], norm="forward").narrow(-1, 0, shape[-1])

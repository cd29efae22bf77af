"""Spectral convolutions that amplify no Fourier mode, so that a network is stable on its own output.

McCabe et al., "Towards Stability of Autoregressive Neural Operators", TMLR 2023 (arXiv 2306.10619): each mode k of each
channel c is multiplied by a number inside the unit circle, then channels are mixed at every point,

    v <- W F^-1(s(m_kc) exp(i p_kc) (F v)_kc),        |k| <= K, s the logistic function.

In the published code filters have the shape of the grid. Here they belong to integer wavenumbers, so that they run on
any grid, and the disc |k| <= K is an ellipse if axes have unequal numbers of modes.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from opkit.models.layers import BoundedPointwise, Pointwise
from opkit.models.spectral import Spans, filtered, of_modes

SPEED = 10.0
"""m and p are this many times what is stored, so that the optimiser's steps on them are as many times longer: with the
steps of other weights they move too little to be learned."""


class BoundedFilter(nn.Module):
    """Multiply modes inside the unit circle, then mix channels; maps `(b, c, *x)` to the same.

    Args:
        channels: c.
        n_modes: As in `opkit.models.spectral.SpectralConv`.
        dynamic: Whether m and p are given by the field as well: a complex two-layer network of the channels, applied to
            every mode of the normalised spectrum, adds its modulus to m and its angle to p.
        bounded: Whether the matrix that mixes channels lengthens no vector either.
        bias: Whether a learned constant is added to each channel.
    """

    def __init__(self, channels: int, n_modes: tuple[int, ...], dynamic: bool, bounded: bool, bias: bool):
        super().__init__()
        self.n_modes = tuple(n_modes)
        kept = (*self.n_modes[:-1], self.n_modes[-1] // 2 + 1)
        self.magnitude = nn.Parameter(torch.randn(*kept, channels) / SPEED)
        self.phase = nn.Parameter(torch.randn(*kept, channels) / SPEED)
        self.gate = Gate(channels, self.n_modes) if dynamic else None
        self.mix = (BoundedPointwise if bounded else Pointwise)(channels, channels, bias)

    def forward(self, u: Tensor, period: tuple[int, ...], spectral: str, walls: bool = False) -> Tensor:
        """Apply to `(b, c, *x)`; arguments as of `SpectralConv.forward`."""
        return self.mix(filtered(u, self._filter, self.n_modes, period, spectral, walls))

    def _filter(self, z: Tensor, spans: Spans) -> Tensor:
        magnitude, phase = (
            of_modes(v, self.n_modes, spans).movedim(-1, 0) * SPEED for v in (self.magnitude, self.phase)
        )
        if self.gate is not None:
            modulus, angle = self.gate(z, spans)
            magnitude, phase = magnitude + modulus, phase + angle
        size = torch.sigmoid(magnitude) * of_modes(_disc(self.n_modes, z.device), self.n_modes, spans)
        (re, im), (c, s) = z.unbind(0), (size * torch.cos(phase), size * torch.sin(phase))
        return torch.stack([re * c - im * s, re * s + im * c])


class Gate(nn.Module):
    """Modulus and angle of W2 a(W1 z + b1) + b2 at every mode of the normalised spectrum z, all complex, with
    a(z) = z gelu(|z| + b) / |z|."""

    def __init__(self, channels: int, n_modes: tuple[int, ...]):
        super().__init__()
        self.norm = SpectrumNorm(channels, n_modes)
        scale = 1 / math.sqrt(2 * channels)
        self.inner = nn.Parameter(torch.randn(channels, channels, 2) * scale)
        self.outer = nn.Parameter(torch.randn(channels, channels, 2) * scale)
        self.inner_bias = nn.Parameter(torch.zeros(channels, 2))
        self.outer_bias = nn.Parameter(torch.zeros(channels, 2))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        z = _linear(self.norm(z, spans), self.inner, self.inner_bias)
        modulus = _modulus(z)
        z = _linear(z * (nn.functional.gelu(modulus + self.offset) / modulus), self.outer, self.outer_bias)
        re, im = z.unbind(0)
        # The angle has no gradient at zero.
        return _modulus(z), torch.atan2(im, torch.where(re.square() + im.square() < EPS, EPS, re))


class SpectrumNorm(nn.Module):
    """Every mode less its mean, over its standard deviation, both over samples and channels; then a complex factor and
    offset per channel. In evaluation, and on grids that lack some modes too, by running means, which belong to
    wavenumbers. Over several processes the statistics are those of the whole batch.

    Attributes:
        counted: Whether the samples given are part of it; a process that has none is given one that is not, so that it
            takes part in what the others sum up.
    """

    momentum = 0.1
    counted = True
    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, n_modes: tuple[int, ...]):
        super().__init__()
        self.n_modes = n_modes
        kept = (*n_modes[:-1], n_modes[-1] // 2 + 1)
        self.register_buffer("mean", torch.zeros(*kept, 2))
        self.register_buffer("std", torch.ones(kept))
        self.scale = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(channels, 1))
        self.shift = nn.Parameter(torch.zeros(channels, 2))

    def forward(self, z: Tensor, spans: Spans) -> Tensor:
        mean, std = of_modes(self.mean, self.n_modes, spans).movedim(-1, 0), of_modes(self.std, self.n_modes, spans)
        if self.training:
            batch_mean, batch_std = self._statistics(z)
            with torch.no_grad():  # views of the buffers
                mean.lerp_(batch_mean.to(mean.dtype), self.momentum)
                std.lerp_(batch_std.to(std.dtype), self.momentum)
            mean, std = batch_mean, batch_std
        z = (z - mean[:, None, None]) / (std + EPS)
        axes = (None,) * (z.ndim - 3)
        (re, im), (a, b) = z.unbind(0), (self.scale[:, i][(slice(None), *axes)] for i in (0, 1))
        shift = self.shift.T[(slice(None), None, slice(None), *axes)]
        return torch.stack([a * re - b * im, a * im + b * re]) + shift

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.stack([z.sum((1, 2)), z.square().sum((1, 2))]) * self.counted
        count = sums.new_tensor(z.shape[1] * z.shape[2] * self.counted)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            sums, count = OverRanks.apply(sums), OverRanks.apply(count)
        mean = sums[0] / count
        variance = (sums[1] / count - mean.square()).sum(0)
        return mean, variance.clamp_min(EPS * EPS).sqrt()


class OverRanks(torch.autograd.Function):
    """The sum over all processes, which all of them get: so must each get all of their gradients."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total


EPS = 1e-6
"""Below which a mode counts as zero; fields inside a network are of order one."""


def _modulus(z: Tensor) -> Tensor:
    return (z.square().sum(0) + EPS * EPS).sqrt()


def _linear(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Channels of `(2, b, i, *k)` through a complex matrix `(i, o, 2)` and bias `(o, 2)`, as one real product."""
    wr, wi = weight.unbind(-1)
    block = torch.cat([torch.cat([wr, wi], 1), torch.cat([-wi, wr], 1)], 0)  # [re im] -> [re im]
    flat = z.movedim(0, 1).flatten(1, 2).movedim(1, -1)  # (b, *k, 2i)
    out = flat @ block + bias.T.flatten()
    return out.unflatten(-1, (2, -1)).movedim((-2, -1), (0, 2))


def _disc(n_modes: tuple[int, ...], device: torch.device) -> Tensor:
    """One where (2 k_1 / n_1)^2 + ... <= 1, else zero."""
    total = torch.zeros((), device=device)
    for axis, n in enumerate(n_modes):
        last = axis == len(n_modes) - 1
        k = torch.arange(0 if last else -(n // 2), n // 2 + 1 if last else (n + 1) // 2, device=device)
        total = total + (k / max(1, n // 2)).square().view(-1, *(1,) * (len(n_modes) - 1 - axis))
    return (total <= 1 + EPS).float()

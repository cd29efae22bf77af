"""Fourier neural operator: v <- gelu(W v + b + F^-1(R_k (F v)_k)), the low Fourier modes k mixed by learned matrices.

Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021 (arXiv 2010.08895),
equations 4 and 5. With `n_modes=(24, 22), width=32` this is the paper's Darcy network, 2 368 001 parameters.

The arguments after `spectral` add what the blocks of neuraloperator 2.0.0 have (Kossaifi et al., arXiv 2412.10354):

    w = norm(F^-1(R_k (F v)_k) + b) + skip(v)        v <- activation(norm(mlp(activation(w)) + mlp_skip(v)))

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
  loses on finer ones. Means taken by norms are weighed the same way.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from opkit.grid import Location, Spec
from opkit.models.activations import activation as make_activation
from opkit.models.arguments import check_idle, check_modes, check_names, check_sizes
from opkit.models.base import Operator
from opkit.models.bounded import BoundedFilter
from opkit.models.layers import BoundedPointwise, Pointwise
from opkit.models.positions import Coordinates, count_positions, period_of, trapezoid, with_positions
from opkit.models.spectral import SpectralConv, choose

Skip = Literal["linear", "gate", "identity", "none"]
Norm = Literal["none", "instance", "group"]
Second = Literal["none", "after", "before"]
Spectral = Literal["auto", "fft", "dft"]
Filters = Literal["matrix", "bounded", "dynamic"]


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
        activation: Of every layer but the last: a name in `opkit.models.activations`, or an importable class.
        spectral: "fft", "dft" (truncated transform as matrix products) or "auto": "dft" where at most half of the modes
            of every axis are kept, which is where it is the faster of the two.
        lifting_width: Hidden channels of a two-layer lifting; 0 for a linear one.
        skip: What passes beside the spectral convolution: "linear", "gate" (a factor per channel), "identity", "none".
        mlp_expansion: Hidden channels of a two-layer network (always gelu) after each spectral convolution, as a
            multiple of `width`; 0 for none.
        mlp_skip: What passes from the layer's input beside that network, as `skip`.
        dropout: After each of that network's two layers.
        norm: "instance" (zero mean and unit variance per sample and channel), "group" (per sample, with a learned scale
            and offset per channel) or "none"; of the spectral convolution, and of the layer's output.
        second_activation: One more activation in a layer: "after" all of it (not in the last one), "before" all of it
            (a norm then follows each activation), or "none".
        tanh: Whether each spectral convolution takes the tanh of its input: White et al. 2023 (arXiv 2307.15034).
        domain_padding: Zeros put around the lifted field on both sides, as a fraction of the points of the axis (one
            for all, or one per axis), that all layers see as if the field were periodic; instead of `padding`.
        filters: What is learned for the kept modes: a "matrix" of channels for each; or, against growth on its own
            output, one number inside the unit circle per channel and mode, channels being mixed afterwards: "bounded",
            or "dynamic" where it depends on the field too (McCabe et al. 2023, arXiv 2306.10619).
        spectral_norm: Whether no pointwise layer between lifting and projection lengthens a vector (ibid.).

    Raises:
        ValueError: Names the argument and what it may be.
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
        coordinates: Coordinates = True,
        location: Location = "node",
        activation: str = "gelu",
        spectral: Spectral = "auto",
        lifting_width: int = 0,
        skip: Skip = "linear",
        mlp_expansion: float = 0.0,
        mlp_skip: Skip = "gate",
        dropout: float = 0.0,
        norm: Norm = "none",
        second_activation: Second = "none",
        tanh: bool = False,
        domain_padding: float | tuple[float, ...] = 0.0,
        filters: Filters = "matrix",
        spectral_norm: bool = False,
    ):
        super().__init__()
        n_modes = tuple(n_modes)
        check_sizes(
            dict(in_channels=in_channels, out_channels=out_channels, width=width, n_layers=n_layers,
                 projection_width=projection_width),
            n_modes, location, padding,
        )  # fmt: skip
        check_names(skip=(skip, Skip), mlp_skip=(mlp_skip, Skip), norm=(norm, Norm), spectral=(spectral, Spectral))
        check_names(second_activation=(second_activation, Second), filters=(filters, Filters))
        parts = (domain_padding,) * len(n_modes) if isinstance(domain_padding, int | float) else tuple(domain_padding)
        if len(parts) != len(n_modes) or any(not 0 <= part <= 1 for part in parts):
            raise ValueError(
                f"domain_padding is a fraction between 0 and 1, or one for each of the {len(n_modes)} axes, got "
                f"{domain_padding}."
            )
        if padding and any(parts):
            raise ValueError(
                f"domain_padding={domain_padding} stands in the place of padding={padding}; set one of them to 0."
            )
        hidden = channel_mlp_width(width, mlp_expansion, dropout)
        if lifting_width < 0:
            raise ValueError(f"lifting_width is 0 (linear) or a number of channels, got {lifting_width}.")
        self.n_modes, self.padding, self.coordinates, self.location = n_modes, padding, coordinates, location
        self.in_channels, self.spectral = in_channels, spectral
        self.second_activation, self.tanh, self.domain_padding = second_activation, tanh, parts
        self.ndim = ndim = len(n_modes)
        channels = in_channels + count_positions(coordinates, ndim)
        self.lift: nn.Module
        if lifting_width:
            outer = Pointwise(lifting_width, width)
            self.lift = nn.Sequential(Pointwise(channels, lifting_width), make_activation(activation), outer)
        else:
            self.lift = Pointwise(channels, width)
        # One bias per spectral layer: the linear skip's, unless a norm stands between; none that a norm takes away.
        normed = norm != "none" and second_activation != "before"
        bias = not normed and skip == "linear"
        own = not bias and not (normed and norm == "instance")
        layer: type[Pointwise] = BoundedPointwise if spectral_norm else Pointwise

        def convolution() -> nn.Module:
            if filters == "matrix":
                return SpectralConv(width, width, n_modes, own)
            return BoundedFilter(width, n_modes, filters == "dynamic", spectral_norm, own)

        self.spectral_layers = nn.ModuleList(convolution() for _ in range(n_layers))
        self.pointwise_layers = _skips(skip, width, bias, n_layers, layer)
        self.activations = nn.ModuleList(make_activation(activation) for _ in range(n_layers))
        self.project = nn.ModuleList([Pointwise(width, projection_width), Pointwise(projection_width, out_channels)])
        again = {"none": 0, "after": n_layers - 1, "before": n_layers}[second_activation]
        self.second_activations = nn.ModuleList(make_activation(activation) for _ in range(again))
        norms = n_layers if norm != "none" else 0
        self.first_norms = nn.ModuleList(ChannelNorm(norm, width) for _ in range(norms))
        self.second_norms = nn.ModuleList(ChannelNorm(norm, width) for _ in range(norms))
        mlps = n_layers if hidden else 0
        kept = not (normed and norm == "instance")
        self.mlps = nn.ModuleList(ChannelMLP(width, hidden, dropout, kept, layer) for _ in range(mlps))
        self.mlp_skips = _skips(mlp_skip, width, False, mlps, layer)

    @classmethod
    def check(cls, spec: Spec, arguments: dict) -> None:
        check_modes(tuple(arguments.get("n_modes", (24, 24))), spec)
        if not arguments.get("mlp_expansion", 0.0):
            check_idle(cls, arguments, "without a network of channels, mlp_expansion=0", "dropout")
            if arguments.get("filters", "matrix") == "matrix" and arguments.get("skip", "linear") != "linear":
                check_idle(cls, arguments, "where no layer has a matrix of channels to bound", "spectral_norm")

    def forward(self, u: Tensor) -> Tensor:
        """Map `(b, c_in, *x)` to `(b, c_out, *x)`; every axis needs at least 2 points."""
        self.check_input(u)
        shape = u.shape[2:]
        margins = [round(part * n) if part else 0 for part, n in zip(self.domain_padding, shape, strict=True)]
        period = tuple(self._period(n) + 2 * m for n, m in zip(shape, margins, strict=True))
        spectral = choose(self.spectral, self.n_modes, period)
        walls = bool(self.padding) and self.location == "node"
        u = self.lift(with_positions(u, self.coordinates, self.location))
        if any(margins):
            u = nn.functional.pad(u, [m for m in reversed(margins) for _ in (0, 1)])
        for i in range(len(self.spectral_layers)):
            u = self._layer(i, u, period, spectral, walls)
        if any(margins):
            for axis, (m, n) in enumerate(zip(margins, shape, strict=True)):
                u = u.narrow(axis + 2, m, n)
        return self.project[1](self.activations[-1](self.project[0](u)))

    def _layer(self, i: int, u: Tensor, period: tuple[int, ...], spectral: str, walls: bool) -> Tensor:
        last, before = i == len(self.spectral_layers) - 1, self.second_activation == "before"
        if before:
            u = self.second_activations[i](u)
            if self.first_norms:
                u = self.first_norms[i](u, walls)
        v = self.spectral_layers[i](torch.tanh(u) if self.tanh else u, period, spectral, walls)
        if self.first_norms and not before:
            v = self.first_norms[i](v, walls)
        if self.pointwise_layers:
            v = v + self.pointwise_layers[i](u)
        if not last:
            v = self.activations[i](v)
        if self.second_norms and before:
            v = self.second_norms[i](v, walls)
        if self.mlps:
            v = self.mlps[i](v)
            if self.mlp_skips:
                v = v + self.mlp_skips[i](u)
        if self.second_norms and not before:
            v = self.second_norms[i](v, walls)
        if self.second_activation == "after" and not last:
            v = self.second_activations[i](v)
        return v

    @property
    def highest_waves(self) -> tuple[int, ...] | None:
        plain = self.location == "periodic" and not self.padding and not any(self.domain_padding)
        return tuple(n // 2 for n in self.n_modes) if plain else None

    def prepare_export(self) -> int:
        self.spectral = "dft"
        return max(self.n_modes)

    def _period(self, points: int) -> int:
        return period_of(points, self.padding, self.location)


class Gate(nn.Module):
    """A learned factor per channel of `(b, c, *x)`, starting at one."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, u: Tensor) -> Tensor:
        return self.weight.to(u.dtype).view(-1, *(1,) * (u.ndim - 2)) * u


class ChannelMLP(nn.Module):
    """W2 gelu(W1 v + b1) + b2 at every point of `(b, c, *x)`, with dropout after both layers; b2 may be left out."""

    def __init__(
        self, width: int, hidden: int, dropout: float = 0.0, bias: bool = True, layer: type[Pointwise] = Pointwise
    ):
        super().__init__()
        self.inner, self.activation, self.dropout = layer(width, hidden), nn.GELU(), nn.Dropout(dropout)
        self.outer = layer(hidden, width, bias=bias)

    def forward(self, u: Tensor) -> Tensor:
        return self.dropout(self.outer(self.dropout(self.activation(self.inner(u)))))


class ChannelNorm(nn.Module):
    """Zero mean and unit variance of every sample of `(b, c, *x)`: of each channel ("instance"), or of all of them
    together with a learned scale and offset per channel ("group"). The mean is one over the domain, not over points."""

    eps = 1e-5

    def __init__(self, kind: Norm, width: int):
        super().__init__()
        self.groups = width if kind == "instance" else 1
        affine = kind == "group"
        self.weight = nn.Parameter(torch.ones(width)) if affine else None
        self.bias = nn.Parameter(torch.zeros(width)) if affine else None

    def forward(self, u: Tensor, walls: bool = False) -> Tensor:
        """Apply to `(b, c, *x)`; `walls` makes means trapezoid rules."""
        if not walls:
            return nn.functional.group_norm(u, self.groups, self.weight, self.bias, self.eps)
        ndim = u.ndim - 2
        weight = u.new_ones(1, dtype=torch.float32 if u.dtype in (torch.float16, torch.bfloat16) else u.dtype)
        for axis, n in enumerate(u.shape[2:]):
            weight = weight * (trapezoid(n, weight) / (n - 1)).view(-1, *(1,) * (ndim - 1 - axis))
        axes = tuple(range(2 if self.groups > 1 else 1, u.ndim))
        share = weight if self.groups > 1 else weight / u.shape[1]
        centred = u - (u * share).sum(axes, keepdim=True)
        out = centred * torch.rsqrt((centred.square() * share).sum(axes, keepdim=True) + self.eps)
        if self.weight is not None and self.bias is not None:
            out = out * self.weight.view(-1, *(1,) * ndim) + self.bias.view(-1, *(1,) * ndim)
        return out.to(u.dtype)


def _skips(kind: Skip, width: int, bias: bool, n: int, layer: type[Pointwise]) -> nn.ModuleList:
    makers = {"linear": lambda: layer(width, width, bias), "gate": lambda: Gate(width), "identity": nn.Identity}
    return nn.ModuleList(makers[kind]() for _ in range(n if kind != "none" else 0))


def channel_mlp_width(width: int, expansion: float, dropout: float) -> int:
    """Hidden channels of a channel MLP, 0 for none."""
    hidden = round(width * expansion)
    if expansion < 0 or (expansion > 0 and hidden < 1):
        raise ValueError(
            f"mlp_expansion is 0 (no channel MLP) or makes at least one hidden channel of width={width}, got "
            f"{expansion}."
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is a probability in [0, 1), got {dropout}.")
    return hidden

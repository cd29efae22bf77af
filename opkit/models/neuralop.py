"""FNO, TFNO and U-NO as the package neuraloperator (release 2) builds them.

    FNO    v <- activation(mlp(activation(F^-1(R_k (F v)_k) + b + W v)) + g v)    Kossaifi et al. (arXiv 2412.10354)
    TFNO   the same, all R_k one tensor in Tucker, CP or tensor-train form        Kossaifi et al. (arXiv 2310.00120)
    U-NO   a U on coarser grids, v <- mlp(F^-1(R_k (F v)_k) + b + W v) + W' v     Rahman et al. (arXiv 2204.11127)

Layers, parameters, decompositions and their initialisation are the package's. The arithmetic of its spectral
convolution is replaced, in the instances made here alone, because release 2.0.0

- shifts the frequencies of odd grids of more than one axis the wrong way, and on output grids of another size takes
  negative frequencies for positive ones;
- resamples what passes beside the convolution between other points than the convolution itself does;
- computes in complex64 whatever the input is, and holds complex parameters, which safetensors, mixed precision and
  `Module.double` do not take. They are real pairs `(..., 2)` here.

So are its positions, cached there by grid size in ways that compilation and moving to a GPU trip over, and its padding,
a fraction of the points: `padding` is that of `opkit.models.FNO`, which has the package's as `domain_padding`.
"""

import io
import math
import warnings
from contextlib import redirect_stdout
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from opkit.grid import Location, Spec, axis_positions
from opkit.models.activations import activation as make_activation
from opkit.models.arguments import check_idle, check_modes, check_names, check_sizes
from opkit.models.base import Operator
from opkit.models.fno import Norm, Skip, Spectral, channel_mlp_width
from opkit.models.positions import Coordinates, count_positions, period_of, with_positions
from opkit.models.spectral import choose, convolve, from_factors, waves

with warnings.catch_warnings():  # the package sets a filter for every UserWarning of the process
    import neuralop.models
    from neuralop.layers.fno_block import FNOBlocks
    from neuralop.layers.spectral_convolution import SpectralConv

Factorization = Literal["none", "tucker", "cp", "tt"]
SKIPS = {"linear": "linear", "gate": "soft-gating", "identity": "identity", "none": None}
NORMS = {"none": None, "instance": "instance_norm", "group": "group_norm"}


class Convolution(SpectralConv):
    """The package's spectral convolution: its parameters as real pairs, opkit's arithmetic.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        n_modes: Modes per axis.
        location: Kind of grid.
        padding: Length added to the period, as a fraction of the domain.
        **options: The package's.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_modes: tuple[int, ...],
        location: Location,
        padding: float,
        **options: Any,
    ):
        super().__init__(in_channels, out_channels, n_modes, **options)
        self.modes, self.location, self.padding, self.spectral = tuple(n_modes), location, padding, "auto"
        self.kind = self.weight.name.lower()
        pairs = [torch.view_as_real(part.detach()).clone() for part in self.weight.parameters()]
        del self.weight
        self.factors = nn.ParameterList(pairs)

    def forward(self, x: Tensor, output_shape: tuple[int, ...] | None = None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = from_factors(self.kind, list(self.factors)).movedim((0, 1), (-3, -2))
        period = self._period(x.shape[2:])
        target = None if output_shape is None else (output_shape, self._period(output_shape))
        walls = bool(self.padding) and self.location == "node"
        out = convolve(x, weight, self.modes, period, choose(self.spectral, self.modes, period), walls, target)
        return (out + self.bias.to(out.dtype)).contiguous()  # the layers that follow take views

    def transform(self, x: Tensor, output_shape: tuple[int, ...] | None = None) -> Tensor:
        """What passes beside the convolution, on the grid of its output."""
        return x if output_shape is None else resample(x, output_shape, self.location)

    def _period(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(period_of(n, self.padding, self.location) for n in shape)


class NeuralopFNO(Operator):
    """neuraloperator's FNO and, with a factorization, TFNO.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        n_modes: Fourier modes per axis: wavenumbers -n/2 .. n/2 - 1, and 0 .. n/2 on the last axis.
        width: Channels inside, `hidden_channels` there.
        n_layers: Fourier layers.
        factorization: Of the spectral weights: "none", "tucker", "cp" or "tt" (tensor train). The product of the
            factors is formed in every step; it is small beside a batch of fields.
        rank: Share of the dense weights' number of parameters that the factors have.
        lifting_width: Hidden channels of the lifting, 0 for a linear one; twice `width` there by default.
        projection_width: Hidden channels of the projection; twice `width` there by default.
        skip: What passes beside the spectral convolution: "linear", "gate" (a factor per channel), "identity", "none".
        mlp_expansion: Hidden channels of the two-layer network after each convolution, as a multiple of `width`; 0 for
            none.
        mlp_skip: What passes beside that network, as `skip`.
        dropout: In that network.
        norm: "instance", "group" or "none".
        padding: Length added to the period of the Fourier series, as a fraction of the domain, as in
            `opkit.models.FNO`; data with walls want some, such as 1/7.
        coordinates: Positions as further input channels, as in `opkit.models.FNO`.
        location: Kind of grid they are for; set from the data.
        activation: A name in `opkit.models.activations`, or an importable class; without parameters of its own, as the
            package has one for all layers.
        spectral: "fft", "dft" or "auto", as in `opkit.models.FNO`.

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
        factorization: Factorization = "none",
        rank: float = 1.0,
        lifting_width: int = 64,
        projection_width: int = 64,
        skip: Skip = "linear",
        mlp_expansion: float = 0.5,
        mlp_skip: Skip = "gate",
        dropout: float = 0.0,
        norm: Norm = "none",
        padding: float = 0.0,
        coordinates: Coordinates = True,
        location: Location = "node",
        activation: str = "gelu",
        spectral: Spectral = "auto",
    ):
        super().__init__()
        n_modes = tuple(n_modes)
        check_sizes(
            dict(in_channels=in_channels, out_channels=out_channels, width=width, n_layers=n_layers,
                 projection_width=projection_width),
            n_modes, location, padding,
        )  # fmt: skip
        if lifting_width < 0:
            raise ValueError(f"lifting_width is 0 (linear) or a number of channels, got {lifting_width}.")
        check_names(skip=(skip, Skip), mlp_skip=(mlp_skip, Skip), norm=(norm, Norm))
        hidden = channel_mlp_width(width, mlp_expansion, dropout)
        self.in_channels, self.ndim, self.n_modes = in_channels, len(n_modes), n_modes
        self.coordinates, self.location, self.padding = coordinates, location, padding
        network = neuralop.models.FNO(
            n_modes=n_modes,
            in_channels=in_channels + count_positions(coordinates, self.ndim),
            out_channels=out_channels,
            hidden_channels=width,
            n_layers=n_layers,
            lifting_channel_ratio=(lifting_width + 0.5) / width,  # cut to an integer there
            projection_channel_ratio=(projection_width + 0.5) / width,
            positional_embedding=None,
            non_linearity=_function(activation),
            norm=NORMS[norm],
            use_channel_mlp=bool(hidden),
            channel_mlp_dropout=dropout,
            channel_mlp_expansion=mlp_expansion,
            channel_mlp_skip=SKIPS[mlp_skip],
            fno_skip=SKIPS[skip],
            **_decomposition(factorization, rank),
            conv_module=partial(Convolution, location=location, padding=padding),
        )
        # The parts alone: the whole puts its constructor's arguments, functions among them, into every state dict.
        self.lifting, self.blocks, self.projection = network.lifting, network.fno_blocks, network.projection
        _use(self, spectral)

    @classmethod
    def check(cls, spec: Spec, arguments: dict) -> None:
        check_modes(tuple(arguments.get("n_modes", (24, 24))), spec)
        _check_rank(cls, arguments)
        if not arguments.get("mlp_expansion", 0.5):
            check_idle(cls, arguments, "without a network of channels, mlp_expansion=0", "dropout")

    def forward(self, u: Tensor) -> Tensor:
        """Map `(b, c_in, *x)` to `(b, c_out, *x)`; every axis needs at least 2 points."""
        self.check_input(u)
        u = self.lifting(with_positions(u, self.coordinates, self.location))
        for i in range(self.blocks.n_layers):
            u = self.blocks(u, i)
        return self.projection(u)

    @property
    def highest_waves(self) -> tuple[int, ...] | None:
        plain = self.location == "periodic" and not self.padding
        return tuple(n // 2 for n in self.n_modes) if plain else None

    def prepare_export(self) -> int:
        _use(self, "dft")
        return max(self.n_modes)


class UNO(Operator):
    """neuraloperator's U-shaped neural operator.

    Layer i of n sees the output of layer n - 1 - i too if i is in the second half. As in the package, the only
    activations are those of the channel MLPs, of lifting and of projection.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        ndim: Number of axes; set from the data.
        width: Channels after the lifting, `hidden_channels` there.
        uno_out_channels: Channels after each layer.
        uno_n_modes: Fourier modes of each layer, along every axis.
        uno_scalings: Points after each layer as a multiple of those before it, along every axis; their product must be
            1.
        factorization: As in `NeuralopFNO`.
        rank: As there.
        lifting_width: Hidden channels of the lifting.
        projection_width: Hidden channels of the projection.
        mlp_expansion: Hidden channels of each layer's channel MLP, as a multiple of its channels.
        dropout: In it.
        norm: "instance", "group" or "none".
        padding: As in `NeuralopFNO`.
        coordinates: As there.
        location: As there.
        activation: Of the projection (the other layers have gelu), as there.
        spectral: As there.

    Raises:
        ValueError: Names the argument and what it may be.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ndim: int,
        width: int = 24,
        uno_out_channels: tuple[int, ...] = (24, 48, 48, 48, 24),
        uno_n_modes: tuple[int, ...] = (16, 12, 12, 12, 16),
        uno_scalings: tuple[float, ...] = (1.0, 0.5, 1.0, 1.0, 2.0),
        factorization: Factorization = "none",
        rank: float = 1.0,
        lifting_width: int = 64,
        projection_width: int = 64,
        mlp_expansion: float = 0.5,
        dropout: float = 0.0,
        norm: Norm = "none",
        padding: float = 0.0,
        coordinates: Coordinates = True,
        location: Location = "node",
        activation: str = "gelu",
        spectral: Spectral = "auto",
    ):
        super().__init__()
        channels, modes, scalings = tuple(uno_out_channels), tuple(uno_n_modes), tuple(uno_scalings)
        sizes = dict(in_channels=in_channels, out_channels=out_channels, width=width, lifting_width=lifting_width)
        sizes |= dict(projection_width=projection_width, uno_out_channels=min(channels, default=0))
        check_sizes(sizes | dict(uno_n_modes=min(modes, default=0)), (1,) * ndim, location, padding)
        check_names(norm=(norm, Norm))
        if not len(channels) == len(modes) == len(scalings):
            raise ValueError(
                f"uno_out_channels, uno_n_modes and uno_scalings need one entry per layer, got {len(channels)}, "
                f"{len(modes)} and {len(scalings)}."
            )
        if min(scalings) <= 0 or not math.isclose(math.prod(scalings), 1):
            raise ValueError(
                f"uno_scalings must be positive and multiply to 1, so that output and input have the same grid, got "
                f"{scalings}."
            )
        if not all(channel_mlp_width(c, mlp_expansion, dropout) for c in channels):
            raise ValueError(
                f"mlp_expansion must be positive: a U-NO without channel MLPs is linear, got {mlp_expansion}."
            )
        self.in_channels, self.ndim = in_channels, ndim
        self.coordinates, self.location, self.levels = coordinates, location, _levels(scalings)
        self.uno_n_modes = modes
        self.least = math.ceil(2 / min(self.levels))
        with redirect_stdout(io.StringIO()):  # it prints its skips
            network = neuralop.models.UNO(
                in_channels=in_channels + count_positions(coordinates, ndim),
                out_channels=out_channels,
                hidden_channels=width,
                lifting_channels=lifting_width,
                projection_channels=projection_width,
                positional_embedding=None,
                n_layers=len(channels),
                uno_out_channels=list(channels),
                uno_n_modes=[[n] * ndim for n in modes],
                uno_scalings=[[1.0] * ndim for _ in scalings],  # `forward` says which grid a layer's output is on
                channel_mlp_dropout=dropout,
                channel_mlp_expansion=mlp_expansion,
                channel_mlp_skip="linear",  # the others need as many channels out as in
                non_linearity=_function(activation),
                norm=NORMS[norm],
                **_decomposition(factorization, rank),
                operator_block=partial(FNOBlocks, conv_module=partial(Convolution, location=location, padding=padding)),
            )
        self.lifting, self.blocks, self.projection = network.lifting, network.fno_blocks, network.projection
        self.horizontal_skips, self.skip_from = network.horizontal_skips, network.horizontal_skips_map
        _use(self, spectral)

    @classmethod
    def check(cls, spec: Spec, arguments: dict) -> None:
        _check_rank(cls, arguments)
        modes = tuple(arguments.get("uno_n_modes", (16, 12, 12, 12, 16)))
        levels = _levels(tuple(arguments.get("uno_scalings", (1.0, 0.5, 1.0, 1.0, 2.0))))
        for i, (n, before, after) in enumerate(zip(modes, levels, levels[1:], strict=False)):
            points = min(_scaled(size, min(before, after), spec.grid.location) for size in spec.grid.shape)
            if n > points:
                raise ValueError(
                    f"uno_n_modes={modes} asks for {n} modes in layer {i}, whose grid has {points} points where the "
                    f"training grid has {spec.grid.shape}. Lower model.uno_n_modes, or raise pde.resolution."
                )

    def forward(self, u: Tensor) -> Tensor:
        """Map `(b, c_in, *x)` to `(b, c_out, *x)`; every axis needs at least 2 points on the coarsest level."""
        self.check_input(u)
        sizes = [tuple(_scaled(n, level, self.location) for n in u.shape[2:]) for level in self.levels]
        u = self.lifting(with_positions(u, self.coordinates, self.location))
        kept: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            if i in self.skip_from:
                j = self.skip_from[i]
                same = self.levels[j + 1] == self.levels[i]
                beside = kept[j] if same else resample(kept[j], sizes[i], self.location)
                u = torch.cat([u, beside], 1)
            u = block(u, output_shape=None if self.levels[i + 1] == self.levels[i] else sizes[i + 1])
            if str(i) in self.horizontal_skips:
                kept[i] = self.horizontal_skips[str(i)](u)
        return self.projection(u)

    def prepare_export(self) -> int:
        _use(self, "dft")
        return max(self.least, math.ceil((max(self.uno_n_modes) + 1) / min(self.levels)))


def resample(u: Tensor, shape: tuple[int, ...], location: Location) -> Tensor:
    """`(b, c, *x)` on a grid of the same kind with another number of points: by Fourier series on periodic grids, else
    linearly."""
    if u.dtype in (torch.float16, torch.bfloat16) or torch.is_autocast_enabled(u.device.type):
        with torch.autocast(u.device.type, enabled=False):
            return resample(u.float(), shape, location).to(u.dtype)
    for axis, m in enumerate(shape, start=2):
        n = u.shape[axis]
        matrix = _trigonometric(n, m, u) if location == "periodic" else _linear(n, m, location, u)
        u = (u.movedim(axis, -1) @ matrix).movedim(-1, axis)
    return u.contiguous()


def _trigonometric(n: int, m: int, like: Tensor) -> Tensor:
    """Trigonometric interpolation from n to m points, or truncation to what m points hold: an (n, m) matrix."""
    span = (0, min(n, m) // 2 + 1)
    k = torch.arange(*span, device=like.device)
    twice = 2 - ((k == 0) | (2 * k == n)).to(like.dtype)
    (cos, sin), back = waves(span, n, n, like), waves(span, m, m, like)
    return ((cos * twice) @ back[0].mT + (sin * twice) @ back[1].mT) / n


def _linear(n: int, m: int, location: Location, like: Tensor) -> Tensor:
    """Linear interpolation from n to m points: an (n, m) matrix."""
    i = torch.arange(n, dtype=torch.float64, device=like.device)
    at = axis_positions(m, location, device=like.device)
    at = at * (n - 1) if location == "node" else (at * n - 0.5).clamp(0, n - 1)  # in steps of the first grid
    return (1 - (i[:, None] - at).abs()).clamp_min(0).to(like.dtype)


def _scaled(points: int, level: float, location: Location) -> int:
    """Points of an axis on a level: steps between walls, or points where there are none, are what it multiplies. By
    integers alone, as `points` may be symbolic."""
    if level == 1:
        return points
    part, gap = Fraction(level).limit_denominator(1000), 1 if location == "node" else 0
    return (2 * part.numerator * (points - gap) + part.denominator) // (2 * part.denominator) + gap


def _levels(scalings: tuple[float, ...]) -> list[float]:
    """Points before each layer, and after the last, as a multiple of the input's."""
    products = (math.prod(scalings[:i]) for i in range(len(scalings) + 1))
    return [float(Fraction(product).limit_denominator(1000)) for product in products]


def _decomposition(factorization: Factorization, rank: float) -> dict[str, Any]:
    check_names(factorization=(factorization, Factorization))
    if not rank > 0:
        raise ValueError(f"rank is a share of the dense number of parameters, such as 0.1, got {rank}.")
    return dict(factorization=None if factorization == "none" else factorization, rank=float(rank))


def _check_rank(kind: type, arguments: dict[str, Any]) -> None:
    if arguments.get("factorization", "none") == "none":
        check_idle(kind, arguments, "with factorization=none", "rank")


def _function(name: str) -> nn.Module:
    made = make_activation(name)
    if any(True for _ in made.parameters()):
        raise ValueError(
            f"activation={name!r} has parameters of its own, but neuraloperator has one activation for all layers. "
            "Take one without, or --model fno."
        )
    return made


def _use(model: nn.Module, spectral: Spectral) -> None:
    check_names(spectral=(spectral, Spectral))
    for module in model.modules():
        if isinstance(module, Convolution):
            module.spectral = spectral

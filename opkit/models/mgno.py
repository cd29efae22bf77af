"""Multigrid neural operator: v <- gelu(W v + B v + b), W a linear multigrid V-cycle of learned stencils, B pointwise.

He, Liu and Xu, "MgNO: Efficient Parameterization of Linear Operators via Multigrid", ICLR 2024 (arXiv 2310.19809). With
f^0 = v and u^0 = 0, the V-cycle goes down its levels l = 0 .. L-1, and up again to W v = u^0:

    u^l <- u^l + S^l (f^l - A^l u^l)                      smoothing, once or more
    u^{l+1} = Pi^l u^l,  f^{l+1} = R^l f^l                to the next grid, of half as many points
    u^l <- u^l + P^l u^{l+1}                              back up, and more smoothings if wanted

S, A, Pi and R are stencils of 3 points per axis that mix channels, P is the transpose of one; every level and every
smoothing has its own. The defaults are the paper's network for Darcy flow, 572 661 parameters on 256 x 256 points.

Notes on this implementation:

- Stencils live in units of the grid: on another grid the same weights are another operator. So the network runs on its
  training grid, and fields are brought there and back (`resolution = "project"`).
- Any number of points works. n points become (n + 1) // 2, and P doubles them again: its stencil has 4 points per axis
  where n is even, 3 where it is odd. The original fixes these for one grid.
- The boundary condition decides what stencils see beyond the walls: zero, or the mirrored field where the slope
  vanishes, or the field again where it is periodic. That holds for P too, so on a periodic grid the network commutes
  with shifts by whole cells of its coarsest level; the original's P sees zeros beyond the seam.
- Everything stays in channels-last memory, where convolutions of few channels take half the time on a CPU; an axis of
  one point makes 1-D a case of 2-D.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opkit.grid import BOUNDARIES, LOCATIONS, Boundary, Location, Spec
from opkit.models.activations import activation as make_activation
from opkit.models.arguments import check_idle
from opkit.models.base import Operator, projected, zero_walls
from opkit.models.positions import Coordinates, count_positions, with_positions
from opkit.models.stencils import Padding, channels_last, extend, padding_of, per_axis

Coarsening = Literal["padded", "valid"]
Norm = Literal["none", "group", "layer"]
NormAt = Literal["levels", "layers"]
Head = Literal["linear", "mlp", "multigrid"]


class MgNO(Operator):
    """Multigrid neural operator on a uniform grid in 1-D or 2-D.

    Args:
        in_channels: Channels of the input. There is no lifting layer: the first V-cycle takes them as they are.
        out_channels: Channels of the output.
        ndim: Number of axes; set from the data.
        shape: Points per axis of the training grid; set from the data. None makes a network that acts on every grid as
            it is, in units of its spacing, as the original does: `resolution = "native"`, but another operator on
            each, which nothing converges to.
        boundary: Of the output; set from the data.
        location: Kind of grid; set from the data.
        width: Channels of u on the finest level.
        n_layers: V-cycles, each followed by an activation.
        smoothings: For each level, finest first, how many smoothings before and how many after the correction from the
            level below; none after on the coarsest. Null is [1, 0] on each and [2, 0] on the coarsest, with levels
            until the shortest axis has at most 8 points, as the paper has it for Darcy flow.
        growth: Level l has 1 + growth l times as many channels, of u and of f, as level 0; 1 in the paper for
            Helmholtz.
        coarsening: "padded"; or "valid", where Pi and R see the grid's own points alone, which leaves (n - 1) // 2, as
            in the paper for Helmholtz.
        restrict_residual: Whether f^{l+1} = R^l (f^l - A^l u^l), as multigrid for a linear equation has it.
        skip: Whether there is B, with its bias b, beside each V-cycle.
        residual: Whether the input is added to the output.
        bias: Whether S and A have one.
        norm: "group" standardises each sample over points and channels, then scales and shifts every channel; "layer"
            scales and shifts every point of the training grid by itself, as the original does.
        norm_affine: Whether it scales and shifts at all.
        norm_at: "levels", after each correction from a level below, as in the paper for Navier-Stokes; or "layers",
            once before each activation, as for Helmholtz.
        head: Last layer: "linear", pointwise; "mlp", two pointwise layers; "multigrid", another V-cycle.
        projection_width: Hidden channels of "mlp".
        projection_activation: Its activation.
        padding: What stencils see beyond the walls. "auto" is "circular" on periodic grids, "reflect" where the
            boundary is "neumann" ("replicate" on cells, whose mirror image that is), else "zeros".
        pad_upsampling: Whether that holds for P too; in the original P always sees zeros.
        upsampling: Points per axis, 3 or 4, of the stencil of each level's P, finest first; only where `shape` is
            None, and then 4 if left out.
        zero_walls: Whether outputs are set to zero on walls where they are known to be: `boundary` "dirichlet", nodes.
        activation: Of every layer: a name in `opkit.models.activations`, or an importable class.
        coordinates: Positions as further input channels, as in `opkit.models.FNO`. On a periodic grid the network
            commutes with shifts and cannot know where it is: an equation with a force that varies in space needs them.

    Raises:
        ValueError: An impossible argument; the message names it, its value and what is accepted.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ndim: int = 2,
        shape: tuple[int, ...] | None = None,
        boundary: Boundary = "open",
        location: Location = "node",
        width: int = 24,
        n_layers: int = 4,
        smoothings: tuple[tuple[int, int], ...] | None = None,
        growth: int = 0,
        coarsening: Coarsening = "padded",
        restrict_residual: bool = False,
        skip: bool = True,
        residual: bool = False,
        bias: bool = False,
        norm: Norm = "none",
        norm_affine: bool = True,
        norm_at: NormAt = "levels",
        head: Head = "linear",
        projection_width: int = 128,
        projection_activation: str = "gelu",
        padding: Padding = "auto",
        pad_upsampling: bool = True,
        upsampling: tuple[int, ...] | None = None,
        zero_walls: bool = True,
        activation: str = "gelu",
        coordinates: Coordinates = False,
    ):
        super().__init__()
        for name, value, least in (
            ("in_channels", in_channels, 1), ("out_channels", out_channels, 1), ("width", width, 1),
            ("n_layers", n_layers, 1), ("projection_width", projection_width, 1), ("growth", growth, 0),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        for name, choice, known in (
            ("boundary", boundary, BOUNDARIES), ("location", location, LOCATIONS), ("head", head, get_args(Head)),
            ("coarsening", coarsening, get_args(Coarsening)), ("padding", padding, get_args(Padding)),
            ("norm", norm, get_args(Norm)), ("norm_at", norm_at, get_args(NormAt)),
        ):  # fmt: skip
            if choice not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, got {choice!r}.")
        if residual and in_channels not in (1, out_channels):
            raise ValueError(
                f"residual=True adds the input to the output, but there are {in_channels} input and {out_channels} "
                "output channels. Set residual=false; for an equation in time there is stepping.target=residual."
            )
        padding = padding_of(boundary, location) if padding == "auto" else padding
        shape = None if shape is None else tuple(shape)
        valid = coarsening == "valid"
        if ndim not in (1, 2) or len(shape or (0,) * ndim) != ndim:
            raise ValueError(f"MgNO takes 1 or 2 axes, got ndim={ndim} and shape={shape}.")
        counts = _smoothings(shape, smoothings, valid, least=2 if padding == "reflect" else 1)
        self.plan = plan = Plan(
            ndim, counts, _kernels(ndim, shape, upsampling, len(counts), valid), growth, valid, restrict_residual, bias,
            padding, pad_upsampling, norm if norm_at == "levels" else "none", norm_affine, shape,
        )  # fmt: skip
        if norm == "layer" and shape is None:
            raise ValueError("norm='layer' has weights for every point of the training grid, so it needs shape.")
        self.in_channels, self.ndim, self.shape, self.location = in_channels, ndim, shape, location
        self.resolution = "native" if shape is None else "project"
        self.residual = residual
        self.walls = zero_walls and boundary == "dirichlet" and location == "node"
        self.coordinates = coordinates
        given = [in_channels + count_positions(coordinates, ndim), *[width] * (n_layers - 1)]
        self.cycles = nn.ModuleList(VCycle(f, width, plan) for f in given)
        self.skips = nn.ModuleList(nn.Conv2d(f, width, 1) for f in given if skip)
        self.norms = nn.ModuleList(
            Standardization(width, norm, norm_affine, shape) for _ in given if norm_at == "layers" and norm != "none"
        )
        self.activations = nn.ModuleList(make_activation(activation) for _ in given)
        if head == "multigrid":
            self.head: nn.Module = VCycle(width, out_channels, replace(plan, norm="none"))
        elif head == "mlp":
            self.head = nn.Sequential(
                nn.Conv2d(width, projection_width, 1),
                make_activation(projection_activation, "projection_activation"),
                nn.Conv2d(projection_width, out_channels, 1, bias=False),
            )
        else:
            self.head = nn.Conv2d(width, out_channels, 1, bias=False)

    @classmethod
    def check(cls, spec: Spec, arguments: dict[str, Any]) -> None:
        with torch.device("meta"):
            cls.build(spec, **arguments)
        if arguments.get("norm", "none") == "none":
            check_idle(cls, arguments, "with norm=none", "norm_at", "norm_affine")
        if arguments.get("head", "linear") != "mlp":
            check_idle(cls, arguments, "without head=mlp", "projection_width", "projection_activation")

    def forward(self, u: Tensor) -> Tensor:
        """Map `(b, c_in, *x)` to `(b, c_out, *x)`; every axis needs at least 2 points."""
        self.check_input(u)
        if self.shape is None:
            self.plan.check_grid(tuple(u.shape[2:]))
        out = self.on_its_grid(u, lambda v: self.constrain(self._network(v)))
        return self.constrain(out + u if self.residual else out)

    def on_its_grid(self, u: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        return run(u) if self.shape is None else projected(u, self.shape, self.location, run)

    def tied(self, shape: tuple[int, ...]) -> "MgNO":
        if self.shape is not None:
            return self
        own = {name: value for name, value in self.arguments.items() if name != "upsampling"}
        model = MgNO(**own | {"shape": shape})
        if model.plan.kernels != self.plan.kernels:  # weights of a network that does not come back to this grid
            return self
        model.load_state_dict(self.state_dict(), assign=True)
        return model.train(self.training)

    def constrain(self, outputs: Tensor) -> Tensor:
        return zero_walls(outputs) if self.walls else outputs

    def _network(self, u: Tensor) -> Tensor:
        u = with_positions(u, self.coordinates, self.location)
        u = channels_last(u if self.ndim == 2 else u.unsqueeze(2))
        for i, (cycle, activation) in enumerate(zip(self.cycles, self.activations, strict=True)):
            out = cycle(u)
            if self.skips:
                out = channels_last(self.skips[i](u)).add_(out)
            if self.norms:
                out = self.norms[i](out)
            u = activation(out)
        u = self.head(u)
        return (u if self.ndim == 2 else u.squeeze(2)).contiguous()


@dataclass(frozen=True)
class Plan:
    """What the V-cycles of a network share; names as the arguments of `MgNO`.

    `kernels` are the points per axis of the stencils of P, for every level but the coarsest.
    """

    ndim: int
    smoothings: tuple[tuple[int, int], ...]
    kernels: tuple[tuple[int, ...], ...]
    growth: int
    valid: bool
    restrict_residual: bool
    bias: bool
    padding: Padding
    pad_upsampling: bool
    norm: Norm
    norm_affine: bool
    shape: tuple[int, ...] | None

    @property
    def least(self) -> int:
        """Fewest points of the coarsest level: a mirror needs a second one."""
        return 2 if self.padding == "reflect" else 1

    def stencil(self, given: int, wanted: int) -> nn.Conv2d:
        """S or A: three points per axis, for a field that `pad` has padded."""
        zeros = per_axis(int(self.padding == "zeros"), self.ndim, 0)
        return nn.Conv2d(given, wanted, per_axis(3, self.ndim), padding=zeros, bias=self.bias)

    def halving(self, given: int, wanted: int) -> nn.Conv2d:
        """Pi or R: the same at every other point."""
        zeros = per_axis(int(self.padding == "zeros" and not self.valid), self.ndim, 0)
        return nn.Conv2d(given, wanted, per_axis(3, self.ndim), per_axis(2, self.ndim), zeros, bias=False)

    def prolongation(
        self, given: int, wanted: int, kernel: tuple[int, ...]
    ) -> tuple[tuple[int, int], nn.ConvTranspose2d]:
        """P, and which axes of what it takes are padded. With a stencil of 4, m points become 2 m, the outermost of
        which draw on points beyond the ends; with one of 3 they become 2 m - 1, and none does."""
        padded = self.pad_upsampling and self.padding != "zeros" and not self.valid
        beyond = tuple(int(padded and k == 4) for k in kernel)
        cut = per_axis([0 if self.valid else 1 + 2 * b for b in beyond], self.ndim, 0)
        stencil = nn.ConvTranspose2d(
            given, wanted, per_axis(kernel, self.ndim), per_axis(2, self.ndim), cut, bias=False
        )
        return per_axis(beyond, self.ndim, 0), stencil

    def pad(self, u: Tensor) -> Tensor:
        """One more point at each end of each axis; not where it is zero, which convolutions do themselves."""
        return extend(u, per_axis(1, self.ndim, 0), self.padding)

    def check_grid(self, shape: tuple[int, ...]) -> None:
        """Refuse a grid that the stencils of P, fixed without a training grid, do not lead back to."""
        for axis, points in enumerate(shape):
            n, step, offset, fits = points, 1, 0, True
            for kernel in (k[axis] for k in self.kernels):
                fits = fits and _divisible(n, self.valid) and n % 2 == kernel % 2
                step, offset = 2 * step, offset + step * (kernel - (2 if self.valid else 4))
                n = _halved(n, self.valid)
            if not fits or n < self.least:
                raise ValueError(
                    "This MgNO has no training grid, and its up-sampling stencils, of "
                    f"{', '.join(str(k[axis]) for k in self.kernels)} points, take axes of {step} j "
                    f"{'-' if offset < 0 else '+'} {abs(offset)} points for j = {self.least}, {self.least + 1}, ...; "
                    f"got {shape}."
                )


class VCycle(nn.Module):
    """A linear V-cycle, f `(b, f, h, w)` to u `(b, u, h, w)`, in channels-last memory.

    Args:
        f: Channels of f on the finest level.
        u: Channels of u there.
        plan: Everything else.
    """

    def __init__(self, f: int, u: int, plan: Plan):
        super().__init__()
        self.levels = nn.ModuleList(Level(i, f, u, plan) for i in range(len(plan.smoothings)))

    def forward(self, f: Tensor) -> Tensor:
        finest, *coarser = self.levels
        return finest(None, f, coarser)


class Level(nn.Module):
    """One level of a V-cycle, its modules named as in the equations of this file.

    Args:
        i: 0 on the finest.
        f: Channels of f on the finest.
        u: Channels of u there.
        plan: Everything else.
    """

    def __init__(self, i: int, f: int, u: int, plan: Plan):
        super().__init__()
        self.plan = plan
        before, after = plan.smoothings[i]
        here, below = 1 + plan.growth * i, 1 + plan.growth * (i + 1)
        sizes = (here * f, here * u)
        self.before = nn.ModuleList(Smoothing(*sizes, plan, first=i == j == 0) for j in range(before))
        self.after = nn.ModuleList(Smoothing(*sizes, plan) for _ in range(after))
        self.coarsest = i == len(plan.kernels)
        if self.coarsest:
            return
        self.A = plan.stencil(here * u, here * f) if plan.restrict_residual else None
        self.R = plan.halving(here * f, below * f)
        self.Pi = plan.halving(here * u, below * u)
        self.beyond, self.P = plan.prolongation(below * u, here * u, plan.kernels[i])
        shape = plan.shape
        for _ in range(i):
            shape = shape and tuple(_halved(n, plan.valid) for n in shape)
        self.norm = Standardization(here * u, plan.norm, plan.norm_affine, shape) if plan.norm != "none" else None

    def forward(self, u: Tensor | None, f: Tensor, coarser: Sequence[nn.Module]) -> Tensor:
        """u on this level, from u (None: zero) and f there."""
        padded = f if self.coarsest and u is not None else self.plan.pad(f)  # S and R of the finest level share it
        for smoothing in self.before:
            u = smoothing(u, f, padded)
        assert u is not None
        if not self.coarsest:
            below = coarser[0](*self._restricted(u, f, padded), coarser[1:])
            u = self.P(extend(below, self.beyond, self.plan.padding)).add_(u)
            if self.norm is not None:
                u = self.norm(u)
        for smoothing in self.after:
            u = smoothing(u, f, padded)
        return u

    def _restricted(self, u: Tensor, f: Tensor, padded_f: Tensor) -> tuple[Tensor, Tensor]:
        """u and f one level down."""
        padded_u = self.plan.pad(u)
        if self.A is not None:
            f = f - self.A(padded_u)
            padded_f = self.plan.pad(f)
        return (self.Pi(u), self.R(f)) if self.plan.valid else (self.Pi(padded_u), self.R(padded_f))


class Smoothing(nn.Module):
    """u + S(f - A u); the `first` of a V-cycle, where u = 0, has no A and takes f padded.

    Args:
        f: Channels of f.
        u: Channels of u.
        plan: Everything else.
    """

    def __init__(self, f: int, u: int, plan: Plan, first: bool = False):
        super().__init__()
        self.plan = plan
        self.A = None if first else plan.stencil(u, f)
        self.S = plan.stencil(f, u)

    def forward(self, u: Tensor | None, f: Tensor, padded_f: Tensor) -> Tensor:
        if u is None or self.A is None:
            return channels_last(self.S(padded_f))
        residual = channels_last(f - self.A(self.plan.pad(u)))
        return u + channels_last(self.S(self.plan.pad(residual)))


class Standardization(nn.Module):
    """Mean 0 and variance 1 over the points and channels of each sample, then an affine map, if `affine`.

    Args:
        channels: Channels of `(b, c, h, w)`, in channels-last memory.
        kind: "group", one scale and shift per channel, or "layer", one per point of `shape` and channel.
        affine: Whether there are any.
        shape: The grid, for "layer".
    """

    def __init__(self, channels: int, kind: Norm, affine: bool, shape: tuple[int, ...] | None):
        super().__init__()
        size = (*(shape or ()), channels) if kind == "layer" else (channels,)
        self.weight = nn.Parameter(torch.ones(size)) if affine else None
        self.bias = nn.Parameter(torch.zeros(size)) if affine else None

    def forward(self, u: Tensor) -> Tensor:
        v = u.permute(0, 2, 3, 1)
        weight, bias = (None if p is None else p.expand(v.shape[1:]) for p in (self.weight, self.bias))
        return F.layer_norm(v, v.shape[1:], weight, bias).permute(0, 3, 1, 2)


def _halved(n: int, valid: bool) -> int:
    return (n - 1) // 2 if valid else (n + 1) // 2


def _divisible(n: int, valid: bool) -> bool:
    return n >= (3 if valid else 2)


def _most_levels(n: int, valid: bool, least: int) -> int:
    """Levels an axis of n points can have, if the coarsest keeps `least`."""
    levels = 1
    while _divisible(n, valid) and _halved(n, valid) >= least:
        n, levels = _halved(n, valid), levels + 1
    return levels


def _smoothings(
    shape: tuple[int, ...] | None, given: Sequence[Sequence[int]] | None, valid: bool, least: int
) -> tuple[tuple[int, int], ...]:
    """The argument of that name, checked, or what it is where it is left out."""
    most = min(_most_levels(n, valid, least) for n in shape) if shape else 6
    if given is None:
        n, levels = min(shape or (256,)), 1
        while n > 8 and levels < most:
            n, levels = _halved(n, valid), levels + 1
        return ((1, 0),) * (levels - 1) + ((2, 0),)
    try:
        counts = tuple((int(before), int(after)) for before, after in given)
    except (TypeError, ValueError):
        counts = ()
    if not counts or any(n < 0 for pair in counts for n in pair) or not counts[0][0] or not counts[-1][0]:
        raise ValueError(
            "smoothings needs for each level how many before and how many after the coarser levels, such as "
            f"((1, 0), (1, 0), (2, 0)), with at least one before on the first and on the last; got {given}."
        )
    if counts[-1][1]:
        raise ValueError(
            f"smoothings={counts}: no level is coarser than the last, so its smoothings all come before: write "
            f"({sum(counts[-1])}, 0) for {counts[-1]}."
        )
    if shape and len(counts) > most:
        raise ValueError(
            f"smoothings has {len(counts)} levels, but a grid of {shape} points allows at most {most}. Leave some out, "
            "or use a finer training grid."
        )
    return counts


def _kernels(
    ndim: int, shape: tuple[int, ...] | None, given: Sequence[int] | None, levels: int, valid: bool
) -> tuple[tuple[int, ...], ...]:
    """Points per axis of the stencil of P on every level but the coarsest: what leads back to the grid there."""
    if shape is None:
        kernels = tuple(given) if given is not None else (4,) * (levels - 1)
        if len(kernels) != levels - 1 or not set(kernels) <= {3, 4}:
            raise ValueError(f"upsampling needs a 3 or 4 for each of {levels - 1} levels, got {given}.")
        return tuple((k,) * ndim for k in kernels)
    if given is not None:
        raise ValueError(f"upsampling={given} follows from the training grid where there is one; leave it out.")
    kernels_by_level = []
    for _ in range(levels - 1):
        kernels_by_level.append(tuple(3 if n % 2 else 4 for n in shape))
        shape = tuple(_halved(n, valid) for n in shape)
    return tuple(kernels_by_level)

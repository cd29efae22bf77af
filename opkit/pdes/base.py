"""What an equation must provide, and nothing about files, batches, devices or networks.

A PDE is a frozen dataclass whose fields are its physical and numerical parameters: they are the constructor, the
command line (`pde.resolution=141`), the attributes of every data file and the key under which data are stored.
"""

import dataclasses
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal, get_args, get_origin

import numpy as np
import torch
from torch import Tensor

from opkit.fields import SPLIT_STRIDE, seed_key
from opkit.grid import Boundary, Grid, Method, Spec

GPU_POINTS = 2**22
"""Grid points solved together on a GPU: fewer leave it idle, more only take memory."""


@dataclass(frozen=True)
class Labels:
    """What `PDE.label` returns.

    Args:
        fields: Fields to store by name, `(n, *x)` or `(n, t, *x)`.
        diagnostics: Figures of the solver, `(n,)` each.
        scalars: Parameters that were drawn per sample, `(n,)` each.
    """

    fields: dict[str, Tensor]
    diagnostics: dict[str, Tensor]
    scalars: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shift:
    """A problem beside the one a surrogate was trained on.

    Args:
        what: What differs, in words.
        factor: New value over old.
        problem: The problem.
    """

    what: str
    factor: float
    problem: "PDE"


class PDE(ABC):
    """An equation with a distribution over its inputs and a solver: the map `a -> u` a network is to learn.

    Subclasses are frozen dataclasses (`eq=False`: equality is that of the parameters) with fields `resolution` and
    `label_resolution`; they name their equation and channels and define `grid`, `sample` and `_solve`.
    """

    equation: ClassVar[str]
    """Name of the equation; enters the random key, so that two equations never share a stream."""
    formula: ClassVar[str]
    """The equation in one line of plain text, for cards and bundles."""
    outputs: ClassVar[tuple[str, ...]]
    """Names of the output channels; for evolution equations, of the state."""
    citation: ClassVar[str] = ""
    """Where the problem was posed."""

    resolution: int
    label_resolution: int

    def __post_init__(self) -> None:
        for parameter in dataclasses.fields(self):  # type: ignore[arg-type]
            known, value = get_args(parameter.type), getattr(self, parameter.name)
            if get_origin(parameter.type) is Literal and value not in known:
                raise ValueError(f"{parameter.name} is one of {', '.join(known)}, got {value!r}.")

    @property
    @abstractmethod
    def inputs(self) -> tuple[str, ...]:
        """Names of the input channels. An evolution equation's are its state, then the parameters drawn per sample."""

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The grid fields live on."""

    @property
    def times(self) -> Tensor | None:
        """Times of the frames, float64 `(t,)`, starting at 0; None where the equation is steady."""
        return None

    @abstractmethod
    def sample(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        """Random inputs `first .. first + n - 1`, float64 `(n, c, *x)`; sample i depends on (seed, i) alone.

        Args:
            n: How many.
            seed: Seed of the whole set.
            first: Index of the first one. The splits of a dataset are the index ranges from `opkit.fields.first_index`.
        """

    @abstractmethod
    def _solve(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Solution for checked float64 inputs, and per-sample diagnostics of the solver."""

    @property
    def boundary(self) -> str:
        """Boundary condition of the solution, in words."""
        return "periodic" if self.grid.location == "periodic" else "unspecified"

    @property
    def walls(self) -> Boundary:
        """What models may take for granted of the solution on the boundary."""
        return "periodic" if self.grid.location == "periodic" else "open"

    @property
    def symmetries(self) -> int:
        """How many generating symmetries training may apply to a sample, 0 for none: reflections of each axis, then
        exchange of the first two axes. Right only where both the equation and the law of its inputs have them and all
        fields are scalars."""
        return 0

    @property
    def input_law(self) -> str:
        """Distribution of the inputs in one line, for cards and bundles."""
        return ""

    @property
    def varying(self) -> tuple[str, ...]:
        """Parameters drawn per sample. Each is an input channel, constant in space and time."""
        return ()

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields a dataset stores."""
        return tuple(name for name in dict.fromkeys(self.inputs + self.outputs) if name not in self.varying)

    @property
    def spec(self) -> Spec:
        """Channel names and grid, for building a model."""
        return Spec(self.inputs, self.outputs, self.grid, self.walls)

    @property
    def restriction(self) -> Method:
        """How a label moves from the grid it was solved on to `grid`."""
        return "strided"

    def filtered(self, inputs: Tensor, target: Grid) -> Tensor:
        """Inputs `(n, c, *x)` on a coarser grid, with what it cannot hold cut off or averaged; the values at its points
        alone, `restriction`, would turn it into something else. Waves on periodic grids; between walls, the mean over
        the cell that a point stands for."""
        return self.grid.resample(inputs, target, "spectral" if self.grid.location == "periodic" else "average")

    @property
    def order(self) -> float:
        """Order of the labels' error under refinement, for estimating it from two grids; when in doubt, the lower."""
        return 1.0

    @property
    def label_grid(self) -> Grid:
        """The grid labels are solved on: the smallest refinement of `grid` with `label_resolution` points a side.

        It contains every point of `grid`, so restricting a solution to the stored grid needs no interpolation.
        """
        gap = 1 if self.grid.location == "node" else 0
        factor = max(1, -(-(self.label_resolution - gap) // (self.resolution - gap)))
        if self.grid.location == "cell":
            factor += 1 - factor % 2  # only an odd refinement keeps the centres
        return self.grid.refine(factor)

    def shifts(self) -> list[Shift]:
        """Problems outside the distribution of this one, each in one respect, that a surrogate of it may meet."""
        return []

    def _shifted(self, what: str, factors: tuple[float, ...], change: Callable[[float], dict[str, Any]]) -> list[Shift]:
        """Shifts by some factors; those the equation refuses are left out."""
        found = []
        for factor in factors:
            try:
                found.append(Shift(what, factor, dataclasses.replace(self, **change(factor))))  # type: ignore[type-var]
            except ValueError:
                continue
        return found

    def quantities(self, states: Tensor) -> dict[str, Tensor]:
        """Numbers that tell a wrong rollout from a right one: what the equation conserves, feeds or dissipates.

        Args:
            states: `(n, c, *x)`, the channels of `outputs`.

        Returns:
            `(n,)` each, by name. "mean" is told relative to the size of the field, the others to their own start.
        """
        weights = self.grid.weights.to(states.device)
        axes = tuple(range(-self.grid.ndim, 0))
        mean = (states * weights).sum(axes) / weights.sum()
        square = (states.square() * weights).sum(axes) / weights.sum()
        return {"mean": mean.sum(1), "mean square": square.sum(1)}

    @property
    def falling(self) -> tuple[str, ...]:
        """Which of `quantities` can only fall from one time to the next."""
        return ()

    def energy_coefficient(self, inputs: Tensor) -> Tensor | None:
        """The coefficient a of the equation's energy norm ||a^1/2 grad u||, `(n, 1, *x)`; None where it has none.

        Args:
            inputs: `(n, c, *x)`.
        """
        return None

    def checks(self, inputs: Tensor, outputs: Tensor) -> dict[str, Tensor]:
        """What is known of every solution without knowing it, as numbers that are zero for one, `(n,)` each, by name.

        Args:
            inputs: `(n, c, *x)` of a steady equation.
            outputs: `(n, c_out, *x)` on the same grid.
        """
        return {}

    def residual(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """How far fields are from solving the equation, `(n,)`: a relative norm, differentiable, that needs no labels.

        Args:
            inputs: `(n, c, *x)`, of any floating type.
            outputs: `(n, c_out, *x)` on the same grid.

        Raises:
            NotImplementedError: This equation has none.
        """
        raise NotImplementedError(f"{self.equation} has no residual to minimise.")

    def on(self, resolution: int) -> "PDE":
        """The same problem on another grid: every other parameter is kept."""
        return dataclasses.replace(self, resolution=resolution)  # type: ignore[type-var]

    def cheaper(self) -> list["PDE"]:
        """The same problem solved at less cost than its labels: what the speed of a surrogate is measured against.

        Instances differ in numerical parameters alone, and each solves on its own `grid`. About the cheapest comes
        first, the labels' own solver last. Here they are coarser grids; a subclass adds the longer steps, looser
        tolerances and faster schemes it has.
        """
        return [self._solved_on(n) for n in self._ladder()]

    def with_fixed_steps(self, inputs: Tensor) -> "PDE":
        """The same problem with time steps chosen once, for inputs like the ones given: `solve` is then a map without
        jumps, that can be differentiated by the state. Here steps are taken to be fixed as it is.

        Args:
            inputs: `(n, c, *x)` on `grid`.
        """
        return self

    def _solved_on(self, resolution: int, **changes: Any) -> "PDE":
        """The same problem, its labels solved on `resolution` points a side and kept there."""
        changes |= {"resolution": resolution, "label_resolution": resolution}
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def _ladder(self, least: int = 5) -> list[int]:
        """Points per side of grids to solve on, coarsest first: about an eighth, a quarter and a half of the intervals
        of `grid`, all of them, and refinements up to the label grid. Between walls the points of one of the two grids
        are points of the other, so that a coefficient needs no interpolation."""
        kind, n = self.grid.location, self.grid.shape[0]
        gap = 1 if kind == "node" else 0
        if kind == "periodic":
            found = {-(-n // part) for part in (1, 2, 4, 8)}
        else:
            odd = kind == "cell"
            strides = [s for s in range(1, n, 1 + odd) if (n - gap) % s == 0 and (n - gap) // s + gap >= least] or [1]
            nearest = (min(strides, key=lambda s: abs(math.log(s / part))) for part in (1, 2, 4, 8))
            found = {(n - gap) // s + gap for s in nearest}
        factor, finest = 1, self.label_grid.shape[0]
        while (finer := self.grid.refine(factor).shape[0]) < finest:
            found.add(finer)
            factor *= 3 if kind == "cell" else 2
        return sorted({m for m in found if m >= least} | {finest})

    def refined(self) -> "PDE":
        """The same problem, its labels solved on a grid twice as fine (three times, on cells)."""
        factor = 3 if self.grid.location == "cell" else 2
        finer = self.label_grid.refine(factor).shape[0]
        return dataclasses.replace(self, label_resolution=finer)  # type: ignore[type-var]

    def parameters(self) -> dict[str, Any]:
        """Constructor arguments by name; JSON values only."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {k: tuple(v.tolist()) if isinstance(v, Tensor) else v for k, v in values.items()}

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, PDE) and self.parameters() == other.parameters()

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(self.parameters(), sort_keys=True)))

    def tile(self, device: str = "cpu") -> int:
        """Samples labelled together. Sample i of a split always takes row i % tile of its tile, so that its bits do not
        depend on which of its neighbours are made with it."""
        return 1 if device == "cpu" else max(1, GPU_POINTS // self.label_grid.weights.numel())

    def solve(self, inputs: Any) -> Any:
        """Solution u for given inputs, on this grid, in float64.

        Args:
            inputs: `(n, c, *x)` on `grid`, a torch tensor on any device or a numpy array. Every PDE accepts any input
                on its grid, not only its own samples.

        Returns:
            Steady: `(n, c, *x)`. Evolution: `(n, t, c, *x)`, frame 0 being the input. Torch in, torch out; numpy in,
            numpy out.

        Raises:
            ValueError: Wrong shape or values the equation cannot take; the message says which.
        """
        tensor = torch.from_numpy(inputs) if isinstance(inputs, np.ndarray) else inputs
        expected = (len(self.inputs), *self.grid.shape)
        if not isinstance(tensor, Tensor) or tensor.ndim != len(expected) + 1 or tensor.shape[1:] != expected:
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(inputs).__name__
            raise ValueError(
                f"{type(self).__name__}(resolution={self.resolution}).solve expects inputs of shape "
                f"(n, {', '.join(map(str, expected))}), got {got}; the channels are {', '.join(self.inputs)}."
            )
        if tensor.is_complex() or not torch.isfinite(tensor).all():
            raise ValueError(f"{type(self).__name__}.solve got inputs that are not finite real numbers.")
        solution, _ = self._solve(tensor.to(torch.float64))
        return solution.numpy() if isinstance(inputs, np.ndarray) else solution

    def label(self, n: int, seed: int, first: int, device: str = "cpu", tile: int | None = None) -> Labels:
        """Inputs and labels for a dataset: drawn and solved on `label_grid`, restricted to `grid`.

        Args:
            n: How many; they must not cross a multiple of `tile`.
            seed: Seed of the whole set.
            first: Index of the first one.
            device: Where to solve.
            tile: Samples solved together; None means `tile(device)`. A short tile is filled up.
        """
        fine = self.on(self.label_grid.shape[0])
        inputs = fine.sample(n, seed, first)
        tile = tile or self.tile(device)
        row = first % SPLIT_STRIDE % tile  # counted within the split, as shards are
        rows = torch.zeros(max(tile, row + n), dtype=torch.int64)  # a short tile is filled up with its first sample
        rows[row : row + n] = torch.arange(n)
        outputs, diagnostics = fine._solve(inputs[rows].to(device))
        outputs = outputs[row : row + n].cpu()
        stored: dict[str, Tensor] = {}
        for names, values in ((self.inputs, inputs), (self.outputs, outputs)):
            kept = fine.grid.resample(values, self.grid, self.restriction)
            stored |= {name: kept.select(-self.grid.ndim - 1, i) for i, name in enumerate(names)}
        scalars = {name: stored.pop(name).flatten(1)[:, 0] for name in self.varying}
        return Labels(stored, {k: v[row : row + n].cpu() for k, v in diagnostics.items()}, scalars)

    def label_error(self, label: Labels, seed: int, first: int, device: str = "cpu") -> Tensor:
        """Estimated relative L2 error of labels: their distance to labels of `refined()`, extrapolated by `order`.

        Args:
            label: What `label(n, seed, first)` returned.
            seed: The seed it was made with.
            first: The index of its first sample.
            device: Where to solve.

        Returns:
            `(n,)` for a steady equation; `(n, t)` frame by frame for an evolution equation.
        """
        n = len(next(iter(label.fields.values())))
        finer = torch.cat([
            torch.stack([self.refined().label(1, seed, first + i, device, 1).fields[name] for name in self.outputs], 1)
            for i in range(n)
        ])  # fmt: skip
        own = torch.stack([label.fields[name] for name in self.outputs], 1)
        weights = self.grid.weights
        axes = tuple(range(-self.grid.ndim, 0))

        def norm(values: Tensor) -> Tensor:
            squares = (values.double() ** 2 * weights).sum(axes)
            return squares.sum(1).sqrt()  # over channels

        scale = norm(finer)
        distance = norm(own - finer) / torch.where(scale > 0, scale, 1.0)
        return distance / (1 - 2.0**-self.order)


class Evolution(PDE):
    """An equation in time. Subclasses have a field `times`; the state's channels are `outputs`.

    The field is written `times: Any = (0.0, 1.0)`: users give a sequence of numbers and read a float64 tensor.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        given: Any = self.times
        try:
            times = torch.as_tensor(given, dtype=torch.float64).clone()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"times must be a list of numbers, such as [0, 0.5, 1], got {given!r}.") from None
        if times.ndim != 1 or len(times) < 2 or times[0] != 0 or not (times.diff() > 0).all():
            raise ValueError(
                f"times must start at 0 and increase, with at least two entries, got {times.tolist()}. "
                "Write for example times=[0, 0.5, 1]."
            )
        if not torch.isfinite(times).all():
            raise ValueError(f"times must be finite, got {times.tolist()}.")
        object.__setattr__(self, "times", times)

    @property
    def intervals(self) -> list[float]:
        """Time from each frame to the next."""
        return torch.as_tensor(self.times).diff().tolist()

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.outputs + self.varying

    @property
    def varying(self) -> tuple[str, ...]:
        return tuple(name for name in self.ranged if isinstance(getattr(self, name), tuple))

    def _parameter_shifts(self) -> list[Shift]:
        """Half and twice each parameter that may be a range; of one that is, the range above and the one below."""
        found = []
        for name in self.ranged:
            value = getattr(self, name)
            if isinstance(value, tuple):
                low, high = value
                below, above = ((low / 2 / high) ** 0.5, (low / 2, low)), ((2 * high / low) ** 0.5, (high, 2 * high))
                choices: dict[float, Any] = dict((below, above))
            else:
                choices = {factor: value * factor for factor in (0.5, 2.0) if value > 0}
            for factor, other in choices.items():
                found += self._shifted(name, (factor,), partial(_with, name, other))
        return [shift for shift in found if shift.problem.varying == self.varying]

    def balance(self, before: Tensor, inputs: Tensor, after: Tensor, dt: float) -> tuple[Tensor, Tensor] | None:
        """What three consecutive frames of any origin leave over when put into the equation at the middle one; None
        where nobody wrote it down. Time derivatives are central differences, so a true solution leaves O(dt^2).

        Args:
            before: The first frame, `(n, c, *x)`, channels as `outputs`.
            inputs: The middle one, channels as `inputs`.
            after: The last.
            dt: Time between frames.

        Returns:
            The residual R of the equation, `(n, c, *x)`, in the unit of the field over time; and the energy that is
            gained for no reason per time, over what is dissipated, `(n,)`.
        """
        return None

    ranged: ClassVar[tuple[str, ...]] = ()
    """Parameters that may be given as a range (low, high), from which each sample draws its own log-uniformly."""

    def _with_parameters(self, state: Tensor, seed: int, first: int) -> Tensor:
        """The sampled state `(n, c, *x)` with a constant channel for every parameter drawn per sample."""
        channels = [state]
        for name in self.varying:
            low, high = getattr(self, name)
            values = torch.empty(len(state), dtype=torch.float64)
            for i in range(len(state)):
                u = np.random.Generator(np.random.Philox(seed_key(f"{self.equation} {name}", seed, first + i))).random()
                values[i] = low * (high / low) ** u
            channels.append(values.view(-1, *(1 for _ in state.shape[1:])).expand(-1, 1, *state.shape[2:]))
        return torch.cat(channels, 1)

    def _parameter(self, name: str, inputs: Tensor) -> Tensor:
        """A parameter per sample, `(n,)`: from its channel of the inputs, or the same for all. A constant, where the
        solution is differentiated."""
        if name in self.varying:
            channel = inputs[:, self.inputs.index(name)].detach().flatten(1)
            if not (channel == channel[:, :1]).all():
                raise ValueError(f"{type(self).__name__}.solve: the input channel {name} must be constant in space.")
            return channel[:, 0]
        return torch.full((len(inputs),), float(getattr(self, name)), dtype=torch.float64, device=inputs.device)


def _with(name: str, value: Any, _: float) -> dict[str, Any]:
    return {name: value}


def check_range(name: str, value: float | tuple[float, float], least: float = 0.0) -> None:
    """Refuse a parameter, or a range of it, that is not above `least`."""
    low, high = value if isinstance(value, tuple) else (value, value)
    if not (np.isfinite(low) and np.isfinite(high) and least < low <= high):
        raise ValueError(f"{name} must be a number above {least:g} or a range [low, high] of such, got {value}.")

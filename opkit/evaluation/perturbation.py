"""Stability under perturbation, measured: `opkit.evaluation.jacobian`'s figures of a surrogate, on true states and on
those of its own rollout after 1, 5 and 10 times the steps of a training trajectory, beside the same figures of the
equation's own solver at the same states.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opkit.errors import ConfigError, SolverError
from opkit.evaluation.jacobian import (
    INVARIANT,
    LEVELS,
    SIZE,
    Linearise,
    by_differences,
    draws_of,
    exact,
    finite_time_growth,
    gain_by_wavenumber,
    leading_in_span,
    leading_singular_value,
    low_waves,
    moves_of,
    noise_sensitivity,
    norms_of_powers,
    spectral_radius,
    symmetry_errors,
    worst_perturbation,
)
from opkit.metrics import norm, wave_numbers
from opkit.pdes import PDE
from opkit.stepping import roll_out, time_step, with_constants
from opkit.surrogate import Surrogate

PLACES = (1, 5, 10)
"""Times the steps of a training trajectory after which states of the surrogate's rollout are looked at."""
POWERS = (1, 2, 4)
"""m of ||J^m||."""
POINT_STEPS = 2**22
"""Grid points times time steps of a solver that are differentiated at once: each takes up to 800 bytes."""
AGREE = 1e-3
"""Relative distance from a central difference up to which a solver's derivative is taken for right."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    states: int
    """True ones."""
    own: int
    """States of the surrogate's rollout at each place."""
    draws: int
    """Random fields per shell, of the one of fewest waves."""
    noises: int
    """Noise fields per level."""
    shells: int
    waves: int
    """That span the subspace."""
    applications: int
    """Steps in a row."""
    searches: int
    """Iterations for the worst perturbation."""
    eigenvalues: bool
    """Whether they, and powers of the Jacobian, are sought."""


FULL = Effort(4, 2, 8, 2, 24, 32, 5, 12, True)
QUICK = Effort(1, 1, 2, 1, 8, 12, 1, 8, False)


@dataclass
class Response:
    """Figures of one map on one set of states: one number per state, unless it says otherwise.

    What is None, or not finite, has its reason in `reasons`, by name.
    """

    low_singular_value: list[float] | None = None
    """Of a step, over perturbations in the span of the lowest waves."""
    singular_value: list[float] | None = None
    """Of a step, over all perturbations: a lower bound, as the one above is."""
    growth: list[float] | None = None
    """Finite-time growth over `Perturbation.applications` steps, in 1 / time; likewise."""
    radius: float | None = None
    """Spectral radius of a step at the first state."""
    non_normality: float | None = None
    """Singular value over spectral radius, at that state: 1 where the Jacobian is normal."""
    powers: list[float] | None = None
    """||J^m|| by `Perturbation.powers`, at that state."""
    gain: list[float] | None = None
    """G(kappa) by `Perturbation.shells`: mean over states."""
    transfer: list[list[float]] | None = None
    """T(kappa', kappa), a row for each kappa' = 0, 1, ...: mean over states."""
    noise: dict[str, list[float]] | None = None
    """By kind of noise: change of the output over that of the input at each of `LEVELS`, mean over states."""
    noise_slope: dict[str, float] | None = None
    """By kind of noise: of log change against log noise, mean over states."""
    worst: list[float] | None = None
    """Growth over `Perturbation.applications` steps of the perturbation of relative size `SIZE` that is worst for the
    surrogate; the solver's is its response to the same perturbation."""
    random: list[float] | None = None
    """The same of white noise of equal size; of the surrogate alone."""
    symmetry: dict[str, float] | None = None
    """By move: how far a step is from commuting with it, greatest over states."""
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass
class Perturbation:
    """What `measure_perturbation` returns.

    One application of the map, here called a step, is as many calls as replace every frame of the network's input: one,
    unless its history is longer than its bundle.
    """

    resolution: int
    solver_resolution: int
    """Points per side of the grid the solver works on, as it did for the labels."""
    solver_products: str
    """How products with its Jacobian were made: "exact" or "central differences"."""
    frames: int
    """Frames of the data that a step advances by."""
    time: float
    """Time of a step."""
    applications: int
    """Steps in a row of `growth` and `worst`."""
    waves: int
    """Perturbations that span the lowest waves."""
    shells: list[int]
    levels: list[float]
    powers: list[int]
    size: float
    states: dict[str, int]
    """States looked at: "true", and by place."""
    places: dict[str, dict[str, Any]]
    """Of the surrogate's rollout, "1x", "5x" and "10x": the frame meant, `step`, and those `taken`, which are the
    last finite ones where a trajectory did not get so far."""
    skipped: dict[str, list[int]]
    """Windows of frames that are not finite, and all, of the "true" trajectories and its "own"."""
    symmetries: list[str]
    """Moves under which the equation is known to stay as it is: the solver commutes with the whole-cell shift in that
    direction, or `PDE.symmetries` says so."""
    true: dict[str, Response]
    """Figures on true states, of "surrogate" and "solver"."""
    own: dict[str, dict[str, Response]]
    """The same by place of the surrogate's rollout; a place is missing where no trajectory was finite for a step."""

    def record(self) -> dict[str, Any]:
        """JSON values by name: what is not finite is None, and the reason is beside it."""
        record = asdict(self)
        for responses in (record["true"], *record["own"].values()):
            for response in responses.values():
                for name, value in response.items():
                    if name != "reasons" and (bad := sum(not math.isfinite(v) for v in _numbers(value))):
                        count = len(list(_numbers(value)))
                        response["reasons"].setdefault(name, f"not finite in {bad} of {count} values")
        return _plain(record)


def measure_perturbation(
    surrogate: Surrogate, pde: PDE, truth: Tensor, own: Tensor, trained: int, *, seed: int = 0, quick: bool = False,
    budget: float = math.inf,
) -> Perturbation:  # fmt: skip
    """All figures of this module, of a surrogate and of its equation's solver on the grid the labels were solved on.

    The state is the network's input: `stepping.history` frames, each channel in units of its root mean square over the
    true states, so that norms weigh channels alike. Parameters drawn per sample are held fixed. The network runs in
    float64; so does the solver, with time steps that do not follow the state (`PDE.with_fixed_steps`).

    Args:
        surrogate: Of an evolution equation.
        pde: The problem it was trained on; `truth` and `own` are on its grid.
        truth: True trajectories `(n, t, c, *x)`, physical units; c is the state, then the parameters drawn per sample.
        own: Trajectories of the surrogate's own rollout, likewise: the frames given to it, then at least 10 `trained`
            of its own.
        trained: Steps of a training trajectory.
        seed: Of all that is drawn.
        quick: Few states, waves and random fields, and no eigenvalues: seconds on 64 x 64 points, where the full
            measurement takes minutes.
        budget: Seconds, about; figures that do not fit are left out, and say so. What tells most comes first.

    Raises:
        ConfigError: The equation is steady.
        ValueError: Trajectories of the wrong shape, too short, or no true state that is finite.
    """
    if pde.times is None:
        raise ConfigError(f"{pde.equation} is steady: there is no step to perturb. Leave perturbations out.")
    effort, stepping, channels = QUICK if quick else FULL, surrogate.stepping, len(pde.outputs)
    history = stepping.history
    for name, values, least in (("truth", truth, history), ("own", own, history + max(PLACES) * trained)):
        wanted = (len(pde.inputs), *pde.grid.shape)
        if values.ndim != len(wanted) + 2 or tuple(values.shape[2:]) != wanted or values.shape[1] < least:
            raise ValueError(
                f"{name} must be trajectories (n, t, {', '.join(map(str, wanted))}) with t >= {least}, the channels "
                f"being {', '.join(pde.inputs)}; got {tuple(values.shape)}."
            )
    spread = truth[:, :, :channels].double().flatten(3).transpose(1, 2).flatten(2).square()  # (n, c, everything)
    spread = torch.where(torch.isfinite(spread), spread, 0.0).mean((0, 2)).sqrt()
    scale = torch.where(spread > 0, spread, 1.0).repeat(history).view(-1, *(1 for _ in pde.grid.shape))
    calls = -(-history // stepping.bundle)
    frames = calls * stepping.bundle
    advance = frames * float(time_step(pde.times) or 0.0)
    top = int(wave_numbers(pde.grid).max())
    constant = {0} if pde.grid.location == "periodic" else set()
    shells = sorted(constant | {round(s) for s in np.geomspace(1, top, effort.shells)})
    basis = low_waves(pde.grid, history * channels, effort.waves)
    settings = _Settings(effort, pde, shells, basis, advance, seed, time.monotonic() + budget)

    sets, skipped = {}, {}
    for kind, values in (("true", truth), ("own", own)):
        finite = torch.isfinite(values).flatten(2).all(2).unfold(1, history, 1).all(2)  # (n, windows)
        skipped[kind] = [int((~finite).sum()), finite.numel()]
        if kind == "true":
            sets["true"] = _spread_out(finite, effort.states)
        else:
            sets |= {f"{times}x": _latest(finite, effort.own, times * trained) for times in PLACES}
    if not sets["true"]:
        raise ValueError(f"truth: none of its {skipped['true'][1]} windows of {history} frame(s) is finite.")
    places = {f"{times}x": {"step": times * trained, "taken": [s for _, s in sets[f"{times}x"]]} for times in PLACES}

    network = _Network(surrogate, scale, calls)
    solver = _Solver(pde, scale, frames, effort.applications)
    probes: dict[str, dict[str, _Probe]] = {}
    for kind, chosen in sets.items():
        same = next((k for k in probes if k != "true" and sets[k] == chosen), None)
        if same is not None:  # no trajectory got further
            probes[kind] = probes[same]
        elif chosen:
            values = (truth if kind == "true" else own).double()
            states = torch.stack([values[i, s : s + history, :channels].flatten(0, 1) for i, s in chosen]) / scale
            constants = torch.stack([values[i, s, channels:].flatten(1)[:, 0] for i, s in chosen])
            first = _Probe(network, states, constants, settings)
            probes[kind] = {"surrogate": first, "solver": _Probe(solver, states, constants, settings, first)}
    different = {id(pair): pair for pair in probes.values()}.values()
    for name in FIGURES:
        for pair in different:
            for probe in pair.values():
                probe.attempt(name)
    responses = {kind: {who: probe.out for who, probe in pair.items()} for kind, pair in probes.items()}
    return Perturbation(
        pde.grid.shape[0], pde.label_grid.shape[0], "exact" if solver.exact else "central differences", frames, advance,
        effort.applications, len(basis), shells, list(LEVELS), list(POWERS), SIZE,
        {kind: len(chosen) for kind, chosen in sets.items()}, places, skipped,
        _kept(pde, responses["true"]["solver"].symmetry or {}), responses.pop("true"), responses,
    )  # fmt: skip


Path = Callable[[Tensor, int], Tensor]
"""States `(b, c, *x)` and a number t of steps to the states after each of them, `(b, t, c, *x)`."""


@dataclass(frozen=True)
class _Settings:
    effort: Effort
    pde: PDE
    shells: list[int]
    basis: Tensor
    advance: float
    seed: int
    deadline: float = math.inf
    """On time.monotonic's clock."""


def _spread_out(finite: Tensor, count: int) -> list[tuple[int, int]]:
    """Sample and first frame of up to `count` finite windows `(n, t)`, in the middle of equal parts of the time."""
    good = finite.mT.nonzero().flip(1).tolist()  # earlier ones first
    count = min(count, len(good))
    return [tuple(good[(2 * j + 1) * len(good) // (2 * count)]) for j in range(count)]


def _latest(finite: Tensor, count: int, step: int) -> list[tuple[int, int]]:
    """Of up to `count` samples: which, and the last finite window `(n, t)` up to a step; window 0 is what was given."""
    found = [(i, [s for s, good in enumerate(row[: step + 1]) if s and good]) for i, row in enumerate(finite.tolist())]
    return [(i, steps[-1]) for i, steps in found if steps][:count]


def _for_each(constants: Tensor, states: Tensor) -> Tensor:
    """Constants of every row, where each state stands several times in a row."""
    return constants.to(states).repeat_interleave(len(states) // len(constants), 0)


def _after(states: Tensor, later: Tensor, frames: int) -> Tensor:
    """States after every `frames` frames, given the first one `(b, h c, *x)` and all later frames `(b, t, c, *x)`."""
    history = states.shape[1] // later.shape[2]
    path = torch.cat([states.unflatten(1, (history, -1)), later], 1)
    return torch.stack([path[:, j : j + history].flatten(1, 2) for j in range(frames, later.shape[1] + 1, frames)], 1)


class _Network:
    """The surrogate's steps, in float64 and without gradients of its weights, on the CPU as to its tensors."""

    linearise: Linearise = staticmethod(exact)
    exact = True

    def __init__(self, surrogate: Surrogate, scale: Tensor, calls: int):
        self.model = deepcopy(surrogate.model).double().eval().requires_grad_(False)
        self.device, self.bundle = surrogate.device, surrogate.stepping.bundle
        self.units, self.calls = scale.to(self.device), calls

    def at(self, states: Tensor, constants: Tensor) -> Callable[[Tensor], Path]:
        """Constants of some of the states to their path."""
        return lambda some: partial(self.path, some)

    def together(self, states: Tensor, steps: int) -> int:
        """States to take so many steps from at once."""
        return max(1, len(states) // steps)

    def path(self, constants: Tensor, states: Tensor, steps: int) -> Tensor:
        here = states.to(self.device)
        inputs = with_constants(here * self.units, _for_each(constants, here))
        parts = roll_out(self.model, inputs, here.shape[1], steps * self.calls)
        later = torch.cat(parts, 1).unflatten(1, (steps * self.calls * self.bundle, -1))
        channels = later.shape[2]
        return _after(here, later / self.units[:channels], self.calls * self.bundle).to(states.device)


class _Solver:
    """The solver's steps on the grid labels are solved on. Of the frames given, it reads the last alone."""

    def __init__(self, pde: PDE, scale: Tensor, frames: int, applications: int):
        self.pde, self.frames, self.channels = pde, frames, len(pde.outputs)
        self.units, self.applications = scale[: self.channels], applications
        self.dt = float(time_step(pde.times) or 0.0)
        fine = pde.on(pde.label_grid.shape[0])
        precise = {"precision": "float64"} if "precision" in pde.parameters() else {}
        self.fine = dataclasses.replace(fine, **precise)  # type: ignore[type-var]
        self.exact: bool | None = None
        self.steps = 1

    @property
    def linearise(self) -> Linearise:
        return partial(exact, together=True) if self.exact else by_differences

    def at(self, states: Tensor, constants: Tensor) -> Callable[[Tensor], Path]:
        """Constants of some of the states to their path. On the first states is found how to differentiate."""
        inputs = self._inputs(states, constants)
        fixed = self._posed(self.fine, self.applications).with_fixed_steps(inputs)
        if self.exact is None:
            steps = self._posed(fixed, 1)._solve(inputs[:1])[1].get("steps")
            self.steps = 0 if steps is None else int(steps.max())
            self.exact = 0 < self.steps * fixed.grid.weights.numel() <= POINT_STEPS and self._differentiable(
                lambda u: self.path(fixed, constants[:1], u, 1)[:, 0], states[:1]
            )
        return lambda some: partial(self.path, fixed, some)

    def together(self, states: Tensor, steps: int) -> int:
        """States to take so many steps from at once; none, if these are too many to differentiate."""
        return POINT_STEPS // (steps * max(1, self.steps) * self.fine.grid.weights.numel())

    def path(self, problem: PDE, constants: Tensor, states: Tensor, steps: int) -> Tensor:
        path = self._posed(problem, steps).solve(self._inputs(states, constants))[:, 1:]
        return _after(
            states, problem.grid.resample(path, self.pde.grid, self.pde.restriction) / self.units, self.frames
        )

    def _inputs(self, states: Tensor, constants: Tensor) -> Tensor:
        last = self.pde.grid.resample(states[:, -self.channels :] * self.units, self.fine.grid)
        return with_constants(last, _for_each(constants, last))

    def _posed(self, problem: PDE, steps: int) -> PDE:
        return dataclasses.replace(  # type: ignore[type-var]
            problem, times=tuple(self.dt * j for j in range(steps * self.frames + 1))
        )

    @staticmethod
    def _differentiable(step: Callable[[Tensor], Tensor], state: Tensor) -> bool:
        """Whether a derivative can be had, and is that of the central difference."""
        try:
            found, expected = (how(step, state).times(state[:, None])[:, 0] for how in (exact, by_differences))
        except (RuntimeError, NotImplementedError):
            return False
        return bool(norm(found - expected) <= AGREE * norm(expected))


class _Probe:
    """Figures of one map on one set of states, taken one at a time.

    Args:
        system: The map.
        states: `(b, c, *x)`, scaled.
        constants: `(b, k)`.
        settings: What to measure.
        other: The surrogate's, whose worst perturbation a solver is given.
    """

    def __init__(
        self, system: _Network | _Solver, states: Tensor, constants: Tensor, settings: _Settings,
        other: "_Probe | None" = None,
    ):  # fmt: skip
        self.system, self.states, self.constants, self.settings, self.other = system, states, constants, settings, other
        self.out, self.move, self.each = Response(), None, 0.0
        self.lost: str | None = None
        try:
            self.at = system.at(states, constants)
            self.step(states)  # what is set up on a first call is not timed
            began = time.monotonic()
            self.step(states)
            self.each = (time.monotonic() - began) / len(states)
        except SolverError as problem:
            self.lost = str(problem).partition("\n")[0]

    move: Tensor | None

    def step(self, values: Tensor) -> Tensor:
        return self.at(self.constants)(values, 1)[:, 0]

    def attempt(self, name: str) -> None:
        """Measure, if it fits what is left of the time."""
        measure, cost = FIGURES[name]
        reasons = self.out.reasons
        if self.lost is not None:
            reasons[name] = self.lost
        elif time.monotonic() + cost(self.settings) * len(self.states) * self.each > self.settings.deadline:
            reasons[name] = "left out: it does not fit the time allowed"
        else:
            try:
                measure(self)
            except SolverError as problem:
                reasons[name] = str(problem).partition("\n")[0]

    def each_of(self, steps: int, measure: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> Tensor:
        """A figure of the map of so many steps, `(b,)`, from as many states at a time as memory allows."""
        parts, size = [], max(1, self.system.together(self.states, steps))
        for first in range(0, len(self.states), size):
            rows = slice(first, first + size)
            path = self.at(self.constants[rows])
            parts.append(measure(partial(_last, path, steps), self.states[rows]))
        return torch.cat(parts)

    def low(self) -> None:
        basis, how = self.settings.basis, self.system.linearise
        self.out.low_singular_value = self.each_of(1, lambda f, u: leading_in_span(f, u, basis, how)).tolist()

    def gains(self) -> None:
        s = self.settings

        def both(step: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
            found = gain_by_wavenumber(
                step, states, s.pde.grid, s.effort.draws, s.seed, s.shells, self.system.linearise
            )
            return torch.cat([found.gain[:, None], found.transfer], 1)

        found = self.each_of(1, both).mean(0)
        self.out.gain, self.out.transfer = found[0].tolist(), found[1:].tolist()

    def noise(self) -> None:
        s = self.settings
        found = noise_sensitivity(self.step, self.states, LEVELS, s.pde.grid, s.effort.noises, s.seed)
        self.out.noise = {kind: response.growth.mean(0).tolist() for kind, response in found.items()}
        self.out.noise_slope = {kind: float(response.slope.mean()) for kind, response in found.items()}

    def symmetry(self) -> None:
        pde = self.settings.pde
        errors = symmetry_errors(self.step, self.states, pde.grid, pde.symmetries)
        self.out.symmetry = {name: float(values.max()) for name, values in errors.items()}

    def transposed(self, name: str, steps: int = 1) -> bool:
        """Whether there are products with the Jacobian's transpose; else the reason is noted."""
        if not self.system.exact:
            self.out.reasons[name] = "the solver is not differentiated, see solver_products"
        elif not self.system.together(self.states, steps):
            self.out.reasons[name] = "so many time steps of the solver are too much memory"
        else:
            return True
        return False

    def whole(self) -> None:
        s = self.settings
        if self.transposed("singular_value"):
            found = self.each_of(1, partial(leading_singular_value, seed=s.seed, linearise=self.system.linearise))
            self.out.singular_value = found.tolist()

    def growth(self) -> None:
        s, steps = self.settings, self.settings.effort.applications
        if steps == 1 and (one := self.out.singular_value) is not None:
            self.out.growth = [math.log(v) / s.advance if v > 0 else -math.inf for v in one]
        elif self.transposed("growth", steps):
            how = {"seed": s.seed, "linearise": self.system.linearise}
            found = self.each_of(steps, lambda f, u: finite_time_growth(f, u, 1, steps * s.advance, **how))
            self.out.growth = found.tolist()

    def worst(self) -> None:
        effort, steps, seed = self.settings.effort, self.settings.effort.applications, self.settings.seed
        if self.other is None:

            def search(several: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
                found = worst_perturbation(several, states, SIZE, effort.searches, seed)
                figures = torch.stack([found.growth, found.random], 1)
                return torch.cat([figures, found.perturbation.flatten(1)], 1)

            found = self.each_of(steps, search)
            self.out.worst, self.out.random = found[:, 0].tolist(), found[:, 1].tolist()
            self.move = found[:, 2:].view_as(self.states)
            return
        self.out.reasons["random"] = "of the surrogate alone"
        if (move := self.other.move) is None:
            self.out.reasons["worst"] = "no perturbation was found for the surrogate"
        else:
            path = self.at(self.constants)
            change = path(self.states + move, steps)[:, -1] - path(self.states, steps)[:, -1]
            self.out.worst = (norm(change) / norm(move)).tolist()

    def radius(self) -> None:
        out = self.out
        if not self._eigenvalues("radius"):
            out.reasons["non_normality"] = out.reasons["radius"]
            return
        path = self.at(self.constants[:1])
        step = partial(_last, path, 1)
        out.radius = spectral_radius(step, self.states[:1], self.system.linearise, self.settings.seed)
        if out.singular_value and out.radius:
            out.non_normality = out.singular_value[0] / out.radius
        else:
            out.reasons["non_normality"] = "the singular value is not known, or the spectral radius is zero"

    def powers(self) -> None:
        if self._eigenvalues("powers") and self.transposed("powers"):
            step = partial(_last, self.at(self.constants[:1]), 1)
            how: dict[str, Any] = {"seed": self.settings.seed, "linearise": self.system.linearise}
            self.out.powers = norms_of_powers(step, self.states[:1], POWERS, **how)[0].tolist()

    def _eigenvalues(self, name: str) -> bool:
        if not self.settings.effort.eigenvalues:
            self.out.reasons[name] = "not part of a quick measurement"
        return self.settings.effort.eigenvalues


def _last(path: Path, steps: int, states: Tensor) -> Tensor:
    """The state so many steps on."""
    return path(states, steps)[:, -1]


FIGURES: dict[str, tuple[Callable[[_Probe], None], Callable[[_Settings], float]]] = {
    "low_singular_value": (_Probe.low, lambda s: 2.5 * len(s.basis)),
    "gain": (_Probe.gains, lambda s: 2.5 * sum(draws_of(s.pde.grid, s.shells, s.effort.draws))),
    "singular_value": (_Probe.whole, lambda s: 60),
    "symmetry": (_Probe.symmetry, lambda s: 2 * len(moves_of(s.pde.grid, s.pde.symmetries))),
    "noise": (_Probe.noise, lambda s: 2 * s.effort.noises * len(LEVELS)),
    "worst": (_Probe.worst, lambda s: 3 * s.effort.applications * s.effort.searches),
    "growth": (_Probe.growth, lambda s: 60 * s.effort.applications if s.effort.applications > 1 else 0),
    "radius": (_Probe.radius, lambda s: 200 / s.effort.own if s.effort.eigenvalues else 0),
    "powers": (_Probe.powers, lambda s: 60 * sum(POWERS) / s.effort.own if s.effort.eigenvalues else 0),
}
"""What is measured, what tells most first, of all maps and states before the next; with about how many steps from each
state it takes."""


def _kept(pde: PDE, solver: dict[str, float]) -> list[str]:
    """Moves under which the equation stays as it is, given how far its solver is from commuting with each."""
    moves = moves_of(pde.grid, pde.symmetries)
    whole = {move.direction: solver.get(move.name, math.inf) for move in moves if " 0.5 " not in move.name}
    return [move.name for move in moves if move.direction is None or whole[move.direction] <= INVARIANT]


def _numbers(value: Any) -> list[float]:
    """All numbers in lists and dicts, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, int | float) else []


def _plain(value: Any) -> Any:
    """The same without numbers that are not finite, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""Rollouts beyond what was trained: how long a surrogate of an evolution equation is right, and how it fails.

A surrogate is given the first frame (or as many as its history has) of test trajectories and fed its own output for ten
times as many steps as the training trajectories have. Beside the truth, as far as that goes, are measured step by step

    error           ||e|| / ||u||                      and of the initial state kept, and of the training frames' mean
    correlation     centred, over space; lost when below 0.8
    quantities      energy, enstrophy, ...: those the equation names
    balance         what three consecutive frames leave over in the equation, beside what true ones do; no truth needed
    spectra         of truth and rollout at a few times

A trajectory that leaves ten times the bounds of the training data, whose highest third of wavenumbers holds a hundred
times the energy it should and a thousandth of all there is, that has less than a tenth of the true energy, or that
freezes while the truth moves (changes by less than a hundredth of what that does), has ended: it is counted at that
time, and is neither averaged away nor rolled on. Where errors grow exponentially their rate is compared with the
solver's own, perturbed at the start by a field with the spectrum of the surrogate's first error: what is above that
rate is the surrogate's doing, what is not is the equation's.

Past the time to which anything can be predicted only statistics mean something: the mean spectrum, the distribution of
values and mean quantities of the second half of the reference.

Everything is taken frame by frame, so memory does not depend on the number of steps.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from opkit import metrics
from opkit.errors import ConfigError
from opkit.evaluation.jacobian import random_phases_of
from opkit.fields import first_index
from opkit.generate import ensure
from opkit.grid import Grid, Method
from opkit.metrics import LEAVES, Bounds, Events, Growth
from opkit.pdes import PDE, Evolution
from opkit.progress import progress
from opkit.settings import Data, Evaluation
from opkit.stepping import time_step
from opkit.store import Dataset
from opkit.surrogate import Surrogate

AHEAD = 10
"""Rollouts are this many times as long as the training trajectories."""
FAR = 10.0
"""Times the training data's own largest norm and value that count as out of bounds."""
BLOCKED, VISIBLE = 100.0, 1e-3
"""Times the energy the truth has in the highest third of wavenumbers, and share of its whole energy, above both of
which what a rollout has there counts as out of bounds: a smooth flow has next to nothing there, any surrogate more."""
WINDOW_BYTES = 2**27
"""Bytes of true frames held at a time."""
POINTS_PER_CALL = 2**18
"""Grid points the surrogate is given at a time."""
SHOWN_FRAMES, SHOWN_SAMPLES = 40, 2
"""Frames and trajectories kept to look at."""
GROWTH_SAMPLES = 8
"""Trajectories whose errors' growth is fitted, and the solver run on again, perturbed."""
BALANCED = 8
"""Trajectories put into the equation."""
BINS = 200
"""Of the histogram of values."""

COLLAPSED = 0.1
"""Share of the true energy below which a rollout has lost its own."""

STILL = 0.01
"""Of the truth's change in a step: a rollout that changes less has frozen, as one does that nears a fixed point of the
surrogate, where it gets without end ever closer."""

REASONS = (*LEAVES, "fine scales piling up", "energy lost")
FROZEN = REASONS.index("frozen") + 1


@dataclass
class Climate:
    """Statistics of the second half of the reference, of the truth and of the rollout.

    Args:
        first: Step they begin at.
        spectrum: Mean energy per shell by model, `(s,)`.
        histogram: Share of values per bin by model, `(b,)`.
        edges: Of the bins, `(b + 1,)`.
        series: Each quantity, averaged over the trajectories that last, at every step, by model and name, `(t,)`.
    """

    first: int
    spectrum: dict[str, Tensor]
    histogram: dict[str, Tensor]
    edges: Tensor
    series: dict[str, dict[str, np.ndarray]]


@dataclass
class Balance:
    """What is left over of the equation (`opkit.pdes.Evolution.balance`) at every step but the last, of the first few
    trajectories; infinite once one has ended.

    Args:
        residual: H^-1 norm of the residual, by model (truth, surrogate), `(m, t - 1)`.
        rate: H^-1 norm of the truth's time derivative, `(m, t - 1)`.
        budget: Energy gained for no reason over energy dissipated, by model, `(m, t - 1)`.
    """

    residual: dict[str, Tensor]
    rate: Tensor
    budget: dict[str, Tensor]


@dataclass
class Rollout:
    """What was measured; `n` trajectories, `t` steps with a truth, `s` steps in all.

    Args:
        resolution: Of the training grid.
        dt: Time between frames.
        trained: Steps of a training trajectory.
        key: Of the reference data.
        times: Of frames 1 .. t, `(t,)`.
        errors: Relative L2 error by model, `(n, t)`; infinite once a trajectory has ended.
        correlations: By model, `(n, t)`; minus infinity once it has ended, NaN where the truth is constant.
        vrmse: Of the surrogate's frames, `(n, t)`.
        mean_squares: <e^2> of the surrogate, `(n, t)`.
        size: Root mean square of the first frame, `(n,)`.
        variance: Mean over time of <(u - climate)^2>, `(n,)`.
        quantities: By name and model (truth, surrogate), `(n, t)`; NaN once it has ended.
        ended: Step at which each trajectory ended, `(n,)`; s + 1 where it did not.
        reasons: Code of why, into `REASONS`, plus one; 0 where it did not.
        steps: s.
        spectra: Mean energy per shell at `instants`, by model, `(len(instants), shells)`.
        instants: Steps of `spectra`.
        climate: Statistics of the second half; none where the reference is shorter than twice the training.
        growth: Of the surrogate's error and of the perturbed solver's, one of each per trajectory tried; the solver's
            is None where it was not run.
        powers: Exponents of the growth of the surrogate's error, likewise.
        balance: None where the equation has none or the reference fewer than two steps.
        falling: Quantities that can only fall.
        shown: Frames of a few trajectories by model, `(samples, frames, *x)`, the first channel.
        shown_steps: Steps of these.
        shown_samples: Their indices.
    """

    resolution: int
    dt: float
    trained: int
    key: str
    times: Tensor
    errors: dict[str, Tensor]
    correlations: dict[str, Tensor]
    vrmse: Tensor
    mean_squares: Tensor
    size: Tensor
    variance: Tensor
    quantities: dict[str, dict[str, Tensor]]
    ended: Tensor
    reasons: Tensor
    steps: int
    spectra: dict[str, Tensor]
    instants: list[int]
    climate: Climate | None
    growth: list[tuple[Growth, Growth | None]] = field(default_factory=list)
    powers: list[Growth] = field(default_factory=list)
    balance: Balance | None = None
    falling: tuple[str, ...] = ()
    shown: dict[str, Tensor] = field(default_factory=dict)
    shown_steps: list[int] = field(default_factory=list)
    shown_samples: list[int] = field(default_factory=list)

    @property
    def diverged(self) -> Events:
        """When trajectories end, over all steps."""
        happened = self.reasons > 0
        return Events(self.dt * torch.where(happened, self.ended, self.steps).double(), happened)

    def correlated(self, model: str = "surrogate", threshold: float = metrics.CORRELATED) -> Events:
        """When the correlation with the truth is lost."""
        return metrics.correlation_time(self.correlations[model], self.times, threshold)

    @property
    def valid(self) -> Events:
        """When the error passes 0.4 standard deviations of the flow."""
        return metrics.valid_time(self.mean_squares, self.variance, self.times)


def lengths(pde: PDE, evaluation: Evaluation, history: int) -> tuple[int, int, int]:
    """(steps of a training trajectory, steps with a truth, steps in all)."""
    assert pde.times is not None
    trained = len(pde.times) - history
    long = AHEAD * trained
    reference = evaluation.horizon or (trained if evaluation.suite == "quick" else long)
    if evaluation.steps is not None and evaluation.steps < reference:
        raise ConfigError(
            f"evaluation.steps={evaluation.steps} are fewer than the {reference} steps that have a truth. Raise them, "
            f"or give evaluation.horizon, at most {evaluation.steps}, too."
        )
    return trained, reference, max(reference, evaluation.steps or long)


def reference_problem(pde: PDE, steps: int, history: int) -> PDE:
    """The problem whose trajectories have `steps` frames after those given."""
    assert isinstance(pde, Evolution) and pde.times is not None
    frames = steps + history
    if frames <= len(pde.times):
        return pde  # whose data have these frames first
    dt = time_step(pde.times)
    assert dt is not None
    times = tuple(float(t) for t in np.arange(frames) * dt)
    return dataclasses.replace(pde, times=times)  # type: ignore[type-var]


def measure_rollout(
    surrogate: Surrogate,
    pde: PDE,
    data: Data,
    evaluation: Evaluation,
    climate: Tensor,
    bounds: Bounds,
    workers: int | None = None,
    least: float = 0.0,
) -> Rollout:
    """Roll a surrogate out and measure it; makes the trajectories it lacks.

    Args:
        surrogate: The surrogate.
        pde: The problem it was trained on, an evolution equation.
        data: Seed, and size of the test set.
        evaluation: How far, and how many trajectories.
        climate: Mean state of the training data, `(c, *x)`.
        bounds: What the training data stay within.
        workers: Processes for trajectories still to be made.
        least: Root mean square of a true frame below which it has no relative error.

    Raises:
        ConfigError: The reference is shorter than one step.
    """
    history = surrogate.stepping.history
    trained, reference, steps = lengths(pde, evaluation, history)
    if reference < 1:
        raise ConfigError(f"evaluation.horizon must be at least 1 step, got {reference}.")
    problem = reference_problem(pde, reference, history)
    n = min(evaluation.rollouts, data.test)
    stored = ensure(problem, "test", n, data.seed, workers)
    with progress("roll out", steps, "steps") as advance:
        out = _Recorder(pde, n, reference, trained, history, climate, bounds, stored.key, least)
        for truth in _frames(stored, n):
            if not out.ready:
                out.give(truth)
                continue
            out.compare(truth, surrogate)
            advance(1)
            if out.step == reference:
                break
        while out.step < steps and out.alive.any():
            out.go_on(surrogate)
            advance(1)
        advance(steps - out.step)
    rollout = out.result(steps)
    compare = evaluation.suite != "quick" and reference >= 2 * trained
    _fit_growth(rollout, pde, history, out.first_error, data.seed, compare)
    return rollout


def _frames(stored: Dataset, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(frame `(n, c, *x)`, parameters drawn per sample `(n, k)`), one after the other, in windows of bounded size."""
    frame = 4 * n * stored.pde.grid.weights.numel() * len(stored.pde.outputs)
    for frames, constants in stored.windows(n, max(1, WINDOW_BYTES // frame)):
        for i in range(frames.shape[1]):
            yield frames[:, i], constants


def failing(
    state: Tensor, before: Tensor, truth: Tensor, true_before: Tensor, grid: Grid, bounds: Bounds
) -> tuple[Tensor, dict[str, Tensor]]:
    """Why each state beside a true one counts as the end of its trajectory, and the energy of both by wave.

    Args:
        state: A frame, `(n, c, *x)`.
        before: The one before it.
        truth: Its true frame, float64.
        true_before: The one before that, float64.
        grid: Of all of them.
        bounds: Of the training data.

    Returns:
        `(n,)` codes, into `REASONS`, plus one, 0 where it does not; and of truth and surrogate the `mode_energy`, flat.
    """
    finite = torch.nan_to_num(state.double(), posinf=0, neginf=0)
    energy = {name: metrics.mode_energy(v, grid).flatten(1) for name, v in (("truth", truth), ("surrogate", finite))}
    k = metrics.wave_numbers(grid)
    highest = torch.sqrt((k**2).sum(0)).flatten() > 2 / 3 * float(k.max())
    high = {name: e[:, highest].sum(1) for name, e in energy.items()}
    floor = VISIBLE / BLOCKED * energy["truth"].sum(1)
    change = {
        "truth": (truth - true_before).flatten(1).norm(dim=1),
        "own": (finite - before.double()).flatten(1).norm(dim=1),
    }
    moving = change["truth"] > bounds.still * truth.flatten(1).norm(dim=1)
    code = metrics.leaving(state, before, bounds)
    code = torch.where((code == 0) & (change["own"] < STILL * change["truth"]), FROZEN, code)
    code = torch.where((code == FROZEN) & ~moving, 0, code)
    lost = energy["surrogate"].sum(1) < COLLAPSED * energy["truth"].sum(1)
    code = torch.where((code == 0) & lost, REASONS.index("energy lost") + 1, code)
    blocked = high["surrogate"] > BLOCKED * torch.maximum(high["truth"], floor)
    return torch.where((code == 0) & blocked, REASONS.index("fine scales piling up") + 1, code), energy


def first_failure(states: Tensor, truth: Tensor, start: Tensor, times: Tensor, grid: Grid, bounds: Bounds) -> Events:
    """When each trajectory ends, see `failing`.

    Args:
        states: Frames after the start, `(n, t, c, *x)`.
        truth: Likewise.
        start: Frame both start from, `(n, c, *x)`.
        times: Of the frames, `(t,)`.
        grid: Of the frames.
        bounds: Of the training data.
    """
    codes, before, true_before = [], start, start.double()
    for state, true in zip(states.unbind(1), truth.double().unbind(1), strict=True):
        codes.append(failing(state, before, true, true_before, grid, bounds)[0])
        before, true_before = state, true
    ends = torch.stack(codes, 1) > 0
    happened = ends.any(1)
    return Events(torch.where(happened, times[ends.int().argmax(1)], times[-1]), happened)


class _Recorder:
    """The state of a rollout of n trajectories, and all that was measured of it so far."""

    def __init__(
        self, pde: PDE, n: int, reference: int, trained: int, history: int, climate: Tensor, bounds: Bounds, key: str,
        least: float,
    ):  # fmt: skip
        self.pde, self.n, self.reference, self.trained, self.history = pde, n, reference, trained, history
        self.climate, self.bounds, self.key, self.least = climate.double(), bounds, key, least
        self.given: list[Tensor] = []
        self.step = 0
        self.alive = torch.ones(n, dtype=torch.bool)
        self.ended = torch.zeros(n, dtype=torch.int64)
        self.reasons = torch.zeros(n, dtype=torch.int64)
        models = ("surrogate", "persistence", "climate")
        self.errors = {name: torch.full((n, reference), torch.inf, dtype=torch.float64) for name in models}
        self.correlations = {
            name: torch.full((n, reference), -torch.inf, dtype=torch.float64) for name in ("surrogate", "persistence")
        }
        self.vrmse = torch.full((n, reference), torch.inf, dtype=torch.float64)
        self.mean_squares = torch.full((n, reference), torch.inf, dtype=torch.float64)
        self.variance = torch.zeros(n, dtype=torch.float64)
        self.quantities: dict[str, dict[str, Tensor]] = {}
        self.instants = sorted({1, min(trained, reference), min(3 * trained, reference), reference})
        self.spectra: dict[str, list[Tensor]] = {"truth": [], "surrogate": []}
        self.shown_steps = sorted({round(s) for s in np.linspace(1, reference, min(reference, SHOWN_FRAMES))})
        self.shown: dict[str, list[Tensor]] = {"truth": [], "surrogate": []}
        self.settled = reference // 2 if reference >= 2 * trained else reference
        self.sums: dict[str, Tensor] = {}
        self.frames = 0
        edge = max(bounds.peak / FAR, 1e-300) * 1.5
        self.edges = torch.linspace(-edge, edge, BINS + 1, dtype=torch.float64)
        self.counts = {name: torch.zeros(BINS, dtype=torch.float64) for name in ("truth", "surrogate")}
        self.queue: list[Tensor] = []
        self.window: dict[str, list[Tensor]] = {"truth": [], "surrogate": []}
        self.unbalanced: dict[str, list[tuple[Tensor, Tensor]]] = {"truth": [], "surrogate": []}
        self.rates: list[Tensor] = []

    @property
    def ready(self) -> bool:
        return len(self.given) == self.history

    def give(self, frame: tuple[Tensor, Tensor]) -> None:
        """One more of the frames a surrogate starts from."""
        states, constants = frame
        self.given.append(states)
        if self.ready:
            self.initial = states
            self.before = states.clone()
            self.true_before = states.double()
            fields = [c.view(-1, *(1 for _ in states.shape[2:])) for c in constants.unbind(1)]
            channels = [f[:, None].expand(-1, 1, *states.shape[2:]) for f in fields]
            self.inputs = torch.cat([*self.given, *channels], 1)
            self.states = self.history * states.shape[1]
            for frames in self.window.values():
                frames.append(states[:BALANCED].double())

    def _next(self, surrogate: Surrogate) -> Tensor:
        """The surrogate's next frame; that of an ended trajectory is the last it had."""
        self.step += 1
        if not self.alive.any():
            return self.before
        if not self.queue:
            rows = self.alive.nonzero()[:, 0]
            size = max(1, POINTS_PER_CALL // self.pde.grid.weights.numel())
            outputs = torch.cat([surrogate(self.inputs[part]) for part in rows.split(size)])
            channels = self.before.shape[1]
            self.queue = []
            for part in outputs.split(channels, 1):
                full = self.before.clone() if not self.queue else self.queue[-1].clone()
                full[rows] = part.to(full.dtype)
                self.queue.append(full)
            states = torch.cat([self.inputs[:, : self.states], *self.queue], 1)[:, -self.states :]
            self.inputs = torch.cat([states, self.inputs[:, self.states :]], 1)
        return self.queue.pop(0)

    def _end(self, code: Tensor) -> None:
        """Note which trajectories end with this step, and why."""
        ends = self.alive & (code > 0)
        self.ended[ends], self.reasons[ends] = self.step, code[ends]
        self.alive &= ~ends

    def compare(self, frame: tuple[Tensor, Tensor], surrogate: Surrogate) -> None:
        """One step beside the truth."""
        truth, grid, i = frame[0].double(), self.pde.grid, self.step
        state = self._next(surrogate)
        code, energy = failing(state, self.before, truth, self.true_before, grid, self.bounds)
        self._end(code)
        alive = self.alive
        candidates = {"surrogate": state, "persistence": self.initial, "climate": self.climate.expand_as(truth)}
        if i == 0:
            self.first_error = state.double() - truth
        for name, values in candidates.items():
            error = metrics.rel_l2(values.to(truth), truth, grid, self.least)
            self.errors[name][:, i] = torch.where(alive, error, torch.inf) if name == "surrogate" else error
        for name, curve in self.correlations.items():
            found = metrics.correlation(candidates[name][:, None], truth[:, None], grid)[:, 0]
            curve[:, i] = torch.where(alive, found, -torch.inf) if name == "surrogate" else found
        square = metrics.space_mean((state.double() - truth).square(), grid).sum(1)
        self.vrmse[:, i] = torch.where(alive, metrics.vrmse(state, truth.to(state), grid), torch.inf)
        self.mean_squares[:, i] = torch.where(alive, square, torch.inf)
        self.variance += metrics.space_mean((truth - self.climate).square(), grid).sum(1) / self.reference
        for model, values in (("truth", truth), ("surrogate", state.double())):
            for name, value in self.pde.quantities(values).items():
                curves = self.quantities.setdefault(
                    name, {m: torch.full((self.n, self.reference + 1), torch.nan).double() for m in self.counts}
                )
                if i == 0:
                    curves[model][:, 0] = self.pde.quantities(self.initial.double())[name]
                curves[model][:, i + 1] = torch.where(alive, value, torch.nan) if model == "surrogate" else value
        self._balance(truth, state.double())
        self._keep(truth, state, energy)
        self.before, self.true_before = state, truth

    def _balance(self, truth: Tensor, state: Tensor) -> None:
        """What the last three frames of each leave over of the equation."""
        dt, few = time_step(self.pde.times), slice(BALANCED)
        assert isinstance(self.pde, Evolution) and dt is not None
        constants = self.inputs[few, self.states :].double()
        for (name, frames), new in zip(self.window.items(), (truth, state), strict=True):
            frames[:] = [*frames[-2:], new[few]]
            if len(frames) < 3:
                continue
            before, now, after = frames
            found = self.pde.balance(before, torch.cat([now, constants], 1), after, dt)
            if found is None:
                return
            size = metrics.hminus1_norm(found[0], self.pde.grid)
            if name == "truth":
                self.rates.append(metrics.hminus1_norm((after - before) / (2 * dt), self.pde.grid))
            kept = self.alive[few] if name == "surrogate" else torch.ones(len(size), dtype=torch.bool)
            size, budget = (torch.where(kept, v, torch.inf) for v in (size, found[1]))
            self.unbalanced[name].append((size, budget))

    def _keep(self, truth: Tensor, state: Tensor, energy: dict[str, Tensor]) -> None:
        """Spectra, statistics and pictures of this step."""
        values = {"truth": truth, "surrogate": state.double()}
        rows = {"truth": torch.ones_like(self.alive), "surrogate": self.alive}
        if self.step in self.instants:
            for name, all_of_it in energy.items():
                shells = metrics.shell_spectrum(all_of_it[rows[name]], self.pde.grid)
                self.spectra[name].append(shells.mean(0) if len(shells) else torch.full(shells.shape[1:], torch.nan))
        if self.step > self.settled:
            self.frames += int(self.alive.sum())
            for name, all_of_it in energy.items():  # of the same trajectories
                shells = metrics.shell_spectrum(all_of_it[self.alive], self.pde.grid).sum(0)
                self.sums[name] = self.sums.get(name, torch.zeros_like(shells)) + shells
                inside = values[name][self.alive].clamp(self.edges[0], self.edges[-1])
                self.counts[name] += torch.histogram(inside, self.edges)[0]
        if self.step in self.shown_steps:
            for name, frames in values.items():
                self.shown[name].append(frames[:, 0].float())

    def go_on(self, surrogate: Surrogate) -> None:
        """One step beyond the truth."""
        state = self._next(surrogate)
        code = metrics.leaving(state, self.before, self.bounds)
        self._end(torch.where(code == FROZEN, 0, code))  # without a truth nobody knows whether it should move
        self.before = state

    def result(self, steps: int) -> Rollout:
        dt = time_step(self.pde.times)
        assert dt is not None
        climate = None
        if self.settled < self.reference and self.alive.any():
            climate = Climate(
                self.settled + 1,
                {name: sums / self.frames for name, sums in self.sums.items()},
                {name: c / c.sum() for name, c in self.counts.items()},
                self.edges,
                {
                    model: {
                        name: np.nanmean(curves[model][self.alive, self.settled + 1 :].numpy(), axis=0)
                        for name, curves in self.quantities.items()
                    }
                    for model in self.counts
                },
            )
        lost = self.correlations["surrogate"].clamp(min=-1.0).nanmean(1)
        order = torch.argsort(lost, descending=True).tolist()
        chosen = list(dict.fromkeys([order[len(order) // 2], order[-1]]))[:SHOWN_SAMPLES]
        return Rollout(
            resolution=self.pde.resolution,
            dt=dt,
            trained=self.trained,
            key=self.key,
            times=dt * torch.arange(1, self.reference + 1, dtype=torch.float64),
            errors=self.errors,
            correlations=self.correlations,
            vrmse=self.vrmse,
            mean_squares=self.mean_squares,
            size=metrics.space_mean(self.initial.double().square(), self.pde.grid).sum(1).sqrt(),
            variance=self.variance,
            quantities=self.quantities,
            ended=torch.where(self.reasons > 0, self.ended, steps + 1),
            reasons=self.reasons,
            steps=steps,
            spectra={name: torch.stack(rows) for name, rows in self.spectra.items()},
            instants=self.instants,
            climate=climate,
            shown={name: torch.stack(frames, 1)[chosen] for name, frames in self.shown.items()},
            shown_steps=self.shown_steps,
            shown_samples=chosen,
            balance=self._balanced(),
            falling=self.pde.falling,
        )

    def _balanced(self) -> Balance | None:
        if not self.rates:
            return None
        residual, budget = (
            {name: torch.stack([found[i] for found in of_it], 1) for name, of_it in self.unbalanced.items()}
            for i in (0, 1)
        )
        return Balance(residual, torch.stack(self.rates, 1), budget)


def _fit_growth(rollout: Rollout, pde: PDE, history: int, first_error: Tensor, seed: int, compare: bool) -> None:
    """Growth of the surrogate's errors as an exponential and as a power; and, to compare, of the solver's own from a
    start that is off by as much.

    The solver's trajectories are held in memory whole, and no longer than `AHEAD` times the training's however far the
    reference goes: errors that grow exponentially have long saturated.
    """
    times, spread = rollout.times.numpy(), rollout.variance.sqrt()
    tried = [i for i in range(len(spread)) if torch.isfinite(first_error[i]).all()][:GROWTH_SAMPLES]
    norms = rollout.mean_squares.sqrt().numpy()
    own = [metrics.growth_rate(norms[i], times, float(spread[i])) for i in tried]
    rollout.powers = [metrics.power_law(norms[i], times, float(spread[i])) for i in tried]
    if not compare or all(g.rate is None for g in own):
        rollout.growth = [(g, None) for g in own]  # where nothing grows exponentially there is no rate to compare
        return
    times = times[: AHEAD * rollout.trained]
    problem, grid = reference_problem(pde, len(times), history), pde.grid
    fine = problem.on(problem.label_grid.shape[0])
    start = fine.sample(max(tried) + 1, seed, first_index("test"))[tried]
    method: Method = "spectral" if grid.location == "periodic" else "cubic"
    shift = grid.resample(random_phases_of(first_error[tried], grid, seed), fine.grid, method)
    moved = start.clone()
    moved[:, : shift.shape[1]] += shift
    one, two = fine.solve(torch.cat([start, moved])).chunk(2)
    apart = fine.grid.resample(two - one, grid, fine.restriction)[:, -len(times) :].flatten(0, 1)
    sizes = metrics.space_mean(apart.square(), grid).sum(1).sqrt().view(len(tried), -1).numpy()
    rollout.growth = [
        (own[row], metrics.growth_rate(sizes[row], times, float(spread[i]))) for row, i in enumerate(tried)
    ]

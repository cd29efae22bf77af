"""What is measured: errors on the training grid, zero-shot super-resolution on finer ones, always beside baselines.

On every grid the surrogate is compared with

    interpolation    its own prediction on the training grid, interpolated to the finer grid: what a user gets for free
    oracle           the true solution on the training grid, interpolated: a perfect model plus interpolation
    solver           the equation's own solver on the training grid, interpolated
    mean             the mean of the training targets

    persistence      the last state given, at all later times (evolution equations)
    climate          the mean of all training frames, at all times (likewise, frame by frame)

and its error e is split into scales that the training grid resolves and scales it does not (sine or Fourier modes below
or above its Nyquist wavenumber), plus the error on the walls. With B the interpolation,

    gain              1 - (||e|| / ||B - u||)^2              above 0: better than interpolating
    unresolved gain   1 - (||P_un e|| / ||P_un u||)^2        above 0: knows something of the unresolved scales

with norms relative to ||u|| and averaged over samples before the ratio is taken. Norms are L2 with trapezoid weights.
Data reach a coarser grid as values at its points, which is how training data are made; on a few samples the error is
also taken with data cut to what the grid holds (`PDE.filtered`). How accurate the data are, and whether the surrogate
is one function on all grids, is `opkit.evaluation.resolution`'s. The protocol follows the criticism of zero-shot
super-resolution in arXiv 2510.06646: without these baselines, interpolation passes for learning.

An evolution equation is rolled out: the surrogate is given the first frame alone, or as many as its history has, and
fed its own output, for as many steps as the data have. Its frames then count as channels of one field, so that an error
is one ratio per trajectory. How it fares beyond that is `opkit.evaluation.rollout`'s.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from opkit import metrics
from opkit.errors import ConfigError, SolverError
from opkit.evaluation.resolution import PROBED, SOLVED, changes, data_accuracy, representation_errors, restricted
from opkit.evaluation.rollout import FAR, POINTS_PER_CALL, Rollout, first_failure, measure_rollout
from opkit.evaluation.solving import on_own_grid, posed, solve_for, start_of
from opkit.generate import ensure
from opkit.grid import Grid, Method
from opkit.metrics import Bounds, Events
from opkit.pdes import PDE
from opkit.progress import progress
from opkit.settings import Data, Evaluation, Stepping
from opkit.store import Dataset, pair
from opkit.surrogate import Surrogate

QUICK_FINE = 50
"""Samples on finer grids at most, in a quick evaluation: on them a network takes its time."""
MOST_POINTS = 2**28
"""Numbers in a sample on the finest grid: two gigabytes in double precision, and a solver holds several of them."""

LEAST = 1e-12
"""Of the training data's root mean square: round-off. What is smaller has no relative error."""

FEW = 8
"""Samples for what is not averaged over the whole test set."""
ERRORS = (
    "rel_l2", "rel_h1", "rel_hminus1", "nrmse", "vrmse", "rel_linf", "max_error", "rmse_low", "rmse_mid", "rmse_high",
)  # fmt: skip
"""Metrics of a field that are reported, see `opkit.metrics`; beside them `srmse` of evolution equations, and
`rel_energy` of those that have an energy norm."""


@dataclass
class Band:
    """The surrogate within a band of wavenumbers, on the training grid; of a trajectory, its last frame.

    Args:
        kind: "shells" are the limits all reports share, "nyquist" fractions of the training grid's Nyquist wavenumber,
            "model" the waves a model's spectral layers act on and those above.
        name: Within its kind.
        waves: Which it holds, in words.
        figures: `(n,)` each: `share` of the truth's squared norm, `band_error` over the whole truth, `band_rel` over
            the truth within the band, `band_amplitude`, `phase_error`; see `opkit.metrics`.
    """

    kind: str
    name: str
    waves: str
    figures: dict[str, Tensor]


@dataclass
class Grids:
    """Per-sample figures on one grid: `errors[model][metric]` and `scales[name]`, each `(n,)`."""

    resolution: int
    errors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    scales: dict[str, Tensor] = field(default_factory=dict)
    steps: dict[str, Tensor] = field(default_factory=dict)
    """Relative L2 error frame by frame, `(n, t)`, by model; empty where the equation is steady."""
    correlations: dict[str, Tensor] = field(default_factory=dict)
    """Correlation with the truth frame by frame, `(n, t)`, by model; likewise."""
    spectra: dict[str, Tensor] = field(default_factory=dict)
    """Mean energy per wavenumber shell of the truth and of each error."""
    last: dict[str, Tensor] = field(default_factory=dict)
    """As `spectra`, of the last frame of truth and surrogate; empty where the equation is steady."""
    failures: Events | None = None
    """When rollouts end, see `opkit.evaluation.rollout`; likewise."""
    bands: list[Band] = field(default_factory=list)
    """Of the training grid."""
    filtered: Tensor | None = None
    """Relative L2 error of the surrogate on the first samples where the finest data are cut to what this grid holds,
    `(m,)`; None on the finest grid."""
    representation: Tensor | None = None
    """Of the first samples, `(m,)`, see `opkit.evaluation.resolution`; None on the training grid."""
    accuracy: Tensor | str | None = None
    """Relative L2 error of some of this grid's data, `(k,)` or frame by frame `(k, t)`, or why it is unknown; None on
    the training grid."""


@dataclass
class Sample:
    """One test sample to look at."""

    role: str
    index: int
    error: float
    input: Tensor
    truth: Tensor
    prediction: Tensor


@dataclass
class Measured:
    """All that the report is made of."""

    coarse: Grids
    fine: list[Grids]
    samples: list[Sample]
    keys: dict[str, str]
    label_error: Tensor
    """Estimated relative L2 error of some test labels, as `Dataset.label_error` returns it."""
    inputs: Tensor
    """Of the test samples on the training grid, as the surrogate takes them."""
    truth: Tensor
    """Their targets, frames laid out as channels."""
    prediction: Tensor
    """The surrogate's, likewise."""
    checks: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """What is known of every solution: by model, surrogate and truth, and by name, `(n,)`; of a steady equation."""
    changes: Tensor | None = None
    """Of the surrogate's output as the training grid is refined, `(m, k)`, see `opkit.evaluation.resolution`."""
    rollout: Rollout | None = None
    """Far beyond the training trajectories; None where the equation is steady."""


@dataclass
class Training:
    """What the evaluator needs to know of the training data.

    Args:
        mean: Mean target, `(t * c, *x)` or `(c, *x)`.
        bounds: What no sane prediction leaves.
        climate: Mean state over all frames, `(c, *x)`.
        deviation: Standard deviation of each channel over samples, frames and points, `(c,)`.
        least: Root mean square below which a field has no size that errors could be compared with.
    """

    mean: Tensor
    bounds: Bounds
    climate: Tensor
    deviation: Tensor
    least: float


def horizon(pde: PDE, stepping: Stepping) -> int | None:
    """Steps a rollout is measured over; None where the equation is steady."""
    return None if pde.times is None else len(pde.times) - stepping.history


def fine_resolutions(pde: PDE, evaluation: Evaluation) -> tuple[int, ...]:
    """Finer grids to test on: those asked for, else up to three that share the labels' grid, else 2 and 4 times finer.

    Raises:
        ConfigError: A grid asked for is not finer than the training grid, or far too fine.
    """
    if evaluation.resolutions:
        frames = 1 if pde.times is None else len(pde.times)
        if (points := frames * max(evaluation.resolutions) ** pde.grid.ndim) > MOST_POINTS:
            raise ConfigError(
                f"evaluation.resolutions={list(evaluation.resolutions)}: a sample on the finest has {points:.3g} "
                f"numbers; at most {MOST_POINTS:.3g} are measured."
            )
        wrong = [r for r in evaluation.resolutions if r <= pde.resolution]
        if wrong:
            raise ConfigError(
                f"evaluation.resolutions={list(evaluation.resolutions)}: {wrong[0]} is not finer than the training "
                f"grid (pde.resolution={pde.resolution})."
            )
        return tuple(sorted(set(evaluation.resolutions)))
    gap = 1 if pde.grid.location == "node" else 0
    intervals = pde.label_grid.shape[0] - gap
    nested = [intervals // s + gap for s in range(1, intervals + 1) if intervals % s == 0]
    finer = sorted(r for r in nested if r > pde.resolution)[-3:]
    return tuple(finer) if len(finer) >= 2 else tuple(pde.grid.refine(f).shape[0] for f in (2, 4))


def fine_problems(pde: PDE, evaluation: Evaluation) -> list[PDE]:
    """The problems whose data hold the finer grids: the finest, and those whose points are not among its own."""
    resolutions = fine_resolutions(pde, evaluation)
    finest = pde.on(max(resolutions))
    apart = [pde.on(r) for r in resolutions if not pde.on(r).grid.stride_in(finest.grid)]
    return [finest, *apart]


def measure(
    surrogate: Surrogate,
    pde: PDE,
    data: Data,
    evaluation: Evaluation,
    workers: int | None = None,
    trained: Data | None = None,
) -> Measured:
    """Run the protocol; makes the data it lacks.

    Args:
        surrogate: The surrogate.
        pde: The problem it was trained on.
        data: Sizes and seed of the test set.
        evaluation: What to look at.
        workers: Processes that make data.
        trained: Sizes and seed of the training set; None: as `data`.
    """
    resolutions = fine_resolutions(pde, evaluation)
    test_set = ensure(pde, "test", data.test, data.seed, workers)
    history = 1 if pde.times is None else surrogate.stepping.history
    inputs, truth = as_channels(pde, pair(pde, test_set.load(data.test), history))
    training = training_statistics(pde, trained or data, history, workers)
    mean = training.mean
    keys = {str(pde.resolution): test_set.key}

    n = min(data.test_fine, data.test, QUICK_FINE if evaluation.suite == "quick" else data.test)
    stores = {problem: ensure(problem, "test", n, data.seed, workers) for problem in fine_problems(pde, evaluation)}
    fine_data = {p: as_channels(p, pair(p, stored.load(n), history)) for p, stored in stores.items()}
    finest = pde.on(max(resolutions))

    steps = None if pde.times is None else len(pde.times) - history
    solved = _coarse_solver(pde, inputs[:n], steps, history)
    with progress("evaluate", len(inputs) + n * len(resolutions), "samples") as advance:
        predictions = []
        for rows in _batches(len(inputs), pde.grid, steps):
            predictions.append(_predict(surrogate, inputs[rows], steps, training.bounds))
            advance(len(inputs[rows]))
        prediction = torch.cat(predictions)
        coarse = Grids(pde.resolution)
        candidates = {"surrogate": prediction, "mean": mean.expand_as(truth)}
        if steps is not None:
            last = inputs[:, (history - 1) * len(pde.outputs) : history * len(pde.outputs)]
            candidates["persistence"] = last.repeat(1, steps, *(1 for _ in pde.grid.shape))
            for name in ("surrogate", "persistence"):
                coarse.steps[name] = _step_errors(candidates[name], truth, pde.grid, steps, training.least)
                coarse.correlations[name] = _correlations(candidates[name], truth, pde.grid, steps)
            climate = training.climate.repeat(steps, *(1 for _ in pde.grid.shape)).expand_as(truth)
            coarse.steps["climate"] = _step_errors(climate, truth, pde.grid, steps, training.least)
        known = _Truth(truth, pde.grid, training, steps, pde.energy_coefficient(inputs))
        energies = {}
        for name, values in candidates.items():
            coarse.errors[name], energies[name] = known.errors(values)
        if solved is not None:
            coarse.errors["solver"], _ = known.first(n).errors(solved)
        last_frame = slice(-len(pde.outputs), None)
        waves = surrogate.model.operator.highest_waves if isinstance(surrogate, Surrogate) else None
        coarse.bands = bands_of(prediction[:, last_frame], truth[:, last_frame], pde.grid, waves)
        own = prediction[:n] - truth[:n]
        resolved, _, wall = known.first(n).split(own, energies["surrogate"][:n], pde.grid)
        coarse.scales = {"resolved": resolved, "wall": wall}
        _watch(coarse, pde, prediction[:n], truth[:n], inputs[:n], training.bounds, history)
        coarse.last = {name: energy[0] for name, energy in coarse.last.items()}
        fine = []
        for r in resolutions:
            grid = pde.on(r).grid
            source = finest if grid.stride_in(finest.grid) else pde.on(r)
            keys[str(r)] = stores[source].key
            parts = []
            for rows in _batches(n, grid, steps):
                a, u = (source.grid.resample(v[rows], grid, "strided") for v in fine_data[source])
                given = {"interpolation": prediction[:n][rows], "oracle": truth[:n][rows]}
                if solved is not None:
                    given["solver"] = solved[rows]
                own = _predict(surrogate, a, steps, training.bounds)
                there = _Truth(u, grid, training, steps, pde.energy_coefficient(a))
                parts.append(_fine(own, there, given, mean, pde.grid, steps))
                _watch(parts[-1], pde.on(r), own, u, a, training.bounds, history)
                advance(len(a))
            fine.append(_join(r, parts))
    with progress("probe", 1, "surrogate") as advance:
        found = _probe(surrogate, pde, inputs[:n], [coarse, *fine], stores, fine_data, steps, history, training)
        advance(1)

    errors = coarse.errors["surrogate"]["rel_l2"]
    order = torch.argsort(errors).tolist()  # NaN last
    order = order[: int((~torch.isnan(errors)).sum())] or order
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    shown = slice((history - 1) * len(pde.outputs), None)  # the last frame given, and constant channels
    final = slice(-len(pde.outputs), None)
    samples = [
        Sample(role, i, float(errors[i]), inputs[i][shown], truth[i][final], prediction[i][final])
        for role, i in chosen.items()
    ]
    rollout, checks = None, {}
    if steps is None:
        checks = {name: pde.checks(inputs, values) for name, values in (("surrogate", prediction), ("truth", truth))}
    else:
        rollout = measure_rollout(
            surrogate, pde, data, evaluation, training.climate, training.bounds, workers, training.least
        )
        keys["rollout"] = rollout.key
    labels = test_set.label_error(data.test)
    return Measured(coarse, fine, samples, keys, labels, inputs, truth, prediction, checks, found, rollout)


def as_channels(pde: PDE, fields: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """(inputs, targets) with the frames of trajectories laid out as channels, `(n, t * c, *x)`."""
    inputs, targets = fields
    return inputs, targets if pde.times is None else targets.flatten(1, 2)


def _predict(surrogate: Surrogate, inputs: Tensor, steps: int | None, bounds: Bounds | None = None) -> Tensor:
    """A steady solution; or the frames of a rollout as channels, infinite from the one on that leaves the bounds."""
    if steps is None:
        return surrogate(inputs)
    frames = surrogate.rollout(inputs, steps)
    if bounds is not None:
        flat = frames.double().flatten(2)
        inside = (flat.square().mean(2).sqrt() <= bounds.norm) & (flat.abs().amax(2) <= bounds.peak)
        left = ~inside.long().cummin(1).values.bool()
        frames = frames.masked_fill(left.view(*left.shape, *(1 for _ in frames.shape[2:])), torch.inf)
    return frames.flatten(1, 2)


def _coarse_solver(pde: PDE, inputs: Tensor, steps: int | None, history: int) -> Tensor | None:
    """Solutions of the equation's own solver on the training grid; None where it refuses."""
    problem = posed(on_own_grid(pde), steps, history)
    try:
        with progress("solve", len(inputs), "samples") as advance:
            parts = []
            for rows in _batches(len(inputs), pde.grid, steps):
                parts.append(solve_for(problem, pde, start_of(pde, inputs[rows], history), inputs.device))
                advance(len(parts[-1]))
        return torch.cat(parts)
    except SolverError:
        return None


def _probe(
    surrogate: Surrogate, pde: PDE, inputs: Tensor, all_grids: list[Grids], stores: dict[PDE, Dataset],
    data: dict[PDE, tuple[Tensor, Tensor]], steps: int | None, history: int, training: Training,
) -> Tensor:  # fmt: skip
    """Fill in what `opkit.evaluation.resolution` measures on each grid, the training grid first, and return the changes
    between refinements of that one."""
    fine = all_grids[1:]
    finest = pde.on(fine[-1].resolution)
    few, vanishing = inputs[:FEW], pde.walls == "dirichlet"
    grids = [pde.on(g.resolution).grid for g in fine]
    for figures, values in zip(fine, representation_errors(surrogate, few, pde.grid, grids, vanishing), strict=True):
        figures.representation = values
    for figures in all_grids:
        problem = pde.on(figures.resolution)
        if problem == finest:
            figures.accuracy = stores[finest].label_error(len(inputs))
            continue
        a, u = data[finest]
        a, u = restricted(finest, a[:FEW], u[:FEW], problem.grid)
        prediction = _predict(surrogate, a.to(inputs.dtype), steps)
        figures.filtered = metrics.rel_l2(prediction, u.to(prediction), problem.grid, training.least)
        if problem != pde:
            source = problem if problem in data else finest
            a = source.grid.resample(data[source][0][:SOLVED], problem.grid, "strided")
            u = finest.grid.resample(data[finest][1][:SOLVED].double(), problem.grid)
            figures.accuracy = data_accuracy(problem, a, u, steps, history, inputs.device)
    return changes(surrogate, inputs[:PROBED], pde.grid, vanishing)


def _watch(out: Grids, pde: PDE, states: Tensor, truth: Tensor, inputs: Tensor, bounds: Bounds, history: int) -> None:
    """When rollouts on a grid end, and the spectra of their last frame."""
    if pde.times is None:
        return
    channels = len(pde.outputs)
    start = inputs[:, (history - 1) * channels : history * channels]
    own, true = (v.unflatten(1, (-1, channels)) for v in (states, truth))
    times = pde.times[history:] - pde.times[history - 1]
    out.failures = first_failure(own, true, start, times, pde.grid, bounds)
    for name, frames in (("surrogate", own), ("truth", true)):
        energy = metrics.shell_spectrum(metrics.mode_energy(frames[:, -1], pde.grid), pde.grid)
        out.last[name] = energy.mean(0, keepdim=True).expand(len(truth), -1)


def _step_errors(prediction: Tensor, truth: Tensor, grid: Grid, steps: int, least: float) -> Tensor:
    frames = zip(prediction.chunk(steps, 1), truth.chunk(steps, 1), strict=True)
    return torch.stack([metrics.rel_l2(p, u, grid, least) for p, u in frames], 1)


def _correlations(prediction: Tensor, truth: Tensor, grid: Grid, steps: int) -> Tensor:
    own, true = (v.unflatten(1, (steps, -1)) for v in (prediction, truth))
    return metrics.correlation(own, true, grid)


def training_statistics(pde: PDE, data: Data, history: int, workers: int | None) -> Training:
    """Of the training targets, which are read for it; made anew if they are not there."""
    # Online, training samples were not kept; those to validate have the same law.
    split, count = ("train", data.train) if data.mode == "stored" else ("val", data.val)
    stored = ensure(pde, split, count, data.seed, workers).load(count)
    _, targets = as_channels(pde, pair(pde, stored, history))
    mean = targets.mean(0, dtype=torch.float64).float()
    frames = targets.unflatten(1, (-1, len(pde.outputs)))
    sizes = frames.flatten(2).square().mean(2).sqrt()
    apart = [0, 1, *range(3, frames.ndim)]  # all axes but the channels'
    level = frames.mean(apart, keepdim=True, dtype=torch.float64).to(frames)
    deviation = (frames - level).square().mean(apart, dtype=torch.float64).sqrt()
    bounds = Bounds(FAR * float(sizes.max()), FAR * float(targets.abs().max()))
    climate = mean.unflatten(0, (-1, len(pde.outputs))).mean(0)
    return Training(mean, bounds, climate, deviation, LEAST * float(sizes.double().square().mean().sqrt()))


def _batches(n: int, grid: Grid, steps: int | None) -> Iterator[slice]:
    size = max(1, POINTS_PER_CALL // (grid.weights.numel() * (steps or 1)))
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))


class _Truth:
    """True fields on a grid, and what errors are divided by, worked out once: on fine grids it takes longest.

    Args:
        values: The fields, `(n, c, *x)`.
        grid: Where they are.
        training: What sizes are compared with.
        steps: Frames that stand as channels; None where the equation is steady.
        coefficient: Of the energy norm, `(n, 1, *x)`, where there is one.
    """

    def __init__(self, values: Tensor, grid: Grid, training: Training, steps: int | None, coefficient: Tensor | None):
        self.values, self.grid, self.coefficient = values, grid, coefficient
        self.deviation = None if steps is None else training.deviation.repeat(steps)
        self.energy = metrics.mode_energy(values, grid)
        self.sized = metrics.has_size(values, grid, training.least)

    def first(self, n: int) -> "_Truth":
        few = copy.copy(self)
        few.values, few.energy, few.sized = self.values[:n], self.energy[:n], self.sized[:n]
        few.coefficient = None if self.coefficient is None else self.coefficient[:n]
        return few

    def errors(self, prediction: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Each of the `ERRORS`, with `srmse` or `rel_energy` where they have a meaning, and the error's energy by wave.

        Relative ones are NaN where the truth has no size; all are infinite where the prediction is not finite.
        """
        truth, grid = self.values, self.grid
        finite = torch.isfinite(prediction).flatten(1).all(1)  # what is not has no error in any norm
        inside = torch.where(finite.view(-1, *(1 for _ in prediction.shape[1:])), prediction, 0.0)
        energy = metrics.mode_energy(inside.double() - truth.double(), grid)
        relative = {
            "rel_l2": metrics.rel_l2(inside, truth, grid),
            "rel_h1": metrics.rel_h1(inside, truth, grid),
            "rel_hminus1": metrics.ratio(*(metrics.hminus1_of_energy(e, grid) for e in (energy, self.energy))),
            "nrmse": metrics.nrmse(inside, truth, grid),
            "vrmse": metrics.vrmse(inside, truth, grid),
            "rel_linf": metrics.rel_linf(inside, truth),
        }
        if self.coefficient is not None:
            relative["rel_energy"] = metrics.rel_energy(inside, truth, grid, self.coefficient)
        found = {name: torch.where(self.sized, values, torch.nan) for name, values in relative.items()}
        found["max_error"] = metrics.max_error(inside, truth)
        bands = metrics.rmse_of_energy(energy, truth.shape[1], grid)
        found |= {f"rmse_{name}": band for name, band in zip(metrics.BANDS, bands, strict=True)}
        if self.deviation is not None:
            found["srmse"] = metrics.srmse(inside, truth, self.deviation, grid)
        energy = torch.where(finite.view(-1, *(1 for _ in grid.shape)), energy, torch.nan)
        return {name: torch.where(finite, values, torch.inf) for name, values in found.items()}, energy

    def split(self, values: Tensor, energy: Tensor, coarse: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """Norms of the parts of `values`, of known energy by wave, that `coarse` resolves, does not resolve, and on the
        walls, over the norm of the truth."""
        energy = energy.flatten(1)
        resolved = metrics.resolved_waves(self.grid, coarse).flatten().to(energy.device)
        scale = torch.where(self.sized, metrics.norm(self.values, self.grid.weights), 0.0)
        parts = (energy[:, resolved].sum(1), energy[:, ~resolved].sum(1), metrics.wall_energy(values, self.grid))
        return tuple(metrics.ratio(p.sqrt(), scale) for p in parts)  # type: ignore[return-value]


def bands_of(prediction: Tensor, truth: Tensor, grid: Grid, waves: tuple[int, ...] | None) -> list[Band]:
    """The figures of all bands.

    Args:
        prediction: `(n, c, *x)`.
        truth: Likewise.
        grid: Of both.
        waves: Highest wave per axis that the model's spectral layers act on; None where that says nothing.
    """
    found = [
        ("shells", name, _between(*limits), metrics.band_masks(grid, {name: limits}))
        for name, limits in metrics.BANDS.items()
    ]
    found += [
        ("nyquist", name, _between(*limits), metrics.band_masks(grid, {name: limits}))
        for name, limits in metrics.nyquist_bands(grid).items()
    ]
    if waves is not None:
        top = torch.tensor(waves).view(-1, *(1 for _ in grid.shape))
        inside = (metrics.wave_numbers(grid) <= top).all(0).flatten()[None]
        words = ", ".join(f"|k_{axis}| <= {n}" for axis, n in zip("xyz", waves, strict=False))
        found += [("model", "modes", words, inside), ("model", "above", "all others", ~inside)]
    finite = torch.isfinite(prediction).flatten(1).all(1)
    own = torch.where(finite.view(-1, *(1 for _ in prediction.shape[1:])), prediction, 0.0)
    bands = []
    for kind, name, words, mask in found:
        if not mask.any():
            continue  # a coarse grid has no high waves
        given = (own, truth, grid, mask)
        figures = {
            "band_error": metrics.band_errors(*given)[0],
            "band_rel": metrics.band_rel(*given)[0],
            "band_amplitude": metrics.band_amplitude(*given)[0],
            "phase_error": metrics.phase_error(*given)[0],
        }
        figures = {name: torch.where(finite, values, torch.inf) for name, values in figures.items()}
        share = metrics.band_errors(torch.zeros_like(truth), truth, grid, mask)[0].square()
        bands.append(Band(kind, name, words, {"share": share, **figures}))
    return bands


def _between(low: float, high: float) -> str:
    if math.isinf(high):
        return f"|k| >= {low:g}"
    return f"{low:g} <= |k| < {high:g}" if low else f"|k| < {high:g}"


def _fine(
    prediction: Tensor, known: _Truth, given: dict[str, Tensor], mean: Tensor, coarse: Grid, steps: int | None
) -> Grids:
    """Figures of one batch on one finer grid, given what is known on the training grid, by model."""
    truth, grid = known.values, known.grid
    method: Method = "spectral" if grid.location == "periodic" else "cubic"
    candidates = {
        "surrogate": prediction,
        **{name: coarse.resample(values.double(), grid, method) for name, values in given.items()},
        "mean": coarse.resample(mean.double(), grid, method).expand_as(truth),
    }
    out, energies = Grids(grid.shape[0]), {}
    for name, values in candidates.items():
        out.errors[name], energies[name] = known.errors(values)
    if steps is not None:
        for name in ("surrogate", "interpolation"):
            out.correlations[name] = _correlations(candidates[name], truth, grid, steps)
    for name in ("surrogate", "interpolation", "oracle"):
        parts = known.split(candidates[name].double() - truth.double(), energies[name], coarse)
        out.scales |= {f"{name} {part}": v for part, v in zip(("resolved", "unresolved", "wall"), parts, strict=True)}
    out.scales["truth unresolved"] = known.split(truth, known.energy, coarse)[1]
    for name, energy in {"truth": known.energy, **energies}.items():
        if name not in ("mean", "solver"):
            shells = metrics.shell_spectrum(energy, grid)
            out.spectra[name] = shells.mean(0, keepdim=True).expand(len(truth), -1)
    return out


def _join(resolution: int, parts: list[Grids]) -> Grids:
    first = parts[0]
    errors = {
        model: {name: torch.cat([p.errors[model][name] for p in parts]) for name in values}
        for model, values in first.errors.items()
    }
    scales = {name: torch.cat([p.scales[name] for p in parts]) for name in first.scales}
    spectra, last = (
        {name: torch.cat([getattr(p, which)[name] for p in parts]).mean(0) for name in getattr(first, which)}
        for which in ("spectra", "last")
    )
    ends = [p.failures for p in parts if p.failures is not None]
    failures = Events(torch.cat([e.time for e in ends]), torch.cat([e.observed for e in ends])) if ends else None
    correlations = {name: torch.cat([p.correlations[name] for p in parts]) for name in first.correlations}
    return Grids(resolution, errors, scales, correlations=correlations, spectra=spectra, last=last, failures=failures)

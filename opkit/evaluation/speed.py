"""Is a surrogate worth having? Its time against that of classical solvers of the same error, and when it has paid off.

    speed-up      t_solver(eps) / t_surrogate,  eps the surrogate's mean relative L2 error
    break-even    (t_data + t_training) / (t_solver(eps) - t_surrogate),  in solves

A surrogate is compared with solvers that are no more accurate than it is, after McGreivy and Hakim, Nature Machine
Intelligence 6 (2024, arXiv 2407.07218): against a solver that is far too accurate anything looks fast. The equation
says in `PDE.cheaper` how it can be solved at less cost than its labels were. Each of these settings is given the same
samples on the same device and threads, and its solution is compared with the same labels on the surrogate's grid and
frames. t_solver(eps) is read off the Pareto front of the settings, between two of them along a straight line in log-log
scale and never beyond its ends: there it is only bounded, and so is the speed-up.

Everything is counted that a caller would wait for: checks, normalisation, transfers to the device and back; for a
solver on a coarser grid, restricting the inputs and interpolating the solution, by waves where periodic, else by cubic
splines.
"""

import csv
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from opkit import metrics
from opkit.errors import ConfigError, SolverError
from opkit.evaluation import figures, verdicts
from opkit.evaluation.solving import posed, solve_for, start_of
from opkit.fields import first_index
from opkit.pdes import PDE
from opkit.surrogate import Surrogate

SAMPLES = 8
"""Samples that errors are taken from, and times: an adaptive solver's depends on the sample."""
FEWEST = 3
"""Fewer are not taken, however slow the surrogate is."""
REPEATS = 50
"""Timed calls after which no more are made, however short they are."""
LEAST = 2
"""Timed calls of a batch."""
WARM_UP = 10
"""Calls before time is taken, where they are short."""
ROUND_OFF = 1e-7
"""Least error that counts: labels are stored in single precision."""
POINTS_PER_BATCH = 2**24
"""Values of a solution in the largest batch that is tried."""
GROWTH = 4
"""From one batch that is tried to the next."""
GAIN = 0.95
"""A larger batch is worth trying as long as the last one brought the time per sample down to this part."""
MARGIN = 1.1
"""Ratio of times up to which they count as equal: times move by as much from one moment to the next."""
GREY = "#bbbbbb"
"""Settings that others beat, in the picture."""
MODES = {"latency": "one at a time", "throughput": "in batches"}

Bound = Literal["equal", "at most", "more than"]
DOMINATED = "dominated by the solver"
LEVEL = "as fast as the solver"
COARSE = "no solver setting is as coarse"
BEYOND = "no solver setting reaches its error"
FASTER = "faster"
VERDICTS = (DOMINATED, LEVEL, COARSE, BEYOND, FASTER)
"""From what speaks most against a surrogate to what speaks most for it."""


@dataclass(frozen=True)
class Timing:
    """Seconds per sample: median and quartiles of repeated calls.

    Args:
        median: Median.
        low: Lower quartile.
        high: Upper quartile.
        repeats: Calls.
        batch: Samples in each.
    """

    median: float
    low: float
    high: float
    repeats: int
    batch: int

    @classmethod
    def of(cls, seconds: list[float], batch: int) -> "Timing":
        """Of the seconds that each call took."""
        low, median, high = np.quantile(np.asarray(seconds) / batch, [0.25, 0.5, 0.75]).tolist()
        return cls(median, low, high, len(seconds), batch)


@dataclass(frozen=True)
class Point:
    """One way to a solution.

    Args:
        name: What it is, in words.
        error: Mean relative L2 error.
        latency: Time of one sample alone.
        throughput: Time per sample in the batch for which it is least.
        parameters: Of a solver setting: those in which settings differ.
    """

    name: str
    error: float
    latency: Timing
    throughput: Timing
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reach:
    """What a front says of the time that an error takes: `seconds`, or no more, or more than that."""

    seconds: float
    bound: Bound


@dataclass(frozen=True)
class Comparison:
    """A surrogate's time against a solver's at the surrogate's error.

    Args:
        verdict: One of `VERDICTS`.
        solver_seconds: Time of the solver at this error, or its bound.
        speedup: That over the surrogate's; above 1 the surrogate is faster.
        low: The speed-up by the less favourable quartiles of both.
        high: By the more favourable ones.
        bound: Whether time and speed-up are equal to, at most or more than these.
        break_even: Solves after which data and training have paid off.
        reason: Why there is no such number.
    """

    verdict: str
    solver_seconds: float
    speedup: float
    low: float
    high: float
    bound: Bound
    break_even: float | None
    reason: str | None


@dataclass(frozen=True)
class Speed:
    """What `measure_speed` found.

    Args:
        surrogate: Its error and times; None if its error is undefined.
        settings: Solver settings.
        failed: Settings without a solution, and why.
        skipped: Settings that were not tried, and why.
        comparisons: By mode, of `MODES`; none where there is nothing to compare.
        seconds_of_data: Making labels to train and validate with: seconds per label, measured here, times their number.
        seconds_of_training: Of training, as given.
        reasons: Why one of these two is unknown.
        size: The surrogate's grid, in words.
        horizon: Steps of a trajectory; None where steady.
        samples: Samples that errors are taken from.
        device: Where all ran.
        threads: CPU threads.
        budget: Seconds allowed.
        spent: Seconds taken.
    """

    surrogate: Point | None
    settings: list[Point]
    failed: dict[str, str]
    skipped: dict[str, str]
    comparisons: dict[str, Comparison]
    seconds_of_data: float | None
    seconds_of_training: float | None
    reasons: dict[str, str]
    size: str
    horizon: int | None
    samples: int
    device: str
    threads: int
    budget: float
    spent: float

    @property
    def verdict(self) -> str:
        """The less favourable of both modes', or "undefined"."""
        found = [c.verdict for c in self.comparisons.values()]
        return min(found, key=VERDICTS.index) if found else "undefined"

    def record(self) -> dict[str, Any]:
        """As JSON values, none of them NaN or infinite."""
        return {"verdict": self.verdict, **asdict(self)}


def pareto(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (seconds, error) those that no other equals or beats in both, fastest first."""
    front: list[tuple[float, float]] = []
    for seconds, error in sorted(points):
        if not front or error < front[-1][1]:
            front.append((seconds, error))
    return front


def time_at_error(front: list[tuple[float, float]], error: float) -> Reach:
    """Seconds at which a front has an error, on straight lines in log-log scale between its points.

    Args:
        front: What `pareto` returned, with at least one point.
        error: Of interest, not negative.
    """
    if error > front[0][1]:
        return Reach(front[0][0], "at most")
    if error < front[-1][1]:
        return Reach(front[-1][0], "more than")
    seconds, errors = np.array(front[::-1]).T  # errors rising, as interp wants them
    at = np.interp(math.log(max(error, ROUND_OFF)), np.log(np.maximum(errors, ROUND_OFF)), np.log(seconds))
    return Reach(math.exp(at), "equal")


def break_even(
    seconds_of_data: float | None, seconds_of_training: float | None, solver: float, surrogate: float
) -> tuple[float | None, str | None]:
    """Solves after which data and training have paid off, or None and why.

    Args:
        seconds_of_data: Making the labels.
        seconds_of_training: Training.
        solver: Seconds per solve of a solver with the surrogate's error.
        surrogate: Seconds per solve of the surrogate.
    """
    if not surrogate < solver:
        return None, "the surrogate is not faster than a solver with its error"
    if seconds_of_data is None or seconds_of_training is None:
        unknown = [n for n, s in (("data", seconds_of_data), ("training", seconds_of_training)) if s is None]
        return None, f"it is not known how long {' and '.join(unknown)} took"
    return (seconds_of_data + seconds_of_training) / (solver - surrogate), None


def seconds_of_training(run: Path) -> float | None:
    """Seconds of all epochs in a run's metrics.csv, validation and compilation included; None without such a table.

    Args:
        run: A run directory. A bundle alone has no record of its training.
    """
    try:
        with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
            spent = [float(row["seconds"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return sum(spent) if spent and math.isfinite(sum(spent)) else None


class Watch:
    """Takes the time of calls, waiting for the device before and after.

    Args:
        device: Where the work is done.
        clock: Seconds since whenever.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter):
        self.device, self.clock = device, clock

    def seconds(self, work: Callable[[Tensor], Tensor], values: Tensor) -> tuple[float, Tensor]:
        """Of one call, and what it returned."""
        self._wait()
        began = self.clock()
        result = work(values)
        self._wait()
        return self.clock() - began, result

    def _wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def measure(
        self, work: Callable[[Tensor], Tensor], inputs: Tensor, budget: float, limit: float
    ) -> tuple[Timing, Timing, Tensor] | None:
        """Latency, throughput, and the outputs for all inputs one by one.

        Args:
            work: From a batch of inputs to its outputs.
            inputs: Some samples.
            budget: Seconds to spend, about; where one pass over the samples takes longer, that pass.
            limit: Seconds beyond which not even a pass is made, and the answer is None.
        """
        n = len(inputs)
        first, _ = self.seconds(work, inputs[:1])
        if first * n > limit:
            return None
        warm = 1
        while warm < WARM_UP and warm * first < budget / 10:
            self.seconds(work, inputs[:1])
            warm += 1
        spent: list[float] = []
        outputs: list[Tensor] = []
        while len(spent) < n or (len(spent) < REPEATS and sum(spent) < budget / 3):
            i = len(spent) % n
            seconds, result = self.seconds(work, inputs[i : i + 1])
            spent.append(seconds)
            outputs += [result] if len(outputs) < n else []
        latency = best = Timing.of(spent, 1)
        left, batch = budget - sum(spent), GROWTH
        while batch * outputs[0].numel() <= POINTS_PER_BATCH and (LEAST + 1) * batch * best.median <= left:
            rows = torch.arange(batch) % n
            self.seconds(work, inputs[rows])
            spent = []
            while len(spent) < LEAST or (len(spent) < REPEATS and sum(spent) < left / 4):
                spent.append(self.seconds(work, inputs[rows])[0])
            timing = Timing.of(spent, batch)
            worth = timing.median <= GAIN * best.median
            best = min(best, timing, key=lambda t: t.median)
            if not worth:
                break
            left, batch = left - sum(spent), GROWTH * batch
        return latency, best, torch.cat(outputs)


def measure_speed(
    surrogate: Surrogate,
    pde: PDE,
    inputs: Tensor,
    truth: Tensor,
    horizon: int | None,
    *,
    budget: float = 10.0,
    samples: int = SAMPLES,
    fine: Callable[[PDE], Tensor] | None = None,
    training: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Compare a surrogate with the solvers of its equation.

    Args:
        surrogate: The surrogate, on the device to compare on.
        pde: The problem it was trained on.
        inputs: Test inputs on `pde.grid`, as the surrogate takes them, `(n, c, *x)`.
        truth: Their labels, `(n, c_out, *x)`; of an evolution equation all steps as channels, `(n, horizon c_out, *x)`.
        horizon: Steps of a trajectory; None where the equation is steady.
        budget: Seconds it may take, about. Settings are tried from the cheapest on, and those that do not fit are left
            out and named.
        samples: How many of the inputs to use, at most; fewer where the surrogate is slow for the budget.
        fine: From a problem on another grid to the same inputs there, such as `lambda p: p.sample(n, seed, first)`.
            Without it, solvers on grids finer than the surrogate's have what its grid knows, where that is periodic,
            and are left out where it is not.
        training: Seconds that training took, see `seconds_of_training`.
        clock: Seconds since whenever.

    Raises:
        ConfigError: `budget` or `samples` is not positive.
        ValueError: Shapes that do not belong together.
    """
    if not (math.isfinite(budget) and budget > 0 and samples >= 1):
        raise ConfigError(f"budget must be positive and samples at least 1, got {budget:g} and {samples}.")
    began, watch = clock(), Watch(surrogate.device, clock)
    history = 1 if horizon is None else surrogate.stepping.history

    def predict(values: Tensor) -> Tensor:
        there = values.to(watch.device)  # once, not at every step
        found = surrogate(there) if horizon is None else surrogate.rollout(there, horizon).flatten(1, 2)
        return found.to(values.device)

    with torch.inference_mode():
        seconds, _ = watch.seconds(predict, inputs[:1])
        n = min(len(inputs), samples, max(FEWEST, int(budget / 8 / max(seconds, 1e-9))))
        inputs, truth = inputs[:n], truth[:n]
        measured = watch.measure(predict, inputs, budget / 4, math.inf)
        assert measured is not None  # without a limit there always is something
        latency, throughput, outputs = measured
        error = float(metrics.rel_l2(outputs, truth, pde.grid).nanmean())  # NaN: no truth to compare with
        own = Point("surrogate", error, latency, throughput) if math.isfinite(error) else None
        settings, failed, skipped = _sweep(pde, inputs, truth, horizon, history, fine, watch, began + 7 / 8 * budget)
        data, reasons = _seconds_of_data(surrogate, pde, settings, watch, began + budget - clock())
    if training is None:
        reasons["training"] = "only a run directory records how long training took"
    comparisons = {}
    if own is not None and settings:
        for mode in MODES:
            comparisons[mode] = _compare(own, settings, mode, data, training)
    return Speed(
        own, settings, failed, skipped, comparisons, data, training, reasons,
        verdicts.size(pde.resolution, pde.grid.ndim), horizon, n,
        torch.cuda.get_device_name(watch.device) if watch.device.type == "cuda" else watch.device.type,
        torch.get_num_threads(), budget, clock() - began,
    )  # fmt: skip


def _sweep(
    pde: PDE, inputs: Tensor, truth: Tensor, horizon: int | None, history: int,
    fine: Callable[[PDE], Tensor] | None, watch: Watch, end: float,
) -> tuple[list[Point], dict[str, str], dict[str, str]]:  # fmt: skip
    """Settings measured, failed, and left out."""
    start = start_of(pde, inputs, history)
    found: list[Point] = []
    failed: dict[str, str] = {}
    skipped: dict[str, str] = {}
    fastest: dict[int, float] = {}
    settings = pde.cheaper()
    for i, (setting, (name, parameters)) in enumerate(zip(settings, _names(settings), strict=True)):
        problem, given = posed(setting, horizon, history), start
        points = problem.grid.weights.numel()
        finer = points > pde.grid.weights.numel()
        draw = fine if history == 1 else None
        if finer and draw is None and pde.grid.location != "periodic":
            skipped[name] = "its inputs are not known on a grid finer than the surrogate's"
            continue
        left = end - watch.clock()
        if _forecast(fastest, points) > left / 2:
            skipped[name] = "it does not fit the time allowed"
            continue
        if finer and draw is not None:
            given = draw(setting)[: len(start)].to(start)

        def work(values: Tensor, problem: PDE = problem) -> Tensor:
            return solve_for(problem, pde, values, watch.device)

        try:
            measured = watch.measure(work, given, left / (len(settings) - i), left)
        except SolverError as problem_met:
            failed[name] = str(problem_met).partition("\n")[0]
            continue
        if measured is None:
            skipped[name] = "it does not fit the time allowed"
            continue
        latency, throughput, outputs = measured
        error = float(metrics.rel_l2(outputs, truth, pde.grid).nanmean())
        if not math.isfinite(error):
            failed[name] = "its solution is not finite"
            continue
        fastest[points] = min(latency.median, fastest.get(points, math.inf))
        found.append(Point(name, error, latency, throughput, parameters))
    return found, failed, skipped


def _forecast(fastest: dict[int, float], points: int) -> float:
    """Seconds a solve on so many points may take, from those on the largest number of points known; 0 if none is."""
    known = max((p for p in fastest if p <= points), default=None)
    return 0.0 if known is None else fastest[known] * points / known


def _names(settings: list[PDE]) -> list[tuple[str, dict[str, Any]]]:
    """Of every setting its name and the parameters in which settings differ, the grid first."""
    parameters = [s.parameters() for s in settings]
    apart = [
        name
        for name in parameters[0]
        if name != "label_resolution" and len({json.dumps(p[name]) for p in parameters}) > 1
    ]
    found = []
    for setting, values in zip(settings, parameters, strict=True):
        words = [verdicts.size(setting.resolution, setting.grid.ndim)]
        for name in apart:
            value = values[name]
            if isinstance(value, str):
                words.append(value)
            elif isinstance(value, int | float) and name != "resolution":
                words.append(f"{name} {value:g}")
        found.append((", ".join(words), {"resolution": setting.resolution} | {n: values[n] for n in apart}))
    return found


def _seconds_of_data(
    surrogate: Surrogate, pde: PDE, settings: list[Point], watch: Watch, left: float
) -> tuple[float | None, dict[str, str]]:
    """Seconds that the labels to train and validate with take here, and why they are unknown."""
    data = surrogate.physics.get("data", {})
    if not {"train", "val"} <= data.keys():
        return None, {"data": "the bundle does not say how many labels it was trained with"}
    # Online, solving is part of training.
    count = data["val"] + (data["train"] if data.get("mode", "stored") == "stored" else 0)
    known = {p.parameters["resolution"] ** pde.grid.ndim: p.latency.median for p in settings}
    if not known:
        return None, {"data": "no solver setting was measured"}
    forecast = _forecast(known, pde.label_grid.weights.numel())
    if forecast > left / 2:
        labels = _names(pde.cheaper())[-1][0]
        solved = [p.throughput.median for p in settings if p.name == labels]
        if solved:  # the same but for drawing the inputs
            return solved[0] * count, {}
        return None, {"data": "making a label does not fit the time allowed"}
    tile = pde.tile(watch.device.type)
    tile = tile if LEAST * tile * forecast < left else 1  # a whole tile, as generation takes them, where it fits

    def label(inputs: Tensor) -> Tensor:
        made = pde.label(tile, 0, first_index("train"), watch.device.type, tile)
        return next(iter(made.fields.values()))

    try:
        nothing = torch.empty(0)
        seconds, _ = watch.seconds(label, nothing)
        if LEAST * seconds < left:  # the first call may have set something up
            seconds = min(watch.seconds(label, nothing)[0] for _ in range(LEAST))
    except SolverError as problem:
        return None, {"data": f"making a label failed ({str(problem).partition(chr(10))[0]})"}
    return seconds / tile * count, {}


def _compare(own: Point, settings: list[Point], mode: str, data: float | None, training: float | None) -> Comparison:
    timing: Timing = getattr(own, mode)

    def reach(which: str) -> Reach:
        return time_at_error(pareto((getattr(getattr(p, mode), which), p.error) for p in settings), own.error)

    at = reach("median")
    speedup = at.seconds / timing.median
    low, high = min(speedup, reach("low").seconds / timing.high), max(speedup, reach("high").seconds / timing.low)
    if at.bound == "more than":
        verdict = BEYOND
    elif high < 1 / MARGIN:
        verdict = DOMINATED
    elif at.bound == "at most":
        verdict = COARSE
    else:
        verdict = FASTER if low > MARGIN else LEVEL
    if at.bound == "equal":
        solves, reason = break_even(data, training, at.seconds, timing.median)
    elif verdict == DOMINATED:
        solves, reason = None, "the surrogate is not faster than a solver with its error"
    else:
        solves, reason = None, f"a solver's time at this error is only known to be {at.bound} {_clock(at.seconds)}"
    return Comparison(verdict, at.seconds, speedup, low, high, at.bound, solves, reason)


def speed_text(record: dict[str, Any]) -> str:
    """What a record of `Speed` says, in a sentence or two."""
    own = record["surrogate"]
    if not record["comparisons"]:
        why = "the surrogate's error is undefined" if own is None else "no solver setting could be measured"
        return f"Not known: {why}."
    horizon, failed, skipped = record["horizon"], record["failed"], record["skipped"]
    what = "a solve" if horizon is None else f"a trajectory of {horizon} step{'s' * (horizon > 1)}"
    modes = list(MODES) if own["throughput"]["batch"] > 1 else ["latency"]
    clauses = "; ".join(_clause(mode, record["comparisons"][mode], own[mode], what) for mode in modes)
    left_out = [f"{len(failed)} failed"] if failed else []
    if skipped:
        left_out.append(f"{len(skipped)} left out ({'; '.join(sorted(set(skipped.values())))})")
    tried = ", ".join([f"{len(record['settings'])} solver settings measured", *left_out])
    paid = record["comparisons"][modes[-1]]
    if paid["break_even"] is not None:
        again = f"Data and training are paid back after {_count(paid['break_even'])} solves."
    elif paid["verdict"] == DOMINATED:
        again = "Data and training are never paid back."
    else:
        again = f"When data and training are paid back is not known: {paid['reason']}."
    where = f"{record['size']}, {record['device']}, {record['threads']} thread{'s' * (record['threads'] > 1)}"
    return (
        f"With an error of {verdicts.percent(own['error'])} ({record['samples']} test samples, {where}), "
        f"{clauses} ({tried}). {again}"
    )


def _clause(mode: str, found: dict[str, Any], own: dict[str, Any], what: str) -> str:
    times = f"{MODES[mode]} the surrogate takes {_clock(own['median'])} for {what}"
    solver, ratio = _clock(found["solver_seconds"]), found["speedup"]
    if found["verdict"] == BEYOND:
        return f"{times}, and {BEYOND}: the most accurate one takes {solver}"
    if found["verdict"] == COARSE:
        return f"{times}, and {COARSE}: one that errs less takes {solver}, so it is at most {_times(ratio)} as fast"
    if found["verdict"] == DOMINATED:
        if found["bound"] == "at most":
            return (
                f"{times}, and is {DOMINATED}: one that errs less takes {solver} ({_times(1 / ratio)} as fast or more)"
            )
        return f"{times}, and is {DOMINATED}: with its error that takes {solver} ({_times(1 / ratio)} as fast)"
    if found["verdict"] == FASTER:
        return f"{times}, and is {FASTER}: a solver with its error takes {solver} ({_times(ratio)} as long)"
    return f"{times}, and is {LEVEL} with its error ({solver}), as far as times can tell"


def _times(ratio: float) -> str:
    return f"{ratio:.3g} times"


def _count(value: float) -> str:
    return f"{math.ceil(value):,}" if value < 1e4 else f"{value:.2g}"


def _clock(seconds: float) -> str:
    """Three digits with a unit."""
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def pareto_picture(record: dict[str, Any]) -> figures.Picture:
    """PNG of error against seconds per sample, one at a time and in batches: the surrogate and the solver settings, of
    which those of the front are named. Errors below round-off are open circles there: they are no larger.

    Args:
        record: Of a `Speed` with at least one setting.
    """
    settings, own = record["settings"], record["surrogate"]

    def draw(figure: Any) -> None:
        for axis, (mode, words) in zip(figure.subplots(1, 2, sharey=True), MODES.items(), strict=True):
            points = [(p[mode]["median"], max(p["error"], ROUND_OFF)) for p in settings]
            front = pareto(points)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.plot(*zip(*front, strict=True), lw=1.4, color=figures.INK["oracle"])
            hidden = [p["error"] < ROUND_OFF for p in settings]
            for point, low in zip(points, hidden, strict=True):
                colour = figures.INK["oracle"] if point in front else GREY
                axis.plot(*point, ls="", marker="o", ms=4, color=colour, mfc="white" if low else colour)
            for number, point in enumerate(front, 1):
                name = settings[points.index(point)]["name"]
                axis.annotate(f"{number}", point, (4, 3), textcoords="offset points", fontsize=9)
                axis.plot([], ls="", marker=f"${number}$", ms=6, color="#222222", label=name)
            if own is not None:
                axis.loglog(
                    own[mode]["median"], own["error"], ls="", marker="*", ms=13, color=figures.INK["surrogate"],
                    label="surrogate",
                )  # fmt: skip
                axis.axhline(own["error"], color=figures.INK["surrogate"], lw=0.8, alpha=0.4, zorder=0)
            if len(front) < len(points):
                axis.plot([], ls="", marker="o", ms=4, color=GREY, label="other settings")
            if any(hidden):
                label = "at most this: below round-off of float32"
                axis.plot([], ls="", marker="o", ms=4, color=figures.INK["oracle"], mfc="white", label=label)
            axis.set_title(words, fontsize=10)
            axis.set_xlabel("seconds per sample")
            axis.xaxis.set_minor_formatter(lambda *_: "")  # labels of a short axis would overlap
            axis.grid(alpha=0.25)
            axis.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16))
        figure.axes[0].set_ylabel("relative L2 error")

    return figures.render(draw, 11, 6)

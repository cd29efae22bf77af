"""metrics.csv and events.csv: every figure of every sample that the report has averages of, tidy and long.

An event that was not observed by its horizon happens later, if ever: means of such times are Kaplan-Meier's.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import torch

from opkit.evaluation.protocol import Measured
from opkit.evaluation.records import THRESHOLDS, per_sample
from opkit.evaluation.rollout import Rollout
from opkit.evaluation.shift import Shifted
from opkit.metrics import Events

Row = tuple[int, int, int, float | str, str, str, float]
"""Sample, resolution, step (0 where a figure is over all of them), time, model, metric, value."""


def write_tables(folder: Path, measured: Measured, shifted: list[Shifted], seed: int) -> None:
    """Write both; events.csv where there is a rollout.

    Args:
        folder: Where.
        measured: What was measured.
        shifted: On shifted problems.
        seed: Of the samples.
    """
    with open(folder / "metrics.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sample", "seed", "resolution", "step", "t", "model", "metric", "value"])
        for sample, resolution, step, time, model, name, value in _rows(measured, shifted):
            shown = f"{time:.8g}" if isinstance(time, float) else time
            writer.writerow([sample, seed, resolution, step, shown, model, name, f"{value:.8g}"])
    if measured.rollout is not None:
        with open(folder / "events.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["sample", "seed", "model", "event", "time", "observed", "horizon"])
            for model, name, events, horizon in _events(measured.rollout):
                for i, (time, observed) in enumerate(zip(events.time.tolist(), events.observed.tolist(), strict=True)):
                    end = f"{measured.rollout.dt * horizon:.8g}"
                    writer.writerow([i, seed, model, name, f"{time:.8g}", int(observed), end])


def _rows(measured: Measured, shifted: list[Shifted]) -> Iterator[Row]:
    dt = measured.rollout.dt if measured.rollout is not None else None

    def frames(resolution: int, name: str, curves: dict[str, torch.Tensor], steps: list[int]) -> Iterator[Row]:
        for model, curve in curves.items():
            for i, values in enumerate(curve[:, [s - 1 for s in steps]].tolist()):
                for step, value in zip(steps, values, strict=True):
                    yield i, resolution, step, "" if dt is None else dt * step, model, name, value

    def whole(resolution: int, model: str, name: str, values: torch.Tensor) -> Iterator[Row]:
        for i, value in enumerate(values.tolist()):
            yield i, resolution, 0, "", model, name, value

    for grids in [measured.coarse, *measured.fine]:
        for model, errors in grids.errors.items():
            for name, values in errors.items():
                yield from whole(grids.resolution, model, name, values)
        for band in grids.bands:
            for name, values in band.figures.items():
                label = band.name if band.kind == "shells" else f"{band.kind} {band.name}"
                yield from whole(grids.resolution, "surrogate", f"{name}_{label}", values)
        for name, curves in (("rel_l2_step", grids.steps), ("correlation_step", grids.correlations)):
            if curves:
                count = next(iter(curves.values())).shape[1]
                yield from frames(grids.resolution, name, curves, list(range(1, count + 1)))
    if (rollout := measured.rollout) is not None:
        reference = rollout.errors["surrogate"].shape[1]
        beyond = sorted({*range(rollout.trained + 1, reference + 1, max(1, reference // 200)), reference})
        beyond = [s for s in beyond if s > rollout.trained]
        for name, curves in (("rel_l2_step", rollout.errors), ("correlation_step", rollout.correlations)):
            yield from frames(rollout.resolution, name, curves, beyond)
        for name, values in per_sample(rollout).items():
            yield from whole(rollout.resolution, "surrogate", name, values)
        for model, name, events, _ in _events(rollout):
            yield from whole(rollout.resolution, model, name, events.time)
    for one in shifted:
        if one.errors is not None:
            name = f"rel_l2 at {one.shift.what} x {one.shift.factor:g}"
            yield from whole(one.shift.problem.resolution, "surrogate", name, one.errors)


def _events(rollout: Rollout) -> Iterator[tuple[str, str, Events, int]]:
    """Model, name, times, and the steps up to which they were looked for."""
    reference = rollout.errors["surrogate"].shape[1]
    for model in ("surrogate", "persistence"):
        for threshold in THRESHOLDS:
            name = "correlation_time" + ("" if threshold == THRESHOLDS[0] else f"@{threshold:g}")
            yield model, name, rollout.correlated(model, threshold), reference
    yield "surrogate", "valid_time", rollout.valid, reference
    yield "surrogate", "divergence_time", rollout.diverged, rollout.steps

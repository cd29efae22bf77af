"""Figures as report.json has them: plain numbers, names and reasons; no NaN.

A time to an event is stated as its mean up to the horizon, which is no larger than the true mean and always there; the
median stands beside it where half of the samples met the event.
"""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from opkit import metrics
from opkit.evaluation import verdicts
from opkit.evaluation.protocol import Grids, Measured
from opkit.evaluation.resolution import refinements
from opkit.evaluation.rollout import REASONS, Rollout
from opkit.evaluation.statistics import (
    Estimate,
    Survival,
    compare,
    gain_with_interval,
    mean_of_series,
    mean_with_interval,
    survival,
)
from opkit.grid import Grid
from opkit.metrics import Events
from opkit.settings import Evaluation

STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Steps whose own error is reported, besides the last."""
THRESHOLDS = (metrics.CORRELATED, 0.9, 0.95)
"""Of the correlation; the first is the one times are stated for."""
SHOWN_POINTS = 200
"""Most points of a curve that is stored."""
WINDOWS = ((1, 1), (6, 12), (13, 30))
"""Steps over which VRMSE is averaged: the first, and the two of The Well (arXiv 2412.00568)."""

Record = dict[str, Any]


class Records:
    """Turns per-sample figures into records with intervals.

    Args:
        evaluation: Resamples and their seed.
        unit: Of the field.
    """

    def __init__(self, evaluation: Evaluation, unit: str = ""):
        self.resamples, self.seed, self.unit = evaluation.resamples, evaluation.seed, unit

    def estimate(self, values: torch.Tensor) -> Estimate:
        return mean_with_interval(values.cpu(), self.resamples, self.seed)

    def metric(self, name: str, values: torch.Tensor, model: str, resolution: int, horizon: int | None) -> Record:
        """An error, averaged over test samples."""
        place = {"split": "test", "resolution": resolution, "horizon": horizon, "model": model}
        unit = {"unit": self.unit} if name == "max_error" or name.startswith("rmse_") else {}
        return {"name": name, **asdict(self.estimate(values)), **place, **unit}

    def time(self, name: str, events: Events, model: str, resolution: int, horizon: int) -> tuple[Record, Survival]:
        """A time to an event, and the curve it is read from."""
        curve = survival(events, self.resamples, self.seed)
        reason = None if curve.mean_low is not None else "all samples agree" if curve.n > 1 else "one sample"
        record = {
            "name": name,
            "value": curve.mean,
            "ci_low": curve.mean_low,
            "ci_high": curve.mean_high,
            "n": curve.n,
            "median": curve.median,
            "maximum": float(events.time.max()),
            "geometric_mean": None,
            "p90": None,
            "reason": reason,
            "split": "test",
            "resolution": resolution,
            "horizon": horizon,
            "model": model,
            "unit": "time units",
            "censored": curve.censored,
            "first": curve.first,
        }
        return record, curve

    def gains(self, grids: Grids) -> dict[str, Estimate]:
        """`gain` over interpolation, and `unresolved gain` over predicting nothing of the unresolved scales."""
        pairs = {
            "gain": (grids.errors["surrogate"]["rel_l2"], grids.errors["interpolation"]["rel_l2"]),
            "unresolved gain": (grids.scales["surrogate unresolved"], grids.scales["truth unresolved"]),
        }
        return {
            name: gain_with_interval(own.cpu(), other.cpu(), self.resamples, self.seed)
            for name, (own, other) in pairs.items()
        }


def error_records(make: Records, measured: Measured, horizon: int | None) -> list[Record]:
    """Errors on all grids, the training grid first, and frame by frame on that one."""
    coarse = measured.coarse
    found = [
        make.metric(name, coarse.errors[model][name], model, coarse.resolution, horizon)
        for model in coarse.errors
        for name in coarse.errors[model]
    ]
    for band in coarse.bands:
        if band.kind == "shells":
            found += [
                make.metric(f"{name}_{band.name}", values, "surrogate", coarse.resolution, horizon)
                for name, values in band.figures.items()
                if name not in ("share", "band_error")  # rmse_low, ... say that
            ]
    steps = [h for h in STEPS if h < (horizon or 0)] + ([horizon] if horizon else [])
    found += [
        make.metric("rel_l2_step", coarse.steps[model][:, h - 1], model, coarse.resolution, h)
        for model in coarse.steps
        for h in steps
    ]
    for grids in measured.fine:
        found += [
            make.metric(name, grids.errors[model][name], model, grids.resolution, horizon)
            for model in ("surrogate", "interpolation", "solver", "mean")
            if model in grids.errors
            for name in grids.errors[model]
        ]
    return found


def band_records(make: Records, measured: Measured) -> list[Record]:
    """The surrogate within bands of wavenumbers. Samples whose truth has nothing in a band have no figure there."""
    rows = []
    for band in measured.coarse.bands:
        row: Record = {"kind": band.kind, "name": band.name, "waves": band.waves}
        known = ~torch.isnan(band.figures["band_rel"])
        row["undefined"] = int((~known).sum())
        for name, values in band.figures.items():
            whole = name in ("share", "band_error")
            kept = values if whole else values[known]
            row[name] = asdict(make.estimate(kept)) if len(kept) else _nothing("the truth has nothing there")
        rows.append(row)
    return rows


def _nothing(reason: str, n: int = 0) -> Record:
    return asdict(Estimate(None, None, None, n, reason=reason))


def resolution_rows(
    make: Records, measured: Measured, horizon: int | None, dt: float | None, mode: str, ndim: int, useless: bool
) -> tuple[list[Record], Estimate, Record]:
    """One row per finer grid, with its verdict; the error in the resolved scales on the training grid; and what of a
    row is measured there too, on the samples of the finer grids."""
    at_training = make.estimate(measured.coarse.scales["resolved"])
    n = len(measured.fine[0].errors["surrogate"]["rel_l2"])
    home = _on_any_grid(make, measured.coarse, n, dt)
    same = measured.coarse.errors["surrogate"]["rel_l2"][:n]
    home["surrogate"] = make.metric("rel_l2", same, "surrogate", measured.coarse.resolution, horizon)
    rows = []
    for grids in measured.fine:
        row: Record = {"resolution": grids.resolution} | _on_any_grid(make, grids, n, dt)
        for model in ("surrogate", "interpolation", "oracle"):
            row[model] = make.metric("rel_l2", grids.errors[model]["rel_l2"], model, grids.resolution, horizon)
        scales = {name: make.estimate(values) for name, values in grids.scales.items()} | make.gains(grids)
        accuracy = grids.accuracy
        assert accuracy is not None and grids.representation is not None
        row["data_accuracy"] = (
            {"value": None, "maximum": None, "n": 0, "reason": accuracy}
            if isinstance(accuracy, str)
            else label_record(accuracy)
        )
        row["representation"] = asdict(make.estimate(grids.representation))
        row["verdict"] = verdicts.super_resolution(
            scales["gain"], scales["unresolved gain"], scales["surrogate resolved"], at_training,
            scales["truth unresolved"].value,
            verdicts.above_data_accuracy(row["surrogate"], row["interpolation"], row["data_accuracy"]),
            useless,
        )  # fmt: skip
        row["scales"] = {name.replace(" ", "_"): asdict(value) for name, value in scales.items()}
        row["solver"] = None
        if "solver" in grids.errors:
            row["solver"] = make.metric("rel_l2", grids.errors["solver"]["rel_l2"], "solver", grids.resolution, horizon)
        row["text"] = verdicts.resolution_text(row, home, measured.coarse.resolution, ndim, mode, useless)
        rows.append(row)
    return rows, at_training, home


def _on_any_grid(make: Records, grids: Grids, n: int, dt: float | None) -> Record:
    """Errors with both kinds of data, and how the rollouts of the first n samples fare."""
    found: Record = {"strided": None, "filtered": None}
    if grids.filtered is not None:
        strided = grids.errors["surrogate"]["rel_l2"][: len(grids.filtered)]
        found |= {"strided": asdict(make.estimate(strided)), "filtered": asdict(make.estimate(grids.filtered))}
    found |= {"correlation_time": None, "divergence_time": None, "last_frame": None}
    if grids.failures is None or dt is None:
        return found
    curves = {name: curve[:n] for name, curve in grids.correlations.items() if name != "persistence"}
    steps = curves["surrogate"].shape[1]
    times = dt * torch.arange(1, steps + 1).double()
    found["correlation_time"] = {
        model: make.time("correlation_time", metrics.correlation_time(c, times), model, grids.resolution, steps)[0]
        for model, c in curves.items()
    }
    found["divergence_time"] = make.time("divergence_time", grids.failures, "surrogate", grids.resolution, steps)[0]
    own, true = grids.last["surrogate"], grids.last["truth"]
    found["last_frame"] = {
        "truth": _numbers(true),
        "surrogate": _numbers(own),
        "log_spectral_distance": _number(metrics.log_spectral_distance(own[None], true[None])),
    }
    return found


def convergence_record(measured: Measured, grid: Grid) -> Record:
    """Changes of the surrogate's output between refinements of the training grid, and what to make of them."""
    changes = measured.changes
    assert changes is not None
    values = _numbers(changes.mean(0))
    record: Record = {
        "resolutions": [fine.shape[0] for fine in refinements(grid)],
        "changes": values,
        "n": len(changes),
    }
    record["order"], record["verdict"], record["text"] = verdicts.convergence(record, grid.ndim)
    return record


def rollout_record(make: Records, rollout: Rollout) -> tuple[list[Record], Record]:
    """Metric records of a long rollout, and the report's section on it."""
    resolution, reference = rollout.resolution, rollout.errors["surrogate"].shape[1]
    found, curves = [], {}
    for model in ("surrogate", "persistence"):
        for threshold in THRESHOLDS:
            name = "correlation_time" + ("" if threshold == THRESHOLDS[0] else f"@{threshold:g}")
            events = rollout.correlated(model, threshold)
            record, curve = make.time(name, events, model, resolution, reference)
            found.append(record)
            if model == "surrogate":
                curves[name] = asdict(curve)
    for name, events, horizon in (
        ("valid_time", rollout.valid, reference),
        ("divergence_time", rollout.diverged, rollout.steps),
    ):
        record, curve = make.time(name, events, "surrogate", resolution, horizon)
        found.append(record)
        curves[name] = asdict(curve)
    beyond = [h for h in (rollout.trained, *(k * rollout.trained for k in (2, 5, 10)), reference) if h <= reference]
    for model, errors in rollout.errors.items():
        for h in sorted({h for h in beyond if h > rollout.trained}):
            found.append(make.metric("rel_l2_step", errors[:, h - 1], model, resolution, h))
    for name, values in per_sample(rollout).items():
        found.append(make.metric(name, values, "surrogate", resolution, reference))
    windows = [
        {"from": first, "to": last, "vrmse": asdict(make.estimate(rollout.vrmse[:, first - 1 : last].mean(1)))}
        for first, last in dict.fromkeys([*WINDOWS, (1, rollout.trained)])
        if last <= reference
    ]
    shown = sorted({round(s) for s in np.linspace(1, reference, min(reference, SHOWN_POINTS))})
    columns = [s - 1 for s in shown]
    section = {
        "trajectories": len(rollout.ended),
        "trained_steps": rollout.trained,
        "reference_steps": reference,
        "steps": rollout.steps,
        "time_step": rollout.dt,
        "key": rollout.key,
        "survival": curves,
        "windows": windows,
        "curves": {
            "step": shown,
            "rel_l2": {m: _fan(e[:, columns]) for m, e in rollout.errors.items()},
            "correlation": {m: _fan(c[:, columns]) for m, c in rollout.correlations.items()},
        },
        "quantities": {
            name: {
                "step": [0, *shown],
                **{m: _fan(c[:, [0, *shown]]) for m, c in models.items()},
                "drift": _drift(make, rollout.size if name == "mean" else models["truth"].abs().amax(1), models),
                "rises": {m: asdict(make.estimate(rises(c))) for m, c in models.items()}
                if name in rollout.falling
                else None,
            }
            for name, models in rollout.quantities.items()
        },
        "spectra": {
            "step": rollout.instants,
            **{m: [_numbers(row) for row in rows] for m, rows in rollout.spectra.items()},
            "log_spectral_distance": [
                _number(metrics.log_spectral_distance(own[None], true[None]))
                for own, true in zip(rollout.spectra["surrogate"], rollout.spectra["truth"], strict=True)
            ],
        },
        "ended": [
            {"sample": i, "step": int(rollout.ended[i]), "reason": REASONS[int(code) - 1]}
            for i, code in enumerate(rollout.reasons.tolist())
            if code
        ],
        "growth": _growth(make, rollout),
        "power_law": _power_law(make, rollout),
        "balance": _balance(make, rollout),
        "climate": _climate(make, rollout),
        "shown": {"steps": rollout.shown_steps, "samples": rollout.shown_samples},
    }
    section["verdict"], section["text"] = verdicts.stability(section)
    return found, section


def _number(value: Any) -> float | None:
    value = float(value)
    return value if math.isfinite(value) else None


def _numbers(values: Any) -> list[float | None]:
    return [_number(v) for v in values]


def _fan(values: torch.Tensor) -> dict[str, list[float | None]]:
    """Median and the middle four fifths over samples, of each column of `(n, t)`.

    What is infinite, as the error and the correlation of a trajectory that has ended, counts as the worst there is;
    what is unknown, NaN, does not count.
    """
    ranked = values.numpy().astype(np.float64)
    ends = np.full((3, ranked.shape[1]), np.nan)
    some = ~np.isnan(ranked).all(0)
    ends[:, some] = np.nanquantile(ranked[:, some], [0.1, 0.5, 0.9], axis=0, method="nearest")
    return {name: _numbers(row) for name, row in zip(("low", "median", "high"), ends, strict=True)}


def _drift(make: Records, scale: torch.Tensor, models: dict[str, torch.Tensor]) -> Record:
    """How far a quantity is from the truth's at the end of the reference, over those that last, relative to the largest
    the truth has; the mean, which may be zero, relative to the root mean square of the first frame."""
    own, true = models["surrogate"][:, -1], models["truth"][:, -1]
    last = torch.isfinite(own)
    if not last.any() or not (scale[last] > 0).all():
        why = "no trajectory lasts" if not last.any() else "it is always zero"
        return {"mean": None, "ci_low": None, "ci_high": None, "largest": None, "n": int(last.sum()), "reason": why}
    drift = (own[last] - true[last]) / scale[last]
    found = make.estimate(drift)
    ends = {"mean": found.value, "ci_low": found.ci_low, "ci_high": found.ci_high}
    return ends | {"largest": float(drift.abs().max()), "n": found.n, "reason": found.reason}


def rises(curve: torch.Tensor) -> torch.Tensor:
    """Steps at which a quantity that can only fall is larger than before, `(n,)`."""
    return (curve.diff(dim=1) > 0).sum(1).double()


def per_sample(rollout: Rollout) -> dict[str, torch.Tensor]:
    """Figures of the surrogate's whole rollout beside the truth, `(n,)` or, of the balance, of the first few."""
    found = {f"{name}_rises": rises(rollout.quantities[name]["surrogate"]) for name in rollout.falling}
    if (balance := rollout.balance) is not None:
        own, true = (_rms(balance.residual[m]) for m in ("surrogate", "truth"))
        found |= {"residual_ratio": metrics.ratio(own, true), "energy_budget": _rms(balance.budget["surrogate"])}
    return found


def _rms(curves: torch.Tensor) -> torch.Tensor:
    """Over time."""
    return curves.square().mean(1).sqrt()


def _balance(make: Records, rollout: Rollout) -> Record | None:
    """What frames leave over of the equation, root mean square over time: the residual's H^-1 norm over that of true
    frames, and that over the truth's time derivative; the energy budget of both."""
    if (balance := rollout.balance) is None:
        return None
    found = per_sample(rollout)
    floor = metrics.ratio(_rms(balance.residual["truth"]), _rms(balance.rate))
    return {
        "trajectories": len(balance.rate),
        "residual_ratio": asdict(make.estimate(found["residual_ratio"])),
        "truth_residual": asdict(make.estimate(floor)),
        "energy_budget": {m: asdict(make.estimate(_rms(b))) for m, b in balance.budget.items()},
    }


def _power_law(make: Records, rollout: Rollout) -> Record:
    """Exponent of the growth of errors as a power of time, over the trajectories that show one, and show it better than
    an exponential."""
    found, reasons = [], []
    for power, (exponential, _) in zip(rollout.powers, rollout.growth, strict=True):
        if power.rate is None:
            reasons.append(power.reason or "")
        elif exponential.rate is not None and (exponential.r2 or 0) >= (power.r2 or 0):
            reasons.append("errors grow exponentially")
        else:
            found.append(power.rate)
    if len(found) < 2:
        return {"exponent": None, "n": len(found), "tried": len(rollout.powers), "reason": _commonest(reasons)}
    exponent = asdict(make.estimate(torch.tensor(found, dtype=torch.float64)))
    return {"exponent": exponent, "n": len(found), "tried": len(rollout.powers), "reason": None}


def _commonest(reasons: list[str]) -> str:
    return max(reasons, key=reasons.count) if reasons else "fewer than two trajectories"


def _growth(make: Records, rollout: Rollout) -> Record:
    bends = [own.bend for own, _ in rollout.growth if own.bend is not None]
    bend = asdict(make.estimate(torch.tensor(bends, dtype=torch.float64))) if len(bends) > 1 else None
    return _rates(make, rollout) | {"bend": bend}


def _rates(make: Records, rollout: Rollout) -> Record:
    pairs = [
        (own.rate, theirs.rate)
        for own, theirs in rollout.growth
        if theirs is not None and own.rate is not None and theirs.rate is not None
    ]
    if len(pairs) < 2:
        reasons = [own.reason for own, _ in rollout.growth if own.reason]
        reasons += [theirs.reason for own, theirs in rollout.growth if not own.reason and theirs and theirs.reason]
        if any(own.rate is not None and theirs is None for own, theirs in rollout.growth):
            reasons = ["the solver was not run to compare with"]
        why = _commonest(reasons)
        return {"surrogate": None, "solver": None, "excess": None, "n": len(pairs), "reason": why}
    own, theirs = (torch.tensor(v, dtype=torch.float64) for v in zip(*pairs, strict=True))
    return {
        "surrogate": asdict(make.estimate(own)),
        "solver": asdict(make.estimate(theirs)),
        "excess": asdict(compare(own, theirs, make.resamples, make.seed)),
        "n": len(pairs),
        "reason": None,
    }


def _climate(make: Records, rollout: Rollout) -> Record | None:
    """Statistics of the second half of the reference."""
    from scipy.stats import wasserstein_distance

    climate = rollout.climate
    if climate is None:
        return None
    centres = ((climate.edges[1:] + climate.edges[:-1]) / 2).numpy()
    shares = {name: h.numpy() for name, h in climate.histogram.items()}
    mean = (centres * shares["truth"]).sum()
    deviation = math.sqrt(((centres - mean) ** 2 * shares["truth"]).sum())
    distance = None
    if shares["surrogate"].sum() > 0 and deviation > 0:
        distance = wasserstein_distance(centres, centres, shares["surrogate"], shares["truth"]) / deviation
    return {
        "first_step": climate.first,
        "log_spectral_distance": _number(
            metrics.log_spectral_distance(climate.spectrum["surrogate"][None], climate.spectrum["truth"][None])
        ),
        "value_distance": distance,
        "quantities": {
            name: {
                model: asdict(mean_of_series(climate.series[model][name], min(make.resamples, 2000), make.seed))
                for model in climate.series
            }
            for name in climate.series["truth"]
        },
    }


def label_record(values: torch.Tensor) -> Record:
    """Estimated relative L2 error of the labels, over all frames of a trajectory, as the surrogate's is."""
    if not len(values):
        return {"value": None, "maximum": None, "n": 0, "reason": "no label could be solved on a refined grid"}
    if values.ndim == 2:
        values = values[:, 1:].square().mean(1).sqrt()
    return {"value": float(values.mean()), "maximum": float(values.max()), "n": len(values), "reason": None}

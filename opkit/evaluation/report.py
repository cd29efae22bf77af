"""The report: report.json for machines, CSV tables for analysis, report.html (one file, no network) for people."""

import dataclasses
import json
import math
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import opkit
from opkit.errors import ConfigError
from opkit.evaluation import figures, rollout_figures, verdicts
from opkit.evaluation.examples import write_examples
from opkit.evaluation.figures import Picture
from opkit.evaluation.pages import data_url, render_page
from opkit.evaluation.perturbation import PLACES, measure_perturbation
from opkit.evaluation.perturbation_report import gain_picture, perturbation_text, transfer_picture, where
from opkit.evaluation.protocol import Measured, horizon, measure
from opkit.evaluation.records import (
    Records,
    band_records,
    convergence_record,
    error_records,
    label_record,
    resolution_rows,
    rollout_record,
)
from opkit.evaluation.rollout import lengths
from opkit.evaluation.shift import Shifted, measure_shifts, shift_picture, shift_record
from opkit.evaluation.speed import SAMPLES as SPEED_SAMPLES
from opkit.evaluation.speed import measure_speed, pareto_picture, seconds_of_training, speed_text
from opkit.evaluation.tables import write_tables
from opkit.fields import first_index
from opkit.files import foreign, sha256, whole_folder, write_json, write_text
from opkit.pdes import PDE
from opkit.registry import problem_of
from opkit.settings import Data, Evaluation
from opkit.surrogate import Surrogate, record_metrics

SCHEMA_VERSION = "2.0"
FILES = frozenset({"report.json", "report.html", "metrics.csv", "events.csv", "samples.h5", "figures"})
"""What an evaluation's folder holds."""
SPEED_SECONDS = {"quick": 5.0, "standard": 15.0, "full": 60.0}
"""About how long solvers and surrogate are timed."""
PERTURBATION_SECONDS = {"standard": 60.0, "full": 300.0}
"""About how long responses to perturbations are measured."""
PERTURBED = 4
"""Trajectories on which responses to perturbations are measured."""
CONVENTIONS = {
    "norm": "L2 with quadrature weights of the grid (trapezoid on nodes), physical units, float64",
    "rel_l2": "one ratio per sample, channels, frames and space jointly; then the mean over samples",
    "rel_h1": "as rel_l2 with the gradient added: of the bilinear interpolant, spectral on periodic grids",
    "rel_hminus1": "as rel_l2 with every wave but the mean divided by its wavenumber: what is smooth counts most",
    "rel_energy": "Darcy: gradients weighed by the root of the coefficient, the norm the equation itself minimises",
    "nrmse": "per sample, frame and channel root mean square error over root mean square; mean over frames, channels",
    "vrmse": "as nrmse over the standard deviation in space: 1 is what predicting each frame's mean gives",
    "srmse": "as nrmse over one standard deviation of the training data, for fields that decay",
    "rel_linf": "largest absolute error over largest absolute value",
    "max_error": "largest absolute error of a sample, in the unit of the field; then the mean over samples",
    "rmse_low, rmse_mid, rmse_high": "root mean square of the error's waves |k| < 4, 4 to 12, above, in its unit",
    "band_rel, band_amplitude, phase_error": "of the waves of a band alone, of a trajectory's last frame: error over "
    "truth, size over the truth's, and 1 - cosine of the angle between the two, 0 to 2; undefined where the truth "
    "has less than 1e-12 of its energy",
    "residual_ratio": "H^-1 norm of what three frames leave over in the equation, time derivative by central "
    "difference, over that of true frames, root mean square over time: 1 is not to be told from the solver; no "
    "evidence where true frames leave more than a tenth of the rate of change",
    "energy_budget": "energy gained for no reason over energy dissipated, of three frames; root mean square over time",
    "interval": "95%, BCa bootstrap over samples; of times to an event, percentile bootstrap",
    "rel_l2_step": "as rel_l2, of the frame at the step given alone",
    "horizon": "steps rolled out from the frames given, each from the surrogate's own output; rel_l2 is over all",
    "correlation_time": "first time the centred correlation over space is below 0.8 (or the number after @)",
    "valid_time": "first time the error passes 0.4 root mean square deviations of the truth from the training mean",
    "divergence_time": "first time a state is not finite, leaves ten times the training data's bounds, freezes while "
    "the truth moves, has less than a tenth of the true energy, or holds 100 times it, and a thousandth of all, "
    "in the highest third of wavenumbers",
    "value of a time": "mean up to the horizon under the Kaplan-Meier curve, no larger than the true mean; censored is "
    "the share of samples the event did not happen to",
    "label_error": "labels against labels on a refined grid and step, extrapolated by the scheme's order",
    "resolved": "sine or Fourier modes below the Nyquist wavenumber of the training grid",
    "strided, filtered": "how data reach a coarser grid: as values at its points, as in training; or cut to the waves "
    "it holds, of inputs between walls means over cells, of a coefficient harmonic ones",
    "data_accuracy": "relative L2 distance of solutions found on that grid alone from the finest ones; on the finest "
    "grid, as label_error",
    "representation": "relative L2 distance of a call on that grid from one on the training grid, for the same "
    "functions, cut to the waves the latter holds as outputs are",
    "convergence": "the same from each of 1, 2, 4, ... times the intervals of the training grid to the next; the order "
    "is log2 of the last two changes' ratio",
}


def evaluate_surrogate(
    surrogate: Surrogate,
    pde: PDE,
    data: Data,
    evaluation: Evaluation,
    folder: Path,
    bundle: Path,
    workers: int | None = None,
    record: bool = True,
) -> dict[str, Any]:
    """Measure a surrogate, write its report to `folder`, and print the verdicts.

    Args:
        surrogate: The surrogate, on the device to use.
        pde: The problem it was trained on.
        data: Sizes of the test set, and the training set for the mean baseline.
        evaluation: What to look at.
        folder: Becomes the evaluation folder, whole or not at all.
        bundle: Where the surrogate lies.
        workers: Processes for data still to be generated.
        record: Also put the figures into the bundle.

    Returns:
        The content of report.json.
    """
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise ConfigError(f"{folder} is a file or a dead link, where the report is to go. Move it away.")
    if others := foreign(folder, FILES):
        raise ConfigError(
            f"{folder} holds {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}, which no report has, and "
            "would be replaced. Move that away."
        )
    if pde.times is not None:
        lengths(pde, evaluation, surrogate.stepping.history)  # refuses what cannot be rolled out
    previous = _previous_evaluations(folder)
    # Another seed asks for another test set; what the surrogate was trained on its bundle says.
    known = {
        k: surrogate.physics["data"][k] for k in ("seed", "train", "val", "mode") if k in surrogate.physics["data"]
    }
    measured = measure(surrogate, pde, data, evaluation, workers, dataclasses.replace(data, **known))
    seconds = seconds_of_training(folder.parent)
    shifted: list[Shifted] = []
    if evaluation.suite == "full":
        errors = measured.coarse.errors["surrogate"]["rel_l2"]
        shifted = measure_shifts(surrogate, pde, data, errors, min(evaluation.rollouts, data.test), workers)
    more = _further(surrogate, pde, data, evaluation, measured, seconds)
    more["shifts"] = shift_record(Records(evaluation), shifted) if shifted else None
    report = _report(surrogate, pde, data, evaluation, measured, bundle, more)
    report["training_seconds"] = seconds
    report["test_evaluations"] = previous + 1
    with whole_folder(folder) as target:
        write_json(target / "report.json", report)
        write_tables(target, measured, shifted, data.seed)
        write_examples(target / "samples.h5", measured, surrogate, pde, data.seed)
        pictures = _pictures(report, measured, surrogate)
        (target / "figures").mkdir()
        for name, picture in pictures.items():
            (target / "figures" / f"{name}.png").write_bytes(picture.png)
            if evaluation.suite != "quick":
                write_text(target / "figures" / f"{name}.svg", picture.svg())
        write_text(target / "report.html", _html(report, pictures, _animations(measured, surrogate), surrogate))
    if record:
        record_metrics(bundle, {k: report[k] for k in ("metrics", "verdicts", "super_resolution", "conventions")})
    for verdict in report["verdicts"]:
        print(verdict["text"])
    print(f"report: {folder / 'report.html'}")
    return report


def _further(
    surrogate: Surrogate,
    pde: PDE,
    data: Data,
    evaluation: Evaluation,
    measured: Measured,
    training: float | None,
) -> dict[str, dict[str, Any] | None]:
    """Sections of the report beside errors and rollouts, as far as the suite has them."""
    suite, steps = evaluation.suite, horizon(pde, surrogate.stepping)
    count = len(measured.inputs)

    def fine(problem: PDE) -> torch.Tensor:
        return problem.sample(min(count, SPEED_SAMPLES), data.seed, first_index("test"))

    seconds = SPEED_SECONDS[suite] if evaluation.timing is None else evaluation.timing
    speed = perturbation = None
    if seconds > 0:
        speed = measure_speed(
            surrogate, pde, measured.inputs, measured.truth, steps, budget=seconds, fine=fine, training=training
        ).record()
    if steps is not None and suite != "quick":
        truth, own = _trajectories(surrogate, pde, measured, steps)
        found = measure_perturbation(
            surrogate, pde, truth, own, steps,
            seed=evaluation.seed, quick=suite != "full", budget=PERTURBATION_SECONDS[suite],
        )  # fmt: skip
        perturbation = found.record()
    return {"speed": speed, "perturbation": perturbation}


def _trajectories(surrogate: Surrogate, pde: PDE, measured: Measured, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A few true trajectories and the surrogate's own, far beyond them, `(n, t, c, *x)`, constants appended."""
    given = surrogate.stepping.history * len(pde.outputs)
    inputs = measured.inputs[:PERTURBED]
    first = inputs[:, :given].unflatten(1, (-1, len(pde.outputs)))
    later = measured.truth[:PERTURBED].unflatten(1, (steps, -1))
    own = surrogate.rollout(inputs, max(PLACES) * steps)

    def whole(frames: torch.Tensor) -> torch.Tensor:
        constants = inputs[:, None, given:].expand(-1, frames.shape[1], *inputs[:, given:].shape[1:])
        return torch.cat([frames, constants], 2)

    return whole(torch.cat([first, later], 1)), whole(torch.cat([first, own], 1))


def _report(
    surrogate: Surrogate,
    pde: PDE,
    data: Data,
    evaluation: Evaluation,
    measured: Measured,
    bundle: Path,
    more: dict[str, dict[str, Any] | None],
) -> dict[str, Any]:
    make = Records(evaluation, surrogate.physics.get("units", ""))
    steps_ahead, dt = horizon(pde, surrogate.stepping), surrogate.physics.get("time_step")
    ndim, mode = pde.grid.ndim, surrogate.model.operator.resolution

    metrics = error_records(make, measured, steps_ahead)
    training = next(m for m in metrics if m["model"] == "surrogate")
    own = [m for m in metrics if m["resolution"] == pde.resolution]
    baselines = [m for m in own if m["name"] == "rel_l2" and m["model"] in ("mean", "persistence")]
    useless = verdicts.is_useless(training, baselines)
    rows, resolved, home = resolution_rows(make, measured, steps_ahead, dt, mode, ndim, useless)
    rollout = None
    if measured.rollout is not None:
        found, rollout = rollout_record(make, measured.rollout)
        metrics += found

    by_step = [m for m in own if m["name"] == "rel_l2_step" and m["model"] == "surrogate"]
    label = label_record(measured.label_error)
    accuracy = verdicts.accuracy_text(training, baselines, ndim, by_step)
    statements = [
        {"name": "accuracy", "verdict": "useless" if useless else "measured", "text": accuracy},
        verdicts.label_verdict(training, label),
    ]
    if rollout is not None:
        statements.append({"name": "stability", "verdict": rollout["verdict"], "text": rollout["text"]})
    if (perturbation := more["perturbation"]) is not None:
        found_text = perturbation_text(perturbation)
        statements.append({"name": "perturbation", "verdict": "measured", "text": found_text})
    statements += [
        {"name": f"super_resolution@{row['resolution']}", "verdict": row["verdict"], "text": row["text"]}
        for row in rows
    ]
    if (speed := more["speed"]) is not None:
        statements.append({"name": "speed", "verdict": speed["verdict"], "text": speed_text(speed)})
    if (shifts := more["shifts"]) is not None:
        if useless:
            shifts |= {"verdict": "does not hold", "text": "What is useless on its own test set holds nowhere else."}
        statements.append({"name": "shifts", "verdict": shifts["verdict"], "text": shifts["text"]})
    return {
        "schema_version": SCHEMA_VERSION,
        "pde": pde.equation,
        "model": surrogate.architecture.name,
        "parameters": sum(p.numel() for p in surrogate.model.parameters()),
        "training_resolution": pde.resolution,
        "training_grid": verdicts.size(pde.resolution, ndim),
        "resolution_mode": mode,
        "stepping": None if pde.times is None else asdict(surrogate.stepping),
        "horizon": steps_ahead,
        "label_error": label,
        "verdicts": statements,
        "metrics": metrics,
        "bands": band_records(make, measured),
        "super_resolution": rows,
        "resolved_at_training": asdict(resolved),
        "at_training": home,
        "convergence": convergence_record(measured, pde.grid),
        "rollout": rollout,
        "checks": {
            name: {model: asdict(make.estimate(found[name])) for model, found in measured.checks.items()}
            for name in measured.checks.get("truth", {})
        },
        **more,
        "samples": [
            {"role": s.role, "index": s.index, "rel_l2": s.error if math.isfinite(s.error) else None}
            for s in measured.samples
        ],
        "conventions": CONVENTIONS,
        "data": {"keys": measured.keys, "seed": data.seed, "test": data.test, "test_fine": data.test_fine},
        "weights_sha256": sha256(bundle / "model.safetensors"),
        "settings": {"data": asdict(data), "evaluation": asdict(evaluation)},
        "software": {"opkit": opkit.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "hardware": {
            "device": _device_name(surrogate.device),
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _previous_evaluations(folder: Path) -> int:
    """How often the test split has been looked at before, by an earlier report's own count."""
    try:
        return int(json.loads((folder / "report.json").read_text(encoding="utf-8"))["test_evaluations"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _pictures(report: dict[str, Any], measured: Measured, surrogate: Surrogate) -> dict[str, Picture]:
    """Pictures by name."""
    spec, states = surrogate.spec, problem_of(surrogate.physics).spec
    pictures = {
        "samples": figures.samples(measured, states.inputs, states.outputs, spec.grid, report["horizon"]),
        "resolution": figures.error_by_resolution(report["super_resolution"], report["at_training"]["surrogate"]),
        "spectra": figures.spectra(measured, spec.grid),
        "distribution": figures.distribution(measured),
    }
    if (section := report["rollout"]) is not None:
        if section["reference_steps"] > 1:
            pictures["rollout"] = rollout_figures.error_fan(section)
            pictures["survival"] = rollout_figures.correlation_and_survival(section)
            pictures["drift"] = rollout_figures.drift(section)
        pictures["rollout_spectra"] = rollout_figures.spectra_over_time(section)
    if report["perturbation"] is not None:
        pictures["gain"] = gain_picture(report["perturbation"])
        if (transfer := transfer_picture(report["perturbation"])) is not None:
            pictures["transfer"] = transfer
    if report["speed"] is not None and report["speed"]["settings"]:
        pictures["speed"] = pareto_picture(report["speed"])
    if report["shifts"] is not None:
        pictures["shifts"] = shift_picture(report["shifts"])
    return pictures


def _animations(measured: Measured, surrogate: Surrogate) -> list[dict[str, Any]]:
    rollout = measured.rollout
    if rollout is None or len(rollout.shown_steps) < 2:
        return []
    found = []
    for row, (sample, role) in enumerate(zip(rollout.shown_samples, ("median", "worst"), strict=False)):
        made = rollout_figures.animation(rollout, surrogate.spec.grid, row)
        shown = {"sample": sample, "role": role, "steps": json.dumps(rollout.shown_steps), "src": data_url(made.png)}
        found.append(shown | {name: getattr(made, name) for name in ("width", "height", "low", "high", "most")})
    return found


RESPONSES = {
    "low_singular_value": "worst of the lowest waves, a step",
    "singular_value": "worst of all, a step",
    "worst": "worst of 1%, {steps}",
    "random": "random of 1%, {steps}",
    "growth": "rate of the worst of all over {steps}, per time",
    "radius": "per step in the long run (spectral radius)",
    "non_normality": "worst over that (non-normality)",
    "powers": "worst in up to {powers} steps, the state held",
}
"""Growth of perturbations, figures of `opkit.evaluation.perturbation.Response`, in words."""


def _responses(record: dict[str, Any] | None) -> dict[str, Any]:
    """The table of responses: columns of figures that are known, and rows of states, of surrogate and solver."""
    sets = {} if record is None else {"true": record["true"], **record["own"]}
    if record is None or not sets:
        return {"columns": [], "rows": []}
    steps, rows = record["applications"], []
    words = {"steps": f"{steps} steps" if steps > 1 else "a step", "powers": record["powers"][-1]}
    shown = [n for n in RESPONSES if any(_largest(r[n]) for pair in sets.values() for r in pair.values())]
    for kind, pair in sets.items():
        for who, response in pair.items():
            name = where(record, kind) + (", solver" if who == "solver" else "")
            rows.append((name, [_largest(response[n]) or "\u2013" for n in shown]))
    return {"columns": [RESPONSES[n].format(**words) for n in shown], "rows": rows}


def _largest(values: float | list[float | None] | None) -> str | None:
    known = [v for v in (values if isinstance(values, list) else [values]) if v is not None]
    return f"{max(known):.3g}" if known else None


def shown_conventions(report: dict[str, Any]) -> dict[str, str]:
    """Those of `CONVENTIONS` that the report's page speaks of: of metrics, the ones it has."""
    known = {m["name"].partition("@")[0] for m in report["metrics"]} | {
        "norm", "interval", "label_error", "resolved", "strided", "data_accuracy", "representation", "convergence"
    }  # fmt: skip
    if report["bands"]:
        known.add("band_rel")
    if report["horizon"]:
        known |= {"horizon", "value of a time"}
    return {names: text for names, text in CONVENTIONS.items() if known & set(names.split(", "))}


def _html(
    report: dict[str, Any], pictures: dict[str, Picture], animations: list[dict[str, Any]], surrogate: Surrogate
) -> str:
    spec, balance = surrogate.spec, (report["rollout"] or {}).get("balance")
    own = [m for m in report["metrics"] if m["resolution"] == report["training_resolution"]]
    errors = {m["name"] for m in own if m["model"] == "mean"}  # what has baselines to stand beside
    table: dict[str, dict[str, Any]] = {}
    for m in own:
        if m["horizon"] == report["horizon"] and m["name"] in errors and m["name"] != "rel_l2_step":
            table.setdefault(m["name"], {})[m["model"]] = m
    return render_page(
        "report.html.j2",
        "report.js",
        report=report,
        table=table,
        questions=verdicts.QUESTIONS,
        responses=_responses(report["perturbation"]),
        physics=surrogate.physics,
        channels=(", ".join(spec.inputs), ", ".join(spec.outputs)),
        training=report["metrics"][0],
        mode=verdicts.MODES[report["resolution_mode"]],
        restriction=verdicts.restriction_text(report["at_training"]),
        pictures={name: data_url(picture.png) for name, picture in pictures.items()},
        animations=animations,
        bars=[data_url(bar) for bar in rollout_figures.colour_bars()] if animations else [],
        conventions=shown_conventions(report),
        balance=None if not balance else verdicts.balance_text(balance, report["rollout"]["time_step"]),
        other_models={name: figures.LABEL.get(name, name) for name in table["rel_l2"] if name != "surrogate"},
    )

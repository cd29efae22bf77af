"""The report: report.json for machines, metrics.csv for analysis, report.html (one file, no network) for people."""

import base64
import csv
import math
import operator
import os
import platform
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import opkit
from opkit.errors import ConfigError, GateError
from opkit.evaluation import figures, verdicts
from opkit.evaluation.protocol import ERRORS, Grids, Measured, horizon, measure
from opkit.evaluation.statistics import Estimate, gain_with_interval, mean_with_interval
from opkit.files import sha256, whole_folder, write_json, write_text
from opkit.pdes import PDE
from opkit.registry import problem_of, suggest
from opkit.settings import Data, Evaluation
from opkit.surrogate import Surrogate, record_metrics

SCHEMA_VERSION = "1.0"
CONVENTIONS = {
    "norm": "L2 with quadrature weights of the grid (trapezoid on nodes), physical units, float64",
    "rel_l2": "one ratio per sample, channels and space jointly; then the mean over samples",
    "rel_h1": "as rel_l2 with the gradient added: of the bilinear interpolant, spectral on periodic grids",
    "max_error": "largest absolute error of a sample, in the unit of the field; then the mean over samples",
    "interval": "95%, BCa bootstrap over samples",
    "rel_l2_step": "as rel_l2, of the frame at the horizon alone",
    "horizon": "steps rolled out from the frames given, each from the surrogate's own output; rel_l2 is over all",
    "label_error": "labels against labels on a refined grid and step, extrapolated by the scheme's order",
    "resolved": "sine or Fourier modes below the Nyquist wavenumber of the training grid",
}
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Steps whose own error is reported, besides the last."""
GATE = re.compile(r"\s*([a-z0-9_]+)(?:@(\d+))?\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*")
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


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
    previous = _previous_evaluations(folder)
    measured = measure(surrogate, pde, data, evaluation, workers)
    report = _report(surrogate, pde, data, evaluation, measured, bundle)
    report["test_evaluations"] = previous + 1
    with whole_folder(folder) as target:
        write_json(target / "report.json", report)
        _write_table(target / "metrics.csv", measured, data.seed)
        pictures = _pictures(report, measured, surrogate)
        (target / "figures").mkdir()
        for name, png in pictures.items():
            (target / "figures" / f"{name}.png").write_bytes(png)
        write_text(target / "report.html", _html(report, pictures, surrogate))
    if record:
        record_metrics(bundle, {k: report[k] for k in ("metrics", "verdicts", "super_resolution", "conventions")})
    for verdict in report["verdicts"]:
        print(verdict["text"])
    print(f"report: {folder / 'report.html'}")
    return report


def _report(
    surrogate: Surrogate, pde: PDE, data: Data, evaluation: Evaluation, measured: Measured, bundle: Path
) -> dict[str, Any]:
    unit = surrogate.physics.get("units", "")
    steps_ahead = horizon(pde, surrogate.stepping)
    ndim = pde.grid.ndim
    mode = surrogate.model.operator.resolution

    def estimate(values: torch.Tensor) -> Estimate:
        return mean_with_interval(values.cpu(), evaluation.resamples, evaluation.seed)

    def record(grids: Grids, model: str, name: str) -> dict[str, Any]:
        figures = asdict(estimate(grids.errors[model][name]))
        out = {
            "name": name,
            **figures,
            "split": "test",
            "resolution": grids.resolution,
            "horizon": steps_ahead,
            "model": model,
        }
        return out | ({"unit": unit} if name == "max_error" else {})

    def step_record(model: str, step: int) -> dict[str, Any]:
        values = asdict(estimate(measured.coarse.steps[model][:, step - 1]))
        place = {"split": "test", "resolution": pde.resolution, "horizon": step, "model": model}
        return {"name": "rel_l2_step", **values, **place}

    metrics = [record(measured.coarse, model, name) for model in measured.coarse.errors for name in ERRORS]
    steps = [h for h in STEPS if h < (steps_ahead or 0)] + ([steps_ahead] if steps_ahead else [])
    metrics += [step_record(model, h) for model in measured.coarse.steps for h in steps]
    for grids in measured.fine:
        metrics += [record(grids, m, name) for m in ("surrogate", "interpolation", "mean") for name in ERRORS]
    training = next(m for m in metrics if m["model"] == "surrogate")
    resolved_at_training = estimate(measured.coarse.scales["resolved"])

    own = [m for m in metrics if m["resolution"] == pde.resolution]
    baselines = [m for m in own if m["name"] == "rel_l2" and m["model"] != "surrogate"]
    useless = verdicts.is_useless(training, baselines)

    rows = []
    for grids in measured.fine:
        row: dict[str, Any] = {"resolution": grids.resolution}
        for model in ("surrogate", "interpolation", "oracle"):
            row[model] = record(grids, model, "rel_l2")
        scales = {name: estimate(values) for name, values in grids.scales.items()}
        scales |= gains(grids, evaluation)
        row["verdict"] = verdicts.super_resolution(
            scales["gain"], scales["unresolved gain"], scales["surrogate resolved"], resolved_at_training, useless
        )
        row["scales"] = {name.replace(" ", "_"): asdict(value) for name, value in scales.items()}
        row["text"] = verdicts.resolution_text(row, pde.resolution, ndim, mode, useless)
        rows.append(row)

    by_step = [m for m in own if m["name"] == "rel_l2_step" and m["model"] == "surrogate"]
    label = _label_error(measured.label_error)
    statements: list[dict[str, Any]] = [
        {"name": "accuracy", "verdict": "measured", "text": verdicts.accuracy_text(training, baselines, ndim, by_step)},
        verdicts.label_verdict(training, label),
    ]
    statements += [
        {"name": f"super_resolution@{row['resolution']}", "verdict": row["verdict"], "text": row["text"]}
        for row in rows
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "pde": pde.equation,
        "model": surrogate.architecture.name,
        "training_resolution": pde.resolution,
        "training_grid": verdicts.size(pde.resolution, ndim),
        "resolution_mode": mode,
        "stepping": None if pde.times is None else asdict(surrogate.stepping),
        "horizon": steps_ahead,
        "label_error": label,
        "verdicts": statements,
        "metrics": metrics,
        "super_resolution": rows,
        "resolved_at_training": asdict(resolved_at_training),
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


def _label_error(values: torch.Tensor) -> dict[str, Any]:
    """Estimated relative L2 error of the labels, over all frames of a trajectory, as the surrogate's is."""
    if not len(values):
        return {"value": None, "maximum": None, "n": 0, "reason": "no label could be solved on a refined grid"}
    if values.ndim == 2:
        values = values[:, 1:].square().mean(1).sqrt()
    return {"value": float(values.mean()), "maximum": float(values.max()), "n": len(values), "reason": None}


def gains(grids: Grids, evaluation: Evaluation) -> dict[str, Estimate]:
    """`gain` over interpolation, and `unresolved gain` over predicting nothing of the unresolved scales."""
    pairs = {
        "gain": (grids.errors["surrogate"]["rel_l2"], grids.errors["interpolation"]["rel_l2"]),
        "unresolved gain": (grids.scales["surrogate unresolved"], grids.scales["truth unresolved"]),
    }
    return {
        name: gain_with_interval(own.cpu(), other.cpu(), evaluation.resamples, evaluation.seed)
        for name, (own, other) in pairs.items()
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _previous_evaluations(folder: Path) -> int:
    """How often the test split has been looked at before, by an earlier report's own count."""
    import json

    try:
        return int(json.loads((folder / "report.json").read_text(encoding="utf-8"))["test_evaluations"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _write_table(path: Path, measured: Measured, seed: int) -> None:
    """Tidy and long: one row per sample, model, grid and metric."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sample", "seed", "resolution", "horizon", "model", "metric", "value"])
        ahead = measured.coarse.steps["surrogate"].shape[1] if measured.coarse.steps else ""
        for grids in [measured.coarse, *measured.fine]:
            for model, errors in grids.errors.items():
                for name, values in errors.items():
                    for i, value in enumerate(values.tolist()):
                        writer.writerow([i, seed, grids.resolution, ahead, model, name, f"{value:.8g}"])
            for model, steps in grids.steps.items():
                for i, values in enumerate(steps.tolist()):
                    for step, value in enumerate(values, 1):
                        writer.writerow([i, seed, grids.resolution, step, model, "rel_l2_step", f"{value:.8g}"])


def _pictures(report: dict[str, Any], measured: Measured, surrogate: Surrogate) -> dict[str, bytes]:
    """PNG files by name."""
    spec, states = surrogate.spec, problem_of(surrogate.physics).spec
    pictures = {
        "samples": figures.samples(measured, states.inputs, states.outputs, spec.grid, report["horizon"]),
        "resolution": figures.error_by_resolution(report["super_resolution"], report["metrics"][0]),
        "spectra": figures.spectra(measured, spec.grid),
        "distribution": figures.distribution(measured),
    }
    if (report["horizon"] or 0) > 1:
        pictures["steps"] = figures.error_by_step(measured, report["label_error"]["value"])
    return pictures


def _html(report: dict[str, Any], pictures: dict[str, bytes], surrogate: Surrogate) -> str:
    import jinja2

    spec = surrogate.spec

    def picture(png: bytes) -> str:
        return "data:image/png;base64," + base64.b64encode(png).decode()

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("opkit.evaluation", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = verdicts.percent
    environment.filters["number"] = lambda v: "undefined" if v is None else f"{v:.3g}"
    return environment.get_template("report.html.j2").render(
        report=report,
        physics=surrogate.physics,
        parameters=sum(p.numel() for p in surrogate.model.parameters()),
        channels=(", ".join(spec.inputs), ", ".join(spec.outputs)),
        training=report["metrics"][0],
        mode=verdicts.MODES[report["resolution_mode"]],
        pictures={name: picture(png) for name, png in pictures.items()},
    )


Condition = tuple[str, int, str, float]
"""Metric, grid, comparison, bound."""


def parse_gate(text: str, grids: tuple[int, ...]) -> list[Condition]:
    """Conditions of a gate such as "rel_l2<0.02,rel_l2@211<0.03".

    Args:
        text: The gate.
        grids: Resolutions that will be measured, the training grid first; a condition without one means that.

    Raises:
        ConfigError: It is not of that form, or names a metric or grid that will not be measured.
    """
    conditions = []
    for part in text.split(","):
        match = GATE.fullmatch(part)
        try:
            if match is None:
                raise ValueError
            conditions.append((match[1], int(match[2] or grids[0]), match[3], float(match[4])))
        except ValueError:
            raise ConfigError(
                f'gate={text!r}: cannot read {part.strip()!r}. Write conditions such as "rel_l2<0.02" or '
                '"rel_l2@211<=0.03", separated by commas.'
            ) from None
    for name, resolution, _, _ in conditions:
        if name not in ERRORS or resolution not in grids:
            raise ConfigError(
                f"gate={text!r}: {name}@{resolution} is not measured here; measured are {', '.join(ERRORS)} on grids "
                f"{', '.join(map(str, grids))}.{suggest(name, list(ERRORS)) if name not in ERRORS else ''}"
            )
    return conditions


def check_gate(conditions: list[Condition], report: dict[str, Any]) -> None:
    """Compare a report with a gate.

    Raises:
        GateError: A condition that does not hold.
    """
    own = {(m["name"], m["resolution"]): m["value"] for m in report["metrics"] if m["model"] == "surrogate"}
    failed = []
    for name, resolution, comparison, bound in conditions:
        value = own[name, resolution]
        if value is None or not COMPARE[comparison](value, bound):
            measured = "undefined" if value is None else f"{value:.4g}"
            failed.append(f"{name}@{resolution} is {measured}, not {comparison} {bound:g}")
    if failed:
        raise GateError("gate failed: " + "; ".join(failed))
    print("gate passed", file=sys.stderr)

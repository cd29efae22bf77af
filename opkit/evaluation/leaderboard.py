"""Several evaluated runs side by side: `python evaluate.py runs/a runs/b runs/c`.

Every run's own report and tables are read; those that have none, or whose report does not fit their weights, are
evaluated first. Runs are compared on the same test samples only. The best by mean rel_l2 is the one the others are
compared with, sample by sample: a difference counts where its permutation test, corrected after Holm for the number of
runs, says so at 5 percent. What is not distinguishable from the best is marked as being as good.
"""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from opkit.errors import ConfigError
from opkit.evaluation import verdicts
from opkit.evaluation.statistics import compare, holm, mean_over_runs
from opkit.files import read_json, whole_folder, write_json, write_text

LEVEL = 0.05
COLUMNS = {
    "rank": "", "run": "run", "model": "model", "parameters": "parameters", "training_seconds": "training, s",
    "rel_l2": "rel_l2", "interval": "95% interval", "verdict": "against the best", "stability": "stability",
    "correlation_time": "correlation time", "divergence_time": "divergence time", "resolution": "finer grids",
    "speed": "against the solver",
}  # fmt: skip


def leaderboard(runs: dict[str, list[Path]], target: Path, resamples: int, seed: int) -> dict[str, Any]:
    """Compare evaluated runs, and write leaderboard.json, .csv and .html.

    Args:
        runs: By the name to show, the directories with an `evaluation/`: one, or one per seed of the same run.
        target: Folder to write, whole or not at all.
        resamples: Of the intervals and permutation tests.
        seed: Of these.

    Returns:
        The content of leaderboard.json.

    Raises:
        ConfigError: The runs were not tested on the same samples.
    """
    reports = {
        name: [read_json(folder / "evaluation" / "report.json", _unreadable) for folder in folders]
        for name, folders in runs.items()
    }
    _check_same_test({str(f): r for name, folders in runs.items() for f, r in zip(folders, reports[name], strict=True)})
    errors = {
        name: np.stack([_errors(folder, report) for folder, report in zip(folders, reports[name], strict=True)])
        for name, folders in runs.items()
    }
    rows = [_row(name, found) for name, found in reports.items()]
    for row in rows:
        if row["seeds"] > 1:
            row["rel_l2"] = asdict(mean_over_runs(errors[row["run"]], resamples, seed))
    defined = [r for r in rows if r["rel_l2"]["value"] is not None]
    best = min(defined, key=lambda r: r["rel_l2"]["value"]) if defined else None
    others = [r for r in defined if r is not best]
    if best is not None:
        means = {name: values.mean(0) for name, values in errors.items()}
        found = [compare(means[r["run"]], means[best["run"]], resamples, seed) for r in others]
        for row, comparison, p in zip(others, found, holm([c.p for c in found]), strict=True):
            row["difference"] = asdict(comparison) | {"p_holm": p}
            row["verdict"] = "worse" if p < LEVEL else "as good"
        best["verdict"] = "best" if all(r["verdict"] == "worse" for r in others) else "as good"
    rows.sort(key=lambda r: (r["rel_l2"]["value"] is None, r["rel_l2"]["value"] or 0.0))
    first = next(iter(reports.values()))[0]
    content = {
        "pde": first["pde"],
        "test": {"key": first["data"]["keys"][str(first["training_resolution"])], "seed": first["data"]["seed"]},
        "n": next(iter(errors.values())).shape[1],
        "horizon": first["horizon"],
        "resolution": first["training_resolution"],
        "level": LEVEL,
        "runs": rows,
    }
    with whole_folder(target) as folder:
        write_json(folder / "leaderboard.json", content)
        with open(folder / "leaderboard.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(COLUMNS))
            writer.writeheader()
            writer.writerows(cells(row, i) for i, row in enumerate(rows, 1))
        write_text(folder / "leaderboard.html", _html(content))
    return content


def is_evaluated(folder: Path, weights: str) -> bool:
    """Whether a folder has a report, with all it needs, of these weights."""
    try:
        report = json.loads((folder / "evaluation" / "report.json").read_text(encoding="utf-8"))
        with open(folder / "evaluation" / "metrics.csv", newline="", encoding="utf-8") as file:
            return report["weights_sha256"] == weights and "step" in next(csv.reader(file))
    except (OSError, ValueError, KeyError, StopIteration):
        return False


def _unreadable(why: str) -> ConfigError:
    return ConfigError(f"{why}. Evaluate that run again by itself.")


def _check_same_test(reports: dict[str, dict[str, Any]]) -> None:
    def split(report: dict[str, Any]) -> dict[str, Any]:
        data = report["data"]
        return {
            "equation": report["pde"],
            "training grid": report["training_grid"],
            "test data": data["keys"][str(report["training_resolution"])],
            "data.seed": data["seed"],
            "data.test": data["test"],
            "horizon": report["horizon"],
        }

    (first, known), *others = ((name, split(report)) for name, report in reports.items())
    for name, found in others:
        for what, value in found.items():
            if value != known[what]:
                raise ConfigError(
                    f"{first} and {name} were not tested on the same samples: {what} is {known[what]} there and "
                    f"{value} here. Errors on different tests cannot be compared; evaluate both on one, with the same "
                    "data.test and data.seed, or train them on the same --pde."
                )


def _errors(folder: Path, report: dict[str, Any]) -> np.ndarray:
    """rel_l2 of every test sample on the training grid."""
    found = {}
    with open(folder / "evaluation" / "metrics.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            where = (row["metric"], row["model"], row["resolution"])
            if where == ("rel_l2", "surrogate", str(report["training_resolution"])):
                found[int(row["sample"])] = float(row["value"])
    return np.array([found[i] for i in sorted(found)])


def _row(name: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one run; of several seeds those of the first, but for what all must keep and the error."""
    report = reports[0]
    own = [
        m for m in report["metrics"] if m["model"] == "surrogate" and m["resolution"] == report["training_resolution"]
    ]

    def metric(which: str) -> dict[str, Any] | None:
        return next((m for m in own if m["name"] == which), None)

    return {
        "run": name,
        "model": report["model"],
        "seeds": len(reports),
        "parameters": report["parameters"],
        "training_seconds": report.get("training_seconds"),
        "rel_l2": metric("rel_l2"),
        "difference": None,
        "verdict": "undefined",
        "stability": _worst([r["rollout"]["verdict"] for r in reports if r["rollout"]]),
        "correlation_time": metric("correlation_time"),
        "divergence_time": metric("divergence_time"),
        "resolution": {str(r["resolution"]): r["verdict"] for r in report["super_resolution"]},
        "speed": (report.get("speed") or {}).get("verdict"),
    }


def _worst(verdicts: list[str]) -> str | None:
    order = ("diverges", "drifts", "stays bounded")
    return min(verdicts, key=order.index, default=None)


def cells(row: dict[str, Any], rank: int) -> dict[str, str]:
    """A row in words."""

    def time(name: str) -> str:
        found = row[name]
        if found is None:
            return "-"
        return ("at least " if found["censored"] > 0 else "") + f"{found['value']:.3g}"

    verdict_of = row["resolution"]
    grids = ", ".join(f"{r}: {verdict}" for r, verdict in verdict_of.items())
    if len(set(verdict_of.values())) == 1:
        grids = next(iter(verdict_of.values()))
    seconds = row["training_seconds"]
    error = row["rel_l2"]
    return {
        "rank": str(rank),
        "run": row["run"] + (f" ({row['seeds']} seeds)" if row["seeds"] > 1 else ""),
        "model": row["model"],
        "parameters": f"{row['parameters']:,}",
        "training_seconds": "-" if seconds is None else f"{seconds:.0f}",
        "rel_l2": verdicts.percent(error["value"]),
        "interval": verdicts.interval(error).removeprefix("95% interval ").replace(" to ", " - "),
        "verdict": row["verdict"],
        "stability": row["stability"] or "-",
        "correlation_time": time("correlation_time"),
        "divergence_time": time("divergence_time"),
        "resolution": grids,
        "speed": row["speed"] or "-",
    }


def shown_columns(rows: list[dict[str, str]]) -> list[str]:
    """Those that say something of at least one run."""
    return [name for name in COLUMNS if any(row[name] != "-" for row in rows)]


def summary(content: dict[str, Any]) -> str:
    """One sentence on how the comparison ended."""
    rows = content["runs"]
    alike = [r["run"] for r in rows if r["verdict"] in ("best", "as good")]
    over = f" over {content['horizon']} steps" if content["horizon"] else ""
    on = f"On the {content['n']} test samples they share, relative L2 error{over}"
    if not alike:
        return f"{on}: undefined for every run."
    if len(alike) == 1:
        return f"{on}: {alike[0]} is best; the others differ from it by more than chance (5%, Holm)."
    return f"{on}: {', '.join(alike)} cannot be told apart (5%, Holm); none of them is called the best."


def show(content: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    rows = [cells(row, i) for i, row in enumerate(content["runs"], 1)]
    table = Table(box=None, pad_edge=False)
    for name in shown_columns(rows):
        table.add_column(COLUMNS[name], overflow="fold")
    for row in rows:
        strong = "bold" if row["verdict"] == "best" else None
        table.add_row(*(row[name] for name in shown_columns(rows)), style=strong)
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    console.print(table)


def _html(content: dict[str, Any]) -> str:
    import base64
    import hashlib

    import jinja2

    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    rows = [cells(row, i) for i, row in enumerate(content["runs"], 1)]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("opkit.evaluation", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("leaderboard.html.j2").render(
        content=content, rows=rows, columns={n: COLUMNS[n] for n in shown_columns(rows)}, style=style,
        text=summary(content), policy=f"default-src 'none'; style-src 'sha256-{digest}'",
    )  # fmt: skip

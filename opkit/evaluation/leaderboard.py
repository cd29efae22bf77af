"""Several evaluated runs side by side: `python evaluate.py runs/a runs/b runs/c`.

Every run's own report and tables are read; those that have none, or whose report does not fit their weights, are
evaluated first. Runs are compared on the same test samples only, and rollouts of the same length. A run is worse than
the one with the smallest mean rel_l2 where the test of their difference says so at 5 percent, corrected after Holm for
all pairs: which one is smallest is known from the same samples. What cannot be told from it is as good.

A directory of one run stands for its weights, one of three seeds or more for its configuration: a difference between
two configurations must be larger than what other seeds would change, see `opkit.evaluation.statistics.compare_runs`.
"""

import csv
import errno
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from opkit.errors import ConfigError
from opkit.evaluation import verdicts
from opkit.evaluation.pages import render_page
from opkit.evaluation.statistics import ENOUGH_RUNS, compare_runs, holm, mean_over_runs, spread_of_runs
from opkit.files import foreign, read_json, whole_folder, write_json, write_text

FILES = frozenset({"leaderboard.json", "leaderboard.csv", "leaderboard.html"})
"""What a comparison's folder holds."""
LEVEL = 0.05
COLUMNS = {
    "rank": "", "run": "run", "rel_l2": "rel_l2", "interval": "95% interval", "spread": "std over seeds",
    "verdict": "against the best",
    "stability": "stability", "correlation_time": "correlation time", "divergence_time": "divergence time",
    "resolution": "finer grids", "speed": "against the solver", "model": "model", "parameters": "parameters",
    "training_seconds": "training, s",
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
        ConfigError: The runs were not tested on the same samples, or the folder holds something else.
    """
    check_target(target)
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
            row["rel_l2"] = asdict(mean_over_runs(errors[row["run"]]))
            row["spread"] = spread_of_runs(errors[row["run"]])
    rows.sort(key=lambda r: (r["rel_l2"]["value"] is None, r["rel_l2"]["value"] or 0.0))
    _compare_all([r for r in rows if r["rel_l2"]["value"] is not None], errors, resamples, seed)
    alike = len({(r["rollout"] or {}).get("reference_steps") for found in reports.values() for r in found}) == 1
    alike &= len({(r["rollout"] or {}).get("steps") for found in reports.values() for r in found}) == 1
    for row in rows if not alike else []:
        row |= {"stability": None, "correlation_time": None, "divergence_time": None}
    first = next(iter(reports.values()))[0]
    content = {
        "pde": first["pde"],
        "test": {"key": first["data"]["keys"][str(first["training_resolution"])], "seed": first["data"]["seed"]},
        "n": next(iter(errors.values())).shape[1],
        "horizon": first["horizon"],
        "resolution": first["training_resolution"],
        "level": LEVEL,
        "same_rollouts": alike,
        "runs": rows,
    }
    with _writable(target), whole_folder(target) as folder:
        write_json(folder / "leaderboard.json", content)
        with open(folder / "leaderboard.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(COLUMNS))
            writer.writeheader()
            writer.writerows(cells(row, i) for i, row in enumerate(rows, 1))
        write_text(folder / "leaderboard.html", _html(content))
    return content


@contextmanager
def _writable(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        why = f"output={target} cannot be made: {problem.strerror}. Give a place you can write to."
        raise ConfigError(why) from None


def check_target(target: Path) -> None:
    """Refuse a folder that holds anything but an earlier comparison: it will be replaced as a whole.

    Raises:
        ConfigError: It does, or is no folder.
    """
    if target.exists() and not target.is_dir():
        raise ConfigError(f"output={target} is a file; give the folder the comparison is to become.")
    if others := foreign(target, FILES):
        raise ConfigError(
            f"output={target} holds something that is no comparison ({others[0]}), and would be replaced. Give a "
            "folder that is empty or not there."
        )


def _compare_all(rows: list[dict[str, Any]], errors: dict[str, np.ndarray], resamples: int, seed: int) -> None:
    """Give rows with a mean, the smallest first, their verdicts."""
    pairs = list(itertools.combinations(rows, 2))
    found = [compare_runs(errors[b["run"]], errors[a["run"]], resamples, seed) for a, b in pairs]
    for row in rows:
        row["verdict"] = "as good" if len(rows) > 1 else "only one"
    for (a, b), comparison, p in zip(pairs, found, holm([c.p for c in found]), strict=True):
        if a is rows[0]:
            b["difference"] = asdict(comparison) | {"p_holm": p}
            b["verdict"] = "worse" if p < LEVEL else "as good"
    if len(rows) > 1 and all(row["verdict"] == "worse" for row in rows[1:]):
        rows[0]["verdict"] = "best"


def is_evaluated(folder: Path, weights: str) -> bool:
    """Whether a folder has a report, with all it needs, of these weights."""
    try:
        report = json.loads((folder / "evaluation" / "report.json").read_text(encoding="utf-8"))
        with open(folder / "evaluation" / "metrics.csv", newline="", encoding="utf-8") as file:
            return report["weights_sha256"] == weights and "step" in next(csv.reader(file))
    except (OSError, ValueError, KeyError, TypeError, StopIteration, csv.Error):
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
    table, found = folder / "evaluation" / "metrics.csv", {}
    try:
        with open(table, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                where = (row["metric"], row["model"], row["resolution"])
                if where == ("rel_l2", "surrogate", str(report["training_resolution"])):
                    found[int(row["sample"])] = float(row["value"])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as problem:
        raise _unreadable(f"{table} cannot be read: {problem!r}") from None
    if sorted(found) != list(range(report["data"]["test"])):
        raise _unreadable(f"{table} has rel_l2 of {len(found)} samples, not of {report['data']['test']}")
    return np.array([found[i] for i in range(len(found))])


def _row(name: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one run; of several seeds their mean, and the least favourable of their verdicts."""
    first = reports[0]

    def metric(which: str) -> list[dict[str, Any]]:
        grid = first["training_resolution"]
        return [
            m
            for r in reports
            for m in r["metrics"]
            if (m["name"], m["model"], m["resolution"]) == (which, "surrogate", grid)
        ]

    def time(which: str) -> dict[str, float] | None:
        found = metric(which)
        return {key: float(np.mean([m[key] for m in found])) for key in ("value", "censored")} if found else None

    seconds = [r["training_seconds"] for r in reports if r.get("training_seconds") is not None]
    grids = [{str(row["resolution"]): row["verdict"] for row in r["super_resolution"]} for r in reports]
    return {
        "run": name,
        "model": first["model"],
        "seeds": len(reports),
        "parameters": first["parameters"],
        "training_seconds": float(np.mean(seconds)) if seconds else None,
        "rel_l2": metric("rel_l2")[0],
        "spread": None,
        "difference": None,
        "verdict": "undefined",
        "stability": _worst([r["rollout"]["verdict"] for r in reports if r["rollout"]], STABILITY),
        "correlation_time": time("correlation_time"),
        "divergence_time": time("divergence_time"),
        "resolution": {r: _worst([g[r] for g in grids if r in g], TRANSFER) for r in grids[0]},
        "speed": (first.get("speed") or {}).get("verdict"),
    }


STABILITY = ("diverges", "collapses", "drifts", "stays bounded")
TRANSFER = ("does not transfer", "transfers", "super-resolves")


def _worst(found: list[str], order: tuple[str, ...]) -> str | None:
    return min(found, key=order.index, default=None)


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
        "run": row["run"] + _seeds(row["seeds"]),
        "model": row["model"],
        "parameters": f"{row['parameters']:,}",
        "training_seconds": "-" if seconds is None else f"{seconds:.0f}",
        "rel_l2": verdicts.percent(error["value"]),
        "interval": verdicts.interval(error).removeprefix("95% interval ").replace(" to ", " - "),
        "spread": "-" if row["spread"] is None else verdicts.percent(row["spread"]),
        "verdict": row["verdict"],
        "stability": row["stability"] or "-",
        "correlation_time": time("correlation_time"),
        "divergence_time": time("divergence_time"),
        "resolution": grids,
        "speed": row["speed"] or "-",
    }


def _seeds(count: int) -> str:
    if count == 1:
        return ""
    return f" ({count} seeds{', preliminary' if count < ENOUGH_RUNS else ''})"


def shown_columns(rows: list[dict[str, str]]) -> list[str]:
    """Those that say something of at least one run."""
    return [name for name in COLUMNS if any(row[name] != "-" for row in rows)]


def summary(content: dict[str, Any]) -> str:
    """One sentence on how the comparison ended."""
    rows = content["runs"]
    alike = [r["run"] for r in rows if r["verdict"] in ("best", "as good", "only one")]
    undefined = [r["run"] for r in rows if r["verdict"] == "undefined"]
    over = f" over {verdicts.some(content['horizon'], 'step')}" if content["horizon"] else ""
    on = f"On the {verdicts.some(content['n'], 'test sample')} they share, relative L2 error{over}"
    broken = f" Undefined: {', '.join(undefined)}." if undefined else ""
    if not alike:
        return f"{on}: undefined for every run."
    if len(rows) - len(undefined) == 1:
        return f"{on}: {alike[0]} has {verdicts.percent(rows[0]['rel_l2']['value'])}; there is no other.{broken}"
    weights = any(r["difference"] and r["difference"]["of"] == "weights" for r in rows)
    told = "5%, Holm" + ("; of these weights, another seed may differ" if weights else "; seeds and samples")
    if len(alike) == 1:
        return f"{on}: {alike[0]} is best; the others differ from it by more than chance ({told}).{broken}"
    return f"{on}: {', '.join(alike)} cannot be told apart ({told}); none of them is called the best.{broken}"


def show(content: dict[str, Any]) -> None:
    """Print the table; on a narrow terminal without the columns it can do without, which the page has."""
    from rich.console import Console
    from rich.table import Table

    rows = [cells(row, i) for i, row in enumerate(content["runs"], 1)]
    console = Console()
    if not console.is_terminal:
        console = Console(width=240)
    columns, left_out = shown_columns(rows), list(LEAST_NEEDED)

    def table() -> Table:
        made = Table(box=None, pad_edge=False)
        for name in columns:
            made.add_column(COLUMNS[name], overflow="fold")
        for row in rows:
            made.add_row(*(row[name] for name in columns), style="bold" if row["verdict"] == "best" else None)
        return made

    unbounded = console.options.update(max_width=10_000)
    while left_out and console.measure(table(), options=unbounded).maximum > console.width:
        columns = [name for name in columns if name != left_out[0]]
        del left_out[0]
    console.print(table())


LEAST_NEEDED = (
    "training_seconds", "parameters", "divergence_time", "resolution", "model", "speed", "spread", "correlation_time",
    "interval",
)  # fmt: skip
"""Columns that give way on a narrow terminal, in this order."""


def _html(content: dict[str, Any]) -> str:
    rows = [cells(row, i) for i, row in enumerate(content["runs"], 1)]
    columns = {name: COLUMNS[name] for name in shown_columns(rows)}
    return render_page("leaderboard.html.j2", content=content, rows=rows, columns=columns, text=summary(content))

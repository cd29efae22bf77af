"""One run for each of several seeds, and what their figures have in common.

runs/fno-darcy/
  seed-0/, seed-1/, ...   a run each
  seeds.json              mean and spread of every figure of the surrogate
"""

import os
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from opkit.errors import ConfigError, RunError
from opkit.evaluation.statistics import ENOUGH_RUNS
from opkit.evaluation.verdicts import percent, size
from opkit.files import read_json, write_json
from opkit.training import Run, train

SUMMARY = "seeds.json"


def train_seeds(run: Run, count: int, resume: bool = False) -> list[Path]:
    """Train with seeds `run.seed`, `run.seed + 1`, ...; seeds of weights and of the order of samples, on the same data.

    Args:
        run: What to do; its folder is for all of them.
        count: How many.
        resume: Leave runs that are complete, continue one that is not, begin the others.

    Returns:
        The run directories.
    """
    _check_launch(run)
    if run.folder.is_dir() and any(run.folder.iterdir()) and not resume:
        raise RunError(
            f"{run.folder} already holds a run, and runs are never overwritten. Add --resume to continue it, or choose "
            "another place with run_dir=..."
        )
    folders = []
    for seed in range(run.seed, run.seed + count):
        folder = run.folder / f"seed-{seed}"
        folders.append(folder)
        if resume and (folder / "evaluation" / "report.json").exists():
            continue
        config = run.config | {"seed": seed, "seeds": 1, "run_dir": str(folder)}
        train(replace(run, seed=seed, folder=folder, config=config), resume and (folder / "config.yaml").exists())
    if all((folder / "evaluation" / "report.json").exists() for folder in folders):  # not so on further ranks
        reports = [read_json(folder / "evaluation" / "report.json", RunError) for folder in folders]
        seeds = list(range(run.seed, run.seed + count))
        figures = list(summary(reports))
        write_json(run.folder / SUMMARY, {"seeds": seeds, "metrics": figures})
        for line in lines(figures, run.pde.grid.ndim):
            print(line)
    return folders


def summary(reports: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every figure of the surrogate over several reports: mean, standard deviation (n - 1), least and greatest."""
    for metric in reports[0]["metrics"]:
        if metric["model"] != "surrogate":
            continue
        place = {k: metric[k] for k in ("name", "split", "resolution", "horizon")}
        values = [
            m["value"]
            for r in reports
            for m in r["metrics"]
            if m["model"] == "surrogate" and place.items() <= m.items()
        ]
        if any(value is None for value in values):
            yield place | {"values": values, "mean": None, "std": None, "reason": "undefined for some seeds"}
            continue
        yield place | {
            "values": values, "mean": statistics.fmean(values), "std": statistics.stdev(values), "least": min(values),
            "greatest": max(values),
        }  # fmt: skip


def lines(figures: list[dict[str, Any]], ndim: int) -> Iterator[str]:
    """rel_l2 on every grid, in words."""
    for f in figures:
        if f["name"] == "rel_l2" and f["mean"] is not None:
            count = len(f["values"])
            over = f"{count} seeds{', preliminary' if count < ENOUGH_RUNS else ''}"
            yield (
                f"rel_l2 on {size(f['resolution'], ndim)} over {over}: mean {percent(f['mean'])}, "
                f"standard deviation {percent(f['std'])}, {percent(f['least'])} to {percent(f['greatest'])}"
            )


def _check_launch(run: Run) -> None:
    """Lightning starts further processes by running the command again, once for each of its trainers."""
    devices, launched = str(run.trainer.get("devices", "auto")), {"RANK", "SLURM_PROCID"} & os.environ.keys()
    several = devices not in ("1", "auto") or (devices == "auto" and torch.cuda.device_count() > 1)
    if several and not launched:
        raise ConfigError(
            f"seeds with trainer.devices={devices} need processes that are started from outside: use torchrun or srun, "
            "or set trainer.devices=1."
        )

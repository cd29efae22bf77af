"""Training while the solvers run against training on stored data, at equal solver calls and equal steps.

    python benchmarks/online.py [--seeds 3] [--pde darcy] [--preset quick]

Both make the same samples and use each as often; seconds are those of the whole command, data included, without a
compiler's warm-up (compile=false). Errors are relative L2 on the same test samples.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml


def run(folder: Path, arguments: list[str]) -> tuple[float, float]:
    """(seconds, test error) of one training command in a process of its own, with no data to begin with."""
    code = "import sys; from opkit.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", *arguments, "compile=false", f"run_dir={folder / 'run'}"]
    environment = os.environ | {"OPKIT_DATA": str(folder / "data")}
    began = time.monotonic()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.monotonic() - began
    report = json.loads((folder / "run" / "evaluation" / "report.json").read_text())
    return seconds, report["metrics"][0]["value"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pde", default="darcy")
    parser.add_argument("--preset", default="quick")
    given = parser.parse_args()
    chosen = ["--model", "fno", "--pde", given.pde, "--preset", given.preset]
    code = "import sys; from opkit.cli import main; sys.exit(main(sys.argv[1:]))"
    printed = subprocess.run(
        [sys.executable, "-c", code, "train", *chosen, "--print_config"], check=True, capture_output=True, text=True
    ).stdout
    epochs = yaml.safe_load(printed)["trainer"]["max_epochs"]
    ways = {
        "stored": [],
        "online": ["data.mode=online", f"data.reuse={epochs}"],
        "online, small reservoir": ["data.mode=online", f"data.reuse={epochs}", "data.reservoir=50"],
    }
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for seed in range(given.seeds):
        for name, settings in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                rows[name].append(run(Path(folder), [*chosen, *settings, f"seed={seed}"]))
    print(f"command    python benchmarks/online.py --pde {given.pde} --preset {given.preset}   ({given.seeds} seeds)")
    print(f"machine    {os.cpu_count()} cores, torch {torch.__version__}")
    for name, values in rows.items():
        seconds, errors = ([v[i] for v in values] for i in (0, 1))
        print(
            f"{name:24} {statistics.fmean(seconds):5.0f} s   rel_l2 {statistics.fmean(errors):.4f} "
            f"({min(errors):.4f} to {max(errors):.4f})"
        )


if __name__ == "__main__":
    main()

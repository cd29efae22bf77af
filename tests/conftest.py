"""Shared fixtures: one thread count, one small trained run for all tests that need one."""

import csv
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import torch

from opkit.cli import main

SMALL = [
    "--model", "fno", "--pde", "darcy", "pde.resolution=13", "pde.label_resolution=25", "pde.modes=12",
    "model.width=6", "model.n_modes=[6,6]", "model.projection_width=8", "data.train=24", "data.val=6", "data.test=10",
    "data.test_fine=6", "data.batch_size=4", "trainer.max_epochs=2", "trainer.accelerator=cpu",
    "evaluation.resamples=200", "evaluation.timing=0", "evaluation.suite=quick", "compile=false", "workers=1",
]  # fmt: skip
"""A whole run, data and report included, in a second or two."""

SMALL_GALERKIN = [
    "--model", "galerkin", *[s for s in SMALL[2:] if not s.startswith("model.")], "model.width=8", "model.n_heads=2",
    "model.n_layers=1", "model.ffn_hidden=8", "model.decoder_width=4", "model.decoder_hidden=8", "model.n_modes=[6,6]",
    "evaluation.resolutions=[25]",
]  # fmt: skip
"""The same data and the same length."""


GHOSTS: dict[str, Callable[[int, int], int | None]] = {
    "zeros": lambda i, n: i if 0 <= i < n else None,
    "circular": lambda i, n: i % n,
    "replicate": lambda i, n: min(max(i, 0), n - 1),
    "reflect": lambda i, n: abs(i) if i < n else 2 * (n - 1) - i,
}
"""Which of n points stands at place i, which may be one beyond the ends."""


def epochs_of(run: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv, less what depends on the machine's mood."""
    with open(run / "metrics.csv", newline="") as file:
        moods = ("seconds", "samples_per_second")
        return [{k: v for k, v in row.items() if k not in moods} for row in csv.DictReader(file)]


@pytest.fixture(autouse=True)
def _fresh_seed():
    torch.manual_seed(0)


@pytest.fixture
def one_thread():
    """As in generation: the last bits of a transform depend on how it is split over threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run directory; tests must not change it."""
    root = tmp_path_factory.mktemp("small")
    before = os.environ.get("OPKIT_DATA")
    os.environ["OPKIT_DATA"] = str(root / "data")
    try:
        assert main(["train", *SMALL, f"run_dir={root / 'run'}"]) == 0
    finally:
        if before is None:
            del os.environ["OPKIT_DATA"]
        else:
            os.environ["OPKIT_DATA"] = before
    return root / "run"


@pytest.fixture
def small_data(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the small run's data, as OPKIT_DATA."""
    monkeypatch.setenv("OPKIT_DATA", str(small_run.parent / "data"))
    return small_run.parent / "data"


def on_ranks(command: list[str], fault: str = "", world: int = 2, timeout: float = 120) -> list[tuple[int, str]]:
    """(exit code, stderr) of `opkit train` on each of several ranks, started as torchrun would, gloo between them.

    Args:
        command: Arguments.
        fault: Python that runs first in every rank.
        world: Ranks.
        timeout: Seconds until all must have ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    shared |= {"TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
    code = f"{fault}\nimport sys; from opkit.cli import main; sys.exit(main(sys.argv[1:]))"
    more = [f"trainer.devices={world}", "trainer.strategy=ddp"]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", code, "train", *command, *more], text=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env=os.environ | shared | {"RANK": str(r), "LOCAL_RANK": str(r)},
        )
        for r in range(world)
    ]  # fmt: skip
    try:
        return [(p.returncode, err) for p in ranks for err in [p.communicate(timeout=timeout)[1]]]
    finally:
        for process in ranks:
            process.kill()

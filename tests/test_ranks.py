"""Several processes give what one gives at the same global batch, whatever part of it each of them holds."""

import csv
from pathlib import Path

import pytest
import torch
from conftest import SMALL, on_ranks

from opkit.cli import main

DOUBLE = [*SMALL, "trainer.precision=64-true", "model.filters=dynamic", "model.spectral_norm=true"]
UNEVEN = [*DOUBLE, "data.train=21", "data.val=5", "loss.terms=rel_h1"]
"""Six batches of which the last has one sample: none for the second rank. Three and two samples to validate."""


def state(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def table(run: Path) -> list[dict[str, float]]:
    with open(run / "metrics.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_two_ranks_are_one_in_float64(small_data, tmp_path):
    """Weights, running statistics of a norm over the batch, losses and validation errors."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", *UNEVEN, f"run_dir={one}"]) == 0
    ended = on_ranks([*UNEVEN, f"run_dir={two}"])
    assert [code for code, _ in ended] == [0, 0], ended[0][1]
    ours, theirs = state(two), state(one)
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, rtol=1e-12, atol=1e-12, msg=name)
    torch.testing.assert_close(ours["train_loss"], theirs["train_loss"], rtol=1e-12, atol=0)
    for ours, theirs in zip(table(two), table(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)  # six digits are written


@pytest.mark.slow
def test_the_death_of_a_rank_ends_the_other(small_data, tmp_path):
    fault = """
import os, signal
from opkit.task import SupervisedTask as T
step = T.training_step
def struck(self, b, i):
    if self.trainer.global_step == 3 and self.global_rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, b, i)
T.training_step = struck
"""
    (code, said), (killed, _) = on_ranks([*SMALL, f"run_dir={tmp_path / 'run'}"], fault, timeout=60)
    assert killed == -9 and code not in (0, None), said
    assert "lost another process of this run" in said and "--resume" in said and "Traceback" not in said

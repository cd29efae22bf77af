"""Several processes give what one gives at the same global batch, whatever part of it each of them holds."""

from pathlib import Path

import pytest
import torch
from conftest import SMALL, epochs_of, on_ranks

from opkit.cli import main

DOUBLE = [*SMALL, "trainer.precision=64-true", "model.filters=dynamic", "model.spectral_norm=true"]
UNEVEN = [*DOUBLE, "data.train=23", "data.val=5", "loss.terms=rel_h1"]
"""Six batches of which the last has three samples, two and one. The second of two batches to validate has one."""


def state(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_two_ranks_are_one_in_float64(small_data, tmp_path):
    """Weights, running statistics of a norm over the batch, losses and validation errors."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", *UNEVEN, f"run_dir={one}"]) == 0
    count = f"""
from opkit.callbacks import EpochTable as T
end = T.on_train_epoch_end
def counted(self, trainer, task):
    open({str(tmp_path / "seen")!r}, "a").write(f"{{float(task.seen):g}} ")
    return end(self, trainer, task)
T.on_train_epoch_end = counted
"""
    ended = on_ranks([*UNEVEN, f"run_dir={two}"], count)
    assert [code for code, _ in ended] == [0, 0], ended
    assert (tmp_path / "seen").read_text().split() == ["23"] * 4  # two ranks, two epochs
    ours, theirs = state(two), state(one)
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, value in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], value, rtol=1e-12, atol=1e-12, msg=name)
    (*sums, norms, steps), (*wanted, norm, count) = ours["train_loss"].tolist(), theirs["train_loss"].tolist()
    assert [*sums, norms / steps] == pytest.approx([*wanted, norm / count], rel=1e-12)
    for row, other in zip(epochs_of(two), epochs_of(one), strict=True):
        numbers, wanted = ({k: float(v) for k, v in r.items()} for r in (row, other))
        assert numbers == pytest.approx(wanted, rel=1e-5)  # six digits are written


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [[*SMALL, "trainer.precision=64-true", "model.spectral=fft"], DOUBLE], ids=["fft", "dynamic"]
)
def test_a_rank_may_have_no_sample_of_a_batch(settings, small_data, tmp_path):
    """The last batch has one sample. Through the FFT, which cannot transform nothing; and through a norm over the
    batch, where what stands in for a sample must not count."""
    one, two = tmp_path / "one", tmp_path / "two"
    settings = [*settings, "data.train=21"]
    assert main(["train", *settings, f"run_dir={one}"]) == 0
    ended = on_ranks([*settings, f"run_dir={two}"])
    assert [code for code, _ in ended] == [0, 0], ended
    for name, value in state(one)["state_dict"].items():
        torch.testing.assert_close(state(two)["state_dict"][name], value, rtol=1e-12, atol=1e-12, msg=name)


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

"""A run that was killed or asked to stop anywhere, and resumed, ends with the same bits as one that was not."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SMALL_GALERKIN, epochs_of, on_ranks

from opkit.checkpoints import DurableCheckpoints, damage, newest
from opkit.cli import main
from opkit.errors import RunError
from opkit.task import SupervisedTask

DROPOUT = [s for s in SMALL_GALERKIN if not s.startswith("trainer.max_epochs")]
DROPOUT += ["trainer.max_epochs=3", "model.dropout=0.2", "model.attention_dropout=0.2"]
EPOCH = 6
"""Steps of an epoch: 24 samples, 4 at a time."""


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same(run: Path, whole: Path) -> None:
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt", "last.previous.ckpt"]
    ours, theirs = weights(run), weights(whole)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert epochs_of(run) == epochs_of(whole)
    assert (run / "surrogate" / "model.safetensors").read_bytes() == (
        whole / "surrogate" / "model.safetensors"
    ).read_bytes()


@pytest.fixture(scope="module")
def whole(small_run, tmp_path_factory) -> Path:
    """The run with dropout that nothing interrupts."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPKIT_DATA", str(small_run.parent / "data"))
        assert main(["train", *DROPOUT, f"run_dir={run}"]) == 0
    return run


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (0, signal.SIGTERM),
        (EPOCH + 2, signal.SIGTERM),
        (2 * EPOCH - 1, signal.SIGUSR1),
        (3 * EPOCH - 1, signal.SIGTERM),
    ],
    ids=["first", "mid", "end", "last"],
)
def test_a_signal_saves_stops_with_75_and_resumes(step, number, whole, small_data, tmp_path, monkeypatch, capsys):
    original = SupervisedTask.training_step

    def struck(self, batch, i):
        if self.trainer.global_step == step:
            os.kill(os.getpid(), number)
        return original(self, batch, i)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "training_step", struck)
        assert main(["train", *DROPOUT, f"run_dir={run}"]) == 75
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"stopped by {number.name}" in said and f"{step + 1} steps" in said and "--resume" in said
    assert signal.getsignal(number) == signal.SIG_DFL
    assert not (run / "surrogate").exists()
    assert main(["train", *DROPOUT, f"run_dir={run}", "--resume"]) == 0
    assert_same(run, whole)


@pytest.mark.slow
def test_with_accumulated_gradients_it_stops_between_optimiser_steps(small_data, tmp_path, monkeypatch):
    command = [*DROPOUT, "trainer.accumulate_grad_batches=4"]  # 6 batches: steps after the fourth and the sixth
    assert main(["train", *command, f"run_dir={tmp_path / 'whole'}"]) == 0
    original, calls = SupervisedTask.training_step, []

    def struck(self, batch, i):
        calls.append(i)
        if len(calls) == EPOCH + 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, i)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "training_step", struck)
        assert main(["train", *command, f"run_dir={run}"]) == 75
    assert len(calls) == EPOCH + 4
    assert main(["train", *command, f"run_dir={run}", "--resume"]) == 0
    assert_same(run, tmp_path / "whole")


@pytest.mark.parametrize(
    ("settings", "step"),
    [
        (["trainer.limit_train_batches=4"], 7),  # epochs end with batches left over
        pytest.param(["trainer.limit_train_batches=4"], 5, marks=pytest.mark.slow),
        pytest.param(["data.in_memory=false", "data.loader_workers=1"], 8, marks=pytest.mark.slow),
    ],
    ids=["a part, at the end", "a part, within", "from disk"],
)
def test_other_ways_to_feed_data_resume(settings, step, small_data, tmp_path, monkeypatch, recwarn):
    assert main(["train", *DROPOUT, *settings, f"run_dir={tmp_path / 'whole'}"]) == 0
    original = SupervisedTask.training_step

    def struck(self, batch, i):
        if self.trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, i)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "training_step", struck)
        assert main(["train", *DROPOUT, *settings, f"run_dir={run}"]) == 75
    assert main(["train", *DROPOUT, *settings, f"run_dir={run}", "--resume"]) == 0
    assert_same(run, tmp_path / "whole")


def test_a_signal_during_the_evaluation_leaves_it_to_be_repeated(whole, small_data, tmp_path, monkeypatch, capsys):
    import opkit.training

    def struck(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(opkit.training, "evaluate_surrogate", struck)
        assert main(["train", *DROPOUT, f"run_dir={run}"]) == 75
    assert "training is complete" in capsys.readouterr().err
    assert main(["train", *DROPOUT, f"run_dir={run}", "--resume"]) == 0
    assert_same(run, whole)
    assert (run / "evaluation" / "report.json").exists()


KILL = "import os, signal; kill = lambda: os.kill(os.getpid(), signal.SIGKILL)\n"
FAULTS = {
    "in a step": """
from opkit.task import SupervisedTask as T
step = T.training_step
T.training_step = lambda self, b, i: kill() if self.trainer.global_step == 9 else step(self, b, i)
""",
    "while saving": """
import torch
save, calls = torch.save, []
def half(value, path):
    calls.append(path)
    save(value, path)
    if len(calls) == 3:
        os.truncate(path, os.path.getsize(path) // 2)
        kill()
torch.save = half
""",
    "between renames": """
import opkit.checkpoints as c
class Os:
    def replace(self, a, b):
        os.replace(a, b)
        kill()
c.os = Os()
""",
}
RUN = "import sys; from opkit.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize(
    "where", [pytest.param("in a step", marks=pytest.mark.slow), "while saving", "between renames"]
)
def test_a_killed_run_resumes(where, whole, small_data, tmp_path):
    run = tmp_path / "run"
    code = KILL + FAULTS[where] + RUN
    killed = subprocess.run([sys.executable, "-c", code, "train", *DROPOUT, f"run_dir={run}"], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert main(["train", *DROPOUT, f"run_dir={run}", "--resume"]) == 0
    assert_same(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_of_two_ranks_stops_both(rank, small_data, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert [code for code, _ in on_ranks([*DROPOUT, f"run_dir={whole}"])] == [0, 0]
    fault = f"""
import os, signal
from opkit.task import SupervisedTask as T
step = T.training_step
def struck(self, b, i):
    if self.trainer.global_step == 8 and self.global_rank == {rank}:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, b, i)
T.training_step = struck
"""
    ended = on_ranks([*DROPOUT, f"run_dir={run}"], fault)
    assert [code for code, _ in ended] == [75, 75], ended
    assert [code for code, _ in on_ranks([*DROPOUT, f"run_dir={run}", "--resume"])] == [0, 0]
    assert_same(run, whole)


@pytest.mark.slow
def test_a_slurm_job_out_of_time_is_queued_again_and_continues(whole, small_data, tmp_path):
    """The batch script itself, without srun; `scontrol` is a stub that notes what it was asked."""
    strike = """
import os, signal
from opkit.task import SupervisedTask as T
step = T.training_step
def struck(self, b, i):
    if self.trainer.global_step == 8 and not os.environ.get("SLURM_RESTART_COUNT"):
        os.kill(os.getpid(), signal.SIGUSR1)
    return step(self, b, i)
T.training_step = struck
"""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    (tmp_path / "code.py").write_text(strike + RUN)
    (stubs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    # The first argument is train.py.
    (stubs / "python").write_text(f'#!/bin/sh\nshift\nexec {sys.executable} {tmp_path}/code.py train "$@"\n')
    for stub in stubs.iterdir():
        stub.chmod(0o755)
    root, run = Path(__file__).parents[1], tmp_path / "run"
    environment = os.environ | {
        "PATH": f"{stubs}:{os.environ['PATH']}", "PYTHON": "python", "PYTHONPATH": str(root), "SLURM_JOB_ID": "123",
        "SLURM_SUBMIT_DIR": str(root),
    }  # fmt: skip
    command = ["bash", str(root / "cluster" / "train.slurm"), *DROPOUT, f"run_dir={run}"]
    first = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert first.returncode == 75, first.stderr
    assert (tmp_path / "asked").read_text() == "requeue 123\n"
    again = subprocess.run(command, env=environment | {"SLURM_RESTART_COUNT": "1"}, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "asked").read_text() == "requeue 123\n"
    assert_same(run, whole)


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """Checkpoints of a finished run, to damage."""
    return shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")


def flip(path: Path) -> None:
    """One bit, in the middle of the largest tensor's bytes."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "one bit": flip,
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 100),
    "empty": lambda path: os.truncate(path, 0),
    "another file": lambda path: path.write_text("epoch,step\n"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(kind, folder):
    assert newest(folder) == (folder / "last.ckpt", [])
    DAMAGES[kind](folder / "last.ckpt")
    path, notes = newest(folder)
    assert path == folder / "last.previous.ckpt"
    assert len(notes) == 2 and "last.ckpt is damaged: " in notes[0] and "last.previous.ckpt" in notes[1]
    DAMAGES[kind](folder / "last.previous.ckpt")
    with pytest.raises(RunError, match="no good checkpoint"):
        newest(folder)


def test_a_run_whose_newest_checkpoint_is_damaged_resumes_from_the_one_before(whole, small_data, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    flip(run / "checkpoints" / "last.ckpt")
    assert main(["train", *DROPOUT, f"run_dir={run}", "--resume"]) == 0
    assert "continuing from" in capsys.readouterr().err
    assert_same(run, whole)


def test_every_checkpoint_of_a_run_is_whole_and_loads_as_weights(whole):
    paths = sorted((whole / "checkpoints").iterdir())
    assert [p.name for p in paths] == ["best.ckpt", "last.ckpt", "last.previous.ckpt"]
    for path in paths:
        assert damage(path) is None
        assert torch.load(path, weights_only=True)["global_step"] in (EPOCH, 2 * EPOCH, 3 * EPOCH)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path):
    path, io = tmp_path / "last.ckpt", DurableCheckpoints()
    io.save_checkpoint({"epoch": 1}, path)
    with pytest.raises((AttributeError, TypeError, RuntimeError)):
        io.save_checkpoint({"epoch": lambda: 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]

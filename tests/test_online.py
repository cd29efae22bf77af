"""Training while the solvers run: what is used when, that it is what would have been stored, and that it resumes."""

import os
import signal

import numpy as np
import pytest
import torch
from conftest import SMALL, epochs_of, on_ranks

from opkit.cli import main
from opkit.fields import seed_key
from opkit.generate import ensure
from opkit.online import OnlineFields, Plan
from opkit.pdes import Burgers, Darcy
from opkit.settings import Stepping
from opkit.store import pair
from opkit.task import SupervisedTask

ONLINE = [*SMALL, "data.mode=online", "data.reuse=4", "data.reservoir=8", "workers=2"]
"""24 samples used 4 times in batches of 4: 24 steps at most, in two epochs."""


def plan(count=100, capacity=20, reuse=5, batch=4, seed=0) -> Plan:
    return Plan(count, capacity, reuse, batch, seed_key("test", seed, 0))


def test_no_sample_is_used_more_often_than_asked_and_nearly_all_as_often():
    steps = plan().steps
    uses = np.bincount(steps.ravel(), minlength=100)
    assert uses.max() == 5 and uses.min() >= 3
    assert 5 * 100 - 4 * 5 <= uses.sum() <= 5 * 100  # fewer than a batch of samples may be left
    assert all(len(set(step)) == 4 for step in steps.tolist())


def test_no_more_samples_are_needed_at_once_than_the_reservoir_holds():
    steps = plan().steps
    first = {i: np.flatnonzero((steps == i).any(1))[0] for i in range(100)}
    last = {i: np.flatnonzero((steps == i).any(1))[-1] for i in range(100)}
    alive = [sum(first[i] <= t <= last[i] for i in range(100)) for t in range(len(steps))]
    assert max(alive) <= 20
    assert max(steps[0]) < 20 and max(steps[10]) < 20 + 40 / 5 + 1  # later ones enter as earlier ones leave


def test_a_plan_is_a_function_of_its_seed():
    assert np.array_equal(plan().steps, plan().steps)
    assert not np.array_equal(plan().steps, plan(seed=1).steps)


@pytest.mark.parametrize(
    "pde",
    [
        Darcy(resolution=9, label_resolution=9, modes=8),
        Burgers(resolution=16, label_resolution=16, viscosity=(0.5, 1.0), times=(0, 0.1, 0.2), unresolved="accept"),
    ],
    ids=["steady", "evolution"],
)
def test_what_is_solved_is_what_would_have_been_stored(pde, tmp_path, monkeypatch):
    """To the bit, and windows are those of the trajectory."""
    from opkit.batches import Request
    from opkit.datamodule import MemoryFields, MemoryTrajectories
    from opkit.store import trajectories

    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    stored = ensure(pde, "train", 6, seed=3, workers=1).load(6)
    wanted = (
        MemoryFields(*pair(pde, stored)) if pde.times is None
        else MemoryTrajectories(*trajectories(pde, stored), Stepping())
    )  # fmt: skip
    fields = OnlineFields(pde, 3, np.arange(6), plan(6, 3, 2 * (wanted.windows if pde.times is not None else 1), 2),
                          Stepping(), 1)  # fmt: skip
    try:
        fields.begin(0)
        for step in fields.plan.steps.tolist():
            request = Request([place * fields.windows + fields.windows - 1 for place in step])
            for ours, theirs in zip(fields[request], wanted[request], strict=True):
                assert torch.equal(ours, theirs)
        assert fields.solved == 6 and len(fields.held) <= 2
    finally:
        fields.close()


@pytest.fixture(scope="module")
def whole(small_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("online")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPKIT_DATA", str(root / "data"))
        assert main(["train", *ONLINE, f"run_dir={root / 'run'}"]) == 0
    return root / "run"


def test_a_run_keeps_no_training_data(whole, capsys):
    splits = {p.parent.name for p in (whole.parent / "data").rglob("*.h5")}
    assert splits == {"val", "test"}
    table = epochs_of(whole)
    assert [int(row["step"]) for row in table] == sorted(int(row["step"]) for row in table)
    assert 22 <= int(table[-1]["step"]) <= 24
    assert float(table[-1]["val/rel_l2"]) < float(table[0]["val/rel_l2"])


def test_it_does_not_depend_on_the_number_of_processes_and_resumes(whole, tmp_path, monkeypatch, capsys):
    """Stopped in the second epoch, and continued by another number of solvers: the same bits."""
    monkeypatch.setenv("OPKIT_DATA", str(whole.parent / "data"))
    original = SupervisedTask.training_step

    def struck(self, batch, i):
        if self.trainer.global_step == 14:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, i)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "training_step", struck)
        assert main(["train", *ONLINE, f"run_dir={run}"]) == 75
    assert main(["train", *ONLINE, f"run_dir={run}", "workers=1", "--resume"]) == 0
    assert "each used at most 4 times" in capsys.readouterr().err
    ours, theirs = ((r / "surrogate" / "model.safetensors").read_bytes() for r in (run, whole))
    assert ours == theirs and epochs_of(run) == epochs_of(whole)


def test_the_run_can_be_evaluated_again(whole, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(whole.parent / "data"))
    assert main(["evaluate", str(whole)]) == 0
    assert not list((whole.parent / "data").rglob("train/*.h5"))


@pytest.mark.slow
def test_two_ranks_solve_each_sample_once(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(whole.parent / "data"))
    ended = on_ranks([*ONLINE, f"run_dir={tmp_path / 'run'}"])
    assert [code for code, _ in ended] == [0, 0], ended
    assert sum(int(said.split("online: ")[1].split()[0]) for _, said in ended) == 24


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data.reservoir=2"], "data.reservoir must be at least 4"),
        (["data.reuse=1", "trainer.max_epochs=20"], "fewer than trainer.max_epochs=20"),
        (["data.train=3"], "at most data.train=3"),
    ],
)
def test_what_cannot_be_is_refused(settings, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))
    assert main(["train", *ONLINE, *settings, f"run_dir={tmp_path / 'run'}"]) == 2
    assert said in capsys.readouterr().err

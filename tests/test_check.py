"""Trying a run before it is paid for, and one run for each of several seeds."""

import json
import re
import shutil

import pytest
import torch
from conftest import SMALL

from opkit.check import _kept
from opkit.cli import main
from opkit.grid import Grid, Spec
from opkit.models import FNO, count_parameters
from opkit.normalize import Normalizer
from opkit.seeds import summary
from opkit.settings import Optim
from opkit.surrogate import PhysicalOperator
from opkit.task import SupervisedTask


def test_a_check_tells_what_a_run_would_be_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, "--check"]) == 0
    said = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    lines = {line.split()[0]: line for line in said.splitlines()}
    assert list(lines) == ["data", "network", "step", "memory", "gradient", "loss"]
    assert "24 training samples, 24 still to be made" in lines["data"]
    operator = FNO(1, 1, n_modes=(6, 6), width=6, projection_width=8)
    assert f"{count_parameters(operator):,} parameters" in lines["network"] and "(b, 1, 13, 13)" in lines["network"]
    assert "12 steps (6 an epoch)" in lines["step"]
    assert "at every parameter" in lines["gradient"]
    first, last = map(float, re.findall(r"[\d.]+", lines["loss"])[:2])
    assert last < first


def test_a_check_of_an_evolution_equation_counts_windows(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))
    command = [s for s in SMALL if not s.startswith("pde.") and s not in ("--pde", "darcy")] + [
        "--pde", "burgers", "pde.resolution=32", "pde.label_resolution=32", "pde.times=[0,0.1,0.2,0.3,0.4,0.5]",
        "pde.viscosity=0.5", "pde.unresolved=accept", "model.n_modes=[8]", "evaluation.resolutions=[48]",
        "unroll.steps=2",
    ]  # fmt: skip
    assert main(["train", *command, "--check"]) == 0
    said = capsys.readouterr().out  # 24 trajectories of 4 windows of three frames, 4 at a time, twice
    assert "48 steps (24 an epoch)" in said


def test_a_check_of_an_online_run_counts_uses(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))
    assert main(["train", *SMALL, "data.mode=online", "data.reuse=4", "data.reservoir=8", "--check"]) == 0
    said = capsys.readouterr().out  # 24 samples 4 times, 4 at a time, in two epochs
    assert "solved while it trains" in said and "still to be made" not in said and "24 steps (12 an epoch)" in said


@pytest.mark.parametrize(("setting", "said"), [("optim.lr=1e-30", "no weight moves"), ("optim.lr=1e30", "Lower optim")])
def test_a_run_that_would_train_nothing_is_refused(setting, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))
    assert main(["train", *SMALL, setting, "--check"]) == 2
    message = capsys.readouterr().err
    assert said in message and "would train nothing" in message


def test_only_training_is_checked(small_run, capsys):
    assert main(["evaluate", str(small_run), "--check"]) == 2
    assert "--check" in capsys.readouterr().err


def test_what_a_step_keeps_grows_with_its_samples():
    """Twice the samples, twice the bytes, but for what does not depend on them."""
    plain = Normalizer(torch.zeros(1), torch.ones(1))
    operator = FNO(1, 1, n_modes=(6, 6), width=6, location="periodic", coordinates=False)
    task = SupervisedTask(PhysicalOperator(operator, plain, plain), Spec(("a",), ("u",), Grid((16, 16))), Optim(), 8)

    def kept(n: int) -> int:
        return _kept(task, (torch.randn(n, 1, 16, 16), torch.randn(n, 1, 16, 16)))

    assert 1.9 < (kept(16) - kept(0 + 4)) / (kept(10) - kept(4)) < 2.1
    assert kept(8) > 8 * 4 * 6 * 16 * 16 * 4  # four layers of six channels


@pytest.fixture(scope="module")
def seeds(small_run, tmp_path_factory):
    run = tmp_path_factory.mktemp("seeds") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPKIT_DATA", str(small_run.parent / "data"))
        assert main(["train", *SMALL, "seeds=2", "seed=3", f"run_dir={run}"]) == 0
    return run


def test_seeds_are_runs_of_their_own_and_their_figures_are_put_together(seeds, small_data, tmp_path, capsys):
    told = json.loads((seeds / "seeds.json").read_text())
    assert told["seeds"] == [3, 4]
    values = [
        json.loads((seeds / f"seed-{s}" / "evaluation" / "report.json").read_text())["metrics"][0]["value"]
        for s in (3, 4)
    ]
    found = told["metrics"][0]
    assert (found["name"], found["resolution"], found["values"]) == ("rel_l2", 13, values)
    assert found["mean"] == pytest.approx(sum(values) / 2)
    assert found["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    alone = tmp_path / "alone"
    assert main(["train", *SMALL, "seed=4", f"run_dir={alone}"]) == 0
    ours, theirs = ((r / "surrogate" / "model.safetensors").read_bytes() for r in (alone, seeds / "seed-4"))
    assert ours == theirs


def test_seeds_resume_with_what_is_missing(seeds, small_data, tmp_path, capsys):
    run = shutil.copytree(seeds, tmp_path / "run")
    kept = (run / "seed-3" / "metrics.csv").stat().st_mtime_ns
    shutil.rmtree(run / "seed-4")
    assert main(["train", *SMALL, "seeds=2", "seed=3", f"run_dir={run}"]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", *SMALL, "seeds=2", "seed=3", f"run_dir={run}", "--resume"]) == 0
    assert "over 2 seeds, preliminary: mean" in capsys.readouterr().out
    assert (run / "seed-3" / "metrics.csv").stat().st_mtime_ns == kept
    assert json.loads((run / "seeds.json").read_text()) == json.loads((seeds / "seeds.json").read_text())


def test_a_figure_that_some_seed_lacks_has_no_mean():
    place = {"name": "rel_l2", "split": "test", "resolution": 8, "horizon": 3, "model": "surrogate"}
    [found] = summary([{"metrics": [place | {"value": v}]} for v in (0.1, None)])
    assert found["mean"] is None and "undefined" in found["reason"]


def test_seeds_on_several_devices_need_a_launcher(capsys):
    assert main(["train", *SMALL, "seeds=2", "trainer.devices=2"]) == 2
    assert "torchrun" in capsys.readouterr().err

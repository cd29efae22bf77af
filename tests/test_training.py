"""The whole path from a command to a run directory, small."""

import csv
import json
import math
import os
import signal

import pytest
import torch
import yaml
from conftest import SMALL, SMALL_GALERKIN, epochs_of

from opkit.callbacks import EpochTable
from opkit.cli import main
from opkit.errors import OpkitError
from opkit.store import Dataset

OTHER_OPTIMISERS = ("rmsprop", "adafactor", "radam", "adamax")


def rows(run_dir):
    with open(run_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(run_dir, name="last"):
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def test_a_run_leaves_what_the_contract_promises(small_run):
    assert {p.name for p in small_run.iterdir()} == {
        "config.yaml", "environment.json", "metrics.csv", "checkpoints", "surrogate", "evaluation",
    }  # fmt: skip
    assert {p.name for p in (small_run / "checkpoints").iterdir()} == {"last.ckpt", "last.previous.ckpt", "best.ckpt"}
    assert {p.name for p in (small_run / "surrogate").iterdir()} == {
        "model.safetensors", "config.json", "physics.json", "metrics.json", "README.md",
    }  # fmt: skip
    assert {p.name for p in (small_run / "evaluation").iterdir()} == {
        "report.json", "metrics.csv", "report.html", "samples.h5", "figures",
    }  # fmt: skip
    table = rows(small_run)
    assert [r["epoch"] for r in table] == ["0", "1"]
    assert all(float(r["val/rel_l2"]) > 0 and float(r["train/rel_l2"]) > 0 for r in table)


def test_the_saved_configuration_repeats_the_run(small_run, small_data, tmp_path):
    assert main(["train", "--config", str(small_run / "config.yaml"), f"run_dir={tmp_path / 'again'}"]) == 0
    for name, tensor in weights(small_run).items():
        assert (weights(tmp_path / "again")[name] == tensor).all(), name
    config = yaml.safe_load((small_run / "config.yaml").read_text())
    assert config["model"]["name"] == "fno"
    assert config["model"]["width"] == 6
    assert config["pde"]["name"] == "darcy"


def test_another_seed_is_another_run_on_the_same_data(small_run, small_data, tmp_path):
    before = sorted(p for p in small_data.rglob("*.h5"))
    assert main(["train", *SMALL, f"run_dir={tmp_path / 'other'}", "seed=1"]) == 0
    assert sorted(p for p in small_data.rglob("*.h5")) == before
    ours, theirs = weights(small_run), weights(tmp_path / "other")
    assert any((ours[k] != theirs[k]).any() for k in ours if "weight" in k)


def test_an_interrupted_run_resumed_equals_an_uninterrupted_one(small_data, tmp_path, monkeypatch):
    longer = [a for a in SMALL if not a.startswith("trainer.max_epochs")] + ["trainer.max_epochs=4"]
    assert main(["train", *longer, f"run_dir={tmp_path / 'whole'}"]) == 0

    class Stop(Exception):
        pass

    original = EpochTable.on_train_epoch_start

    def stop_in_the_third_epoch(self, trainer, module):
        if trainer.current_epoch == 2:
            raise Stop
        original(self, trainer, module)

    with monkeypatch.context() as patch:
        patch.setattr(EpochTable, "on_train_epoch_start", stop_in_the_third_epoch)
        with pytest.raises(Stop):
            main(["train", *longer, f"run_dir={tmp_path / 'parts'}"])
    assert not (tmp_path / "parts" / "surrogate").exists()
    assert len(rows(tmp_path / "parts")) == 2
    assert main(["train", *longer, f"run_dir={tmp_path / 'parts'}", "--resume"]) == 0
    for name, tensor in weights(tmp_path / "whole").items():
        assert (weights(tmp_path / "parts")[name] == tensor).all(), name
    assert epochs_of(tmp_path / "parts") == epochs_of(tmp_path / "whole")


def test_resuming_a_finished_run_changes_no_weight(small_data, tmp_path):
    run = tmp_path / "run"
    assert main(["train", *SMALL, f"run_dir={run}"]) == 0
    before = (run / "surrogate" / "model.safetensors").read_bytes()
    assert main(["train", *SMALL, f"run_dir={run}", "--resume"]) == 0
    assert (run / "surrogate" / "model.safetensors").read_bytes() == before
    assert len(rows(run)) == 2


def test_the_bundle_comes_from_the_epoch_with_the_smallest_validation_error(small_run):
    errors = [float(r["val/rel_l2"]) for r in rows(small_run)]
    best = torch.load(small_run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == errors.index(min(errors))


def test_normalisers_know_the_training_split_alone(small_run, small_data):
    from opkit.registry import problem_of

    physics = json.loads((small_run / "surrogate" / "physics.json").read_text())
    fields = Dataset(problem_of(physics), "train", 0, small_data).load(24)
    state = weights(small_run)
    for side, name in (("input", "a"), ("output", "u")):
        torch.testing.assert_close(state[f"model.{side}_normalizer.mean"], fields[name].mean().view(1))
        torch.testing.assert_close(state[f"model.{side}_normalizer.std"], fields[name].std(correction=0).view(1))


def test_a_diverging_run_stops_with_advice(small_data, tmp_path, capsys):
    assert main(["train", *SMALL, f"run_dir={tmp_path / 'run'}", "optim.lr=1e30"]) == 2
    message = capsys.readouterr().err
    assert "Training diverged in epoch 1" in message
    assert "Lower optim.lr" in message


def test_the_batch_that_has_no_loss_is_named_and_the_state_before_it_saved(small_data, tmp_path, monkeypatch, capsys):
    """Sample 7 is spoilt in memory; where it comes in the second epoch is known from the order of samples alone."""
    from opkit.batches import EpochBatches
    from opkit.datamodule import FieldData

    original = FieldData.train_dataloader

    def spoilt(self):
        self.fields["train"].inputs[7] = float("nan")
        return original(self)

    order = EpochBatches(24, 4, seed=0)
    order.set_epoch(0)
    batch, items = next((i, r.indices) for i, r in enumerate(order) if 7 in r.indices)
    run = tmp_path / "run"
    monkeypatch.setattr(FieldData, "train_dataloader", spoilt)
    assert main(["train", *SMALL, f"run_dir={run}"]) == 2
    message = capsys.readouterr().err
    assert f"epoch 1, batch {batch + 1} (training items {', '.join(map(str, items))})" in message
    failed = torch.load(run / "checkpoints" / "failed.ckpt", weights_only=True)
    assert failed["global_step"] == batch
    assert all(v.isfinite().all() for v in failed["state_dict"].values())
    assert not (run / "surrogate").exists()


def test_out_of_memory_ends_with_12_and_advice_and_the_run_can_be_resumed(small_data, tmp_path, monkeypatch, capsys):
    from opkit.task import SupervisedTask

    original = SupervisedTask.training_step

    def short(self, batch, i):
        if self.trainer.global_step == 8:
            raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")
        return original(self, batch, i)

    run, whole = tmp_path / "run", tmp_path / "whole"
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "training_step", short)
        assert main(["train", *SMALL, f"run_dir={run}"]) == 12
    message = capsys.readouterr().err.splitlines()[-1]
    assert "data.batch_size=4 (tried to allocate 20.00 GiB)" in message
    assert "data.batch_size=2 trainer.accumulate_grad_batches=2" in message
    assert torch.load(run / "checkpoints" / "failed.ckpt", weights_only=True)["global_step"] == 8
    assert main(["train", *SMALL, f"run_dir={run}", "--resume"]) == 0
    assert main(["train", *SMALL, f"run_dir={whole}"]) == 0
    assert all(torch.equal(v, weights(whole)[name]) for name, v in weights(run).items())


@pytest.mark.parametrize(
    "settings",
    [
        ["optim.name=sgd", "optim.momentum=0.9"], ["optim.name=adagrad"], ["optim.name=nadam", "optim.schedule=cosine"],
        *[pytest.param([f"optim.name={n}"], marks=pytest.mark.slow) for n in OTHER_OPTIMISERS],
    ],
    ids=lambda s: s[0],
)  # fmt: skip
def test_other_optimisers_take_a_step_of_theirs(settings, small_data, tmp_path, monkeypatch):
    """The run's optimiser is PyTorch's of that name, and it learns."""
    from opkit.task import SupervisedTask

    original, made = SupervisedTask.configure_optimizers, []

    def note(self):
        found = original(self)
        made.append(found["optimizer"])
        return found

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "configure_optimizers", note)
        assert main(["train", *SMALL, *settings, f"run_dir={tmp_path / 'run'}"]) == 0
    assert type(made[0]).__name__.lower() == settings[0].partition("=")[2]
    assert made[0].defaults.get("momentum", 0) == (0.9 if len(settings) > 1 and "momentum" in settings[1] else 0)
    first, last = (float(r["train/rel_l2"]) for r in rows(tmp_path / "run"))
    assert last < first


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 8 / 2), ("sqrt", math.sqrt(8 / 2))])
def test_the_rate_follows_the_global_batch_where_asked(scaling, factor, small_data, tmp_path):
    """Four samples twice accumulated are eight."""
    settings = [f"optim.scaling={scaling}", "optim.reference_batch=2", "optim.lr=1e-4", "optim.schedule=step"]
    run = tmp_path / "run"
    assert main(["train", *SMALL, *settings, "trainer.accumulate_grad_batches=2", f"run_dir={run}"]) == 0
    assert float(rows(run)[0]["lr"]) == pytest.approx(1e-4 * factor, rel=1e-5)


def test_evaluate_rewrites_its_folder_alone(small_run, small_data, tmp_path, capsys):
    import shutil

    run = shutil.copytree(small_run, tmp_path / "run")
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.parent.name != "evaluation"}
    first = json.loads((run / "evaluation" / "report.json").read_text())
    assert main(["evaluate", str(run), "workers=1"]) == 0
    assert {p: p.read_bytes() for p in before} == before
    second = json.loads((run / "evaluation" / "report.json").read_text())
    assert second["metrics"] == first["metrics"]
    assert (first["test_evaluations"], second["test_evaluations"]) == (1, 2)
    assert main(["evaluate", str(run / "surrogate"), "workers=1", "gate=rel_l2<100", "evaluation.timing=0"]) == 0
    assert main(["evaluate", str(run), "workers=1", "--gate", "rel_l2<1e-9"]) == 3
    assert "gate failed: rel_l2@13 is" in capsys.readouterr().err


def test_a_program_that_turns_out_to_fit_one_grid_is_refused_in_words(small_run, monkeypatch, tmp_path):
    """Traced with fixed sizes, as by a model that fixes one unnoticed."""
    import opkit
    from opkit.export import export

    traced = torch.export.export
    monkeypatch.setattr(torch.export, "export", lambda model, args, dynamic_shapes: traced(model, args))
    with pytest.raises(OpkitError, match="fno cannot be exported with free grid sizes: "):
        export(opkit.load(small_run), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_export_verify_and_doctor(small_run, small_data, tmp_path, capsys):
    program = tmp_path / "model.pt2"
    assert main(["export", str(small_run), f"output={program}"]) == 0
    import opkit

    a = torch.full((5, 1, 31, 18), 3.0)
    exported = torch.export.load(program).module()(a)
    torch.testing.assert_close(exported, opkit.load(small_run)(a), rtol=1e-4, atol=1e-6)
    assert main(["verify", str(small_run)]) == 0
    assert main(["verify", str(small_data)]) == 0
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert "confirmed" in output
    assert "drawn and solved again, is the stored one" in output
    assert "torch" in output


def test_verify_notices_a_claim_that_does_not_hold(small_run, small_data, tmp_path, capsys):
    import shutil

    bundle = shutil.copytree(small_run / "surrogate", tmp_path / "bundle")
    metrics = json.loads((bundle / "metrics.json").read_text())
    metrics["metrics"][0]["value"] *= 0.9
    (bundle / "metrics.json").write_text(json.dumps(metrics))
    assert main(["verify", str(bundle)]) == 2
    assert "does not do what it says" in capsys.readouterr().err


def test_step_schedule_with_adam(small_data, tmp_path):
    """The rate halves every two epochs, and the decay of Adam is L2: both read off the checkpoint of the last epoch."""
    run = tmp_path / "run"
    settings = [
        "trainer.max_epochs=5", "optim.name=adam", "optim.schedule=step", "optim.lr=4e-3", "optim.decay_epochs=2",
        "optim.weight_decay=0.01",
    ]  # fmt: skip
    assert main(["train", *SMALL, *settings, f"run_dir={run}"]) == 0
    assert [float(r["lr"]) for r in rows(run)] == [4e-3, 4e-3, 2e-3, 2e-3, 1e-3]
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert state["param_groups"][0]["weight_decay"] == 0.01
    assert state["param_groups"][0].get("decoupled_weight_decay", False) is False


@pytest.mark.parametrize(
    "bad",
    ["decay=0", "decay=1.5", "decay_epochs=0", "name=lion", "schedule=sine", "ema=1", "momentum=0.9", "scaling=sqrt"],
)
def test_schedules_that_make_no_sense_are_refused(bad, small_data, tmp_path, capsys):
    assert main(["train", *SMALL, f"optim.{bad}", f"run_dir={tmp_path / 'run'}"]) == 2
    assert f"optim.{bad.split('=')[0]}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_moving_average_is_what_is_validated_and_saved(small_data, tmp_path, monkeypatch):
    """Against weights noted after every step: the first, then d times the average plus 1 - d times the new ones."""
    from opkit.task import SupervisedTask

    noted = []

    def note(self, *_):
        noted.append({k: v.detach().clone() for k, v in self.named_parameters()})

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "on_before_zero_grad", note)  # what the step before left
        assert main(["train", *SMALL, f"run_dir={tmp_path / 'run'}", "optim.ema=0.8"]) == 0
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    after = [*noted[1:], {k: last["current_model_state"][k] for k in noted[0]}]
    assert len(after) == 12
    average = after[0]
    for weights_now in after[1:]:
        average = {k: 0.8 * average[k] + 0.2 * weights_now[k] for k in average}
    for name, value in average.items():
        torch.testing.assert_close(last["state_dict"][name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_resumed_moving_average_is_the_same(small_data, tmp_path, monkeypatch):
    from opkit.task import SupervisedTask

    command = ["train", *SMALL, "optim.ema=0.8", "optim.schedule=cosine"]
    assert main([*command, f"run_dir={tmp_path / 'whole'}"]) == 0
    original = SupervisedTask.training_step

    def struck(self, batch, i):
        if self.trainer.global_step == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, i)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "training_step", struck)
        assert main([*command, f"run_dir={tmp_path / 'parts'}"]) == 75
    assert main([*command, f"run_dir={tmp_path / 'parts'}", "--resume"]) == 0
    whole, parts = (
        torch.load(tmp_path / r / "checkpoints" / "last.ckpt", weights_only=True) for r in ("whole", "parts")
    )
    for state in ("state_dict", "current_model_state"):
        assert not [k for k in whole[state] if not torch.equal(whole[state][k], parts[state][k])]


def test_the_cosine_schedule(small_data, tmp_path, monkeypatch):
    """Twelve steps, three of them up from a twenty-fifth of the peak, then half a cosine."""
    from opkit.task import SupervisedTask

    rates = []

    def note(self, *_):
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "on_before_zero_grad", note)
        settings = ["optim.schedule=cosine", "optim.lr=1e-3", "optim.warmup=0.25"]
        assert main(["train", *SMALL, f"run_dir={tmp_path / 'run'}", *settings]) == 0
    least = 1e-3 / 25 / 1e4
    up = [1e-3 * (1 / 25 + (1 - 1 / 25) * i / 3) for i in range(3)]
    down = [least + (1e-3 - least) * (1 + math.cos(math.pi * i / 9)) / 2 for i in range(9)]
    assert rates == pytest.approx(up + down, rel=1e-6)


@pytest.mark.parametrize(("settings", "compiles"), [(SMALL, True), (SMALL_GALERKIN, False)], ids=["fno", "galerkin"])
def test_what_compiling_slows_down_is_left_alone(settings, compiles, small_data, tmp_path, monkeypatch, capsys):
    """The compiler itself is left out: whether the step goes through it is what is asked."""
    import opkit.task
    import opkit.training

    asked = []
    monkeypatch.setattr(opkit.training, "COMPILE_STEPS", 1)
    monkeypatch.setattr(opkit.task.torch, "compile", lambda m, **_: asked.append(m) or m)
    settings = [s for s in settings if not s.startswith("compile")]
    assert main(["train", *settings, f"run_dir={tmp_path / 'run'}"]) == 0
    assert bool(asked) == compiles == ("compiling" in capsys.readouterr().err)


def test_batches_on_several_grids(small_data, tmp_path, monkeypatch, capsys):
    from opkit.task import SupervisedTask

    original, seen = SupervisedTask.training_step, []

    def note(self, batch, i):
        seen.append(tuple(batch[0].shape[2:]))
        return original(self, batch, i)

    settings = [*SMALL, "loss.terms=rel_h1", "data.resolutions=[13,7]"]
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "training_step", note)
        assert main(["train", *settings, f"run_dir={tmp_path / 'run'}"]) == 0
    assert set(seen) == {(13, 13), (7, 7)}
    assert main(["train", *SMALL, f"run_dir={tmp_path / 'other'}", "data.resolutions=[13,8]"]) == 2
    said = capsys.readouterr().err
    assert "data.resolutions=[13, 8]" in said and "[4, 5, 7, 13]" in said


def test_dropout_acts_in_training_and_not_in_the_evaluation_after_it(small_data, tmp_path):
    run = tmp_path / "run"
    assert main(["train", *SMALL, "model.mlp_expansion=2", "model.dropout=0.5", f"run_dir={run}"]) == 0
    before = json.loads((run / "evaluation" / "report.json").read_text())["metrics"]
    assert main(["evaluate", str(run)]) == 0
    after = json.loads((run / "evaluation" / "report.json").read_text())["metrics"]
    for one, other in zip(before, after, strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-6)

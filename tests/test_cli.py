"""The commands as users type them: settings and their layers, help, and what is said when something is wrong."""

import dataclasses
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import opkit
import opkit.cli
import opkit.evaluation
import opkit.registry
from opkit.cli import VERBS, main
from opkit.errors import BundleError
from opkit.models import FNO
from opkit.pdes import Darcy
from opkit.settings import Data, Evaluation, Optim

TINY_PDE = ["pde.resolution=9", "pde.label_resolution=9", "pde.modes=8"]
TINY_DATA = ["data.train=2", "data.val=2", "data.test=2", "data.test_fine=2", "data.batch_size=2"]
TINY_RUN = [
    *TINY_PDE, *TINY_DATA, "evaluation.resolutions=[17]", "evaluation.resamples=100", "evaluation.timing=0",
    "model.width=4",
    "model.n_modes=[4,4]", "model.projection_width=4", "trainer.max_epochs=1", "trainer.accelerator=cpu",
    "compile=false", "workers=1",
]  # fmt: skip
"""So small that a bad setting which slips through costs a second, not a minute."""
TRAIN = ["train", "--pde", "darcy", "--model", "fno", *TINY_RUN]
GENERATE = ["generate", "--pde", "darcy", *TINY_PDE, *TINY_DATA, "evaluation.resolutions=[17]", "workers=1"]
NAMES = {"pde": {"name": "darcy"}, "model": {"name": "fno"}}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    """Commands run in a folder of their own, with data below it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "here" / "data"))


@pytest.fixture
def refuse(capsys):
    """Run a command that must be refused before anything is made; its one message."""

    def run(*argv: str, lines: int | None = 1) -> str:
        before = sorted(Path().rglob("*"))
        code = main(list(argv))
        out, err = capsys.readouterr()
        assert code == 2
        assert out == ""
        assert err.startswith("opkit") and err.endswith("\n")
        assert err.count("opkit " + argv[0] + ":") <= 1
        assert lines is None or len(err.splitlines()) == lines
        assert "Traceback" not in err
        assert sorted(Path().rglob("*")) == before
        return err

    return run


@pytest.fixture
def resolved(capsys):
    """The settings a command would run with."""

    def run(*argv: str) -> dict:
        assert main([*argv, "--print_config"]) == 0
        return yaml.safe_load(capsys.readouterr().out)

    return run


def save(content, name: str = "given.yaml") -> str:
    Path(name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return name


# Names that do not exist.


def test_an_unknown_command_is_refused(capsys):
    assert main(["trian"]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "'trian'" in err and "Did you mean 'train'?" in err
    assert all(verb in err for verb in VERBS)


@pytest.mark.parametrize(
    ("kind", "given", "nearest"), [("pde", "darci", "darcy"), ("model", "fnoo", "fno"), ("preset", "qick", "quick")]
)
@pytest.mark.parametrize("joined", [True, False])
def test_an_unknown_name_gets_the_nearest_one(refuse, kind, given, nearest, joined):
    choice = [f"--{kind}={given}"] if joined else [f"--{kind}", given]
    message = refuse(*TRAIN, *choice)
    assert kind in message and repr(given) in message and f"Did you mean {nearest!r}?" in message
    assert all(name in message for name in opkit.registry.names(kind))


@pytest.mark.parametrize("name", ["../model/fno", "/etc/passwd", ""])
def test_names_are_not_paths(refuse, name):
    assert "darcy" in refuse("generate", f"--pde={name}")


@pytest.mark.parametrize(
    ("verb", "setting", "nearest"),
    [
        (TRAIN, "model.widht=64", "model.width"),
        (TRAIN, "model.hidden_channels=64", "model.width"),
        (TRAIN, "model.modes=12", "model.n_modes"),
        (TRAIN, "optim.learning_rate=1e-3", "optim.lr"),
        (TRAIN, "trainer.epochs=3", "trainer.max_epochs"),
        (TRAIN, "trainer.max_epoch=3", "trainer.max_epochs"),
        (TRAIN, "data.n_train=100", "data.train"),
        (TRAIN, "width=64", "model.width"),
        (TRAIN, "modle.width=64", "model.width"),
        (TRAIN, "run_dri=here", "run_dir"),
        (GENERATE, "pde.resoltion=43", "pde.resolution"),
        (GENERATE, "worker=2", "workers"),
    ],
)
def test_an_unknown_setting_gets_the_nearest_one(refuse, verb, setting, nearest):
    message = refuse(*verb, setting)
    assert setting in message and f"Did you mean {nearest!r}?" in message


def test_an_unknown_setting_is_told_what_its_section_has(refuse):
    message = refuse(*TRAIN, "optim.nesterov=true")
    assert "optim.nesterov=true" in message
    assert all(field.name in message for field in dataclasses.fields(Optim))


@pytest.mark.parametrize(
    "setting", ["trainer.logger=true", "trainer.callbacks=[]", "trainer.default_root_dir=x", "trainer.profiler=simple"]
)
def test_trainer_arguments_opkit_sets_itself_are_refused_as_such(refuse, setting):
    message = refuse(*TRAIN, setting)
    assert setting in message and "opkit sets" in message and "Did you mean" not in message


# Values that cannot be.


@pytest.mark.parametrize(
    ("setting", "accepted"),
    [
        ("model.width=sixty", "a whole number"),
        ("model.width=4.5", "a whole number"),
        ("model.n_modes=12", "a list of whole numbers, as [1, 2]"),
        ("model.activation=gelo", "gelu"),
        ("model.coordinates=maybe", "true or false"),
        ("data.train=many", "a whole number"),
        ("data.in_memory=maybe", "auto"),
        ("pde.resolution=big", "a whole number"),
        ("pde.values=[1]", "a list of 2 numbers"),
        ("pde.mean=toss", "keep"),
        ("optim.lr=fast", "a number"),
        ("trainer.max_epochs=many", "a whole number"),
        ("trainer.precision=3", "bf16"),
        ("seed=1.5", "a whole number"),
        ("workers=all", "a whole number"),
        ("compile=perhaps", "auto"),
        ("gate=low", "rel_l2<0.02"),
        ("gate=rel_l2=0.02", "rel_l2<0.02"),
        ("gate=rel_l2<small", "rel_l2<0.02"),
        ("gate=rel_l2<0.02,", "rel_l2<0.02"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(refuse, setting, accepted):
    message = refuse(*TRAIN, setting)
    key, _, value = setting.partition("=")
    assert key in message and value in message and accepted in message


IMPOSSIBLE = [
    ("data.train=0", "at least 1"),
    ("data.batch_size=-1", "at least 1"),
    ("data.test_fine=0", "at least 1"),
    ("data.loader_workers=-1", "at least 0"),
    ("data.seed=-1", "at least 0"),
    ("pde.resolution=-5", "at least 5"),
    ("pde.label_resolution=-5", "positive"),
    ("pde.values=[-1,2]", "positive"),
    ("pde.modes=0", "1"),
    ("pde.alpha=0.5", "exceed 1"),
    ("pde.tolerance=0", "1e-14"),
    ("optim.lr=0", "positive"),
    ("optim.warmup=2", "between 0 and 1"),
    ("optim.weight_decay=-1", "negative"),
    ("optim.grad_clip=0", "positive"),
    ("model.width=0", "at least 1"),
    ("model.n_modes=[40,4]", "at most (9, 9)"),
    ("model.n_modes=[4]", "2 axes"),
    ("model.n_modes=[4,4,4]", "2 axes"),
    ("model.n_modes=[4,0]", "positive"),
    ("model.padding=7", "between 0 and 1"),
    ("evaluation.resolutions=[5]", "finer"),
    ("evaluation.resolutions=[17,9]", "finer"),
    ("evaluation.resolutions=[-9,17]", "at least 5"),
    ("evaluation.resamples=1", "at least 100"),
    ("trainer.max_epochs=0", "at least 1"),
    ("workers=0", "at least 1"),
    ("workers=-2", "at least 1"),
    ("seed=-1", "negative"),
]


@pytest.mark.parametrize(("setting", "accepted"), IMPOSSIBLE)
def test_an_impossible_value_is_refused_by_its_key(refuse, setting, accepted):
    message = refuse(*TRAIN, setting)
    key, _, value = setting.partition("=")
    assert key in message, "the message names the key as it was typed"
    assert value.strip("[]").split(",")[0] in message
    assert accepted in message


@pytest.mark.parametrize(
    ("setting", "accepted"),
    [
        ("pde.resolution=-5", "at least 5"),
        ("data.train=0", "at least 1"),
        ("seed=-1", "at least 0"),
        ("workers=0", "at least 1"),
        ("evaluation.resolutions=[5]", "finer"),
    ],
)
def test_generate_refuses_impossible_values_too(refuse, setting, accepted):
    message = refuse(*GENERATE, setting)
    key, _, value = setting.partition("=")
    assert key in message and value.strip("[]") in message and accepted in message


@pytest.mark.parametrize(
    "key", ["pde.forcing", "pde.alpha", "pde.tau", "pde.sigma", "optim.lr", "optim.weight_decay", "model.padding"]
)
@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_a_number_that_is_none_is_refused(refuse, key, value):
    assert key in refuse(*TRAIN, f"{key}={value}")


def test_a_gradient_norm_that_is_no_number_is_refused(refuse):
    assert "optim.grad_clip" in refuse(*TRAIN, "optim.grad_clip=.nan")


@pytest.mark.parametrize(
    "setting",
    [
        "trainer.accelerator=quantum",
        "trainer.strategy=nope",
        "trainer.devices=0",
        "trainer.num_nodes=0",
        "trainer.max_epochs=-3",
        "trainer.max_steps=-7",
        "trainer.max_steps=0",
        "trainer.max_time=soon",
        "trainer.accumulate_grad_batches=0",
        "trainer.check_val_every_n_epoch=0",
        "trainer.check_val_every_n_epoch=5",
        "trainer.val_check_interval=0",
        "trainer.limit_val_batches=0",
        "trainer.limit_train_batches=0",
    ],
)
def test_trainer_arguments_that_cannot_train_are_refused_before_data_are_made(refuse, setting):
    key, _, value = setting.removeprefix("trainer.").partition("=")
    message = refuse(*TRAIN, setting)
    assert "trainer" in message and key in message and value in message


@pytest.mark.parametrize("setting", ["trainer.fast_dev_run=true", "trainer.overfit_batches=1"])
def test_lightnings_shortcuts_work_or_are_refused(capsys, setting):
    code = main([*TRAIN, setting])
    assert code == 0 or (code == 2 and setting.partition("=")[0] in capsys.readouterr().err)


def test_a_gate_on_what_is_never_measured_is_refused_before_training(refuse):
    message = refuse(*TRAIN, "gate=rel_l3<0.1")
    assert "gate" in message and "rel_l3" in message and "rel_l2" in message


def test_weights_that_overflow_are_called_divergence(capsys):
    assert main([*TRAIN, "optim.lr=1e40"]) == 2
    assert "optim.lr" in capsys.readouterr().err.splitlines()[-1]


# Command lines that do not parse.


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["train", "--model", "fno"], "--pde is missing"),
        (["train", "--pde", "darcy"], "--model is missing"),
        (["generate"], "--pde is missing"),
        ([*GENERATE, "--model", "fno"], "--model"),
        ([*GENERATE, "--resume"], "resume"),
        ([*TRAIN, "oops"], "'oops'"),
        ([*TRAIN, "--seed"], "--seed"),
        ([*TRAIN, "--pde"], "--pde"),
        (["export"], "directory"),
        (["evaluate"], "directory"),
        (["evaluate", "a", "b"], "a is no directory"),
        (["verify"], "directory"),
        (["verify", "a", "b"], "a b"),
        (["verify", "a", "tolerance=1"], "tolerance"),
        (["doctor", "please"], "please"),
        (["doctor", "verbose=1"], "verbose"),
    ],
)
def test_a_command_line_that_does_not_parse_is_refused(refuse, argv, said):
    assert said in refuse(*argv)


@pytest.mark.parametrize("verb", ["evaluate", "export", "verify"])
def test_a_folder_that_is_neither_run_nor_bundle_is_refused(refuse, verb):
    Path("empty").mkdir()
    message = refuse(verb, "empty")
    assert "empty" in message and "run" in message and "bundle" in message
    assert "missing" in refuse(verb, "missing")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.tset=3", "Did you mean 'data.test'?"),
        ("model.width=64", "model.width"),
        ("data.test=none", "a whole number"),
        ("data.test=0", "at least 1"),
        ("data.test=100000000000", "data.test=100000000000: so many samples of darcy need up to"),
        ("workers=0", "at least 1"),
        ("evaluation.resolutions=[5]", "finer"),
        ("evaluation.resolutions=[]", "null takes"),
        ("evaluation.resolutions=[100000000]", "a sample on the finest has 1e+16 numbers"),
        ("suite=huge", "evaluation.suite=huge"),
        ("gate=", "cannot read"),
        ("output=elsewhere", "several runs"),
        ("device=abacus", "abacus"),
        ("gate=low", "rel_l2<0.02"),
        ("--pde=darcy", "PDE"),
        ("--resume", "resume"),
    ],
)
def test_evaluate_refuses_what_it_cannot_use(refuse, small_run, small_data, setting, said):
    assert said in refuse("evaluate", str(small_run), setting)


def test_a_report_replaces_nothing_but_a_report(refuse, small_run, tmp_path):
    run, thesis = tmp_path / "run", tmp_path / "thesis"
    shutil.copytree(small_run, run)
    (run / "evaluation" / "notes.txt").write_text("mine")
    assert "holds notes.txt" in refuse("evaluate", str(run)) and (run / "evaluation" / "notes.txt").exists()
    thesis.mkdir()
    (thesis / "chapter1.tex").write_text("...")
    shutil.rmtree(run / "evaluation")
    (run / "evaluation").symlink_to(thesis)
    assert "holds chapter1.tex" in refuse("evaluate", str(run)) and (thesis / "chapter1.tex").exists()
    with pytest.raises(BundleError, match=r"holds chapter1\.tex and is no bundle"):
        opkit.load(small_run).save(thesis)
    with pytest.raises(BundleError, match="is a file"):
        opkit.load(small_run).save(thesis / "chapter1.tex")
    assert [p.name for p in thesis.iterdir()] == ["chapter1.tex"]


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(refuse, small_run, tmp_path):
    assert "is given twice" in refuse("evaluate", str(small_run), f"{small_run}/")
    other = tmp_path / "other"
    shutil.copytree(small_run, other)
    assert "is a file" in refuse("evaluate", str(small_run), str(other), f"output={other / 'config.yaml'}")
    message = refuse("evaluate", str(small_run), "evaluation.horizon=20", "evaluation.steps=10")
    assert "evaluation.steps=10 are fewer than the evaluation.horizon=20" in message
    (other / "config.yaml").write_text("model: {width: 3\npde: [")
    assert "config.yaml is not valid YAML: " in (said := refuse("evaluate", str(other))) and "(line 2, column " in said


def test_all_runs_must_be_there_before_any_is_evaluated(refuse, small_run, monkeypatch):
    monkeypatch.setattr(opkit.evaluation, "evaluate_surrogate", lambda *_, **__: pytest.fail("it began"))
    assert "missing is no directory" in refuse(
        "evaluate", str(small_run), str(small_run.parent / "missing"), "suite=full"
    )


def test_a_folder_with_an_equals_sign_is_a_folder(small_run, monkeypatch, tmp_path, capsys):
    shutil.copytree(small_run, tmp_path / "lr=0.1")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "lr=0.1", "--print_config"]) == 0
    assert "resamples" in capsys.readouterr().out


def test_a_signal_leaves_the_report_that_was_there(small_run, small_data, tmp_path, monkeypatch, capsys):
    shutil.copytree(small_run, tmp_path / "run")
    before = (tmp_path / "run" / "evaluation" / "report.json").read_bytes()
    monkeypatch.setattr(opkit.evaluation, "evaluate_surrogate", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["evaluate", str(tmp_path / "run")]) == 75
    assert "reports are as they were" in capsys.readouterr().err
    assert (tmp_path / "run" / "evaluation" / "report.json").read_bytes() == before


def test_a_failed_gate_exits_3_with_one_message(small_run, monkeypatch, capsys):
    report = json.loads((small_run / "evaluation" / "report.json").read_text())
    monkeypatch.setattr(opkit.evaluation, "evaluate_surrogate", lambda *_, **__: report)
    assert main(["evaluate", str(small_run), "gate=rel_l2<1e9, max_error>=0"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(small_run), "gate=rel_l2<1e-9"]) == 3
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "rel_l2@13" in err and "1e-09" in err


# Files of settings.


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [\n", "YAML"),
        ("\tpde: darcy\n", "YAML"),
        ("- pde\n", "list"),
        ("just words\n", "str"),
        ("pde: !!python/object/apply:os.getcwd []\n", "YAML"),
    ],
)
def test_a_file_that_holds_no_settings_is_refused(refuse, content, said):
    message = refuse("train", "--config", save(content), lines=None)
    assert "given.yaml" in message and said in message


def test_a_file_that_is_not_there_is_refused(refuse):
    assert "nowhere.yaml" in refuse(*TRAIN, "--config", "nowhere.yaml")
    Path("folder.yaml").mkdir()
    assert "folder.yaml" in refuse(*TRAIN, "--config=folder.yaml")
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "binary.yaml" in refuse(*TRAIN, "--config=binary.yaml", lines=None)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"model": {"name": "fno", "widht": 3}}, "Did you mean 'model.width'?"),
        ({"modell": {"width": 3}}, "modell"),
        ({"sede": 3}, "sede"),
        ({"for": {"darcy": {"model": {"width": 3}}}}, "for"),
        ({"data": 3}, "data"),
        ({"data": None}, "data"),
        ({3: 4}, "3"),
        ({"data": {3: 4}}, "3"),
        ({"data": {"train": "many"}}, "data.train=many"),
        ({"run_dir": {"a": "b"}}, "run_dir"),
        ({"model": {"name": "fnoo"}}, "Did you mean 'fno'?"),
        ({"model": {"name": ["fno"]}}, "fno"),
        ({"model": "fno"}, "model"),
        ({"trainer": {"logger": True}}, "trainer.logger"),
    ],
)
def test_a_file_with_an_unknown_key_is_refused(refuse, extra, said):
    assert said in refuse("train", "--config", save({**NAMES, **extra}), "--print_config")


@pytest.mark.parametrize(
    "extra",
    [
        {"class_path": "smuggled.Strategy"},
        {"pde": {"name": "darcy", "class_path": "smuggled.Strategy"}},
        {"model": {"name": "fno", "class_path": "smuggled.Strategy"}},
        {"model": {"class_path": "smuggled.Strategy"}},
        {"model": {"name": "fno", "activation": {"class_path": "smuggled.Strategy"}}},
        {"trainer": {"strategy": "smuggled.Strategy"}},
        {"trainer": {"strategy": {"class_path": "smuggled.Strategy"}}},
        {"trainer": {"strategy": "{class_path: smuggled.Strategy}"}},
        {"trainer": {"accelerator": "smuggled.Strategy"}},
        {"trainer": {"callbacks": [{"class_path": "smuggled.Strategy"}]}},
    ],
)
def test_a_file_of_settings_cannot_have_code_imported(refuse, monkeypatch, extra):
    Path("smuggled.py").write_text(
        "from lightning.pytorch.accelerators import CPUAccelerator\n"
        "from lightning.pytorch.strategies import SingleDeviceStrategy\n"
        "class Strategy(SingleDeviceStrategy): pass\n"
    )
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "smuggled", raising=False)
    path = save({**NAMES, **extra})
    try:
        message = refuse("train", "--config", path, *(s for s in TINY_RUN if not s.startswith("trainer.acc")))
    finally:
        imported = sys.modules.pop("smuggled", None)
    assert imported is None, "the module named in the file ran"
    assert "smuggled" in message or "class_path" in message or "--model is missing" in message


# Run directories that are in the way, or missing.


@pytest.fixture
def started(capsys) -> Path:
    """A run directory as far as its configuration: what was asked of it is known, nothing is trained."""
    assert main([*TRAIN, "run_dir=run", "--print_config"]) == 0
    Path("run").mkdir()
    Path("run/config.yaml").write_text(capsys.readouterr().out)
    return Path("run")


def test_an_existing_run_is_not_overwritten(refuse, started):
    message = refuse(*TRAIN, "run_dir=run")
    assert "run " in message and "--resume" in message and "run_dir=" in message


def test_any_other_folder_with_content_is_not_overwritten(refuse):
    Path("thesis").mkdir()
    Path("thesis/chapter1.tex").write_text("")
    assert "thesis" in refuse(*TRAIN, "run_dir=thesis")
    assert "thesis" in refuse(*TRAIN, "run_dir=thesis", "--resume")


def test_a_run_that_is_not_there_is_not_resumed(refuse):
    message = refuse(*TRAIN, "run_dir=run", "--resume")
    assert "run " in message and "--resume" in message


@pytest.mark.parametrize(
    ("setting", "before"),
    [
        ("model.width=6", "4"),
        ("model.n_modes=[6,4]", "[4, 4]"),
        ("data.train=4", "2"),
        ("data.seed=3", "0"),
        ("pde.forcing=2.0", "1.0"),
        ("optim.lr=0.5", "0.003"),
        ("seed=3", "0"),
    ],
)
def test_resuming_with_other_settings_is_refused(refuse, started, setting, before):
    message = refuse(*TRAIN, "run_dir=run", "--resume", setting)
    key, _, value = setting.partition("=")
    assert key in message and before in message and value.replace(",", ", ") in message


@pytest.mark.parametrize("content", ["", "[]", "3", "pde: 3", "a: [", "\x00"])
def test_a_run_with_a_damaged_configuration_is_not_resumed(refuse, started, content):
    (started / "config.yaml").write_text(content)
    assert "config.yaml" in refuse(*TRAIN, "run_dir=run", "--resume", lines=None)


@pytest.mark.parametrize("run_dir", ["file", "file/run"])
def test_a_run_in_place_of_a_file_is_refused(refuse, run_dir):
    Path("file").write_text("mine")
    message = refuse(*TRAIN, f"run_dir={run_dir}")
    assert "file" in message and "run_dir" in message


def test_a_run_where_nothing_may_be_written_is_refused(refuse, monkeypatch):
    monkeypatch.setattr("opkit.training.os.access", lambda *_, **__: False)
    message = refuse(*TRAIN, "run_dir=run")
    assert "run_dir" in message and "permission" in message


# Help, and what it costs.


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_lists_commands_and_names(argv, capsys):
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name in [*VERBS, *(n for kind in ("pde", "model", "preset") for n in opkit.registry.names(kind))]:
        assert name in out


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help(verb, flag, capsys):
    assert main([verb, flag]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"opkit {verb}" in out


def test_help_shows_settings_with_their_meaning_and_the_defaults_of_the_chosen_layers(capsys):
    assert main(["train", "--pde=darcy", "--model=fno", "--preset=quick", "--help"]) == 0
    out = capsys.readouterr().out
    for text in ("--model.width", "Channels inside.", "--pde.resolution", "default: 43", "--data.batch_size", "--gate"):
        assert text in out


def test_help_with_a_wrong_name_is_refused(refuse):
    assert "Did you mean 'darcy'?" in refuse("train", "--pde=darci", "--help")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split() == ["opkit", opkit.__version__]


def test_the_package_is_the_command(refuse):
    run = subprocess.run([sys.executable, "-m", "opkit", "--version"], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["opkit", opkit.__version__]
    run = subprocess.run([sys.executable, "-m", "opkit", "trian"], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr == refuse("trian")


@pytest.mark.parametrize(
    ("argv", "absent"),
    [
        (["--help"], {"torch", "lightning", "numpy", "jsonargparse"}),
        (["trian"], {"torch", "lightning"}),
        (["train", "--pde=darci"], {"torch", "lightning"}),
        (["train", "--help"], {"lightning", "h5py"}),
        (["generate", "--help"], {"lightning"}),
    ],
)
def test_help_and_refusals_import_little(argv, absent):
    code = f"import sys; from opkit.cli import main; main({argv!r}); print('\\n', *sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert absent.isdisjoint(modules.splitlines()[-1].split())


# Settings: forms, layers, record.


@pytest.mark.parametrize("form", [["{}={}"], ["--{}={}"], ["--{}", "{}"]])
@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("model.width", "64", 64),
        ("model.n_modes", "[8, 6]", [8, 6]),
        ("trainer.max_epochs", "3", 3),
        ("trainer.devices", "auto", "auto"),
        ("pde.resolution", "141", 141),
        ("pde.values", "[1, 10]", [1.0, 10.0]),
        ("optim.lr", "1e-4", 1e-4),
        ("optim.grad_clip", "null", None),
        ("data.augment", "false", False),
        ("evaluation.resolutions", "[211,421]", [211, 421]),
        ("seed", "1", 1),
        ("run_dir", "runs/a=b", "runs/a=b"),
        ("run_dir", "5", "5"),
        ("gate", "rel_l2<0.02,rel_l2@211<=0.03", "rel_l2<0.02,rel_l2@211<=0.03"),
    ],
)
def test_overrides_in_each_form(resolved, form, key, text, value):
    values = iter([key, text])
    argv = [part.format(*(next(values) for _ in range(part.count("{}")))) for part in form]
    found = resolved("train", "--pde", "darcy", "--model", "fno", *argv)
    for part in key.split("."):
        found = found[part]
    assert found == value
    assert type(found) is type(value)


def test_the_last_of_several_overrides_wins(resolved):
    assert resolved(*TRAIN, "model.width=5", "--model.width=6", "--model.width", "7")["model"]["width"] == 7


def test_every_default_is_printed(resolved):
    config = resolved("train", "--pde", "darcy", "--model", "fno")
    assert config["pde"].keys() == {"name", *(f.name for f in dataclasses.fields(Darcy))}
    given = set(inspect.signature(FNO).parameters) - {"in_channels", "out_channels", "location"}
    assert config["model"].keys() == {"name", *given}
    for section, settings in {"data": Data, "optim": Optim, "evaluation": Evaluation}.items():
        assert config[section].keys() == {f.name for f in dataclasses.fields(settings)}
    assert {"max_epochs", "devices", "precision"} <= config["trainer"].keys()
    assert (config["seed"], config["run_dir"]) == (0, "runs/fno-darcy")


@pytest.mark.parametrize(
    "argv",
    [
        TRAIN,
        ["train", "--pde=darcy", "--model=fno"],
        ["train", "--pde=darcy", "--model=fno", "--preset=quick"],
        [*TRAIN, "gate=rel_l2<0.02,max_error<1", "optim.grad_clip=1", "optim.lr=1e-30", "trainer.precision=bf16-mixed"],
        [*TRAIN, "run_dir=runs/1e3", "trainer.max_time=00:01:00:00", "data.in_memory=false", "compile=auto"],
        [*TRAIN, "trainer.strategy=ddp", "trainer.accelerator=cpu", "trainer.deterministic=warn", "seed=5"],
        [*TRAIN, "evaluation.resolutions=" + str(list(range(17, 400, 8)))],
        GENERATE,
        [*GENERATE, "seed=3"],
        [*GENERATE, "data.seed=3", "workers=null"],
        ["generate", "--pde=darcy", "--preset=quick"],
    ],
)
def test_printed_settings_given_back_are_printed_again(capsys, argv):
    assert main([*argv, "--print_config"]) == 0
    first = capsys.readouterr().out
    assert main([argv[0], "--config", save(first), "--print_config"]) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize("verb", ["evaluate", "export", "verify", "doctor"])
def test_every_command_prints_its_settings_and_does_nothing_else(verb, small_run, small_data, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*")}
    assert main([verb, *([] if verb == "doctor" else [str(run)]), "--print_config"]) == 0
    assert isinstance(yaml.safe_load(capsys.readouterr().out) or {}, dict)
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*")} == before


def test_evaluate_starts_from_the_runs_own_settings(small_run, small_data, resolved):
    config = resolved("evaluate", str(small_run))
    assert (config["data"]["train"], config["data"]["test"], config["evaluation"]["resamples"]) == (24, 10, 200)
    assert resolved("evaluate", str(small_run), "data.test=4")["data"]["test"] == 4


LAYERS = ["defaults", "train.yaml", "pde", "model", "preset", "--config", "override"]


@pytest.fixture
def layered(tmp_path, monkeypatch) -> Path:
    """A copy of configs/ that the commands read."""
    folder = tmp_path / "configs"
    shutil.copytree(opkit.registry.config_folder(), folder)
    for module in (opkit.registry, opkit.cli.settings):
        monkeypatch.setattr(module, "config_folder", lambda: folder)
    return folder


def put(path: Path, settings: dict) -> None:
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))


@pytest.mark.parametrize("top", range(len(LAYERS)), ids=LAYERS)
def test_later_layers_win(layered, resolved, top):
    files = ["train.yaml", "pde/darcy.yaml", "model/fno.yaml", "preset/quick.yaml"]
    for rank, file in enumerate(files[:top], 1):
        put(layered / file, {"optim": {"lr": float(rank)}})
    argv = ["train", "--pde=darcy", "--model=fno", "--preset=quick"]
    if top >= 5:
        argv += ["--config", save(NAMES | {"optim": {"lr": 5.0}})]
    if top == 6:
        argv += ["optim.lr=6"]
    optim = resolved(*argv)["optim"]
    assert optim["lr"] == (Optim().lr if top == 0 else float(top))
    assert optim["warmup"] == Optim().warmup


def test_settings_for_a_combination_beat_their_own_file_and_no_later_one(layered, resolved):
    put(
        layered / "model/fno.yaml",
        {"optim": {"lr": 1.0, "warmup": 0.1, "div_factor": 2.0}, "data": {"batch_size": 3},
         "for": {"darcy": {"optim": {"lr": 2.0, "warmup": 0.2}}, "fno-darcy": {"optim": {"warmup": 0.4}},
                 "burgers": {"data": {"batch_size": 4}}}},
    )  # fmt: skip
    argv = ["train", "--pde=darcy", "--model=fno"]
    config = resolved(*argv)
    assert [config["optim"][k] for k in ("lr", "warmup", "div_factor")] == [2.0, 0.4, 2.0]
    assert config["data"]["batch_size"] == 3
    put(layered / "preset/quick.yaml", {"optim": {"lr": 5.0}, "data": {"batch_size": 5}})
    config = resolved(*argv, "--preset=quick")
    assert (config["optim"]["lr"], config["data"]["batch_size"]) == (5.0, 8), "quick has a case for darcy"


def test_a_file_beats_defaults_only_where_it_speaks(resolved):
    config = resolved("train", "--pde=darcy", "--model=fno", "--config", save({"model": {"width": 7}}))
    assert config["model"]["width"] == 7
    assert config["model"]["n_modes"] == [24, 22]


def test_seed_is_short_for_the_datas_seed_when_generating(resolved, refuse):
    assert resolved(*GENERATE, "seed=7")["data"]["seed"] == 7
    assert resolved(*GENERATE, "--seed", "7", "data.seed=7")["data"]["seed"] == 7
    message = refuse(*GENERATE, "seed=7", "data.seed=8")
    assert "seed=7" in message and "data.seed=8" in message


def test_a_runs_settings_generate_the_runs_data(resolved):
    run = resolved(*TRAIN, "seed=3", "data.seed=5")
    assert resolved("generate", "--config", save(run))["data"]["seed"] == 5


def test_a_variant_inherits_the_cases_of_its_equation(layered, resolved):
    put(layered / "pde/darcy.yaml", {})
    (layered / "pde/darcy-rough.yaml").write_text("class_path: opkit.pdes.darcy.Darcy\npde: {tau: 9.0}\n")
    config = resolved("train", "--pde=darcy-rough", "--model=fno", "--preset=quick")
    assert (config["pde"]["name"], config["pde"]["tau"], config["pde"]["resolution"]) == ("darcy-rough", 9.0, 43)
    assert config["model"]["padding"] > 0
    assert config["run_dir"] == "runs/fno-darcy-rough"


@pytest.mark.parametrize(
    ("path", "said"),
    [("os.system", "opkit.pdes"), ("opkit.pdes.darcy.math", "PDE"), ("opkit.pdes.darcy.Missing", "PDE"),
     ("opkit.pdes.nowhere.Darcy", "nowhere"), ("opkit.pdes.base.Labels", "PDE")],
)  # fmt: skip
def test_a_shipped_file_that_names_no_equation_is_refused(layered, refuse, path, said):
    (layered / "pde/odd.yaml").write_text(f"class_path: {path}\n")
    message = refuse("generate", "--pde=odd")
    assert "odd.yaml" in message and said in message


def test_a_user_without_name_and_home_gets_places_to_write(monkeypatch, tmp_path):
    """As in a container that runs under any number: torch.compile asks for a name, matplotlib for a home."""
    import getpass
    import os

    from opkit import cli

    def nobody():
        raise KeyError("getpwuid(): uid not found: 54321")

    for name in ("LOGNAME", "MPLCONFIGDIR", "XDG_CACHE_HOME", "WANDB_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cli.os, "environ", dict(os.environ))
    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setattr(cli.os, "access", lambda *_: False)
    cli._settle_in()
    assert os.environ["LOGNAME"] == str(os.getuid())
    assert os.environ["MPLCONFIGDIR"].endswith(f"opkit-{os.getuid()}/mplconfigdir")

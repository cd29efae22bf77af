"""What may happen to a run directory: another run in it, files made to harm or of other runs, odd names and places."""

import datetime
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import SMALL, epochs_of, on_ranks

from opkit.checkpoints import read
from opkit.cli import main
from opkit.errors import RunError
from opkit.files import LOCK, alone_in, whole_folder
from opkit.progress import _bar
from opkit.task import SupervisedTask

ROOT = Path(__file__).parents[1]


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def same(run: Path, other: Path) -> bool:
    ours, theirs = weights(run), weights(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def stop(run: Path, monkeypatch, step: int, *settings: str) -> None:
    """A run that SIGTERM ends after some steps."""
    original = SupervisedTask.training_step

    def struck(self, batch, i):
        if self.trainer.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, i)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "training_step", struck)
        assert main(["train", *SMALL, *settings, f"run_dir={run}"]) == 75


@pytest.fixture
def run(small_run, small_data, tmp_path) -> Path:
    """A finished run of its own."""
    return shutil.copytree(small_run, tmp_path / "run")


@pytest.fixture(scope="module")
def begun(small_run, tmp_path_factory) -> Path:
    """A run that SIGTERM ended in its second epoch; tests must not change it."""
    run = tmp_path_factory.mktemp("begun") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPKIT_DATA", str(small_run.parent / "data"))
        stop(run, patch, 9)
    return run


@pytest.fixture
def half(begun, small_data, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(begun, tmp_path / "half")


@pytest.fixture
def refuse(capsys):
    """Run a command that must be refused; its one message."""

    def refused(*argv: str) -> str:
        capsys.readouterr()
        assert main(list(argv)) == 2
        said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("fno on darcy:")]
        assert len(said) == 1 and said[0].startswith(f"opkit {argv[0]}: ")
        return said[0]

    return refused


# Files that could run code.


class Evil:
    """A pickle that makes a file when it is read."""

    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self):
        return (os.mkdir, (str(self.canary),))


@pytest.mark.parametrize("where", ["beside the weights", "instead of all", "in the place of weights"])
@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_checkpoint_that_would_run_code_is_refused(name, where, run, refuse, tmp_path):
    path, canary = run / "checkpoints" / name, tmp_path / "canary"
    content = torch.load(path, weights_only=True)
    if where == "beside the weights":
        content["note"] = Evil(canary)
    elif where == "in the place of weights":
        content["state_dict"] = Evil(canary)
    torch.save(content if where != "instead of all" else Evil(canary), path)
    message = refuse("train", *SMALL, f"run_dir={run}", "--resume")
    assert str(path) in message and "could run code" in message
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists(), "the file would have run it"


def test_members_of_a_checkpoint_go_nowhere(tmp_path):
    """An archive whose parts are named to climb out of a folder: nothing is unpacked."""
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    with zipfile.ZipFile(tmp_path / "last.ckpt", "a") as archive:
        archive.writestr("../../escaped", "x")
    with pytest.raises(RunError, match=r"last\.ckpt"):
        read(tmp_path / "last.ckpt")
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


# Files of other runs, or of none.


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": {}}, "is not a checkpoint of a training run: it lacks global_step"),
        ([1, 2], "lacks everything"),
        (torch.zeros(3), "lacks everything"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content, said, run, refuse):
    torch.save(content, run / "checkpoints" / "last.ckpt")
    assert said in refuse("train", *SMALL, f"run_dir={run}", "--resume")


def test_the_checkpoint_of_another_network_is_refused(run, refuse, tmp_path):
    other = tmp_path / "other"
    assert main(["train", *SMALL, "model.width=5", f"run_dir={other}"]) == 0
    shutil.copy(other / "checkpoints" / "last.ckpt", run / "checkpoints" / "last.ckpt")
    message = refuse("train", *SMALL, f"run_dir={run}", "--resume")
    assert "another network" in message and "(5,), not (6,)" in message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", b"epoch,step\none,2\n"),
        ("metrics.csv", b"\xff\xfe\x00"),
        ("metrics.csv", b"epoch,colour\n0,red\n"),
        ("environment.json", b"{}"),
        ("environment.json", b'{"sessions": [3]}'),
        ("environment.json", b"[" * 9),
        ("config.yaml", b"\xff\xfe\x00"),
        ("config.yaml", b"pde: !!timestamp x"),
    ],
)
def test_records_that_are_damaged_are_named(name, content, half, refuse):
    (half / name).write_bytes(content)
    assert str(half / name) in refuse("train", *SMALL, f"run_dir={half}", "--resume")


# Other settings, other data, other numbers of processes.


@pytest.mark.parametrize(
    ("setting", "before"),
    [
        ("trainer.max_epochs=4", "2"),
        ("trainer.accumulate_grad_batches=2", "1"),
        ("trainer.precision=64-true", "None"),
        ("trainer.limit_train_batches=3", "None"),
    ],
)
def test_a_schedule_is_not_changed_on_the_way(setting, before, run, refuse):
    message = refuse("train", *SMALL, setting, f"run_dir={run}", "--resume")
    key, _, value = setting.partition("=")
    assert key in message and f"was {before}" in message and value in message


def test_data_of_another_key_are_not_continued_with(run, refuse):
    """As when an opkit makes other data of the same settings, which then have another key."""
    text = (run / "environment.json").read_text()
    key = json.loads(text)["sessions"][-1]["data"]
    (run / "environment.json").write_text(text.replace(key, "0" * 16))
    message = refuse("train", *SMALL, f"run_dir={run}", "--resume")
    assert "0" * 16 in message and key in message and "another run_dir" in message


@pytest.mark.slow
def test_a_run_in_double_precision_resumes_with_all_its_digits(small_data, tmp_path, monkeypatch):
    whole, run, double = tmp_path / "whole", tmp_path / "run", "trainer.precision=64-true"
    assert main(["train", *SMALL, double, f"run_dir={whole}"]) == 0
    stop(run, monkeypatch, 9, double)
    assert main(["train", *SMALL, double, f"run_dir={run}", "--resume"]) == 0
    assert same(run, whole)


@pytest.mark.slow
def test_a_run_of_two_processes_is_continued_by_one(small_data, tmp_path):
    """The order of samples is that of the epoch, however many take part: the weights are those of one, in float64."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = [*SMALL, "trainer.precision=64-true"]
    fault = """
import os, signal
from opkit.task import SupervisedTask as T
step = T.training_step
def struck(self, b, i):
    if self.trainer.global_step == 8 and self.global_rank == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, b, i)
T.training_step = struck
"""
    assert main(["train", *settings, f"run_dir={whole}"]) == 0
    assert [code for code, _ in on_ranks([*settings, f"run_dir={run}"], fault)] == [75, 75]
    assert main(["train", *settings, f"run_dir={run}", "--resume"]) == 0
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(run)[name], value, rtol=1e-12, atol=1e-12)


def test_an_online_run_is_not_continued_by_another_number_of_processes(small_data, tmp_path, monkeypatch, capsys):
    """Each process solves samples of its own."""
    online = ["data.mode=online", "data.reuse=4", "data.reservoir=8", "workers=1"]
    run = tmp_path / "run"
    stop(run, monkeypatch, 5, *online)
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    assert content["FieldData"]["world"] == 1
    content["FieldData"]["world"] = 2
    torch.save(content, path)
    assert main(["train", *SMALL, *online, f"run_dir={run}", "--resume"]) == 2
    assert "begun by 2 processes, whose samples are not those of 1" in capsys.readouterr().err


# Several at once.


def test_a_run_directory_has_one_run_at_a_time(small_run, small_data, tmp_path, monkeypatch, capsys):
    """Both the same command again and --resume, while a step of the first run is on its way."""
    run, original, told = tmp_path / "run", SupervisedTask.training_step, []

    def meanwhile(self, batch, i):
        if self.trainer.global_step == 8:
            monkeypatch.setattr(SupervisedTask, "training_step", original)
            before = sorted(p for p in run.rglob("*"))
            capsys.readouterr()
            for flag in ([], ["--resume"]):
                assert main(["train", *SMALL, f"run_dir={run}", *flag]) == 2
                told.append(capsys.readouterr().err)
            assert sorted(p for p in run.rglob("*")) == before
        return original(self, batch, i)

    monkeypatch.setattr(SupervisedTask, "training_step", meanwhile)
    assert main(["train", *SMALL, f"run_dir={run}"]) == 0
    assert len(told) == 2
    for message in told:
        assert len(message.splitlines()) == 1
        assert f"in use by process {os.getpid()} on " in message and str(run) in message and "run_dir=" in message
    assert same(run, small_run) and epochs_of(run) == epochs_of(small_run)
    assert not (run / LOCK).exists()


def hold(folder: Path, then: str) -> subprocess.Popen:
    """A process that holds a folder, says so, and then does something."""
    code = (
        "import os, signal, sys, time; from pathlib import Path; from opkit.files import alone_in\n"
        f"with alone_in(Path(sys.argv[1]), RuntimeError): print('held', flush=True); {then}"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == b"held\n"
    return process


def test_the_lock_of_a_process_that_is_killed_is_in_nobodys_way(tmp_path):
    process = hold(tmp_path / "run", "time.sleep(60)")
    try:
        with pytest.raises(RunError, match=f"in use by process {process.pid} on"), alone_in(tmp_path / "run", RunError):
            pass
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "run" / LOCK).exists()
    with alone_in(tmp_path / "run", RunError):
        pass
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize(
    ("place", "settings"),
    [("run", []), pytest.param("run/seed-0", ["seeds=2", "--resume"], marks=pytest.mark.slow)],
    ids=["run", "seeds"],
)
def test_a_run_killed_before_its_beginning_begins_again(place, settings, small_data, tmp_path):
    """While its data were made, say: all it left is the lock."""
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / LOCK).write_text("process 1 on another machine")
    assert main(["train", *SMALL, *settings, f"run_dir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / place / "surrogate").is_dir() and not (tmp_path / place / LOCK).exists()


def test_what_was_made_for_nothing_is_removed(tmp_path):
    with pytest.raises(ValueError, match="no"), alone_in(tmp_path / "a" / "b", RunError):
        assert (tmp_path / "a" / "b" / LOCK).exists()
        raise ValueError("no")
    assert not list(tmp_path.iterdir())
    with alone_in(tmp_path / "a" / "b", RunError):
        (tmp_path / "a" / "b" / "mine").touch()
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["mine"]


def test_a_lock_that_its_holder_removes_is_not_taken_for_the_next_ones(tmp_path, monkeypatch):
    """Between opening a file and locking it somebody may have let go of it, and another have made a new one."""
    import opkit.files

    folder, flock, others = tmp_path / "run", opkit.files.fcntl.flock, []

    def late(handle, how):
        if not others:
            (folder / LOCK).unlink()
            other = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
            flock(other, how)
            others.append(other)
        flock(handle, how)

    monkeypatch.setattr(opkit.files.fcntl, "flock", late)
    with pytest.raises(RunError, match="in use"), alone_in(folder, RunError):
        pass
    os.close(others[0])


def test_a_file_system_without_locks_holds_nobody_up(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("opkit.files.fcntl.flock", unknown)
    with alone_in(tmp_path / "run", RunError), alone_in(tmp_path / "run", RunError):
        assert (tmp_path / "run").is_dir()


def test_folders_put_in_one_place_at_once_end_whole(tmp_path):
    """As two evaluations do: all of them finish, and what stays is one of them."""
    target, failures = tmp_path / "evaluation", []

    def put(writer: int) -> None:
        try:
            for _ in range(30):
                with whole_folder(target) as folder:
                    for name in ("report.json", "metrics.csv", "report.html"):
                        (folder / name).write_text(str(writer))
        except BaseException as problem:
            failures.append(problem)

    writers = [threading.Thread(target=put, args=(i,)) for i in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures
    assert [p.name for p in tmp_path.iterdir()] == ["evaluation"]
    assert sorted(p.name for p in target.iterdir()) == ["metrics.csv", "report.html", "report.json"]
    assert len({p.read_text() for p in target.iterdir()}) == 1


# Odd places, names and times.


def test_a_folder_behind_a_link_is_filled_where_it_is(tmp_path):
    (tmp_path / "disk" / "bundle").mkdir(parents=True)
    (tmp_path / "disk" / "bundle" / "old").touch()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "bundle")
    with whole_folder(tmp_path / "link") as folder:
        (folder / "new").touch()
    assert (tmp_path / "link").is_symlink()
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*"))
    assert found == ["disk", "disk/bundle", "disk/bundle/new", "link"]


def test_a_run_behind_a_link(small_run, small_data, tmp_path, refuse):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    assert main(["train", *SMALL, f"run_dir={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run").is_symlink() and same(tmp_path / "disk", small_run)
    assert "already holds a run" in refuse("train", *SMALL, f"run_dir={tmp_path / 'disk'}")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for name in ("nowhere", "round"):
        assert str(tmp_path / name) in refuse("train", *SMALL, f"run_dir={tmp_path / name}")


@pytest.mark.parametrize("name", ["läufe 1 ∂ₜu = 0 [/red]", pytest.param("{0} %s\\n;'\"", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_names_with_spaces_and_signs_of_any_kind(name, small_run, tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / name / "data"))
    run = tmp_path / name / f"run {name}"
    assert main(["train", *SMALL, f"run_dir={run}"]) == 0
    assert same(run, small_run)
    assert main(["train", *SMALL, f"run_dir={run}", "--resume"]) == 0
    assert main(["evaluate", str(run)]) == 0
    assert main(["verify", str(run)]) == 0


def test_a_bar_shows_its_title_as_it_is(capsys):
    with _bar("train [/red]", 3, "steps", 0) as advance:
        advance(3)
    assert "train [/red]" in capsys.readouterr().err


@pytest.mark.parametrize("run_dir", ["x" * 300, "/proc/self/fd/run", "/sys/run"])
def test_places_where_no_folder_can_be_are_refused(run_dir, small_data, refuse):
    message = refuse("train", *SMALL, f"run_dir={run_dir}")
    assert run_dir in message and "run_dir" in message


@pytest.mark.parametrize("problem", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_an_evaluation_that_may_not_be_written_says_so(problem, run, refuse, monkeypatch, capsys):
    """A read-only file system, such as an archive's: noticed before anything is measured, or after."""
    with monkeypatch.context() as patch:
        patch.setattr("opkit.cli.verbs.os.access", lambda *_, **__: False)
        assert f"{run}: no permission to write" in refuse("evaluate", str(run), "workers=1")

    def denied(path, *_, **__):
        raise OSError(problem, os.strerror(problem), str(path))

    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    monkeypatch.setattr("opkit.files.Path.mkdir", denied)
    assert main(["evaluate", str(run), "workers=1"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert str(run / ".evaluation") in message and "no permission" in message
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_a_clock_set_back_changes_nothing(small_run, half, monkeypatch):
    """By a year, between the halves of a run: its files are then of the future."""
    year = datetime.timedelta(days=365).total_seconds()
    for path in half.rglob("*"):
        os.utime(path, (time.time() + year,) * 2)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - year)
    assert main(["train", *SMALL, f"run_dir={half}", "--resume"]) == 0
    assert same(half, small_run) and epochs_of(half) == epochs_of(small_run)

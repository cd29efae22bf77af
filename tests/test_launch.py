"""Making data with many processes, some of which die: always the same files, byte for byte."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from opkit import generate
from opkit.cli import main
from opkit.errors import ConfigError, DataError, SolverError
from opkit.files import remove_leftovers, sha256
from opkit.generate import LocalPool, Meter, ensure, make
from opkit.launch import Rank, detect, launch, slurm_rank, torchrun_rank
from opkit.pdes import Darcy
from opkit.store import SHARD, Dataset

ROOT = Path(__file__).parents[1]
PDE = Darcy(resolution=9, label_resolution=9, modes=8)
MANY = 4 * SHARD + 7
SHARDS = 5
SETTINGS = ["--pde=darcy", "pde.resolution=9", "pde.label_resolution=9", "pde.modes=8", "evaluation.resolutions=[17]",
            "data.val=1", "data.test=1", "data.test_fine=1"]  # fmt: skip
LIVE = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads children of a process from /proc")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> Path:
    """The files of an uninterrupted run by one process: all splits, many training samples."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("uninterrupted")
        patch.setenv("OPKIT_DATA", str(root))
        assert main(["generate", *SETTINGS, f"data.train={MANY}", "workers=1"]) == 0
        return root


def hashes(root: Path) -> dict[str, str]:
    """Of every file below `root`, manifests and leftovers included."""
    return {str(path.relative_to(root)): sha256(path) for path in sorted(root.rglob("*")) if path.is_file()}


def assert_same(root: Path, expected: Path) -> None:
    """Byte for byte; where a shard differs, what in it does."""
    ours, theirs = hashes(root), hashes(expected)
    if ours != theirs:
        assert ours.keys() == theirs.keys()
        changed = [name for name in ours if ours[name] != theirs[name]]
        pytest.fail("\n".join(f"{name}: {shard_difference(root / name, expected / name)}" for name in changed))


def shard_difference(ours: Path, theirs: Path) -> str:
    if ours.suffix != ".h5":
        return ours.read_text()
    with h5py.File(ours) as a, h5py.File(theirs) as b:
        found, nodes = [], ["/"]
        a.visit(nodes.append)
        for node in nodes:
            values = {name: (a[node].attrs[name], b[node].attrs.get(name)) for name in a[node].attrs}
            if isinstance(a[node], h5py.Dataset):
                values[""] = a[node][()], b[node][()]
            found += [f"{node} {name}: {x} != {y}" for name, (x, y) in values.items() if not np.array_equal(x, y)]
        return "; ".join(found) or "the same content in other bytes"


def shards(root: Path) -> int:
    return len(list(root.rglob("train/samples-*.h5")))


def start(root: Path, *settings: str, **environment: str) -> subprocess.Popen:
    """A generate command in a process group of its own."""
    command = [sys.executable, str(ROOT / "datasets" / "generate.py"), *SETTINGS, f"data.train={MANY}", *settings]
    variables = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
    variables |= {"OPKIT_DATA": str(root), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen, seconds: float = 100) -> tuple[int, str, str]:
    """Exit code, output and messages; nothing of the group is left running."""
    try:
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err
    finally:
        kill(process)


def kill(process: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def until(condition, process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.001)


def descendants(process: int) -> Iterator[int]:
    """Processes below this one, parents first."""
    for thread in Path(f"/proc/{process}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in map(int, (thread / "children").read_text().split()):
                yield child
                yield from descendants(child)


def commands(process: int) -> dict[int, str]:
    found = {}
    for child in descendants(process):
        try:
            found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
    return found


# Ranks.


def test_ranks_share_the_plan_between_them(tmp_path):
    data = Dataset(PDE, "train", 0, tmp_path)
    jobs = data.missing(MANY)
    assert Rank(1, 3).share(data, jobs) == [(50, 100), (200, 207)]
    for count in (1, 2, 3, 5, 20):
        assert sorted(job for r in range(count) for job in Rank(r, count).share(data, jobs)) == jobs
    assert Rank(1, 3).share(data, jobs[2:]) == [(200, 207)], "what others have made changes no one's part"


ARRAY = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1",
         "SLURM_ARRAY_TASK_MAX": "7", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_JOB_ID": "9", "SLURM_PROCID": "0",
         "SLURM_NTASKS": "3"}  # fmt: skip
STEP = {"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_JOB_ID": "9", "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("environment", "launcher", "rank"),
    [
        ({}, "local", None),
        ({"SLURM_JOB_ID": "9", "SLURM_NTASKS": "4"}, "local", None),  # an interactive shell
        ({"SLURM_JOB_ID": "9", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, "local", None),  # a batch script, before srun
        ({"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}, "slurm", (2, 3)),
        (ARRAY, "slurm", (2, 4)),  # indices 1, 3, 5, 7
        (STEP, "slurm", (2, 3)),
        (ARRAY | STEP, "slurm", (8, 12)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "slurm", (1, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "torchrun", (1, 2)),
    ],
)
def test_the_environment_shows_the_rank(environment, launcher, rank):
    assert detect(environment) == launcher
    if rank:
        assert {"slurm": slurm_rank, "torchrun": torchrun_rank}[launcher](environment) == Rank(*rank)


@pytest.mark.parametrize(
    ("read", "environment", "said"),
    [
        (slurm_rank, {}, "SLURM_ARRAY_TASK_ID"),
        (slurm_rank, {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "3"}, "without gaps"),
        (slurm_rank, {"SLURM_ARRAY_TASK_ID": "x", "SLURM_ARRAY_TASK_COUNT": "3"}, "'x'"),
        (slurm_rank, {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_COUNT is missing"),
        (torchrun_rank, {"RANK": "1"}, "WORLD_SIZE"),
        (torchrun_rank, {"RANK": "2", "WORLD_SIZE": "2"}, "0 to 1"),
    ],
)
def test_an_environment_that_shows_no_rank_is_refused(read, environment, said):
    with pytest.raises(ConfigError, match=said):
        read(environment)


RANKS = {
    "slurm": [{"SLURM_ARRAY_TASK_ID": str(r), "SLURM_ARRAY_TASK_COUNT": "3"} for r in range(3)],
    "torchrun": [{"RANK": str(r), "WORLD_SIZE": "2", "LOCAL_RANK": str(r)} for r in range(2)],
}


@pytest.mark.parametrize("launcher", RANKS)
def test_ranks_one_after_the_other_make_the_same_files(root, monkeypatch, capsys, expected, launcher):
    for i, environment in enumerate(RANKS[launcher][::-1], 1):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            assert main(["generate", *SETTINGS, f"data.train={MANY}", "workers=1"]) == 0
        out = capsys.readouterr().out
        assert ("still to be made" in out) == (i < len(RANKS[launcher]))
    assert_same(root, expected)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", RANKS)
def test_ranks_at_once_make_the_same_files(root, expected, launcher):
    processes = [start(root, "workers=1", **environment) for environment in RANKS[launcher]]
    results = [finish(process) for process in processes]
    assert [code for code, _, _ in results] == [0] * len(processes), results
    assert_same(root, expected)


def test_two_processes_that_race_make_the_same_files(root, expected):
    processes = [start(root, "workers=1") for _ in range(2)]
    results = [finish(process) for process in processes]
    assert [code for code, _, _ in results] == [0, 0], results
    assert_same(root, expected)


def test_a_shard_that_is_there_is_not_made_again(root, monkeypatch):
    data = ensure(PDE, "train", 3, workers=1)
    monkeypatch.setattr(Darcy, "label", lambda *_: pytest.fail("made again"))
    done = []
    generate.make_shard(data, 0, 3, report=lambda *values: done.append(values))
    assert done == [(3, 0.0)]


def test_the_manifest_lists_a_shard_that_appears_while_it_is_written(root, monkeypatch):
    """Another rank finishes between this one's look at the folder and its manifest."""
    data = ensure(PDE, "train", 3, workers=1)
    write, late = generate.Dataset.finish.__globals__["write_json"], []

    def and_then_another(path, value):
        if not late:
            late.append(generate.make_shard(data, 3, 5))
        write(path, value)

    monkeypatch.setattr("opkit.store.write_json", and_then_another)
    data.finish([])
    listed = json.loads((data.folder / "manifest.json").read_text())["shards"]
    assert [(entry["start"], entry["stop"]) for entry in listed] == [(0, 3), (3, 5)]


def test_a_further_rank_of_a_training_run_waits_for_the_first(root, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(generate.time, "sleep", lambda _: make(data, data.missing(60), LocalPool(1)))  # by the first
    data = Dataset(PDE, "train", 0, root)
    assert ensure(PDE, "train", 60, workers=1).missing(60) == []
    err = capsys.readouterr().err
    assert "waiting for the first rank" in err
    assert err.count("wrote") == 1


def test_a_further_rank_helps_itself_if_nobody_else_does(root, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(generate, "PATIENCE", 0.0)
    assert ensure(PDE, "train", 3, workers=1).missing(3) == []


# Processes that die.


@dataclass(frozen=True, eq=False)
class Deadly(Darcy):
    """Kills the process that solves sample 60, as a machine out of memory does, as often as `marks` lacks files."""

    marks: str = ""
    deaths: int = 0

    def label(self, n, seed, first, device="cpu", tile=None):
        if first == 60:
            died = len(os.listdir(self.marks))
            if died < self.deaths:
                Path(self.marks, str(died)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().label(n, seed, first, device, tile)


@dataclass(frozen=True, eq=False)
class Unsolvable(Darcy):
    """Cannot solve sample 60."""

    marks: str = ""

    def label(self, n, seed, first, device="cpu", tile=None):
        if first == 60:
            Path(self.marks, str(len(os.listdir(self.marks)))).touch()
            raise SolverError("sample 60 has no solution")
        return super().label(n, seed, first, device, tile)


@pytest.fixture
def marks(tmp_path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


@pytest.mark.slow
def test_a_shard_whose_process_died_is_made_by_another(root, marks):
    pde = Deadly(resolution=9, label_resolution=9, modes=8, marks=str(marks), deaths=1)
    data = ensure(pde, "train", 3 * SHARD, workers=2)
    data.verify(3 * SHARD)
    assert len(list(marks.iterdir())) == 1
    assert not list(root.rglob("*.tmp-*"))


@pytest.mark.slow
def test_a_shard_whose_processes_die_every_time_is_given_up(root, marks):
    pde = Deadly(resolution=9, label_resolution=9, modes=8, marks=str(marks), deaths=99)
    with pytest.raises(DataError, match=r"died 3 times while samples .*50 to 99"):
        ensure(pde, "train", 3 * SHARD, workers=2)
    assert len(list(marks.iterdir())) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_what_has_no_solution_is_not_tried_again(root, marks, workers):
    pde = Unsolvable(resolution=9, label_resolution=9, modes=8, marks=str(marks))
    with pytest.raises(SolverError, match="no solution"):
        ensure(pde, "train", 3 * SHARD, workers=workers)
    assert len(list(marks.iterdir())) == 1


@LIVE
@pytest.mark.slow
def test_a_dask_worker_that_is_killed_loses_nothing(root, expected):
    process = start(root, "workers=2", "launcher=dask")
    try:
        until(lambda: shards(root), process)
        workers = [pid for pid, command in commands(process.pid).items() if "spawn_main" in command]
        assert len(workers) >= 2
        os.kill(workers[-1], signal.SIGKILL)
        assert shards(root) < SHARDS, "there was something left to do"
    finally:
        code, _, err = finish(process)
    assert code == 0, err
    assert_same(root, expected)


@pytest.fixture
def scheduler() -> Iterator[str]:
    """The address of a Dask scheduler that somebody else started, with two workers."""
    from distributed import LocalCluster

    settings = {"n_workers": 2, "threads_per_worker": 1, "host": "127.0.0.1", "dashboard_address": None}
    with LocalCluster(**settings, silence_logs=50) as cluster:
        yield cluster.scheduler_address


@pytest.mark.slow
def test_dask_workers_that_write_elsewhere_are_noticed(root, scheduler, monkeypatch):
    monkeypatch.setattr(Dataset, "path", lambda data, *job: data.folder / "elsewhere")  # seen here, not by the workers
    with launch("dask", scheduler, None, "cpu") as run, pytest.raises(DataError, match="OPKIT_DATA"):
        run.make(Dataset(PDE, "train", 0, root), 3)


@pytest.mark.slow
def test_a_dask_scheduler_that_goes_away_is_reported(root):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, host="127.0.0.1", dashboard_address=None, silence_logs=50) as cluster:
        process = start(root, f"scheduler={cluster.scheduler_address}", "data.train=2000")
        until(lambda: shards(root), process)
    code, _, err = finish(process)
    assert code == 2, err
    assert "scheduler went away" in err and "Traceback" not in err, err


@pytest.mark.slow
def test_an_existing_dask_cluster_makes_the_same_files(root, marks, scheduler, expected):
    assert main(["generate", *SETTINGS, f"data.train={MANY}", f"scheduler={scheduler}"]) == 0
    assert_same(root, expected)
    pde = Unsolvable(resolution=9, label_resolution=9, modes=8, marks=str(marks))
    with launch("dask", scheduler, None, "cpu") as run, pytest.raises(SolverError, match="no solution"):
        run.make(Dataset(pde, "train", 1, root), 3 * SHARD)
    assert len(list(marks.iterdir())) == 1, "what has no solution is not tried again"


def killed_again_and_again(root: Path, workers: int, moments: int, rng: random.Random) -> int:
    """Kill the whole generation at random moments; how often there was something to kill."""
    killed = 0
    for _ in range(moments):
        before, process = shards(root), start(root, f"workers={workers}")
        try:
            if rng.random() < 0.8:  # most of a short run is start-up, where there is little to go wrong
                # or it had nothing left to do, having been killed between its last shard and the manifest
                until(lambda b=before, p=process: shards(root) > b or p.poll() is not None, process)
            time.sleep(rng.uniform(0, 0.3))
            killed += process.poll() is None
        finally:
            kill(process)
    return killed


def test_killing_everything_leaves_no_trace(root, expected):
    assert killed_again_and_again(root, 2, 2, random.Random(2)) == 2
    assert 0 < shards(root) < SHARDS
    assert main(["generate", *SETTINGS, f"data.train={MANY}", "workers=1"]) == 0
    assert_same(root, expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killing_everything_twenty_times_leaves_no_trace(tmp_path, monkeypatch, expected, workers):
    rng, killed = random.Random(workers), 0
    for i in range(20):
        if i % 4 == 0:  # before all is made
            root = tmp_path / str(i)
            monkeypatch.setenv("OPKIT_DATA", str(root))
        killed += killed_again_and_again(root, workers, 1, rng)
        if i % 4 == 3:
            assert main(["generate", *SETTINGS, f"data.train={MANY}", f"workers={workers}"]) == 0
            assert_same(root, expected)
            shutil.rmtree(root)
    assert killed >= 15


def test_a_run_killed_before_its_manifest_is_settled_by_the_next(root, expected):
    assert main(["generate", *SETTINGS, f"data.train={MANY}", "workers=1"]) == 0
    manifest = next(root.rglob("train/manifest.json"))
    for content in (None, json.dumps({"shards": json.loads(manifest.read_text())["shards"][:-1]})):
        manifest.unlink()
        if content is not None:
            manifest.write_text(content)
        assert main(["generate", *SETTINGS, f"data.train={MANY}", "workers=1"]) == 0
        assert_same(root, expected)


# Signals.


@LIVE
@pytest.mark.parametrize(
    ("number", "workers", "whole_group", "code"),
    [
        (signal.SIGTERM, 1, False, 75),
        (signal.SIGUSR1, 2, True, 75),
        pytest.param(signal.SIGTERM, 2, False, 75, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 2, True, 130, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_generation_and_the_same_command_continues(root, expected, number, workers, whole_group, code):
    process = start(root, f"workers={workers}")
    try:
        until(lambda: shards(root), process)
        (os.killpg if whole_group else os.kill)(process.pid, number)
    finally:
        left, _, err = finish(process, 20)
    assert left == code, err
    said = [line for line in err.splitlines() if not line.startswith(("generate darcy", "wrote "))]
    assert len(said) == 1, err
    assert code == 130 or ("stopped by " + number.name in said[0] and "the same command continues" in said[0])
    assert 0 < shards(root) < SHARDS
    assert not list(root.rglob("*.tmp-*"))
    assert main(["generate", *SETTINGS, f"data.train={MANY}", "workers=1"]) == 0
    assert_same(root, expected)


@pytest.mark.slow
def test_a_signal_ends_dask_too(root, expected):
    process = start(root, "workers=2", "launcher=dask")
    try:
        until(lambda: shards(root), process)
        process.send_signal(signal.SIGTERM)
    finally:
        code, _, err = finish(process, 60)
    assert code == 75, err
    assert main(["generate", *SETTINGS, f"data.train={MANY}", "workers=1"]) == 0
    assert_same(root, expected)


# What killed writers leave behind.


def test_leftovers_of_dead_writers_are_removed_and_others_kept(tmp_path):
    from opkit.files import _machine

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    names = {
        f"a.h5.tmp-{_machine()}-{gone.pid}-0badf00d": False,
        f"b.h5.tmp-{_machine()}-{os.getpid()}-0badf00d": True,
        f"c.h5.tmp-0badf00d-{gone.pid}-0badf00d": True,  # on another machine
        "d.h5.tmp-0123456789ab": True,
        "notes.tmp-mine": True,
        "samples-000000-000050.h5": True,
    }
    old = {"c.h5.tmp-0badf00d-1-00000000": False, "e.h5.tmp-0123456789ab": False, "old.tmp-mine": True, "x.h5": True}
    for name in names | old:
        (tmp_path / name).write_text("half")
    for name in old:
        os.utime(tmp_path / name, (0, time.time() - 2 * 86_400))
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name for name, kept in (names | old).items() if kept}


# What is said.


def test_the_forecast_counts_refined_samples_and_workers(tmp_path):
    jobs = [(0, 50), (50, 100), (100, 120)]
    meter = Meter("generate", Dataset(Darcy(), "train", 0, tmp_path), jobs, 2, lambda *_: None)
    # 3 samples on 841 points a side in place of 421: (120 + 3 * 3.99) * 1.5 s = 198 s of work on 2 workers, 99 s; but
    # 3 shards go through 2 workers in two rounds, 132 s
    assert "about 1.5 s a sample, 120 samples in about 2:12 on 2 workers, up to 7." in meter._forecast(1.5)


def test_forecast_throughput_and_label_error_are_printed(root, capsys):
    assert main(["generate", *SETTINGS, "data.train=120", "workers=1"]) == 0
    said = capsys.readouterr()
    assert said.err.count(" s a sample, 120 samples in about ") == 1
    assert "samples/s)" in said.err
    assert "(3 of 120 samples solved on a refined grid)" in said.out
    assert said.out.count("label error about") == 4


# What is refused.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["device=cuda"], "device=cuda is not available here"),
        (["device=gpu"], "device=gpu"),
        (["launcher=slurm"], "SLURM_ARRAY_TASK_ID"),
        (["launcher=torchrun"], "WORLD_SIZE"),
        (["launcher=mpi"], "launcher=mpi"),
        (["launcher=local", "scheduler=tcp://127.0.0.1:1"], "launcher=dask"),
    ],
)
def test_impossible_launches_are_refused(root, monkeypatch, capsys, settings, said):
    if "cuda" in settings[0]:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["generate", *SETTINGS, *settings]) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert said in err


def test_a_scheduler_that_does_not_answer_is_named(root, monkeypatch, capsys):
    monkeypatch.setattr("opkit.launch.DASK_TIMEOUT", 0.5)
    assert main(["generate", *SETTINGS, "scheduler=tcp://127.0.0.1:1"]) == 2
    assert "scheduler=tcp://127.0.0.1:1: no Dask scheduler answers" in capsys.readouterr().err


def test_the_slurm_script_is_a_shell_script():
    subprocess.run(["bash", "-n", str(ROOT / "cluster" / "generate.slurm")], check=True)

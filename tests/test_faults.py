"""What may happen to files: damage, mix-ups, killed writers, full disks. Nothing of it is ever read as data."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import opkit
from opkit.cli import main
from opkit.errors import BundleError, DataError
from opkit.files import whole_file, whole_folder, write_json
from opkit.generate import ensure
from opkit.pdes import Darcy
from opkit.store import SHARD, Dataset

PDE = Darcy(resolution=9, label_resolution=9, modes=8)
OTHER = Darcy(resolution=9, label_resolution=9, modes=8, forcing=2.0)
COUNT = 6
MANY = 5 * SHARD + 7
"""Enough shards for two workers, or to be killed between."""
ROOT = Path(__file__).parents[1]
SETTINGS = ["pde.resolution=9", "pde.label_resolution=9", "pde.modes=8", "evaluation.resolutions=[17]", "data.val=1",
            "data.test=1", "data.test_fine=1"]  # fmt: skip


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """Data to copy and damage: six samples of each split, and of the training splits of two other problems."""
    root = tmp_path_factory.mktemp("pristine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPKIT_DATA", str(root))
        for split in ("train", "val"):
            ensure(PDE, split, COUNT, workers=1)
        ensure(OTHER, "train", COUNT, workers=1)
        ensure(PDE, "train", COUNT, seed=5, workers=1)
    return root


@pytest.fixture
def data(pristine, tmp_path, monkeypatch) -> Dataset:
    """A copy of its own of the training split."""
    root = tmp_path / "data"
    shutil.copytree(pristine, root)
    monkeypatch.setenv("OPKIT_DATA", str(root))
    return Dataset(PDE, "train", 0, root)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[str, torch.Tensor]:
    """Many samples, made in one go by one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPKIT_DATA", str(tmp_path_factory.mktemp("uninterrupted")))
        return ensure(PDE, "train", MANY, workers=1).load(MANY)


def first_shard(data: Dataset) -> Path:
    return data.folder / f"samples-000000-{COUNT:06d}.h5"


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def temporaries(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if ".tmp-" in path.name]


# Damage inside a shard.


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip_a_bit_of_a_field(path: Path) -> None:
    with h5py.File(path) as file:
        chunk = file["t0_fields/u"].id.get_chunk_info(3)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 1
    path.write_bytes(content)


def lose_a_chunk(path: Path) -> None:
    """The index of chunks forgets one, as after a flipped bit in it: HDF5 then reads the fill value."""
    with h5py.File(path, "r+") as file:
        old = file["t0_fields/u"]
        values, layout = old[:], old.id.get_create_plist()
        space, kind = old.id.get_space(), old.id.get_type()
        del file["t0_fields/u"]
        new = h5py.Dataset(h5py.h5d.create(file["t0_fields"].id, b"u", kind, space, layout))
        for i in (0, 1, 2, 4, 5):
            new[i] = values[i]


def replace(value):
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file["t0_fields/u"]
            if value is not None:
                file["t0_fields"]["u"] = value

    return damage


def put(value: float):
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file["t0_fields/u"][2, 3, 3] = value

    return damage


def replace_by_a_group(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["t0_fields/u"]
        file.create_group("t0_fields/u")


def attribute(name: str, value: str | None = None):
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file.attrs[name]
            if value is not None:
                file.attrs[name] = value

    return damage


def make_foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["temperature"] = np.zeros((COUNT, 9, 9), np.float32)


def make_text(path: Path) -> None:
    path.write_text("<html>503</html>")


DAMAGE = {
    "truncated": truncate,
    "empty": empty,
    "flipped bit": flip_a_bit_of_a_field,
    "lost chunk": lose_a_chunk,
    "NaN": put(np.nan),
    "infinity": put(-np.inf),
    "missing field": replace(None),
    "integers": replace(np.ones((COUNT, 9, 9), np.int32)),
    "half precision": replace(np.ones((COUNT, 9, 9), np.float16)),
    "complex": replace(np.ones((COUNT, 9, 9), np.complex64)),
    "too few samples": replace(np.ones((COUNT - 1, 9, 9), np.float32)),
    "another grid": replace(np.ones((COUNT, 8, 8), np.float32)),
    "an axis too few": replace(np.ones((COUNT, 9), np.float32)),
    "a scalar": replace(np.float32(1)),
    "a group": replace_by_a_group,
    "never completed": attribute("complete"),
    "another schema": attribute("opkit_schema", "0.9"),
    "no key": attribute("config_key"),
    "another key": attribute("config_key", "0" * 16),
    "another key and no record": attribute("config_json", "{"),
    "no indices": attribute("index_start"),
    "foreign HDF5": make_foreign,
    "not HDF5": make_text,
}


@pytest.mark.parametrize("manifest", [True, False], ids=["manifest", "no manifest"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_reported_by_file_and_remedy(data, damage, manifest):
    path = first_shard(data)
    DAMAGE[damage](path)
    if damage == "another key and no record":
        attribute("config_key", "0" * 16)(path)
    if not manifest:
        (data.folder / "manifest.json").unlink()
    with pytest.raises(DataError) as refusal:
        data.load(COUNT)
    message = str(refusal.value)
    assert str(path) in message
    assert "Delete it" in message or "Move it elsewhere" in message


def test_a_flipped_bit_anywhere_is_noticed_by_the_manifest(data):
    path, rng = first_shard(data), random.Random(0)
    good = path.read_bytes()
    for _ in range(40):
        content = bytearray(good)
        content[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(str(path))):
            data.verify(COUNT)
    path.write_bytes(good)
    data.verify(COUNT)


@pytest.mark.parametrize("damage", ["truncated", "flipped bit"])
def test_generate_reports_damage_with_exit_2(data, damage, capsys):
    DAMAGE[damage](first_shard(data))
    assert main(["generate", "--pde=darcy", *SETTINGS, f"data.train={COUNT}", "workers=1"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert str(first_shard(data)) in err[0] and "Delete it" in err[0]


@pytest.mark.parametrize("version", [opkit.__version__, "99.0"], ids=["this version", "a later version"])
def test_the_remedy_heals(data, pristine, monkeypatch, version):
    good = Dataset(PDE, "train", 0, pristine).load(COUNT)
    monkeypatch.setattr(opkit, "__version__", version)
    truncate(first_shard(data))
    with pytest.raises(DataError, match="Delete it and run the same command again"):
        data.load(COUNT)
    first_shard(data).unlink()
    assert same(ensure(PDE, "train", COUNT, workers=1).load(COUNT), good)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "\x00", '{"shards": 3}', '{"shards": null}', '{"shards": [1]}', '{"shards": [{}]}',
     '{"shards": [{"file": "samples-000000-000006.h5"}]}'],
)  # fmt: skip
def test_a_damaged_manifest_is_reported_by_file_and_remedy(data, content):
    (data.folder / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json.*Delete it"):
        data.load(COUNT)


def test_a_lost_manifest_loses_nothing(data):
    good = data.load(COUNT)
    (data.folder / "manifest.json").unlink()
    assert same(data.load(COUNT), good)


# Whole files in the wrong place.


@pytest.mark.parametrize("name", ["darcy_421.h5", "samples-0-6.h5", "copy of samples-000000-000006.h5"])
def test_a_file_that_is_no_shard_is_reported(data, name):
    shutil.copy(first_shard(data), data.folder / name)
    for use in (data.load, data.verify, data.missing):
        with pytest.raises(DataError, match=re.escape(name) + r".*Move it elsewhere"):
            use(COUNT)


@pytest.mark.parametrize("manifest", [True, False], ids=["manifest", "no manifest"])
@pytest.mark.parametrize(
    ("pde", "seed", "said"), [(OTHER, 0, r"forcing is 2\.0, not 1\.0"), (PDE, 5, r"seed is 5, not 0")]
)
def test_a_shard_of_other_parameters_is_refused_by_what_differs(data, pde, seed, said, manifest):
    shutil.copy(first_shard(Dataset(pde, "train", seed, data.root)), first_shard(data))
    if not manifest:
        (data.folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=said) as refusal:
        data.load(COUNT)
    assert str(first_shard(data)) in str(refusal.value)
    assert "Move it elsewhere" in str(refusal.value)


@pytest.mark.parametrize("manifest", [True, False], ids=["manifest", "no manifest"])
def test_a_shard_renamed_to_other_indices_is_refused(data, manifest):
    renamed = data.folder / "samples-000006-000012.h5"
    shutil.copy(first_shard(data), renamed)
    if not manifest:
        (data.folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"samples-000006-000012\.h5 .*Move it elsewhere"):
        data.load(2 * COUNT)


def test_a_shard_of_another_split_is_refused(data):
    shutil.copy(first_shard(Dataset(PDE, "val", 0, data.root)), first_shard(data))
    (data.folder / "manifest.json").unlink()
    with pytest.raises(DataError, match=re.escape(str(first_shard(data)))):
        data.load(COUNT)


def test_temporary_files_are_never_data(data):
    good = data.load(COUNT)
    for name in ("samples-000000-000050.h5.tmp-12345", ".samples-000000-000050.h5.tmp-1", "manifest.json.tmp-9"):
        shutil.copy(first_shard(Dataset(OTHER, "train", 0, data.root)), data.folder / name)
    (data.folder / "samples-000006-000050.h5.tmp-77").write_bytes(b"half")
    assert data.shards() == [(0, COUNT, first_shard(data))]
    assert data.missing(SHARD) == [(COUNT, SHARD)]
    assert same(data.load(COUNT), good)


# Generators that are stopped.


def generator(root: Path, *settings: str) -> subprocess.Popen:
    """A fresh process that makes data below `root`; its messages are dropped."""
    command = [sys.executable, str(ROOT / "datasets" / "generate.py"), "--pde=darcy", *SETTINGS, *settings]
    environment = os.environ | {"OPKIT_DATA": str(root), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(condition, process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the generator ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.0005)


def test_a_generator_killed_again_and_again_leaves_the_same_arrays(tmp_path, monkeypatch, uninterrupted):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    data = Dataset(PDE, "train", 0, tmp_path)
    rng = random.Random(1)

    def shards() -> int:
        return len(list(data.folder.glob("*.h5")))

    for moment in ("while a shard is written", "while samples are solved", "at the start"):
        before = shards()
        process = generator(tmp_path, f"data.train={MANY}", "workers=1")
        try:
            if moment == "at the start":
                time.sleep(rng.uniform(0.2, 1.0))
            elif moment == "while a shard is written":
                wait_for(lambda before=before: shards() > before and temporaries(data.folder), process)
            else:
                wait_for(lambda before=before: shards() > before, process)
                time.sleep(rng.uniform(0, 0.05))
        finally:
            process.kill()
            assert process.wait() == -signal.SIGKILL
        assert shards() < 6, "there was something left to do"
        for start, stop, path in data.shards():
            with h5py.File(path) as file:
                assert torch.equal(torch.from_numpy(file["t0_fields/u"][:]), uninterrupted["u"][start:stop])
    kept = {path: path.stat().st_mtime_ns for path in data.folder.glob("*.h5")}
    assert kept
    (data.folder / "samples-000250-000257.h5.tmp-1").write_bytes(b"half")
    assert main(["generate", "--pde=darcy", *SETTINGS, f"data.train={MANY}", "workers=1"]) == 0
    assert same(data.load(MANY), uninterrupted)
    assert all(path.stat().st_mtime_ns == time_ for path, time_ in kept.items()), "finished shards are kept"


def test_any_number_of_workers_makes_the_same_arrays(tmp_path, monkeypatch, uninterrupted):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    assert same(ensure(PDE, "train", MANY, workers=2).load(MANY), uninterrupted)


def test_data_made_bit_by_bit_are_the_same(tmp_path, monkeypatch, uninterrupted):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    for count in (3, SHARD - 1, SHARD + 1, 2 * SHARD):
        data = ensure(PDE, "train", count, workers=1)
    assert same(data.load(2 * SHARD), {name: values[: 2 * SHARD] for name, values in uninterrupted.items()})


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads children of a process from /proc")
def test_workers_do_not_outlive_a_killed_generator(tmp_path):
    process = generator(tmp_path, "data.train=4000", "workers=2")

    def children() -> list[int]:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [int(pid) for pid in listed]

    def running(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
        except OSError:
            return False

    workers: list[int] = []
    try:
        wait_for(lambda: list(tmp_path.rglob("samples-*.h5")), process)
        workers = children()
        process.kill()
        process.wait()
        assert len(workers) >= 2
        end = time.monotonic() + 5
        while any(map(running, workers)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not [pid for pid in workers if running(pid)]
    finally:
        process.kill()
        process.wait()
        for pid in filter(running, workers):
            os.kill(pid, signal.SIGKILL)


# Disks that are full, folders that cannot be written.

LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
if __name__ == "__main__":
    from opkit.cli import main
    sys.exit(main(sys.argv[2:]))
"""
"""A command that cannot make a file longer than its first argument says; spawned workers inherit the limit."""


@pytest.mark.parametrize(("limit", "workers"), [(60_000, 1), (20_000, 2)])
def test_a_full_disk_ends_generation_with_one_message_and_no_half_file(
    tmp_path, monkeypatch, uninterrupted, limit, workers
):
    root, script = tmp_path / "data", tmp_path / "limited.py"
    script.write_text(LIMITED)
    environment = os.environ | {"OPKIT_DATA": str(root), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    settings = ["generate", "--pde=darcy", *SETTINGS, f"data.train={2 * SHARD}", f"workers={workers}"]
    command = [sys.executable, str(script), str(limit), *settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if not line.startswith(("generate darcy", "wrote "))]
    assert done.returncode == 2, done.stderr[-500:]
    assert len(said) == 1
    assert said[0].startswith("opkit generate:") and "disk is full" in said[0] and "Free some space" in said[0]
    assert not temporaries(root)
    data = Dataset(PDE, "train", 0, root)
    assert data.missing(2 * SHARD)
    monkeypatch.setenv("OPKIT_DATA", str(root))
    healed = ensure(PDE, "train", 2 * SHARD, workers=1)
    assert same(healed.load(2 * SHARD), {name: values[: 2 * SHARD] for name, values in uninterrupted.items()})


Usage = namedtuple("Usage", "total used free")


def test_too_little_space_is_noticed_before_work_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - 20_000, 20_000))
    monkeypatch.setattr(Darcy, "label", lambda *_: pytest.fail("work began"))
    assert main(["generate", "--pde=darcy", *SETTINGS, "data.train=1000", "workers=1"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert (
        "1000 more samples" in err[0] and "20 kB free" in err[0] and str(tmp_path) in err[0] and "OPKIT_DATA" in err[0]
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_enough_space_is_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, 200_000))
    assert ensure(PDE, "train", COUNT, workers=1).load(COUNT)


@pytest.mark.parametrize("root", ["file", "file/data"])
@pytest.mark.parametrize("verb", ["generate", "train"])
def test_data_that_cannot_be_written_are_refused(tmp_path, monkeypatch, capsys, root, verb):
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / root))
    model = ["--model=fno", "model.n_modes=[4,4]", "run_dir=run"] if verb == "train" else []
    assert main([verb, "--pde=darcy", *SETTINGS, *model, "data.train=2", "workers=1"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert str(tmp_path / root) in err[0] and "OPKIT_DATA" in err[0]
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "run").exists()


def test_an_unreadable_shard_is_reported(data, monkeypatch, capsys):
    def denied(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("opkit.store.sha256", denied)
    assert main(["generate", "--pde=darcy", *SETTINGS, f"data.train={COUNT}", "workers=1"]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 1
    assert str(first_shard(data)) in err[0] and "permission" in err[0].lower()


# Saves that are interrupted.


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("no")])
def test_an_interrupted_file_stays_as_it_was(tmp_path, problem):
    path = tmp_path / "file.json"
    for old in (None, "old"):
        if old:
            path.write_text(old)
        with pytest.raises(type(problem)), whole_file(path) as temporary:
            temporary.write_text("new, but not all of")
            raise problem
        assert [p.read_text() for p in tmp_path.iterdir()] == ([old] if old else [])


def test_a_value_json_has_no_word_for_leaves_the_file_as_it_was(tmp_path):
    write_json(tmp_path / "metrics.json", {"value": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "metrics.json", {"value": float("nan")})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"value": 1.0}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_finished_file_or_folder_replaces_the_old_one_whole(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "stale").write_text("old")
    with whole_folder(tmp_path / "folder") as temporary:
        (temporary / "fresh").write_text("new")
        assert (tmp_path / "folder" / "stale").exists()
    with whole_file(tmp_path / "deep" / "file") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "deep" / "file").exists()
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert found == ["deep", "deep/file", "folder", "folder/fresh"]


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("no")])
def test_an_interrupted_folder_stays_as_it_was(tmp_path, problem):
    path = tmp_path / "bundle"
    for old in (False, True):
        if old:
            path.mkdir()
            (path / "weights").write_text("old")
        with pytest.raises(type(problem)), whole_folder(path) as temporary:
            (temporary / "weights").write_text("new")
            raise problem
        found = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")}
        assert found == ({"bundle", "bundle/weights"} if old else set())
        assert not old or (path / "weights").read_text() == "old"


@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_whose_exchange_fails_stays_as_it_was(tmp_path, monkeypatch, failing):
    path, calls, rename = tmp_path / "bundle", [], os.replace
    path.mkdir()
    (path / "weights").write_text("old")

    def sometimes(*names):
        calls.append(names)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        return rename(*names)

    monkeypatch.setattr("opkit.files.os.replace", sometimes)
    with pytest.raises(OSError, match="Input/output"), whole_folder(path) as temporary:
        (temporary / "weights").write_text("new")
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} == {"bundle", "bundle/weights"}
    assert (path / "weights").read_text() == "old"


def test_an_interrupt_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    path, rename = tmp_path / "bundle", os.replace
    path.mkdir()
    (path / "weights").write_text("old")

    def once(*names):
        monkeypatch.undo()
        rename(*names)
        raise KeyboardInterrupt

    monkeypatch.setattr("opkit.files.os.replace", once)
    with pytest.raises(KeyboardInterrupt), whole_folder(path) as temporary:
        (temporary / "weights").write_text("new")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["bundle", "bundle/weights"]
    assert (path / "weights").read_text() == "old"


def test_an_interrupted_save_leaves_the_old_bundle(small_run, tmp_path, monkeypatch):
    bundle = tmp_path / "bundle"
    shutil.copytree(small_run / "surrogate", bundle)
    surrogate = opkit.load(bundle)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    for parameter in surrogate.model.parameters():
        parameter.data.zero_()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("opkit.surrogate.model_card", full)  # the last file to be written
    with pytest.raises(OSError, match="No space"):
        surrogate.save(bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    opkit.load(bundle)


def test_a_save_that_never_finished_is_no_bundle(small_run, tmp_path):
    half = tmp_path / "run" / ".surrogate.tmp-123"
    shutil.copytree(small_run / "surrogate", half)
    with pytest.raises(BundleError, match="neither a finished run"):
        opkit.load(tmp_path / "run")

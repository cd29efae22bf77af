"""Stored data: the layout others rely on, caching, and independence of how they were made."""

import json
import math
import multiprocessing
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from opkit import store
from opkit.errors import DataError
from opkit.fields import first_index
from opkit.files import sha256
from opkit.generate import ensure
from opkit.pdes import Burgers, Darcy, Labels, NavierStokes
from opkit.store import SHARD, Dataset, LabelError, read_fields

PDE = Darcy(resolution=9, label_resolution=17, modes=8)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPKIT_DATA", str(root))
        return ensure(PDE, "test", SHARD + 3, seed=5, workers=1)


def test_layout_of_a_shard(stored):
    (_, _, path), (start, stop, last) = stored.shards()
    assert (start, stop) == (SHARD, SHARD + 3)
    assert path.name == "samples-000000-000050.h5"
    assert path.parent.relative_to(stored.root).parts == ("darcy", stored.key, "test")
    with h5py.File(path) as file:
        a, u = file["t0_fields/a"], file["t0_fields/u"]
        assert a.shape == u.shape == (SHARD, 9, 9)
        assert a.chunks == (1, 9, 9)
        assert a.fletcher32
        assert a.dtype == np.float32
        assert set(np.unique(a[:])) == {3.0, 12.0}
        assert file.attrs["split"] == "test"
        assert file.attrs["seed"] == 5
        assert file.attrs["tau"] == 3.0
        assert file.attrs["complete"]
        assert json.loads(file.attrs["config_json"])["parameters"]["values"] == [3.0, 12.0]
        assert file["sample/index"][:].tolist() == [first_index("test") + i for i in range(SHARD)]
        assert (file["sample/seed"][:] == 5).all()
        assert file["sample/residual"][:].max() < 1e-6
        assert file["dimensions/x"][:].tolist() == torch.linspace(0, 1, 9, dtype=torch.float64).tolist()
        assert file["dimensions/x"].attrs["location"] == "node"
        assert list(file["dimensions"].attrs["spatial_dims"]) == ["x", "y"]
        assert list(file["t0_fields"].attrs["field_names"]) == ["a", "u"]
        assert file["scalars/forcing"][()] == 1.0
    with h5py.File(last) as file:
        assert file["sample/index"][:].tolist() == [first_index("test") + SHARD + i for i in range(3)]


def test_stored_samples_are_the_generators_own(stored):
    fields = stored.load(SHARD + 2)
    assert fields["a"].shape == (SHARD + 2, 9, 9)
    labels = PDE.label(2, 5, first_index("test") + SHARD)
    assert (fields["a"][SHARD:] == labels.fields["a"].float()).all()
    assert (fields["u"][SHARD:] == labels.fields["u"].float()).all()


def test_manifest_lists_sizes_and_hashes(stored):
    manifest = json.loads((stored.folder / "manifest.json").read_text())
    assert manifest["parameters"] == json.loads(json.dumps(PDE.parameters()))
    assert [s["file"] for s in manifest["shards"]] == [path.name for _, _, path in stored.shards()]
    for entry in manifest["shards"]:
        assert entry["sha256"] == sha256(stored.folder / entry["file"])
        assert entry["bytes"] == (stored.folder / entry["file"]).stat().st_size


def test_a_second_call_reads_the_cache_and_a_larger_one_adds_to_it(monkeypatch, tmp_path):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    first = ensure(PDE, "val", 3, workers=1)
    before = {path: path.stat().st_mtime_ns for _, _, path in first.shards()}
    ensure(PDE, "val", 2, workers=1)
    more = ensure(PDE, "val", 5, workers=1)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [(a, b) for a, b, _ in more.shards()] == [(0, 3), (3, 5)]
    at_once = ensure(PDE, "val", 5, seed=1, workers=1).load(5)
    in_steps = Dataset(PDE, "val", 0, tmp_path).load(5)
    assert not (at_once["a"] == in_steps["a"]).all()
    assert (PDE.sample(5, 0, first_index("val"))[:, 0].float() == in_steps["a"]).all()


def test_missing_ranges_are_cut_at_shard_boundaries(stored):
    assert stored.missing(SHARD + 3) == []
    assert stored.missing(3 * SHARD) == [(SHARD + 3, 2 * SHARD), (2 * SHARD, 3 * SHARD)]
    fresh = Dataset(PDE, "train", 0, stored.root)
    assert fresh.missing(SHARD + 1) == [(0, SHARD), (SHARD, SHARD + 1)]


def test_everything_the_data_depend_on_is_in_the_key():
    base = Dataset(PDE, "train", 0, None)
    for other in (Darcy(9, label_resolution=17, modes=9), Darcy(9, label_resolution=33, modes=8), PDE.on(17)):
        assert Dataset(other, "train", 0, None).key != base.key
    assert Dataset(PDE, "train", 1, None).key != base.key
    assert Dataset(PDE, "test", 0, None).key == base.key


def test_loading_more_than_there_is_says_what_is_missing(stored):
    with pytest.raises(DataError, match=f"lacks samples {SHARD + 3}"):
        stored.load(SHARD + 9)


def test_large_fields_are_compressed_and_small_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    large = ensure(Darcy(resolution=261, label_resolution=5, modes=8), "test", 1, workers=1)
    with h5py.File(large.shards()[0][2]) as file:
        assert file["t0_fields/a"].compression == "gzip"
        assert file["t0_fields/a"].fletcher32
    assert large.size() < 0.7 * 2 * 261**2 * 4


def test_predicted_size_is_an_upper_estimate(stored):
    assert stored.size() <= stored.estimate(SHARD + 3)
    assert stored.size() >= 2 * 81 * 4 * (SHARD + 3)


# Sizes of shards and chunks.


def frames(n: int) -> tuple[float, ...]:
    return tuple(float(t) for t in range(n))


@pytest.mark.parametrize(
    ("pde", "size"),
    [
        (Darcy(), 50),
        (Darcy(resolution=421), 25),  # 2 fields of 421^2 x 4 bytes: 50 would be 71 MB
        (Darcy(resolution=2049), 1),  # 34 MB each
        (Darcy(resolution=5001), 1),  # a sample alone is more than 64 MB
        (NavierStokes(resolution=64, times=frames(50)), 50),  # 0.82 MB each
        (NavierStokes(resolution=256, times=frames(50)), 5),  # 13.1 MB each
    ],
)
def test_shards_hold_fifty_samples_or_64_megabytes(pde, size, tmp_path):
    data = Dataset(pde, "train", 0, tmp_path)
    assert data.shard_size == size
    assert data.missing(2 * size + 1) == [(0, size), (size, 2 * size), (2 * size, 2 * size + 1)]


@pytest.mark.parametrize(
    ("shape", "frames", "chunk"),
    [
        ((85, 85), 0, (85, 85)),
        ((421, 421), 0, (421, 421)),  # 0.7 MB
        ((1024, 1024), 0, (256, 1024)),  # 4 MB in four
        ((50, 64, 64), 1, (50, 64, 64)),  # 0.8 MB
        ((201, 64, 64), 1, (51, 64, 64)),  # 64 frames to the megabyte: four parts
        ((11, 512, 512), 1, (1, 512, 512)),
        ((3, 1024, 1024), 1, (1, 256, 1024)),
        ((11, 8192), 1, (11, 8192)),
    ],
)
def test_chunks_are_one_sample_of_at_most_a_megabyte(shape, frames, chunk):
    assert store._chunk(shape, frames) == chunk
    assert 4 * math.prod(chunk) <= 2**20


def zeros(pde, n: int) -> tuple[Labels, LabelError]:
    shape = (n, *(() if pde.times is None else (len(pde.times),)), *pde.grid.shape)
    times = shape[1 : len(shape) - pde.grid.ndim]
    none = LabelError([], torch.zeros(0, *times, dtype=torch.float64))
    return Labels({name: torch.zeros(shape) for name in pde.fields}, {}), none


def test_trajectories_are_never_compressed(tmp_path):
    pde = Burgers(resolution=8192, label_resolution=8192, times=frames(11))  # 360 kB a sample, 33 kB a frame
    data = Dataset(pde, "train", 0, tmp_path)
    data.write(0, 2, *zeros(pde, 2))
    with h5py.File(data.path(0, 2)) as file:
        assert file["t0_fields/u"].compression is None
        assert file["t0_fields/u"].fletcher32
        assert file["t0_fields/u"].chunks == (1, 11, 8192)
    assert data.size() <= data.estimate(2)


# Estimated errors of the labels.


def test_every_fiftieth_label_is_compared_with_a_refined_one(stored, tmp_path, monkeypatch):
    first = first_index("test")
    with h5py.File(stored.shards()[1][2]) as file:
        assert file["label_error/index"][:].tolist() == [first + SHARD]
    found = stored.label_error(SHARD + 3)
    assert found.shape == (2,) and found.dtype == torch.float64
    assert stored.label_error(SHARD).shape == (1,)
    for j, i in enumerate((0, SHARD)):  # PDE solves its labels on 17 points; refined, on 33
        coarse, fine = (PDE.on(n).solve(PDE.on(n).sample(1, 5, first + i))[0, 0] for n in (17, 33))
        at = [u[:: (len(u) - 1) // 8, :: (len(u) - 1) // 8] for u in (coarse, fine)]
        error = float((at[0] - at[1]).norm() / at[1].norm()) / (1 - 2**-PDE.order)
        assert float(found[j]) == pytest.approx(error, rel=1e-6)  # u = 0 on the boundary: weights drop out
    manifest = json.loads((stored.folder / "manifest.json").read_text())
    assert manifest["label_error"] == {
        "samples": 2, "mean": pytest.approx(float(found.mean())), "max": float(found.max())
    }  # fmt: skip
    assert stored.no_label_error(SHARD + 3) == ""


def test_label_errors_of_trajectories_are_by_frame(tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    pde = Burgers(resolution=64, label_resolution=1024, viscosity=0.5, times=(0.0, 0.1, 0.2))
    found = ensure(pde, "val", 3, workers=1).label_error(3)
    assert found.shape == (1, 3)
    assert float(found[0, 0]) < 1e-14
    assert (found[0, 1:] > 0).all() and (found < 1e-2).all()


def test_a_label_error_that_cannot_be_had_does_not_stop_the_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))

    def refuse(*_):
        raise ValueError("the refined grid does not fit")

    monkeypatch.setattr(Darcy, "label_error", refuse)
    data = ensure(PDE, "train", 2, workers=1)
    assert len(data.load(2)["u"]) == 2
    assert data.label_error(2).shape == (0,)
    assert "the refined grid does not fit" in data.no_label_error(2)
    assert json.loads((data.folder / "manifest.json").read_text())["label_error"]["mean"] is None


# Reading at random.


@pytest.fixture
def copied(stored, tmp_path) -> list[Path]:
    """The paths of copies of the two shards."""
    return [Path(shutil.copy(path, tmp_path)) for _, _, path in stored.shards()]


def open_files() -> int:
    return sum(os.readlink(f"/proc/self/fd/{fd}").endswith(".h5") for fd in os.listdir("/proc/self/fd") if _is_open(fd))


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_replaced_shard_is_read_anew(copied, stored):
    shard, other = copied
    before = read_fields(shard, PDE, slice(0, 3))["u"]
    assert torch.equal(before, stored.load(3)["u"])
    os.replace(other, shard)
    assert torch.equal(read_fields(shard, PDE, slice(0, 3))["u"], stored.load(SHARD + 3)["u"][SHARD:])
    shard.unlink()
    with pytest.raises(DataError, match=shard.name):
        read_fields(shard, PDE, slice(0, 1))


def test_values_that_are_not_finite_are_refused_and_huge_ones_are_not(copied):
    for value, fine in ((3e38, True), (np.nan, False), (-np.inf, False)):
        with h5py.File(copied[1], "r+") as file:
            file["t0_fields/u"][:2, 4, 4] = value
        os.utime(copied[1], ns=(1, 1))
        if fine:
            assert float(read_fields(copied[1], PDE, slice(0, 2))["u"].max()) == np.float32(value)
        else:
            with pytest.raises(DataError, match="not finite"):
                read_fields(copied[1], PDE, slice(0, 2))
        store._opened.clear()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_only_so_many_shards_stay_open(copied, monkeypatch):
    store._opened.clear()
    assert open_files() == 0
    for path in copied:
        read_fields(path, PDE, slice(0, 1))
    assert open_files() == 2
    monkeypatch.setattr(store, "OPEN_SHARDS", 1)
    read_fields(copied[0], PDE, slice(0, 1))
    assert open_files() == 1
    store._opened.clear()
    assert open_files() == 0


def _read_in_a_child(path: Path, answer) -> None:
    values = read_fields(path, PDE, slice(0, 2))["u"].numpy()
    answer.send((values, len(store._opened)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_opens_its_own_files(copied):
    mine = read_fields(copied[0], PDE, slice(0, 2))["u"]
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_read_in_a_child, args=(copied[0], there))
    child.start()
    assert here.poll(20)
    values, processes = here.recv()
    child.join(20)
    assert child.exitcode == 0
    assert (values == mine.numpy()).all()
    assert processes == 2, "the parent's handles are kept apart"
    assert torch.equal(read_fields(copied[0], PDE, slice(0, 2))["u"], mine)


# Tiles.


@dataclass(frozen=True, eq=False)
class Tiled(Darcy):
    """Adds its row in the tile to each solution, so that it shows in what is stored."""

    def tile(self, device="cpu"):
        return 7

    def _solve(self, inputs):
        assert len(inputs) == 7, "short tiles are filled up"
        solution, diagnostics = super()._solve(inputs)
        return solution + torch.arange(7).view(7, 1, 1, 1), diagnostics


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_sample_has_the_same_row_of_its_tile_whoever_makes_it(tmp_path, monkeypatch, split):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    monkeypatch.setattr(Tiled, "label_error", lambda *_: (_ for _ in ()).throw(ValueError("none")))
    pde, plain = Tiled(9, label_resolution=9, modes=8), Darcy(9, label_resolution=9, modes=8)
    for count in (3, 20, SHARD + 4):
        data = ensure(pde, split, count, workers=1)
    rows = data.load(SHARD + 4)["u"] - plain.label(SHARD + 4, 0, first_index(split)).fields["u"]
    assert torch.allclose(rows, (torch.arange(SHARD + 4) % 7).double().view(-1, 1, 1).expand_as(rows), atol=1e-5)


def test_the_bytes_do_not_depend_on_when_objects_are_released(tmp_path, monkeypatch, one_thread):
    """A profiler that looks into frames holds what they hold."""
    import h5py

    from opkit.generate import make_shard

    pde = Darcy(resolution=9, label_resolution=9, modes=8)
    held = []

    def holding(create):
        def call(self, *args, **kwargs):
            held.append(create(self, *args, **kwargs))
            return held[-1]

        return call

    def written(root) -> bytes:
        data = Dataset(pde, "train", 0, root)
        data.folder.mkdir(parents=True)
        make_shard(data, 0, 50)
        return data.path(0, 50).read_bytes()

    at_once = written(tmp_path / "a")
    for name in ("create_dataset", "create_group"):
        monkeypatch.setattr(h5py.Group, name, holding(getattr(h5py.Group, name)))
    assert written(tmp_path / "b") == at_once
    assert held

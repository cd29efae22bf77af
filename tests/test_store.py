"""Stored data: the layout others rely on, caching, and independence of how they were made."""

import json

import h5py
import numpy as np
import pytest
import torch

from opkit.errors import DataError
from opkit.fields import first_index
from opkit.files import sha256
from opkit.generate import ensure
from opkit.pdes import Darcy
from opkit.store import SHARD, Dataset

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

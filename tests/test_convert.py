"""Files others made: written here by other libraries in their layouts, read, compared value by value; and the way back.

Solutions that `--verify` must recognise come from solvers of this file: SciPy's sparse direct solver, Cole-Hopf by
Fourier transform, Euler steps.
"""

import json
import math
import pickle
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sparse
import torch
from scipy.interpolate import CubicSpline

from opkit import convert
from opkit.cli import main
from opkit.files import sha256
from opkit.formats import open_arrays, open_dataset, recognise, tables
from opkit.generate import ensure
from opkit.pdes import Burgers, Darcy, NavierStokes

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("OPKIT_DATA", "data")


@pytest.fixture
def run(capsys):
    """Run `opkit convert ...`, which must succeed; what it printed."""

    def call(*argv: str | Path) -> str:
        code = main(["convert", *map(str, argv)])
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    return call


@pytest.fixture
def refuse(capsys):
    """Run `opkit convert ...`, which must refuse with one message and leave nothing behind; the message."""

    def call(*argv: str | Path) -> str:
        before = sorted(Path().rglob("*"))
        code = main(["convert", *map(str, argv)])
        err = capsys.readouterr().err
        lines = [line for line in err.splitlines() if line.startswith("opkit convert:")]
        assert (code, len(lines)) == (2, 1), err
        assert "Traceback" not in err
        assert sorted(Path().rglob("*")) == before
        return lines[0]

    return call


def loaded(split: str = "train") -> tuple[dict[str, np.ndarray], dict, object]:
    """The only converted dataset: its fields as h5py gives them, the first shard's attributes, the dataset."""
    (manifest,) = Path("data").rglob(f"{split}/manifest.json")
    data = open_dataset(manifest.parent)
    fields: dict[str, list[np.ndarray]] = {}
    attributes: dict = {}
    for _, _, path in data.shards():
        with h5py.File(path) as file:
            attributes = attributes or dict(file.attrs)
            for name, values in file["t0_fields"].items():
                fields.setdefault(name, []).append(values[:])
    return {name: np.concatenate(parts) for name, parts in fields.items()}, attributes, data


def darcy_arrays(n: int = 7, samples: int = 6) -> tuple[np.ndarray, np.ndarray]:
    return RNG.choice([3.0, 12.0], (samples, n, n)), RNG.normal(size=(samples, n, n))


def save73(path: str, **arrays: np.ndarray) -> None:
    """As MATLAB -v7.3: a user block with its text, axes reversed, class attributes."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values.transpose()).attrs["MATLAB_class"] = np.bytes_("double")
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(116))


# Reading.


def test_darcy_in_matlab_5(run):
    a, u = darcy_arrays()
    scipy.io.savemat("given.mat", {"coeff": a, "sol": u, "Kcoeff": a + 1, "name": "x"}, do_compression=True)
    out = run("given.mat")
    fields, attributes, data = loaded()
    assert (fields["a"] == a).all()
    assert (fields["u"] == u.astype(np.float32)).all()
    assert fields["u"].dtype == np.float32
    digest = sha256(Path("given.mat"))
    assert data.folder == Path(f"data/darcy/imported-{digest[:12]}/train").resolve()
    assert (attributes["provenance"], attributes["source_file"]) == ("imported", "given.mat")
    assert (attributes["source_sha256"], attributes["source_format"]) == (digest, "MATLAB 5 .mat")
    assert list(attributes["source_keys"]) == ["coeff -> a", "sol -> u"]
    assert "forcing" in attributes["not_known"] and "forcing" not in attributes and "tau" not in attributes
    assert json.loads(attributes["values"]) == [3, 12]
    assert "seed" not in attributes
    assert "does not vanish on its outermost rows" in attributes["notes"] and "does not vanish" in out


def test_the_published_darcy_grid_is_marked(run):
    a = RNG.choice([3.0, 12.0], (1, 421, 421))
    scipy.io.savemat("given.mat", {"coeff": a, "sol": a * 1e-3})
    run("given.mat")
    _, attributes, data = loaded()
    assert "cell centres (i + 1/2) / 421" in attributes["notes"] and "overshoots" in attributes["notes"]
    assert data.pde.grid.location == "node"


def test_navier_stokes_in_matlab_7_3_begins_with_the_initial_vorticity(run):
    a, u = RNG.normal(size=(5, 8, 8)), RNG.normal(size=(5, 8, 8, 3))
    save73("given.mat", a=a, u=u, t=np.array([[1.0, 2.0, 3.5]]))
    out = run("given.mat", "--pde", "navier_stokes", "pde.viscosity=1e-4")
    fields, attributes, data = loaded()
    assert fields["w"].shape == (5, 4, 8, 8)
    assert (fields["w"][:, 0] == a.astype(np.float32)).all()
    for frame in range(3):
        assert (fields["w"][:, frame + 1] == u[..., frame].astype(np.float32)).all()
    assert data.pde.times.tolist() == [0, 1, 2, 3.5]
    assert attributes["viscosity"] == 1e-4 and attributes["stated"] == "viscosity"
    assert "viscosity" not in attributes["not_known"] and "forcing" in attributes["not_known"]
    assert "viscosity=0.0001 (stated)" in out


def test_axes_are_reversed_by_matlabs_own_mark_without_a_user_block(run):
    a, u = darcy_arrays()
    with h5py.File("given.mat", "w") as file:
        for name, values in (("coeff", a), ("sol", u)):
            file.create_dataset(name, data=values.transpose()).attrs["MATLAB_class"] = np.bytes_("double")
    run("given.mat")
    assert (loaded()[0]["a"] == a).all()


@pytest.mark.parametrize("block", [1024, 4096])
def test_hdf5_is_found_behind_any_user_block(run, block):
    a, u = darcy_arrays()
    with h5py.File("given", "w", userblock_size=block) as file:
        file["coeff"], file["sol"] = a.transpose(), u.transpose()
    run("given")
    assert (loaded()[0]["u"] == u.astype(np.float32)).all()


def test_burgers_pair_in_matlab_5(run):
    a, u = RNG.normal(size=(3, 64)), RNG.normal(size=(3, 64))
    scipy.io.savemat("given.mat", {"a": a, "a_smooth": a, "a_x": a, "u": u})
    assert "does not state times" in run("given.mat")
    fields, attributes, data = loaded()
    assert (fields["u"] == np.stack([a, u], 1).astype(np.float32)).all()
    assert data.pde.times.tolist() == [0, 1]
    assert {"times", "viscosity", "length"} <= set(attributes["not_known"].split(", "))


def test_an_initial_frame_of_zeros_is_mended_and_said(run):
    a, path = RNG.normal(size=(4, 16)), RNG.normal(size=(4, 5, 16))
    path[:, 0] = 0
    scipy.io.savemat("given.mat", {"input": a, "output": path, "visc": 1e-3, "tspan": np.linspace(0, 1, 5)})
    assert "Frame 0 of output was all zeros" in run("given.mat")
    fields, attributes, data = loaded()
    assert (fields["u"][:, 0] == a.astype(np.float32)).all()
    assert (fields["u"][:, 1:] == path[:, 1:].astype(np.float32)).all()
    assert data.pde.times.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert attributes["viscosity"] == 1e-3


def test_pino_tensors_start_with_their_input(run):
    y = torch.randn(6, 17, 16, dtype=torch.float64)
    torch.save({"x": y[:, 0].clone(), "y": y, "visc": 0.01}, "given.pt")
    run("given.pt")
    fields, attributes, data = loaded()
    assert (fields["u"] == y.float().numpy()).all()
    assert attributes["viscosity"] == 0.01
    assert data.pde.times.tolist() == [i / 16 for i in range(17)]


def test_viscosities_per_sample_become_a_scalar_field(run):
    visc = np.array([0.1, 0.2, 0.4])
    path = RNG.normal(size=(3, 4, 16))
    scipy.io.savemat("given.mat", {"input": path[:, 0], "output": path, "visc": visc})
    run("given.mat")
    _, _, data = loaded()
    assert data.pde.varying == ("viscosity",) and data.pde.viscosity == (0.1, 0.4)
    assert torch.allclose(data.load(3)["viscosity"], torch.tensor([0.1, 0.2, 0.4]))


@pytest.mark.parametrize("channel", [False, True])
def test_boolean_coefficients_stay_codes_unless_the_user_says_what_they_mean(run, channel):
    x, y = torch.rand(4, 8, 8) > 0.5, torch.randn(4, 8, 8)
    torch.save({"x": x[:, None] if channel else x, "y": y[:, None] if channel else y}, "given.pt")
    assert "a is a code, 0 or 1" in run("given.pt", "output=codes")
    with h5py.File(next(Path("codes").rglob("*.h5"))) as file:
        assert (file["t0_fields/a"][:] == x.numpy()).all()
    run("given.pt", "output=values", "pde.values=[4,12]")
    with h5py.File(next(Path("values").rglob("*.h5"))) as file:
        assert (file["t0_fields/a"][:] == np.where(x, 12, 4)).all()
        assert (file["t0_fields/u"][:] == y.numpy()).all()


def save_pdebench(path: str, tensor: np.ndarray, x: np.ndarray, times: np.ndarray, **attributes: float) -> None:
    with h5py.File(path, "w") as file:
        file["tensor"], file["x-coordinate"], file["t-coordinate"] = tensor.astype("f4"), x.astype("f4"), times
        file.attrs.update(attributes)


def test_pdebench_burgers(run):
    tensor = RNG.normal(size=(4, 5, 32))
    x = -1 + (np.arange(32) + 0.5) / 16
    save_pdebench("given.hdf5", tensor, x, np.linspace(0, 2.5, 6), Nu=0.01)
    out = run("given.hdf5")
    fields, attributes, data = loaded()
    assert (fields["u"] == tensor.astype(np.float32)).all()
    assert data.pde.times.tolist() == [0, 0.5, 1, 1.5, 2]
    assert data.pde.length == 2
    assert data.pde.viscosity == pytest.approx(0.01 / math.pi)
    assert attributes["viscosity"] == data.pde.viscosity and "Nu / pi" in out


@pytest.mark.parametrize("location", ["cell", "node"])
def test_pdebench_darcy(run, location):
    a, u = RNG.choice([0.1, 1.0], (3, 8, 8)), RNG.normal(size=(3, 8, 8))
    x = (np.arange(8) + 0.5) / 8 if location == "cell" else np.linspace(0, 1, 8)
    with h5py.File("given.hdf5", "w") as file:
        file["tensor"], file["nu"], file["x-coordinate"], file["y-coordinate"] = u[:, None], a, x, x
        file.attrs["beta"] = 0.1
    assert "marches to the steady state" in run("given.hdf5")
    fields, attributes, data = loaded()
    assert (fields["a"] == a.astype(np.float32)).all() and (fields["u"] == u.astype(np.float32)).all()
    assert attributes["forcing"] == 0.1 and data.pde.values == (0.1, 1.0)
    assert data.pde.grid.location == location
    assert "coefficient" in attributes["not_known"]


def test_a_wrong_suffix_does_not_matter(run):
    a, u = darcy_arrays()
    torch.save({"x": torch.from_numpy(a), "y": torch.from_numpy(u)}, "given.mat")
    assert "PyTorch .pt" in run("given.mat")
    assert (loaded()[0]["a"] == a).all()


def test_rows_splits_and_coarser_grids(run, refuse):
    a, u = darcy_arrays(9, 10)
    scipy.io.savemat("given.mat", {"coeff": a, "sol": u})
    run("given.mat", "rows=:7", "pde.resolution=5")
    run("given.mat", "rows=7:", "split=test", "pde.resolution=5")
    assert (loaded("train")[0]["a"] == a[:7, ::2, ::2]).all()
    fields, _, data = loaded("test")
    assert (fields["u"] == u[7:, ::2, ::2].astype(np.float32)).all()
    assert data.split == "test" and data.pde.resolution == 5
    with h5py.File(data.shards()[0][2]) as file:
        assert file["sample/source_row"][:].tolist() == [7, 8, 9]
        assert "seed" not in file["sample"]
    assert "rows=5:3" in refuse("given.mat", "rows=5:3")
    assert "rows=0:11" in refuse("given.mat", "rows=0:11")
    assert "not among them" in refuse("given.mat", "pde.resolution=6")
    assert "different: rows" in refuse("given.mat", "rows=:6", "pde.resolution=5")


# Blocks, interruption.


@pytest.mark.parametrize("kind", ["matlab 7.3", "pdebench"])
def test_a_large_file_is_read_in_blocks(run, monkeypatch, kind):
    monkeypatch.setattr(tables, "BLOCK_BYTES", 2**20)
    tensor = RNG.normal(size=(400, 101, 64)).astype(np.float32)  # 10 MB
    if kind == "pdebench":
        save_pdebench("given", tensor, np.arange(64) / 64, np.linspace(0, 1, 102))
    else:
        save73("given", input=tensor[:, 0], output=tensor)
    calls: list[int] = []
    read = h5py.Dataset.__getitem__

    def counting(self, key):
        out = read(self, key)
        calls.append(getattr(out, "nbytes", 0))
        return out

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
    tracemalloc.start()
    try:
        run("given", "--pde", "burgers")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert max(calls) <= 2**21
    assert sum(calls) < 1.2 * tensor.nbytes  # nothing is read twice
    assert peak < tensor.nbytes / 1.5
    monkeypatch.undo()


def test_large_matlab_5_arrays_pass_through_a_scratch_file(run, monkeypatch, tmp_path):
    import tempfile

    from opkit.formats import matlab

    a, u = darcy_arrays(9, 40)
    scipy.io.savemat("given.mat", {"coeff": a, "sol": u})
    monkeypatch.setattr(matlab, "IN_MEMORY", 5000)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    run("given.mat")
    fields, _, _ = loaded()
    assert (fields["a"] == a).all() and (fields["u"] == u.astype(np.float32)).all()
    assert not list((tmp_path / "scratch").iterdir())


def test_an_interrupted_conversion_continues(run, refuse, capsys):
    a, u = darcy_arrays(7, 120)
    scipy.io.savemat("given.mat", {"coeff": a, "sol": u})
    run("given.mat")
    _, _, data = loaded()
    paths = [path for _, _, path in data.shards()]
    assert len(paths) == 3
    whole = [path.read_bytes() for path in paths]
    before = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    (data.folder / "manifest.json").unlink()
    run("given.mat")
    assert [path.read_bytes() for path in paths] == whole
    assert paths[0].stat().st_mtime_ns == before
    assert main(["verify", str(data.folder)]) == 0
    assert "different: forcing" in refuse("given.mat", "pde.forcing=2")
    scipy.io.savemat("other.mat", {"coeff": a, "sol": u + 1})
    assert "from another file" in refuse("other.mat", f"output={data.folder.parent}")


def test_verify_says_imported_and_notices_damage(run, capsys):
    a, u = darcy_arrays()
    scipy.io.savemat("given.mat", {"coeff": a, "sol": u})
    run("given.mat")
    _, _, data = loaded()
    assert main(["verify", "data"]) == 0
    out = capsys.readouterr().out
    assert "6 samples, hashes and checksums hold" in out and "imported from given.mat" in out
    path = data.shards()[0][2]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert main(["verify", "data"]) == 2
    assert path.name in capsys.readouterr().err


# Refusals.


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def hostile(name: str) -> str:
    a, u = darcy_arrays()
    whole = Path("whole")
    if name == "pickled code in a zip":
        torch.save({"x": torch.zeros(2, 8, 8), "y": Evil()}, "given")
    elif name == "pickled code":
        Path("given").write_bytes(pickle.dumps(Evil()))
    elif name == "empty":
        Path("given").touch()
    elif name == "text":
        Path("given").write_text("x, y\n1, 2\n")
    elif name == "npz":
        with open("given", "wb") as file:
            np.savez(file, coeff=a, sol=u)
    elif name == "no known keys":
        with h5py.File("given", "w") as file:
            file["p"], file["q"] = a, u
    elif name == "cut HDF5":
        with h5py.File(whole, "w") as file:
            file["x"], file["y"] = a, u
        Path("given").write_bytes(whole.read_bytes()[:-3000])
    elif name == "cut HDF5 with a user block":
        save73("whole", coeff=a, sol=u)
        Path("given").write_bytes(whole.read_bytes()[:1500])
    elif name == "cut .mat":
        scipy.io.savemat("whole", {"coeff": a, "sol": u}, appendmat=False)
        Path("given").write_bytes(whole.read_bytes()[:-500])
    elif name == "half a .mat":
        scipy.io.savemat("whole", {"coeff": a, "sol": u}, appendmat=False)
        Path("given").write_bytes(whole.read_bytes()[:1000])
    elif name == "flipped .mat":
        scipy.io.savemat("whole", {"coeff": a, "sol": u}, appendmat=False, do_compression=True)
        content = bytearray(whole.read_bytes())
        content[400] ^= 0xFF
        Path("given").write_bytes(content)
    elif name == "cut .pt":
        torch.save({"x": torch.from_numpy(a), "y": torch.from_numpy(u)}, "whole")
        Path("given").write_bytes(whole.read_bytes()[:2000])
    elif name == "a tensor":
        torch.save(torch.zeros(3), "given")
    elif name == "huge .mat":
        scipy.io.savemat("whole", {"coeff": np.zeros((1, 9, 9)), "sol": np.zeros((1, 9, 9))}, appendmat=False)
        dims = np.array([1, 9, 9], "<i4").tobytes()
        big = np.array([10000, 421, 421], "<i4").tobytes()
        Path("given").write_bytes(whole.read_bytes().replace(dims, big))
    elif name == "not square":
        scipy.io.savemat("given", {"coeff": np.ones((2, 8, 9)), "sol": np.ones((2, 8, 9))}, appendmat=False)
    elif name == "shapes that do not fit":
        scipy.io.savemat("given", {"a": np.ones((2, 8)), "u": np.ones((2, 9))}, appendmat=False)
    elif name == "a forcing":
        torch.save({"x": torch.randn(2, 8, 8), "y": torch.randn(2, 8, 8)}, "given")
    elif name == "times that do not fit":
        u4, t = RNG.normal(size=(2, 8, 8, 4)), np.arange(1.0, 8)
        scipy.io.savemat("given", {"a": RNG.normal(size=(2, 8, 8)), "u": u4, "t": t}, appendmat=False)
    elif name == "not finite":
        u[4, 2, 2] = np.nan
        scipy.io.savemat("given", {"coeff": a, "sol": u}, appendmat=False)
    elif name == "links elsewhere":
        with h5py.File("secret", "w") as file:
            file["x"], file["y"] = a, u
        with h5py.File("given", "w") as file:
            file["x"], file["y"] = h5py.ExternalLink("secret", "/x"), h5py.ExternalLink("secret", "/y")
    elif name == "advection":
        save_pdebench("given", RNG.normal(size=(2, 3, 8)), np.arange(8) / 8, np.arange(4.0), beta=0.1)
    elif name == "shallow water":
        with h5py.File("given", "w") as file:
            file["0000/data"] = u
    elif name == "compressible flow":
        save_pdebench("given", RNG.normal(size=(2, 3, 8)), np.arange(8) / 8, np.arange(4.0))
        with h5py.File("given", "a") as file:
            file["density"], file["pressure"] = u, u
    whole.unlink(missing_ok=True)
    return "given"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pickled code in a zip", "could run code"),
        ("pickled code", "could run code"),
        ("empty", "is empty"),
        ("text", "of no format known"),
        ("npz", "PyTorch did not write"),
        ("no known keys", "p 6x7x7, q 6x7x7"),
        ("cut HDF5", "damaged or cut off"),
        ("cut HDF5 with a user block", "damaged or cut off"),
        ("cut .mat", "damaged or cut off"),
        ("half a .mat", "coeff without sol: is the file whole?"),
        ("flipped .mat", "damaged or cut off"),
        ("cut .pt", "damaged or cut off"),
        ("a tensor", "holds a Tensor, not a dict"),
        ("huge .mat", "more than 2 GB"),
        ("not square", "equally many points"),
        ("shapes that do not fit", "do not fit together"),
        ("a forcing", "no coefficient of Darcy flow"),
        ("times that do not fit", "do not fit its 4 frames"),
        ("not finite", "sample 4 has values in u"),
        ("links elsewhere", "it has none"),
        ("advection", "advection data"),
        ("shallow water", "shallow-water"),
        ("compressible flow", "compressible flow"),
    ],
)
def test_damaged_unknown_and_hostile_files_are_refused(refuse, name, said):
    path = hostile(name)
    (Path() / "data").mkdir()
    if name == "not finite":  # found while writing: an empty folder may stay
        Path(f"data/darcy/imported-{sha256(Path(path))[:12]}/train").mkdir(parents=True)
    assert said in refuse(path)
    assert not Path("touched").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "give one file or data folder"),
        (["nowhere.mat"], "there is no file nowhere.mat"),
        (["given.mat", "second.mat"], "give one file"),
        (["given.mat", "pde.viscosty=1"], "unknown setting 'pde.viscosty'"),
        (["given.mat", "--pde", "burgers"], "cannot be burgers"),
        (["given.mat", "to=pdebench"], "output is missing"),
        (["given.mat", "to=pdebench", "output=x.h5"], "refuse names that end in .h5"),
        (["given.mat", "to=well", "output=x"], "convert the file first"),
        (["given.mat", "to=netcdf"], "to=netcdf"),
        (["given.mat", "samples=3"], "samples counts what --verify solves"),
        (["given.mat", "--verify", "samples=0"], "samples must be at least 1"),
        (["given.mat", "split=valid"], "split=valid"),
        (["given.mat", "--config", "x.yaml"], "--config"),
        (["given.mat", "pde.times=[0,1]"], "pde.times"),
        (["empty"], "holds no data of opkit's"),
    ],
)
def test_requests_that_cannot_work_are_refused(refuse, argv, said):
    a, u = darcy_arrays()
    scipy.io.savemat("given.mat", {"coeff": a, "sol": u})
    Path("empty").mkdir()
    assert said in refuse(*argv)


def test_print_config_shows_what_the_file_says_and_writes_nothing(run):
    import yaml

    scipy.io.savemat("given.mat", {"input": np.ones((2, 16)), "output": np.ones((2, 3, 16)), "visc": 0.02})
    before = sorted(Path().rglob("*"))
    config = yaml.safe_load(run("given.mat", "--print_config"))
    assert config["pde"]["name"] == "burgers" and config["pde"]["viscosity"] == 0.02
    assert config["pde"]["resolution"] == 16 and config["to"] == "opkit"
    assert sorted(Path().rglob("*")) == before


# Writing for others.

SMALL = {
    "darcy": Darcy(resolution=9, label_resolution=17, modes=8),
    "burgers": Burgers(resolution=32, label_resolution=256, modes=20, times=(0.0, 0.5, 0.75)),
    "pair": Burgers(resolution=32, label_resolution=256, modes=20),
    "conditional": Burgers(resolution=32, label_resolution=256, modes=20, viscosity=(0.1, 0.5)),
    "navier_stokes": NavierStokes(resolution=16, label_resolution=32, modes=8, times=(0.0, 0.5, 1.0)),
}


@pytest.fixture(scope="module", params=SMALL)
def stored(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPKIT_DATA", str(root))
        return ensure(SMALL[request.param], "test", 3, workers=1)


def test_to_pdebench_and_back(run, stored):
    fields = {name: values.numpy() for name, values in stored.load(3).items()}
    pde = stored.pde
    run(stored.folder, "to=pdebench", "output=out.hdf5")
    with h5py.File("out.hdf5") as file:
        assert np.allclose(file["x-coordinate"][:], pde.grid.axis(0).numpy())
        if pde.equation == "darcy":
            assert (file["tensor"][:, 0] == fields["u"]).all() and (file["nu"][:] == fields["a"]).all()
            assert file.attrs["beta"] == 1.0
        else:
            (state,) = pde.outputs
            assert (file["tensor"][:] == fields[state]).all()
            assert file["t-coordinate"].shape == (len(pde.times) + 1,)
            assert np.allclose(file["t-coordinate"][:-1], pde.times.numpy())
        if pde.equation == "burgers" and not pde.varying:
            assert file.attrs["Nu"] == pytest.approx(0.1 * math.pi)
        if pde.varying:
            assert (file["viscosity"][:] == fields["viscosity"]).all()
    run("out.hdf5")
    again, _, data = loaded()
    assert all((again[name] == fields[name]).all() for name in pde.fields)
    assert data.pde == pde and not data.not_known
    if pde.varying:
        assert torch.allclose(data.load(3)["viscosity"], torch.from_numpy(fields["viscosity"]))


def test_to_neuraloperator_and_into_its_own_reader(run, stored, monkeypatch):
    from neuralop.data.datasets.pt_dataset import PTDataset

    fields = stored.load(3)
    pde = stored.pde
    n = pde.resolution
    run(stored.folder, "to=neuraloperator", f"output=own_train_{n}.pt")
    Path(f"own_test_{n}.pt").symlink_to(f"own_train_{n}.pt")
    reader = PTDataset(
        ".", "own", 3, [3], 1, [1], n, [n], encode_output=False, channels_squeezed=not pde.varying,
        output_subsampling_rate=[1] * (pde.grid.ndim + (pde.times is not None and len(pde.times) > 2)),
        input_subsampling_rate=[1] * pde.grid.ndim if pde.varying else None,
    ) if pde.varying else PTDataset(".", "own", 3, [3], 1, [1], n, [n], encode_output=False)  # fmt: skip
    for i in range(3):
        item = reader.train_db[i]
        if pde.equation == "darcy":
            assert (item["x"][0] == fields["a"][i]).all() and (item["y"][0] == fields["u"][i]).all()
            continue
        path = fields[pde.outputs[0]][i]
        assert (item["x"][0] == path[0]).all()
        assert (item["y"][0] == (path if len(path) > 2 else path[1])).all()
        if pde.varying:
            assert (item["x"][1] == fields["viscosity"][i]).all()
    if not pde.varying:
        run(f"own_train_{n}.pt")
        again, _, data = loaded()
        assert all((again[name] == fields[name].numpy()).all() for name in pde.fields)
        if pde.times is not None:
            assert data.pde.times.tolist() == pde.times.tolist() and data.pde.viscosity == pde.viscosity


def test_an_existing_file_is_not_overwritten(run, refuse, stored):
    Path("out.pt").write_text("mine")
    assert "output=out.pt exists" in refuse(stored.folder, "to=neuraloperator", "output=out.pt")
    assert "already is in opkit's layout" in refuse(stored.folder)
    assert "stored data know" in refuse(stored.folder, "to=pdebench", "output=x.hdf5", "pde.viscosity=1")
    assert "no such split" in refuse(stored.folder, "to=pdebench", "output=x.hdf5", "split=val")


def well_sample(path: Path, index: int, first: int, steps: int) -> dict[str, np.ndarray]:
    """What `the_well.data.WellDataset` (1.2.0) reads of a file, by the same attributes, for one sample.

    The real reader is run by scripts/check_the_well.sh: it pins an fsspec of its own.
    """
    out: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        assert isinstance(file.attrs["grid_type"], str) and isinstance(file.attrs["dataset_name"], str)
        axes = list(file.attrs["simulation_parameters"]) and list(file["dimensions"].attrs["spatial_dims"])
        assert len(axes) == file.attrs["n_spatial_dims"] and index < int(file.attrs["n_trajectories"])
        shape = tuple(file["dimensions"][axis].shape[-1] for axis in axes)
        assert not any(file["dimensions"][axis].attrs["sample_varying"] for axis in axes)
        assert not file["dimensions/time"].attrs["sample_varying"]
        times = file["dimensions/time"][:]
        assert first + steps <= len(times)
        for name in file["scalars"].attrs["field_names"]:
            scalar = file["scalars"][name]
            assert not scalar.attrs["time_varying"]
            out[f"scalar {name}"] = scalar[index] if scalar.attrs["sample_varying"] else scalar[()]
        for rank in range(3):
            group = file[f"t{rank}_fields"]
            for name in group.attrs["field_names"]:
                field = group[name]
                assert rank == 0 and all(field.attrs["dim_varying"]) and field.attrs["sample_varying"]
                varying = field.attrs["time_varying"]
                out[name] = field[(index, slice(first, first + steps))] if varying else field[(index,)]
                assert out[name].shape == ((steps, *shape) if varying else shape)
                assert out[name].dtype == np.float32
        sides = {"WALL": 0, "OPEN": 1, "PERIODIC": 2}
        out["boundaries"] = np.ones((len(axes), 2))
        for name in file["boundary_conditions"]:
            condition = file["boundary_conditions"][name]
            (axis,) = condition.attrs["associated_dims"]
            mask = condition["mask"][:]
            assert mask.shape == (shape[axes.index(axis)],) and mask.dtype == bool
            for side in (0, -1):
                if mask[side]:
                    out["boundaries"][axes.index(axis), side] = sides[condition.attrs["bc_type"].upper()]
    return out


def test_shards_have_all_that_the_wells_reader_asks_for(stored):
    fields, pde = stored.load(3), stored.pde
    (_, _, path) = stored.shards()[0]
    steps = 1 if pde.times is None else len(pde.times)
    read = well_sample(path, 2, 0, steps)
    for name in pde.fields:
        assert (read[name] == fields[name][2].numpy()).all()
    assert (read["boundaries"] == (0 if pde.equation == "darcy" else 2)).all()
    if pde.varying:
        assert read["scalar viscosity"] == pytest.approx(float(fields["viscosity"][2]))


def test_imported_shards_have_it_too(run):
    a, u = darcy_arrays()
    scipy.io.savemat("given.mat", {"coeff": a, "sol": u})
    run("given.mat")
    _, _, data = loaded()
    assert (well_sample(data.shards()[0][2], 1, 0, 1)["a"] == a[1]).all()


def test_to_the_wells_layout(run, monkeypatch, tmp_path):
    import yaml

    pde = SMALL["navier_stokes"]
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "own"))
    train, val = ensure(pde, "train", 3, workers=1), ensure(pde, "val", 2, workers=1)
    run(train.folder.parent, "to=well", "output=out")
    for data, name in ((train, "train"), (val, "valid")):
        (path,) = Path("out/data", name).glob("*.h5")
        assert path.read_bytes() == data.shards()[0][2].read_bytes()
    statistics = yaml.safe_load(Path("out/stats.yaml").read_text())
    w = train.load(3)["w"].double()
    assert statistics["std"]["w"] == pytest.approx(float(w.std(correction=0)))
    assert statistics["rms_delta"]["w"] == pytest.approx(float(w.diff(dim=1).square().mean().sqrt()))
    assert statistics["mean_delta"]["w"] == pytest.approx(float(w.diff(dim=1).mean()), abs=1e-12)


# Which published definition?


def direct_darcy(a: np.ndarray, f: float = 1.0) -> np.ndarray:
    """Node grid, arithmetic means, by a sparse direct solver; assembled from differences, D^T diag(a) D."""
    n = a.shape[-1]
    h = 1 / (n - 1)
    line = sparse.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(n - 1, n)) / h
    inner = sparse.eye_array(n).tocsr()[1:-1]
    out = np.zeros_like(a)
    for i, coefficient in enumerate(a):
        x, y = (coefficient[1:] + coefficient[:-1]) / 2, (coefficient[:, 1:] + coefficient[:, :-1]) / 2
        matrix = sparse.kron(line, sparse.eye_array(n)).T @ sparse.diags_array(x.ravel()) @ sparse.kron(
            line, sparse.eye_array(n)
        ) + sparse.kron(sparse.eye_array(n), line).T @ sparse.diags_array(y.ravel()) @ sparse.kron(
            sparse.eye_array(n), line
        )
        keep = sparse.kron(inner, inner)
        solved = sparse.linalg.spsolve((keep @ matrix @ keep.T).tocsc(), np.full((n - 2) ** 2, f))
        out[i] = (keep.T @ solved).reshape(n, n)
    return out


def spline(values: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    return CubicSpline(old, CubicSpline(old, values, axis=1)(new), axis=2)(new)


def two_phase(n: int, samples: int = 3, location: str = "node") -> np.ndarray:
    """Smooth random inclusions: values 3 and 12 by the sign of a few random waves."""
    x = (np.arange(n) + 0.5) / n if location == "cell" else np.linspace(0, 1, n)
    waves = RNG.normal(size=(samples, 4, 4))
    cosines = np.cos(np.pi * np.outer(np.arange(4), x))
    return np.where(np.einsum("skl,kx,ly->sxy", waves, cosines, cosines) > 0, 12.0, 3.0)


def best(out: str, within: float = 1e-3) -> str:
    """The definition in the first row of the table, whose error must be below `within`."""
    rows = out.splitlines()
    start = next(i for i, row in enumerate(rows) if row.startswith("    error"))
    error, _, _, name = rows[start + 1].split(maxsplit=3)
    assert float(error) < within
    return name


def test_verify_recognises_arithmetic_means_on_nodes(run):
    a = two_phase(33)
    scipy.io.savemat("given.mat", {"coeff": a, "sol": direct_darcy(a)})
    out = run("given.mat", "--verify", "samples=2")
    assert best(out, 1e-6) == "node grid, arithmetic means, f = 1"
    assert "they follow: node grid, arithmetic means, f = 1" in out
    assert "values: 3 and 12" in out and "it vanishes there" in out
    assert not Path("data").exists()


def test_verify_recognises_the_published_generator_by_its_splines(run):
    n = 33
    a = two_phase(n, location="cell")
    cells, nodes = (np.arange(n) + 0.5) / n, np.linspace(0, 1, n)
    u = spline(direct_darcy(spline(a, cells, nodes)), nodes, cells)
    scipy.io.savemat("given.mat", {"coeff": a, "sol": u})
    out = run("given.mat", "--verify")
    assert best(out, 1e-6).startswith("published generator")
    assert "they follow: published generator" in out and "not nodes on the boundary" in out
    run("given.mat")
    assert "they follow: published generator" in run(loaded()[2].folder, "--verify")


def test_verify_recognises_codes_other_scalings_and_exchanged_axes(run):
    a = two_phase(33)
    u = direct_darcy(np.where(a > 5, 4.0, 12.0))
    torch.save({"x": torch.from_numpy(a > 5), "y": torch.from_numpy(u)}, "codes.pt")
    assert "they follow: node grid, arithmetic means, f = 1, a = 12 for 0, 4 for 1" in run("codes.pt", "--verify")
    u = direct_darcy(a)
    scipy.io.savemat("scaled.mat", {"coeff": a, "sol": 100 * u})
    assert "with every solution times 100" in run("scaled.mat", "--verify")
    scipy.io.savemat("turned.mat", {"coeff": a, "sol": u.transpose(0, 2, 1)})
    assert "with the axes of the solution exchanged" in run("turned.mat", "--verify")
    scipy.io.savemat("noise.mat", {"coeff": a, "sol": RNG.normal(size=a.shape)})
    assert "none within 0.01" in run("noise.mat", "--verify")


def test_verify_estimates_the_correlation_length(run):
    pde = Darcy(resolution=65, label_resolution=65, modes=64, tau=9.0)
    a = pde.sample(32, seed=3)[:, 0].numpy()
    scipy.io.savemat("given.mat", {"coeff": a, "sol": np.zeros_like(a)})
    line = next(row for row in run("given.mat", "--verify", "samples=1").splitlines() if row.startswith("tau about"))
    assert 7 < float(line.split()[2]) < 11


def cole_hopf_by_fft(u0: np.ndarray, viscosity: float, length: float, time: float) -> np.ndarray:
    """phi = exp(-U / 2 nu) diffuses; u = -2 nu phi_x / phi. For fields without mean and viscosity not too small."""
    n = u0.shape[-1]
    k = 2 * np.pi / length * np.fft.rfftfreq(n, 1 / n)
    spectrum = np.fft.rfft(u0)
    potential = np.fft.irfft(np.divide(spectrum, 1j * k, out=np.zeros_like(spectrum), where=k > 0), n)
    phi = np.fft.rfft(np.exp(-potential / (2 * viscosity))) * np.exp(-viscosity * k**2 * time)
    return -2 * viscosity * np.fft.irfft(1j * k * phi, n) / np.fft.irfft(phi, n)


@pytest.mark.parametrize(
    ("length", "viscosity", "name"),
    [(2 * math.pi, 0.1, "(0, 2 pi), viscosity 0.1"), (1.0, 0.1, "(0, 1), viscosity 0.1"),
     (1.0, 0.01, "(0, 1), viscosity 0.01")],
)  # fmt: skip
def test_verify_recognises_burgers(run, length, viscosity, name):
    x = np.arange(256) / 256
    waves = RNG.normal(size=(2, 5)) / 3
    a = sum(waves[:, k - 1, None] * np.sin(2 * np.pi * k * x + k) for k in range(1, 6))
    u = cole_hopf_by_fft(a, viscosity, length, 1.0)
    scipy.io.savemat("given.mat", {"a": a, "u": u})
    out = run("given.mat", "--verify", "samples=2")
    assert best(out).startswith(name)
    assert f"they follow: {name}" in out


def euler_navier_stokes(w: np.ndarray, viscosity: float, time: float, steps: int) -> np.ndarray:
    """Vorticity by explicit Euler with exact diffusion, u . grad w in physical space, forcing of the FNO paper."""
    n = w.shape[-1]
    k = 2j * np.pi * np.fft.fftfreq(n, 1 / n)
    kx, ky = k[:, None], k[None, :]
    square = -(kx**2 + ky**2).real
    x = np.arange(n) / n
    s = 2 * np.pi * (x[:, None] + x[None, :])
    forcing = np.fft.fft2(0.1 * (np.sin(s) + np.cos(s)))
    decay = np.exp(-viscosity * square * time / steps)
    state = np.fft.fft2(w)
    for _ in range(steps):
        stream = state / np.where(square > 0, square, 1.0)
        u, v, w_x, w_y = (np.fft.ifft2(f).real for f in (ky * stream, -kx * stream, kx * state, ky * state))
        state = decay * (state + time / steps * (forcing - np.fft.fft2(u * w_x + v * w_y)))
    return np.fft.ifft2(state).real


def test_verify_recognises_navier_stokes_and_its_initial_variance(run):
    w = NavierStokes(resolution=32, modes=5, initial="code2022").sample(3, seed=1)[:, 0].numpy()
    w *= 0.1852 / w.std()
    u = np.stack([euler_navier_stokes(w, 1e-4, t, round(1000 * t)) for t in (0.5, 1.0)], -1)
    save73("given.mat", a=w, u=u, t=np.array([[0.5, 1.0]]))
    out = run("given.mat", "--verify", "samples=2")
    assert best(out).startswith("viscosity 0.0001")
    assert "they follow: viscosity 0.0001" in out
    assert "0.1852: matches code2022" in out


def test_the_table_of_formats_is_that_of_the_documentation():
    text = (Path(__file__).parents[1] / "docs" / "convert.md").read_text(encoding="utf-8")
    for first, second in tables.PAIRS:
        assert f"`{first}`, `{second}`" in text


def test_reading_needs_no_file_name(tmp_path):
    a, u = darcy_arrays()
    scipy.io.savemat(tmp_path / "x", {"coeff": a, "sol": u}, appendmat=False)
    with open_arrays(tmp_path / "x") as arrays:
        content = recognise(arrays, tmp_path / "x")
        assert (content.equation, content.count, content.resolution) == ("darcy", 6, 7)
        assert (content.fields["a"](2, 4) == a[2:4]).all()
    assert convert.SPLITS == ("train", "val", "test")

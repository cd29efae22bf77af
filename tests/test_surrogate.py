"""Bundles: saved and loaded they are the same map; what is missing, damaged or foreign is refused by name."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import opkit
from opkit.errors import BundleError
from opkit.grid import Grid, Spec
from opkit.models import FNO
from opkit.normalize import Normalizer
from opkit.registry import Architecture
from opkit.surrogate import PhysicalOperator, Surrogate


@pytest.fixture
def bundle(small_run, tmp_path):
    return shutil.copytree(small_run / "surrogate", tmp_path / "bundle")


@pytest.fixture(scope="module")
def surrogate(small_run):
    return opkit.load(small_run)


def test_the_bundle_is_the_best_checkpoint_on_raw_physical_input(small_run, surrogate):
    state = torch.load(small_run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    operator = FNO(1, 1, (6, 6), 6, projection_width=8, padding=0.142857142857)
    statistics = [Normalizer(state[f"model.{s}_normalizer.mean"], state[f"model.{s}_normalizer.std"]) for s in ("input", "output")]  # fmt: skip  # noqa: E501
    operator.load_state_dict({k.removeprefix("model.operator."): v for k, v in state.items() if ".operator." in k})
    a = torch.where(torch.randn(2, 1, 13, 13) > 0, 12.0, 3.0)
    expected = statistics[1].inverse(operator(statistics[0](a)))
    torch.testing.assert_close(surrogate(a), expected.detach(), rtol=0, atol=0)


def test_saved_and_loaded_it_is_the_same(surrogate, tmp_path):
    again = opkit.load(surrogate.save(tmp_path / "copy"))
    a = torch.rand(2, 1, 17, 17) + 3
    assert (again(a) == surrogate(a)).all()
    assert again.physics == surrogate.physics
    assert again.spec == surrogate.spec


def test_numpy_and_torch_single_and_double_batched_or_not(surrogate):
    a = np.full((2, 1, 13, 13), 3.0, dtype=np.float64)
    a[:, :, 4:] = 12.0
    u = surrogate(a)
    assert (type(u), u.dtype, u.shape) == (np.ndarray, np.float64, (2, 1, 13, 13))
    assert surrogate(a.astype(np.float32)).dtype == np.float32
    assert surrogate(a[0]).shape == (1, 13, 13)
    assert np.array_equal(surrogate(a[0]), surrogate(a[:1])[0])
    assert np.array_equal(surrogate(np.asfortranarray(a)), u)
    tensor = surrogate(torch.from_numpy(a))
    assert tensor.dtype == torch.float64
    assert not tensor.requires_grad
    assert np.array_equal(tensor.numpy(), u)
    assert surrogate(a[..., ::-1]).shape == u.shape  # negative strides


def test_gradients_flow_when_the_input_asks_for_them(surrogate):
    a = torch.full((1, 1, 13, 13), 5.0, requires_grad=True)
    surrogate(a).sum().backward()
    assert a.grad.abs().sum() > 0


def test_other_grids_are_welcome(surrogate):
    for n in (9, 25, 40):
        assert surrogate(torch.full((1, 1, n, n), 3.0)).shape == (1, 1, n, n)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.zeros((2, 2, 13, 13)), ValueError, r"1 channel.*got \(2, 2, 13, 13\)"),
        (np.zeros((13, 13)), ValueError, r"\(batch, 1, x, y\)"),
        (np.zeros((1, 1, 1, 13, 13)), ValueError, "shape"),
        (np.zeros((1, 1, 13, 13), dtype=int), TypeError, "int64"),
        (np.zeros((1, 1, 13, 13), dtype=complex), TypeError, "complex128"),
        (torch.zeros(1, 1, 13, 13, dtype=torch.complex64), TypeError, "complex64"),
        (torch.zeros(1, 1, 13, 13, dtype=torch.int32), TypeError, "int32"),
        ([[1.0]], TypeError, "list"),
        (np.full((1, 1, 13, 13), np.nan), ValueError, "169 of its 169 values are NaN or infinite"),
        (torch.full((1, 1, 13, 13), torch.inf), ValueError, "finite"),
    ],
)
def test_misuse_is_refused_in_words(surrogate, values, error, message):
    with pytest.raises(error, match=message):
        surrogate(values)


def test_a_steady_surrogate_does_not_roll_out(surrogate):
    with pytest.raises(TypeError, match="steady"):
        surrogate.rollout(torch.zeros(1, 1, 13, 13), steps=3)


def test_rollout_is_repeated_application():
    operator = FNO(1, 1, (4, 4), 4, location="periodic")
    one = lambda: Normalizer(torch.zeros(1), torch.ones(1))  # noqa: E731
    spec = Spec(("w",), ("w",), Grid((8, 8), "periodic"))
    physics = {"pde": "anything", "time_step": 0.5}
    stepper = Surrogate(PhysicalOperator(operator, one(), one()), Architecture("fno"), spec, physics)
    w = torch.randn(2, 1, 8, 8)
    path = stepper.rollout(w, steps=3)
    assert path.shape == (2, 3, 1, 8, 8)
    assert (path[:, 2] == stepper(stepper(stepper(w)))).all()
    assert stepper.rollout(w[0].numpy(), steps=2).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="steps >= 1"):
        stepper.rollout(w, steps=0)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "physics.json", "metrics.json", "README.md"])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        opkit.load(bundle)


def edit(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(format_version=99), "format_version 99"),
        (dict(model="os.system"), "installed are"),
        (dict(model="../preset/quick"), "installed are"),
        (dict(arguments={"width": 6, "nmodes": [6, 6]}), "nmodes"),
        (dict(arguments={"width": "six"}), "config.json"),
        (dict(arguments={"width": 7, "n_modes": [6, 6], "projection_width": 8}), "shape"),
        (dict(weights_sha256="0" * 64), "hash"),
        (dict(grid={"shape": [13, 13]}), "location"),
    ],
)
def test_a_foreign_config_is_refused(bundle, changes, message):
    edit(bundle / "config.json", **changes)
    with pytest.raises(BundleError, match=message):
        opkit.load(bundle)


def test_json_that_is_none_is_refused(bundle):
    (bundle / "physics.json").write_text("[1, 2")
    with pytest.raises(BundleError, match=r"physics\.json"):
        opkit.load(bundle)


def test_flipped_and_foreign_weights_are_refused(bundle):
    weights = bundle / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.safetensors is not the file"):
        opkit.load(bundle)
    weights.write_bytes(b"\x80\x04junk")
    from opkit.files import sha256

    edit(bundle / "config.json", weights_sha256=sha256(weights))
    with pytest.raises(BundleError, match="cannot be read"):
        opkit.load(bundle)


@pytest.mark.parametrize("path", ["/no/such/run", "nowhere", "no/such/run"])
def test_a_path_that_is_nothing_is_refused(path):
    with pytest.raises(BundleError, match="no directory"):
        opkit.load(path)


def test_a_folder_that_is_neither_run_nor_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="neither a finished run"):
        opkit.load(tmp_path)


def test_loading_imports_neither_lightning_nor_wandb(small_run):
    code = (
        f"import sys, opkit; opkit.load({str(small_run)!r}); "
        "assert not {'lightning', 'pytorch_lightning', 'wandb', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_card_states_measured_errors_and_front_matter(small_run):
    card = (small_run / "surrogate" / "README.md").read_text()
    report = json.loads((small_run / "evaluation" / "report.json").read_text())
    assert card.startswith("---\nlibrary_name: opkit\n")
    assert f"{report['metrics'][0]['value']:.4g}" in card
    assert report["verdicts"][0]["text"] in card


def test_physics_tells_how_to_make_the_data_again(small_run, small_data):
    from opkit.registry import problem_of
    from opkit.store import Dataset

    physics = json.loads((small_run / "surrogate" / "physics.json").read_text())
    data = Dataset(problem_of(physics), "train", physics["data"]["seed"], small_data)
    assert data.key == physics["data"]["key"]
    assert data.folder.is_dir()
    assert physics["time_step"] is None
    assert physics["grid"]["location"] == "node"

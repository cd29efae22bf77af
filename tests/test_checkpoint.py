"""`opkit convert` on checkpoint files that another package wrote: they become bundles with that package's output."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import opkit
from opkit import interop
from opkit.cli import main

FIXTURES = Path(__file__).parent / "fixtures"
ARGUMENTS = {
    "n_modes": [8, 8], "in_channels": 1, "out_channels": 1, "hidden_channels": 6, "n_layers": 2,
    "lifting_channel_ratio": 2, "projection_channel_ratio": 2,
}  # fmt: skip
SETTINGS = [
    "source=neuraloperator.FNO", "--pde", "darcy", "pde.resolution=16", "pde.label_resolution=16", "pde.location=cell",
    *(f"reference.{k}={json.dumps(v)}" for k, v in ARGUMENTS.items()),
]  # fmt: skip


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return pytest.importorskip("neuralop.models").FNO(**ARGUMENTS).eval()


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def tensors(model):
    return {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)}


@pytest.mark.parametrize("kind", ["plain", "nested", "parallel", "safetensors"])
def test_a_file_becomes_a_bundle_with_the_same_output(theirs, kind, tmp_path, capsys):
    weights = tensors(theirs)
    path = tmp_path / "weights.pt"
    if kind == "plain":
        torch.save(theirs.state_dict(), path)
    elif kind == "nested":
        torch.save({"epoch": 3, "state_dict": weights}, path)
    elif kind == "parallel":
        torch.save({f"module._orig_mod.{k}": v for k, v in weights.items()}, path)
    else:
        path = tmp_path / "weights.safetensors"
        save_file({k: v.contiguous() for k, v in weights.items()}, path)
    # A state dict as neuraloperator saves it names its own arguments.
    settings = [s for s in SETTINGS if kind != "plain" or not s.startswith("reference.")]
    assert main(["convert", str(path), *settings, "output=bundle"]) == 0
    assert "no normaliser" in capsys.readouterr().out
    u = torch.randn(3, 1, 16, 16)
    expected = theirs(u).detach()
    torch.testing.assert_close(opkit.load("bundle")(u), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("path", "pde"),
    [
        ("mgno/dc", ["darcy", "pde.location=cell"]),
        ("mgno/dc_smooth", ["darcy"]),
        ("mgno/ns", ["navier_stokes"]),
        ("galerkin_transformer/2d_galerkin_odd", ["darcy"]),
        ("galerkin_transformer/1d_galerkin_odd", ["burgers"]),
    ],
)
def test_recorded_weights_of_other_originals_become_bundles_with_their_output(path, pde):
    """State dicts of the original classes, and what these computed."""
    with safe_open(FIXTURES / f"{path}.safetensors", "pt") as file:
        groups = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        source, config = file.metadata()["source"], json.loads(file.metadata()["config"])
    torch.save({k.removeprefix("weights."): v for k, v in groups.items() if k.startswith("weights.")}, "weights.pt")
    u, expected = groups["inputs.u"].float(), groups["output"]
    grid = [f"pde.resolution={u.shape[-1]}", f"pde.label_resolution={u.shape[-1]}"]
    arguments = [f"reference.{name}={json.dumps(value)}" for name, value in config.items()]
    assert main(["convert", "weights.pt", f"source={source}", "--pde", *pde, *grid, *arguments, "output=bundle"]) == 0
    surrogate = opkit.load("bundle")
    torch.testing.assert_close(surrogate(u).double(), expected, rtol=0, atol=1e-5 * expected.abs().max())
    assert (surrogate.model.operator.resolution == "project") == source.startswith("mgno")


def test_the_normaliser_it_was_trained_with(theirs, capsys):
    torch.save(theirs.state_dict(), "weights.pt")
    statistics = ["input_mean=[7]", "input_std=[4]", "output_mean=[0.05]", "output_std=[0.02]"]
    assert main(["convert", "weights.pt", *SETTINGS, *statistics]) == 0
    assert "no normaliser" not in capsys.readouterr().out
    u = 7 + 4 * torch.randn(2, 1, 16, 16)
    expected = 0.05 + 0.02 * theirs((u - 7) / 4).detach()
    np.testing.assert_allclose(opkit.load("weights-surrogate")(u.numpy()), expected.numpy(), rtol=0, atol=1e-6)


def test_the_bundle_is_one_to_evaluate(theirs, monkeypatch, tmp_path):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))
    torch.save(theirs.state_dict(), "weights.pt")
    assert main(["convert", "weights.pt", *SETTINGS, "pde.modes=12", "output=bundle"]) == 0
    settings = ["data.train=4", "data.test=4", "data.test_fine=2", "workers=1", "evaluation.resolutions=[48]"]
    assert main(["evaluate", "bundle", *settings, "evaluation.resamples=100", "--suite", "quick"]) == 0
    assert json.loads((tmp_path / "bundle" / "evaluation" / "report.json").read_text())["model"] == "fno"


def test_help_names_the_sources(capsys):
    assert main(["convert", "source=mgno.MgNO_DC", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(source in out for source in interop.sources()) and "--input_mean" in out


def refused(capsys, *argv):
    assert main(["convert", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "Traceback" not in err
    return err


def test_a_pickled_model_is_refused_with_instructions(theirs, capsys, tmp_path):
    torch.save(torch.nn.Linear(2, 2), "model.pt")  # a whole module, as torch.save(model) writes it
    said = refused(capsys, "model.pt", *SETTINGS, "output=bundle")
    assert "run code when they are read" in said and "state_dict()" in said
    assert not (tmp_path / "bundle").exists()


def test_names_in_a_file_are_never_called(theirs, capsys, tmp_path):
    """A file may name neuraloperator's functions, but an empty class stands in for them; any other name is refused."""

    class Sly:
        def __init__(self, module, name):
            self.__class__.__module__, self.__class__.__qualname__ = module, name
            self.where = (module, name)

        def __reduce__(self):
            import neuralop.utils

            return (neuralop.utils.count_model_params, (theirs,)) if self.where[0] == "neuralop" else (exec, ("1 / 0",))

    for where, said in ((("neuralop", "x"), "run code"), (("builtins", "exec"), "run code")):
        torch.save({**tensors(theirs), "_metadata": {"hook": Sly(*where)}}, "weights.pt")
        assert said in refused(capsys, "weights.pt", *SETTINGS)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3, "loss": 0.1}, "holds no weights"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ({"lifting.fcs.0.weight": torch.zeros(3, 4, 5)}, "lifting.fcs.0.weight"),
    ],
)
def test_what_holds_no_fitting_weights_is_refused(content, said, capsys):
    torch.save(content, "weights.pt")
    assert said in refused(capsys, "weights.pt", *SETTINGS)


def test_what_is_no_checkpoint_is_said_to_be_none(capsys):
    Path("weights.pt").write_text("hello")
    assert "weights.pt cannot be read (no file that torch.save wrote)" in refused(capsys, "weights.pt", *SETTINGS)


def test_what_does_not_fit_is_refused(theirs, capsys, tmp_path):
    torch.save(theirs.state_dict(), "weights.pt")
    assert "no file nowhere.pt" in refused(capsys, "nowhere.pt", *SETTINGS)
    assert "Did you mean 'neuraloperator.FNO'" in refused(
        capsys, "weights.pt", "source=neuraloperator.FN", "--pde", "darcy"
    )
    assert "--pde is missing" in refused(capsys, "weights.pt", "source=neuraloperator.FNO")
    assert "reference.n_modes=[8, is neither" in refused(capsys, "weights.pt", *SETTINGS, "reference.n_modes=[8,")
    assert "n_mode" in refused(capsys, "weights.pt", *SETTINGS, "reference.n_mode=[8,8]")
    assert "does not map a, f to u" in refused(capsys, "weights.pt", *SETTINGS, "pde.source=random")
    assert "output_std must be positive" in refused(capsys, "weights.pt", *SETTINGS, "output_std=[0]")
    assert "one number for each" in refused(capsys, "weights.pt", *SETTINGS, "input_mean=[0,1]")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "exists already" in refused(capsys, "weights.pt", *SETTINGS, "output=full")

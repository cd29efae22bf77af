"""`from_reference` against what the original implementations computed, recorded in tests/fixtures."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from opkit import interop

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("*/*.safetensors"))


def read(path: Path) -> tuple[str, dict, dict[str, dict[str, torch.Tensor]]]:
    """Source, constructor arguments, and the tensors by group."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        for key in file.keys():  # noqa: SIM118 - not a dict
            group, _, name = key.partition(".")
            groups.setdefault(group, {})[name] = file.get_tensor(key)
    return meta["source"], json.loads(meta["config"]), groups


def call(path: Path, model, inputs):
    return importlib.import_module(f"benchmarks.originals.{path.parent.name}").call(model, *inputs)


def run(path: Path, dtype=torch.float64, requires_grad=False):
    source, config, groups = read(path)
    cast = {
        k: v.to(torch.complex64 if v.is_complex() and dtype == torch.float32 else v.dtype if v.is_complex() else dtype)
        for k, v in groups["weights"].items()
    }
    model = interop.from_reference(source, cast, **config)
    inputs = {k: v.to(dtype).requires_grad_(requires_grad) for k, v in groups["inputs"].items()}
    return model, inputs, call(path, model, (source, inputs)), groups, config, source


ids = [f"{p.parent.name}/{p.stem}" for p in FIXTURES]


@pytest.mark.parametrize("path", FIXTURES, ids=ids)
def test_output_is_the_originals(path):
    _, _, output, groups, _, _ = run(path)
    expected = groups["output"][""]
    assert expected.std() > 1e-2
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-9 * max(1, expected.abs().max().item()))


@pytest.mark.parametrize("path", FIXTURES, ids=ids)
def test_float32_output_is_the_originals(path):
    model, _, output, groups, _, _ = run(path, torch.float32)
    assert not model.training and next(model.parameters()).dtype == torch.float32
    expected = groups["output"][""]
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-5 * max(1, expected.abs().max().item()))


@pytest.mark.parametrize("path", FIXTURES, ids=ids)
def test_gradients_are_the_originals(path):
    """Keys are relabelled, reshaped and stacked only, so the original's gradients pass through the same map."""
    model, inputs, output, groups, config, source = run(path, requires_grad=True)
    (output * groups["cotangent"][""]).sum().backward()
    theirs = groups["gradients"]
    for name, tensor in inputs.items():
        if (expected := theirs.get(f"inputs.{name}")) is not None:
            close(tensor.grad, expected, name)
    # What has no gradient (buffers, weights without effect) enters the map as zero.
    weights = {k: theirs.get(f"weights.{k}", torch.zeros_like(v)) for k, v in groups["weights"].items()}
    mapped = dict(interop.from_reference(source, weights, **config).named_parameters())
    compared = 0
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            close(parameter.grad, mapped[name].detach(), name)
            compared += 1
        else:  # without effect there too
            assert not mapped[name].any(), name
    assert compared > 0.8 * len(mapped)


def close(ours: torch.Tensor, theirs: torch.Tensor, name: str) -> None:
    scale = max(1, theirs.abs().max().item())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8 * scale, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("source", interop.sources())
def test_every_source_has_a_fixture(source):
    assert any(read(path)[0] == source for path in FIXTURES)


def first(source: str) -> Path:
    return next(path for path in FIXTURES if read(path)[0] == source)


@pytest.mark.parametrize("source", interop.sources())
class TestRefusals:
    def test_a_missing_key_is_named(self, source):
        _, config, groups = read(first(source))
        weights = dict(groups["weights"])
        lost = sorted(weights)[len(weights) // 2]
        del weights[lost]
        with pytest.raises(ValueError, match=lost.replace(".", r"\.")):
            interop.from_reference(source, weights, **config)

    def test_an_extra_key_is_named(self, source):
        _, config, groups = read(first(source))
        with pytest.raises(ValueError, match=r"module\.unheard_of"):
            interop.from_reference(source, groups["weights"] | {"module.unheard_of": torch.zeros(2).double()}, **config)

    def test_a_wrong_shape_is_named(self, source):
        _, config, groups = read(first(source))
        weights = dict(groups["weights"])
        bent = next(k for k in sorted(weights) if weights[k].ndim > 1)
        weights[bent] = weights[bent][:, :0]
        with pytest.raises(ValueError, match=bent.replace(".", r"\.")):
            interop.from_reference(source, weights, **config)

    def test_an_unknown_argument_is_named(self, source):
        _, config, groups = read(first(source))
        with pytest.raises(ValueError, match="n_laiers"):
            interop.from_reference(source, groups["weights"], **config, n_laiers=3)

    def test_entries_that_are_no_tensors_are_ignored(self, source):
        _, config, groups = read(first(source))
        interop.from_reference(source, groups["weights"] | {"_metadata": {"version": 1}}, **config)

    def test_no_weights_at_all(self, source):
        _, config, _ = read(first(source))
        with pytest.raises(ValueError, match="tensor"):
            interop.from_reference(source, {"_metadata": 1}, **config)


@pytest.mark.parametrize(
    ("source", "wrong", "said"),
    [
        (
            "galerkin_transformer.SimpleTransformer",
            dict(node_feats="bogus"),
            "node_feats='bogus' should be a whole number",
        ),
        ("galerkin_transformer.SimpleTransformer", dict(n_head=5), "n_heads must divide .* got 5"),
        ("neuraloperator.FNO", dict(lifting_channel_ratio="abc"), "lifting_channel_ratio='abc' should be a number"),
        ("neuraloperator.FNO", dict(factorization=True), "make no model"),
        ("gnot.GNOT", dict(n_layers=True), "n_layers=True should be a whole number"),
        ("mgno.MgNO_DC", dict(num_layer=0), "n_layers must be at least 1"),
        ("mgno.MgNO_helm", dict(num_iteration=[[1, 0]] * 5), "must have a number for each of five levels"),
        ("mgno.MgNO_helm", dict(num_iteration=[1, 1, 2]), r"num_iteration=\(1, 1, 2\) cannot be converted"),
    ],
)
def test_arguments_that_make_no_model_are_refused_by_the_sources_name(source, wrong, said):
    _, config, groups = read(first(source))
    with pytest.raises(ValueError, match=rf"^{source}: .*{said}"):
        interop.from_reference(source, groups["weights"], **config | wrong)


def test_an_unknown_source_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match=r"mgno\.MgNO_DC"):
        interop.from_reference("mgno.MgNO_D", {})


def test_an_activation_with_arguments_of_its_own_is_not_taken_for_the_plain_one():
    from opkit.interop.weights import activation_name

    assert activation_name("x.Y", "act", torch.nn.LeakyReLU()) == "leaky_relu"
    assert activation_name("x.Y", "act", torch.nn.functional.silu) == "silu"
    with pytest.raises(ValueError, match=r"LeakyReLU\(negative_slope=0.2\)"):
        activation_name("x.Y", "act", torch.nn.LeakyReLU(0.2))

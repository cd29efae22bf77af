"""Activations against their formulas, and the promise that weight decay leaves their parameters alone."""

import sys
import types
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import opkit
from opkit.errors import BundleError
from opkit.files import read_json, write_json
from opkit.models import ACTIVATIONS, FNO, GNOT, GalerkinTransformer, MgNO, activation
from opkit.models.activations import decay_groups, is_loaded
from opkit.models.layers import FeedForward

X = torch.linspace(-3, 3, 61, dtype=torch.float64)


def numpy_formula(name: str, x: np.ndarray) -> np.ndarray:
    """Written out by hand, at the parameters each starts with."""
    from scipy.special import erf

    sigmoid = 1 / (1 + np.exp(-x))
    return {
        "gelu": lambda: x * (1 + erf(x / np.sqrt(2))) / 2,
        "relu": lambda: np.maximum(x, 0),
        "leaky_relu": lambda: np.where(x > 0, x, 0.01 * x),
        "prelu": lambda: np.where(x > 0, x, 0.25 * x),
        "elu": lambda: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
        "silu": lambda: x * sigmoid,
        "swish": lambda: x * sigmoid,
        "mish": lambda: x * np.tanh(np.log1p(np.exp(x))),
        "tanh": lambda: np.tanh(x),
        "softplus": lambda: np.log1p(np.exp(x)),
        "sine": lambda: np.sin(x),
        "snake": lambda: x + np.sin(x) ** 2,
        "smelu": lambda: np.where(x >= 1, x, np.where(x <= -1, 0, (x + 1) ** 2 / 4)),
        "rational": lambda: (0.0218 + 0.5 * x + 1.5957 * x**2 + 1.1915 * x**3) / (1 + 2.383 * x**2),
        "identity": lambda: x,
    }[name]()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_are_the_formulas(name):
    ours = activation(name).double()(X).detach().numpy()
    np.testing.assert_allclose(ours, numpy_formula(name, X.numpy()), rtol=0, atol=2e-7)  # float32 parameters


def test_the_rational_function_starts_as_the_best_approximation_of_relu():
    """Best means that the error takes its largest size with alternating sign at degree 3 + 2 + 2 = 7 points."""
    x = torch.linspace(-1, 1, 4001)
    error = (activation("rational")(x) - x.clamp_min(0)).detach().numpy()
    largest = np.abs(error).max()
    assert largest < 0.0225
    touching = error[np.abs(error) > 0.97 * largest]
    assert 1 + (np.diff(np.sign(touching)) != 0).sum() >= 6


@pytest.mark.parametrize("alpha", [0.0, 1e-4, 2.0])
def test_snake_at_any_frequency(alpha):
    snake = activation("snake").double()
    snake.alpha.data.fill_(alpha)
    expected = X if alpha == 0 else X + torch.sin(alpha * X) ** 2 / alpha
    torch.testing.assert_close(snake(X), expected, rtol=0, atol=1e-12)
    snake(X).sum().backward()
    assert torch.isfinite(snake.alpha.grad)


@pytest.mark.parametrize("name", ["prelu", "swish", "snake", "rational"])
def test_learned_activations_are_per_layer_and_not_decayed(name):
    model = FNO(1, 1, (4,), width=4, n_layers=3, activation=name)
    own = [n for n, p in model.named_parameters() if getattr(p, "no_weight_decay", False)]
    assert len(own) >= 3 and len({n.split(".")[1] for n in own}) == 3
    groups = decay_groups(model, 0.1)
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0]
    assert len(groups[1]["params"]) == len(own)
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    torch.optim.AdamW(groups, lr=0.1).step()  # no gradient: what moves, moves by decay
    for n, p in model.named_parameters():
        assert (p == before[n]).all() == (n in own or not before[n].any())


def test_without_learned_activations_there_is_one_group():
    assert len(decay_groups(FNO(1, 1, (4,), width=4), 0.1)) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gelo", "Did you mean 'gelu'"),
        ("torch.nn.Nothing", "not an nn.Module class"),
        ("no_such_package.Act", "cannot be imported"),
        ("torch.nn.Linear", "cannot be used"),
        ("torch.nn.Flatten", "changes the shape"),
        ("torch.nn.GLU", "cannot be used|changes the shape"),
        ("torch.nn.Softmax2d", "mixes points or channels"),
        ("torch.nn.LazyBatchNorm1d", "cannot be used.*first input"),
        (".foo.Bar", "no dotted path"),
        (".Bar", "no dotted path"),
    ],
)
def test_what_is_no_activation_is_refused(name, said):
    with pytest.raises(ValueError, match=f"slope={name!r}.*{said}|{said}.*slope={name!r}"):
        activation(name, "slope")


@pytest.mark.parametrize(
    ("model", "argument"),
    [
        (partial(GalerkinTransformer, 1, 1, 2, (16, 16)), "decoder_activation"),
        (partial(GalerkinTransformer, 1, 1, 2, (16, 16)), "down_activation"),
        (partial(GalerkinTransformer, 1, 1, 2, (16, 16)), "up_activation"),
        (partial(GNOT, 1, 1, 2), "output_activation"),
        (partial(MgNO, 1, 1, 2, (16, 16), head="mlp"), "projection_activation"),
        (partial(FNO, 1, 1, (4,)), "activation"),
    ],
)
def test_a_refusal_names_the_argument_it_is_about(model, argument):
    with pytest.raises(ValueError, match=f"^{argument}='nope' is not known"):
        model(**{argument: "nope"})


def test_an_importable_class_works_and_a_bundle_cannot_import_one(monkeypatch, tmp_path, small_run):
    module = types.ModuleType("somebodys")
    module.Square = type("Square", (nn.Module,), {"forward": lambda self, x: x * x})
    monkeypatch.setitem(sys.modules, "somebodys", module)
    assert (activation("somebodys.Square")(X) == X * X).all()
    assert (activation("torch.nn.Hardtanh")(X) == X.clamp(-1, 1)).all()
    surrogate = opkit.load(small_run)
    surrogate.architecture.arguments["activation"] = "somebodys.Square"
    bundle = surrogate.save(tmp_path / "bundle")
    opkit.load(bundle)
    monkeypatch.delitem(sys.modules, "somebodys")
    assert not is_loaded("somebodys.Square")
    with pytest.raises(BundleError, match=r"somebodys\.Square, which is not imported") as refusal:
        opkit.load(bundle)
    assert str(refusal.value).count("cannot be loaded") == 1
    config = read_json(bundle / "config.json", ValueError)
    config["arguments"]["activation"] = "os.system"
    write_json(bundle / "config.json", config)
    with pytest.raises(BundleError, match="not an nn"):
        opkit.load(bundle)


@pytest.mark.parametrize(
    ("ffn", "gate"),
    [
        ("glu", torch.sigmoid), ("bilinear", lambda x: x), ("reglu", torch.relu),
        ("geglu", nn.functional.gelu), ("swiglu", nn.functional.silu),
    ],
)  # fmt: skip
def test_gated_feed_forward_is_the_formula(ffn, gate):
    layer = FeedForward(6, 24, ffn=ffn)
    x = torch.randn(3, 6)
    (w, v), (b, c) = layer.inner.weight.chunk(2), layer.inner.bias.chunk(2)
    expected = (gate(x @ w.T + b) * (x @ v.T + c)) @ layer.outer.weight.T + layer.outer.bias
    torch.testing.assert_close(layer(x), expected)
    plain = sum(p.numel() for p in FeedForward(6, 24).parameters())
    assert abs(sum(p.numel() for p in layer.parameters()) / plain - 1) < 0.1


def test_an_unknown_feed_forward_is_refused():
    with pytest.raises(ValueError, match="there are: mlp, glu"):
        FeedForward(4, 8, ffn="moe")

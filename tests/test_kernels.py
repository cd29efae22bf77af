"""The faster ways give PyTorch's results, forward, backward and compiled, whatever machine the tests run on."""

import pytest
import torch
from torch.nn import functional as F

from opkit.models import kernels


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Every product takes the faster way."""
    monkeypatch.setattr(kernels, "WIDE_CONVOLUTIONS", True)
    monkeypatch.setattr(kernels, "CONVOLVE_FROM", 0)


@pytest.fixture
def taken(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes that the faster way was given."""
    shapes = []
    direct = kernels._linear

    def record(x, weight, bias):
        shapes.append(tuple(x.shape))
        return direct(x, weight, bias)

    monkeypatch.setattr(kernels, "_linear", record)
    return shapes


INPUTS = {
    "points of a batch": lambda: torch.randn(3, 50, 7),
    "one point": lambda: torch.randn(7),
    "grid": lambda: torch.randn(2, 5, 6, 7),
    "channels first": lambda: torch.randn(3, 7, 50).mT,
    "a slice": lambda: torch.randn(40, 14)[:, 3:10],
    "expanded": lambda: torch.randn(1, 30, 7).expand(4, -1, -1),
}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "none"])
@pytest.mark.parametrize("name", INPUTS)
def test_linear_is_pytorchs(name, bias, compiled, taken):
    torch.manual_seed(0)
    x = INPUTS[name]().requires_grad_()
    weight = torch.randn(12, 7)[::2].requires_grad_()  # rows of a larger one
    offset = torch.randn(6, requires_grad=True) if bias else None
    leaves = [t for t in (x, weight, offset) if t is not None]
    exact = F.linear(*(t if t is None else t.double() for t in (x, weight, offset)))
    out = torch.randn_like(exact)
    run = torch.compile(kernels.linear, backend="aot_eager") if compiled else kernels.linear
    found = run(x, weight, offset)
    assert taken and found.shape == exact.shape
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    wanted = torch.autograd.grad(exact, leaves, out)
    for ours, theirs in zip(torch.autograd.grad(found, leaves, out.float()), wanted, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-4)


def test_linear_under_vmap_and_second_derivatives(taken):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 20, 7), torch.randn(6, 7), torch.randn(6)
    torch.testing.assert_close(torch.vmap(kernels.linear, (0, None, None))(x, weight, bias), F.linear(x, weight, bias))

    def energy(linear):
        return lambda y: linear(y.tanh(), weight, bias).pow(3).sum()

    ours, theirs = (torch.autograd.functional.hessian(energy(f), x[0, :2]) for f in (kernels.linear, F.linear))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    ours, theirs = (torch.func.jvp(energy(f), (x,), (x.sin(),))[1] for f in (kernels.linear, F.linear))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert taken


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "none"])
def test_derivatives_of_the_linear_operator_are_differences(bias):
    """First and second ones, against finite differences."""
    torch.manual_seed(0)
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 5, 4), (3, 4), (3,))]
    leaves = leaves if bias else leaves[:2]

    def cube(x, weight, offset=None):
        return torch.ops.opkit.linear(x, weight, offset) ** 3

    assert torch.autograd.gradcheck(cube, leaves)
    assert torch.autograd.gradgradcheck(cube, leaves)


def test_linear_leaves_the_rest_to_pytorch(taken, monkeypatch):
    weight = torch.randn(6, 7)
    kernels.linear(torch.randn(50, 7).double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert kernels.linear(torch.randn(50, 7), weight).dtype == torch.bfloat16
    monkeypatch.setattr(kernels, "CONVOLVE_FROM", 50 * 7 * 6 + 1)
    kernels.linear(torch.randn(50, 7), weight)
    monkeypatch.setattr(kernels, "WIDE_CONVOLUTIONS", False)
    kernels.linear(torch.randn(500, 7), weight)
    assert not taken


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("shape", [(5, 9), (12, 3)])
def test_compiled_interpolation_is_pytorchs(shape, align):
    torch.manual_seed(0)
    u = torch.randn(2, 3, 7, 6, requires_grad=True)
    exact = F.interpolate(u, shape, mode="bilinear", align_corners=align)
    found = torch.compile(kernels.interpolate, backend="aot_eager")(u, list(shape), align)
    torch.testing.assert_close(found, exact)
    out = torch.randn_like(exact)
    torch.testing.assert_close(*(torch.autograd.grad(y, u, out)[0] for y in (found, exact)))


def test_the_operators_keep_their_word():
    """PyTorch's own check of an operator: schema, shapes without data, gradients, tracing."""
    x, weight, bias = (torch.randn(s, requires_grad=True) for s in ((4, 10, 7), (6, 7), (6,)))
    strided = x.detach().mT.contiguous().mT.requires_grad_()
    for arguments in ((x, weight, bias), (x, weight, None), (strided, weight, bias)):
        torch.library.opcheck(torch.ops.opkit.linear.default, arguments)
    torch.library.opcheck(torch.ops.opkit.linear_gradients.default, (torch.randn(4, 10, 6), x, weight))
    u = torch.randn(2, 3, 7, 6, requires_grad=True)
    torch.library.opcheck(kernels._interpolate_operator, (u, [4, 9], True))

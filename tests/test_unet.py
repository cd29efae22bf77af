"""The U-Net against the same network written out in numpy, and its symmetries."""

import numpy as np
import pytest
import torch
from conftest import GHOSTS
from torch import nn

from opkit.grid import Grid
from opkit.models import UNet
from opkit.models.unet import Block, doubled

SMALL = dict(width=4, multipliers=(1, 2, 3))


def convolve(layer: nn.Conv2d, u: np.ndarray, padding: str, stride: int = 1) -> np.ndarray:
    """A stencil of three points on (i, n), entry by entry, at every `stride`-th point."""
    weight, bias = layer.weight.detach().numpy()[:, :, 0], layer.bias.detach().numpy()
    n = u.shape[1]
    out = np.repeat(bias[:, None], (n - 1) // stride + 1, 1)
    for j in range(out.shape[1]):
        for k in range(3):
            source = GHOSTS[padding](stride * j + k - 1, n)
            if source is not None:
                out[:, j] += weight[:, :, k] @ u[:, source]
    return out


def pointwise(layer: nn.Module, u: np.ndarray) -> np.ndarray:
    if isinstance(layer, nn.Identity):
        return u
    return layer.weight.detach().numpy()[:, :, 0, 0] @ u + layer.bias.detach().numpy()[:, None]


def standardised(norm: nn.Module, u: np.ndarray, groups: int) -> np.ndarray:
    """Mean 0 and variance 1 of each group of channels, all points together, then a scale and a shift per channel."""
    if not groups:
        return u
    out = u.copy()
    for members in np.split(np.arange(len(u)), groups):
        out[members] = (u[members] - u[members].mean()) / np.sqrt(u[members].var() + 1e-5)
    return norm.weight.detach().numpy()[:, None] * out + norm.bias.detach().numpy()[:, None]


def through(blocks: nn.Module, u: np.ndarray, groups: int, padding: str) -> np.ndarray:
    for block in blocks:
        inner = convolve(block.convolutions[0], np.tanh(standardised(block.norms[0], u, groups)), padding)
        outer = convolve(block.convolutions[1], np.tanh(standardised(block.norms[1], inner, groups)), padding)
        u = pointwise(block.skip, u) + outer
    return u


def network(model: UNet, u: np.ndarray, groups: int, padding: str) -> np.ndarray:
    """The network on (c, n), tanh its activation."""
    u, seen = convolve(model.lift, u, padding), []
    for i, blocks in enumerate(model.down):
        u = through(blocks, u, groups, padding)
        if i < len(model.halve):
            seen.append(u)
            u = convolve(model.halve[i], u, padding, 2)
    for i in reversed(range(len(model.up))):
        coarse, e = pointwise(model.narrow[i], u), seen[i]
        at, own = np.arange(e.shape[1]) / 2, np.arange(coarse.shape[1])
        period = len(own) if padding == "circular" else None
        fine = np.stack([np.interp(at, own, line, period=period) for line in coarse])
        u = through(model.up[i], np.concatenate([fine, e]), groups, padding)
    return pointwise(model.head, u)


def randomised(model: UNet) -> UNet:
    """Scales and shifts of norms too."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.double()


@pytest.mark.parametrize("padding", list(GHOSTS))
@pytest.mark.parametrize(("n", "groups", "n_blocks"), [(16, 1, 1), (13, 2, 1), (24, 0, 2)])
def test_the_network_is_the_one_written_out(padding, n, groups, n_blocks):
    location = "periodic" if padding == "circular" else "node"
    if location == "periodic" and n % 4:
        n += 4 - n % 4
    model = randomised(
        UNet(
            2, 3, (n,), location=location, groups=groups, n_blocks=n_blocks, padding=padding, activation="tanh",
            **SMALL,
        )
    )  # fmt: skip
    u = torch.randn(2, 2, n, dtype=torch.float64)
    expected = np.stack([network(model, sample, groups, padding) for sample in u.numpy()])
    assert expected.std() > 0.05
    np.testing.assert_allclose(model(u).detach().numpy(), expected, rtol=0, atol=1e-12)


def test_on_what_varies_along_one_axis_2d_is_1d():
    """Of a field that is constant along x, a stencil sees its own sum over x."""
    for axis in (2, 3):
        model = randomised(UNet(1, 1, (16, 16), location="periodic", **SMALL))
        line = UNet(1, 1, (16,), location="periodic", **SMALL).double()
        state = {k: w.sum(axis, keepdim=True) if w.ndim == 4 else w for k, w in model.state_dict().items()}
        line.load_state_dict({k: w.mT if w.ndim == 4 and axis == 3 else w for k, w in state.items()})
        u = torch.randn(2, 1, 16, dtype=torch.float64)
        plane = u.unsqueeze(axis).expand(2, 1, 16, 16)
        torch.testing.assert_close(model(plane), line(u).unsqueeze(axis).expand(2, 1, 16, 16), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 8), (6, 7), (1, 4)])
def test_up_sampling_is_linear_interpolation(shape):
    m, n = shape
    u = torch.randn(2, 3, m, n, dtype=torch.float64)
    for a in (2 * m - 1, 2 * m):
        for b in (2 * n - 1, 2 * n):
            for periodic in (True, False):
                expected = u.numpy()
                for axis, size in ((2, a), (3, b)):
                    points = np.arange(expected.shape[axis])
                    period = len(points) if periodic else None
                    expected = np.apply_along_axis(
                        lambda line, at, p, period: np.interp(at, p, line, period=period),
                        axis, expected, np.arange(size) / 2, points, period,
                    )  # fmt: skip
                np.testing.assert_allclose(doubled(u, (a, b), periodic).numpy(), expected, rtol=0, atol=1e-14)


def broken(model: UNet, shape: tuple[int, ...], by: tuple[int, ...]) -> float:
    """By how much shifting the input by some points is not shifting the output."""
    u = torch.randn(1, 1, *shape, dtype=torch.float64)
    axes = tuple(range(2, 2 + len(shape)))
    return (model(u.roll(by, axes)) - model(u).roll(by, axes)).abs().max().item()


@pytest.mark.parametrize(("shape", "shift"), [((32,), (12,)), ((24, 16), (4, 8)), ((16, 32), (0, 4))])
def test_on_a_periodic_grid_it_commutes_with_shifts_by_cells_of_the_coarsest(shape, shift):
    model = randomised(UNet(1, 1, shape, location="periodic", **SMALL))
    assert broken(model, shape, shift) < 1e-12
    assert broken(model, shape, tuple(s // 4 for s in shift)) > 1e-3
    placed = randomised(UNet(1, 1, shape, location="periodic", coordinates="waves", **SMALL))
    assert broken(placed, shape, shift) > 1e-3


@pytest.mark.parametrize(("shape", "own", "shift"), [((45,), (48,), (15,)), ((15, 9), (16, 12), (0, 3))])
def test_a_periodic_grid_of_an_odd_number_of_points_has_no_seam(shape, own, shift):
    """A third of the period is whole cells of the coarsest level of the 48, or 12, points that take their place."""
    model = randomised(UNet(1, 1, shape, location="periodic", **SMALL))
    assert broken(model, shape, shift) < 1e-12
    assert broken(model, shape, (1,) * len(shape)) > 1e-3
    here, there = Grid(shape, "periodic"), Grid(own, "periodic")
    field = torch.randn(1, 1, *shape, dtype=torch.float64)
    expected = there.resample(model(here.resample(field, there, "spectral")), here, "spectral")
    torch.testing.assert_close(model(field), expected, rtol=0, atol=1e-12)


def test_neumann_walls_are_mirrors():
    """With symmetric stencils, a field on n nodes and the same field continued evenly to a period of 2 (n - 1)."""
    n = 17
    model = randomised(UNet(1, 1, (n,), boundary="neumann", groups=0, **SMALL))
    periodic = UNet(1, 1, (2 * n - 2,), location="periodic", groups=0, **SMALL).double()
    state = {k: (w + w.flip(-1)) / 2 if w.ndim == 4 else w for k, w in model.state_dict().items()}
    model.load_state_dict(state)
    periodic.load_state_dict(state)
    u = torch.randn(2, 1, n, dtype=torch.float64)
    even = torch.cat([u, u[..., 1:-1].flip(-1)], -1)
    torch.testing.assert_close(model(u), periodic(even)[..., :n], rtol=0, atol=1e-12)
    free = UNet(1, 1, (n,), groups=0, **SMALL).double()
    free.load_state_dict(state)
    assert (free(u) - model(u)).abs().max() > 1e-3


@pytest.mark.parametrize("n", range(5, 38, 4))
def test_every_size_has_levels_that_lead_back_to_it(n):
    for shape in ((n,), (n, 42 - n), (n + 1, n + 2)):
        for location, boundary in (("node", "open"), ("periodic", "periodic"), ("cell", "neumann")):
            model = UNet(1, 1, shape, boundary, location, width=1, multipliers=(1, 1, 1))
            assert model(torch.randn(1, 1, *shape)).shape == (1, 1, *shape)


def test_a_linear_map_passes():
    """With the blocks' last stencils zero nothing else is left."""
    model = randomised(UNet(1, 1, (17,), **SMALL))
    for block in (b for b in model.modules() if isinstance(b, Block)):
        nn.init.zeros_(block.convolutions[1].weight)
        nn.init.zeros_(block.convolutions[1].bias)
    u, v, zero = *torch.randn(2, 1, 1, 17, dtype=torch.float64), torch.zeros(1, 1, 17, dtype=torch.float64)
    offset = model(zero)
    torch.testing.assert_close(model(2 * u - v) - offset, 2 * (model(u) - offset) - (model(v) - offset))
    assert (model(u) - offset).std() > 1e-3


@pytest.mark.parametrize("size", [(9, 9), (12, 17)])
def test_outputs_are_exactly_zero_on_dirichlet_walls(size):
    model = UNet(1, 2, (12, 17), "dirichlet", **SMALL)
    out = model(torch.randn(2, 1, *size))
    assert (out[..., 1:-1, 1:-1] != 0).all()
    out[..., 1:-1, 1:-1] = 0
    assert (out == 0).all()
    for others in (dict(boundary="neumann"), dict(boundary="dirichlet", location="cell"), dict(boundary="open")):
        assert (UNet(1, 2, (12, 17), **others, **SMALL)(torch.randn(2, 1, *size)) != 0).all()
    free = UNet(1, 2, (12, 17), "dirichlet", zero_walls=False, **SMALL)
    assert (free(torch.randn(2, 1, *size)) != 0).all()


def test_convolutions_see_channels_last_memory():
    model = UNet(2, 1, (16, 12), location="periodic", **SMALL)
    seen = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    model(torch.randn(3, 2, 16, 12))
    assert len(seen) == 1 + 2 * 5 + 2 + 2 + 2 + 2 + 1  # lift, blocks, halving, narrowing, skips down and up, head
    assert all(u.is_contiguous(memory_format=torch.channels_last) for u in seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(shape=(16, 16, 16)), r"1 or 2 axes, got shape=\(16, 16, 16\)"),
        (dict(width=0), "width must be at least 1, got 0"),
        (dict(n_blocks=0), "n_blocks must be at least 1"),
        (dict(multipliers=()), r"multipliers needs a positive number for each level, got \(\)"),
        (dict(multipliers=(1, 0)), r"multipliers needs .* got \(1, 0\)"),
        (dict(shape=(16, 5)), r"multipliers=\(1, 2, 4, 8, 16\) has 5 levels, but a grid of \(16, 5\) .* at most 4"),
        (dict(shape=(9, 9), boundary="neumann"), "5 levels, but .* at most 4"),
        (dict(width=3, groups=2), r"groups must divide the channels of every level, \[3, 6, 12, 24, 48\].* got 2"),
        (dict(padding="wrap"), "padding is one of auto, zeros, reflect, replicate, circular, got 'wrap'"),
        (dict(activation="geluu"), "Did you mean 'gelu'"),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        UNet(1, 1, **(dict(shape=(16, 16)) | arguments))


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["replicate", "reflect"])
def test_compiled_gradients_are_the_eager_ones_beyond_walls_too(padding):
    """`test_models` compiles with zeros and circles. Of `F.pad(mode="replicate")` the compiled gradient fails."""
    torch._dynamo.reset()
    model = UNet(1, 1, (17, 16), padding=padding, width=4, multipliers=(1, 2))
    u = torch.randn(2, 1, 17, 16)
    gradients = []
    for run in (model, torch.compile(model, dynamic=False)):
        model.zero_grad()
        run(u).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4 * eager.abs().max().item())

"""DeepONet against its sum of products written out in numpy, and what its sensors and its trunk see."""

import numpy as np
import pytest
import torch
from conftest import GHOSTS
from torch import nn

from opkit.grid import Grid
from opkit.models import DeepONet

SMALL = dict(n_basis=5, branch_hidden=7, trunk_width=6, trunk_layers=2, harmonics=2, activation="tanh")


def dense(layers: nn.Sequential, x: np.ndarray, last: bool) -> np.ndarray:
    """W x + b of each linear layer, tanh between them, and after the last if wanted."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for i, layer in enumerate(linear):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        x = np.tanh(x) if last or i < len(linear) - 1 else x
    return x


def features(points: np.ndarray, periodic: bool, harmonics: int) -> np.ndarray:
    """(n, d) to x and its waves: for each kind and each k, one column per axis."""
    factor = 2 * np.pi if periodic else np.pi
    waves = [wave(factor * k * points) for wave in (np.cos, np.sin) for k in range(1, harmonics + 1)]
    return np.concatenate(waves if periodic else [points, *waves], 1)


@pytest.mark.parametrize("location", ["node", "cell", "periodic"])
def test_the_output_is_the_sum_of_products_of_the_dense_networks(location):
    """A dense branch of all sensors, two inputs, three outputs, on the training grid and on another."""
    grid = Grid((4, 3), location)
    model = DeepONet(2, 3, grid.shape, location=location, branch_channels=(), branch_layers=2, **SMALL).double()
    nn.init.normal_(model.bias)
    u = torch.randn(2, 2, *grid.shape, dtype=torch.float64)
    b = dense(model.branch, u.numpy().reshape(2, -1), last=False).reshape(2, 3, 5)
    for wanted in (grid, grid.refine(3)):
        points = np.stack([axis.ravel() for axis in np.meshgrid(wanted.axis(0), wanted.axis(1), indexing="ij")], 1)
        t = dense(model.trunk, features(points, location == "periodic", 2), last=True).reshape(-1, 3, 5)
        expected = np.zeros((2, 3, len(points)))
        for channel in range(3):
            expected[:, channel] = b[:, channel] @ t[:, channel].T + model.bias[channel].item()
        # A field of which the sensors see u: that of the grid itself, or one that has u there and anything between.
        given = u
        if wanted is not grid:
            given = torch.randn(2, 2, *wanted.shape, dtype=torch.float64)
            start = 1 if location == "cell" else 0
            given[..., start::3, start::3] = u
        found = model(given).detach().numpy()
        np.testing.assert_allclose(found.reshape(2, 3, -1), expected, rtol=0, atol=1e-12)
        assert expected.std() > 0.05


@pytest.mark.parametrize("location", ["node", "periodic"])
def test_convolutions_of_the_branch_leave_every_other_point(location):
    """Two of them on 7, or 8, sensors, entry by entry, then the dense layers."""
    n = 8 if location == "periodic" else 7
    model = DeepONet(1, 1, (n,), location=location, branch_channels=(2, 3), **SMALL).double()
    u = torch.randn(1, n, dtype=torch.float64)
    values = u.numpy()
    for layer in (layer for layer in model.branch if isinstance(layer, nn.Conv2d)):
        weight, bias = layer.weight.detach().numpy()[:, :, 0], layer.bias.detach().numpy()
        out = np.zeros((len(weight), (values.shape[1] + 1) // 2))
        for j in range(out.shape[1]):
            out[:, j] = bias
            for k in range(3):
                source = GHOSTS["circular" if location == "periodic" else "zeros"](2 * j + k - 1, values.shape[1])
                if source is not None:
                    out[:, j] += weight[:, :, k] @ values[:, source]
        values = np.tanh(out)
    b = dense(model.branch, values.reshape(1, -1), last=False)
    points = Grid((n,), location).axis(0).numpy()[:, None]
    t = dense(model.trunk, features(points, location == "periodic", 2), last=True)
    np.testing.assert_allclose(model(u[None])[0].detach().numpy(), b @ t.T, rtol=0, atol=1e-12)
    assert (b @ t.T).std() > 1e-3


@pytest.mark.parametrize("location", ["node", "cell"])
def test_between_points_sensors_see_linear_interpolation(location):
    """A field that is linear in x and y is the same on every grid; on cells up to the outermost half cell."""
    coarse = Grid((9, 12), location)
    model = DeepONet(1, 1, coarse.shape, location=location, **SMALL).double()

    def field(grid: Grid) -> torch.Tensor:
        x, y = grid.coordinates
        return (1 + 2 * x - 3 * y)[None, None]

    expected = model.branch(field(coarse))
    for shape in ((23, 40), (10, 31)):
        seen = []
        hook = model.branch.register_forward_hook(lambda _, given, out, seen=seen: seen.append((given[0], out)))
        model(field(Grid(shape, location)))
        hook.remove()
        ((given, out),) = seen
        torch.testing.assert_close(given, field(coarse), rtol=0, atol=1e-12)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_on_a_periodic_domain_the_output_is_periodic():
    """Its Fourier series converges exponentially, as that of no field does that jumps where a period closes."""
    tails = []
    for location in ("periodic", "node"):
        model = DeepONet(1, 1, (16,), location=location, **SMALL).double()
        spectrum = torch.fft.rfft(model(torch.randn(1, 1, 256, dtype=torch.float64))[0, 0]).abs()
        tails.append((spectrum[100:].max() / spectrum.max()).item())
    assert tails[0] < 1e-10 and tails[1] > 1e-5, tails


def test_outputs_have_functions_of_their_own():
    model = DeepONet(1, 2, (9,), **SMALL)
    (model(torch.randn(3, 1, 9))[:, 0]).square().sum().backward()
    for network in (model.branch, model.trunk):
        gradient = next(layer for layer in reversed(network) if isinstance(layer, nn.Linear)).weight.grad
        assert (gradient[:5] != 0).any() and (gradient[5:] == 0).all()
    assert model.bias.grad[0] != 0 and model.bias.grad[1] == 0


@pytest.mark.parametrize("size", [(9, 9), (12, 17)])
def test_outputs_are_exactly_zero_on_dirichlet_walls(size):
    model = DeepONet(1, 2, (12, 17), "dirichlet", **SMALL)
    out = model(torch.randn(2, 1, *size))
    assert (out[..., 1:-1, 1:-1] != 0).all()
    out[..., 1:-1, 1:-1] = 0
    assert (out == 0).all()
    for others in (dict(boundary="neumann"), dict(boundary="dirichlet", location="cell"), dict(boundary="open")):
        assert (DeepONet(1, 2, (12, 17), **others, **SMALL)(torch.randn(2, 1, *size)) != 0).all()
    free = DeepONet(1, 2, (12, 17), "dirichlet", zero_walls=False, **SMALL)
    assert (free(torch.randn(2, 1, *size)) != 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(shape=(16, 16, 16)), r"1 or 2 axes .*, got shape=\(16, 16, 16\)"),
        (dict(n_basis=0), "n_basis must be at least 1, got 0"),
        (dict(trunk_layers=-1), "trunk_layers must be at least 0, got -1"),
        (dict(branch_channels=(4, 0)), r"branch_channels needs a positive number .* got \(4, 0\)"),
        (dict(shape=(3, 9), boundary="neumann"), r"more convolutions than \(3, 9\) points can be halved"),
        (dict(harmonics=0, location="periodic"), "harmonics must be at least 1 on a periodic grid, got 0"),
        (dict(harmonics=-1), "harmonics must be at least 0 on a node grid, got -1"),
        (dict(location="nodes"), "location is one of node, cell, periodic, got 'nodes'"),
        (dict(activation="geluu"), "Did you mean 'gelu'"),
    ],
)
def test_bad_arguments_are_refused_in_words(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeepONet(1, 1, **(dict(shape=(16, 16)) | arguments))

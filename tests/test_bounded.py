"""Filters inside the unit circle and layers that lengthen no vector, against direct complex arithmetic."""

import copy

import pytest
import torch
from torch import nn

from opkit.models.bounded import EPS, SPEED, BoundedFilter, SpectrumNorm
from opkit.models.layers import BoundedPointwise, Pointwise


def random_filter(n_modes=(6, 6), channels=3, dynamic=False, bounded=True) -> BoundedFilter:
    torch.manual_seed(0)
    layer = BoundedFilter(channels, n_modes, dynamic, bounded, bias=False).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(3 * torch.randn_like(parameter))
    return layer.eval()


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("shape", [(16, 16), (11, 14), (4, 5)])
def test_no_field_grows(shape, dynamic):
    """Not even with filters near the unit circle and wide matrices; without the bounds it does."""
    u = torch.randn(2, 3, *shape, dtype=torch.float64)
    layer = random_filter(dynamic=dynamic)
    with torch.no_grad():
        layer.magnitude.fill_(30.0)  # the logistic function is one
    after = layer(u, shape, "fft").flatten(1).norm(dim=1)
    assert (after <= u.flatten(1).norm(dim=1) * (1 + 1e-12)).all()
    free = Pointwise(3, 3, bias=False).double()
    free.load_state_dict(layer.mix.state_dict())
    layer.mix = free
    assert (layer(u, shape, "fft").flatten(1).norm(dim=1) > after).all()


@pytest.mark.parametrize("spectral", ["fft", "dft"])
def test_the_filter_is_the_formula(spectral):
    """Mode by mode on a grid with every mode; those outside the disc of radius 3 are gone."""
    layer, n = random_filter(bounded=False), 16
    u = torch.randn(2, 3, n, n, dtype=torch.float64)
    spectrum = torch.fft.fft2(u)
    out = torch.zeros_like(spectrum)
    for k in range(-3, 3):
        for m in range(4):
            if k * k + m * m <= 9:
                factor = torch.sigmoid(SPEED * layer.magnitude[k + 3, m]) * torch.exp(
                    1j * SPEED * layer.phase[k + 3, m]
                )
                out[:, :, k % n, m] = (1 if m == 0 else 2) * factor[None] * spectrum[:, :, k % n, m]
    wanted = torch.einsum("oc,bcxy->boxy", layer.mix.weight, torch.fft.ifft2(out).real)
    torch.testing.assert_close(layer(u, (n, n), spectral), wanted, rtol=0, atol=1e-11)


def test_the_dynamic_filter_is_the_formula():
    layer, n = random_filter((7,), channels=2, dynamic=True, bounded=False), 12
    norm, gate = layer.gate.norm, layer.gate
    norm.mean.copy_(torch.randn_like(norm.mean))
    norm.std.copy_(1 + torch.rand_like(norm.std))
    u = torch.randn(3, 2, n, dtype=torch.float64)
    spectrum = torch.fft.rfft(u, norm="forward")[..., :4]  # (b, c, k)

    def c(v):
        return torch.view_as_complex(v.detach().contiguous())

    z = (spectrum - c(norm.mean)) / (norm.std + EPS) * c(norm.scale)[:, None] + c(norm.shift)[:, None]
    z = torch.einsum("bik,io->bok", z, c(gate.inner)) + c(gate.inner_bias)[:, None]
    z = torch.polar(nn.functional.gelu(z.abs() + gate.offset.detach()), z.angle())
    z = torch.einsum("bik,io->bok", z, c(gate.outer)) + c(gate.outer_bias)[:, None]
    factor = torch.polar(
        torch.sigmoid(z.abs() + SPEED * layer.magnitude.detach().T), z.angle() + SPEED * layer.phase.detach().T
    )
    out = torch.fft.irfft(nn.functional.pad(spectrum * factor, (0, n // 2 + 1 - 4)), n=n, norm="forward")
    wanted = torch.einsum("oc,bcx->box", layer.mix.weight.detach(), out)
    torch.testing.assert_close(layer(u, (n,), "fft").detach(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_is_the_same_map_on_finer_grids(dynamic):
    layer = random_filter(dynamic=dynamic)

    def wave(n):
        x = torch.arange(n, dtype=torch.float64) / n * 2 * torch.pi
        field = torch.cos(x[:, None] + 2 * x) + torch.sin(x)
        return torch.stack([field, 0.3 * field, field.square()])[None]

    coarse, fine = layer(wave(16), (16, 16), "fft"), layer(wave(48), (48, 48), "dft")
    torch.testing.assert_close(fine[..., ::3, ::3], coarse, rtol=0, atol=1e-10)


def test_running_statistics_are_those_of_the_spectrum():
    """Modes of mean 2 - i and of standard deviation 1.5 (half of its square each in real and imaginary part)."""
    norm = SpectrumNorm(4, (4,))
    draw = torch.Generator().manual_seed(0)
    deviation = 1.5 / 2**0.5
    for _ in range(200):
        z = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1) + deviation * torch.randn(2, 50, 4, 3, generator=draw)
        out = norm(z, [(0, 3)])
    assert out.mean((1, 2)).abs().max() < 1e-5
    assert out.square().sum(0).mean((0, 1)).sub(1).abs().max() < 1e-4
    assert norm.mean.sub(torch.tensor([2.0, -1.0])).abs().max() < 0.05
    assert norm.std.sub(1.5).abs().max() < 0.02
    before = copy.deepcopy(norm.state_dict())
    norm.eval()(z + 1, [(0, 3)])
    assert all(torch.equal(norm.state_dict()[k], v) for k, v in before.items())
    norm.train()(z[..., :2], [(0, 2)])  # a coarser grid: what it lacks keeps its statistics
    assert torch.equal(norm.std[2:], before["std"][2:]) and not torch.equal(norm.std[:2], before["std"][:2])


def test_only_matrices_that_lengthen_are_changed():
    layer = BoundedPointwise(3, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([4.0, -1.0, 0.5])))
    assert layer.matrix().diag().tolist() == pytest.approx([1.0, -0.25, 0.125])
    with torch.no_grad():
        layer.weight /= 8
    assert torch.equal(layer.matrix(), layer.weight)

"""What frames leave over when put into their equation: against closed forms, and falling with the square of dt."""

import dataclasses
import math

import pytest
import torch

from opkit import metrics
from opkit.grid import Grid
from opkit.pdes import Burgers, Darcy, NavierStokes
from opkit.pdes.periodic import derivative, multiplied, product, waves

pytestmark = pytest.mark.usefixtures("one_thread")

FLOW = NavierStokes(resolution=32, label_resolution=32, modes=3, viscosity=1e-2)
FLOWS = [
    FLOW,
    dataclasses.replace(FLOW, forcing="kolmogorov", drag=0.3, mean_velocity=(0.4, -0.2)),
    dataclasses.replace(FLOW, forcing="none", length=2.5, resolution=33, label_resolution=33),
    dataclasses.replace(FLOW, viscosity=(5e-3, 2e-2), forcing_amplitude=(0.05, 0.5)),
    Burgers(resolution=128, label_resolution=128, modes=8, viscosity=0.4, dt=1e-3, mean="keep"),
    Burgers(resolution=129, label_resolution=129, modes=8, viscosity=(0.3, 0.8), dt=1e-3, length=3.0),
]


def three(pde, dt, about=0.3):
    """Frames dt before, at and after a time of two solutions, and the parameters drawn for them."""
    inputs = pde.sample(2)
    states = dataclasses.replace(pde, times=(0, about - dt, about, about + dt)).solve(inputs)[:, 1:]
    before, now, after = states.unbind(1)
    return before, torch.cat([now, inputs[:, now.shape[1] :]], 1), after


@pytest.mark.parametrize("pde", FLOWS, ids=lambda p: f"{p.equation}-{FLOWS.index(p)}")
def test_a_solution_leaves_what_falls_with_the_square_of_the_time_between_frames(pde):
    sizes = []
    for dt in (0.02, 0.01, 0.005):
        residual, budget = pde.balance(*three(pde, dt), dt)
        sizes.append(torch.stack([metrics.hminus1_norm(residual, pde.grid), budget.abs()]))
    coarse, middle, fine = sizes
    for order in (torch.log2(coarse / middle), torch.log2(middle / fine)):
        assert ((order > 1.9) & (order < 2.1)).all(), order


@pytest.mark.parametrize("pde", [FLOWS[0], FLOWS[2], FLOWS[4]], ids=lambda p: f"{p.equation}-{FLOWS.index(p)}")
def test_a_tenth_more_viscosity_is_seen(pde):
    """The budget is then off by 1 - 1 / 1.1, and the residual by a tenth of the viscous term."""
    frames, dt = three(pde, 0.001), 0.001
    other = dataclasses.replace(pde, viscosity=1.1 * pde.viscosity)
    residual, budget = other.balance(*frames, dt)
    torch.testing.assert_close(budget, torch.full_like(budget, 1 - 1 / 1.1), rtol=1e-3, atol=0)
    axes, state = tuple(range(-pde.grid.ndim, 0)), frames[1][:, :1]
    square = sum(k**2 for k in waves(pde.grid))
    viscous = torch.fft.ifftn(-square * torch.fft.fftn(state, dim=axes), dim=axes).real
    torch.testing.assert_close(
        metrics.hminus1_norm(residual, pde.grid),
        0.1 * pde.viscosity * metrics.hminus1_norm(viscous, pde.grid),
        rtol=2e-2, atol=0,
    )  # fmt: skip


def test_a_decaying_vortex_leaves_the_error_of_the_central_difference():
    """w = cos kx cos ky exp(-s t), s = 2 nu k^2, whose advection vanishes: R = (sinh(s dt) / dt - s) w, and the budget
    is 1 - sinh(2 s dt) / (2 s dt)."""
    pde, dt = NavierStokes(resolution=16, label_resolution=16, modes=5, viscosity=0.02, forcing="none"), 0.3
    x, y = 2 * math.pi * pde.grid.coordinates
    w = (torch.cos(x) * torch.cos(y))[None, None]
    s = 2 * 0.02 * (2 * math.pi) ** 2
    residual, budget = pde.balance(w * math.exp(s * dt), w, w * math.exp(-s * dt), dt)
    torch.testing.assert_close(residual, (math.sinh(s * dt) / dt - s) * w, rtol=0, atol=1e-12)
    assert budget.item() == pytest.approx(1 - math.sinh(2 * s * dt) / (2 * s * dt), rel=1e-12)


def test_a_field_at_rest_leaves_forcing_advection_and_viscosity():
    """Frames that do not move, by hand: w = sin y' (x' = 2 pi x), u = cos y' / 2 pi, v = 0, forced by Kolmogorov's
    -A kappa cos(kappa y), kappa = 2 pi: R = f - nu (2 pi)^2 w; carried along by V: - V w_y = - 2 pi V cos y'."""
    pde = NavierStokes(
        resolution=12, label_resolution=12, modes=4, viscosity=0.01, forcing="kolmogorov", forcing_wavenumber=1,
        forcing_amplitude=0.3, mean_velocity=(0.0, 0.7), drag=0.2,
    )  # fmt: skip
    y = 2 * math.pi * pde.grid.coordinates[1]
    w = torch.sin(y)[None, None]
    residual, budget = pde.balance(w, w, w, 0.1)
    nu_k2 = 0.01 * (2 * math.pi) ** 2
    expected = -0.3 * 2 * math.pi * torch.cos(y) - 2 * math.pi * 0.7 * torch.cos(y) - (nu_k2 + 0.2) * torch.sin(y)
    torch.testing.assert_close(residual[0, 0], expected, rtol=0, atol=1e-12)
    # psi = w / (2 pi)^2 is orthogonal to f; E = Z / (2 pi)^2 = 1 / 4 / (2 pi)^2, 2 nu Z = nu / 2
    assert budget.item() == pytest.approx(1 + 0.2 / nu_k2, rel=1e-12)


def test_a_wave_at_rest_in_burgers():
    """u = sin x: R = -nu sin x - sin x cos x; nothing changes, so all of what is dissipated is missing."""
    pde = Burgers(resolution=9, label_resolution=9, modes=3, viscosity=0.3)
    x = pde.grid.coordinates[0]
    u = torch.sin(x)[None, None]
    residual, budget = pde.balance(u, u, u, 0.1)
    torch.testing.assert_close(residual[0, 0], -0.3 * torch.sin(x) - torch.sin(2 * x) / 2, rtol=0, atol=1e-12)
    assert budget.item() == pytest.approx(1)


@pytest.mark.parametrize("n", [8, 9])
def test_products_have_no_aliases(n):
    """cos 3x cos 4x = (cos x + cos 7x) / 2, whose second wave is another on so few points."""
    grid = Grid((n,), "periodic", 2 * math.pi)
    x = grid.coordinates[0]
    found = product(grid, (torch.cos(3 * x), torch.cos(4 * x)))
    torch.testing.assert_close(found, torch.cos(x) / 2, rtol=0, atol=1e-12)


def test_derivatives_of_a_wave():
    grid = Grid((8, 9), "periodic", (2.0, 3.0))
    x, y = math.pi * grid.coordinates[0], 2 * math.pi / 3 * grid.coordinates[1]
    wave = torch.sin(3 * x + 2 * y)
    torch.testing.assert_close(derivative(wave, grid, 0), 3 * math.pi * torch.cos(3 * x + 2 * y), rtol=0, atol=1e-11)
    torch.testing.assert_close(
        derivative(wave, grid, 1), 4 * math.pi / 3 * torch.cos(3 * x + 2 * y), rtol=0, atol=1e-11
    )
    square = sum(k**2 for k in waves(grid))
    size = (3 * math.pi) ** 2 + (4 * math.pi / 3) ** 2
    torch.testing.assert_close(multiplied(wave, grid, square), size * wave, rtol=0, atol=1e-10)
    assert derivative(torch.cos(4 * x), grid, 0).abs().max() < 1e-12  # the highest wave's slope is not seen


def test_what_equations_say_of_themselves():
    assert FLOW.falling == () and FLOWS[2].falling == ("energy", "enstrophy") and FLOWS[4].falling == ("energy",)
    a = torch.rand(2, 1, 5, 5) + 1
    assert (Darcy(resolution=5).energy_coefficient(a) == a).all()
    assert FLOW.energy_coefficient(a) is None

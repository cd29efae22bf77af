"""Responses to perturbations against closed forms, dense linear algebra, and a surrogate that is the exact solution."""

import dataclasses
import itertools
import json
import math
from copy import deepcopy

import numpy as np
import pytest
import torch

from opkit.errors import ConfigError, SolverError
from opkit.evaluation import perturbation
from opkit.evaluation.jacobian import (
    LEVELS,
    by_differences,
    draws_of,
    exact,
    finite_time_growth,
    gain_by_wavenumber,
    leading_in_span,
    leading_singular_value,
    low_waves,
    noise_sensitivity,
    norms_of_powers,
    random_phases_of,
    shifted,
    spectral_radius,
    symmetry_errors,
    worst_perturbation,
)
from opkit.evaluation.perturbation import measure_perturbation
from opkit.evaluation.perturbation_report import gain_picture, perturbation_text, transfer_picture
from opkit.grid import Grid
from opkit.metrics import mode_energy, norm
from opkit.models import FNO
from opkit.models.base import Operator
from opkit.normalize import Normalizer
from opkit.pdes import Burgers, Darcy, NavierStokes
from opkit.registry import Architecture
from opkit.settings import Stepping
from opkit.stepping import stepped, time_step
from opkit.surrogate import PhysicalOperator, Surrogate, residual_channels

CIRCLE, TORUS = Grid((32,), "periodic", 2 * math.pi), Grid((16, 12), "periodic")


def fields(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def wave_square(grid):
    """|k|^2 of every entry of the FFT, in waves per domain."""
    lines = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) for n in grid.shape]
    return sum(k**2 for k in torch.meshgrid(*lines, indexing="ij"))


def heat(grid, rate):
    """Every wave times exp(-rate |k|^2)."""
    axes = tuple(range(-grid.ndim, 0))
    decay = torch.exp(-rate * wave_square(grid))
    return lambda u: torch.fft.ifftn(torch.fft.fftn(u, dim=axes) * decay, dim=axes).real


def matrix_step(matrix):
    return lambda u: (u.flatten(1) @ matrix.mT).view_as(u)


def network(*shape):
    torch.manual_seed(3)
    net = FNO(1, 1, n_modes=(6,) * len(shape), width=4, n_layers=2, projection_width=8).double()
    return net.eval().requires_grad_(False)


def dense(step, state):
    """The Jacobian by reverse differentiation, one row at a time."""
    jacobian = torch.autograd.functional.jacobian(step, state)
    return jacobian.reshape(state.numel(), state.numel()).numpy()


@pytest.mark.parametrize("grid", [CIRCLE, TORUS])
def test_heat_without_its_mean_shrinks_by_its_slowest_wave(grid):
    step, axes = heat(grid, 0.3), tuple(range(-grid.ndim, 0))
    zero_mean = lambda u: step(u - u.mean(axes, keepdim=True))  # noqa: E731
    found = leading_singular_value(zero_mean, fields(3, 1, *grid.shape), 100, 1e-12)
    torch.testing.assert_close(found, torch.full((3,), math.exp(-0.3), dtype=torch.float64), rtol=1e-6, atol=0)
    growth = finite_time_growth(zero_mean, fields(2, 1, *grid.shape), 4, 0.5, iterations=50, tolerance=1e-12)
    torch.testing.assert_close(growth, torch.full((2,), -0.6, dtype=torch.float64), rtol=1e-6, atol=0)
    basis = low_waves(grid, 1, 8)
    inside = leading_in_span(step, fields(2, 1, *grid.shape), basis)
    expected = torch.full((2,), math.exp(-0.3), dtype=torch.float64)
    torch.testing.assert_close(inside, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("grid", [CIRCLE, TORUS])
def test_heat_damps_every_shell_at_its_own_rate(grid):
    """Waves of a shell have equal amplitudes: G^2 is the mean over them."""
    found = gain_by_wavenumber(heat(grid, 0.02), fields(2, 1, *grid.shape), grid, draws=2)
    square = wave_square(grid)
    shell = square.sqrt().long()
    assert found.shells == tuple(range(1, max(grid.shape) // 2 + 1))
    for i, kappa in enumerate(found.shells):
        exact = torch.exp(-0.04 * square[shell == kappa]).mean().sqrt().item()
        assert found.gain[:, i].tolist() == pytest.approx([exact] * 2, rel=1e-9)
        assert found.transfer[:, kappa, i].tolist() == pytest.approx([exact] * 2, rel=1e-9)
    torch.testing.assert_close(found.transfer.square().sum(1).sqrt(), found.gain, rtol=1e-12, atol=0)


def test_a_product_moves_waves_to_other_shells():
    """2 cos(3 x) u moves wave k to k - 3 and k + 3, with equal parts of its norm."""
    x = CIRCLE.coordinates[0]
    step = lambda u: 2 * torch.cos(3 * x) * u  # noqa: E731
    found = gain_by_wavenumber(step, fields(1, 1, 32), CIRCLE, shells=[5], draws=3)
    expected = torch.zeros(1, 17, 1, dtype=torch.float64)
    expected[0, [2, 8]] = 1.0
    torch.testing.assert_close(found.transfer, expected, rtol=0, atol=1e-12)
    assert found.gain.item() == pytest.approx(math.sqrt(2), rel=1e-12)
    with pytest.raises(ValueError, match="no wave of the grid"):
        gain_by_wavenumber(step, fields(1, 1, 32), CIRCLE, shells=[17])


@pytest.mark.parametrize("location", ["node", "cell"])
def test_sines_on_other_grids(location):
    """The exact heat step between cold walls, in two dimensions."""
    grid = Grid((9, 9), location)
    basis = low_waves(grid, 1, 7)
    gram = basis.flatten(1) @ basis.flatten(1).mT
    torch.testing.assert_close(gram, torch.eye(7, dtype=torch.float64), rtol=0, atol=1e-12)
    found = gain_by_wavenumber(lambda u: 3 * u, fields(1, 2, 9, 9), grid, draws=2)
    torch.testing.assert_close(found.gain, torch.full_like(found.gain, 3.0), rtol=1e-12, atol=0)
    for i, kappa in enumerate(found.shells):
        assert found.transfer[0, kappa, i].item() == pytest.approx(3, rel=1e-12)


@pytest.mark.parametrize("shape", [(12,), (8, 10)])
def test_singular_and_eigen_values_are_those_of_the_dense_jacobian(shape):
    net, states = network(*shape), fields(3, 1, *shape)
    jacobians = [dense(net, u[None]) for u in states]
    largest = [np.linalg.norm(j, 2) for j in jacobians]
    assert leading_singular_value(net, states, 100, 1e-12).tolist() == pytest.approx(largest, rel=1e-9)
    found = leading_singular_value(net, states).tolist()
    assert found == pytest.approx(largest, rel=1e-3) and all(
        f <= t * (1 + 1e-12) for f, t in zip(found, largest, strict=True)
    )
    powers = [[np.linalg.norm(np.linalg.matrix_power(j, m), 2) for m in (1, 3)] for j in jacobians]
    np.testing.assert_allclose(norms_of_powers(net, states, (1, 3), 100, 1e-12), powers, rtol=1e-9)
    radius = max(abs(np.linalg.eigvals(jacobians[0])))
    assert spectral_radius(net, states[:1]) == pytest.approx(radius, rel=1e-4)
    basis = low_waves(Grid(shape, "periodic"), 1, 6)
    inside = [np.linalg.norm(j @ basis.flatten(1).numpy().T, 2) for j in jacobians]
    assert leading_in_span(net, states, basis).tolist() == pytest.approx(inside, rel=1e-10)


class Tangled(torch.autograd.Function):
    """u -> u sin u, without a forward derivative."""

    @staticmethod
    def forward(u):
        return u * u.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        u = ctx.saved_tensors[0]
        return gradient * (u.sin() + u * u.cos())


def test_a_layer_without_a_forward_derivative_has_products_all_the_same():
    net, u, v = network(12), fields(2, 1, 12), fields(2, 1, 12)
    expected = [
        dense(lambda w: net(w) * net(w).sin(), a[None]) @ b.flatten().numpy() for a, b in zip(u, v, strict=True)
    ]
    found = exact(lambda w: Tangled.apply(net(w)), u).times(v[:, None])
    np.testing.assert_allclose(found.flatten(1), np.stack(expected), rtol=1e-9, atol=1e-12)


def test_attention_has_products_too():
    """Fast kernels of softmax attention have no derivative of their derivative."""
    q = fields(1, 1, 6, 4)

    def attention(u):
        x = u[:, :, None] * q
        return torch.nn.functional.scaled_dot_product_attention(x, x, x).mean(2)[:, :1]

    u, v = fields(1, 1, 4), fields(1, 1, 1, 4)
    expected = dense(attention, u) @ v.flatten().numpy()
    np.testing.assert_allclose(exact(attention, u).times(v).flatten(), expected, rtol=1e-9)


@pytest.mark.parametrize("together", [False, True])
def test_products_with_the_jacobian_and_its_transpose(together, monkeypatch):
    """Several directions, in parts, each at its own state."""
    monkeypatch.setattr("opkit.evaluation.jacobian.POINTS", 48)
    net, u, v, w = network(12), fields(2, 1, 12), fields(2, 5, 1, 12), fields(2, 1, 12)
    jacobian = exact(net, u, together)
    expected = np.stack([b.flatten(1).numpy() @ dense(net, a[None]).T for a, b in zip(u, v, strict=True)])
    np.testing.assert_allclose(jacobian.times(v).flatten(2), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(by_differences(net, u).times(v).flatten(2), expected, rtol=1e-6, atol=1e-8)
    expected = np.stack([dense(net, a[None]).T @ b.flatten().numpy() for a, b in zip(u, w, strict=True)])
    np.testing.assert_allclose(jacobian.transposed(w).flatten(1), expected, rtol=1e-9, atol=1e-12)


def test_growth_over_steps_is_that_of_the_product_of_jacobians():
    net, states = network(12), fields(2, 1, 12)
    expected = []
    for u in states:
        product = np.eye(12)
        for _ in range(3):
            product = dense(net, u[None]) @ product
            u = net(u[None])[0]
        expected.append(math.log(np.linalg.norm(product, 2)) / (3 * 0.25))
    found = finite_time_growth(net, states, 3, 0.25, iterations=50, tolerance=1e-12)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_a_map_that_is_not_normal_grows_before_it_decays():
    matrix = torch.tensor([[0.5, 10.0], [0.0, 0.5]], dtype=torch.float64)
    step, state = matrix_step(matrix), fields(1, 1, 2)
    sigma = math.sqrt((100.5 + math.sqrt(100.5**2 - 4 * 0.0625)) / 2)  # of A^T A: trace 100.5, determinant 1 / 16
    assert leading_singular_value(step, state).item() == pytest.approx(sigma, rel=1e-6)
    assert spectral_radius(step, state) == pytest.approx(0.5, rel=1e-6)
    found = worst_perturbation(step, state, 0.1)
    assert found.growth.item() == pytest.approx(sigma, rel=1e-6)
    assert norm(found.perturbation).item() == pytest.approx(0.1 * norm(state).item(), rel=1e-12)
    assert found.random.item() < found.growth.item()


@pytest.mark.parametrize("a", [0.5, 0.9])
def test_powers_of_a_jordan_block(a):
    """J = [[a, 1], [0, a]]: J^m = a^m [[1, m / a], [0, 1]], whose norm is the root of a quadratic."""
    matrix = torch.tensor([[a, 1.0], [0.0, a]], dtype=torch.float64)
    trace = [2 + (m / a) ** 2 for m in (1, 2, 4, 8)]  # of the square, whose determinant is 1
    expected = [a**m * math.sqrt((t + math.sqrt(t**2 - 4)) / 2) for m, t in zip((1, 2, 4, 8), trace, strict=True)]
    found = norms_of_powers(matrix_step(matrix), fields(2, 1, 2), (1, 2, 4, 8))
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-9)
    if a == 0.9:
        assert found[0, 3] > found[0, 0] > 1  # though both eigenvalues are below 1


def test_a_large_map_needs_few_products():
    """Singular values 1, 0.99, 0.98, ...: power iteration would need hundreds."""
    n, count = 100, 0
    left, right = (torch.linalg.qr(fields(n, n))[0] for _ in range(2))
    matrix = left @ torch.diag(torch.linspace(1, 0.01, n, dtype=torch.float64)) @ right

    def step(u):
        nonlocal count
        count += 1
        return matrix_step(matrix)(u)

    assert leading_singular_value(step, fields(1, 1, n)).item() == pytest.approx(1, rel=2e-3)
    assert leading_singular_value(step, fields(1, 1, n), 60, 0.0).item() == pytest.approx(1, rel=1e-9)
    assert count == 2  # the products are with a graph once recorded


def test_the_best_perturbation_met_is_kept():
    """Steps so long that they overshoot: the change goes up and down, what is kept does not go down."""
    step, state = lambda u: torch.sin(5 * u), fields(4, 1, 16)
    found = [worst_perturbation(step, state, 0.5, iterations) for iterations in range(6)]
    for earlier, later in itertools.pairwise(found):
        assert (later.growth >= earlier.growth).all()
    change = norm(step(state + found[-1].perturbation) - step(state)) / norm(found[-1].perturbation)
    torch.testing.assert_close(found[-1].growth, change, rtol=1e-12, atol=0)
    assert (found[-1].growth > found[-1].random).all()


@pytest.mark.parametrize("n", [8, 120])
def test_a_complex_pair_of_eigenvalues_is_found(n):
    """A rotation by one radian that shrinks by 0.9, beside n - 2 directions that shrink more; by both methods."""
    matrix = torch.diag(torch.linspace(0.1, 0.8, n, dtype=torch.float64))
    matrix[:2, :2] = 0.9 * torch.tensor([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]])
    basis = torch.linalg.qr(fields(n, n))[0]
    step = matrix_step(basis @ matrix @ basis.mT)
    assert spectral_radius(step, fields(1, 1, n)) == pytest.approx(0.9, rel=1e-6)
    assert spectral_radius(step, fields(1, 1, n), by_differences) == pytest.approx(0.9, rel=1e-5)


def test_what_is_not_finite_is_not_a_number():
    assert math.isnan(spectral_radius(lambda u: u / 0, fields(1, 1, 120)))
    assert math.isnan(spectral_radius(lambda u: u / 0, fields(1, 1, 6)))
    assert leading_in_span(lambda u: u / 0, fields(1, 1, 32), low_waves(CIRCLE, 1, 2)).isnan().all()
    assert not leading_singular_value(lambda u: u / 0, fields(1, 1, 8)).isfinite().any()


@pytest.mark.parametrize(
    ("grid", "shells", "expected"),
    [
        (Grid((64, 64), "periodic"), [0, 1, 2, 3, 20], [1, 8, 4, 4, 2]),  # of 1, 8, 16, 20 and 120 or more waves
        (Grid((16,), "periodic"), [0, 1, 7, 8], [1, 8, 8, 1]),
    ],
)
def test_a_shell_of_many_waves_needs_few_fields(grid, shells, expected):
    assert draws_of(grid, shells, 8) == expected


def test_products_of_a_linear_solver_are_its_exact_propagator():
    """A state so weak that Navier-Stokes only diffuses: wave k decays by exp(-nu k^2 t)."""
    pde = NavierStokes(resolution=24, viscosity=0.01, times=(0, 0.5), forcing="none", modes=5, label_resolution=24)
    state = 1e-9 * pde.sample(2)
    direction = random_phases_of(pde.sample(2, seed=1), pde.grid)  # within the waves that the solver carries
    expected = heat(pde.grid, 0.01 * 0.5 * 4 * math.pi**2)(direction)
    for linearise, error in ((by_differences, 1e-7), (exact, 1e-9)):
        found = linearise(lambda u: pde.solve(u)[:, 1], state).times(direction[:, None])[:, 0]
        torch.testing.assert_close(found, expected, rtol=0, atol=error * float(expected.abs().max()))


@pytest.mark.parametrize(
    "pde",
    [
        Burgers(resolution=64, viscosity=0.2, times=(0, 0.2), modes=8, dt=5e-3, unresolved="accept"),
        NavierStokes(resolution=24, viscosity=0.01, times=(0, 0.5), forcing="none", modes=5, label_resolution=24),
    ],
)
def test_products_of_a_solver_obey_what_translation_invariance_demands(pde):
    """G(u(. + s)) = G(u)(. + s), so that J u_x = G(u)_x, however nonlinear G is."""

    def slope(u):
        k = torch.fft.fftfreq(u.shape[2], 1 / u.shape[2], dtype=torch.float64) * (2 * math.pi / pde.grid.lengths[0])
        k = k.view(-1, *(1 for _ in u.shape[3:]))
        return torch.fft.ifft(1j * k * torch.fft.fft(u, dim=2), dim=2).real

    step = lambda u: pde.solve(u)[:, 1]  # noqa: E731
    state = 10 * pde.sample(2)
    state = state if pde.grid.ndim == 2 else state / state.std()
    expected = slope(step(state))
    decayed = heat(pde.grid, 0)(slope(state))
    assert norm(expected - decayed).min() > 0.05 * norm(expected).max()  # much happened
    for linearise in (by_differences, exact):
        found = linearise(step, state).times(slope(state)[:, None])[:, 0]
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))
    weights = fields(*state.shape)  # <w, J v> = <J^T w, v>
    back = exact(step, state).transposed(weights)
    torch.testing.assert_close((back * slope(state)).sum(), (weights * expected).sum(), rtol=1e-5, atol=0)


def test_a_filter_commutes_with_every_shift_and_positions_do_not():
    states = fields(2, 1, *TORUS.shape)
    smooth = heat(TORUS, 0.1)
    assert max(float(e.max()) for e in symmetry_errors(smooth, states, TORUS, 2).values()) < 1e-12
    moves = symmetry_errors(smooth, states, TORUS)
    assert set(moves) == {f"{d}, {c} cells" for d in ("x", "y", "x + y", "x - y") for c in ("0.5", "4")}
    x = TORUS.coordinates[0]
    here = symmetry_errors(lambda u: u * torch.cos(2 * math.pi * x), states, TORUS)
    assert here["y, 0.5 cells"].max() < 0.5 and here["y, 4 cells"].max() < 1e-12
    expected = []
    for u in states:  # shifting by 4 of 16 cells turns the cosine by a quarter
        moved = u.roll(4, 1)
        expected.append(float((moved * (torch.cos(2 * math.pi * x) - torch.sin(2 * math.pi * x))).norm()))
        expected[-1] /= float((u * torch.cos(2 * math.pi * x)).norm())
    assert here["x, 4 cells"].tolist() == pytest.approx(expected, rel=1e-12)


def test_aliasing_shows_at_half_a_cell_alone():
    """The square of wave 7 on 16 points is wave 14, which looks like wave 2: it moves as a wave 2 should not."""
    grid = Grid((16,), "periodic", 2 * math.pi)
    state = torch.cos(7 * grid.coordinates[0])[None, None]
    errors = symmetry_errors(lambda u: u**2, state, grid)
    # (1 + cos 14 x) / 2: moved by h / 2, the wave turns by 7 pi / 8; taken for a wave 2, by pi / 8 the other way.
    expected = abs(np.exp(7j * math.pi / 8) - np.exp(-1j * math.pi / 8)) / 2 / math.sqrt(2) / math.sqrt(3 / 8)
    assert errors["x, 5 cells"].item() < 1e-12
    assert errors["x, 0.5 cells"].item() == pytest.approx(expected, rel=1e-9)


def test_reflections_and_exchange():
    grid = Grid((5, 5))
    states = fields(1, 1, 5, 5)
    x = grid.coordinates[0]
    assert set(symmetry_errors(lambda u: u, states, grid, 3)) == {
        "reflection of x", "reflection of y", "exchange of x and y"
    }  # fmt: skip
    errors = symmetry_errors(lambda u: u * x, states, grid, 3)
    assert errors["reflection of y"].item() < 1e-12
    assert errors["reflection of x"].item() > 0.1 and errors["exchange of x and y"].item() > 0.1


@pytest.mark.parametrize("n", [15, 16])
def test_a_shift_moves_the_series(n):
    grid = Grid((n, 3), "periodic", 2 * math.pi)
    wave = lambda s: torch.cos(5 * (grid.coordinates[0] - s) + 1)[None, None]  # noqa: E731
    h = grid.spacing[0]
    torch.testing.assert_close(shifted(wave(0), grid, (0.5, 0)), wave(0.5 * h), rtol=0, atol=1e-12)
    torch.testing.assert_close(shifted(wave(0), grid, (-3, 0)), wave(-3 * h), rtol=0, atol=1e-12)


def test_noise_through_linear_and_quadratic_maps():
    states = fields(3, 1, 32)
    for kind, found in noise_sensitivity(lambda u: -2 * u, states, LEVELS, CIRCLE).items():
        torch.testing.assert_close(found.growth, torch.full((3, 4), 2.0, dtype=torch.float64), rtol=1e-9, atol=0)
        torch.testing.assert_close(found.slope, torch.ones(3, dtype=torch.float64), rtol=1e-9, atol=0)
        assert kind in ("white", "low")
    twice = states.repeat_interleave(4, 0)  # every state stands once per draw

    def square(u):
        return (u - (states if len(u) == 3 else twice)) ** 2

    for found in noise_sensitivity(square, states, LEVELS, CIRCLE).values():
        torch.testing.assert_close(found.slope, torch.full((3,), 2.0, dtype=torch.float64), rtol=1e-6, atol=0)
    low = noise_sensitivity(heat(CIRCLE, 1e3), states, LEVELS, CIRCLE)["low"]
    assert low.growth.max() < 1e-9  # without a mean, which alone would be left
    kept = lambda u: heat(CIRCLE, 0)(u) - heat(CIRCLE, 0)(u)  # noqa: E731
    assert not torch.isfinite(noise_sensitivity(kept, states, LEVELS, CIRCLE)["white"].slope).any()
    with pytest.raises(ValueError, match="at least two positive levels"):
        noise_sensitivity(square, states, [0.1], CIRCLE)


@pytest.mark.parametrize("grid", [CIRCLE, TORUS, Grid((9,)), Grid((8, 9), "node")])
def test_phases_drawn_anew_keep_the_spectrum(grid):
    values = fields(2, 2, *grid.shape)
    if grid.location == "node":
        values = values * (grid.weights == grid.weights.max())  # zero on the walls
    drawn = random_phases_of(values, grid, seed=5)
    assert norm(drawn - values).min() > 0.5 * norm(values).max()
    for c in range(2):
        pair = [mode_energy(v[:, c : c + 1], grid) for v in (drawn, values)]
        torch.testing.assert_close(*pair, rtol=1e-9, atol=1e-14)


WEAK = Burgers(
    resolution=32, label_resolution=96, modes=10, sigma=1e-8, viscosity=0.2, times=tuple(0.1 * i for i in range(13)),
    unresolved="accept", dt=0.02,
)  # fmt: skip
"""So weak that it only diffuses: wave k decays by exp(-0.02 k^2) in a step."""


class Diffusion(Operator):
    """The exact solution of `WEAK`, for any way of stepping, as if it had been learned; `extra` multiplies waves from
    `start` on."""

    def __init__(self, stepping, viscosity=0.2, extra=1.0, start=6):
        super().__init__()
        self.stepping, self.viscosity, self.extra, self.start = stepping, viscosity, extra, start
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, u):
        last = u[:, self.stepping.history - 1]
        viscosity = self.viscosity if self.viscosity is not None else u[:, -1, :1]
        k = torch.arange(u.shape[-1] // 2 + 1, dtype=torch.float64)
        decay = torch.exp(-0.1 * viscosity * k**2) * torch.where(k >= self.start, self.extra, 1.0)
        frames = []
        for j in range(1, self.stepping.bundle + 1):
            frames.append(torch.fft.irfft(torch.fft.rfft(last) * decay**j, n=u.shape[-1]))
            if self.stepping.target == "residual":
                frames[-1] = frames[-1] - last
        return torch.stack(frames, 1)


def surrogate_of(operator, pde, stepping):
    spec = stepped(pde.spec, stepping, pde.times)
    plain = [Normalizer(torch.zeros(len(c)), torch.ones(len(c))) for c in (spec.inputs, spec.outputs)]
    physics = {"pde": pde.equation, "time_step": time_step(pde.times)}
    model = PhysicalOperator(operator, *plain, residual_channels(spec, stepping))
    return Surrogate(model, Architecture("fno"), spec, physics, stepping=stepping)


def trajectories(pde, n=3):
    a = pde.sample(n)
    frames = pde.solve(a)
    constants = a[:, None, len(pde.outputs) :].expand(-1, frames.shape[1], *a[:, len(pde.outputs) :].shape[1:])
    return torch.cat([frames, constants], 2)


@pytest.fixture
def small(monkeypatch):
    """A full measurement, of little."""
    monkeypatch.setattr(perturbation, "FULL", perturbation.Effort(4, 2, 2, 1, 5, 4, 2, 3, True))


def measured(operator, pde, stepping, own=None, quick=True):
    truth = trajectories(pde)
    return measure_perturbation(
        surrogate_of(operator, pde, stepping), pde, truth, truth if own is None else own, 1, quick=quick
    )


@pytest.mark.parametrize(
    ("history", "bundle", "target"),
    [(1, 1, "absolute"), (1, 2, "residual"), (2, 1, "residual"), (3, 2, "absolute")],
)
def test_the_exact_solution_responds_as_the_solver_does(history, bundle, target):
    stepping = Stepping(history, bundle, target)
    found = measured(Diffusion(stepping), WEAK, stepping)
    calls = -(-history // bundle)
    assert (found.frames, found.time) == (calls * bundle, pytest.approx(0.1 * calls * bundle))
    # Only the last frame given counts, and the last `history` frames are what becomes of it.
    after = range(found.frames - history + 1, found.frames + 1)
    expected = math.sqrt(sum(math.exp(-0.02 * j) ** 2 for j in after))
    assert found.places == {f"{n}x": {"step": n, "taken": [n]} for n in (1, 5, 10)}
    for responses in (found.true, *found.own.values()):
        for response in responses.values():
            assert response.low_singular_value == pytest.approx([expected], rel=1e-5)
            assert response.growth == pytest.approx([math.log(response.singular_value[0]) / found.time])
        assert responses["solver"].worst == pytest.approx(responses["surrogate"].worst, rel=1e-4)
        assert responses["surrogate"].gain == pytest.approx(responses["solver"].gain, rel=0.3 if history > 1 else 1e-5)
    if history == 1:
        gains = [math.exp(-0.02 * k**2 * found.frames) for k in found.shells]
        assert found.true["solver"].gain == pytest.approx(gains, rel=1e-5, abs=1e-9)
        assert found.true["surrogate"].noise_slope["white"] == pytest.approx(1, rel=1e-6)
    assert set(found.symmetries) == {"x, 0.5 cells", "x, 9 cells"}


@pytest.mark.usefixtures("small")
def test_every_state_keeps_its_own_constants():
    pde = dataclasses.replace(WEAK, viscosity=(0.1, 2.0))
    found = measured(Diffusion(Stepping(), viscosity=None), pde, Stepping(), quick=False)
    truth = trajectories(pde)
    viscosities = {math.exp(-0.1 * nu) for nu in truth[:, 0, 1, 0].tolist()}
    for response in found.true.values():
        assert len(response.low_singular_value) == 4
        assert {min(viscosities, key=lambda v: abs(v - s)) for s in response.low_singular_value} == viscosities
    low, solver = found.true["surrogate"], found.true["solver"]
    assert low.low_singular_value == pytest.approx(solver.low_singular_value, rel=1e-5)
    assert found.solver_products == "exact" and set(solver.reasons) == {"random"} and not low.reasons
    for response in (low, solver):  # of the mean
        assert response.radius == pytest.approx(1, rel=1e-5)
        assert response.singular_value == pytest.approx([1] * 4, rel=1e-3)
        assert response.growth == pytest.approx([0] * 4, abs=1e-2)
        assert response.powers == pytest.approx([1] * len(found.powers), rel=1e-3)
        assert response.non_normality == pytest.approx(1, rel=1e-3)
    assert low.worst == pytest.approx(solver.worst, rel=1e-5)
    assert all(w > r for w, r in zip(low.worst, low.random, strict=True))
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert "is multiplied by up to" in perturbation_text(record)


def test_a_symmetry_is_judged_by_the_states_it_is_kept_to_least_on():
    """Of a true state and of its own after 1, 5 and 10 steps the latter are further off; only all are round-off."""
    record = measured(Diffusion(Stepping()), WEAK, Stepping()).record()
    moves = record["symmetries"]
    assert "It keeps, to round-off, to every move tried" in perturbation_text(record)
    assert "equation as it is (4 states)." in perturbation_text(record)
    record["own"]["10x"] = deepcopy(record["own"]["10x"])
    record["own"]["10x"]["surrogate"]["symmetry"][moves[0]] = 0.019
    record["true"]["surrogate"]["symmetry"][moves[0]] = 0.001
    text = perturbation_text(record)
    assert "to every move" not in text and f"a shift along {moves[0].replace(', ', ' by ')}: it is off by 1.90%" in text
    assert "1.90% on 1 of its own after 10 steps (solver round-off)" in text
    lost = deepcopy(record)
    lost["own"]["10x"]["surrogate"]["symmetry"] = None
    assert "0.100% on 1 true state (solver round-off)" in perturbation_text(lost)
    lost["true"]["surrogate"]["symmetry"][moves[0]] = 0.0
    assert "equation as it is (3 states)." in perturbation_text(lost)


def test_a_line_says_on_how_many_states():
    record = measured(Diffusion(Stepping()), WEAK, Stepping()).record()
    assert record["states"] == {"true": 1, "1x": 1, "5x": 1, "10x": 1}
    record["states"] |= {"true": 4, "10x": 2}
    text = perturbation_text(record)
    assert " on 4 true states (solver" in text and " on 1 of its own after 1 step (" in text
    assert " on 1 of its own after 5 steps (solver" in text and " on 2 of its own after 10 steps (solver" in text
    assert "none that the solver does not (8 states)" in text


def test_a_solver_without_derivatives_is_taken_by_differences(monkeypatch):
    """One that leaves torch, one that loses its derivative on the way, one of which nobody knows how long its steps."""
    solve = Burgers._solve

    def through_numpy(self, inputs):
        solution, figures = solve(self, torch.from_numpy(inputs.numpy()))
        return solution, figures

    def detached(self, inputs):
        solution, figures = solve(self, inputs.detach())
        return solution + 0 * inputs[:, None], figures

    def silent(self, inputs):
        return solve(self, inputs)[0], {}

    for other in (through_numpy, detached, silent):
        monkeypatch.setattr(Burgers, "_solve", other)
        found = measured(Diffusion(Stepping()), WEAK, Stepping())
        solver = found.true["solver"]
        assert found.solver_products == "central differences" and solver.singular_value is None
        assert solver.reasons["singular_value"] == solver.reasons["growth"]
        assert solver.low_singular_value == pytest.approx(found.true["surrogate"].low_singular_value, rel=1e-5)
        assert solver.gain == pytest.approx(found.true["surrogate"].gain, rel=1e-5, abs=1e-9)


def test_memory_bounds_what_is_differentiated_at_once(monkeypatch):
    """2 time steps of 96 points for a step: one state at a time, and not two such steps in a row; then none at all."""
    monkeypatch.setattr(perturbation, "FULL", perturbation.Effort(2, 1, 1, 1, 3, 2, 2, 2, False))
    expected = measured(Diffusion(Stepping()), WEAK, Stepping(), quick=False).true["solver"]
    monkeypatch.setattr(perturbation, "POINT_STEPS", 2 * 96)
    found = measured(Diffusion(Stepping()), WEAK, Stepping(), quick=False).true["solver"]
    assert found.singular_value == pytest.approx(expected.singular_value, rel=1e-6)
    assert found.gain == pytest.approx(expected.gain, rel=1e-9, abs=1e-15)
    assert found.growth is None and "memory" in found.reasons["growth"]
    monkeypatch.setattr(perturbation, "POINT_STEPS", 95)
    assert measured(Diffusion(Stepping()), WEAK, Stepping()).solver_products == "central differences"


def test_what_does_not_fit_the_time_is_left_out_and_said(monkeypatch):
    surrogate, truth = surrogate_of(Diffusion(Stepping()), WEAK, Stepping()), trajectories(WEAK)
    found = measure_perturbation(surrogate, WEAK, truth, truth, 1, quick=True, budget=0.0).true["surrogate"]
    assert found.gain is None and found.singular_value is None
    assert set(found.reasons) >= {"gain", "low_singular_value", "noise", "symmetry", "worst", "singular_value"}
    assert "does not fit the time" in found.reasons["gain"]


def test_waves_that_only_the_surrogate_amplifies_are_named():
    found = measured(Diffusion(Stepping(), extra=100.0), WEAK, Stepping()).record()
    text = perturbation_text(found)
    wrong = [k for k in found["shells"] if k >= 6 and 100 * math.exp(-0.02 * k**2) > 1]
    assert len(wrong) == 2
    decay = math.exp(-0.02 * wrong[0] ** 2)
    words = f"on 1 true state {len(wrong)} of the wavenumbers {wrong[0]} to {wrong[-1]}, {wrong[0]} by a factor of "
    assert f"{words}{100 * decay:.3g} (solver {decay:.3g})" in text
    for pair in (found["true"], *found["own"].values()):
        pair["solver"]["gain"] = pair["surrogate"]["gain"]
    assert "it amplifies none that the solver does not" in perturbation_text(found)
    assert "amplifies none" in perturbation_text(measured(Diffusion(Stepping()), WEAK, Stepping()).record())
    for picture in (gain_picture(found), transfer_picture(found)):
        assert picture.png.startswith(b"\x89PNG")


@pytest.mark.usefixtures("small")
def test_states_are_those_of_their_steps_or_the_last_finite_ones():
    """A surrogate whose response is its state: at step s of the second trajectory, s + 20."""

    class Telling(Diffusion):
        def forward(self, u):
            return u[:, :1].mean(-1, keepdim=True).detach() * u[:, :1]

    own = torch.stack([torch.arange(13.0) + 10 * n for n in range(3)])[:, :, None, None].expand(3, 13, 1, 32).double()
    truth = own[:, :3]
    own = own.clone()
    own[0] = math.nan
    own[1, 4:] = math.nan
    surrogate = surrogate_of(Telling(Stepping()), WEAK, Stepping())
    found = measure_perturbation(surrogate, WEAK, truth, own, 1)
    assert found.states == {"true": 4, "1x": 2, "5x": 2, "10x": 2}
    taken = {name: place["taken"] for name, place in found.places.items()}
    assert taken == {"1x": [1, 1], "5x": [3, 5], "10x": [3, 10]}
    for name, steps in taken.items():
        expected = [steps[0] + 10, steps[1] + 20]
        assert found.own[name]["surrogate"].low_singular_value == pytest.approx(expected, rel=1e-9)
    assert found.skipped == {"true": [0, 9], "own": [22, 39]}
    text = perturbation_text(found.record())
    assert "22 of its own 39 states are not finite" in text and "its last finite state was taken, after 3 steps" in text
    history = Stepping(history=2)
    assert measured(Diffusion(history), WEAK, history, own).skipped["own"] == [21, 36]


def test_trajectories_that_end_at_once():
    own = trajectories(WEAK)
    own[:, 2:] = math.nan
    found = measured(Diffusion(Stepping()), WEAK, Stepping(), own)
    assert {place["taken"][0] for place in found.places.values()} == {1}
    assert all(found.own["10x"][who] is found.own["1x"][who] for who in ("surrogate", "solver"))  # not taken twice
    lost = measured(Diffusion(Stepping()), WEAK, Stepping(), torch.full_like(own, math.nan))
    assert lost.own == {} and lost.skipped["own"] == [39, 39] and lost.states["10x"] == 0
    record = json.loads(json.dumps(lost.record(), allow_nan=False))
    assert "39 of its own 39" in perturbation_text(record)
    for picture in (gain_picture(record), transfer_picture(record)):
        assert picture.png.startswith(b"\x89PNG")


def test_a_figure_that_cannot_be_had_says_why(monkeypatch):
    class Explosive(Diffusion):
        def forward(self, u):
            return 1e200 * u * u

    def refuse(self, inputs):
        raise SolverError("blew up")

    found = measured(Explosive(Stepping()), dataclasses.replace(WEAK, sigma=1.0), Stepping())
    record = found.record()
    json.dumps(record, allow_nan=False)
    for name, value in record["true"]["surrogate"].items():
        assert value is not None or record["true"]["surrogate"]["reasons"][name]
    assert record["true"]["surrogate"]["low_singular_value"] == [None]
    assert "not finite in 1 of 1" in record["true"]["surrogate"]["reasons"]["low_singular_value"]
    monkeypatch.setattr(Burgers, "_solve", refuse)
    truth = torch.randn(1, 11, 1, 32, dtype=torch.float64)
    surrogate = surrogate_of(Diffusion(Stepping()), WEAK, Stepping())
    lost = measure_perturbation(surrogate, WEAK, truth, truth, 1, quick=True)
    solver = lost.true["solver"]
    assert solver.gain is None and solver.reasons["gain"] == "blew up" and lost.symmetries == []
    assert "solver unknown" in perturbation_text(lost.record())


def test_what_is_asked_for_must_make_sense():
    surrogate = surrogate_of(Diffusion(Stepping()), WEAK, Stepping())
    good = trajectories(WEAK)
    with pytest.raises(ConfigError, match="darcy is steady"):
        measure_perturbation(surrogate, Darcy(resolution=9), good, good, 1)
    with pytest.raises(ValueError, match=r"own must be trajectories \(n, t, 1, 32\)"):
        measure_perturbation(surrogate, WEAK, good, good[..., :16], 1)
    with pytest.raises(ValueError, match=r"own must be .* with t >= 21"):
        measure_perturbation(surrogate, WEAK, good, good, 2)
    with pytest.raises(ValueError, match="truth: none of its 39 windows"):
        measure_perturbation(surrogate, WEAK, good * math.nan, good, 1)


def test_forced_turbulence_is_not_said_to_be_invariant():
    """sin 2 pi (x + y) moves with x and with y, but not along x - y."""
    pde = NavierStokes(
        resolution=16, label_resolution=16, modes=5, viscosity=0.01, times=tuple(0.2 * i for i in range(11))
    )
    torch.manual_seed(0)
    net = FNO(1, 1, n_modes=(6, 6), width=4, n_layers=1, projection_width=8, coordinates=False)
    found = measured(net, pde, Stepping())
    assert found.symmetries == ["x - y, 0.5 cells", "x - y, 5 cells"]
    assert found.true["surrogate"].symmetry["x, 5 cells"] < 1e-9  # the network knows no positions
    assert found.true["solver"].symmetry["x, 5 cells"] > 1e-4
    assert all(v is not None for v in found.true["solver"].gain)

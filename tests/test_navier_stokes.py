"""Navier-Stokes: against exact flows, budgets and an independent published-style scheme; orders, symmetries, laws."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from opkit.errors import SolverError
from opkit.grid import Grid
from opkit.pdes import NavierStokes
from opkit.pdes.etdrk import etdrk4_coefficients
from opkit.registry import names, pde_class, read, tuples

pytestmark = pytest.mark.usefixtures("one_thread")  # small arrays: threads would only wait for each other

QUIET = {"forcing": "none", "times": (0.0, 0.5, 1.0)}
TAU = 2 * math.pi


def relative(u, truth):
    return float(((u - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).max())


def taylor_green(pde, k=2, x=None, y=None):
    gx, gy = pde.grid.coordinates
    x, y = gx if x is None else x, gy if y is None else y
    return 2 * TAU * k * (torch.cos(TAU * k * x) * torch.cos(TAU * k * y))[None, None]


def test_phi_functions_in_many_digits():
    """Cox and Matthews' weights from their closed forms with 60 digits, where doubles would cancel."""
    import mpmath

    mpmath.mp.dps = 60
    z = [0.0, -1e-12, -1e-6, -1e-3, -0.5, -3.0, -40.0, -1e4]
    e, e_half, q, f1, f2, f3 = etdrk4_coefficients(torch.tensor(z, dtype=torch.float64), 1.0)
    limits = (mpmath.mpf(1) / 2, mpmath.mpf(1) / 6, mpmath.mpf(1) / 3, mpmath.mpf(1) / 6)
    for i, value in enumerate(map(mpmath.mpf, z)):
        ez = mpmath.exp(value)
        forms = limits if value == 0 else (
            (mpmath.exp(value / 2) - 1) / value,
            (-4 - value + ez * (4 - 3 * value + value**2)) / value**3,
            2 * (2 + value + ez * (value - 2)) / value**3,
            (-4 - 3 * value - value**2 + ez * (4 - value)) / value**3,
        )  # fmt: skip
        for ours, exact in zip((q, f1, f2, f3), forms, strict=True):
            assert abs(float(ours[i]) - float(exact)) < 3e-15
        assert math.isclose(float(e[i]), math.exp(z[i])) and math.isclose(float(e_half[i]), math.exp(z[i] / 2))


@pytest.mark.parametrize("n", [32, 33, 48])
def test_taylor_green_decays_exactly(n):
    pde = NavierStokes(resolution=n, viscosity=1e-2, **QUIET)
    w = pde.solve(taylor_green(pde))
    for frame, t in zip(w[0], (0, 0.5, 1.0), strict=True):
        expected = taylor_green(pde)[0] * math.exp(-2 * 1e-2 * (2 * TAU) ** 2 * t)
        assert (frame - expected).abs().max() < 1e-12


def test_a_mean_velocity_carries_taylor_green():
    """Exact, and now advection does not vanish; the pair (U, V) catches exchanged or mis-signed velocities."""
    u, v = 0.3, -0.2
    pde = NavierStokes(resolution=32, viscosity=1e-2, mean_velocity=(u, v), dt=1e-3, **QUIET)
    x, y = pde.grid.coordinates
    w = pde.solve(taylor_green(pde))[0, -1]
    expected = taylor_green(pde, x=x - u, y=y - v)[0] * math.exp(-2 * 1e-2 * (2 * TAU) ** 2)
    assert relative(w[None], expected[None]) < 1e-10


def test_a_vortex_pair_moves_the_way_its_velocity_says():
    """Sign of the velocity: between a positive vortex on the left and a negative one on the right, fluid rises."""
    pde = NavierStokes(resolution=64, viscosity=1e-4, forcing="none", times=(0.0, 2.0))
    x, y = pde.grid.coordinates

    def blob(cx, cy):
        return torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 0.003)

    start = 3 * (blob(0.4, 0.4) - blob(0.6, 0.4))
    end = pde.solve(start[None, None])[0, 1, 0]
    height = [float((f.abs() * y).sum() / f.abs().sum()) for f in (start, end)]
    assert height[1] > height[0] + 0.01


def test_constant_forcing_of_a_resting_fluid():
    """A forcing along one direction drives a flow that does not advect itself: w = f (1 - exp(-r t)) / r exactly."""
    pde = NavierStokes(resolution=32, viscosity=1e-2, drag=0.1, times=(0.0, 1.0, 3.0))
    x, y = pde.grid.coordinates
    f = 0.1 * (torch.sin(TAU * (x + y)) + torch.cos(TAU * (x + y)))
    rate = 1e-2 * 2 * TAU**2 + 0.1
    w = pde.solve(torch.zeros(1, 1, 32, 32, dtype=torch.float64))[0, :, 0]
    for frame, t in zip(w, (0.0, 1.0, 3.0), strict=True):
        torch.testing.assert_close(frame, f * (1 - math.exp(-rate * t)) / rate, rtol=0, atol=1e-12)


def test_kolmogorov_forcing_is_the_curl_of_a_shear_force():
    """Force A sin(kappa y) along x: its curl, taken here by finite differences of the force, drives w."""
    pde = NavierStokes(
        resolution=48, viscosity=1e-2, length=TAU, forcing="kolmogorov", forcing_amplitude=2.0, times=(0.0, 0.5)
    )
    y = pde.grid.coordinates[1]
    h = 1e-5
    curl = -(2.0 * torch.sin(4 * (y + h)) - 2.0 * torch.sin(4 * (y - h))) / (2 * h)
    w = pde.solve(torch.zeros(1, 1, 48, 48, dtype=torch.float64))[0, 1, 0]
    rate = 1e-2 * 16
    torch.testing.assert_close(w, curl * (1 - math.exp(-rate * 0.5)) / rate, rtol=0, atol=1e-8)


ROUGH = NavierStokes(resolution=32, modes=10, viscosity=2e-3, times=(0.0, 1.0), initial_amplitude=12.0)
"""Vigorous enough for time errors to show."""


def steps_and_errors(pde, steps):
    a = pde.sample(2)
    truth = dataclasses.replace(pde, scheme="etdrk4", dt=2e-3).solve(a)[:, 1:]
    return [relative(dataclasses.replace(pde, dt=dt).solve(a)[:, 1:], truth) for dt in steps]


@pytest.mark.parametrize(
    ("scheme", "steps", "low", "high"),
    [
        ("etdrk4", (0.04, 0.02, 0.01), 3.8, 4.2),
        ("imex", (0.02, 0.01, 0.005), 1.9, 2.15),
        ("reference", (0.01, 0.005, 0.0025), 0.9, 1.1),
    ],
)
def test_order_in_time(scheme, steps, low, high):
    pde = dataclasses.replace(ROUGH, scheme=scheme)
    if (
        scheme == "reference"
    ):  # it keeps waves beyond two thirds; start without them and with a flow that stays resolved
        pde = dataclasses.replace(pde, viscosity=1e-2)
    order = np.polyfit(np.log(steps), np.log(steps_and_errors(pde, steps)), 1)[0]
    assert low < order < high


def published_scheme(w, viscosity, forcing, dt, steps):
    """Euler and Crank-Nicolson with full complex transforms, written from the paper's description."""
    n = len(w)
    k = np.fft.fftfreq(n, 1 / n) * TAU
    kx, ky = np.meshgrid(k, k, indexing="ij")
    square = kx**2 + ky**2
    inverse = np.where(square > 0, 1 / np.where(square > 0, square, 1), 0)
    keep = (np.abs(kx) <= 2 / 3 * TAU * (n // 2)) & (np.abs(ky) <= 2 / 3 * TAU * (n // 2))
    w_hat, f_hat = np.fft.fft2(w), np.fft.fft2(forcing)
    for _ in range(steps):
        psi = w_hat * inverse
        u, v = (np.fft.ifft2(1j * ky * psi).real, np.fft.ifft2(-1j * kx * psi).real)
        product = u * np.fft.ifft2(1j * kx * w_hat).real + v * np.fft.ifft2(1j * ky * w_hat).real
        explicit = f_hat - keep * np.fft.fft2(product)
        half = 0.5 * dt * viscosity * square
        w_hat = ((1 - half) * w_hat + dt * explicit) / (1 + half)
    return np.fft.ifft2(w_hat).real


def test_the_reference_scheme_is_the_published_one():
    pde = NavierStokes(resolution=32, modes=10, scheme="reference", dt=1e-3, times=(0.0, 0.1), viscosity=1e-3)
    a = pde.sample(1)
    x, y = pde.grid.coordinates.numpy()
    forcing = 0.1 * (np.sin(TAU * (x + y)) + np.cos(TAU * (x + y)))
    expected = published_scheme(a[0, 0].numpy(), 1e-3, forcing, 1e-3, 100)
    np.testing.assert_allclose(pde.solve(a)[0, 1, 0].numpy(), expected, rtol=0, atol=1e-12)


def test_a_good_solution_is_what_the_published_scheme_tends_to():
    """An independent scheme, with its step halved twice and extrapolated, agrees with ETDRK4."""
    pde = NavierStokes(resolution=32, modes=10, viscosity=1e-2, times=(0.0, 0.5))
    a = pde.sample(1)
    x, y = pde.grid.coordinates.numpy()
    forcing = 0.1 * (np.sin(TAU * (x + y)) + np.cos(TAU * (x + y)))
    coarse, fine = (published_scheme(a[0, 0].numpy(), 1e-2, forcing, 0.5 / n, n) for n in (250, 500))
    ours = pde.solve(a)[0, 1, 0].numpy()
    assert np.linalg.norm(2 * fine - coarse - ours) < 1e-6 * np.linalg.norm(ours)


def quantities(pde, w):
    """Energy, enstrophy, palinstrophy, work of the forcing on both, by FFT of each frame."""
    n = pde.resolution
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) * TAU
    square = k[:, None] ** 2 + k**2
    w_hat = torch.fft.fft2(w, norm="forward")
    psi = w_hat / square.clamp_min(1e-9)
    psi[..., 0, 0] = 0
    x, y = pde.grid.coordinates
    f = torch.fft.fft2(0.1 * (torch.sin(TAU * (x + y)) + torch.cos(TAU * (x + y))), norm="forward")

    def product(a, b):
        return (a * b.conj()).real.sum((-1, -2))

    energy, enstrophy = 0.5 * product(psi, w_hat), 0.5 * product(w_hat, w_hat)
    return energy, enstrophy, product(w_hat * square, w_hat), product(psi, f), product(w_hat, f)


def test_energy_and_enstrophy_budgets():
    """dE/dt = -2 nu Z + <psi f> and dZ/dt = -nu P + <w f>, integrated over frames by Simpson's rule."""
    times = np.linspace(0, 0.5, 201)
    pde = NavierStokes(resolution=64, times=tuple(times), initial_amplitude=3.0)
    e, z, p, work, work_w = (q[0] for q in quantities(pde, pde.solve(pde.sample(1))[:, :, 0]))
    weight = torch.ones(201, dtype=torch.float64)
    weight[1:-1:2], weight[2:-1:2] = 4, 2
    weight *= times[1] / 3
    assert abs(float(e[-1] - e[0] - (weight * (work - 2e-3 * z)).sum())) < 1e-9 * float(e[0])
    assert abs(float(z[-1] - z[0] - (weight * (work_w - 1e-3 * p)).sum())) < 1e-9 * float(z[0])


def test_an_ideal_fluid_keeps_energy_and_enstrophy():
    """Fails where products alias: the reason for cutting the state, not the product alone, at two thirds."""
    pde = NavierStokes(
        resolution=32, modes=10, viscosity=1e-14, forcing="none", times=(0.0, 1.0), dt=1e-3, initial_amplitude=4.0
    )
    e, z, *_ = quantities(pde, pde.solve(pde.sample(1))[:, :, 0])
    assert abs(float(e[0, 1] / e[0, 0] - 1)) < 1e-10
    assert abs(float(z[0, 1] / z[0, 0] - 1)) < 1e-10
    reference = dataclasses.replace(pde, scheme="reference")
    _, z, *_ = quantities(reference, reference.solve(pde.sample(1))[:, :, 0])
    assert abs(float(z[0, 1] / z[0, 0] - 1)) > 1e-6  # first order in time


def test_the_mean_vorticity_stays_and_frames_are_real_and_cut():
    pde = NavierStokes(resolution=32, modes=10, times=(0.0, 1.0, 2.0))
    w = pde.solve(pde.sample(2) + 0.3)
    assert (w.mean((-1, -2)) - 0.3).abs().max() < 1e-14
    spectrum = torch.fft.fft2(w[:, 1:], norm="forward").abs()
    k = torch.fft.fftfreq(32, 1 / 32).abs()
    beyond = (k[:, None] >= 32 / 3) | (k >= 32 / 3)
    assert spectrum[..., beyond].max() < 1e-15 < spectrum[..., ~beyond].max()


def test_symmetries():
    """Translation along the forcing's lines; any translation, and a quarter turn, of an unforced flow."""
    forced = NavierStokes(resolution=32, modes=10, times=(0.0, 1.0))
    a = forced.sample(1)
    moved = forced.solve(a.roll((5, -5), (-2, -1)))
    torch.testing.assert_close(moved, forced.solve(a).roll((5, -5), (-2, -1)), rtol=0, atol=1e-12)
    free = dataclasses.replace(forced, forcing="none")
    w = free.solve(a)
    torch.testing.assert_close(free.solve(a.roll((3, 8), (-2, -1))), w.roll((3, 8), (-2, -1)), rtol=0, atol=1e-12)

    def turn(v):  # (x, y) -> (-y, x), on periodic points
        return v.transpose(-1, -2).flip(-2).roll(1, -2)

    torch.testing.assert_close(free.solve(turn(a)), turn(w), rtol=0, atol=1e-12)


def test_doubling_the_grid_changes_nothing_that_is_resolved():
    coarse = NavierStokes(resolution=64, times=(0.0, 1.0))
    fine = coarse.on(128)
    difference = fine.solve(fine.sample(1))[..., ::2, ::2] - coarse.solve(coarse.sample(1))
    assert float(difference.norm() / coarse.solve(coarse.sample(1)).norm()) < 1e-6


def test_single_precision_floor():
    pde = NavierStokes(resolution=64, times=(0.0, 1.0))
    a = pde.sample(2)
    single = dataclasses.replace(pde, precision="float32").solve(a)
    assert single.dtype == torch.float64
    assert 1e-8 < relative(single[:, 1:], pde.solve(a)[:, 1:]) < 5e-6


def test_the_step_follows_the_flow_and_is_each_samples_own():
    pde = NavierStokes(resolution=32, modes=10, times=(0.0, 0.25), viscosity=1e-2)
    a = pde.sample(6) * torch.tensor([1, 4, 16, 1, 0.0, 8]).view(-1, 1, 1, 1)
    together, figures = pde._solve(a)
    assert figures["steps"][2] > figures["steps"][1] > figures["steps"][0]
    assert (figures["courant"] <= 1.25 * pde.cfl + 1e-12).all()
    for i in range(6):
        alone, _ = pde._solve(a[i : i + 1])
        assert torch.equal(alone[0], together[i])
    assert torch.equal(pde._solve(a[[5, 0, 3]])[0], together[[5, 0, 3]])


def test_a_flow_that_speeds_up_is_repeated_with_shorter_steps():
    """From rest the first guess is one step; the strong forcing then needs many."""
    pde = NavierStokes(resolution=32, modes=10, forcing_amplitude=50.0, times=(0.0, 1.0), viscosity=1e-2)
    a = 1e-6 * pde.sample(1)
    w, figures = pde._solve(a)
    truth = dataclasses.replace(pde, dt=1e-3).solve(a)
    assert figures["steps"] > 16 and relative(w[:, 1:], truth[:, 1:]) < 1e-3


def test_fixed_steps_are_those_the_flow_needs_and_can_be_differentiated():
    pde = NavierStokes(resolution=32, modes=10, times=(0.0, 0.5, 1.0), viscosity=1e-2)
    a = 8 * pde.sample(2)
    fixed = pde.with_fixed_steps(a)
    solution, figures = fixed._solve(a)
    assert figures["steps"].unique().numel() == 1 and 0.5 < figures["courant"].max() < 2.8
    assert relative(solution[:, 1:], pde.solve(a)[:, 1:]) < 1e-5
    assert fixed.with_fixed_steps(a) == fixed  # a step that is given is kept
    v = 8 * pde.sample(2, seed=1)
    product = (torch.func.vjp(fixed.solve, a)[1](v[:, None].expand_as(solution))[0] * a).sum()
    h = 1e-5
    difference = (fixed.solve(a + h * a) - fixed.solve(a - h * a)) / (2 * h)
    torch.testing.assert_close(product, (difference * v[:, None]).sum(), rtol=1e-7, atol=0)


def test_labels_do_not_depend_on_their_tile():
    pde = NavierStokes(resolution=16, label_resolution=32, modes=10, times=(0.0, 0.5))
    assert pde.tile() > 1
    whole = pde.label(5, 0, 0).fields["w"]
    assert torch.equal(pde.label(2, 0, 3).fields["w"], whole[3:5])
    assert torch.equal(pde.label(1, 0, 4).fields["w"], whole[4:5])


@pytest.mark.parametrize(("initial", "std"), [("code2022", 0.18523), ("code2020", 0.26196), ("paper", 0.04304)])
def test_spread_of_the_initial_vorticity(initial, std):
    """Exact sums over all waves, worked out apart; a factor sqrt(2) in the amplitude is three settings apart."""
    pde = NavierStokes(resolution=16, modes=128, initial=initial)
    exact = float(pde._field.variance(Grid((2, 2), "periodic"))[0, 0]) ** 0.5
    assert abs(exact / std - 1) < 1e-4
    spread = float(dataclasses.replace(pde, modes=7).sample(200).std())
    assert abs(spread / std - 1) < 0.1


def test_a_sample_is_the_same_function_on_every_grid():
    pde = NavierStokes(resolution=32)
    torch.testing.assert_close(pde.on(128).sample(2)[..., ::4, ::4], pde.sample(2), rtol=0, atol=1e-13)
    torch.testing.assert_close(pde.sample(3, seed=1)[1:2], pde.sample(1, seed=1, first=1), rtol=0, atol=0)


def test_parameters_per_sample_are_channels():
    pde = NavierStokes(resolution=32, modes=10, viscosity=(1e-3, 1e-2), forcing_amplitude=(0.05, 0.5), times=(0.0, 1.0))
    assert pde.inputs == ("w", "viscosity", "forcing_amplitude")
    a = pde.sample(5)
    w = pde.solve(a)
    assert w.shape == (5, 2, 1, 32, 32)
    for i in (0, 3):
        alone = NavierStokes(
            resolution=32, modes=10, viscosity=float(a[i, 1, 0, 0]), forcing_amplitude=float(a[i, 2, 0, 0]),
            times=(0.0, 1.0),
        )  # fmt: skip
        torch.testing.assert_close(alone.solve(a[i : i + 1, :1])[0], w[i], rtol=0, atol=1e-13)
    unforced = dataclasses.replace(pde, forcing="none")
    assert unforced.inputs == ("w", "viscosity")


def test_restrictions_to_a_coarser_grid():
    strided = NavierStokes(resolution=16, label_resolution=32, modes=10, times=(0.0, 0.5))
    spectral = dataclasses.replace(strided, label_restriction="spectral")
    fine = strided.on(32)
    w = fine.solve(fine.sample(1))[0, :, 0]
    torch.testing.assert_close(strided.label(1, 0, 0).fields["w"][0], w[:, ::2, ::2], rtol=0, atol=1e-12)
    kept = torch.fft.fftfreq(32, 1 / 32).abs() < 8
    cut = torch.fft.ifft2(torch.fft.fft2(w) * kept * kept[:, None]).real[:, ::2, ::2]
    label = spectral.label(1, 0, 0).fields["w"][0]
    low = torch.fft.fftfreq(16, 1 / 16).abs() < 8  # the coarse grid's Nyquist wave is shared between two
    difference = torch.fft.fft2(label - cut)[:, low][:, :, low]
    assert difference.abs().max() < 1e-10
    assert (label - strided.label(1, 0, 0).fields["w"][0]).abs().max() > 1e-4


def test_blow_up_is_said_in_words():
    with pytest.raises(SolverError, match=r"blew up with dt=0\.5"):
        NavierStokes(resolution=32, modes=10, dt=0.5, times=(0.0, 40.0), viscosity=1e-6).solve(
            1e3 * NavierStokes(resolution=32, modes=10).sample(1)
        )


@pytest.mark.parametrize("name", [n for n in names("pde") if n.startswith("navier_stokes")])
def test_every_variant_makes_a_label(name):
    """At a quarter of its grid and to its second frame only."""
    pde = pde_class(name)(**tuples(read("pde", name).get("pde", {})))
    small = dataclasses.replace(pde, resolution=32, label_resolution=48, modes=15, times=pde.times[:2].tolist())
    label = small.label(1, 0, 0)
    assert torch.isfinite(label.fields["w"]).all() and label.fields["w"].shape == (1, 2, 32, 32)
    assert set(label.scalars) == set(pde.varying)


@pytest.mark.slow
def test_statistics_of_the_forced_flow_at_late_times():
    """The published problem at t = 50: root mean square vorticity near one."""
    pde = NavierStokes(times=(0.0, 50.0))
    rms = pde.solve(pde.sample(5))[:, 1].square().mean((-1, -2)).sqrt()
    assert 0.8 < float(rms.mean()) < 1.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"viscosity": 0.0}, "viscosity must be a number above 0"),
        ({"cfl": 5.0}, "cfl=5.0 is beyond"),
        ({"drag": -1.0}, "drag must not be negative"),
        ({"resolution": 4}, "resolution must be at least 8"),
        ({"dt": -1.0}, "dt must be positive"),
        ({"times": "abc"}, "times must be a list of numbers"),
        ({"length": 0.0}, "length must be positive"),
    ],
)
def test_bad_arguments_are_refused_in_words(settings, message):
    with pytest.raises(ValueError, match=message):
        NavierStokes(**settings)

"""Burgers: against the exact solution, a travelling wave, conservation laws; orders, refusals, independence."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from opkit.errors import UnresolvedError
from opkit.pdes import Burgers
from opkit.pdes.burgers import cole_hopf
from opkit.registry import names, pde_class, read, tuples

pytestmark = pytest.mark.usefixtures("one_thread")  # small arrays: threads would only wait for each other

UNIT = {"length": 1.0, "viscosity": 0.1}
SMOOTH = {"modes": 10}


def relative(u, truth):
    return float(((u - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).max())


def exact(pde, inputs):
    return dataclasses.replace(pde, scheme="cole-hopf").solve(inputs)


def test_cole_hopf_by_quadrature_in_many_digits():
    """The Hopf formula for u0 = sin x, integrated by mpmath with 30 digits, at three points."""
    import mpmath

    mpmath.mp.dps = 30
    nu, t = mpmath.mpf("0.05"), mpmath.mpf(1)
    n = 64
    u = cole_hopf(torch.sin(2 * math.pi * torch.arange(n, dtype=torch.float64) / n), float(nu), 2 * math.pi, 1.0)
    for j in (5, 17, 40):
        x = 2 * mpmath.pi * j / n

        def weight(y, x=x):
            return mpmath.exp(-((1 - mpmath.cos(y)) + (x - y) ** 2 / (2 * t)) / (2 * nu))

        span = [x - 8, x - 4, x - 2, x, x + 2, x + 4, x + 8]
        top = mpmath.quad(lambda y, x=x: (x - y) / t * weight(y, x), span)
        assert abs(float(top / mpmath.quad(weight, span)) - float(u[j])) < 1e-12


@pytest.mark.parametrize(
    ("settings", "dt", "bound"),
    [
        ({}, 2e-3, 1e-8),  # the default's promise: 500 steps
        (UNIT, 1e-3, 4e-8),
        ({"length": 1.0, "viscosity": 0.01}, 1e-3, 1e-9),
        ({"length": 1.0, "viscosity": 1e-3, "alpha": 2.5, "tau": 7.0, "sigma": 49.0}, 1e-3, 4e-9),
    ],
)
def test_etdrk4_agrees_with_the_exact_solution(settings, dt, bound):
    pde = Burgers(resolution=1024, dt=dt, **settings)
    a = pde.sample(3)
    assert relative(pde.solve(a)[:, 1:], exact(pde, a)[:, 1:]) < bound


@pytest.mark.parametrize(("settings", "low", "high"), [(SMOOTH, 3.6, 4.4), (UNIT, 2.8, 3.3)])
def test_order_in_time(settings, low, high):
    """Four for a smooth field; near three for rough ones, whose finest waves viscosity damps within a step."""
    pde = Burgers(resolution=1024, **settings)
    a = pde.sample(1)
    truth = exact(pde, a)[:, 1:]
    steps = [8e-3, 4e-3, 2e-3]
    errors = [relative(dataclasses.replace(pde, dt=dt).solve(a)[:, 1:], truth) for dt in steps]
    order = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert low < order < high


def test_the_mean_is_conserved_and_carried():
    pde = Burgers(resolution=512, modes=40, mean="keep", times=(0, 0.5, 1))
    a = pde.sample(2)
    u = pde.solve(a)
    assert (u.mean(-1) - a.mean(-1)[:, None]).abs().max() < 1e-14
    assert relative(u[:, 1:], exact(pde, a)[:, 1:]) < 1e-8


def test_energy_decays_by_dissipation():
    """d/dt of half the mean square is -nu times the mean square of the slope, integrated by Simpson's rule."""
    pde = Burgers(resolution=512, times=tuple(np.linspace(0.5, 1.0, 401) - 0.5), dt=1.25e-3)
    start = Burgers(resolution=512, times=(0, 0.5)).solve(pde.sample(1))[:, -1]
    u = pde.solve(start)[0, :, 0]
    energy = 0.5 * (u**2).mean(-1)
    k = torch.arange(257, dtype=torch.float64)
    slope = torch.fft.irfft(1j * k * torch.fft.rfft(u), n=512)
    rate = (slope**2).mean(-1)
    h = 0.5 / 400
    integral = h / 3 * (rate[0] + rate[-1] + 4 * rate[1:-1:2].sum() + 2 * rate[2:-1:2].sum())
    assert abs(float(energy[-1] - energy[0] + 0.1 * integral)) < 1e-8 * float(energy[0])


def test_without_viscosity_to_speak_of_energy_is_kept():
    """Fails where products alias: then energy drifts or grows."""
    pde = Burgers(resolution=64, viscosity=1e-12, times=(0, 0.2), dt=1e-3, unresolved="accept")
    x = pde.grid.coordinates[0]
    a = (torch.sin(x) + 0.5 * torch.cos(2 * x + 1))[None, None]
    u = pde.solve(a)
    energy = (u**2).mean(-1)
    assert abs(float(energy[0, 1] / energy[0, 0] - 1)) < 1e-9


def test_a_front_travels_unchanged():
    """u = c - a tanh(a (x - c t) / 2 nu), with its mirror image on a long period to close the circle."""
    nu, a, c, length = 0.05, 1.0, 0.3, 40.0
    pde = Burgers(resolution=2048, viscosity=nu, length=length, times=(0, 0.5), dt=2e-3)
    x = pde.grid.coordinates[0]
    front = c - a * torch.tanh(a * (x - 10 - c * 0.5) / (2 * nu))
    ramp = torch.where((x - 10).abs() < 6, front, 0.0)  # judged near the front alone
    initial = c - a * torch.tanh(a * (x - 10) / (2 * nu)) + 2 * a / (1 + torch.exp(-(x - 30) / 0.5)) * 1.0
    u = pde.solve(initial[None, None])[0, 1, 0]
    near = (x - 10).abs() < 3
    assert (u - ramp)[near].abs().max() < 1e-7


def test_shifting_the_input_shifts_the_solution():
    pde = Burgers(resolution=256)
    a = pde.sample(2)
    shifted = pde.solve(a.roll(37, -1))
    torch.testing.assert_close(shifted, pde.solve(a).roll(37, -1), rtol=0, atol=1e-12)


def test_frames_times_and_shapes():
    pde = Burgers(resolution=512, times=[0, 0.25, 1])
    assert pde.times.tolist() == [0, 0.25, 1]
    a = pde.sample(3).numpy()
    u = pde.solve(a)
    assert isinstance(u, np.ndarray) and u.shape == (3, 3, 1, 512)
    assert np.array_equal(u[:, 0], a)
    middle = Burgers(resolution=512, times=(0, 0.25)).solve(a)
    np.testing.assert_allclose(u[:, 1], middle[:, 1], rtol=0, atol=1e-13)


def test_a_sample_is_the_same_function_on_every_grid_and_has_the_known_spread():
    fine, coarse = Burgers(resolution=8192).sample(2, seed=3), Burgers(resolution=1024).sample(2, seed=3)
    torch.testing.assert_close(fine[..., ::8], coarse, rtol=0, atol=1e-12)
    # sqrt(sum_k 625 / (pi (k^2 + 25)^2)) = 1.0440, and 0.5936 on the unit interval: summed by hand
    assert abs(float(Burgers()._field.variance(Burgers().grid)[0]) ** 0.5 - 1.044) < 1e-3
    unit = Burgers(**UNIT)
    assert abs(float(unit._field.variance(unit.grid)[0]) ** 0.5 - 0.5936) < 2e-4
    spread = Burgers(resolution=64, modes=20).sample(400).std()
    assert abs(float(spread) / 1.043 - 1) < 0.1  # a factor sqrt(2) would show


def test_golden_values():
    """Drawn once; they must not change, or published data could not be made again."""
    a = Burgers(resolution=16, modes=5).sample(1, seed=7)[0, 0]
    expected = [0.775520847059593, 0.953137145160587, 1.0577171029734638, 1.3492988905177725]
    torch.testing.assert_close(a[:4], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_sample_does_not_depend_on_its_batch():
    pde = Burgers(resolution=512, viscosity=(0.05, 0.5))
    a = pde.sample(9)
    together = pde.solve(a)
    for rows in (slice(0, 1), slice(3, 5), slice(8, 9)):
        assert torch.equal(pde.solve(a[rows]), together[rows])


def test_labels_do_not_depend_on_their_tile():
    pde = Burgers(resolution=64, label_resolution=256)
    whole = pde.label(7, 0, 3).fields["u"]
    assert torch.equal(pde.label(2, 0, 5).fields["u"], whole[2:4])


def test_a_viscosity_per_sample():
    pde = Burgers(resolution=512, viscosity=(0.05, 0.5))
    assert pde.inputs == ("u", "viscosity") and pde.outputs == ("u",)
    a = pde.sample(20)
    nu = a[:, 1, 0]
    assert (nu > 0.05).all() and (nu < 0.5).all() and nu.std() > 0.05
    assert torch.equal(pde.sample(3, first=5)[:, 1], a[5:8, 1])
    for i in (0, 7):
        one = Burgers(resolution=512, viscosity=float(nu[i]))
        torch.testing.assert_close(pde.solve(a)[i], one.solve(a[i : i + 1, :1])[0], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="viscosity must be constant"):
        pde.solve(a + pde.grid.coordinates[0] * torch.tensor([0.0, 1.0]).view(2, 1))


def test_a_grid_too_coarse_is_refused_in_words_or_refined():
    pde = Burgers(resolution=64, viscosity=5e-3, times=(0, 2))
    x = pde.grid.coordinates[0]
    a = torch.sin(x)[None, None]
    with pytest.raises(UnresolvedError, match=r"64 points are too few .* Raise pde.label_resolution"):
        pde.solve(a)
    refined = dataclasses.replace(pde, unresolved="refine").solve(a)
    assert relative(refined[:, 1:], exact(pde, a)[:, 1:]) < 1e-6
    accepted = dataclasses.replace(pde, unresolved="accept").solve(a)
    assert relative(accepted[:, 1:], exact(pde, a)[:, 1:]) > 1e-3  # what refusal protects from
    assert torch.equal(refined[:, 0], a)


def test_the_tail_bounds_the_error():
    """The docstring's claim: the error is about a hundredth of the tail."""
    for n in (128, 256):
        pde = Burgers(resolution=n, modes=n // 3, unresolved="accept", dt=1e-3)
        a = pde.sample(4)
        u, diagnostics = pde._solve(a)
        errors = (u - exact(pde, a))[:, 1].flatten(1).norm(dim=1) / u[:, 1].flatten(1).norm(dim=1)
        assert (errors < 0.1 * diagnostics["spectral_tail"] + 1e-9).all()


def test_single_precision_is_what_it_says():
    pde = Burgers(resolution=512)
    a = pde.sample(2)
    single = dataclasses.replace(pde, precision="float32").solve(a)
    assert 1e-9 < relative(single, pde.solve(a)) < 1e-5


def test_label_error_is_the_time_error():
    """Halving the step of an ETDRK4 label must estimate its distance to the exact solution."""
    pde = Burgers(resolution=256, label_resolution=1024, dt=1e-2, modes=10)
    label = pde.label(1, 0, 0)
    fine = pde.on(1024)
    truth = exact(fine, fine.sample(1))[0, :, 0, ::4]
    true_error = float((label.fields["u"][0] - truth)[1].norm() / truth[1].norm())
    estimate = pde.label_error(label, 0, 0)
    assert estimate.shape == (1, 2) and estimate[0, 0] < 1e-14
    assert 0.5 < float(estimate[0, 1]) / true_error < 2


@pytest.mark.parametrize("name", [n for n in names("pde") if n.startswith("burgers")])
def test_every_variant_solves_and_is_resolved(name):
    settings = tuples(read("pde", name).get("pde", {}))
    pde = pde_class(name)(**settings | {"times": (0.0, 0.1)})
    label = dataclasses.replace(pde, label_resolution=pde.label_resolution).label(1, 0, 0)
    assert label.diagnostics["spectral_tail"].max() <= pde.tail
    assert torch.isfinite(label.fields["u"]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"viscosity": -1.0}, "viscosity must be a number above 0"),
        ({"viscosity": (0.2, 0.1)}, "viscosity"),
        ({"times": (0.5, 1)}, "times must start at 0"),
        ({"times": (0, 1, 1)}, "increase"),
        ({"resolution": 4}, "resolution must be at least 8"),
        ({"dt": 0.0}, "dt must be positive"),
    ],
)
def test_bad_arguments_are_refused_in_words(settings, message):
    with pytest.raises(ValueError, match=message):
        Burgers(**settings)


def test_cole_hopf_makes_labels_too():
    pde = Burgers(resolution=128, label_resolution=512, modes=40, scheme="cole-hopf")
    label = pde.label(2, 0, 3)
    stepped = dataclasses.replace(pde, scheme="etdrk4").label(2, 0, 3)
    assert relative(label.fields["u"][:, 1:], stepped.fields["u"][:, 1:]) < 1e-8
    assert label.diagnostics["residual"].shape == (2,) and label.diagnostics["residual"].max() < 1e-10

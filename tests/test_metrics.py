import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from opkit import metrics
from opkit.grid import Grid

ROOT = Path(__file__).parents[1]


def test_a_relative_perturbation_is_its_own_error():
    u = torch.randn(3, 2, 9, 9)
    grid = Grid((9, 9))
    for values in (metrics.rel_l2(1.25 * u, u), metrics.rel_l2(1.25 * u, u, grid), metrics.rel_h1(1.25 * u, u, grid)):
        torch.testing.assert_close(values, torch.full((3,), 0.25, dtype=torch.float64), rtol=1e-6, atol=0)


def test_rel_l2_by_hand():
    truth = torch.tensor([[[3.0, 4.0]], [[0.0, 2.0]]])
    prediction = torch.tensor([[[3.0, 5.0]], [[1.0, 2.0]]])
    assert metrics.rel_l2(prediction, truth).tolist() == [0.2, 0.5]


def test_the_mean_is_of_ratios():
    """Samples of very different size weigh alike: 0.1 and 0.5 average to 0.3."""
    truth = torch.stack([torch.full((1, 4), 100.0), torch.full((1, 4), 1.0)])
    prediction = truth * torch.tensor([1.1, 1.5]).view(2, 1, 1)
    assert math.isclose(metrics.rel_l2(prediction, truth).mean().item(), 0.3, rel_tol=1e-6)


def test_quadrature_makes_the_error_independent_of_the_grid():
    error, truth = (lambda g: (g.coordinates[0] ** 2)[None, None]), (lambda g: torch.exp(g.coordinates[1])[None, None])
    values = []
    for n in (17, 33, 65):
        grid = Grid((n, n))
        values.append(metrics.rel_l2(truth(grid) + error(grid), truth(grid), grid).item())
    exact = math.sqrt(0.2 / ((math.e**2 - 1) / 2))
    assert abs(values[-1] - exact) < 2e-4
    assert abs(values[-1] - exact) < abs(values[0] - exact) / 10


@pytest.mark.parametrize("k", [1, 3])
def test_h1_seminorm_of_a_sine(k):
    for n, tolerance in ((65, 2e-2), (257, 2e-3)):
        grid = Grid((n, n))
        x, y = grid.coordinates
        field = (torch.sin(k * math.pi * x) * torch.sin(k * math.pi * y))[None, None]
        exact = math.pi * k / math.sqrt(2)
        assert abs(metrics.h1_seminorm(field, grid).item() / exact - 1) < tolerance


def test_h1_seminorm_is_exact_on_periodic_grids():
    grid = Grid((15, 8), "periodic", (2.0, 1.0))
    x, y = grid.coordinates
    field = (torch.sin(2 * math.pi * 3 * x / 2) * torch.cos(2 * math.pi * y))[None, None]
    exact = math.sqrt(((3 * math.pi) ** 2 + (2 * math.pi) ** 2) * 0.25 * 2)
    assert math.isclose(metrics.h1_seminorm(field, grid).item(), exact, rel_tol=1e-12)


def test_h1_seminorm_of_a_bilinear_field_uses_no_wall_stencil():
    grid = Grid((5, 9), length=(2.0, 1.0))
    field = (3 * grid.coordinates[0] - grid.coordinates[1])[None, None]
    assert math.isclose(metrics.h1_seminorm(field, grid).item(), math.sqrt(10 * 2.0), rel_tol=1e-12)


def test_max_error_is_absolute():
    truth = torch.zeros(2, 1, 3)
    assert metrics.max_error(truth + torch.tensor([0.5, -2.0, 1.0]), truth).tolist() == [2.0, 2.0]


def test_a_vanishing_truth_is_undefined_not_zero():
    assert metrics.rel_l2(torch.ones(1, 1, 4), torch.zeros(1, 1, 4)).isnan().all()


def test_shapes_must_agree():
    with pytest.raises((ValueError, TypeCheckError)):  # the annotations catch it first where tests check them
        metrics.rel_l2(torch.zeros(2, 1, 4), torch.zeros(2, 1, 5))


@pytest.mark.parametrize("location", ["node", "cell", "periodic"])
@pytest.mark.parametrize("n", [8, 9, 13])
def test_mode_and_wall_energies_sum_to_the_squared_norm(n, location):
    for shape in ((n,), (n, n + 2)):
        grid = Grid(shape, location, length=(1.0, 2.0)[: len(shape)])
        v = torch.randn(3, 2, *shape, dtype=torch.float64)
        energy = metrics.mode_energy(v, grid)
        assert metrics.wave_numbers(grid).shape == (len(shape), *energy.shape[1:])
        total = energy.flatten(1).sum(1) + metrics.wall_energy(v, grid)
        torch.testing.assert_close(total, metrics.norm(v, grid.weights) ** 2, rtol=1e-12, atol=0)


@pytest.mark.parametrize("location", ["node", "cell"])
def test_a_sine_has_its_energy_in_one_mode_and_one_shell(location):
    grid = Grid((17, 17), location)
    x, y = grid.coordinates
    energy = metrics.mode_energy((torch.sin(3 * math.pi * x) * torch.sin(4 * math.pi * y))[None, None], grid)
    assert math.isclose(energy[0, 2, 3].item(), 0.25, rel_tol=1e-12)
    assert math.isclose(energy.sum().item(), 0.25, rel_tol=1e-12)
    shells = metrics.shell_spectrum(energy, grid)
    assert shells.shape == (1, 15 if location == "node" else 17)
    assert math.isclose(shells[0, 4].item(), 0.25, rel_tol=1e-12)  # |(3, 4)| = 5


def test_a_wave_on_a_torus_has_its_energy_in_one_shell():
    grid = Grid((16, 15), "periodic", 2.0)
    x, y = grid.coordinates
    field = torch.cos(math.pi * (3 * x - 4 * y))[None, None]
    shells = metrics.shell_spectrum(metrics.mode_energy(field, grid), grid)
    assert math.isclose(shells[0, 4].item(), 0.5 * 4, rel_tol=1e-12)  # half of the area 4, at |(3, -4)| = 5
    assert abs(shells.sum().item() - 2) < 1e-12


@pytest.mark.parametrize(
    ("location", "coarse", "fine", "kept"), [("node", 9, 17, 7), ("cell", 9, 27, 9), ("periodic", 8, 16, 7)]
)
def test_resolved_waves_are_those_a_coarse_grid_can_hold(location, coarse, fine, kept):
    mask = metrics.resolved_waves(Grid((fine,), location), Grid((coarse,), location))
    assert mask.sum() == kept  # sines 1..7, sines 1..9, and waves -3..3: the Nyquist wave is ambiguous


def test_bands_are_where_the_waves_are():
    """Errors of wavenumbers 0, 4, 5, 12 and 13 on a circle, against a truth of norm one."""
    grid = Grid((64,), "periodic")
    x = 2 * torch.pi * grid.coordinates[0]
    truth = torch.ones(1, 1, 64, dtype=torch.float64)
    root = 2**0.5
    error = 0.1 + root * (0.2 * torch.sin(4 * x) + 0.3 * torch.cos(5 * x) + 0.4 * torch.sin(12 * x))
    error = error + root * 0.5 * torch.cos(13 * x)
    found = metrics.band_errors(truth + error, truth, grid)[:, 0].tolist()
    assert found == pytest.approx([0.1, (0.2**2 + 0.3**2) ** 0.5, (0.4**2 + 0.5**2) ** 0.5], rel=1e-12)


@pytest.mark.parametrize("shape", [(32,), (31,), (16, 15), (8, 9, 10)])
def test_absolute_bands_sum_to_the_mean_square_error(shape):
    grid = Grid(shape, "periodic", 2.0)
    u, e = torch.randn(2, 3, 2, *shape, dtype=torch.float64)
    bands = metrics.rmse_bands(u + e, u, grid)
    torch.testing.assert_close(bands.square().sum(0), e.square().flatten(1).mean(1), rtol=1e-10, atol=0)


def test_a_scaled_field_has_no_phase_error_and_a_shifted_one_no_amplitude_error():
    """(1 + d) u: every ratio is d, its spectrum 2 log10(1 + d) away; a wave shifted by phi: 2 |sin(phi / 2)|."""
    grid = Grid((48,), "periodic", 2 * math.pi)
    x = grid.coordinates[0]
    u = torch.sin(3 * x)[None, None]
    for name in ("rel_l2", "nrmse", "vrmse", "rel_linf"):
        assert getattr(metrics, name)(1.2 * u, u).item() == pytest.approx(0.2, rel=1e-12)
    assert abs(metrics.phase_error(1.2 * u, u, grid)[0].item()) < 1e-12

    def spectrum(v):
        return metrics.shell_spectrum(metrics.mode_energy(v, grid), grid)

    distance = metrics.log_spectral_distance(spectrum(1.2 * u), spectrum(u)).item()
    assert distance == pytest.approx(2 * math.log10(1.2), rel=1e-12)
    shifted = torch.sin(3 * x + 0.3)[None, None]
    assert metrics.rel_l2(shifted, u).item() == pytest.approx(2 * math.sin(0.15), rel=1e-12)
    assert metrics.log_spectral_distance(spectrum(shifted), spectrum(u)).item() < 1e-12
    for shift in (0.3, math.pi / 2, 2.0, math.pi):
        moved = 0.5 * torch.sin(3 * x + shift)[None, None]
        assert metrics.phase_error(moved, u, grid)[0].item() == pytest.approx(1 - math.cos(shift), rel=1e-12)


def test_bands_compare_a_wave_with_the_same_wave_of_the_truth():
    """cos 2x + cos 5x against 1.5 cos(2x + 0.3) + cos 5x: by hand, band by band."""
    grid = Grid((32,), "periodic", 2 * math.pi)
    x = grid.coordinates[0]
    u = (torch.cos(2 * x) + torch.cos(5 * x))[None, None]
    p = (1.5 * torch.cos(2 * x + 0.3) + torch.cos(5 * x))[None, None]
    error = math.sqrt(1.5**2 - 3 * math.cos(0.3) + 1)  # |1.5 exp(0.3 i) - 1|
    nan = math.nan
    for found, expected in (
        (metrics.band_rel(p, u, grid), [error, 0, nan]),
        (metrics.band_amplitude(p, u, grid), [1.5, 1, nan]),
        (metrics.phase_error(p, u, grid), [1 - math.cos(0.3), 0, nan]),
        (metrics.band_errors(p, u, grid), [error / math.sqrt(2), 0, 0]),
    ):
        assert found[:, 0].tolist() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    masks = metrics.band_masks(grid, {"five": (5.0, 6.0)})
    assert metrics.band_amplitude(p, u, grid, masks).tolist() == [[pytest.approx(1)]]


def test_bands_of_the_nyquist_wavenumber_hold_every_wave_once():
    """16 points: waves to 8, with corners to 8 sqrt(2); 1, 2 and 4 are the edges."""
    grid = Grid((16, 16), "periodic")
    masks = metrics.band_masks(grid, metrics.nyquist_bands(grid))
    assert (masks.sum(0) == 1).all()
    # |k| < 1: the mean; < 2: (0,1), (1,1) and their images; < 4: 45 - 9 of the 45 lattice points inside radius 4
    assert masks.sum(1).tolist() == [1, 8, 36, 256 - 45]


def test_the_dual_norm_divides_a_wave_by_its_wavenumber():
    """e = cos 6 pi x on (0, 2), k' = 6 pi, against u = cos 2 pi x + cos 4 pi x: by hand; the mean is not seen."""
    grid = Grid((24,), "periodic", 2.0)
    x = grid.coordinates[0]
    assert metrics.hminus1_norm(torch.cos(6 * math.pi * x)[None, None], grid).item() == pytest.approx(
        1 / (6 * math.pi), rel=1e-12
    )
    u = (torch.cos(2 * math.pi * x) + torch.cos(4 * math.pi * x))[None, None]
    p = u + 0.5 * torch.cos(6 * math.pi * x) + 7
    expected = 0.5 / 3 / math.sqrt(1 + 1 / 4)
    assert metrics.rel_hminus1(p, u, grid).item() == pytest.approx(expected, rel=1e-12)
    flat = Grid((12, 10), "periodic", (2.0, 3.0))
    x, y = flat.coordinates
    wave = torch.sin(2 * math.pi * (2 * x / 2 - y / 3))[None, None]
    size = math.sqrt(2 * 3 / 2) / (2 * math.pi * math.sqrt(1 + 1 / 9))
    assert metrics.hminus1_norm(wave, flat).item() == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize("location", ["node", "cell"])
def test_the_dual_norm_between_walls_is_that_of_sines(location):
    """|k'|^2 = pi^2 (i^2 + (j / 2)^2) on (0, 1) x (0, 2); the waves by hand."""
    grid = Grid((17, 15), location, (1.0, 2.0))
    x, y = grid.coordinates
    u = (torch.sin(math.pi * x) * torch.sin(math.pi * y / 2))[None, None]
    e = (torch.sin(3 * math.pi * x) * torch.sin(math.pi * 2 * y / 2))[None, None]
    expected = 0.2 * math.sqrt((1 + 1 / 4) / (9 + 1))
    assert metrics.rel_hminus1(u + 0.2 * e, u, grid).item() == pytest.approx(expected, rel=1e-12)
    assert metrics.hminus1_norm(u, grid).item() == pytest.approx(
        1 / math.sqrt(2) / (math.pi * math.sqrt(1.25)), rel=1e-12
    )


def test_the_dual_norm_is_the_gradient_of_poissons_solution():
    """Against dense linear algebra: -phi'' = v by the exact spectral second derivative matrix."""
    n = 11
    grid = Grid((n,), "periodic", 3.0)
    v = torch.randn(1, 1, n, dtype=torch.float64)
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64) * 2 * math.pi / 3
    waves = torch.exp(1j * k[:, None] * grid.coordinates[0])
    first = (waves.T @ torch.diag(1j * k) @ waves.conj() / n).real
    phi = torch.linalg.lstsq(first.T @ first, (v - v.mean())[0, 0][:, None], driver="gelsd").solution
    expected = (first @ phi).square().sum().mul(3 / n).sqrt().item()
    assert metrics.hminus1_norm(v, grid).item() == pytest.approx(expected, rel=1e-9)


def test_ratios_are_averaged_over_channels_not_taken_jointly():
    """Channels 3 and 0.1 large, errors 0.3 and 0.1: 0.1 and 1 average to 0.55; jointly it is sqrt(0.1 / 9.01)."""
    u = torch.tensor([3.0, 0.1]).view(1, 2, 1) * torch.tensor([1.0, -1.0, 1.0, -1.0])
    p = u + torch.tensor([0.3, 0.1]).view(1, 2, 1)
    assert metrics.nrmse(p, u).item() == pytest.approx(0.55, rel=1e-6)
    assert metrics.vrmse(p, u).item() == pytest.approx(0.55, rel=1e-6)
    for scale in (torch.tensor([3.0, 1.0]), [3.0, 1.0], np.array([3.0, 1.0])):
        assert metrics.srmse(p, u, scale).item() == pytest.approx(0.1, rel=1e-6)
    assert metrics.srmse(p[:, :1], u[:, :1], 3.0).item() == pytest.approx(0.1, rel=1e-6)
    assert metrics.rel_l2(p, u).item() == pytest.approx(math.sqrt(0.1 / 9.01), rel=1e-6)


def test_predicting_the_mean_has_vrmse_one():
    u = torch.rand(2, 1, 9, 9, dtype=torch.float64) + 5
    grid = Grid((9, 9))  # trapezoid weights: its mean is not the plain one
    mean = metrics.space_mean(u, grid)[..., None, None]
    torch.testing.assert_close(metrics.vrmse(mean.expand_as(u), u, grid), torch.ones(2, dtype=torch.float64))


def test_what_is_zero_has_no_relative_error():
    u = torch.full((2, 1, 4), 1e-30)
    u[1] = 0
    assert metrics.rel_l2(u * 2, u)[0].item() == pytest.approx(1) and metrics.rel_l2(u + 1, u)[1].isnan()
    for least, sized in ((0.9e-30, True), (1.1e-30, False)):
        assert metrics.has_size(u, least=least).tolist() == [sized, False]
        assert metrics.rel_l2(u * 2, u, least=least).isnan().tolist() == [not sized, True]


def test_channels_stand_alone_when_asked_for():
    """Errors of 0.1 and 0.3 of two channels of size 1 and 2, whose deviations in space are 1 and 2 as well."""
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0])
    u = torch.stack([sign, 2 * sign])[None]
    p = u + torch.tensor([0.1, 0.3])[:, None]
    expected = torch.tensor([[0.1, 0.15]]).double()
    for name, more in (("nrmse", ()), ("vrmse", ()), ("srmse", ([1.0, 2.0],))):
        function = getattr(metrics, name)
        torch.testing.assert_close(function(p, u, *more, channels="each"), expected, rtol=1e-6, atol=0)
        torch.testing.assert_close(function(p, u, *more), expected.mean(1), rtol=1e-6, atol=0)


def test_what_is_not_finite_is_infinitely_wrong():
    u = torch.rand(3, 2, 9) + 1
    grid, bad = Grid((9,)), u.clone()
    bad[0, 1, 4], bad[1, 0, 3] = torch.nan, torch.inf
    for name in ("rel_l2", "rel_h1", "nrmse", "vrmse", "rel_linf", "rel_hminus1", "max_error"):
        function = getattr(metrics, name)
        found = function(bad, u) if name in ("rel_linf", "max_error") else function(bad, u, grid)
        assert found.isinf().tolist() == [True, True, False], name
        assert found[2] == 0
    masks = metrics.band_masks(grid, {"low": (0.0, 4.0), "mid": (4.0, 12.0)})
    for name in ("band_errors", "band_rel", "band_amplitude", "phase_error", "rmse_bands"):
        found = getattr(metrics, name)(bad, u, grid, *([] if name == "rmse_bands" else [masks]))
        assert (found[:2, :2] == torch.inf).all() and found[:2, 2].isfinite().all(), name


OF_FIELDS = {
    "max_error": lambda p, u, grid: metrics.max_error(p, u),
    "rel_linf": lambda p, u, grid: metrics.rel_linf(p, u),
    "srmse": lambda p, u, grid: metrics.srmse(p, u, [1.0, 2.0], grid),
    "has_size": lambda p, u, grid: metrics.has_size(u, grid),
    "h1_seminorm": lambda p, u, grid: metrics.h1_seminorm(u, grid),
    "hminus1_norm": lambda p, u, grid: metrics.hminus1_norm(u, grid),
    "wall_energy": lambda p, u, grid: metrics.wall_energy(u, grid),
} | {
    name: getattr(metrics, name)
    for name in ("rel_l2", "rel_h1", "nrmse", "vrmse", "rel_hminus1", "band_errors", "band_rel", "band_amplitude",
                 "phase_error", "rmse_bands")
}  # fmt: skip


@pytest.mark.parametrize("location", ["node", "cell", "periodic"])
def test_no_samples_have_no_errors(location):
    grid = Grid((6, 5), location)
    none = torch.zeros(0, 2, 6, 5)
    for name, function in OF_FIELDS.items():
        bands = (3,) if "band" in name or name == "phase_error" else ()
        assert function(none, none, grid).shape == (*bands, 0), name
    energy = metrics.mode_energy(none, grid)
    assert energy.shape[1:] == metrics.mode_energy(torch.zeros(1, 2, 6, 5), grid).shape[1:] and len(energy) == 0
    shells = metrics.shell_spectrum(energy, grid)
    assert len(shells) == 0 and metrics.log_spectral_distance(shells, shells).shape == (0,)
    if location != "periodic":
        assert metrics.rel_energy(none, none, grid, none[:, :1]).shape == (0,)
    frames = torch.zeros(0, 3, 2, 6, 5)
    events = metrics.correlation_time(metrics.correlation(frames, frames, grid), torch.arange(1.0, 4.0))
    assert events.time.shape == events.observed.shape == (0,)


def test_the_energy_norm_weighs_the_gradient():
    """u = x, e = y / 10 on the unit square with a = 4 where x < 1/2 and 1 beyond: sqrt(0.01 * 2.5 / 2.5)."""
    grid = Grid((65, 65))
    x, y = grid.coordinates
    a = torch.where(x < 0.5, 4.0, 1.0)[None, None]
    error = metrics.rel_energy((x + 0.1 * y)[None, None], x[None, None], grid, a)
    assert error.item() == pytest.approx(0.1, rel=1e-12)
    error = metrics.rel_energy((x + torch.relu(x - 0.5))[None, None], x[None, None], grid, a)
    assert error.item() == pytest.approx(math.sqrt(0.5 / 2.5), rel=2e-2)  # the jump falls into one cell


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-7, 12345.678])
@pytest.mark.parametrize("shape", [(85, 85), (17,), (64, 65)])
def test_a_constant_field_has_no_variance_to_compare_with(value, shape):
    """Its mean by quadrature is off by round-off, which is no variance."""
    grid, u = Grid(shape), torch.full((1, 1, *shape), value, dtype=torch.float64)
    assert metrics.vrmse(u + 0.1, u, grid).isnan().all() and metrics.vrmse(u + 0.1, u).isnan().all()
    assert metrics.correlation(torch.rand_like(u)[:, None], u[:, None], grid).isnan().all()
    assert metrics.correlation(u[:, None], torch.rand_like(u)[:, None], grid).eq(0).all()


MISFITS = """
import numpy as np
import torch
from opkit import metrics
from opkit.grid import Grid

grid, walls = Grid((16, 16), "periodic"), Grid((16, 16))
one, two, wide = torch.rand(1, 1, 16, 16), torch.rand(4, 1, 16, 16), torch.rand(2, 2, 16, 16)
pairs = {
    "rel_l2": metrics.rel_l2, "vrmse": metrics.vrmse, "rel_linf": metrics.rel_linf,
    "phase": lambda p, u: metrics.phase_error(p, u, grid),
    "correlation": lambda p, u: metrics.correlation(p[:, None], u[:, None], grid),
    "spectra": lambda p, u: metrics.log_spectral_distance(p.flatten(1), u.flatten(1)),
    "fno": metrics.compat.fno_rel_l2, "well": metrics.compat.well_vrmse,
    "apebench": metrics.compat.apebench_mean_nrmse, "cosine": metrics.compat.apebench_correlation,
    "pdebench": lambda p, u: metrics.compat.pdebench_nrmse(p[:, None], u[:, None]),
    "energy": lambda p, u: metrics.rel_energy(p, u, walls, two),
}
fields = {
    name: (lambda p, u, grid, name=name: getattr(metrics, name)(p, u, grid))
    for name in (
        "rel_l2", "rel_h1", "nrmse", "vrmse", "rel_hminus1", "band_errors", "band_rel", "band_amplitude", "phase_error",
        "rmse_bands",
    )
}
pairs |= {name: (lambda p, u, call=call: call(p, u, grid)) for name, call in fields.items()}
fields |= {
    name: (lambda p, u, grid, name=name: getattr(metrics, name)(u, grid))
    for name in (
        "has_size", "h1_seminorm", "gradient_square", "space_mean", "mode_energy", "waves_square", "hminus1_norm",
        "wall_energy",
    )
}
fields["norm"] = lambda p, u, grid: metrics.norm(u, grid.weights)
fields["correlation"] = lambda p, u, grid: metrics.correlation(p[:, None], u[:, None], grid)
cases = [(name, "differ in shape", lambda call=call: call(one, two)) for name, call in pairs.items()]
cases += [(name, "complex", lambda call=call: call(two.to(torch.complex64), two)) for name, call in pairs.items()]
cases += [
    ("scale", "one number per channel", lambda: metrics.srmse(two, two, torch.ones(3))),
    ("axes", "on a grid", lambda: metrics.vrmse(two[:, 0], two[:, 0], grid)),
    ("bands", "24 points", lambda: metrics.compat.pdebench_frmse(two[:, None], two[:, None])),
    ("times", "2 frames need as many", lambda: metrics.correlation_time(torch.rand(3, 2), torch.ones(3))),
    ("time", "2 frames need as many", lambda: metrics.correlation_time(torch.rand(3, 2), 1.0)),
    ("order", "increase", lambda: metrics.correlation_time(torch.rand(3, 2), [2.0, 1.0])),
    ("twice", "increase", lambda: metrics.valid_time(torch.rand(3, 2), torch.ones(3), [1.0, 1.0])),
    ("before", "none before 0", lambda: metrics.correlation_time(torch.rand(3, 2), [-1.0, 1.0])),
    ("nan", "increase", lambda: metrics.correlation_time(torch.rand(3, 2), [1.0, float("nan")])),
    ("none", "at least one frame", lambda: metrics.correlation_time(torch.rand(3, 0), [])),
    ("curve", "(n, t)", lambda: metrics.correlation_time(torch.rand(3), [1.0, 2.0, 3.0])),
    ("variance", "3 curves need a variance each", lambda: metrics.valid_time(torch.rand(3, 2), torch.ones(2), [1, 2])),
    ("float scale", "one number per channel, 2", lambda: metrics.srmse(wide, wide, 1.0)),
    ("scales", "one number per channel, 1",
     lambda: metrics.correlation(two[:, None], two[:, None], grid, torch.ones(3))),
    ("masks", "Masks (b, 256)", lambda: metrics.band_rel(two, two, grid, torch.ones(1, 225, dtype=torch.bool))),
    ("energy", "mode_energy", lambda: metrics.shell_spectrum(two[:, 0], walls)),
    ("energies", "mode_energy", lambda: metrics.hminus1_of_energy(two[:, 0], Grid((8, 8), "periodic"))),
    ("spectra", "(n, s)", lambda: metrics.log_spectral_distance(two, two)),
    ("coefficient", "(4, 1, 16, 16)", lambda: metrics.rel_energy(two, two, walls, one)),
    ("torus", "periodic", lambda: metrics.rel_energy(two, two, grid, two)),
    ("coarse", "of one kind", lambda: metrics.resolved_waves(grid, Grid((8, 8)))),
    ("row", "(n, *x)", lambda: metrics.max_error(two[0, 0, 0], two[0, 0, 0])),
    ("no points", "(n, c, *x)", lambda: metrics.rel_l2(two[..., :0], two[..., :0])),
    ("frames", "(n, t, c, *x)", lambda: metrics.compat.pdebench_nrmse(two[0], two[0])),
    ("curve array", "got ndarray; torch.as_tensor", lambda: metrics.correlation_time(np.ones((3, 2)), [1.0, 2.0])),
]
for name, call in fields.items():
    other = Grid((8, 8), "periodic")
    cases += [
        (name, "on a grid (8, 8) is expected, got shape", lambda call=call, other=other: call(two, two, other)),
        (name, "on a grid (16, 16) is expected, got shape", lambda call=call: call(two[:, 0], two[:, 0], grid)),
        (name, "on a grid (16, 16) is expected, got shape", lambda call=call: call(two[:, :0], two[:, :0], grid)),
        (name, "complex", lambda call=call: call(two.to(torch.complex64), two.to(torch.complex64), grid)),
        (name, "got ndarray; torch.as_tensor makes one", lambda call=call: call(two.numpy(), two.numpy(), grid)),
    ]
cases += [(name, "got ndarray", lambda call=call: call(two.numpy(), two)) for name, call in pairs.items()
          if name not in ("spectra", "correlation")]
for name, said, call in cases:
    try:
        call()
    except ValueError as problem:
        assert said in str(problem), (name, problem)
    else:
        raise AssertionError(name)
"""


def test_what_does_not_fit_is_refused_not_broadcast():
    """As users have it: without the shape checks that tests run with, which would refuse it first."""
    result = subprocess.run([sys.executable, "-c", MISFITS], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr

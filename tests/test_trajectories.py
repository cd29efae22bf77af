"""Times to an event, growth of errors, and other projects' definitions, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from opkit import metrics
from opkit.grid import Grid
from opkit.metrics import compat

GRID = Grid((64,), "periodic", 2 * math.pi)
X = GRID.coordinates[0]


def test_the_correlation_of_a_shifted_wave_is_the_cosine_of_its_phase():
    truth = torch.sin(X).expand(1, 3, 1, -1) + 7  # a mean must not help
    phases = torch.tensor([0.0, 0.5, 2.0])
    prediction = 3 * torch.sin(X + phases[:, None])[None, :, None] - 1
    torch.testing.assert_close(metrics.correlation(prediction, truth, GRID)[0], torch.cos(phases).double())


def test_channels_of_other_units_count_alike():
    """One channel right, one opposite: correlation 0 when each is divided by its size, -1 when the large one rules."""
    truth = torch.stack([torch.sin(X), 1e6 * torch.sin(X)])[None, None]
    prediction = truth * torch.tensor([1.0, -1.0])[:, None]
    scaled = metrics.correlation(prediction, truth, GRID, torch.tensor([1.0, 1e6]))
    assert abs(scaled.item()) < 1e-12
    assert metrics.correlation(prediction, truth, GRID).item() == pytest.approx(-1, abs=1e-9)


def test_a_crossing_is_interpolated_and_what_never_crosses_is_censored():
    times = torch.tensor([0.5, 1.0, 1.5])
    values = torch.tensor([[0.9, 0.7, 0.95], [0.99, 0.98, 0.97], [0.6, 0.9, 0.9], [0.9, -math.inf, 0.9]])
    found = metrics.correlation_time(values, times)
    # 0.9 -> 0.7 passes 0.8 half way from 0.5 to 1; 1 -> 0.6 half way from 0 to 0.5; infinity after the frame before it
    assert found.time.tolist() == pytest.approx([0.75, 1.5, 0.25, 0.5])
    assert found.observed.tolist() == [True, False, True, True]
    with pytest.raises(ValueError, match="has crossed it already"):
        metrics.correlation_time(values, times, 1.5)


def test_a_constant_truth_has_no_correlation_and_loses_nothing():
    """Frames: right; truth constant; prediction constant; prediction NaN; both constant."""
    wave, flat, gone = torch.sin(X), torch.full_like(X, 0.1), torch.full_like(X, math.nan)
    truth = torch.stack([wave, flat, wave, wave, flat])[None, :, None]
    prediction = torch.stack([2 * wave, wave, flat, gone, flat])[None, :, None]
    found = metrics.correlation(prediction, truth, GRID)[0].tolist()
    assert found == pytest.approx([1, math.nan, 0, -math.inf, math.nan], nan_ok=True)
    big = prediction[:, :1] * 1e-100  # whose squares' product no float64 holds
    assert metrics.correlation(big, truth[:, :1] * 1e-100, GRID).item() == pytest.approx(1)
    nan, inf = math.nan, math.inf
    times = [1.0, 2.0, 3.0]
    rows = torch.tensor([[nan, nan, nan], [0.9, nan, 0.7], [nan, 0.6, nan], [0.9, nan, -inf], [0.7, nan, nan]])
    events = metrics.correlation_time(rows, times)
    # 0.9 stands until 2, and is 0.7 at 3; 1 stands until 1, and is 0.6 at 2; infinity after the frame before it
    assert events.time.tolist() == pytest.approx([3, 2.5, 1.5, 2, 2 / 3])
    assert events.observed.tolist() == [False, True, True, True, True]


def test_what_explodes_is_lost_before_what_is_merely_wrong():
    times = torch.arange(1.0, 6.0)
    square = torch.stack([torch.full((5,), math.inf), torch.full((5,), 4.0), torch.full((5,), 1e30)])
    found = metrics.valid_time(square, torch.ones(3), times)
    assert found.time[0] <= found.time[2] < found.time[1] and found.observed.all()


def test_the_valid_time_is_when_the_error_passes_its_share_of_the_flows_size():
    """sqrt(<e^2> / 4) = 0.1, 0.3, 0.5 at t = 1, 2, 3 passes 0.4 at 2.5."""
    square = 4 * torch.tensor([[0.1, 0.3, 0.5], [0.1, 0.2, 0.39]]) ** 2
    found = metrics.valid_time(square, torch.tensor([4.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]))
    assert found.time.tolist() == pytest.approx([2.5, 3.0]) and found.observed.tolist() == [True, False]
    for times in ([1.0, 2.0, 3.0], np.arange(1.0, 4.0)):
        assert torch.equal(metrics.valid_time(square, torch.tensor([4.0, 4.0]), times).time, found.time)


def test_why_a_state_leaves():
    bounds = metrics.Bounds(norm=2.0, peak=5.0)
    before = torch.ones(5, 1, 100)
    state = before * 1.01
    state[1] *= 2  # too large in the mean
    state[2, 0, 3] = -6.0  # at one point
    state[3] = before[3] * (1 + 1e-8)  # frozen
    state[4, 0, 7] = torch.nan
    codes = metrics.leaving(state, before, bounds).tolist()
    assert [metrics.LEAVES[c - 1] if c else "" for c in codes] == ["", "too large", "too large", "frozen", "not finite"]


def test_the_rate_of_an_exponential():
    times = np.arange(1, 41) * 0.5
    found = metrics.growth_rate(1e-4 * np.exp(0.7 * times), times, 1.0)
    assert found.rate == pytest.approx(0.7, rel=1e-10) and found.r2 == pytest.approx(1)
    # Twice its first value is passed at frame 3, 0.2 sqrt(2) after frame 22: log(2828) / 0.35 = 22.7.
    assert found.points == 20 and abs(found.bend) < 1e-10
    faster = metrics.growth_rate(1e-4 * np.exp(0.1 * times + 0.02 * times**2), times, 1.0)
    assert faster.bend == pytest.approx(0.02, rel=1e-8)


def test_saturation_and_noise_give_no_rate():
    times = np.arange(1.0, 31.0)
    assert metrics.growth_rate(np.full(30, 0.9), times, 1.0).rate is None
    random = np.random.default_rng(0)
    noise = metrics.growth_rate(10 ** random.uniform(-3, -1, 30), times, 1.0)
    assert noise.rate is None and noise.reason
    broken = np.r_[1e-5 * np.exp(times[:3]), np.full(27, np.nan)]
    assert metrics.growth_rate(broken, times, 1.0).rate is None


def test_the_exponent_of_a_power():
    times = np.arange(1.0, 51.0)
    found = metrics.power_law(3e-3 * times**0.5, times, 1.0)
    assert found.rate == pytest.approx(0.5, rel=1e-10) and found.points == 50
    # 1e-3 t^2 passes a fifth of saturation, 0.2 sqrt(2), after t = sqrt(283) = 16.8; what comes later is not fitted.
    saturating = np.minimum(1e-3 * times**2, 1.4)
    found = metrics.power_law(saturating, times, 1.0)
    assert found.rate == pytest.approx(2, rel=1e-10) and found.points == 16
    assert metrics.power_law(np.full(50, 0.9), times, 1.0).reason == "fewer than five frames before saturation"
    assert metrics.power_law(10 ** np.random.default_rng(0).uniform(-3, -1, 50), times, 1.0).rate is None
    assert metrics.power_law(np.zeros(50), times, 1.0).rate is None


def lorenz96(x: np.ndarray, dt: float, steps: int) -> np.ndarray:
    """Lorenz-96 with 36 variables and F = 8 by classical Runge-Kutta."""

    def f(x):
        return (np.roll(x, -1, -1) - np.roll(x, 2, -1)) * np.roll(x, 1, -1) - x + 8.0

    frames = []
    for _ in range(steps):
        a = f(x)
        b = f(x + dt / 2 * a)
        c = f(x + dt / 2 * b)
        x = x + dt / 6 * (a + 2 * b + 2 * c + f(x + dt * c))
        frames.append(x)
    return np.stack(frames, -2)


def test_the_growth_rate_finds_the_lyapunov_exponent_of_lorenz_96():
    """1.69 per unit of time for 36 to 40 variables and F = 8 (Lorenz and Emanuel 1998 give a doubling time of 0.42)."""
    random = np.random.default_rng(0)
    start = lorenz96(8 + random.standard_normal((48, 36)), 0.02, 500)[:, -1]
    # Perturbations settle on the leading direction first.
    other = start + 1e-9 * random.standard_normal(start.shape)
    start, other = lorenz96(start, 0.02, 250)[:, -1], lorenz96(other, 0.02, 250)[:, -1]
    apart = other - start
    other = start + 1e-5 * apart / np.linalg.norm(apart, axis=1, keepdims=True)
    one, two = lorenz96(start, 0.02, 500), lorenz96(other, 0.02, 500)
    errors = np.sqrt(((one - two) ** 2).mean(2))
    times = 0.02 * np.arange(1, 501)
    rates = [metrics.growth_rate(e, times, float(one.std())).rate for e in errors]
    assert all(r is not None for r in rates)
    assert np.mean(rates) == pytest.approx(math.log(2) / 0.42, rel=0.1)


def test_fno_and_opkit_differ_at_the_walls_alone():
    truth, prediction = torch.ones(2, 1, 3), torch.tensor([[[1.0, 1.3, 1.0]], [[1.4, 1.0, 1.0]]])
    assert compat.fno_rel_l2(prediction, truth).item() == pytest.approx((0.3 + 0.4) / 3**0.5 / 2)
    ours = metrics.rel_l2(prediction, truth, Grid((3,)))
    assert ours.tolist() == pytest.approx([0.3 / 2**0.5, 0.4 / 2])  # weights 1/4, 1/2, 1/4


def test_pdebench_by_hand():
    """Two samples, one channel, two frames of two points: ratios 0.5, 0.1; 0.2, 0.4."""
    truth = torch.tensor([[[[2.0, 2.0]], [[1.0, -1.0]]], [[[5.0, 5.0]], [[10.0, 10.0]]]])
    ratios = torch.tensor([[0.5, 0.1], [0.2, 0.4]]).view(2, 2, 1, 1)
    assert compat.pdebench_nrmse(truth * (1 + ratios), truth).item() == pytest.approx(0.3)
    # Errors sum to 2, 0; 2, 8: root mean squares over samples 2 and sqrt(32), over two points, averaged.
    assert compat.pdebench_crmse(truth * (1 + ratios), truth).item() == pytest.approx((2 + 32**0.5) / 4)


def test_pdebench_bands_miss_waves_that_run_the_other_way():
    """a cos(k.x) has amplitude a N / 2 at k and -k: only a k with no negative part is seen, in the shell of |k|."""
    grid = Grid((32, 32), "periodic")
    x, y = 2 * math.pi * grid.coordinates
    zero = torch.zeros(1, 1, 1, 32, 32, dtype=torch.float64)
    seen = compat.pdebench_frmse(zero + 0.6 * torch.cos(3 * x + 4 * y), zero)  # shell 5, of the eight from 4 to 11
    assert seen == pytest.approx((0, 0.3 / 8, 0), abs=1e-12)
    assert compat.pdebench_frmse(zero + 0.6 * torch.cos(3 * x - 4 * y), zero) == pytest.approx((0, 0, 0), abs=1e-12)
    line = torch.zeros(1, 1, 1, 32, dtype=torch.float64)
    wave = compat.pdebench_frmse(line + 0.6 * torch.cos(13 * 2 * math.pi * Grid((32,), "periodic").axis(0)), line)
    assert wave == pytest.approx((0, 0, 0.3 / 5), abs=1e-12)  # one of the shells 12 to 16


def test_the_wells_variance_is_bessels_and_has_an_epsilon():
    truth = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]])
    plain = metrics.vrmse(truth + 1, truth).item()
    theirs = compat.well_vrmse(truth + 1, truth).item()
    assert theirs / plain == pytest.approx(math.sqrt(3 / 4), rel=1e-6)
    small = 1e-5 * truth  # its variance is a thousandth of the epsilon
    assert compat.well_vrmse(small * 2, small).item() < 0.1 < metrics.vrmse(small * 2, small).item()


def test_apebench_sums_channels_and_does_not_centre():
    truth = torch.ones(1, 2, 4)
    prediction = truth + torch.tensor([0.1, 0.3]).view(1, 2, 1)
    assert compat.apebench_mean_nrmse(prediction, truth).item() == pytest.approx(0.4)
    assert metrics.nrmse(prediction, truth).item() == pytest.approx(0.2)
    assert compat.apebench_gmean(torch.tensor([1.0, 4.0, 2.0, 99.0]), 3).item() == pytest.approx(2.0)
    offset = torch.sin(X).expand(1, 1, -1)
    assert compat.apebench_correlation(offset + 100, -offset + 100).item() > 0.99
    assert metrics.correlation(offset[:, None] + 100, 100 - offset[:, None], GRID).item() == pytest.approx(-1)
    with pytest.raises(ValueError, match="100 frames"):
        compat.apebench_gmean(torch.ones(5))


def test_pdearena_counts_what_recovers():
    phases = torch.tensor([0.1, 1.5, 0.1, 1.5])  # correlated again at the third frame
    truth, prediction = torch.sin(X).expand(1, 4, 1, -1), torch.sin(X + phases[:, None])[None, :, None]
    assert compat.pdearena_correlation_steps(prediction, truth, GRID) == 2
    ours = metrics.correlation_time(metrics.correlation(prediction, truth, GRID), torch.arange(1.0, 5.0))
    assert 1 < ours.time.item() < 2

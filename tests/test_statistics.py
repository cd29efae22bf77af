"""Intervals, times to an event and comparisons, against scipy and numbers worked out by hand."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from opkit.evaluation.statistics import (
    autocorrelation_time,
    compare,
    compare_runs,
    holm,
    mean_of_series,
    mean_over_runs,
    mean_with_interval,
    survival,
)
from opkit.metrics import Events


def events(*pairs):
    time, observed = zip(*pairs, strict=True)
    return Events(torch.tensor(time, dtype=torch.float64), torch.tensor(observed))


@pytest.mark.parametrize("n", [8, 60])
def test_the_interval_is_scipys_bca(n):
    values = np.random.default_rng(0).exponential(1.0, n)
    ours = mean_with_interval(values, 20000, 1)
    theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", rng=2).confidence_interval
    spread = theirs.high - theirs.low
    assert abs(ours.ci_low - theirs.low) < 0.02 * spread and abs(ours.ci_high - theirs.high) < 0.02 * spread
    assert ours.geometric_mean == pytest.approx(scipy.stats.gmean(values))


@pytest.mark.parametrize(("n", "least", "most"), [(8, 0.82, 0.90), (32, 0.89, 0.95)])
def test_intervals_of_few_samples_are_too_short_by_so_much(n, least, most):
    """Log-normal numbers, 0.5 the standard deviation of the logarithm, of mean exp(1/8): 0.86 and 0.916 of 1000
    intervals hold it; fewer than five samples have none."""
    random = np.random.default_rng(0)
    found = [mean_with_interval(random.lognormal(0, 0.5, n), 999, 0) for _ in range(1000)]
    assert least < np.mean([f.ci_low <= math.exp(1 / 8) <= f.ci_high for f in found]) < most
    few = mean_with_interval(random.lognormal(0, 1, 4), 999, 0)
    assert few.ci_low is None and few.reason == "4 samples are too few for an interval"


def test_kaplan_meier_by_hand():
    """Events at 1, 3, 4, 5; one withdrawn at 2. At 1: 4/5. At 3 of three at risk: 8/15. At 4: 4/15. At 5: 0."""
    found = survival(events((1.0, True), (2.0, False), (3.0, True), (4.0, True), (5.0, True)), 500, 0)
    assert found.times == [0, 1, 3, 4, 5]
    assert found.share == pytest.approx([1, 4 / 5, 8 / 15, 4 / 15, 0])
    assert found.median == 4.0 and found.first == 1.0 and found.censored == 0.2
    assert found.mean == pytest.approx(1 * 1 + 2 * 4 / 5 + 1 * 8 / 15 + 1 * 4 / 15)
    assert found.mean_low < found.mean < found.mean_high
    # Greenwood's variance on the log-log scale at t = 1: log S = log 0.8, s^2 = 1 / (5 * 4) / log(0.8)^2.
    half = 1.959964 * math.sqrt(1 / 20) / abs(math.log(0.8))
    assert found.low[1] == pytest.approx(0.8 ** math.exp(half), rel=1e-4)
    assert found.high[1] == pytest.approx(0.8 ** math.exp(-half), rel=1e-4)


def test_nothing_happened():
    found = survival(events((7.0, False), (7.0, False)), 500, 0)
    assert found.median is None and found.first is None and found.mean == 7.0 and found.censored == 1.0
    assert found.mean_low is None and found.times == [0.0]


def test_half_did_and_the_mean_is_to_the_horizon():
    found = survival(events((2.0, True), (2.0, True), (10.0, False), (10.0, False)), 500, 0)
    assert found.median == 2.0 and found.mean == pytest.approx(6.0) and found.share == pytest.approx([1.0, 0.5])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_pairing_finds_a_small_difference_between_noisy_samples():
    random = np.random.default_rng(0)
    hard = random.uniform(0.1, 10, 60)
    found = compare(hard + 0.05 + random.normal(0, 0.02, 60), hard, 2000, 0)
    assert found.ci_low < 0.05 < found.ci_high < 0.06 and found.p < 0.01
    alike = compare(hard + random.normal(0, 0.02, 60), hard, 2000, 0)
    assert alike.ci_low < 0 < alike.ci_high and alike.p > 0.05
    assert compare(hard, hard, 500, 0).p == 1.0
    with pytest.raises(ValueError, match="same samples"):
        compare(hard, hard[1:], 500, 0)


def test_a_permutation_test_is_right_about_its_own_rate():
    """Under no difference p is below 0.1 in about a tenth of experiments."""
    random = np.random.default_rng(0)
    hits = sum(compare(random.normal(0, 1, 12), np.zeros(12), 400, i).p < 0.1 for i in range(200))
    assert 8 <= hits <= 34  # 20, give or take three standard deviations


def layout(random, runs, n, of_runs, of_samples, of_both):
    """mean 1 + run + sample + both, all normal."""
    return (
        1
        + of_runs * random.normal(size=(runs, 1))
        + of_samples * random.normal(size=(1, n))
        + of_both * random.normal(size=(runs, n))
    )


def test_the_interval_over_runs_is_worked_out_by_hand():
    """Run means 1, 2, 3 and nothing else varies: Student's interval of three numbers, 2 -+ 4.3027 sqrt(1 / 3)."""
    found = mean_over_runs(np.array([[1.0], [2.0], [3.0]]) + np.zeros((3, 50)))
    assert found.value == 2.0 and found.ci_high - 2 == pytest.approx(4.302653 * math.sqrt(1 / 3), rel=1e-6)
    assert found.ci_low == pytest.approx(4 - found.ci_high)
    # Nor do runs that agree narrow what the samples leave open: 2 -+ t(49) s / sqrt(50).
    samples = np.random.default_rng(0).normal(2, 0.1, 50)
    alike = mean_over_runs(samples + np.zeros((5, 1)))
    half = scipy.stats.t.ppf(0.975, 49) * samples.std(ddof=1) / math.sqrt(50)
    assert (alike.ci_high - alike.ci_low) / 2 == pytest.approx(half, rel=1e-6)
    assert mean_over_runs(samples + np.zeros((2, 1))).ci_low is None
    assert mean_over_runs(np.full((3, 4), np.nan)).reason == "undefined for 4 of 4 samples"
    assert mean_over_runs(np.full((3, 4), np.inf)).reason == "not finite for 12 of 12 samples"
    gap = np.insert(samples + np.zeros((5, 1)), 7, np.nan, axis=1)  # a truth of no size
    without = mean_over_runs(gap)
    assert (without.value, without.ci_low, without.n, without.n_degenerate) == (alike.value, alike.ci_low, 50, 1)
    gap[0, 7] = 1.0  # what failed in some runs alone
    assert mean_over_runs(gap).value is None


@pytest.mark.parametrize("spread", [(0.2, 0.1, 0.1), (0.01, 0.3, 0.05), (0.0, 0.0, 0.3)])
@pytest.mark.parametrize("runs", [3, 5])
def test_intervals_over_runs_cover_the_mean(runs, spread):
    random = np.random.default_rng(0)
    found = [mean_over_runs(layout(random, runs, 40, *spread)) for _ in range(600)]
    covered = np.mean([f.ci_low <= 1 <= f.ci_high for f in found])
    assert 0.92 < covered <= 1.0  # 0.95; three standard deviations of 600 experiments are 0.027


def test_configurations_that_differ_only_by_their_seeds_are_not_told_apart():
    """5 percent between seeds, samples shared: a test of their means on these samples is nearly always fooled."""
    random = np.random.default_rng(0)
    found, fooled = [], []
    for i in range(200):
        samples = 0.3 * random.normal(size=(1, 60))
        one, two = (samples + layout(random, 3, 60, 0.05, 0.0, 0.02) for _ in range(2))
        found.append(compare_runs(one, two, 200, i))
        fooled.append(compare(one.mean(0), two.mean(0), 200, i).p < 0.05)
    assert np.mean(fooled) > 0.5
    assert np.mean([f.p < 0.05 for f in found]) < 0.1 and {f.of for f in found} == {"configurations"}
    assert np.mean([f.ci_low <= 0 <= f.ci_high for f in found]) > 0.9
    clear = compare_runs(layout(random, 3, 60, 0.05, 0.3, 0.02) + 1, layout(random, 3, 60, 0.05, 0.3, 0.02), 200, 0)
    assert clear.p < 0.05 and clear.ci_low > 0.5


def test_fewer_runs_than_three_stand_for_their_weights():
    random = np.random.default_rng(0)
    one, two = layout(random, 1, 40, 0, 0.3, 0.01), layout(random, 5, 40, 0.1, 0.3, 0.01)
    found = compare_runs(one, two, 300, 0)
    assert found == compare(one[0], two.mean(0), 300, 0) and found.of == "weights"


def test_a_series_with_memory_has_a_wider_interval_than_its_length_suggests():
    """x' = 0.9 x + noise: integrated autocorrelation time (1 + 0.9) / (1 - 0.9) = 19 steps."""
    random = np.random.default_rng(0)
    x = np.zeros(20000)
    for i in range(1, len(x)):
        x[i] = 0.9 * x[i - 1] + random.normal()
    assert autocorrelation_time(x) == pytest.approx(19, rel=0.2)
    found = mean_of_series(x, 1000, 0)
    assert (found.ci_high - found.ci_low) / 3.92 == pytest.approx(x.std() * math.sqrt(19 / len(x)), rel=0.25)
    assert "shorter than four blocks" in mean_of_series(x[:60], 100, 0).reason

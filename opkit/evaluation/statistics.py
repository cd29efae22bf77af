"""Means over samples with bias-corrected accelerated (BCa) bootstrap intervals: Efron, J. Am. Stat. Assoc. 82 (1987).

The unit of resampling is the sample (an initial or boundary condition, never a grid point or a time step).
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval; what cannot be had is None, and `reason` says why."""

    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    median: float | None = None
    maximum: float | None = None
    reason: str | None = None


def mean_with_interval(values: Tensor | np.ndarray, resamples: int, seed: int) -> Estimate:
    """Mean of one number per sample, with its interval.

    Args:
        values: `(n,)`. Values that are not finite make the mean undefined; they are counted, not dropped.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap.
    """
    array = np.asarray(values, dtype=np.float64)
    if bad := int((~np.isfinite(array)).sum()):
        return Estimate(None, None, None, len(array), reason=f"undefined for {bad} of {len(array)} samples")
    low, high, reason = _bca((array,), np.mean, resamples, seed)
    return Estimate(float(array.mean()), low, high, len(array), float(np.median(array)), float(array.max()), reason)


def gain_with_interval(own: Tensor | np.ndarray, other: Tensor | np.ndarray, resamples: int, seed: int) -> Estimate:
    """1 - (mean own / mean other)^2 for errors on the same samples, resampled in pairs.

    A ratio of means, as the table of errors shows them: a mean over samples of ratios would be ruled by the few samples
    on which the other error happens to be tiny.
    """
    pair = (np.asarray(own, dtype=np.float64), np.asarray(other, dtype=np.float64))
    n = len(pair[0])
    if not all(np.isfinite(p).all() for p in pair) or not pair[1].mean() > 0:
        return Estimate(None, None, None, n, reason="an error is undefined, or the other is zero")

    def statistic(own: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
        return 1 - (own.mean(axis) / other.mean(axis)) ** 2

    low, high, reason = _bca(pair, statistic, resamples, seed)
    return Estimate(float(statistic(*pair)), low, high, n, reason=reason)


def _bca(
    samples: tuple[np.ndarray, ...], statistic: Any, resamples: int, seed: int
) -> tuple[float | None, float | None, str | None]:
    """(low, high, None), or (None, None, why there is no interval)."""
    from scipy.stats import DegenerateDataWarning, bootstrap

    if len(samples[0]) < 2:
        return None, None, "one sample has no interval"
    if all(np.ptp(s) == 0 for s in samples) or (len(samples) == 2 and np.array_equal(*samples)):
        return None, None, "all samples agree"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # its 0 / 0 where resamples do not vary; reported below
        interval = bootstrap(
            samples, statistic, n_resamples=resamples, method="BCa", paired=len(samples) > 1, vectorized=True,
            rng=np.random.default_rng(seed),
        ).confidence_interval  # fmt: skip
    low, high = float(interval.low), float(interval.high)
    if not (np.isfinite(low) and np.isfinite(high)):
        return None, None, "too few samples, or too alike, for an interval"
    return low, high, None

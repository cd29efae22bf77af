"""Means over samples with bias-corrected accelerated (BCa) bootstrap intervals: Efron, J. Am. Stat. Assoc. 82 (1987).

The unit of resampling is the sample (an initial or boundary condition, never a grid point or a time step).
"""

import warnings
from dataclasses import dataclass

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
    from scipy.stats import DegenerateDataWarning, bootstrap

    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if bad := int((~np.isfinite(array)).sum()):
        return Estimate(None, None, None, n, reason=f"undefined for {bad} of {n} samples")
    point = dict(value=float(array.mean()), n=n, median=float(np.median(array)), maximum=float(array.max()))
    if n < 2 or np.ptp(array) == 0:
        why = "one sample has no interval" if n < 2 else "all samples agree"
        return Estimate(ci_low=None, ci_high=None, reason=why, **point)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        interval = bootstrap(
            (array,), np.mean, n_resamples=resamples, method="BCa", rng=np.random.default_rng(seed)
        ).confidence_interval
    low, high = float(interval.low), float(interval.high)
    if not (np.isfinite(low) and np.isfinite(high)):
        return Estimate(ci_low=None, ci_high=None, reason="too few samples for an interval", **point)  # type: ignore[arg-type]
    return Estimate(ci_low=low, ci_high=high, **point)  # type: ignore[arg-type]

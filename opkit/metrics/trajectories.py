"""How long a rollout is right, and when it fails: one event time per sample, censored where it did not happen.

With <.> the mean over space and n = 1, 2, ... the frames after those given:

    correlation(n)      <(p - <p>)(u - <u>)> / (<(p - <p>)^2> <(u - <u>)^2>)^1/2
    correlation_time    first t at which it is below 0.8
    valid_time          first t at which (<e^2> / <(u - climate)^2> averaged over t)^1/2 is above 0.4
    divergence_time     first t at which a state leaves the bounds of the training data, or freezes

Times are interpolated linearly between frames. What has not happened by the end of a rollout happens later, nobody
knows when: averages of such times are Kaplan-Meier's (`opkit.evaluation.statistics`), never means of the numbers here.

    growth rate         slope of log ||e(t)|| between its first values and a fifth of saturation, sqrt(2) standard
                        deviations of the flow: the leading Lyapunov exponent where errors are small and grow by chaos
    power law           slope of log ||e(t)|| over log t up to there: 1/2 where the errors of steps are independent (a
                        random walk), 1 where they are always the same (a bias), more where they feed themselves
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from opkit.grid import Grid
from opkit.metrics.pointwise import Numbers, check_pair, check_real, per_channel

CORRELATED = 0.8
"""Correlation below which a trajectory counts as lost."""
VALID = 0.4
"""Error, in standard deviations of the flow, above which a forecast counts as useless."""


@dataclass(frozen=True)
class Events:
    """When something happened to each sample, or until when it had not.

    Args:
        time: Time of the event; where it was not observed, the last time looked at.
        observed: Whether it happened.
    """

    time: Float[Tensor, " n"]
    observed: Bool[Tensor, " n"]


def correlation(
    prediction: Float[Tensor, "n t c *x"],
    truth: Float[Tensor, "n t c *x"],
    grid: Grid,
    scale: Numbers | float | None = None,
) -> Float[Tensor, "n t"]:
    """Pearson correlation over space of each frame, centred, channels jointly.

    Args:
        prediction: Frames.
        truth: Likewise.
        grid: Supplies quadrature weights.
        scale: Size of each channel, `(c,)`, by which it is divided, so that channels of different units count alike;
            none for one channel.

    Returns:
        `(n, t)`; NaN where the true frame is constant, as there is nothing to correlate with; else 0 where the
        predicted one is constant, and minus infinity, worse than any, where it is not finite.
    """
    check_pair(prediction, truth, grid, "n, t, c")
    sizes = None if scale is None else per_channel(scale, truth.shape[2], truth)
    weights = grid.weights.to(prediction.device)
    weights = weights / weights.sum()
    axes = tuple(range(-grid.ndim, 0))

    def centred(values: Tensor) -> Tensor:
        values = values.to(torch.float64)
        if sizes is not None:
            values = values / sizes.view(-1, *(1 for _ in grid.shape))
        return values - (values * weights).sum(axes, keepdim=True)

    p, u = centred(prediction), centred(truth)
    both, own, true = ((v * weights).sum((-grid.ndim - 1, *axes)) for v in (p * u, p * p, u * u))
    varies = [(v.flatten(3).amax(3) > v.flatten(3).amin(3)).any(2) for v in (prediction, truth)]
    product = own * true
    out_of_range = (product == 0) | product.isinf()  # of float64, though neither factor may be
    size = torch.where(out_of_range, own.sqrt() * true.sqrt(), product.sqrt())
    found = torch.where((own > 0) & varies[0], both / size, 0.0)
    found = torch.where(torch.isfinite(own), found, -torch.inf)
    return torch.where((true > 0) & varies[1], found, torch.nan)


def first_crossing(
    values: Float[Tensor, "n t"], times: Numbers, threshold: float, initial: float, below: bool = True
) -> Events:
    """When a curve first falls below a threshold, or rises above it.

    Args:
        values: The curve at `times`. A value that is not finite has crossed.
        times: Of the frames, `(t,)`, increasing, none before 0.
        threshold: The line.
        initial: Value at time 0, on the good side.
        below: Whether falling below it is the event; else rising above.

    Returns:
        Times interpolated linearly between frames. Where the value is not finite, the time of the frame before it: the
        limit for ever larger ones, so that what explodes is never later than what is merely wrong.

    Raises:
        ValueError: There are no frames, `times` are not as many or do not increase, or time 0 is not on the good side.
    """
    t = _times(values, times)
    values = values.double()
    if not below:
        values, threshold, initial = -values, -threshold, -initial
    if initial < threshold:
        raise ValueError(f"threshold={abs(threshold):g}: what is {abs(initial):g} at time 0 has crossed it already.")
    crossed = ~(values >= threshold)  # NaN has crossed too
    happened = crossed.any(1)
    first = crossed.double().argmax(1)
    t = torch.cat([t.new_zeros(1), t])
    before = torch.cat([torch.full_like(values[:, :1], initial), values], 1).gather(1, first[:, None])[:, 0]
    after = values.gather(1, first[:, None])[:, 0]
    share = torch.where(torch.isfinite(after), (before - threshold) / (before - after), 0.0)
    when = t[first] + share * (t[first + 1] - t[first])
    return Events(torch.where(happened, when, t[-1]), happened)


def _times(curves: Tensor, times: Numbers) -> Float[Tensor, " t"]:
    """Times as a float64 tensor beside the curves `(n, t)`; ValueError unless they are times of their frames."""
    check_real(curves)
    if curves.ndim != 2 or not curves.shape[1]:
        raise ValueError(f"Curves (n, t) of at least one frame are expected, got shape {tuple(curves.shape)}.")
    t = torch.as_tensor(times, dtype=torch.float64, device=curves.device)
    if t.shape != curves.shape[1:]:
        raise ValueError(f"{curves.shape[1]} frames need as many times, got {tuple(t.shape)}.")
    if not (t[0] >= 0 and (t.diff() > 0).all()):
        raise ValueError(f"times increase from frame to frame, none before 0; got {', '.join(f'{v:g}' for v in t)}.")
    return t


def correlation_time(values: Float[Tensor, "n t"], times: Numbers, threshold: float = CORRELATED) -> Events:
    """First time the `correlation` is below a threshold. Frames without one, NaN as their truth is constant, say
    nothing: until the next that has one the last known stands. What is minus infinity is lost; otherwise as
    `first_crossing`."""
    t = _times(values, times)
    known = torch.where(values.isnan(), 0, torch.arange(1, len(t) + 1, device=values.device)).cummax(1).values
    held = torch.cat([torch.ones_like(values[:, :1]), values], 1).gather(1, known)
    return first_crossing(held, t, threshold, 1.0)


def valid_time(
    mean_square: Float[Tensor, "n t"],
    variance: Float[Tensor, " n"],
    times: Numbers,
    threshold: float = VALID,
) -> Events:
    """First time the error is above a share of the flow's own variability.

    Args:
        mean_square: <e^2> of each frame.
        variance: Mean over time of <(u - climate)^2>, the climate being a mean state.
        times: Of the frames.
        threshold: Errors are taken relative to the root of `variance`.
    """
    check_real(mean_square, variance)
    if variance.shape != mean_square.shape[:1]:
        raise ValueError(f"{len(mean_square)} curves need a variance each, got shape {tuple(variance.shape)}.")
    return first_crossing((mean_square / variance[:, None]).sqrt(), times, threshold, 0.0, below=False)


@dataclass(frozen=True)
class Bounds:
    """What a state must stay within.

    Args:
        norm: Largest root mean square.
        peak: Largest absolute value.
        still: Least change from one frame to the next, relative to the state: below it a rollout has frozen.
    """

    norm: float
    peak: float
    still: float = 1e-6


LEAVES = ("not finite", "too large", "frozen")
"""What ends a trajectory, in the order of `leaving`'s codes 1, 2, 3."""


def leaving(state: Float[Tensor, "n c *x"], before: Float[Tensor, "n c *x"], bounds: Bounds) -> Tensor:
    """Code of why each state is out of bounds, `(n,)` integers: 0 if it is not, else 1 + an index into `LEAVES`.

    Args:
        state: A frame.
        before: The one before it.
        bounds: What it must stay within. Freezing is only an event where the truth moves; that is the caller's to say.
    """
    flat, change = state.double().flatten(1), (state.double() - before.double()).flatten(1)
    size = flat.square().mean(1).sqrt()
    finite = torch.isfinite(flat).all(1)
    large = (size > bounds.norm) | (flat.abs().amax(1) > bounds.peak)
    frozen = change.square().mean(1).sqrt() <= bounds.still * size  # what is zero stays so
    code = torch.where(frozen, 3, 0)
    code = torch.where(large, 2, code)
    return torch.where(finite, code, 1)


@dataclass(frozen=True)
class Growth:
    """Growth of an error, fitted; the rate is None where there is no stretch of it.

    Args:
        rate: Per unit of time; of a power law its exponent.
        r2: Of the fit.
        points: Frames fitted.
        reason: Why there is no rate.
        bend: Quadratic coefficient of a parabola fitted to the same points: above zero, growth is faster than the law.
    """

    rate: float | None
    r2: float | None
    points: int
    reason: str | None = None
    bend: float | None = None


def growth_rate(errors: np.ndarray, times: np.ndarray, spread: float) -> Growth:
    """Slope of log ||e|| over time by least squares.

    Args:
        errors: Norm of one trajectory's error, `(t,)`.
        times: Of the frames.
        spread: Standard deviation of the flow, in the unit of `errors`. Two unrelated states are sqrt(2) of it apart.

    Returns:
        The fit between twice the first error and a fifth of saturation; no rate where that holds fewer than five frames
        or where log ||e|| is no line there (R^2 below 0.9).
    """
    errors, times = np.asarray(errors, np.float64), np.asarray(times, np.float64)
    begin = np.flatnonzero(errors >= np.maximum(2 * errors[:1], 1e-6 * spread))
    start = int(begin[0]) if len(begin) else len(errors)
    return _line(times, errors, start, spread, "fewer than five frames between its first values and saturation")


def power_law(errors: np.ndarray, times: np.ndarray, spread: float) -> Growth:
    """Exponent p of ||e|| ~ t^p by least squares: 1/2 where errors of steps are independent, 1 where they add up, more
    where they feed themselves. Arguments as of `growth_rate`.

    Returns:
        The fit from the first error to a fifth of saturation, `rate` being p; none where that holds fewer than five
        frames or where log ||e|| is no line over log t (R^2 below 0.9).
    """
    if np.any(np.asarray(times) <= 0):
        raise ValueError("times: a power law has no start but time 0; give the frames after it.")
    times = np.log(np.asarray(times, np.float64))
    return _line(times, np.asarray(errors, np.float64), 0, spread, "fewer than five frames before saturation")


def _line(x: np.ndarray, errors: np.ndarray, start: int, spread: float, few: str) -> Growth:
    """Slope of log ||e|| over x from frame `start` up to saturation."""
    from scipy.stats import linregress

    end = np.flatnonzero(~((errors > 0) & (errors <= 0.2 * math.sqrt(2) * spread)))  # NaN ends it too
    stop = int(end[0]) if len(end) else len(errors)
    if stop - start < 5:
        return Growth(None, None, max(0, stop - start), few)
    fit = linregress(x[start:stop], np.log(errors[start:stop]))
    if not fit.rvalue**2 >= 0.9:  # NaN: it does not change
        return Growth(None, float(fit.rvalue**2), stop - start, "the logarithm of the error is no straight line")
    bend = np.polynomial.polynomial.polyfit(x[start:stop], np.log(errors[start:stop]), 2)[2]
    return Growth(float(fit.slope), float(fit.rvalue**2), stop - start, bend=float(bend))

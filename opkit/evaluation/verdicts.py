"""What the figures allow one to say, in fixed words.

A surrogate *super-resolves* on a finer grid if it beats interpolation of its own coarse prediction, knows something of
the unresolved scales (lower ends of both intervals above zero) and keeps its accuracy on the resolved scales (at most
1.1 times its error on the training grid). It *transfers* if it keeps that accuracy and its whole error is at most 1.1
times that of interpolation. Otherwise it *does not transfer*: on that grid, interpolate its coarse prediction instead.
"""

from typing import Any

from opkit.evaluation.statistics import Estimate

SLACK = 1.1
"""How many times larger than its yardstick an error may be and still count as kept."""


def super_resolution(
    gain: Estimate, unresolved_gain: Estimate, resolved: Estimate, resolved_at_training: Estimate
) -> str:
    """`super-resolves`, `transfers` or `does not transfer`, see the module's text."""

    def low(estimate: Estimate) -> float:
        bound = estimate.value if estimate.ci_low is None else estimate.ci_low
        return -float("inf") if bound is None else bound

    if resolved.value is None or resolved_at_training.value is None:
        return "does not transfer"
    keeps = resolved.value <= SLACK * resolved_at_training.value
    if keeps and low(gain) > 0 and low(unresolved_gain) > 0:
        return "super-resolves"
    if keeps and gain.value is not None and gain.value >= 1 - SLACK**2:
        return "transfers"
    return "does not transfer"


def percent(value: float | None) -> str:
    """1.09% with three significant digits."""
    return "undefined" if value is None else f"{100 * value:#.3g}".rstrip(".") + "%"


def interval(estimate: dict[str, Any], show: Any = percent) -> str:
    if estimate["ci_low"] is None:
        return f"no interval: {estimate.get('reason', 'unknown')}"
    return f"95% interval {show(estimate['ci_low'])} to {show(estimate['ci_high'])}"


def accuracy_text(error: dict[str, Any], mean: dict[str, Any]) -> str:
    """One sentence on the error at the training grid."""
    grid = f"{error['resolution']} x {error['resolution']}"
    if error["value"] is None:
        return f"Accuracy on {grid}: undefined ({error['reason']})."
    ratio = f"; predicting the training mean gives {percent(mean['value'])}" if mean["value"] else ""
    useless = mean["value"] and error["value"] >= mean["value"]
    return (
        f"On {grid}, the training grid, the relative L2 error is {percent(error['value'])} "
        f"({interval(error)}, {error['n']} test samples){ratio}."
        f"{' That is no worse: do not use this surrogate.' if useless else ''}"
    )


def resolution_text(row: dict[str, Any], training: int) -> str:
    """One sentence on one finer grid."""
    grid, coarse = f"{row['resolution']} x {row['resolution']}", f"{training} x {training}"
    figures = (
        f"its error is {percent(row['surrogate']['value'])}, interpolating its {coarse} prediction gives "
        f"{percent(row['interpolation']['value'])}, interpolating the true {coarse} solution "
        f"{percent(row['oracle']['value'])}"
    )
    advice = {
        "super-resolves": "It adds scales the training grid cannot hold.",
        "transfers": "It keeps its error there, and adds no detail that interpolation would not.",
        "does not transfer": f"Use it on {coarse} and interpolate.",
    }[row["verdict"]]
    return f"On {grid} it {row['verdict']}: {figures}. {advice}"

"""What the figures allow one to say, in fixed words.

A surrogate *super-resolves* on a finer grid if it beats interpolation of its own coarse prediction, knows something of
the unresolved scales (lower ends of both intervals above zero) and keeps its accuracy on the resolved scales (at most
1.1 times its error on the training grid); if a twentieth of the solution at least is finer than the training grid, as
else there is nothing to tell; and if its gain on interpolation, the difference of their errors, is at least three times
the error of the data it is measured with. It *transfers* if it keeps that accuracy and its whole error is at most 1.1
times that of interpolation. Otherwise it *does not transfer*: on that grid, interpolate its coarse prediction instead.
A surrogate that is no better than the training mean, or than leaving things as they are, has nothing to transfer.
"""

import math
from typing import Any

from opkit.evaluation.statistics import Estimate
from opkit.metrics import CORRELATED

SLACK = 1.1
"""How many times larger than its yardstick an error may be and still count as kept."""


LABEL_MARGIN = 3
"""How many times the labels' own error a surrogate's, or a gain, must be for the labels to be taken as the truth."""


LEAST = 0.05
"""Share of the solution's norm, finer than the training grid, below which nobody can be said to super-resolve."""
ROUND_OFF = 1e-6
"""Change from grid to grid that is none: of networks in float32 that compute one function on every grid it was measured
as 1e-7 to 4e-7."""
CONVERGES = 0.5
"""Least order of the changes from grid to grid that is called convergence."""


SHOWN = 1e-5
"""Least ratio of which people are shown digits; report.json has all."""
TELLING = 0.1
"""Largest part of a rate that true frames may leave over in an equation for the surrogate's to tell anything."""


QUESTIONS = {
    "accuracy": "Is it accurate?",
    "label_error": "Are the labels good enough to tell?",
    "stability": "Is it stable?",
    "perturbation": "What does it do to small perturbations?",
    "super_resolution": "Does it super-resolve?",
    "speed": "Is it worth it?",
    "shifts": "Does it hold outside its training distribution?",
}
"""What each kind of verdict answers."""


def super_resolution(
    gain: Estimate,
    unresolved_gain: Estimate,
    resolved: Estimate,
    resolved_at_training: Estimate,
    finer: float | None,
    measurable: bool,
    useless: bool = False,
) -> str:
    """`super-resolves`, `transfers` or `does not transfer`, see the module's text.

    Args:
        gain: Over interpolation.
        unresolved_gain: Over predicting nothing in the unresolved scales.
        resolved: Error in the resolved scales.
        resolved_at_training: The same on the training grid.
        finer: Share of the solution's norm that is finer than the training grid; None if undefined.
        measurable: Whether the gain is above the accuracy of the data, see `above_data_accuracy`.
        useless: Whether the surrogate is no better than what knows nothing, see `is_useless`.
    """

    def low(estimate: Estimate) -> float:
        if estimate.ci_low is None and estimate.reason == "all samples agree":
            return estimate.value or 0.0
        return -float("inf") if estimate.ci_low is None else estimate.ci_low

    if useless or resolved.value is None or resolved_at_training.value is None:
        return "does not transfer"
    keeps = resolved.value <= SLACK * resolved_at_training.value
    something = finer is not None and finer >= LEAST
    if keeps and something and measurable and low(gain) > 0 and low(unresolved_gain) > 0:
        return "super-resolves"
    if keeps and gain.value is not None and gain.value >= 1 - SLACK**2:
        return "transfers"
    return "does not transfer"


def above_data_accuracy(own: dict[str, Any], interpolation: dict[str, Any], accuracy: dict[str, Any]) -> bool:
    """Whether the difference of two errors is large enough for the data to show it; what is not known is not shown."""
    if own["value"] is None or interpolation["value"] is None or accuracy["value"] is None:
        return False
    return interpolation["value"] - own["value"] >= LABEL_MARGIN * accuracy["value"]


def percent(value: float | None) -> str:
    """1.09% with three significant digits; of what is not zero, but less than `SHOWN`, only that."""
    if value is None:
        return "undefined"
    if abs(value) < SHOWN:
        return f"below {100 * SHOWN:g}%" if value else "0%"
    return (f"{100 * value:.0f}" if 9.995 <= abs(value) < 1e4 else f"{100 * value:#.3g}".rstrip(".")) + "%"


def gain(value: float | None) -> str:
    """0.123; 0.000 and "< -1000" where digits would say no more."""
    if value is None:
        return "undefined"
    if value <= -1000:
        return "< -1000"
    return "0.000" if abs(value) < 5e-4 else f"{value:.3f}" if value > -10 else f"{value:.0f}"


def some(n: int, noun: str) -> str:
    """1 step, 2 steps, 2 trajectories."""
    if n != 1:
        noun = noun.removesuffix("y") + "ies" if noun.endswith("y") else noun + "s"
    return f"{n} {noun}"


def interval(estimate: dict[str, Any], show: Any = percent) -> str:
    if estimate["ci_low"] is None:
        return f"no interval: {estimate.get('reason', 'unknown')}"
    return f"95% interval {show(estimate['ci_low'])} to {show(estimate['ci_high'])}"


def size(resolution: int, ndim: int) -> str:
    """512 points, 85 x 85, ..."""
    return f"{resolution} points" if ndim == 1 else " x ".join([str(resolution)] * ndim)


def is_useless(error: dict[str, Any], baselines: list[dict[str, Any]]) -> bool:
    """Whether the surrogate's rel_l2 is no smaller than that of a model that knows nothing; predicting zero has 1."""
    known = [1.0, *(b["value"] for b in baselines if b["value"])]
    return error["value"] is None or any(error["value"] >= value for value in known)


def accuracy_text(
    error: dict[str, Any], baselines: list[dict[str, Any]], ndim: int, steps: list[dict[str, Any]]
) -> str:
    """One sentence on the error at the training grid.

    Args:
        error: The surrogate's rel_l2.
        baselines: The same of models that know nothing.
        ndim: Axes of the grid.
        steps: The surrogate's rel_l2_step, in order; empty where the equation is steady.
    """
    grid = size(error["resolution"], ndim)
    over = f" over {some(error['horizon'], 'step')}" if error["horizon"] else ""
    if error["value"] is None:
        return f"Accuracy on {grid}{over}: undefined ({error['reason']}): do not use this surrogate so far ahead."
    words = {"mean": "predicting the training mean", "persistence": "keeping the initial state"}
    known = [b for b in baselines if b["value"]]
    compared = "; " + ", ".join(f"{words[b['model']]} gives {percent(b['value'])}" for b in known) if known else ""
    path = ""
    if len(steps) > 1:
        path = f"; {percent(steps[0]['value'])} after the first step, {percent(steps[-1]['value'])} after the last"
    useless = is_useless(error, baselines)
    without = ""
    if zero := error["n_degenerate"]:
        without = f", without {zero} whose truth is zero but for round-off, and has no relative error"
    return (
        f"On {grid}, the training grid, the relative L2 error{over} is {percent(error['value'])} "
        f"({interval(error)}, {some(error['n'], 'test sample')}{without}{path}){compared}."
        f"{' It knows nothing that these do not: do not use this surrogate.' if useless else ''}"
    )


def label_verdict(error: dict[str, Any], label: dict[str, Any]) -> dict[str, Any]:
    """Whether the labels are good enough to judge the surrogate by."""
    if label["value"] is None:
        return {
            "name": "label_error",
            "verdict": "unknown",
            "text": f"The labels' own error is unknown: {label['reason']}.",
        }
    about = "" if label["value"] < SHOWN else "about "
    known = (
        f"The labels' own discretisation error is {about}{percent(label['value'])} (from {label['n']} of the test "
        "samples, solved again on a refined grid)"
    )
    if error["value"] is None or error["value"] > LABEL_MARGIN * label["value"]:
        return {"name": "label_error", "verdict": "measured", "text": f"{known}, well below the surrogate's."}
    return {
        "name": "label_error",
        "verdict": "below label error",
        "text": f"{known}; the surrogate's error is within {LABEL_MARGIN:g} times that. It has learned the solver's "
        "discretisation as much as the equation: make labels on a finer grid (pde.label_resolution) before comparing "
        "models.",
    }


MODES = {
    "native": "its layers act on the finer grid itself",
    "latent": "part of it works on a latent grid whose size does not change",
    "project": "the input is brought to the training grid and the output interpolated back",
}
"""What `Operator.resolution` means, in words."""


def resolution_text(
    row: dict[str, Any], home: dict[str, Any], training: int, ndim: int, mode: str, useless: bool = False
) -> str:
    """Sentences on one finer grid, which the model meets as `mode` says, beside what was found on the training grid."""
    grid, coarse = size(row["resolution"], ndim), size(training, ndim)
    figures = (
        f"its error is {percent(row['surrogate']['value'])}; interpolating from {coarse} has "
        f"{percent(row['interpolation']['value'])} with its prediction and {percent(row['oracle']['value'])} with the "
        "true solution"
    )
    advice = {
        "super-resolves": "It adds scales the training grid cannot hold.",
        "transfers": "It keeps its error there, and adds no detail that interpolation would not.",
        "does not transfer": f"Use it on {coarse} and interpolate.",
    }[row["verdict"]]
    gains = [row["scales"][name]["value"] for name in ("gain", "unresolved_gain")]
    if row["verdict"] == "transfers" and all(g is not None and g > 0 for g in gains):
        advice = "It keeps its error there."  # and may add detail, which the data do not show
    if useless:
        advice = f"What is useless on {coarse} cannot be more on a finer grid."
    how = "" if mode == "native" else f" ({MODES[mode]})"
    found = [f"On {grid} it {row['verdict']}{how}: {figures}.", advice, *_qualms(row)]
    if text := restriction_text(row):
        found.append(text)
    lost = f"has lost the true trajectory (correlation below {CORRELATED:g})"
    for name, words in (("correlation_time", lost), ("divergence_time", "diverges")):
        if row[name] is not None:
            there, here = (r[name]["surrogate"] if name == "correlation_time" else r[name] for r in (row, home))
            if there["value"] < here["value"] / SLACK:
                found.append(
                    f"Rolled out, it {words} after {there['value']:.3g} time units there, after {here['value']:.3g} "
                    f"{'or more ' if here['censored'] else ''}on {coarse}."
                )
    return " ".join(found)


def _qualms(row: dict[str, Any]) -> list[str]:
    """Why a gain says little."""
    found = []
    finer = row["scales"]["truth_unresolved"]["value"]
    if finer is not None and finer < LEAST:
        found.append(
            f"There is next to nothing to add: {percent(finer)} of the solution is finer than the training grid."
        )
    own, free, accuracy = row["surrogate"]["value"], row["interpolation"]["value"], row["data_accuracy"]
    if (
        own is None
        or free is None
        or own >= free
        or above_data_accuracy(row["surrogate"], row["interpolation"], accuracy)
    ):
        return found
    gained = f"What it gains on interpolation, {percent(free - own)},"
    if accuracy["value"] is None:
        found.append(f"{gained} cannot be told from errors of the data: {accuracy['reason'].rstrip('.')}.")
    else:
        margin = f"{LABEL_MARGIN} times the solver's own error there, {percent(accuracy['value'])}"
        found.append(f"{gained} is below data accuracy ({margin}).")
    return found


def restriction_text(row: dict[str, Any]) -> str:
    """A sentence where it matters how data reach a grid; empty where it does not."""
    if row["filtered"] is None:
        return ""
    kept, cut = row["strided"]["value"], row["filtered"]["value"]
    if kept is None or cut is None or max(kept, cut) <= SLACK * min(kept, cut):
        return ""
    return (
        f"How data reach this grid matters: the surrogate's error is {percent(kept)} with values at its points, "
        f"{percent(cut)} with what it cannot hold cut off or averaged ({row['filtered']['n']} samples)."
    )


def convergence(record: dict[str, Any], ndim: int) -> tuple[float | None, str, str]:
    """(order, verdict, sentence) on the changes of a surrogate's output as its grid is refined: `the same`,
    `converges`, `plateau` or `unknown`.

    Args:
        record: The report's `convergence`, without these.
        ndim: Axes of the grid.
    """
    changes = record["changes"]
    if not changes or any(c is None for c in changes):
        why = "its output is not defined there" if changes else "a refinement has too many points"
        return None, "unknown", f"Whether the surrogate converges under refinement was not measured: {why}."
    sizes = ", ".join(size(r, ndim) for r in record["resolutions"])
    found = f"less than {100 * SHOWN:g}%" if max(changes) < SHOWN else ", ".join(map(percent, changes))
    start = f"Given the same functions on {sizes}, its output changes by {found}"
    if max(changes) <= ROUND_OFF:
        return None, "the same", f"{start}: round-off. It is one function on every grid."
    if changes[-1] <= ROUND_OFF:
        return None, "converges", f"{start}: it converges, down to round-off."
    if len(changes) < 2:
        return None, "unknown", f"{start}: too few grids for an order."
    order = math.log2(changes[-2] / changes[-1]) if changes[-2] > ROUND_OFF else None
    if order is not None and order >= CONVERGES:
        return order, "converges", f"{start}: it converges, with order {order:.3g}."
    return order, "plateau", f"{start}: a plateau. It is not discretisation-convergent: what it computes is the grid's."


COLLAPSES = ("frozen", "energy lost")
"""Reasons for a trajectory's end that are no blow-up."""
DRIFT = 0.1
"""Largest difference of a mean quantity, relative to the largest it truly has, that is not called a drift."""


def _drifts(drift: dict[str, Any]) -> bool:
    if drift["mean"] is None or abs(drift["mean"]) <= DRIFT:
        return False
    return drift["ci_low"] is None or drift["ci_low"] > 0 or drift["ci_high"] < 0


def _excess(excess: dict[str, Any]) -> str:
    if excess["ci_low"] is None:
        return f"{excess['n']} trajectories are too few to tell them apart."
    ends = f"the difference has the 95% interval {excess['ci_low']:.2g} to {excess['ci_high']:.2g}"
    if excess["ci_low"] > 0:
        return f"faster than the equation's chaos makes them ({ends})."
    if excess["ci_high"] < 0:
        return f"slower than those of a perturbed solver ({ends})."
    return f"not to be told from the equation's chaos ({ends})."


def stability(section: dict[str, Any]) -> tuple[str, str]:
    """(verdict, sentences) on a long rollout: `diverges`, `collapses`, `drifts` or `stays bounded`.

    It diverges if any trajectory ends, or collapses if those that do lose their energy or freeze; it drifts if one of
    the equation's quantities ends, on average, more than a tenth of the largest it truly has away from the truth, and
    not by chance: the interval leaves zero out.

    Args:
        section: The report's `rollout`, without these.
    """
    n, steps, dt = section["trajectories"], section["steps"], section["time_step"]
    trained, reference = section["trained_steps"], section["reference_steps"]
    times = "as many as" if steps == trained else f"{steps / trained:.3g} times the"
    how_far = f"{some(steps, 'step')} ({times} {trained} of its training trajectories)"
    ended = section["ended"]
    drifting = {name: q["drift"]["mean"] for name, q in section["quantities"].items() if _drifts(q["drift"])}
    if ended:
        first = min(ended, key=lambda e: e["step"])
        verdict = "collapses" if {e["reason"] for e in ended} <= set(COLLAPSES) else "diverges"
        text = (
            f"Rolled out {how_far}, {len(ended)} of {some(n, 'trajectory')} fail{'s' * (n == 1)}, the first at step "
            f"{first['step']} ({first['reason']}). Do not use it further than that."
        )
    else:
        verdict = "drifts" if drifting else "stays bounded"
        text = f"Rolled out {how_far}, none of {some(n, 'trajectory')} leaves the bounds of the training data."
    if drifting:
        worst = max(drifting, key=lambda name: abs(drifting[name]))
        start = "the field's initial size" if worst == "mean" else "the largest it truly has"
        text += (
            f" Its {worst} is off by {percent(drifting[worst])} of {start} after {some(reference, 'step')}, on average"
        )
        text += f" over the {n - len(ended)} that last." if ended else "."
    lost = section["survival"]["correlation_time"]
    if lost["median"] is not None:
        steps_too = "" if dt == 1 else f", {lost['median'] / dt:.3g} steps"
        text += (
            f" Half of them have lost the true trajectory (correlation below {CORRELATED:g}) after "
            f"{lost['median']:.3g} time units{steps_too}."
        )
    elif lost["censored"] < 1:
        gone = round((1 - lost["censored"]) * n)
        text += (
            f" {gone} of them lose{'s' * (gone == 1)} the true trajectory (correlation below {CORRELATED:g}) within "
            f"the {some(reference, 'step')} compared."
        )
    else:
        text += (
            f" All stay correlated with the truth (above {CORRELATED:g}) over the {some(reference, 'step')} compared."
        )
    growth = section["growth"]
    if growth["excess"] is not None:
        excess = growth["excess"]
        rates = f"{growth['surrogate']['value']:.3g} per time unit, the solver's own {growth['solver']['value']:.3g}"
        text += f" Errors grow at {rates}: {_excess(excess)}"
    return verdict, text


def balance_text(balance: dict[str, Any], dt: float) -> str:
    """Sentences on what frames leave over in the equation. Where those of the truth leave much, as they are too far
    apart for a central difference, the surrogate's show nothing, and no comparison is made.

    Args:
        balance: The report's `rollout.balance`.
        dt: Time between frames.
    """
    ratio, floor = balance["residual_ratio"], balance["truth_residual"]
    own, true = (balance["energy_budget"][model] for model in ("surrogate", "truth"))
    norm = f"H⁻¹ norm, {some(balance['trajectories'], 'trajectory')}"
    if floor["value"] is None:
        text = f"What true frames leave over in the equation is undefined ({floor['reason']})."
    elif floor["value"] > TELLING:
        text = (
            f"Frames that are a time of {dt:g} apart say nothing of how well the equation is kept: true ones leave "
            f"{percent(floor['value'])} of the rate of change over in it ({norm})."
        )
    elif ratio["value"] is None:
        text = f"Put into the equation, its frames leave an undefined residual ({ratio['reason']})."
    else:
        ends = interval(ratio, "{:.3g}".format)
        text = (
            f"Put into the equation, its frames leave {ratio['value']:.3g} times what true frames leave ({ends}; "
            f"{norm}): at about 1 no telling it from the solver. True frames leave {percent(floor['value'])} of the "
            f"rate of change, as they are a time of {dt:g} apart, and nothing smaller is seen."
        )
    if true["value"] is None:
        return f"{text} The energy budget of true frames is undefined ({true['reason']})."
    if true["value"] > TELLING:
        return (
            f"{text} Nor do frames so far apart tell whether energy comes or goes for no reason: true ones have "
            f"{percent(true['value'])} of what is dissipated."
        )
    return (
        f"{text} Energy comes or goes for no reason at {percent(own['value'])} of what is dissipated (true frames: "
        f"{percent(true['value'])})."
    )

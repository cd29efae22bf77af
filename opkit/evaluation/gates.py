"""Conditions a report must meet: `--gate "rel_l2<0.02,correlation_time>10"`."""

import math
import operator
import re
import sys
from typing import Any

from opkit.errors import ConfigError, GateError
from opkit.evaluation.protocol import ERRORS
from opkit.evaluation.records import THRESHOLDS
from opkit.registry import suggest

GATE = re.compile(r"\s*([a-z0-9_]+(?:@0\.\d+)?)(?:@(\d+))?\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*")
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
TIMES = (
    "correlation_time", *(f"correlation_time@{t:g}" for t in THRESHOLDS[1:]), "valid_time", "divergence_time"
)  # fmt: skip
"""Metrics of rollouts, on the training grid alone."""

Condition = tuple[str, int, str, float]
"""Metric, grid, comparison, bound."""


def parse_gate(text: str, grids: tuple[int, ...], evolution: bool = True) -> list[Condition]:
    """Conditions of a gate such as "rel_l2<0.02,rel_l2@211<0.03".

    Args:
        text: The gate.
        grids: Resolutions that will be measured, the training grid first; a condition without one means that.
        evolution: Whether there is a rollout to measure times of.

    Raises:
        ConfigError: It is not of that form, or names a metric or grid that will not be measured.
    """
    conditions = []
    for part in text.split(","):
        match = GATE.fullmatch(part)
        try:
            if match is None:
                raise ValueError
            name, bound = match[1].removesuffix(f"@{THRESHOLDS[0]:g}"), float(match[4])
            if not math.isfinite(bound):
                raise ValueError
            conditions.append((name, int(match[2] or grids[0]), match[3], bound))
        except ValueError:
            raise ConfigError(
                f'gate={text!r}: cannot read {part.strip()!r}. Write conditions such as "rel_l2<0.02" or '
                '"rel_l2@211<=0.03", separated by commas.'
            ) from None
    times = TIMES if evolution else ()
    errors = (*ERRORS, "srmse" if evolution else "rel_energy")
    for name, resolution, _, _ in conditions:
        if not ((name in errors and resolution in grids) or (name in times and resolution == grids[0])):
            known = [*errors, *times]
            on = f"{', '.join(errors)} on grids {', '.join(map(str, grids))}"
            if times:
                on += f", {', '.join(times)} on {grids[0]}"
            raise ConfigError(
                f"gate={text!r}: {name}@{resolution} is not measured here; measured are {on}."
                f"{suggest(name, known) if name not in known else ''}"
            )
    return conditions


def check_gate(conditions: list[Condition], report: dict[str, Any]) -> None:
    """Compare a report with a gate.

    Raises:
        GateError: A condition that does not hold.
    """
    own = {(m["name"], m["resolution"]): m for m in report["metrics"] if m["model"] == "surrogate"}
    failed = []
    for name, resolution, comparison, bound in conditions:
        found = own.get((name, resolution), {"value": None})
        value = found["value"]
        if value is None or not COMPARE[comparison](value, bound):
            measured = "undefined" if value is None else f"{value:.4g}"
            if found.get("censored"):  # a mean up to the horizon is no larger than the true one
                end = f"{found['horizon'] * report['rollout']['time_step']:.4g}"
                measured += f" up to the horizon of {end}, beyond which nothing is known (evaluation.horizon)"
            failed.append(f"{name}@{resolution} is {measured}, not {comparison} {bound:g}")
    if failed:
        raise GateError("gate failed: " + "; ".join(failed))
    print("gate passed", file=sys.stderr)

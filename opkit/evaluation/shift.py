"""Outside the training distribution: the same surrogate on problems that differ from its own in one respect.

The equation names them (`PDE.shifts`): half and twice a parameter, inputs larger or smaller, of shorter or longer
waves; here a coarser grid is added. Their data are made on demand from the same random numbers as the test set, so that
every sample is a changed test sample. The error is stated beside that of the same samples unchanged, against the
distance

    |log2 (new value / trained value)|

A parameter that is no input of the surrogate cannot be seen by it: then the error is that of solving another equation,
which is what happens if it is used there.
"""

import contextlib
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opkit import metrics
from opkit.errors import OpkitError
from opkit.evaluation.figures import Picture, legend, percent_axis, render
from opkit.evaluation.records import Record, Records
from opkit.evaluation.rollout import POINTS_PER_CALL
from opkit.evaluation.verdicts import percent
from opkit.generate import ensure
from opkit.pdes import PDE, Shift
from opkit.progress import progress
from opkit.settings import Data
from opkit.store import pair
from opkit.surrogate import Surrogate

HOLDS = 2.0
"""Times its own error up to which a surrogate is said to hold on a shifted problem."""


@dataclass
class Shifted:
    """What was measured of one shift.

    Args:
        shift: The problem.
        errors: Relative L2 error over all frames, `(n,)`; none where its data could not be made.
        unchanged: That of the same test samples on the trained problem, `(n,)`.
        reason: Why there is none.
        key: Of its data.
    """

    shift: Shift
    errors: Tensor | None
    unchanged: Tensor
    reason: str | None = None
    key: str | None = None


def all_shifts(pde: PDE) -> list[Shift]:
    """Those of the equation, and half as many points a side where these are among the trained grid's."""
    gap = 1 if pde.grid.location == "node" else 0
    found = pde.shifts()
    if pde.grid.location != "cell" and (pde.resolution - gap) % 2 == 0:
        coarse = (pde.resolution - gap) // 2 + gap
        with contextlib.suppress(ValueError):  # too coarse for the equation
            found.append(Shift("resolution", coarse / pde.resolution, pde.on(coarse)))
    return found


def measure_shifts(
    surrogate: Surrogate, pde: PDE, data: Data, errors: Tensor, n: int, workers: int | None = None
) -> list[Shifted]:
    """Errors on shifted problems.

    Args:
        surrogate: The surrogate.
        pde: The problem it was trained on.
        data: Seed of the test set.
        errors: Relative L2 error of the test samples on that problem, `(m,)`, m >= n.
        n: Samples of each shift.
        workers: Processes that make data.
    """
    found = []
    for shift in all_shifts(pde):
        try:
            stored = ensure(shift.problem, "test", n, data.seed, workers)
            fields = stored.load(n)
        except OpkitError as problem:
            found.append(Shifted(shift, None, errors[:n], str(problem)))
            continue
        history = 1 if pde.times is None else surrogate.stepping.history
        inputs, truth = pair(shift.problem, fields, history)
        grid = shift.problem.grid
        size = max(1, POINTS_PER_CALL // grid.weights.numel())
        parts = []
        with progress(f"shift {shift.what} {shift.factor:g}", n, "samples") as advance:
            for rows in torch.arange(n).split(size):
                u = truth[rows] if pde.times is None else truth[rows].flatten(1, 2)
                steps = None if pde.times is None else truth.shape[1]
                own = surrogate(inputs[rows]) if steps is None else surrogate.rollout(inputs[rows], steps).flatten(1, 2)
                parts.append(metrics.rel_l2(own, u, grid))
                advance(len(rows))
        found.append(Shifted(shift, torch.cat(parts), errors[:n], None, stored.key))
    return found


def shift_record(make: Records, found: list[Shifted]) -> Record:
    """The report's section."""
    rows = []
    for s in found:
        row: Record = {
            "what": s.shift.what,
            "factor": s.shift.factor,
            "distance": abs(math.log2(s.shift.factor)),
            "rel_l2": None if s.errors is None else asdict(make.estimate(s.errors)),
            "unchanged": asdict(make.estimate(s.unchanged)),
            "ratio": None,
            "key": s.key,
            "reason": s.reason,
        }
        if row["rel_l2"] is not None and row["rel_l2"]["value"] is not None and row["unchanged"]["value"]:
            row["ratio"] = row["rel_l2"]["value"] / row["unchanged"]["value"]
        elif row["rel_l2"] is not None:
            row["reason"] = row["rel_l2"]["reason"] or row["unchanged"]["reason"]
        rows.append(row)
    verdict, text = _words(rows)
    return {"rows": rows, "verdict": verdict, "text": text}


def _words(rows: list[Record]) -> tuple[str, str]:
    measured = [r for r in rows if r["rel_l2"] is not None]
    if not measured:
        return "not measured", "No shifted problem could be solved: " + (
            rows[0]["reason"] if rows else "none is known."
        )
    if measured[0]["unchanged"]["value"] is None:
        return "not measured", f"Its error on the same samples unchanged is {measured[0]['unchanged']['reason']}."
    fails = [r for r in measured if r["ratio"] is None]
    lost = sorted((r for r in measured if r["ratio"] and r["ratio"] > HOLDS), key=lambda r: -r["ratio"])
    name = "{what} times {factor:.3g}"
    unsolved = [name.format(**r) for r in rows if r["rel_l2"] is None]
    rest = f" Not solved: {', '.join(unsolved)}." if unsolved else ""
    own = percent(measured[0]["unchanged"]["value"])
    text = f"Outside its training distribution, where the same samples unchanged have {own}: "
    if fails:
        text += "it diverges at " + ", ".join(name.format(**r) for r in fails) + "; "
    if lost:
        shown = ", ".join(f"{name.format(**r)} ({percent(r['rel_l2']['value'])})" for r in lost)
        text += f"more than {HOLDS:g} times that at {shown}"
        held = [r for r in measured if r["ratio"] and r["ratio"] <= HOLDS]
        text += f"; less at {', '.join(name.format(**r) for r in held)}." if held else "; nowhere less."
        return "does not hold", text + rest
    if fails:
        return "does not hold", text + "elsewhere its error at most doubles." + rest
    worst = max(measured, key=lambda r: r["ratio"])
    return "holds", text + f"at most {percent(worst['rel_l2']['value'])}, at {name.format(**worst)}.{rest}"


def shift_picture(section: Record) -> Picture:
    """Error against the factor, one line per kind of shift."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in section["rows"]:
        if row["rel_l2"] is not None and row["rel_l2"]["value"] is not None:
            kinds.setdefault(row["what"], []).append(row)
    own = next((r["unchanged"]["value"] for r in section["rows"] if r["unchanged"]["value"]), None)

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        colours = ("#0b6e99", "#c8553d", "#3a7d44", "#8d6a9f", "#b08900")
        for i, (what, rows) in enumerate(kinds.items()):
            points = sorted([(r["factor"], r["rel_l2"]["value"]) for r in rows] + ([(1.0, own)] if own else []))
            x, y = np.array(points).T
            axis.plot(x, 100 * y, marker="o", label=what, color=colours[i % len(colours)], lw=1.5)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
        percent_axis(axis, 100.0)
        axis.axvline(1, color="#bbbbbb", lw=1, zorder=0)
        axis.set_xlabel("new value over the trained one")
        axis.set_ylabel("relative L2 error")
        axis.grid(alpha=0.25)
        if kinds:
            legend(axis, 3)

    return render(draw, 6.4, 4.2)

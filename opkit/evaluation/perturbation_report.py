"""What a record of `opkit.evaluation.perturbation` says: in a line, and in pictures."""

from typing import Any

import numpy as np

from opkit.evaluation.figures import INK, Picture, legend, render
from opkit.evaluation.verdicts import percent, some

ROUND_OFF = 1e-10
"""A symmetry kept to this much is kept."""
FAINTEST = 1e-5
"""Part of the greatest entry of the transfer matrix that is still told apart in its picture."""
AMPLIFIED, KEPT = 1.01, 1.001
"""A wave is called amplified from the first gain on, and not amplified up to the second."""


def perturbation_text(record: dict[str, Any]) -> str:
    """What a record of `Perturbation` allows one to say, in a line.

    Wavenumber 0 is the mean. A figure that is missing makes no claim.
    """
    sets = {"true": record["true"], **record["own"]}
    sentences = [
        _growing(record, sets), _spurious(record, sets), _amplified(record, sets), _in_the_long_run(record),
        _broken(record, sets), _cut_short(record),
    ]  # fmt: skip
    return " ".join(filter(None, sentences)) or "Nothing could be measured of its response to perturbations."


def where(record: dict[str, Any], kind: str) -> str:
    """Words for a set of states."""
    step = 0 if kind == "true" else record["places"][kind]["step"]
    return "true states" if kind == "true" else f"its own after {step} step{'s' if step > 1 else ''}"


def _where(record: dict[str, Any], kind: str) -> str:
    """The same with the number of them: on one state, what is largest may be far from it on others."""
    n = record["states"][kind]
    return some(n, "true state") if kind == "true" else f"{n} of {where(record, kind)}"


def _growing(record: dict[str, Any], sets: dict[str, Any]) -> str | None:
    """Of singular values: of the lowest waves, which training data vary and all solvers tell; then of everything."""

    def grows(name: str) -> list[tuple[float, str]]:
        largest = {kind: [_largest(sets[kind].get(who, {}).get(name)) for who in _PAIR] for kind in sets}
        return [
            (own, f"{own:.3g} on {_where(record, kind)} (solver {_number(solver)})")
            for kind, (own, solver) in largest.items()
            if own is not None
        ]

    parts = []
    if low := grows("low_singular_value"):
        words = _listed([text for _, text in low])
        parts.append(f"a small perturbation of the {record['waves']} lowest waves is multiplied by up to {words}")
    if whole := grows("singular_value"):
        parts.append(f"{'one' if low else 'a small perturbation'} of any shape by up to {max(whole)[1]}")
    return f"In a step of {record['time']:g} {'; '.join(parts)}." if parts else None


def _spurious(record: dict[str, Any], sets: dict[str, Any]) -> str | None:
    """Where what grows most in the surrogate decays in the solver."""
    found = [
        (own / theirs, kind, own, theirs)
        for kind in sets
        for own, theirs in zip(*((sets[kind].get(who, {}).get("worst") or []) for who in _PAIR), strict=False)
        if own is not None and theirs and theirs < 1 < own / AMPLIFIED
    ]
    if not found:
        return None
    _, kind, own, theirs = max(found)
    steps = record["applications"]
    return (
        f"On {_where(record, kind)} it multiplies a perturbation of {100 * record['size']:g}% by {own:.3g} in "
        f"{f'{steps} steps' if steps > 1 else 'a step'} that the solver multiplies by {theirs:.3g}."
    )


def _amplified(record: dict[str, Any], sets: dict[str, Any]) -> str | None:
    """Wavenumbers that grow in the surrogate alone."""
    wrong, tried, states = [], 0, 0
    for kind in sets:
        gains = [sets[kind].get(who, {}).get("gain") for who in _PAIR]
        if not all(gains):
            continue
        rows = [row for row in zip(record["shells"], *gains, strict=True) if None not in row]
        tried, states = max(tried, len(rows)), states + record["states"][kind]
        if grown := [row for row in rows if row[1] > AMPLIFIED and row[2] <= KEPT]:
            kappa, own, solver = max(grown, key=lambda row: row[1])
            many = f"{len(grown)} of the wavenumbers {grown[0][0]} to {grown[-1][0]}, {kappa}"
            wrong.append(
                f"on {_where(record, kind)} {many if len(grown) > 1 else f'wavenumber {kappa}'} by a factor of "
                f"{own:.3g} (solver {solver:.3g})"
            )
    if wrong:
        return f"It amplifies waves of random phases that the solver does not: {_listed(wrong)}."
    if not tried:
        return None
    return f"Of the {tried} wavenumbers tried it amplifies none that the solver does not ({some(states, 'state')})."


def _in_the_long_run(record: dict[str, Any]) -> str | None:
    """Of the spectral radius and powers of the Jacobian, at the first true state."""
    radii, most = [], []
    for who in _PAIR:
        response = record["true"].get(who, {})
        radii.append(response.get("radius"))
        most.append(_largest(response.get("powers")))
    if radii[0] is None:
        return None
    before = "" if most[0] is None else (
        f", and before that by up to {most[0]:.3g} within {record['powers'][-1]} steps (solver {_number(most[1])})"
    )  # fmt: skip
    return (
        f"Were the first true state to stay as it is, perturbations would in the long run be multiplied by "
        f"{radii[0]:.3g} a step (solver {_number(radii[1])}){before}."
    )


def _broken(record: dict[str, Any], sets: dict[str, Any]) -> str | None:
    """Of the move that is kept to least, on whatever states that is."""
    errors = {kind: [_symmetry(sets[kind], "surrogate", move) for move in record["symmetries"]] for kind in sets}
    whole = [kind for kind, found in errors.items() if found and None not in found]
    known = [
        (error, kind, move)
        for kind, found in errors.items()
        for error, move in zip(found, record["symmetries"], strict=True)
        if error is not None
    ]
    if not known:
        return None
    worst, kind, move = max(known, key=lambda found: found[0])
    if worst < ROUND_OFF:
        if not whole:
            return None
        states = some(sum(record["states"][k] for k in whole), "state")
        return f"It keeps, to round-off, to every move tried that leaves the equation as it is ({states})."
    solver = _symmetry(sets[kind], "solver", move)
    theirs = "unknown" if solver is None else "round-off" if solver < ROUND_OFF else percent(solver)
    words = f"a shift along {move.replace(', ', ' by ')}" if " cells" in move else move
    return (
        f"Of the moves that leave the equation as it is, the one it keeps to least is {words}: it is off by "
        f"{percent(worst)} on {_where(record, kind)} (solver {theirs})."
    )


def _symmetry(pair: dict[str, Any], who: str, move: str) -> float | None:
    found: float | None = (pair.get(who, {}).get("symmetry") or {}).get(move)
    return found


def _cut_short(record: dict[str, Any]) -> str | None:
    """Of trajectories that were not finite so far."""
    bad, windows = record["skipped"]["own"]
    if not bad:
        return None
    early = sorted({s for place in record["places"].values() for s in place["taken"] if s < place["step"]})
    said = f"{bad} of its own {windows} states are not finite."
    if early:
        said += f" Where a trajectory got no further, its last finite state was taken, after {_listed(early)} steps."
    return said


_PAIR = ("surrogate", "solver")


def _listed(parts: list[Any]) -> str:
    words = [str(part) for part in parts]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _largest(values: list[float | None] | None) -> float | None:
    return max((v for v in values or [] if v is not None), default=None)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def gain_picture(record: dict[str, Any]) -> Picture:
    """G(kappa) of the surrogate on true states and on its own, and of the solver, as PNG.

    Args:
        record: Of `Perturbation`.
    """
    own = dict(zip(record["places"], ("#e9b3a5", "#d5806a", INK["interpolation"]), strict=False))
    curves = [("surrogate, true states", "true", "surrogate", INK["surrogate"], "-")]
    curves += [(f"surrogate, {where(record, kind)}", kind, "surrogate", ink, "-") for kind, ink in own.items()]
    curves += [("solver, true states", "true", "solver", INK["truth"], "--")]

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        highest = 1.0
        for label, kind, who, color, style in curves:
            gain = _of(record, kind, who).get("gain") or []
            points = [(k, g) for k, g in zip(record["shells"], gain, strict=False) if g]  # no logarithm of zero
            if points:
                axis.plot(*zip(*points, strict=True), color=color, ls=style, marker=".", ms=5, lw=1.6, label=label)
                highest = max(highest, *(g for _, g in points))
        axis.axhline(1, color="#bbbbbb", lw=1, zorder=0)
        _waves(axis.xaxis, 2)
        axis.set_xlim(left=-0.5)
        axis.set_yscale("log")
        axis.set_ylim(bottom=max(axis.get_ylim()[0], 1e-8 * highest))
        axis.set_xlabel("wavenumber of the perturbation")
        axis.set_ylabel(f"growth in a step of {record['time']:g}")
        axis.grid(alpha=0.25)
        if axis.lines[:-1]:
            legend(axis, 2)

    return render(draw, 6.4, 4.2)


def transfer_picture(record: dict[str, Any]) -> Picture | None:
    """T(kappa', kappa) of the surrogate on true states and on its own furthest on, and of the solver on true states, as
    PNG; None where there is none.

    Args:
        record: Of `Perturbation`.
    """
    last = next((kind for kind in reversed(record["places"]) if kind in record["own"]), None)
    panels = [("surrogate, true states", "true", "surrogate"), ("solver, true states", "true", "solver")]
    panels += [] if last is None else [(f"surrogate, {where(record, last)}", last, "surrogate")]
    panels = [panel for panel in panels if _of(record, *panel[1:]).get("transfer")]
    if not panels:
        return None

    def draw(figure: Any) -> None:
        from matplotlib.colors import LogNorm

        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        tables = [np.array(_of(record, *panel[1:])["transfer"], dtype=float) for panel in panels]
        most = max(1.0, *(float(t[np.isfinite(t)].max(initial=0.0)) for t in tables))
        shells = np.array(record["shells"], dtype=float)
        into = np.concatenate([shells[:1] - 0.5, (shells[1:] + shells[:-1]) / 2, shells[-1:] + 0.5])
        out = np.arange(len(tables[0]) + 1) - 0.5
        for axis, (title, *_), table in zip(axes, panels, tables, strict=True):
            shown = np.ma.masked_invalid(np.clip(table, FAINTEST * most, None))
            image = axis.pcolormesh(into, out, shown, cmap="viridis", norm=LogNorm(FAINTEST * most, most))
            for side in (axis.xaxis, axis.yaxis):
                _waves(side, 4)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("wavenumber in")
        axes[0].set_ylabel("wavenumber out")
        figure.colorbar(image, ax=list(axes), label=f"share passed on in a step of {record['time']:g}", extend="min")

    return render(draw, 1.6 + 3.4 * len(panels), 3.6)


def _of(record: dict[str, Any], kind: str, who: str) -> dict[str, Any]:
    """A response, or an empty one."""
    found: dict[str, Any] = (record["true"] if kind == "true" else record["own"].get(kind, {})).get(who, {})
    return found


def _waves(axis: Any, base: int) -> None:
    """Wavenumbers along an axis: logarithms, but for the mean, 0, which is among them."""
    scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale
    scale("symlog", base=base, linthresh=1)
    axis.set_major_formatter(lambda v, _: f"{v:g}")

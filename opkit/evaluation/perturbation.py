"""Stability under perturbation, measured: `opkit.evaluation.jacobian`'s figures of a surrogate, on true states and on
those of its own rollout, beside the same figures of the equation's own solver.
"""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opkit.errors import ConfigError, SolverError
from opkit.evaluation.figures import INK, Picture, render
from opkit.evaluation.jacobian import (
    INVARIANT,
    LEVELS,
    SIZE,
    difference_product,
    exact_product,
    finite_time_growth,
    gain_by_wavenumber,
    leading_in_span,
    leading_singular_value,
    low_waves,
    moves_of,
    noise_sensitivity,
    spectral_radius,
    symmetry_errors,
    worst_perturbation,
)
from opkit.metrics import norm, wave_numbers
from opkit.pdes import PDE
from opkit.stepping import roll_out, time_step, with_constants
from opkit.surrogate import Surrogate

AMPLIFIED, KEPT = 1.01, 1.001
"""A wave is called amplified from the first gain on, and not amplified up to the second."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    states: int
    draws: int
    """Random fields per shell, for the surrogate."""
    solver_draws: int
    """The same for the solver; noise fields, for both."""
    shells: int
    waves: int
    """That span the subspace."""
    applications: int
    """Steps in a row."""
    iterations: int
    """Of power iteration, for one step."""
    restarts: int
    searches: int
    """Iterations over several steps in a row."""
    radius: bool
    """Whether eigenvalues are sought."""


FULL = Effort(4, 8, 2, 24, 32, 5, 30, 2, 12, True)
QUICK = Effort(1, 2, 1, 8, 12, 1, 10, 1, 8, False)


@dataclass
class Response:
    """Figures of one map on one set of states: one number per state, unless it says otherwise.

    What is None, or not finite, has its reason in `reasons`, by name.
    """

    singular_value: list[float] | None = None
    """Of a step, over all perturbations: by power iteration, or of the lowest waves where it is greater. Both are
    lower bounds."""
    low_singular_value: list[float] | None = None
    """Of a step, over perturbations in the span of the lowest waves."""
    growth: list[float] | None = None
    """Finite-time growth over `Perturbation.applications` steps, in 1 / time; likewise."""
    low_growth: list[float] | None = None
    """The same in that span."""
    radius: float | None = None
    """Spectral radius of a step at the first state."""
    gain: list[float] | None = None
    """G(kappa) by `Perturbation.shells`: mean over states."""
    transfer: list[list[float]] | None = None
    """T(kappa', kappa), a row for each kappa' = 0, 1, ...: mean over states."""
    noise: dict[str, list[float]] | None = None
    """By kind of noise: change of the output over that of the input at each of `LEVELS`, mean over states."""
    noise_slope: dict[str, float] | None = None
    """By kind of noise: of log change against log noise, mean over states."""
    worst: list[float] | None = None
    """Growth over `Perturbation.applications` steps of the perturbation of relative size `SIZE` that is worst for the
    surrogate; the solver's is its response to the same perturbation."""
    random: list[float] | None = None
    """The same of white noise of equal size; of the surrogate alone."""
    symmetry: dict[str, float] | None = None
    """By move: how far a step is from commuting with it, greatest over states."""
    reasons: dict[str, str] = field(default_factory=dict)


@dataclass
class Perturbation:
    """What `measure_perturbation` returns.

    One application of the map, here called a step, is as many calls as replace every frame of the network's input: one,
    unless its history is longer than its bundle.
    """

    resolution: int
    solver_resolution: int
    """Points per side of the grid the solver works on, as it did for the labels."""
    frames: int
    """Frames of the data that a step advances by."""
    time: float
    """Time of a step."""
    applications: int
    """Steps in a row of `low_growth` and `worst`."""
    waves: int
    """Perturbations that span the lowest waves."""
    shells: list[int]
    levels: list[float]
    size: float
    states: dict[str, int]
    """States looked at, by kind: "true" or "own"."""
    skipped: dict[str, list[int]]
    """Windows of frames that are not finite, and all, by kind."""
    symmetries: list[str]
    """Moves under which the equation is known to stay as it is: the solver commutes with the whole-cell shift in that
    direction, or `PDE.symmetries` says so."""
    true: dict[str, Response]
    """Figures on true states, of "surrogate" and "solver"."""
    own: dict[str, Response]
    """The same on states of the surrogate's rollout; empty where none is finite."""

    def record(self) -> dict[str, Any]:
        """JSON values by name: what is not finite is None, and the reason is beside it."""
        record = asdict(self)
        for response in (*record["true"].values(), *record["own"].values()):
            for name, value in response.items():
                if name != "reasons" and (bad := sum(not math.isfinite(v) for v in _numbers(value))):
                    response["reasons"].setdefault(name, f"not finite in {bad} of {len(list(_numbers(value)))} values")
        return _plain(record)


def measure_perturbation(
    surrogate: Surrogate, pde: PDE, truth: Tensor, own: Tensor, *, seed: int = 0, quick: bool = False,
    budget: float = math.inf,
) -> Perturbation:  # fmt: skip
    """All figures of this module, of a surrogate and of its equation's solver on the grid the labels were solved on.

    The state is the network's input: `stepping.history` frames, each channel in units of its root mean square over the
    true states, so that norms weigh channels alike. Parameters drawn per sample are held fixed. The network runs in
    float64.

    Args:
        surrogate: Of an evolution equation.
        pde: The problem it was trained on; `truth` and `own` are on its grid.
        truth: True trajectories `(n, t, c, *x)`, physical units; c is the state, then the parameters drawn per sample.
        own: Trajectories of the surrogate's own rollout, likewise; late frames tell most. Windows of frames that are
            not finite are left out and counted.
        seed: Of all that is drawn.
        quick: Few states, waves and random fields, and no eigenvalues: seconds on 64 x 64 points, where the full
            measurement takes minutes.
        budget: Seconds, about; figures that do not fit are left out, and say so.

    Raises:
        ConfigError: The equation is steady.
        ValueError: Trajectories of the wrong shape, shorter than the history, or no true state that is finite.
    """
    if pde.times is None:
        raise ConfigError(f"{pde.equation} is steady: there is no step to perturb. Leave perturbations out.")
    effort, stepping, channels = QUICK if quick else FULL, surrogate.stepping, len(pde.outputs)
    history = stepping.history
    for name, values in (("truth", truth), ("own", own)):
        wanted = (len(pde.inputs), *pde.grid.shape)
        if values.ndim != len(wanted) + 2 or tuple(values.shape[2:]) != wanted or values.shape[1] < history:
            raise ValueError(
                f"{name} must be trajectories (n, t, {', '.join(map(str, wanted))}) with t >= {history}, the channels "
                f"being {', '.join(pde.inputs)}; got {tuple(values.shape)}."
            )
    spread = truth[:, :, :channels].double().flatten(3).transpose(1, 2).flatten(2).square()  # (n, c, everything)
    spread = torch.where(torch.isfinite(spread), spread, 0.0).mean((0, 2)).sqrt()
    scale = torch.where(spread > 0, spread, 1.0).repeat(history).view(-1, *(1 for _ in pde.grid.shape))
    calls = -(-history // stepping.bundle)
    frames = calls * stepping.bundle
    advance = frames * float(time_step(pde.times) or 0.0)
    top = int(wave_numbers(pde.grid).max())
    constant = {0} if pde.grid.location == "periodic" else set()
    shells = sorted(constant | {round(s) for s in np.geomspace(1, top, effort.shells)})
    basis = low_waves(pde.grid, history * channels, effort.waves)

    responses: dict[str, dict[str, Response]] = {"true": {}, "own": {}}
    counts, skipped = {"true": 0, "own": 0}, {}
    settings = _Settings(effort, pde, shells, basis, advance, seed, time.monotonic() + budget)
    for kind, values in (("true", truth), ("own", own)):
        states, constants, bad, windows = _states(values.double(), history, channels, effort.states, kind == "own")
        skipped[kind] = [bad, windows]
        if not len(states):
            if kind == "true":
                raise ValueError(f"truth: none of its {windows} windows of {history} frame(s) is finite.")
            continue
        counts[kind], states = len(states), states / scale
        network = partial(_network, surrogate, scale, calls)
        solver = partial(_solver, pde, scale, frames)
        responses[kind]["surrogate"], move = _response(network, states, constants, settings)
        responses[kind]["solver"], _ = _response(solver, states, constants, settings, True, move)
    return Perturbation(
        pde.grid.shape[0], pde.label_grid.shape[0], frames, advance, effort.applications, len(basis), shells,
        list(LEVELS), SIZE, counts, skipped, _kept(pde, responses["true"]["solver"].symmetry or {}),
        responses["true"], responses["own"],
    )  # fmt: skip


Path = Callable[[Tensor, int], Tensor]
"""States `(b, c, *x)` and a number t of steps to the states after each of them, `(b, t, c, *x)`."""


@dataclass(frozen=True)
class _Settings:
    effort: Effort
    pde: PDE
    shells: list[int]
    basis: Tensor
    advance: float
    seed: int
    deadline: float = math.inf
    """On time.monotonic's clock."""


def _states(values: Tensor, history: int, channels: int, count: int, late: bool) -> tuple[Tensor, Tensor, int, int]:
    """Up to `count` windows of trajectories spread evenly over time, frames as channels, with their constants `(b, k)`;
    then how many windows are not finite, and how many there are.

    Args:
        values: `(n, t, c + k, *x)`.
        history: Frames of a window.
        channels: c.
        count: How many to take.
        late: Whether the last one is among them; else they are in the middle of equal parts.
    """
    finite = torch.isfinite(values).flatten(2).all(2)
    windows = finite.unfold(1, history, 1).all(2)  # (n, t - history + 1)
    good = windows.mT.nonzero().flip(1).tolist()  # (sample, first frame), earlier ones first
    count = min(count, len(good))
    chosen = [good[(j + 1) * len(good) // count - 1 if late else (2 * j + 1) * len(good) // (2 * count)]
              for j in range(count)]  # fmt: skip
    states = [values[i, s : s + history, :channels].flatten(0, 1) for i, s in chosen]
    constants = [values[i, s, channels:].flatten(1)[:, 0] for i, s in chosen]
    none = values.new_zeros(0, history * channels, *values.shape[3:]), values.new_zeros(0, values.shape[2] - channels)
    stacked = (torch.stack(states), torch.stack(constants)) if chosen else none
    return *stacked, int((~windows).sum()), windows.numel()


def _for_each(constants: Tensor, states: Tensor) -> Tensor:
    """Constants of every row, where each state stands several times in a row."""
    return constants.to(states).repeat_interleave(len(states) // len(constants), 0)


def _after(states: Tensor, later: Tensor, frames: int) -> Tensor:
    """States after every `frames` frames, given the first one `(b, h c, *x)` and all later frames `(b, t, c, *x)`."""
    history = states.shape[1] // later.shape[2]
    path = torch.cat([states.unflatten(1, (history, -1)), later], 1)
    return torch.stack([path[:, j : j + history].flatten(1, 2) for j in range(frames, later.shape[1] + 1, frames)], 1)


def _network(surrogate: Surrogate, scale: Tensor, calls: int, constants: Tensor) -> Path:
    """The surrogate's steps, in float64 and without gradients of its weights, on the CPU as to its tensors."""
    model = deepcopy(surrogate.model).double().eval().requires_grad_(False)
    device, bundle = surrogate.device, surrogate.stepping.bundle
    units = scale.to(device)

    def path(states: Tensor, steps: int) -> Tensor:
        here = states.to(device)
        inputs = with_constants(here * units, _for_each(constants, here))
        parts = roll_out(model, inputs, here.shape[1], steps * calls)
        later = torch.cat(parts, 1).unflatten(1, (steps * calls * bundle, -1))
        channels = later.shape[2]
        return _after(here, later / units[:channels], calls * bundle).to(states.device)

    return path


def _solver(pde: PDE, scale: Tensor, frames: int, constants: Tensor) -> Path:
    """The solver's steps on the grid labels are solved on. Of the frames given, it reads the last alone."""
    channels, dt = len(pde.outputs), float(time_step(pde.times) or 0.0)
    fine = pde.on(pde.label_grid.shape[0])
    precise = {"precision": "float64"} if "precision" in pde.parameters() else {}
    units = scale[:channels]

    def path(states: Tensor, steps: int) -> Tensor:
        times = tuple(dt * j for j in range(steps * frames + 1))
        problem = dataclasses.replace(fine, times=times, **precise)  # type: ignore[type-var]
        last = pde.grid.resample(states[:, -channels:] * units, fine.grid)
        path = problem.solve(with_constants(last, _for_each(constants, last)))[:, 1:]
        return _after(states, fine.grid.resample(path, pde.grid, pde.restriction) / units, frames)

    return path


def _response(
    make: Callable[[Tensor], Path], states: Tensor, constants: Tensor, settings: _Settings, solver: bool = False,
    move: Tensor | None = None,
) -> tuple[Response, Tensor | None]:  # fmt: skip
    """Figures of one map, and the worst perturbation found.

    Args:
        make: The map, given the constants of its states.
        states: `(b, c, *x)`, scaled.
        constants: `(b, k)`.
        settings: What to measure.
        solver: Whether the map cannot be differentiated.
        move: Then, a perturbation to try; it cannot search one.
    """
    effort, pde, seed, out = settings.effort, settings.pde, settings.seed, Response()
    path, steps = make(constants), effort.applications
    product = difference_product if solver else exact_product
    no_gradient = "the solver cannot be differentiated"

    def step(values: Tensor) -> Tensor:
        return path(values, 1)[:, 0]

    def last(values: Tensor) -> Tensor:
        return path(values, steps)[:, -1]

    each = 0.0
    with contextlib.suppress(SolverError):  # told where it matters
        step(states)  # what is set up on a first call is not timed
        began = time.monotonic()
        step(states)
        each = (time.monotonic() - began) / len(states)

    def attempt(name: str, steps_of_each: int, measure: Callable[[], None]) -> None:
        """Measure, if so many steps from each state fit what is left of the time."""
        if time.monotonic() + steps_of_each * len(states) * each > settings.deadline:
            out.reasons[name] = "left out: it does not fit the time allowed"
            return
        try:
            measure()
        except SolverError as problem:
            out.reasons[name] = str(problem).partition("\n")[0]

    def low() -> None:
        found = leading_in_span(lambda u: path(u, steps), states, settings.basis, product)
        out.low_singular_value = found[:, 0].tolist()
        out.low_growth = (found[:, -1].log() / (steps * settings.advance)).tolist()

    def gains() -> None:
        draws = effort.solver_draws if solver else effort.draws
        found = gain_by_wavenumber(step, states, pde.grid, draws, seed, settings.shells, product)
        out.gain, out.transfer = found.gain.mean(0).tolist(), found.transfer.mean(0).tolist()

    def noise() -> None:
        found = noise_sensitivity(step, states, LEVELS, pde.grid, effort.solver_draws, seed)
        out.noise = {kind: response.growth.mean(0).tolist() for kind, response in found.items()}
        out.noise_slope = {kind: float(response.slope.mean()) for kind, response in found.items()}

    def symmetry() -> None:
        errors = symmetry_errors(step, states, pde.grid, pde.symmetries)
        out.symmetry = {name: float(values.max()) for name, values in errors.items()}

    def whole() -> None:
        found = leading_singular_value(step, states, effort.iterations, restarts=effort.restarts, seed=seed)
        how: dict[str, Any] = {"iterations": effort.searches, "restarts": 1, "seed": seed}
        growth = finite_time_growth(step, states, steps, settings.advance, **how)
        out.singular_value = _greater(found, out.low_singular_value)
        out.growth = _greater(growth, out.low_growth)

    worst_found: list[Tensor] = []

    def worst() -> None:
        if solver and move is None:
            out.reasons["worst"] = "no perturbation was found for the surrogate"
        elif move is not None:
            change = norm(last(states + move) - last(states))
            out.worst = (change / norm(move)).tolist()
        else:
            searched = worst_perturbation(last, states, SIZE, effort.searches, seed)
            out.worst, out.random = searched.growth.tolist(), searched.random.tolist()
            worst_found.append(searched.perturbation)

    def radius() -> None:
        first = make(constants[:1])
        out.radius = spectral_radius(lambda u: first(u, 1)[:, 0], states[:1], product, seed)

    # A product is about two steps of a solver, three of a network forward and three back.
    attempt("low_singular_value", 3 * steps * len(settings.basis), low)
    attempt("gain", 3 * (effort.solver_draws if solver else effort.draws) * len(settings.shells), gains)
    attempt("noise", 2 * effort.solver_draws * len(LEVELS), noise)
    attempt("symmetry", 2 * len(moves_of(pde.grid, pde.symmetries)), symmetry)
    attempt("worst", 2 * steps if solver else 4 * steps * effort.searches, worst)
    if not solver:
        attempt("singular_value", 6 * (effort.iterations * effort.restarts + steps * effort.searches), whole)
    else:
        out.reasons |= {"singular_value": no_gradient, "growth": no_gradient, "random": "of the surrogate alone"}
    if effort.radius:
        attempt("radius", 200 // len(states), radius)
    else:
        out.reasons["radius"] = "not part of a quick measurement"
    return out, worst_found[0] if worst_found else None


def _greater(found: Tensor, others: list[float] | None) -> list[float]:
    """The greater of two lower bounds, state by state."""
    return found.tolist() if others is None else torch.maximum(found, torch.tensor(others).to(found)).tolist()


def _kept(pde: PDE, solver: dict[str, float]) -> list[str]:
    """Moves under which the equation stays as it is, given how far its solver is from commuting with each."""
    moves = moves_of(pde.grid, pde.symmetries)
    whole = {move.direction: solver.get(move.name, math.inf) for move in moves if " 0.5 " not in move.name}
    return [move.name for move in moves if move.direction is None or whole[move.direction] <= INVARIANT]


def _numbers(value: Any) -> list[float]:
    """All numbers in lists and dicts, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for part in value for number in _numbers(part)]
    return [value] if isinstance(value, int | float) else []


def _plain(value: Any) -> Any:
    """The same without numbers that are not finite, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def perturbation_text(record: dict[str, Any]) -> str:
    """What a record of `Perturbation` allows one to say, in a line.

    Wavenumber 0 is the mean. A figure that is missing makes no claim.
    """
    places = {"true": "true states", "own": "states of its own rollout"}
    sentences = []
    low = {(kind, who): _largest(record[kind].get(who, {}).get("low_singular_value")) for kind, who in _PAIRS}
    grows = [
        f"{low[kind, 'surrogate']:.3g} on {place} (solver {_number(low[kind, 'solver'])})"
        for kind, place in places.items()
        if low[kind, "surrogate"] is not None
    ]
    if grows:
        sentences.append(
            f"In a step of {record['time']:g} a small perturbation of the {record['waves']} lowest waves is "
            f"multiplied by up to {', '.join(grows)}."
        )
    for kind, place in places.items():
        gains = [record[kind].get(who, {}).get("gain") for who in ("surrogate", "solver")]
        if not all(gains):
            continue
        rows = [row for row in zip(record["shells"], *gains, strict=True) if None not in row]
        wrong = [row for row in rows if row[1] > AMPLIFIED and row[2] <= KEPT]
        if wrong:
            waves = f"{len(wrong)} of the wavenumbers {wrong[0][0]} to {wrong[-1][0]} that the solver does not,"
            kappa, own, solver = max(wrong, key=lambda row: row[1])
            sentences.append(
                f"On {place} it amplifies {waves if len(wrong) > 1 else 'wavenumber'} {kappa} by a factor of {own:.3g} "
                f"(solver {solver:.3g})."
            )
        elif rows:
            sentences.append(
                f"On {place} it amplifies no wavenumber of the {len(rows)} tried that the solver does not."
            )
    errors = record["true"].get("surrogate", {}).get("symmetry") or {}
    known = {name: errors[name] for name in record["symmetries"] if errors.get(name) is not None}
    if known:
        worst = max(known, key=lambda name: known[name])
        solver = (record["true"]["solver"]["symmetry"] or {}).get(worst)
        sentences.append(
            f"Of the moves that leave the equation as it is, it breaks one ({worst}) by {100 * known[worst]:.2g}% "
            f"(solver {'unknown' if solver is None else f'{100 * solver:.2g}%'})."
        )
    bad, windows = record["skipped"]["own"]
    if bad:
        sentences.append(f"{bad} of its own {windows} states are not finite, and left out.")
    return " ".join(sentences) or "Nothing could be measured of its response to perturbations."


_PAIRS = tuple(itertools.product(("true", "own"), ("surrogate", "solver")))


def _largest(values: list[float | None] | None) -> float | None:
    return max((v for v in values or [] if v is not None), default=None)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def gain_picture(record: dict[str, Any]) -> Picture:
    """G(kappa) of the surrogate on true states and on its own, and of the solver, as PNG.

    Args:
        record: Of `Perturbation`.
    """
    curves = {
        "surrogate, true states": ("true", "surrogate", INK["surrogate"], "-"),
        "surrogate, its own states": ("own", "surrogate", INK["interpolation"], "-"),
        "solver, true states": ("true", "solver", INK["truth"], "--"),
    }

    def draw(figure: Any) -> None:
        axis = figure.subplots()
        highest = 1.0
        for label, (kind, who, color, style) in curves.items():
            gain = record[kind].get(who, {}).get("gain") or []
            points = [(k, g) for k, g in zip(record["shells"], gain, strict=False) if g]  # no logarithm of zero
            if points:
                axis.plot(*zip(*points, strict=True), color=color, ls=style, marker=".", ms=5, lw=1.6, label=label)
                highest = max(highest, *(g for _, g in points))
        axis.axhline(1, color="#bbbbbb", lw=1, zorder=0)
        axis.set_xscale("symlog", base=2, linthresh=1)  # the mean, 0, is among them
        axis.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
        axis.set_yscale("log")
        axis.set_ylim(bottom=max(axis.get_ylim()[0], 1e-8 * highest))
        axis.set_xlabel("wavenumber of the perturbation")
        axis.set_ylabel(f"growth in a step of {record['time']:g}")
        axis.grid(alpha=0.25)
        if axis.lines[:-1]:
            axis.legend(frameon=False, fontsize=9)

    return render(draw, 6.4, 4.2)

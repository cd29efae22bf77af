"""Which published problem do data follow? Stored inputs are solved for each definition in circulation, and compared.

Darcy (Li et al. 2021 and what was derived from it): values at nodes or at cell centres, harmonic or arithmetic means on
faces, and the published generator's own detour: coefficient at cell centres, moved to nodes by a cubic spline, solved
there with arithmetic means by a direct method (the spline makes the problem non-elliptic in places), solution moved
back. Burgers: intervals and viscosities of the papers, scripts and files. Navier-Stokes: the three viscosities, with
the forcing of Li et al.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from opkit.errors import SolverError
from opkit.grid import Grid
from opkit.pdes import Burgers, Darcy, NavierStokes

if TYPE_CHECKING:
    from opkit.pdes import PDE

FOLLOWS, NEAR = 1e-3, 1e-2
"""Relative errors below which data follow a definition, and below which they are the same problem solved otherwise."""
OTHER = 0.02
"""Smallest deviation of a common factor from 1 that counts as another scaling, not as another discretisation."""
FINE = {"burgers": 1024, "navier_stokes": 128}
"""Points per axis on which a file's problem is solved at least."""
COARSE = {"burgers": 2048}
"""Points per axis beyond which the solution would not change."""
VISCOUS = 5e-3
"""Viscosity of Burgers below which its exact solution is cheaper than one with steps for its thin fronts."""
LAGS = (32, 16, 8)
"""Fractions of the square at which neighbours are compared to estimate the correlation length."""


@dataclass(frozen=True)
class Definition:
    """A problem that data may follow.

    Args:
        name: In words.
        solve: `(n, *x)` inputs to `(n, *x)` solutions, float64.
    """

    name: str
    solve: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Fit:
    """How well data follow a definition.

    Args:
        name: The definition.
        error: Mean relative L2 distance of its solutions from the stored ones; None where it could not be solved.
        factor: The factor on its solutions that brings them closest.
        scaled: The distance with that factor.
        exchanged: The distance to the stored solutions with their axes exchanged.
        reason: Why it could not be solved.
    """

    name: str
    error: float | None
    factor: float = 1.0
    scaled: float = math.inf
    exchanged: float = math.inf
    reason: str = ""


def compare(definitions: list[Definition], inputs: Tensor, outputs: Tensor) -> list[Fit]:
    """Fits of all definitions, best first.

    Args:
        definitions: What to try.
        inputs: Stored inputs, `(n, *x)`, float64.
        outputs: Stored solutions at the time the definitions solve for, `(n, *x)`, float64.
    """
    fits = [_fit(definition, inputs, outputs) for definition in definitions]
    return sorted(fits, key=lambda fit: math.inf if fit.error is None else fit.error)


def _fit(definition: Definition, inputs: Tensor, outputs: Tensor) -> Fit:
    try:
        solved = definition.solve(inputs)
    except (ValueError, SolverError, ArithmeticError) as problem:
        return Fit(definition.name, None, reason=str(problem).partition(". ")[0].removesuffix("."))
    if not torch.isfinite(solved).all():
        return Fit(definition.name, None, reason="the solution is not finite")
    factor = float((solved * outputs).sum() / (solved**2).sum().clamp_min(1e-300))
    exchanged = outputs.transpose(-1, -2) if outputs.ndim == 3 and outputs.shape[-1] == outputs.shape[-2] else None
    return Fit(
        definition.name, _distance(solved, outputs), factor, _distance(factor * solved, outputs),
        math.inf if exchanged is None else _distance(solved, exchanged),
    )  # fmt: skip


def _distance(solved: Tensor, outputs: Tensor) -> float:
    difference, scale = (solved - outputs).flatten(1).norm(dim=1), outputs.flatten(1).norm(dim=1)
    return float((difference / scale.clamp_min(1e-300)).mean())


def verdict(fits: list[Fit]) -> str:
    """What the fits say, in a sentence."""
    best = fits[0]
    if best.error is None:
        return "none of the definitions could be solved for these inputs."
    rivals = [f.name for f in fits[1:] if f.error is not None and f.error < FOLLOWS and f.error < 2 * best.error]
    tie = f" (as well: {', '.join(rivals)})" if rivals else ""
    if best.error < FOLLOWS:
        return f"they follow: {best.name}{tie}, within {FOLLOWS:g}."
    swapped = min(fits, key=lambda fit: fit.exchanged)
    if swapped.exchanged < min(NEAR, best.error / 3):
        return f"they follow: {swapped.name}, with the axes of the solution exchanged ({swapped.exchanged:.1e})."
    scaled = min(fits, key=lambda fit: fit.scaled)
    if scaled.scaled < min(NEAR, best.error / 3) and abs(scaled.factor - 1) > OTHER:
        return f"they follow: {scaled.name}, with every solution times {scaled.factor:.6g} ({scaled.scaled:.1e})."
    if best.error < NEAR:
        return (
            f"none within {FOLLOWS:g}; nearest, and within {NEAR:g}: {best.name}. The same problem, solved or sampled "
            "otherwise."
        )
    return f"none within {NEAR:g}; nearest: {best.name} ({best.error:.1e})."


# Darcy.


def darcy_definitions(pde: Darcy, codes: bool) -> list[Definition]:
    """Definitions of Darcy flow in circulation.

    Args:
        pde: The problem the file is taken for; its source is used.
        codes: Whether the coefficient is given as 0 and 1: the published pairs of values are then tried.
    """
    forcing = pde.forcing if isinstance(pde.forcing, int | float) else 1.0
    sources = [1.0] if forcing == 1 else [float(forcing), 1.0]
    out = []
    for low, high in ((3.0, 12.0), (12.0, 3.0), (4.0, 12.0), (12.0, 4.0)) if codes else ((math.nan, math.nan),):
        for source in sources:
            text = f", f = {source:g}" + (f", a = {low:g} for 0, {high:g} for 1" if codes else "")
            for name, solve in _darcy_solvers(pde, source).items():
                out.append(Definition(name + text, _decoded(solve, low, high) if codes else solve))
    return out


def _decoded(solve: Callable[[Tensor], Tensor], low: float, high: float) -> Callable[[Tensor], Tensor]:
    return lambda a: solve(torch.where(a > 0.5, high, low).to(torch.float64))


def _darcy_solvers(pde: Darcy, forcing: float) -> dict[str, Callable[[Tensor], Tensor]]:
    solvers: dict[str, Callable[[Tensor], Tensor]] = {}
    changes = {"forcing": forcing, "label_resolution": pde.resolution}
    locations = ("node", "cell") if "location" in {f.name for f in dataclasses.fields(Darcy)} else ("node",)
    for location in locations:
        for mean in ("harmonic", "arithmetic"):
            where = {"location": location} if len(locations) > 1 else {}
            problem = dataclasses.replace(pde, face_mean=mean, **where, **changes)  # type: ignore[arg-type]
            solvers[f"{location} grid, {mean} means"] = _solver(problem)
    solvers["published generator (cells, spline to nodes and back)"] = lambda a: published_darcy(a, forcing)
    return solvers


def _solver(problem: "PDE") -> Callable[[Tensor], Tensor]:
    return lambda a: problem.solve(a[:, None])[:, 0]


def published_darcy(a: Tensor, forcing: float = 1.0) -> Tensor:
    """Darcy flow as the FNO paper's generator solves it; positive definiteness is not needed.

    Args:
        a: Coefficient at the centres of n x n cells, `(m, n, n)`, float64.
        forcing: Constant source.

    Returns:
        The solution at the same points.
    """
    from scipy.sparse import diags_array
    from scipy.sparse.linalg import spsolve

    n = a.shape[-1]
    cells, nodes = Grid((n, n), "cell"), Grid((n, n), "node")
    out = torch.zeros_like(a)
    for i, coefficient in enumerate(cells.resample(a, nodes, "cubic").numpy()):
        x = (coefficient[:-1, 1:-1] + coefficient[1:, 1:-1]) / 2
        y = (coefficient[1:-1, :-1] + coefficient[1:-1, 1:]) / 2
        m = n - 2
        centre = x[:-1] + x[1:] + y[:, :-1] + y[:, 1:]
        down, right = -x[1:-1].ravel(), -np.pad(y[:, 1:-1], ((0, 0), (0, 1))).ravel()[:-1]
        matrix = diags_array([centre.ravel(), down, down, right, right], offsets=[0, m, -m, 1, -1], format="csc")
        solution = spsolve(matrix * float((n - 1) ** 2), np.full(m * m, forcing))
        out[i, 1:-1, 1:-1] = torch.from_numpy(solution.reshape(m, m))
    return nodes.resample(out, cells, "cubic")


def darcy_findings(a: Tensor, u: Tensor) -> list[str]:
    """What a look at the fields tells.

    Args:
        a: Coefficients, `(n, x, y)`: some dozens, for the correlation length.
        u: Solutions.
    """
    values = torch.unique(a)
    listed = " and ".join(f"{v:g}" for v in values.tolist()) if len(values) <= 4 else f"{len(values)} different"
    edge = torch.stack([u[:, 0], u[:, -1], u[:, :, 0], u[:, :, -1]]).abs().max() / u.abs().max().clamp_min(1e-300)
    lines = [
        f"a: {a.min():g} to {a.max():g}, values: {listed}; above its mean in {(a > a.mean()).double().mean():.3f} of "
        "the area",
        f"u: {u.min():g} to {u.max():g}; on the outermost rows up to {float(edge):.1e} of its maximum"
        + (" (it vanishes there)" if edge < 1e-6 else " (its points are not nodes on the boundary)"),
    ]
    if (u < -1e-6 * u.abs().max()).any():
        lines.append("u is negative in places: no solution with a positive source and u = 0 on the boundary.")
    if len(values) == 2 and a.shape[-1] >= 2 * LAGS[0]:
        tau, spread = estimate_tau(a)
        lines.append(
            f"tau about {tau:.2g} (3 in the FNO paper), from how often neighbours differ in {len(a)} samples against "
            f"opkit's own with alpha = 2; spread {spread:.0%}"
        )
    return lines


def _disagreement(a: Tensor) -> np.ndarray:
    """How often two points 1/32, 1/16 and 1/8 apart along an axis have different values."""
    n = a.shape[-1]
    shares = []
    for lag in LAGS:
        k = max(1, n // lag)
        along = [(a[:, k:] != a[:, :-k]).double().mean(), (a[:, :, k:] != a[:, :, :-k]).double().mean()]
        shares.append(float(sum(along)) / 2)
    return np.array(shares)


def estimate_tau(a: Tensor) -> tuple[float, float]:
    """Inverse correlation length of a two-valued coefficient, if it is a threshold of a Gaussian field with alpha = 2.

    The share of differing neighbours grows with tau; opkit's own samples, of as many points per axis at most 64, say
    how. Each distance gives an estimate.

    Returns:
        Their median, and their spread relative to it.
    """
    n = min(64, a.shape[-1])
    stride = a.shape[-1] // n
    given = _disagreement(a[:, : n * stride : stride, : n * stride : stride])
    taus = np.array([1.0, 2.0, 3.0, 4.5, 6.5, 9.0, 13.0, 18.0, 25.0])
    base = Darcy(resolution=n, label_resolution=n, modes=n - 1, mean="drop")
    curves = np.array([_disagreement(dataclasses.replace(base, tau=tau).sample(64)[:, 0]) for tau in taus.tolist()])
    found = [float(np.exp(np.interp(s, np.maximum.accumulate(c), np.log(taus)))) for s, c in zip(given, curves.T)]  # noqa: B905
    middle = float(np.median(found))
    return middle, float(np.ptp(found)) / middle


# Evolution equations.


def burgers_definitions(pde: Burgers, time: float) -> list[Definition]:
    """Burgers in circulation, solved up to one time."""
    known = [
        ("(0, 1), viscosity 0.1: FNO, ICLR 2021", 1.0, 0.1),
        ("(0, 2 pi), viscosity 0.1: Neural Operator, JMLR 2023", 2 * math.pi, 0.1),
        ("(0, 1), viscosity 0.01: files of PINO and neuraloperator", 1.0, 0.01),
        ("(0, 1), viscosity 1e-3: FNO script", 1.0, 1e-3),
        ("(0, 1), viscosity 1e-4: improved DeepONets", 1.0, 1e-4),
    ]
    stated = _stated(pde.viscosity)
    if stated is not None and not any(math.isclose(pde.length, e) and math.isclose(stated, nu) for _, e, nu in known):
        known.insert(0, (f"(0, {pde.length:.6g}), viscosity {stated:.6g}: as stated", pde.length, stated))
    out = []
    for name, length, viscosity in known:
        problem = Burgers(
            resolution=pde.resolution, label_resolution=pde.resolution, length=length, viscosity=viscosity,
            times=(0.0, time), dt=1e-3 * min(1.0, time), unresolved="accept",
            scheme="cole-hopf" if viscosity < VISCOUS else "etdrk4",
        )  # fmt: skip
        out.append(Definition(name, _on_better_grid(problem)))
    return out


def navier_stokes_definitions(pde: NavierStokes, time: float) -> list[Definition]:
    """Forced Navier-Stokes in circulation, solved up to one time."""
    stated = _stated(pde.viscosity)
    viscosities = [1e-3, 1e-4, 1e-5]
    if stated is not None and not any(math.isclose(stated, nu) for nu in viscosities):
        viscosities.insert(0, stated)
    out = []
    for viscosity in viscosities:
        problem = dataclasses.replace(
            pde, viscosity=viscosity, times=(0.0, time), label_resolution=pde.resolution, forcing_amplitude=0.1,
            forcing="fno", drag=0.0, length=1.0,
        )  # fmt: skip
        out.append(Definition(f"viscosity {viscosity:g}, forcing of the FNO paper", _on_better_grid(problem)))
    ranged = isinstance(pde.forcing_amplitude, tuple)
    if not ranged and stated is not None and (pde.forcing, pde.forcing_amplitude, pde.drag) != ("fno", 0.1, 0.0):
        problem = dataclasses.replace(pde, times=(0.0, time), label_resolution=pde.resolution)
        out.insert(0, Definition("as stated", _on_better_grid(problem)))
    return out


def _stated(value: float | tuple[float, float]) -> float | None:
    return None if isinstance(value, tuple) else float(value)


def _on_better_grid(problem: "PDE") -> Callable[[Tensor], Tensor]:
    """Solve up to the last time on a grid fine enough, whatever the file's is; the result at its points."""
    n = problem.resolution
    finer = n * max(1, -(-FINE[problem.equation] // n))
    most = COARSE.get(problem.equation, n)
    coarser = next((n // k for k in range(n // most, n) if k > 1 and n % k == 0), n) if n > most else n
    target = problem.on(finer if finer > n else coarser)

    def solve(inputs: Tensor) -> Tensor:
        start = problem.grid.resample(inputs, target.grid, "spectral")
        end = target.solve(start[:, None])[:, -1, 0]
        return target.grid.resample(end, problem.grid, "spectral")

    return solve


def initial_variance(w: Tensor) -> str:
    """Which of the published initial variances the initial vorticity `(n, x, y)` has."""
    std, modes = float(w.std()), w.shape[-1] // 2
    known = {}
    for name in ("code2020", "code2022", "paper"):
        field = NavierStokes(initial=name, modes=modes)._field
        known[name] = math.sqrt(float(field.variance(Grid((8, 8), "periodic")).mean()))
    nearest = min(known, key=lambda name: abs(math.log(max(std, 1e-300) / known[name])))
    listed = ", ".join(f"{name} {value:.4f}" for name, value in known.items())
    within = abs(std / known[nearest] - 1)
    matches = f"matches {nearest}" if within < 0.1 else "matches none of them"
    return f"standard deviation of the initial vorticity {std:.4f}: {matches} ({listed})"

"""What a surrogate does to small perturbations of its state, beside what the equation's own solver does to them.

Let G be one step, u -> G(u), and J its Jacobian at a state u. On true states and on states of the surrogate's own
rollout:

    sigma_max        max_v ||J v|| / ||v||: what the worst small perturbation grows by in one step
    radius           max |eigenvalue of J|: what it grows by per step in the long run, were J to stay as it is
    growth           log sigma_max(J_{m-1} ... J_0) / (m dt): finite-time Lyapunov exponent, 1 / time
    G(kappa)         ||J v|| / ||v|| of fields v of random phases and wavenumbers kappa <= |k| < kappa + 1
    T(kappa', kappa) ||P_kappa' J v|| / ||v||, the part of it that comes out at kappa': G^2 is the sum of T^2

A linear diffusion has G(kappa) = exp(-nu kappa^2 dt) and T diagonal. A network whose high wavenumbers grow where the
solver damps them, above all when they are fed from low ones, aliases its own output until it breaks: McCabe et al.,
"Towards Stability of Autoregressive Neural Operators", TMLR 2023 (arXiv 2306.10619).

Products with J are exact for a network (`torch.func`). A solver works in place and is not differentiable: its products
are central differences, it has no adjoint, and its sigma_max is taken over perturbations in the span of the lowest
Fourier waves, with the surrogate's in the same span beside it. That is a lower bound of the whole sigma_max, which it
approaches as waves are added, because viscosity damps the rest.

A step maps `(b, c, *x)` to `(b, c, *x)`, each row for itself. Where a function asks for several products at a state, it
hands the step a batch in which every state stands several times in a row. Norms are Euclidean over points and channels.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from opkit.errors import ConfigError, SolverError
from opkit.evaluation.figures import INK, Picture, render
from opkit.grid import Grid
from opkit.metrics import mode_energy, norm, wave_numbers
from opkit.pdes import PDE
from opkit.stepping import roll_out, time_step, with_constants
from opkit.surrogate import Surrogate
from opkit.transforms import dst1, dst3

Step = Callable[[Tensor], Tensor]
"""`(b, c, *x)` to `(b, c, *x)`."""
Product = Callable[[Step, Tensor, Tensor], Tensor]
"""J v at every row, given a step, states `(b, c, *x)` and directions v of the same shape."""

DIFFERENCE = 1e-4
"""Size h of a central difference's perturbation, relative to the state. The third derivative costs about h^2, round-off
1e-15 / h, and these two alone would ask for 1e-5. But a solver that chooses its time step may choose another one for
u + h v than for u - h v, and the jump, the error made in time, is divided by h as well."""
LEVELS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Noise on the input, relative to the state."""
LOW = 4
"""Highest wavenumber |k| of low-wavenumber noise."""
SIZE = 1e-2
"""Norm of the perturbation searched for, relative to the state."""
AMPLIFIED, KEPT = 1.01, 1.001
"""A wave is called amplified from the first gain on, and not amplified up to the second."""
INVARIANT = 1e-6
"""Relative error below which the solver is said to have a symmetry."""
POINTS = 2**17
"""Numbers per batch of products: bounds memory."""
DENSE = 64
"""Size up to which eigenvalues are those of the whole matrix."""


def exact_product(step: Step, states: Tensor, directions: Tensor) -> Tensor:
    """J v by forward differentiation; where a layer has no forward derivative, as the transpose of w -> J^T w."""
    try:
        return torch.func.jvp(step, (states,), (directions,))[1]
    except NotImplementedError:
        result, pull_back = torch.func.vjp(step, states)[:2]
        transpose = torch.func.vjp(lambda w: pull_back(w)[0], torch.zeros_like(result))[1]
        return transpose(directions)[0]


def difference_product(step: Step, states: Tensor, directions: Tensor) -> Tensor:
    """J v by central differences, for a step that cannot be differentiated; wants float64. See `DIFFERENCE`."""
    size, length = norm(states), norm(directions)
    h = DIFFERENCE * torch.where(size > 0, size, 1.0) / torch.where(length > 0, length, 1.0)
    move = _column(h, states) * directions
    out = step(torch.stack([states + move, states - move], 1).flatten(0, 1)).unflatten(0, (-1, 2))
    return (out[:, 0] - out[:, 1]) / (2 * _column(h, out[:, 0]))


def repeated(step: Step, times: int) -> Step:
    """The step taken several times."""

    def several(states: Tensor) -> Tensor:
        for _ in range(times):
            states = step(states)
        return states

    return several


def leading_singular_value(
    step: Step, states: Tensor, iterations: int = 30, tolerance: float = 1e-3, restarts: int = 3, seed: int = 0
) -> Tensor:
    """sigma_max of the Jacobian at every state, by power iteration v <- J^T J v from random fields.

    Args:
        step: Differentiable.
        states: `(b, c, *x)`.
        iterations: At most so many for each start.
        tolerance: Relative change from one iteration to the next that ends it, in all states.
        restarts: Starts, of which the greatest value counts.
        seed: Of the starts.

    Returns:
        `(b,)`, float64: never above sigma_max.
    """
    generator = torch.Generator().manual_seed(seed)
    pull_back = torch.func.vjp(step, states)[1]
    best = torch.zeros(len(states), dtype=torch.float64, device=states.device)
    for _ in range(restarts):
        v = _unit(_noise(states.shape, generator, states))
        sigma = torch.zeros_like(best)
        for _ in range(iterations):
            image = exact_product(step, states, v)
            before, sigma = sigma, norm(image)
            if ((sigma - before).abs() <= tolerance * sigma).all():
                break
            v = _unit(pull_back(image)[0])
        best = torch.maximum(best, sigma)
    return best


def finite_time_growth(step: Step, states: Tensor, steps: int, dt: float = 1.0, **how: Any) -> Tensor:
    """log sigma_max(J_{m-1} ... J_0) / (m dt), `(b,)`, in 1 / time: growth of the worst perturbation over m steps.

    Args:
        step: Differentiable.
        states: `(b, c, *x)`, where the m steps begin.
        steps: m.
        dt: Time of one step.
        how: As for `leading_singular_value`.
    """
    return leading_singular_value(repeated(step, steps), states, **how).log() / (steps * dt)


def leading_in_span(path: Step, states: Tensor, basis: Tensor, product: Product = exact_product) -> Tensor:
    """sigma_max of the Jacobians of several maps at once, over perturbations in the span of a basis: of J B, densely.

    Args:
        path: States `(b, c, *x)` to the results of t maps, `(b, t, c, *x)`.
        states: `(b, c, *x)`.
        basis: Orthonormal fields, `(m, c, *x)`, such as `low_waves`.
        product: How products with the Jacobian are made.

    Returns:
        `(b, t)`, float64; NaN where a product is not finite.
    """
    images = _products(path, states, basis.to(states).expand(len(states), *basis.shape), product)
    columns = images.double().transpose(1, 2).flatten(3)  # (b, t, m, everything)
    gram = columns @ columns.mT
    finite = torch.isfinite(gram).flatten(2).all(2)
    largest = torch.linalg.eigvalsh(torch.where(finite[..., None, None], gram, 0.0))[..., -1]
    return torch.where(finite, largest.clamp_min(0).sqrt(), torch.nan)


def spectral_radius(step: Step, state: Tensor, product: Product = exact_product, seed: int = 0) -> float:
    """Largest modulus of an eigenvalue of the Jacobian at one state, `(1, c, *x)`, by Arnoldi iteration.

    Power iteration would not settle where the largest are a complex pair. NaN where a product is not finite, or no
    eigenvalue converged.
    """
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs

    n = state.numel()
    if n <= DENSE:
        units = torch.eye(n, dtype=state.dtype, device=state.device).view(1, n, *state.shape[1:])
        matrix = _products(step, state, units, product)[0].flatten(1).double().mT
        return float(torch.linalg.eigvals(matrix).abs().max()) if torch.isfinite(matrix).all() else math.nan

    def times(v: np.ndarray) -> np.ndarray:
        image = product(step, state, torch.from_numpy(v.reshape(state.shape)).to(state)).double().cpu()
        if not torch.isfinite(image).all():
            raise FloatingPointError
        return image.numpy().ravel()

    start = np.random.default_rng(seed).standard_normal(n)
    operator = LinearOperator((n, n), matvec=times, dtype=np.float64)
    try:
        values: np.ndarray = eigs(operator, k=4, v0=start, tol=1e-4, maxiter=50, return_eigenvectors=False)
    except ArpackNoConvergence as problem:
        values = problem.eigenvalues
    except (ArpackError, FloatingPointError):
        return math.nan
    return float(np.abs(values).max()) if len(values) else math.nan


@dataclass(frozen=True)
class Gain:
    """What `gain_by_wavenumber` returns.

    Args:
        shells: Wavenumbers kappa that were put in.
        gain: G(kappa), `(b, s)`.
        transfer: T(kappa', kappa), `(b, s', s)`, kappa' = 0, 1, ... up to the corners of the grid's wavenumbers.
    """

    shells: tuple[int, ...]
    gain: Tensor
    transfer: Tensor


def gain_by_wavenumber(
    step: Step,
    states: Tensor,
    grid: Grid,
    draws: int = 8,
    seed: int = 0,
    shells: Sequence[int] | None = None,
    product: Product = exact_product,
) -> Gain:
    """G(kappa) and T(kappa', kappa), see the module's text: root mean squares over random fields.

    Args:
        step: The map.
        states: `(b, c, *x)`.
        grid: What the fields are on; its waves are those of `opkit.metrics.wave_numbers`.
        draws: Random fields per shell.
        seed: Of the random phases, the same for all states.
        shells: Wavenumbers kappa; None for 1, 2, ... up to the largest along an axis.
        product: How products with the Jacobian are made.

    Raises:
        ValueError: A shell holds no wave of the grid.
    """
    shell = _shell_of(grid)
    top, corner = int(wave_numbers(grid).max()), int(shell.max())
    chosen = tuple(range(1, top + 1)) if shells is None else tuple(shells)
    for kappa in chosen:
        if not (shell == kappa).any():
            raise ValueError(f"shells: no wave of the grid {grid.shape} has {kappa} <= |k| < {kappa + 1}; up to {top}.")
    generator = torch.Generator().manual_seed(seed)
    fields = []
    for kappa in chosen:
        amplitude = (shell == kappa).double().expand(draws, states.shape[1], *shell.shape)
        fields.append(_unit(_random_phases(amplitude, grid, generator)))
    directions = torch.cat(fields).to(states)
    images = _products(step, states, directions.expand(len(states), *directions.shape), product)
    energy = mode_energy(images.flatten(0, 1).cpu(), grid).flatten(1)
    energy = energy / math.prod(grid.spacing)  # to Euclidean norms
    out = energy.new_zeros(len(energy), corner + 1).index_add(1, shell.flatten(), energy)
    transfer = out.unflatten(0, (len(states), len(chosen), draws)).mean(2).mT.sqrt()
    squares = norm(images.flatten(0, 1)).square().unflatten(0, (len(states), len(chosen), draws))
    return Gain(chosen, squares.mean(2).sqrt().cpu(), transfer)


@dataclass(frozen=True)
class Noise:
    """Error made by noise on the input of one step.

    Args:
        growth: Norm of the change of the output over that of the noise, `(b, levels)`: root mean square over draws.
        slope: Of log change against log noise over all levels, `(b,)`: 1 where the step responds linearly.
    """

    growth: Tensor
    slope: Tensor


def noise_sensitivity(
    step: Step, states: Tensor, levels: Sequence[float], grid: Grid, draws: int = 4, seed: int = 0
) -> dict[str, Noise]:
    """Response of one step to Gaussian "white" noise and to "low" noise, random phases of 0 < |k| <= `LOW`.

    Args:
        step: The map; need not be differentiable.
        states: `(b, c, *x)`.
        levels: Norms of the noise relative to the state's, at least two.
        grid: What the fields are on.
        draws: Noise fields per level, the same for all levels and states.
        seed: Of the noise.
    """
    if len(levels) < 2 or min(levels) <= 0:
        raise ValueError(f"levels: a slope needs at least two positive levels, got {list(levels)}.")
    generator = torch.Generator().manual_seed(seed)
    shape = (draws, *states.shape[1:])
    size = wave_numbers(grid).square().sum(0).sqrt()
    low = ((size > 0) & (size <= LOW)).double().expand(draws, states.shape[1], *size.shape)
    kinds = {"white": _noise(shape, generator, states), "low": _random_phases(low, grid, generator).to(states)}
    base, length = step(states), norm(states)
    logs = torch.tensor(levels, dtype=torch.float64, device=states.device).log()
    out = {}
    for kind, fields in kinds.items():
        columns = []
        for level in levels:
            moves = _unit(fields)[None] * _column(level * length, fields[None])
            changed = step((states[:, None] + moves).flatten(0, 1)).unflatten(0, (len(states), draws))
            change = norm((changed - base[:, None]).flatten(0, 1)).unflatten(0, (len(states), draws))
            columns.append(change.square().mean(1).sqrt() / (level * length))
        growth = torch.stack(columns, 1)
        errors, x = growth.log() + logs, logs - logs.mean()
        out[kind] = Noise(growth, (errors * x).sum(1) / x.square().sum())
    return out


@dataclass(frozen=True)
class Worst:
    """What `worst_perturbation` found.

    Args:
        perturbation: `(b, c, *x)`.
        growth: Norm of the change it makes over its own, `(b,)`.
        random: The same of white noise of equal norm.
    """

    perturbation: Tensor
    growth: Tensor
    random: Tensor


def worst_perturbation(roll: Step, states: Tensor, size: float = SIZE, iterations: int = 20, seed: int = 0) -> Worst:
    """Search the perturbation of given norm that changes the result most, from white noise on.

    Projected gradient ascent of ||roll(u + d) - roll(u)||^2 over ||d|| = size ||u||. Steps are first so long that only
    the gradient's direction remains, which for small sizes is power iteration; where one gains nothing it is taken back
    and made shorter. What is found is a lower bound on the worst.

    Args:
        roll: Differentiable: one step, or several.
        states: `(b, c, *x)`.
        size: Norm relative to the state's.
        iterations: Gradients taken.
        seed: Of the start, which is also the random perturbation compared with.
    """
    generator = torch.Generator().manual_seed(seed)
    base, radius = roll(states).detach(), size * norm(states)
    move = _unit(_noise(states.shape, generator, states)) * _column(radius, states)
    best, length = torch.full_like(radius, -1.0), torch.full_like(radius, 100.0)
    found, uphill, random = move, torch.zeros_like(move), torch.zeros_like(radius)
    for iteration in range(iterations + 1):
        result, pull_back = torch.func.vjp(roll, states + move)[:2]
        change = norm(result - base)
        if iteration == 0:
            random = change
        better = ~(change <= best)  # not finite counts as worst
        gradient = _unit(pull_back(result - base)[0])
        best = torch.where(better, change, best)
        found, uphill = (torch.where(_column(better, move), *pair) for pair in ((move, found), (gradient, uphill)))
        length = torch.where(better, length, length / 4)
        if not torch.isfinite(best).all():
            break
        move = _unit(_unit(found) + _column(length, move) * uphill) * _column(radius, states)
    return Worst(found, best / radius, random / radius)


def shifted(values: Tensor, grid: Grid, cells: Sequence[float]) -> Tensor:
    """A periodic field `(..., *x)` moved by so many cells along each axis: as it is by whole cells, else its Fourier
    series."""
    for axis, s in zip(range(-grid.ndim, 0), cells, strict=True):
        n = values.shape[axis]
        if s == round(s):
            values = values.roll(round(s), axis)
            continue
        k = torch.arange(n // 2 + 1, dtype=torch.float64, device=values.device)
        turn = torch.polar(torch.ones_like(k), -2 * math.pi / n * s * k)
        if n % 2 == 0:
            turn[-1] = turn[-1].real.clone()  # the Nyquist wave is a cosine: of its move, the grid sees that part alone
        turn = turn.view(-1, *(1 for _ in range(-axis - 1)))
        values = torch.fft.irfft(torch.fft.rfft(values, dim=axis) * turn, n=n, dim=axis)
    return values


def symmetry_errors(step: Step, states: Tensor, grid: Grid, symmetries: int = 0) -> dict[str, Tensor]:
    """How far a step is from commuting with moves of the domain: ||G(M u) - M G(u)|| / ||G(u)||, `(b,)` by move.

    On periodic grids: shifts by half a cell, which show aliasing, and by whole ones, which show dependence on absolute
    positions, along every axis and every diagonal of two. They are symmetries only where the equation is homogeneous in
    that direction; what the solver gives for the same move tells.

    Args:
        step: The map; need not be differentiable.
        states: `(b, c, *x)`, scalar fields.
        grid: What they are on.
        symmetries: Further moves: reflections of as many axes, then exchange of the first two, as `PDE.symmetries`.
    """
    result = step(states)
    errors = {}
    for name, _, move in _moves(grid, symmetries):
        errors[name] = norm(step(move(states)) - move(result)) / norm(result)
    return errors


def low_waves(grid: Grid, channels: int, count: int) -> Tensor:
    """Orthonormal fields `(m, channels, *x)`: the `count` waves of lowest |k| > 0 (fewer, where the grid has no more),
    for each channel by itself. Cosines and sines on periodic grids, sines that vanish on the walls on others.
    """
    x = grid.coordinates / torch.tensor(grid.lengths, dtype=torch.float64).view(-1, *(1 for _ in grid.shape))
    periodic = grid.location == "periodic"
    tops = [(n - 1) // 2 if periodic else n - 2 if grid.location == "node" else n - 1 for n in grid.shape]
    enough = math.ceil(count ** (1 / grid.ndim)) + 1
    ranges = [range(-min(t, enough) if periodic else 1, min(t, enough) + 1) for t in tops]
    zero = (0,) * grid.ndim
    # k and -k are the same two waves: the greater stands for both.
    waves = [k for k in itertools.product(*ranges) if not periodic or k > zero]
    waves.sort(key=lambda k: (sum(i * i for i in k), k))
    fields: list[Tensor] = []
    for k in waves:
        if len(fields) >= count:
            break
        if periodic:
            angle = 2 * math.pi * sum(i * axis for i, axis in zip(k, x, strict=True))
            fields += [torch.cos(angle), torch.sin(angle)]
        else:
            fields.append(torch.stack([torch.sin(math.pi * i * axis) for i, axis in zip(k, x, strict=True)]).prod(0))
    lowest = torch.stack(fields[:count])
    lowest = lowest / norm(lowest[:, None]).view(-1, *(1 for _ in grid.shape))
    units = torch.eye(channels, dtype=torch.float64)
    return torch.einsum("ij,m...->imj...", units, lowest).flatten(0, 1)


def random_phases_of(values: Tensor, grid: Grid, seed: int = 0) -> Tensor:
    """Fields `(n, c, *x)` with the norm and the energy of every wave of the given ones, but phases drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    energy = mode_energy(values.flatten(0, 1)[:, None].cpu(), grid).unflatten(0, values.shape[:2])
    drawn = _random_phases(energy.sqrt(), grid, generator).to(values)
    return _unit(drawn) * _column(norm(values), values)


def growth_rate(errors: Tensor, dt: float, least: float | Tensor, most: float | Tensor) -> Tensor:
    """Exponential rate of error norms `(n, t)`, in 1 / time: least squares of log error from the first frame above
    `least` to the last before the first one above `most`.

    NaN where the rate cannot be identified: fewer than five frames, or less than nine tenths of the variance explained.
    """
    rates = torch.full((len(errors),), math.nan, dtype=torch.float64)
    low, high = (torch.as_tensor(v, dtype=torch.float64).expand(len(errors)).tolist() for v in (least, most))
    for i, row in enumerate(errors.double().cpu().numpy()):
        above, beyond = np.flatnonzero(row >= low[i]), np.flatnonzero(~(row <= high[i]))
        begin, end = (above[0] if len(above) else len(row)), (beyond[0] if len(beyond) else len(row))
        if end - begin < 5:
            continue
        y = np.log(row[begin:end])
        x = dt * np.arange(len(y))
        slope, _ = np.polyfit(x, y, 1)
        if np.corrcoef(x, y)[0, 1] ** 2 >= 0.9:
            rates[i] = float(slope)
    return rates


def _column(values: Tensor, like: Tensor) -> Tensor:
    """`(b,)` against `(b, ...)`, in its dtype where that is a floating one."""
    shaped = values.view(-1, *(1 for _ in like.shape[1:]))
    return shaped if values.dtype == torch.bool else shaped.to(like.dtype)


def _unit(fields: Tensor) -> Tensor:
    return fields / _column(norm(fields).clamp_min(1e-300), fields)


def _noise(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """White noise, the same on every device."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like)


def _products(step: Step, states: Tensor, directions: Tensor, product: Product) -> Tensor:
    """J v for several directions `(b, m, c, *x)` at each state, `(b, m, ...)`."""
    together = max(1, POINTS // states.numel())
    parts = []
    for part in directions.split(together, 1):
        m = part.shape[1]
        images = product(step, states.repeat_interleave(m, 0), part.flatten(0, 1))
        parts.append(images.unflatten(0, (len(states), m)))
    return torch.cat(parts, 1)


def _shell_of(grid: Grid) -> Tensor:
    """floor |k| of every wave."""
    return wave_numbers(grid).square().sum(0).sqrt().long()


def _random_phases(amplitude: Tensor, grid: Grid, generator: torch.Generator) -> Tensor:
    """Fields `(n, c, *x)` whose waves have the given amplitudes `(n, c, *k)`, but for a common factor, and phases at
    random; sines have a sign for a phase."""
    if grid.location == "periodic":
        axes = tuple(range(-grid.ndim, 0))
        spectrum = torch.fft.fftn(torch.randn(amplitude.shape, generator=generator, dtype=torch.float64), dim=axes)
        return torch.fft.ifftn(amplitude * torch.sgn(spectrum), dim=axes).real
    signs = torch.sgn(torch.randn(amplitude.shape, generator=generator, dtype=torch.float64))
    if grid.location == "node":
        return torch.nn.functional.pad(dst1(amplitude * signs, grid.ndim), (1, 1) * grid.ndim)
    return dst3(amplitude * signs, grid.ndim)


class _Move(NamedTuple):
    name: str
    direction: str | None
    """Of a shift; None of what `PDE.symmetries` vouches for."""
    apply: Callable[[Tensor], Tensor]


def _moves(grid: Grid, symmetries: int) -> list[_Move]:
    letters, moves = "xyz"[: grid.ndim], []
    if grid.location == "periodic":
        for direction, vector in _directions(grid):
            for cells in (0.5, _whole(grid)):
                shift = partial(shifted, grid=grid, cells=[cells * s for s in vector])
                moves.append(_Move(f"{direction}, {cells:g} cells", direction, shift))
    for axis in range(min(symmetries, grid.ndim)):
        moves.append(_Move(f"reflection of {letters[axis]}", None, partial(torch.flip, dims=(axis + 2,))))
    if symmetries > grid.ndim:
        moves.append(_Move("exchange of x and y", None, partial(torch.transpose, dim0=2, dim1=3)))
    return moves


def _whole(grid: Grid) -> int:
    """Cells of a whole shift: one more than a quarter, which might be a period of the forcing."""
    return min(grid.shape) // 4 + 1


def _directions(grid: Grid) -> list[tuple[str, tuple[int, ...]]]:
    """Axes, and diagonals of two of them."""
    units = np.eye(grid.ndim, dtype=int)
    out = [(name, units[i]) for i, name in enumerate("xyz"[: grid.ndim])]
    for i, j in itertools.combinations(range(grid.ndim), 2):
        out += [(f"{'xyz'[i]} {sign} {'xyz'[j]}", units[i] + s * units[j]) for sign, s in (("+", 1), ("-", -1))]
    return [(name, tuple(vector.tolist())) for name, vector in out]


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
    error_growth: list[float] | None = None
    """Exponential rate of its error along trajectories, in 1 / time; of the solver, after a perturbation with the
    spectrum of the surrogate's first error and random phases. True states alone."""
    error_path: list[float] | None = None
    """The same error step by step, over the norm of the true state: mean over trajectories."""
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
    surrogate: Surrogate, pde: PDE, truth: Tensor, own: Tensor, *, seed: int = 0, quick: bool = False
) -> Perturbation:
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
    settings = _Settings(effort, pde, shells, basis, advance, seed)
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
    if not quick:
        _error_growth(surrogate, truth.double(), scale, calls, frames, settings, responses["true"])
    else:
        for response in responses["true"].values():
            response.reasons |= dict.fromkeys(("error_growth", "error_path"), "not part of a quick measurement")
    for response in responses["own"].values():
        response.reasons |= dict.fromkeys(("error_growth", "error_path"), "on true states alone")
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

    def attempt(name: str, measure: Callable[[], None]) -> None:
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

    attempt("low_singular_value", low)
    attempt("gain", gains)
    attempt("noise", noise)
    attempt("symmetry", symmetry)
    attempt("worst", worst)
    if not solver:
        attempt("singular_value", whole)
    else:
        out.reasons |= {"singular_value": no_gradient, "growth": no_gradient, "random": "of the surrogate alone"}
    if effort.radius:
        attempt("radius", radius)
    else:
        out.reasons["radius"] = "not part of a quick measurement"
    return out, worst_found[0] if worst_found else None


def _greater(found: Tensor, others: list[float] | None) -> list[float]:
    """The greater of two lower bounds, state by state."""
    return found.tolist() if others is None else torch.maximum(found, torch.tensor(others).to(found)).tolist()


def _error_growth(
    surrogate: Surrogate, truth: Tensor, scale: Tensor, calls: int, frames: int, settings: _Settings,
    responses: dict[str, Response],
) -> None:  # fmt: skip
    """Rate at which the surrogate's error grows along the first trajectories, and the rate of the same equation itself:
    of its solver, after a perturbation with the spectrum of the surrogate's first error and random phases."""
    pde, count, history = settings.pde, settings.effort.states, surrogate.stepping.history
    channels = len(pde.outputs)
    whole = truth[torch.isfinite(truth).flatten(1).all(1)][:count]
    steps = (truth.shape[1] - history) // frames
    why = "not identified: it needs five steps of steady exponential growth below a fifth of saturation"
    for response in responses.values():
        response.reasons["error_growth"] = why
    if steps < 2 or not len(whole):
        for response in responses.values():
            response.reasons["error_path"] = "there is no finite trajectory of two steps"
        return
    states = whole[:, :history, :channels].flatten(1, 2) / scale
    constants = whole[:, 0, channels:].flatten(2)[..., 0]
    true = _after(states, whole[:, history : history + steps * frames, :channels] / scale[:channels], frames)
    predicted = _network(surrogate, scale, calls, constants)(states, steps)
    first = random_phases_of(predicted[:, 0] - true[:, 0], pde.grid, settings.seed)
    solver = _solver(pde, scale, frames, constants)
    try:
        free, moved = (solver(u, steps - 1) for u in (true[:, 0], true[:, 0] + first))
    except SolverError as problem:
        responses["solver"].reasons["error_growth"] = str(problem).partition("\n")[0]
        free = moved = true[:, :0]
    errors = {"surrogate": predicted - true, "solver": torch.cat([first[:, None], moved - free], 1)}
    mean = true.mean((0, 1))
    saturation = math.sqrt(2) * float(norm((true - mean).flatten(0, 1)).square().mean().sqrt())
    for name, values in errors.items():
        norms = norm(values.flatten(0, 1)).unflatten(0, values.shape[:2])
        least = torch.maximum(2 * norms[:, 0], 1e-6 * norm(true[:, 0]))
        scales = norm(true.flatten(0, 1)).unflatten(0, true.shape[:2])[:, : norms.shape[1]]
        responses[name].error_path = (norms / scales).mean(0).tolist()
        rates = growth_rate(norms, settings.advance, least, 0.2 * saturation)
        if torch.isfinite(rates).any():
            responses[name].error_growth = rates.tolist()
            del responses[name].reasons["error_growth"]


def _kept(pde: PDE, solver: dict[str, float]) -> list[str]:
    """Moves under which the equation stays as it is, given how far its solver is from commuting with each."""
    moves = _moves(pde.grid, pde.symmetries)
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
    paths = [record["true"].get(who, {}).get("error_path") or [] for who in ("surrogate", "solver")]
    if len(paths[0]) == len(paths[1]) and all(path and path[0] and path[-1] is not None for path in paths):
        own, solver = (path[-1] / path[0] for path in paths)
        sentences.append(
            f"From the first of {len(paths[0])} steps to the last its error grows by a factor of {own:.3g}; a "
            f"perturbation like that first error does so by {solver:.3g} in the solver."
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

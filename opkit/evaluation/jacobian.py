"""What a surrogate does to small perturbations of its state, beside what the equation's own solver does to them.

Let G be one step, u -> G(u), and J its Jacobian at a state u. On true states and on states of the surrogate's own
rollout:

    sigma_max        max_v ||J v|| / ||v||: what the worst small perturbation grows by in one step
    radius           max |eigenvalue of J|: what it grows by per step in the long run, were J to stay as it is
    sigma_max/radius 1 where J is normal; the larger, the more perturbations grow before they do as the radius says
    ||J^m||          what the worst grows by in m such steps; its m-th root falls from sigma_max to the radius (Gelfand)
    growth           log sigma_max(J_{m-1} ... J_0) / (m dt): finite-time Lyapunov exponent, 1 / time
    G(kappa)         ||J v|| / ||v|| of fields v of random phases and wavenumbers kappa <= |k| < kappa + 1
    T(kappa', kappa) ||P_kappa' J v|| / ||v||, the part of it that comes out at kappa': G^2 is the sum of T^2

A linear diffusion has G(kappa) = exp(-nu kappa^2 dt) and T diagonal. A network whose high wavenumbers grow where the
solver damps them, above all when they are fed from low ones, aliases its own output until it breaks: McCabe et al.,
"Towards Stability of Autoregressive Neural Operators", TMLR 2023 (arXiv 2306.10619).

Singular values are those of Lanczos bidiagonalisation from a random field (Golub and Kahan, SIAM J. Numer. Anal. 2,
1965), which needs the fewest products with J and its transpose: lower bounds, that grow with every product.

Products are exact (`torch.func`) for a network, and for a solver that can be differentiated. For any other they are
central differences, without a transpose: then there is the sigma_max over perturbations in the span of the lowest
Fourier waves. It is a lower bound of the whole sigma_max, which it approaches as waves are added, because viscosity
damps the rest.

A step maps `(b, c, *x)` to `(b, c, *x)`, each row for itself. Norms are Euclidean over points and channels.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from opkit.grid import Grid
from opkit.metrics import mode_energy, norm, wave_numbers
from opkit.transforms import dst1, dst3

Step = Callable[[Tensor], Tensor]
"""`(b, c, *x)` to `(b, c, *x)`."""


@dataclass(frozen=True)
class Jacobian:
    """J of a step at some states `(b, c, *x)`.

    Args:
        times: Several directions for each state, `(b, m, c, *x)`, to J v, likewise.
        transposed: w `(b, c, *x)` to J^T w; None where there are differences alone.
    """

    times: Callable[[Tensor], Tensor]
    transposed: Callable[[Tensor], Tensor] | None = None


Linearise = Callable[[Step, Tensor], Jacobian]
"""A step and states `(b, c, *x)` to the Jacobian there."""

DIFFERENCE = 1e-5
"""Size h of a central difference's perturbation, relative to the state: the third derivative costs about h^2, round-off
1e-15 / h. A solver must take the same time steps for u + h v as for u - h v, see `PDE.with_fixed_steps`: the jump
between two steps' errors would be divided by h as well."""
LEVELS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Noise on the input, relative to the state."""
LOW = 4
"""Highest wavenumber |k| of low-wavenumber noise."""
SIZE = 1e-2
"""Norm of the perturbation searched for, relative to the state."""
INVARIANT = 1e-6
"""Relative error below which the solver is said to have a symmetry."""
FEW = 8
"""Waves of a shell, those of the first in the plane, up to which every random field asked for is drawn."""
POINTS = 2**17
"""Numbers per batch of products: bounds memory."""
DENSE = 64
"""Size up to which eigenvalues are those of the whole matrix."""


def exact(step: Step, states: Tensor, together: bool = False) -> Jacobian:
    """Both products by reverse differentiation: J v is the transpose of w -> J^T w, at v. Most layers have that, and it
    costs a third of forward differentiation, many of whose rules run in Python.

    Args:
        step: Differentiable.
        states: `(b, c, *x)`.
        together: Whether directions may be taken several at a time (`torch.vmap`), which pays where states are small;
            some layers cannot.
    """
    with sdpa_kernel(SDPBackend.MATH):  # the faster kernels of attention have no second derivative
        result, pull_back = torch.func.vjp(step, states)[:2]
    push = torch.func.vjp(lambda w: pull_back(w)[0], torch.zeros_like(result))[1]

    def times(directions: Tensor) -> Tensor:
        if together and directions.shape[1] > 1:
            several = max(1, POINTS // states.numel())
            return torch.vmap(lambda v: push(v)[0], 1, 1, chunk_size=several)(directions)
        return torch.stack([push(v)[0] for v in directions.unbind(1)], 1)

    return Jacobian(times, lambda w: pull_back(w)[0])


def by_differences(step: Step, states: Tensor) -> Jacobian:
    """J v by central differences, for a step that cannot be differentiated; wants float64. See `DIFFERENCE`."""

    def times(directions: Tensor) -> Tensor:
        parts = []
        for part in directions.split(max(1, POINTS // states.numel()), 1):
            m, rows = part.shape[1], part.flatten(0, 1)
            each = states.repeat_interleave(m, 0)
            size, length = norm(each), norm(rows)
            h = DIFFERENCE * torch.where(size > 0, size, 1.0) / torch.where(length > 0, length, 1.0)
            move = _column(h, each) * rows
            out = step(torch.stack([each + move, each - move], 1).flatten(0, 1)).unflatten(0, (-1, 2))
            parts.append(((out[:, 0] - out[:, 1]) / (2 * _column(h, out[:, 0]))).unflatten(0, (len(states), m)))
        return torch.cat(parts, 1)

    return Jacobian(times)


def repeated(step: Step, times: int) -> Step:
    """The step taken several times."""

    def several(states: Tensor) -> Tensor:
        for _ in range(times):
            states = step(states)
        return states

    return several


def leading_singular_value(
    step: Step,
    states: Tensor,
    iterations: int = 30,
    tolerance: float = 1e-4,
    seed: int = 0,
    linearise: Linearise = exact,
) -> Tensor:
    """sigma_max of the Jacobian at every state.

    Args:
        step: Differentiable.
        states: `(b, c, *x)`.
        iterations: At most so many products with J, and with its transpose.
        tolerance: Relative change from one iteration to the next that ends it, in all states.
        seed: Of the fields it begins with.
        linearise: How products with the Jacobian are made; it must give its transpose.

    Returns:
        `(b,)`, float64: never above sigma_max; NaN where a product is not finite.
    """
    return _leading(linearise(step, states), states, iterations, tolerance, seed)


def _leading(jacobian: Jacobian, states: Tensor, iterations: int, tolerance: float, seed: int) -> Tensor:
    """J V = U B with orthonormal V and U and a bidiagonal B, whose sigma_max is J's over the span of V."""
    assert jacobian.transposed is not None
    left: list[Tensor] = []
    right = [_unit(_noise(states.shape, torch.Generator().manual_seed(seed), states))]
    band = torch.zeros(len(states), iterations, iterations, dtype=torch.float64, device=states.device)
    sigma = torch.zeros(len(states), dtype=torch.float64, device=states.device)
    for j in range(iterations):
        image = _without(jacobian.times(right[-1][:, None])[:, 0], left)
        band[:, j, j] = norm(image)
        left.append(_unit(image))
        found = band[:, : j + 1, : j + 1]
        finite = torch.isfinite(found).flatten(1).all(1)
        before = sigma
        sigma = torch.linalg.svdvals(torch.where(finite[:, None, None], found, 0.0))[:, 0]
        if ((sigma - before).abs() <= tolerance * sigma).all() or j == iterations - 1:
            break
        back = _without(jacobian.transposed(left[-1]), right)
        band[:, j, j + 1] = norm(back)
        right.append(_unit(back))
    return torch.where(finite, sigma, torch.nan)


def _without(fields: Tensor, others: Sequence[Tensor]) -> Tensor:
    """What is left of fields `(b, ...)` without their components along orthonormal others; twice, as round-off asks."""
    if not others:
        return fields
    basis = torch.stack([other.flatten(1) for other in others], 1)
    flat = fields.flatten(1)
    for _ in range(2):
        flat = flat - torch.einsum("bn,bmn,bmk->bk", flat, basis, basis)
    return flat.view_as(fields)


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


def norms_of_powers(
    step: Step, states: Tensor, powers: Sequence[int], iterations: int = 30, tolerance: float = 1e-4, seed: int = 0,
    linearise: Linearise = exact,
) -> Tensor:  # fmt: skip
    """||J^m||, `(b, powers)`, of the Jacobian at every state, held fixed; arguments as for `leading_singular_value`.

    Where it exceeds radius^m, perturbations grow before they do as the eigenvalues say, and with a radius below 1 they
    may grow before they decay. ||J^m||^(1/m) is greatest at m = 1.
    """
    jacobian = linearise(step, states)

    def power(m: int) -> Jacobian:
        return Jacobian(repeated(jacobian.times, m), repeated(jacobian.transposed, m))  # type: ignore[arg-type]

    return torch.stack([_leading(power(m), states, iterations, tolerance, seed) for m in powers], 1)


def leading_in_span(step: Step, states: Tensor, basis: Tensor, linearise: Linearise = exact) -> Tensor:
    """sigma_max of the Jacobian at every state over perturbations in the span of a basis: of J B, densely.

    Args:
        step: The map.
        states: `(b, c, *x)`.
        basis: Orthonormal fields, `(m, c, *x)`, such as `low_waves`.
        linearise: How products with the Jacobian are made.

    Returns:
        `(b,)`, float64; NaN where a product is not finite.
    """
    images = linearise(step, states).times(basis.to(states).expand(len(states), *basis.shape))
    columns = images.double().flatten(2)
    gram = columns @ columns.mT
    finite = torch.isfinite(gram).flatten(1).all(1)
    largest = torch.linalg.eigvalsh(torch.where(finite[:, None, None], gram, 0.0))[:, -1]
    return torch.where(finite, largest.clamp_min(0).sqrt(), torch.nan)


def spectral_radius(step: Step, state: Tensor, linearise: Linearise = exact, seed: int = 0) -> float:
    """Largest modulus of an eigenvalue of the Jacobian at one state, `(1, c, *x)`, by Arnoldi iteration.

    Power iteration would not settle where the largest are a complex pair. NaN where a product is not finite, or no
    eigenvalue converged.
    """
    from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs

    n, jacobian = state.numel(), linearise(step, state)
    if n <= DENSE:
        units = torch.eye(n, dtype=state.dtype, device=state.device).view(1, n, *state.shape[1:])
        matrix = jacobian.times(units)[0].flatten(1).double().mT
        return float(torch.linalg.eigvals(matrix).abs().max()) if torch.isfinite(matrix).all() else math.nan

    def times(v: np.ndarray) -> np.ndarray:
        image = jacobian.times(torch.from_numpy(v.reshape(1, *state.shape)).to(state)).double().cpu()
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
    linearise: Linearise = exact,
) -> Gain:
    """G(kappa) and T(kappa', kappa), see the module's text: root mean squares over random fields.

    Args:
        step: The map.
        states: `(b, c, *x)`.
        grid: What the fields are on; its waves are those of `opkit.metrics.wave_numbers`.
        draws: Random fields of a shell of few waves, see `draws_of`.
        seed: Of the random phases, the same for all states.
        shells: Wavenumbers kappa; None for 1, 2, ... up to the largest along an axis.
        linearise: How products with the Jacobian are made.

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
    fields, counts = [], draws_of(grid, chosen, draws)
    for kappa, count in zip(chosen, counts, strict=True):
        amplitude = (shell == kappa).double().expand(count, states.shape[1], *shell.shape)
        fields.append(_unit(_random_phases(amplitude, grid, generator)))
    directions = torch.cat(fields).to(states)
    images = linearise(step, states).times(directions.expand(len(states), *directions.shape))
    energy = mode_energy(images.flatten(0, 1).cpu(), grid).flatten(1)
    energy = energy / math.prod(grid.spacing)  # to Euclidean norms
    out = energy.new_zeros(len(energy), corner + 1).index_add(1, shell.flatten(), energy)
    squares = norm(images.flatten(0, 1)).square().cpu()
    by_shell = torch.cat([squares[:, None], out], 1).unflatten(0, (len(states), -1)).split(counts, 1)
    found = torch.stack([part.mean(1) for part in by_shell], 2).sqrt()
    return Gain(chosen, found[:, 0], found[:, 1:])


def draws_of(grid: Grid, shells: Sequence[int], draws: int) -> list[int]:
    """Random fields for each shell: `draws` where there are up to `FEW` waves, and the fewer, down to 2, the more a
    shell averages over by itself; 1 where there is but one wave."""
    counts = torch.bincount(_shell_of(grid).flatten()).tolist()
    return [1 if counts[k] == 1 else min(draws, max(2, -(-draws * FEW // counts[k]))) for k in shells]


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
    for name, _, move in moves_of(grid, symmetries):
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


def _column(values: Tensor, like: Tensor) -> Tensor:
    """`(b,)` against `(b, ...)`, in its dtype where that is a floating one."""
    shaped = values.view(-1, *(1 for _ in like.shape[1:]))
    return shaped if values.dtype == torch.bool else shaped.to(like.dtype)


def _unit(fields: Tensor) -> Tensor:
    return fields / _column(norm(fields).clamp_min(1e-300), fields)


def _noise(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """White noise, the same on every device."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like)


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


class Move(NamedTuple):
    name: str
    direction: str | None
    """Of a shift; None of what `PDE.symmetries` vouches for."""
    apply: Callable[[Tensor], Tensor]


def moves_of(grid: Grid, symmetries: int) -> list[Move]:
    letters, moves = "xyz"[: grid.ndim], []
    if grid.location == "periodic":
        for direction, vector in _directions(grid):
            for cells in (0.5, _whole(grid)):
                shift = partial(shifted, grid=grid, cells=[cells * s for s in vector])
                moves.append(Move(f"{direction}, {cells:g} cells", direction, shift))
    for axis in range(min(symmetries, grid.ndim)):
        moves.append(Move(f"reflection of {letters[axis]}", None, partial(torch.flip, dims=(axis + 2,))))
    if symmetries > grid.ndim:
        moves.append(Move("exchange of x and y", None, partial(torch.transpose, dim0=2, dim1=3)))
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

"""What a grid does to a surrogate, whatever the truth: is it the same function of functions on all of them?

With P_r a the same function on a grid r times as fine as the one trained on, and R what of an output that grid holds,

    representation    ||R G(P_r a) - R G(a)|| / ||R G(a)||
    change            d_r = ||R G(P_2r a) - R G(P_r a)|| / ||R G(a)||,    r = 1, 2, 4
    order             log2 (d_r / d_2r)

A surrogate without aliases has no representation error, whatever it learned: Bartolucci et al., "Representation
Equivalent Neural Operators" (arXiv 2305.19913). One whose changes do not fall is no discretisation of anything.

The functions are test inputs, cut to the waves that the training grid holds without doubt. Between walls they are
series of cosines, whose waves are weighted down linearly: a coefficient then stays within its bounds, and positive.
Outputs are cut to sines where the solution vanishes on the walls, else to cosines.

Beside it, how accurate the data are with which a gain is measured: the equation solved on a grid of its own against the
finest solution there.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from opkit import metrics
from opkit.errors import SolverError
from opkit.evaluation.solving import on_own_grid, posed, solve_for, start_of
from opkit.grid import Grid, Method
from opkit.pdes import PDE
from opkit.surrogate import Surrogate

REFINED = (1, 2, 4, 8)
"""Times the intervals of the training grid between which changes are measured."""
PROBED = 2
"""Samples for it."""
POINTS = 2**18
"""Grid points beyond which it is not refined: bounds memory and time."""
SOLVED = 2
"""Samples solved on each finer grid to tell how accurate its data are."""


def outputs_on(
    surrogate: Surrogate, inputs: Tensor, grid: Grid, grids: Iterable[Grid], vanishing: bool
) -> Iterator[Tensor]:
    """What `grid` holds of one call's outputs for the same functions on several grids, float64.

    Args:
        surrogate: The surrogate.
        inputs: `(n, c, *x)` on `grid`.
        grid: The training grid.
        grids: Where to call it.
        vanishing: Whether outputs vanish on the walls.
    """
    own, functions = grid, inputs.double()
    up: Method = "fejer"
    down: Method = "sine" if vanishing else "cosine"
    if grid.location == "periodic":
        up = down = "spectral"
        own = Grid(tuple(n - 1 + n % 2 for n in grid.shape), "periodic", grid.length)
        functions = grid.resample(functions, own, up)  # an odd grid has no wave of doubtful phase
    for target in grids:
        given = own.resample(functions, target, up).to(inputs.dtype)
        outputs = torch.cat([surrogate(one) for one in given.split(1)])
        yield target.resample(outputs.double(), own, down)


def representation_errors(
    surrogate: Surrogate, inputs: Tensor, grid: Grid, finer: list[Grid], vanishing: bool = False
) -> list[Tensor]:
    """How far one call on each of some finer grids is from the same on the training grid, `(n,)` each; arguments are
    those of `outputs_on`."""
    here, *there = outputs_on(surrogate, inputs, grid, [grid, *finer], vanishing)
    return [metrics.ratio(_norm(other - here, grid), _norm(here, grid)) for other in there]


def _norm(values: Tensor, grid: Grid) -> Tensor:
    """L2 norm of what `outputs_on` yields, but for a factor."""
    return metrics.norm(values, None if grid.location == "periodic" else grid.weights)


def refinements(grid: Grid) -> list[Grid]:
    """The grids between which changes are measured."""
    return [fine for fine in map(grid.refine, REFINED) if math.prod(fine.shape) <= POINTS]


def changes(surrogate: Surrogate, inputs: Tensor, grid: Grid, vanishing: bool = False) -> Tensor:
    """Change of the output from each of the `refinements` to the next, `(n, k - 1)`; arguments are those of
    `outputs_on`."""
    grids = refinements(grid)
    if len(grids) < 2:
        return torch.zeros(len(inputs), 0, dtype=torch.float64)
    found = list(outputs_on(surrogate, inputs, grid, grids, vanishing))
    size = _norm(found[0], grid)
    pairs = zip(found[1:], found[:-1], strict=True)
    return torch.stack([metrics.ratio(_norm(finer - coarser, grid), size) for finer, coarser in pairs], 1)


def restricted(pde: PDE, inputs: Tensor, truth: Tensor, target: Grid) -> tuple[Tensor, Tensor]:
    """Inputs and solutions, frames as channels, on a coarser grid with what it cannot hold cut off or averaged.

    The input as `PDE.filtered` has it. Of the solution waves are kept: Fourier waves, or sines where it vanishes on the
    walls; where it does not there is no series that converges there, and its values at the points are.
    """
    kept: Method = "sine" if pde.walls == "dirichlet" else "auto"
    if pde.grid.location == "periodic":
        kept = "spectral"
    return pde.filtered(inputs.double(), target), pde.grid.resample(truth.double(), target, kept)


def data_accuracy(
    pde: PDE, inputs: Tensor, truth: Tensor, steps: int | None, history: int, device: torch.device
) -> Tensor | str:
    """Relative L2 distance of solutions found on a grid alone from better ones, `(n,)`; or why there are none.

    Args:
        pde: The problem on that grid.
        inputs: `(n, c, *x)` on it.
        truth: The better solutions there, frames as channels.
        steps: Frames of an evolution equation.
        history: Frames given.
        device: Where to solve.
    """
    problem = posed(on_own_grid(pde), steps, history)
    try:
        own = solve_for(problem, pde, start_of(pde, inputs, history), device)
    except SolverError as problem_met:
        return str(problem_met)
    return metrics.rel_l2(own.to(truth), truth, pde.grid)

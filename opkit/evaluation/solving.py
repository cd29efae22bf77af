"""The equation's own solver in a surrogate's place: the same inputs, another grid or setting, the same outputs."""

import dataclasses

import torch
from torch import Tensor

from opkit.grid import Method
from opkit.pdes import PDE
from opkit.stepping import with_constants


def start_of(pde: PDE, inputs: Tensor, history: int) -> Tensor:
    """What a solver starts from: of several frames given the last, and constant channels."""
    if history == 1:
        return inputs
    states = len(pde.outputs)
    return torch.cat([inputs[:, (history - 1) * states : history * states], inputs[:, history * states :]], 1)


def posed(setting: PDE, horizon: int | None, history: int) -> PDE:
    """The setting with the frames that are compared, counted from the last frame given."""
    if horizon is None or setting.times is None:
        return setting
    frames = setting.times[history - 1 : history + horizon]
    return dataclasses.replace(setting, times=(frames - frames[0]).tolist())  # type: ignore[type-var]


def solve_for(problem: PDE, pde: PDE, values: Tensor, device: torch.device) -> Tensor:
    """A setting's solution on the surrogate's grid, frames as channels."""
    own, target = problem.grid, pde.grid
    given = values.to(device, torch.float64)
    if given.shape[2:] != own.shape:
        # Truncating a periodic field leaves no aliases; its values at fewer points would. A coefficient must keep its
        # values, which no spline promises.
        method: Method = "spectral" if own.location == "periodic" else "strided"
        fields = given.shape[1] - len(pde.varying)
        constants = given[:, fields:].flatten(2)[..., 0]
        given = with_constants(target.resample(given[:, :fields], own, method), constants)
    solution = problem.solve(given)
    if problem.times is not None:
        solution = solution[:, 1:].flatten(1, 2)
    if own != target:
        finer = own.shape > target.shape
        if finer and target.stride_in(own):
            method = pde.restriction
        else:
            method = "spectral" if own.location == "periodic" else "cubic"
        solution = own.resample(solution, target, method)
    return solution.to(values.device, values.dtype)


def on_own_grid(pde: PDE) -> PDE:
    """The solver that works on the surrogate's own grid, as accurately as it can there."""
    return next(p for p in reversed(pde.cheaper()) if p.resolution == pde.resolution)

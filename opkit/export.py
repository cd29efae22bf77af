"""A surrogate as a self-contained program: torch.export with free batch and grid sizes.

A model that works on its training grid alone (`resolution = "project"`) keeps that grid, and only the batch is free.

The file holds the computation graph, weights and normaliser; `torch.export.load(path).module()(a)` runs it without
opkit.
"""

import copy
from pathlib import Path

import torch
from torch.export import Dim

from opkit.errors import OpkitError
from opkit.files import whole_file
from opkit.surrogate import Surrogate


def export(surrogate: Surrogate, path: Path) -> float:
    """Write the program and check it on a batch and, where grids are free, a grid it was not traced on.

    Args:
        surrogate: What to export; left as it is.
        path: File to write, whole or not at all; by custom it ends in .pt2.

    Returns:
        Relative L2 difference from the surrogate in the check.

    Raises:
        OpkitError: The model's graph depends on its grid, or the exported program disagrees.
    """
    model = copy.deepcopy(surrogate.model).cpu().eval()
    least = max(8, model.operator.prepare_export())
    shape = surrogate.spec.grid.shape
    channels = len(surrogate.spec.inputs)
    free = model.operator.resolution != "project"
    axes = {i + 2: Dim(f"n{i + 1}", min=least, max=2**14) for i in range(len(shape))} if free else {}
    example = torch.randn(2, channels, *(n + 3 + i for i, n in enumerate(shape)) if free else shape)
    other = torch.randn(3, channels, *(n + 10 - 2 * i for i, n in enumerate(shape)) if free else shape)
    with torch.no_grad():
        expected = copy.deepcopy(surrogate.model).cpu()(other)
        try:
            program = torch.export.export(model, (example,), dynamic_shapes=({0: Dim("batch"), **axes},))
            found = program.module()(other)  # a size that was fixed unnoticed is refused here
        except Exception as problem:
            what, reason = "grid" if free else "batch", [*str(problem).splitlines(), type(problem).__name__][0]
            name = surrogate.architecture.name
            raise OpkitError(f"{name} cannot be exported with free {what} sizes: {reason}") from problem
    difference = float((found - expected).norm() / expected.norm())
    if not difference < 1e-4:
        raise OpkitError(f"the exported program differs from the surrogate by {difference:.1e}; nothing was written")
    with whole_file(path) as temporary:
        torch.export.save(program, temporary)
    return difference

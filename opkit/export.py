"""A surrogate as a self-contained program: torch.export with free batch and grid sizes.

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
    """Write the program and check it on a batch and a grid it was not traced on.

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
    axes = {i + 2: Dim(f"n{i + 1}", min=least, max=2**14) for i in range(len(shape))}
    example = torch.randn(2, channels, *(n + 3 + i for i, n in enumerate(shape)))
    try:
        with torch.no_grad():
            program = torch.export.export(model, (example,), dynamic_shapes=({0: Dim("batch"), **axes},))
    except Exception as problem:
        raise OpkitError(
            f"{surrogate.architecture.name} cannot be exported with free grid sizes: {str(problem).splitlines()[0]}"
        ) from problem
    other = torch.randn(3, channels, *(n + 10 - 2 * i for i, n in enumerate(shape)))
    with torch.no_grad():
        expected = copy.deepcopy(surrogate.model).cpu()(other)
        difference = float((program.module()(other) - expected).norm() / expected.norm())
    if not difference < 1e-4:
        raise OpkitError(f"the exported program differs from the surrogate by {difference:.1e}; nothing was written")
    with whole_file(path) as temporary:
        torch.export.save(program, temporary)
    return difference

"""Writing neuraloperator's .pt: a dict of tensors x and y, which its `PTDataset` reads (release 2.0.0).

    Darcy                 x (N, n, n) the coefficient, y (N, n, n) the solution
    evolution, 2 frames   x (N, *x) the first, y (N, *x) the second
    evolution, T frames   x (N, *x) the first, y (N, T, *x) all of them, the first included
    t, visc               times (T,) and the viscosity, where there are any; neuraloperator ignores them

With parameters drawn per sample x is (N, c, *x), the state and constant channels, and y has an axis for its channel:
read it with `channels_squeezed=False`. `PTDataset(root_dir, name, ...)` looks for `<name>_train_<resolution>.pt` and
`<name>_test_<resolution>.pt`.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from opkit.files import whole_file
from opkit.formats.base import Samples


def write_neuraloperator(samples: Samples, output: Path) -> None:
    """Write samples as one file. They pass through a scratch file beside it, so that memory does not limit them."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".opkit-convert-", dir=output.parent) as scratch:
        arrays: dict[str, np.ndarray] = {}
        start = 0
        for block in samples.blocks():
            for name, values in _layout(samples, block).items():
                if name not in arrays:
                    shape = (samples.count, *values.shape[1:])
                    arrays[name] = np.memmap(Path(scratch) / name, np.float32, "w+", shape=shape)
                arrays[name][start : start + len(values)] = values
            start += len(next(iter(block.values())))
        content: dict[str, object] = {name: torch.from_numpy(values) for name, values in arrays.items()}
        pde = samples.pde
        if pde.times is not None:
            content["t"] = pde.times.clone()
        viscosity = pde.parameters().get("viscosity")
        if isinstance(viscosity, float) and samples.states("viscosity"):
            content["visc"] = torch.tensor(viscosity, dtype=torch.float64)
        with whole_file(output) as temporary:
            torch.save(content, temporary)
        content.clear()
        arrays.clear()  # unmapped before its folder goes


def _layout(samples: Samples, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    pde = samples.pde
    if pde.times is None:
        a, u = samples.pair()
        return {"x": block[a], "y": block[u]}
    state = pde.outputs[0]
    path = block[state]
    x, y = path[:, 0], path[:, 1] if path.shape[1] == 2 else path
    if not pde.varying:
        return {"x": x, "y": y}
    constants = [np.broadcast_to(block[name].reshape(-1, *[1] * pde.grid.ndim), x.shape) for name in pde.varying]
    return {"x": np.stack([x, *constants], 1), "y": y[:, None]}

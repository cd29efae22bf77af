"""Writing PDEBench's HDF5 (Takamoto et al., NeurIPS 2022, https://github.com/pdebench/PDEBench).

    tensor            (N, T, X) Burgers; (N, 1, X, Y) Darcy, the solution; (N, T, X, Y) Navier-Stokes, the vorticity
    nu                (N, X, Y) Darcy, the coefficient
    x-, y-coordinate  positions
    t-coordinate      one entry more than there are frames, as in PDEBench's own files
    @Nu               Burgers: pi times the viscosity, because PDEBench writes u_t + (u^2 / 2)_x = Nu / pi u_xx
    @beta             Darcy: the source
    @viscosity        the viscosity itself; a dataset (N,) where each sample has its own

PDEBench's loaders read the first two as their own; they have no vorticity equation, so its file follows their pattern.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import opkit
from opkit.errors import ConfigError
from opkit.files import whole_file
from opkit.formats.base import Samples

if TYPE_CHECKING:
    import h5py


def check_name(output: Path) -> None:
    """Refuse names PDEBench's loaders refuse."""
    if output.suffix == ".h5":
        raise ConfigError(f"output={output}: PDEBench's loaders refuse names that end in .h5; call it .hdf5.")


def write_pdebench(samples: Samples, output: Path) -> None:
    """Write samples as one file, block by block."""
    import h5py

    check_name(output)
    with whole_file(output) as temporary, h5py.File(temporary, "w") as file:
        start = 0
        for block in samples.blocks():
            for name, values in _layout(samples, block).items():
                if name not in file:
                    shape = (samples.count, *values.shape[1:])
                    file.create_dataset(name, shape, np.float32, chunks=_chunks(shape), track_times=False)
                file[name][start : start + len(values)] = values
            start += len(next(iter(block.values())))
        _describe(samples, file)


def _layout(samples: Samples, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    pde = samples.pde
    if pde.times is None:
        a, u = samples.pair()
        return {"tensor": block[u][:, None], "nu": block[a]}
    state = pde.outputs[0]
    return {"tensor": block[state], **{name: block[name] for name in pde.varying}}


def _chunks(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """A sample per chunk, where it is neither tiny nor huge."""
    return (1, *shape[1:]) if 2**14 <= 4 * math.prod(shape[1:]) < 2**26 else None


def _describe(samples: Samples, file: "h5py.File") -> None:
    pde = samples.pde
    for i, axis in enumerate(("x", "y", "z")[: pde.grid.ndim]):
        file.create_dataset(f"{axis}-coordinate", data=pde.grid.axis(i).numpy().astype(np.float32), track_times=False)
    if pde.times is not None:
        times = pde.times.numpy()
        file.create_dataset(
            "t-coordinate", data=np.append(times, 2 * times[-1] - times[-2]).astype(np.float32), track_times=False
        )
    attributes: dict[str, Any] = {"equation": pde.equation, "formula": pde.formula, "written_by": opkit.__version__}
    values = pde.parameters()
    viscosity = values.get("viscosity")
    if isinstance(viscosity, float) and samples.states("viscosity"):
        attributes["viscosity"] = viscosity
        if pde.equation == "burgers":
            attributes["Nu"] = math.pi * viscosity
    if pde.times is None and isinstance(values.get("forcing"), int | float) and samples.states("forcing"):
        attributes["beta"] = float(values["forcing"])
    known = {name: value for name, value in values.items() if samples.states(name)}
    file.attrs.update(attributes, config_json=json.dumps({"equation": pde.equation, "parameters": known}))

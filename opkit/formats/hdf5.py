"""HDF5 files as named arrays: MATLAB's version 7.3, where the axes of every array stand reversed, and plain ones.

MATLAB writes HDF5 after a user block of 512 bytes, counts axes the other way round (u(sample, x, y, t) is (t, y, x,
sample) in HDF5), and marks its arrays with an attribute MATLAB_class.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opkit.errors import DataError
from opkit.formats.base import Arrays, Column, unreadable

if TYPE_CHECKING:
    import h5py


@contextmanager
def open_matlab73(path: Path) -> Iterator[Arrays]:
    """The numeric arrays of a MATLAB version 7.3 file, their axes in MATLAB's order.

    Raises:
        DataError: The file is damaged.
    """
    with _open(path) as file:
        with _complaining(path):
            arrays = Arrays("MATLAB 7.3 .mat", _columns(file, path, True), _attributes(file), matlab=True)
        yield arrays


@contextmanager
def open_hdf5(path: Path) -> Iterator[Arrays]:
    """The numeric arrays of an HDF5 file, at its root.

    Raises:
        DataError: The file is damaged, or holds data that opkit does not read.
    """
    with _open(path) as file:
        with _complaining(path):
            arrays = _plain_arrays(file, path)
        yield arrays


def _plain_arrays(file: "h5py.File", path: Path) -> Arrays:
    if "opkit_schema" in file.attrs:
        raise DataError(
            f"{path} is a shard that opkit wrote. Give its folder, as in `opkit convert {path.parent} to=pdebench`."
        )
    if "t0_fields" in file:
        raise DataError(f"{path} is in the format of The Well, which opkit writes, and does not read from others.")
    matlab = any("MATLAB_class" in item.attrs for item in map(partial(_own, file), file) if item is not None)
    if not matlab:
        _refuse_other_pdebench(file, path)
    kind = "MATLAB 7.3 .mat" if matlab else "HDF5"
    return Arrays(kind, _columns(file, path, matlab), _attributes(file), matlab)


@contextmanager
def _open(path: Path) -> Iterator["h5py.File"]:
    import h5py

    with _complaining(path):
        file = h5py.File(path, "r")
    with file:
        yield file


@contextmanager
def _complaining(path: Path) -> Iterator[None]:
    """What HDF5 raises on a damaged file, as one message."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError) as problem:
        raise unreadable(path, problem) from None


def _refuse_other_pdebench(file: "h5py.File", path: Path) -> None:
    names = set(file)
    what = ""
    if "0000" in names:
        what = "diffusion-reaction or shallow-water data of PDEBench"
    elif {"velocity", "particles"} <= names:
        what = "PDEBench's incompressible Navier-Stokes data (velocity and particles, not periodic)"
    elif {"density", "pressure"} <= names:
        what = "PDEBench's compressible flow data"
    elif "tensor" in names and "rho" in {name.lower() for name in file.attrs}:
        what = "PDEBench's 1-D reaction-diffusion data"
    if what:
        raise DataError(f"{path} holds {what}: an equation opkit does not have. It has Burgers, Darcy, Navier-Stokes.")


def _own(file: "h5py.File", name: str) -> "h5py.Dataset | h5py.Group | None":
    """What is stored under a name in this very file; None for links to elsewhere, which a stranger's file may hold."""
    import h5py

    return file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None


def _columns(file: "h5py.File", path: Path, reversed_axes: bool) -> dict[str, Column]:
    import h5py

    out = {}
    for name in file:
        dataset = _own(file, name)
        if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external or dataset.shape is None:
            continue
        if dataset.dtype.kind in "fiub" and "MATLAB_empty" not in dataset.attrs:
            out[name] = _column(dataset, path, reversed_axes)
    return out


def _column(dataset: "h5py.Dataset", path: Path, reversed_axes: bool) -> Column:
    def read(start: int, stop: int) -> np.ndarray:
        with _complaining(path):
            if not dataset.shape:
                return np.asarray(dataset[()])
            return dataset[..., start:stop].transpose() if reversed_axes else dataset[start:stop]

    axis = -1 if reversed_axes else 0
    together = dataset.chunks[axis] if dataset.chunks else 1
    shape = dataset.shape[::-1] if reversed_axes else dataset.shape
    return Column(tuple(shape), dataset.dtype, read, together)


def _attributes(file: "h5py.File") -> dict[str, Any]:
    return {name: _plain(value) for name, value in file.attrs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value

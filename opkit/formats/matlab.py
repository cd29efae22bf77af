"""MATLAB files up to version 5 (`save -v6`, `-v7`), read by SciPy. Version 7.3 is HDF5: see `opkit.formats.hdf5`.

The format keeps an array as one stream with the samples as its fastest axis, so an array is read whole, one at a time,
and is at most 2 GB there. What is larger than `IN_MEMORY` then moves to a scratch file.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from opkit.errors import DataError
from opkit.files import human_bytes
from opkit.formats.base import Arrays, Column, unreadable

LARGEST = 2**31
"""Bytes of an array that the format can hold."""
IN_MEMORY = 2**27
"""Bytes of an array that stays in memory; a larger one goes through a scratch file in $TMPDIR."""
TYPES = {
    "double": np.float64, "single": np.float32, "logical": np.uint8, "int8": np.int8, "uint8": np.uint8,
    "int16": np.int16, "uint16": np.uint16, "int32": np.int32, "uint32": np.uint32, "int64": np.int64,
    "uint64": np.uint64,
}  # fmt: skip


def is_matlab5(head: bytes) -> bool:
    """Whether the file's 128-byte header is that of version 5: its version number, in either byte order."""
    return head[124:128] in (b"\x00\x01IM", b"\x01\x00MI")


@contextmanager
def open_matlab5(path: Path) -> Iterator[Arrays]:
    """The numeric arrays of a MATLAB version 5 file. Their shapes are read now, their values when first asked for.

    Raises:
        DataError: The file is damaged, or an array is larger than the format allows.
    """
    from scipy.io import whosmat

    try:
        listed = whosmat(str(path))
    except Exception as problem:  # a foreign file can make the library raise anything
        raise unreadable(path, problem) from None
    shapes = {name: (tuple(map(int, shape)), np.dtype(TYPES[kind])) for name, shape, kind in listed if kind in TYPES}
    with tempfile.TemporaryDirectory(prefix="opkit-convert-") as scratch:

        @cache
        def values(name: str) -> np.ndarray:
            return _load(path, name, Path(scratch))

        def column(name: str) -> Column:
            shape, dtype = shapes[name]
            return Column(shape, dtype, lambda start, stop: np.array(values(name)[start:stop]))

        yield Arrays("MATLAB 5 .mat", {name: column(name) for name in shapes}, matlab=True)


def _load(path: Path, name: str, scratch: Path) -> np.ndarray:
    from scipy.io import loadmat, whosmat

    shape, kind = next((s, k) for n, s, k in whosmat(str(path)) if n == name)
    size = math.prod(shape) * np.dtype(TYPES[kind]).itemsize
    if size > LARGEST:
        raise DataError(
            f"{path} says that {name} takes {human_bytes(size)}; arrays of more than 2 GB cannot stand in a version 5 "
            ".mat file. Save it with -v7.3 in MATLAB, which opkit reads in blocks."
        )
    try:
        array = loadmat(str(path), variable_names=[name])[name]
    except Exception as problem:
        raise unreadable(path, problem) from None
    if not isinstance(array, np.ndarray) or array.shape != tuple(shape):
        raise unreadable(path, f"{name} is not the {shape} array that it announces")
    if array.nbytes <= IN_MEMORY or array.ndim < 2:
        return array
    spilled = np.lib.format.open_memmap(scratch / f"{len(list(scratch.iterdir()))}.npy", "w+", array.dtype, array.shape)
    rows = max(1, IN_MEMORY * len(array) // array.nbytes)
    for start in range(0, len(array), rows):
        spilled[start : start + rows] = array[start : start + rows]
    return spilled

"""What every reader gives and every writer takes; and which reader a file needs, told by its first bytes.

A reader opens a file as named arrays (`Arrays`), samples along the first axis of each, and reads blocks of samples when
asked. `opkit.formats.tables` says what arrays with such names and shapes are (`Content`). Nothing here looks at a
file's name.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from opkit.pdes import PDE

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ACCEPTED = (
    "MATLAB .mat (version 5, or 7.3 which is HDF5), PyTorch .pt with a dict of tensors, and HDF5 of PDEBench or with "
    "x and y"
)
BLOCK_BYTES = 2**27
"""Bytes of an array that are read at once, about: many samples, because in MATLAB's files each one is scattered."""

Read = Callable[[int, int], np.ndarray]
"""Samples start .. stop - 1."""


@dataclass(frozen=True)
class Column:
    """An array of a file.

    Args:
        shape: Its shape, in the order its author had; samples come first.
        dtype: As stored.
        read: Rows start .. stop - 1, a new array.
        together: Rows that are stored together: reading fewer of them costs as much.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Read
    together: int = 1

    def all(self) -> np.ndarray:
        """The whole array: for coordinates and parameters."""
        return self.read(0, self.shape[0]) if self.shape else self.read(0, 1)

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Arrays:
    """The numeric arrays of a file, by name.

    Args:
        format: What kind of file it is, in words.
        columns: Its arrays.
        attributes: Numbers and texts attached to the file.
        matlab: Whether it comes from MATLAB, which puts time last.
    """

    format: str
    columns: dict[str, Column]
    attributes: dict[str, Any] = field(default_factory=dict)
    matlab: bool = False


@dataclass(frozen=True)
class Content:
    """What the arrays of a file are, in opkit's terms.

    Args:
        equation: "burgers", "darcy" or "navier_stokes".
        count: Samples.
        resolution: Points along each axis.
        fields: Reader of each field, `(n, *x)` or `(n, t, *x)`.
        keys: Which array became what.
        parameters: Constructor arguments that the file itself states.
        assumed: Constructor arguments that are needed and that the file does not state.
        scalars: Parameters that differ from sample to sample, `(count,)` each.
        notes: What a user must know about these data.
        block: Samples to read at once.
        codes: Whether the coefficient of Darcy flow is given as 0 and 1.
    """

    equation: str
    count: int
    resolution: int
    fields: dict[str, Read]
    keys: dict[str, str]
    parameters: dict[str, Any] = field(default_factory=dict)
    assumed: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    block: int = 50
    codes: bool = False


@dataclass(frozen=True)
class Samples:
    """Samples on their way into a file.

    Args:
        pde: The problem they belong to.
        count: How many.
        blocks: Consecutive blocks, in order: each field by name as `(n, *x)` or `(n, t, *x)`, and each parameter drawn
            per sample as `(n,)`; float32.
        known: Parameters that are known to hold; None means all of them.
    """

    pde: "PDE"
    count: int
    blocks: Callable[[], Iterator[dict[str, np.ndarray]]]
    known: frozenset[str] | None = None

    def states(self, name: str) -> bool:
        """Whether a parameter is known."""
        return self.known is None or name in self.known

    def pair(self) -> tuple[str, str]:
        """Names of the input and the output of a steady equation.

        Raises:
            ConfigError: There is more than one of either, and the formats of others have room for one.
        """
        if len(self.pde.inputs) != 1 or len(self.pde.outputs) != 1:
            raise ConfigError(
                f"to: this format holds one input and one output field, and the data have {', '.join(self.pde.inputs)} "
                f"and {', '.join(self.pde.outputs)}. Use to=well, or read the HDF5 files with h5py."
            )
        return self.pde.inputs[0], self.pde.outputs[0]


@contextmanager
def open_arrays(path: Path) -> Iterator[Arrays]:
    """The numeric arrays of a file, whatever its format; they can be read while the block runs.

    Raises:
        DataError: It is no file opkit can read, it is damaged, or it cannot be read without running code.
    """
    from opkit.formats import hdf5, matlab, torch_file

    head = _head(path)
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")) or _is_torch_zip(path, head):
        reader = torch_file.open_torch
    elif (offset := _hdf5_offset(path)) is not None:
        reader = hdf5.open_matlab73 if offset else hdf5.open_hdf5
    elif matlab.is_matlab5(head):
        reader = matlab.open_matlab5
    else:
        raise DataError(f"{path} is {_kind(head)}. opkit convert reads {ACCEPTED}, whatever the file is called.")
    with reader(path) as arrays:
        yield arrays


def unreadable(path: Path, problem: object) -> DataError:
    """For whatever a library says of a damaged file."""
    reason = str(problem).strip().splitlines()
    said = reason[0] if reason else type(problem).__name__
    return DataError(f"{path} cannot be read, it seems damaged or cut off: {said}. Fetch it again.")


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(512)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}.") from None
    except OSError as problem:
        raise DataError(f"{path} cannot be opened: {problem.strerror}.") from None


def _hdf5_offset(path: Path) -> int | None:
    """Where HDF5 begins: at 0, or after a user block of 512, 1024, 2048 ... bytes, as the format has it."""
    size, offset = path.stat().st_size, 0
    with open(path, "rb") as file:
        while offset < size:
            file.seek(offset)
            if file.read(8) == HDF5_SIGNATURE:
                return offset
            offset = 2 * offset or 512
    return None


def _is_torch_zip(path: Path, head: bytes) -> bool:
    if not head.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as problem:
        raise unreadable(path, problem) from None


def _kind(head: bytes) -> str:
    known: Mapping[bytes, str] = {
        b"PK\x03\x04": "a zip archive that PyTorch did not write (.npz?)",
        b"PK\x05\x06": "an empty zip archive",
        b"\x93NUMPY": "a NumPy .npy file",
        b"\x1f\x8b": "compressed with gzip; unpack it first",
        b"version https://git-lfs": "a Git LFS pointer, not the data it stands for",
    }
    if not head:
        return "empty"
    return next((text for start, text in known.items() if head.startswith(start)), "of no format known here")

"""PyTorch files: a dict of tensors, as neuraloperator's datasets are. Nothing else is read, and no code is run.

neuraloperator's own loaders take `data["x"]` and `data["y"]`, `(n, *x)` and `(n, *x)` or `(n, t, *x)`, and put a
channel axis in (Kossaifi et al., https://github.com/neuraloperator/neuraloperator, `PTDataset`).
"""

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opkit.errors import DataError
from opkit.files import human_bytes
from opkit.formats.base import Arrays, Column, unreadable

LARGEST_OLD = 2**31
"""Bytes of a file in PyTorch's format before 1.6, which can only be read whole."""


@contextmanager
def open_torch(path: Path) -> Iterator[Arrays]:
    """The tensors of a dict that torch.save wrote; they stay on disk until they are read.

    Raises:
        DataError: It holds anything but tensors and plain values, is no dict, or is damaged.
    """
    content = _load(path)
    if not isinstance(content, dict):
        raise DataError(
            f"{path} holds a {type(content).__name__}, not a dict of tensors such as {{'x': ..., 'y': ...}}."
        )
    columns, attributes = {}, {}
    for name, value in content.items():
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_complex():
            columns[str(name)] = _column(value.detach())
        elif isinstance(value, int | float | str):
            attributes[str(name)] = value
    yield Arrays("PyTorch .pt", columns, attributes)


def _load(path: Path) -> Any:
    mapped = zipfile.is_zipfile(path)
    if not mapped and path.stat().st_size > LARGEST_OLD:
        raise DataError(
            f"{path} is {human_bytes(path.stat().st_size)} in PyTorch's format before 1.6, which must be read whole. "
            "Load it and save it again with a newer PyTorch."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as problem:
        text = str(problem)
        if "weights_only" in text or "Unsupported" in text or "WeightsUnpickler" in text:
            raise DataError(
                f"{path} holds Python objects that could run code when they are read, so it was not read. Only a dict "
                "of tensors is accepted: load the file where you trust it, and torch.save({'x': x, 'y': y})."
            ) from None
        raise unreadable(path, problem) from None


def _column(tensor: Tensor) -> Column:
    if tensor.dtype in (torch.bfloat16, torch.float16):
        return Column(tuple(tensor.shape), np.dtype(np.float32), lambda i, j: _rows(tensor, i, j).float().numpy())
    dtype = torch.empty(0, dtype=tensor.dtype).numpy().dtype
    return Column(tuple(tensor.shape), dtype, lambda i, j: _rows(tensor, i, j).numpy().copy())


def _rows(tensor: Tensor, start: int, stop: int) -> Tensor:
    return tensor[start:stop] if tensor.ndim else tensor

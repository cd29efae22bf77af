"""Checkpoints that survive what happens to long runs: written whole, checked before use, the one before kept.

`last.ckpt` is what a run resumes from. Writing a new one first renames the old one to `last.previous.ckpt`, so that a
process killed at any moment leaves at least one of the two whole. A checkpoint is a zip archive whose members carry a
CRC-32; all are read and compared before one is used, since a file system may return other bytes than it was given.

A checkpoint is a pickle, which could name any function to be called. It is read by PyTorch's own unpickler, which knows
tensors and plain values alone, and refuses all else before anything is called.
"""

import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from opkit.errors import RunError
from opkit.files import whole_file

LAST = "last.ckpt"
PREVIOUS = "last.previous.ckpt"
FAILED = "failed.ckpt"
PARTS = ("state_dict", "global_step", "loops", "pytorch-lightning_version", "train_loss")
"""What every checkpoint of a run has, among others."""


class DurableCheckpoints(TorchCheckpointIO):
    """How Lightning writes checkpoints to local disks here."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        with whole_file(path) as temporary:
            torch.save(checkpoint, temporary)
            if path.name == LAST and path.exists():
                os.replace(path, path.with_name(PREVIOUS))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read(Path(path))


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        RunError: It is no checkpoint of opkit's, or holds more than tensors and plain values.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as problem:
        raise RunError(
            f"{path} is not read: it holds more than tensors and plain values, and could run code "
            f"({_first_line(problem)}). Delete it if you do not know who wrote it."
        ) from None
    except (OSError, MemoryError) as problem:
        raise RunError(f"{path} could not be read: {_first_line(problem)}.") from None
    except Exception as problem:  # of a damaged file, whatever it may be
        raise RunError(f"{path} is damaged, or no checkpoint ({_first_line(problem)}). Delete it.") from None
    if not isinstance(content, dict) or (lacking := [name for name in PARTS if name not in content]):
        lacks = lacking[0] if isinstance(content, dict) else "everything"
        raise RunError(f"{path} is not a checkpoint of a training run: it lacks {lacks}. Delete it.")
    return content


def _first_line(problem: Exception) -> str:
    return (str(problem).splitlines() or [""])[0] or type(problem).__name__


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        if not path.stat().st_size:
            return "it is empty"
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as problem:
        return str(problem) or type(problem).__name__
    return None if member is None else f"the checksum of its part {member} does not match"


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The checkpoint to resume from, None where the run saved none, and what to tell of others that were passed over.

    Raises:
        RunError: There are checkpoints, and all are damaged.
    """
    notes: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        reason = damage(path)
        if reason is None:
            if name == PREVIOUS and notes:
                notes.append(f"continuing from {path} instead, the one before it")
            return path, notes
        notes.append(f"{path} is damaged: {reason}")
    if notes:
        raise RunError(
            f"{'; '.join(notes)}. There is no good checkpoint to resume from. Start the run again in another run_dir."
        )
    return None, []

"""Files that appear whole or not at all: written under a temporary name in the same folder, synced, then renamed. And
folders that one process at a time may fill."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from opkit.errors import OpkitError

LEFTOVER = re.compile(r"\.tmp-(?:([0-9a-f]{8})-(\d+)-)?[0-9a-f]+$")
"""How temporary names end: the machine and process that write, and a random part."""
LEFTOVER_AGE = 86_400.0
"""Seconds after which a temporary file has no writer, whatever its name."""
LOCK = ".lock"
"""In a folder that a process holds for itself; empty of meaning once that process is gone."""
EXCHANGES = 1000
"""How often another process may put its folder in the same place while one tries to."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success it becomes `path`, on failure nothing is left behind."""
    temporary = path.with_name(f"{path.name}.tmp-{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success it replaces `path`, on failure `path` is as it was.

    A link is followed. Of several processes that do this at once, the last one's folder stays, whole.
    """
    path = path.resolve()
    mark = uuid.uuid4().hex[:12]  # process numbers repeat on the nodes of a cluster
    temporary, old = path.with_name(f".{path.name}.tmp-{mark}"), path.with_name(f".{path.name}.old-{mark}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for _ in range(EXCHANGES):
            if _exchange(temporary, path, old):
                break
            shutil.rmtree(old, ignore_errors=True)
        else:
            raise OSError(errno.EBUSY, "other processes replace it again and again", str(path))
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def foreign(folder: Path, own: frozenset[str]) -> list[str]:
    """Names in a folder, or behind a link to one, that are not among its `own` and would be lost with it."""
    return sorted({p.name for p in folder.iterdir()} - own - {LOCK, ".DS_Store"}) if folder.is_dir() else []


def _exchange(temporary: Path, path: Path, old: Path) -> bool:
    """Put `temporary` in the place of `path`, and that, if there is one, in the place of `old`; False where somebody
    else did the same in between."""
    try:
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, old)
        os.replace(temporary, path)
    except BaseException as problem:  # an interrupt between the two as well
        if isinstance(problem, OSError) and problem.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    return True


@contextmanager
def alone_in(folder: Path, error: Callable[[str], OpkitError]) -> Iterator[None]:
    """Hold a folder for this process while the block runs; another one that asks for it gets `error(reason)`.

    The kernel's lock on a file in it (flock) ends with the process, however that ends: what a killed one leaves behind
    is in nobody's way. Over NFS it holds for all machines; on a file system without locks nothing is held. The folder
    is made if need be, and what was made for it is removed again where it stays empty.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    path = folder / LOCK
    handle: int | None = None
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = _lock(path, error)
        except OSError as problem:
            raise error(f"{folder} cannot be written to ({problem.strerror})") from None
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                path.unlink()  # while it is still held
            os.close(handle)
        with contextlib.suppress(OSError):
            for place in made:
                place.rmdir()


def _lock(path: Path, error: Callable[[str], OpkitError]) -> int:
    """The open file that is the lock."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_same(handle, path):  # who held it has removed it since it was opened
                os.close(handle)
                continue
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except BlockingIOError:
            holder = os.read(handle, 300).decode(errors="replace") or "another process"
            os.close(handle)
            raise error(f"{path.parent} is in use by {holder}, until that ends") from None
        except OSError:
            pass  # no locks here, or no space for a note
        return handle


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files in `folder` whose writer was killed: it ran here and is gone, or the file is a day old.

    A process number says nothing on another machine of a cluster, so files from there are left until they are old.
    """
    for path in folder.glob("*.tmp-*"):
        if (match := LEFTOVER.search(path.name)) is None:
            continue
        try:
            old = time.time() - path.stat().st_mtime > LEFTOVER_AGE
            if path.is_file() and (old or (match[1] == _machine() and not _runs(int(match[2])))):
                path.unlink()
        except OSError:  # renamed or removed meanwhile
            continue


@lru_cache
def _machine() -> str:
    """Where process numbers mean what they mean here: this host since it started, and this container on it."""
    parts = [socket.gethostname()]
    for read in (lambda: Path("/proc/sys/kernel/random/boot_id").read_text(), lambda: os.readlink("/proc/self/ns/pid")):
        try:
            parts.append(read())
        except OSError:
            continue
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the file system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Indented JSON; NaN and infinity are refused, because JSON has neither."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, error: Callable[[str], OpkitError]) -> dict[str, Any]:
    """A JSON object from a file, or `error(reason)`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} is missing") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path} cannot be read as JSON ({problem})") from None
    if not isinstance(value, dict):
        raise error(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Short hash of JSON values, the same whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def human_bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"

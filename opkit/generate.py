"""Making data: the shards a split lacks, computed by a pool of processes, one shard per job.

What a shard holds depends on its configuration and index range alone, so neither the number of workers nor an
interruption leaves a trace in the data.
"""

import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from opkit.errors import DataError
from opkit.fields import first_index
from opkit.files import human_bytes
from opkit.pdes import PDE
from opkit.progress import Advance, clock, progress
from opkit.store import Dataset, data_root

_counter: Any = None
"""In a worker: samples solved so far by all workers of the pool, for the progress display."""


def ensure(pde: PDE, split: str, count: int, seed: int = 0, workers: int | None = None) -> Dataset:
    """The first `count` samples of a split, made where they are missing.

    Args:
        pde: The problem and its grid.
        split: "train", "val" or "test".
        count: Samples wanted.
        seed: Seed of the random inputs.
        workers: Processes; None means one per available core. No effect on the data.

    Returns:
        The dataset; its first `count` samples exist, but are not yet verified.
    """
    data = Dataset(pde, split, seed, data_root())
    jobs = data.missing(count)
    if not jobs:
        return data
    _check_folder(data, sum(stop - start for start, stop in jobs))
    workers = min(workers or available_cores(), len(jobs))
    grid = " x ".join(map(str, pde.grid.shape))
    total = sum(stop - start for start, stop in jobs)
    began = time.monotonic()
    with progress(f"generate {pde.equation} {split} {grid}", total, "samples") as advance:
        if workers == 1:
            with _one_thread():
                for start, stop in jobs:
                    make_shard(data, start, stop, advance)
        else:
            _run_pool(data, jobs, workers, advance)
    data.finish(jobs)
    seconds = time.monotonic() - began
    print(f"wrote {total} samples, {human_bytes(data.size())}, to {data.folder} in {clock(seconds)}", file=sys.stderr)
    return data


def make_shard(data: Dataset, start: int, stop: int, advance: Advance | None = None) -> None:
    """Draw, solve and store samples `start .. stop - 1` of a split."""
    parts = []
    for i in range(start, stop):  # one at a time: no sample can depend on its neighbours, and progress is fine-grained
        parts.append(data.pde.label(1, data.seed, first_index(data.split) + i))
        if advance is not None:
            advance(1)
        elif _counter is not None:
            with _counter.get_lock():
                _counter.value += 1
    merged = {
        role: {name: torch.cat([getattr(p, role)[name] for p in parts]) for name in getattr(parts[0], role)}
        for role in ("fields", "diagnostics", "scalars")
    }
    data.write(start, stop, type(parts[0])(**merged))


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_pool(data: Dataset, jobs: list[tuple[int, int]], workers: int, advance: Advance) -> None:
    context = multiprocessing.get_context("spawn")  # a fork would inherit locked thread pools and open HDF5 handles
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(workers, context, _start_worker, (counter,))
    try:
        pending: set[Future[None]] = {pool.submit(make_shard, data, *job) for job in jobs}
        shown = 0
        while pending:
            done, pending = wait(pending, timeout=0.25, return_when=FIRST_COMPLETED)
            advance(counter.value - shown)
            shown = counter.value
            for job in done:
                job.result()
        advance(0)
    except BrokenProcessPool:
        raise DataError(
            f"A generation process died (out of memory?). Finished shards are kept in {data.folder}; run the same "
            "command again, with fewer `workers` if memory is short."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(counter: Any) -> None:
    global _counter
    _counter = counter
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent cannot stop its workers; they notice, and leave."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Workers run one thread each; do the same here, so that sums are taken in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_folder(data: Dataset, samples: int) -> None:
    """Refuse before hours of work what would fail at its end: a folder that cannot be written, or a full disk."""
    try:
        data.folder.mkdir(parents=True, exist_ok=True)
        probe = data.folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as problem:
        raise DataError(
            f"Cannot write data to {Path(data.root).resolve()} ({problem.strerror}). "
            "Set OPKIT_DATA to a folder you can write to."
        ) from None
    needed, free = 1.1 * data.estimate(samples), shutil.disk_usage(data.folder).free
    if needed > free:
        raise DataError(
            f"{samples} samples of {data.pde.equation} need up to {human_bytes(needed)}, but {data.root.resolve()} has "
            f"{human_bytes(free)} free. Free some space, lower data.train, or set OPKIT_DATA to a larger disk."
        )

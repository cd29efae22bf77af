"""Making data: the shards a split lacks. One primitive, `make_shard`, is run here in a pool of processes, and by
`opkit.launch` on clusters.

What a shard holds depends on its configuration, its index range and the kind of device alone, so neither the number of
workers nor an interruption leaves a trace in the data. A shard under its final name is finished; nothing else is state,
so any mix of processes on any number of machines may work on one dataset.
"""

import multiprocessing
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import fields
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opkit.errors import ConfigError, DataError
from opkit.fields import first_index
from opkit.files import human_bytes, remove_leftovers
from opkit.pdes import PDE, Labels
from opkit.progress import Advance, clock, progress
from opkit.signals import check_preempted, held, preemptible
from opkit.store import LABEL_CHECK_EVERY, Dataset, LabelError, data_root

RETRIES = 2
"""Times a shard is tried again after the process that made it died."""
HANDFUL = 5
"""Samples that are made without a forecast."""
WARM = 1.0
"""Seconds of work after which a forecast is made."""
PATIENCE = 600.0
"""Seconds without a new shard after which a rank that waits for others makes the data itself."""

Job = tuple[int, int]
"""Samples start .. stop - 1 of a split: a shard to be made."""
Report = Callable[[int, float], None]
"""Called by `make_shard` after each tile: samples of the shard done, and seconds per sample, or 0 while unknown."""


def ensure(pde: PDE, split: str, count: int, seed: int = 0, workers: int | None = None, device: str = "cpu") -> Dataset:
    """The first `count` samples of a split, made where they are missing.

    Of the ranks of a distributed run on one machine, the first makes the data and the others wait for it.

    Args:
        pde: The problem and its grid.
        split: "train", "val" or "test".
        count: Samples wanted.
        seed: Seed of the random inputs.
        workers: Processes; None means one per available core. No effect on the data.
        device: Where to solve: "cpu", "cuda" (one process per GPU), "cuda:1".

    Returns:
        The dataset; its first `count` samples exist, but are not yet verified.

    Raises:
        DataError: The data cannot be written, or a process making them died again and again.
    """
    data = Dataset(pde, split, seed, data_root())
    _check_size(data, count)
    with preemptible():
        if data.missing(count) and _is_rank("LOCAL_RANK", "SLURM_LOCALID"):
            _await_others(data, count)
        jobs = data.missing(count)
        if _is_rank("RANK", "SLURM_PROCID"):
            jobs.reverse()  # the first rank of another machine: should the disk be shared, it starts at the end
        make(data, jobs, LocalPool(workers, device))
    return data


def make(data: Dataset, jobs: list[Job], pool: "Pool") -> None:
    """Make shards, with progress, a forecast, and a manifest at the end.

    Args:
        data: The split.
        jobs: Index ranges of the shards.
        pool: What runs `make_shard`.

    Raises:
        DataError: The data cannot be written, or a process making them died again and again.
        Preempted: SIGTERM or SIGUSR1 arrived. Finished shards stay.
    """
    if not jobs:
        data.settle()
        return
    total = sum(stop - start for start, stop in jobs)
    _check_folder(data, total)
    remove_leftovers(data.folder)
    grid = " x ".join(map(str, data.pde.grid.shape))
    task = f"generate {data.pde.equation} {data.split} {grid}"
    began = time.monotonic()
    try:
        with progress(task, total, "samples") as advance:
            pool.run(data, jobs, Meter(task, data, jobs, pool.width(jobs), advance))
    finally:
        remove_leftovers(data.folder)  # of workers that were stopped
    data.finish(jobs)
    seconds = time.monotonic() - began
    print(
        f"wrote {total} samples, {human_bytes(data.size())} in all, to {data.folder} in {clock(seconds)} "
        f"({total / seconds:.3g} samples/s)",
        file=sys.stderr,
    )


def make_shard(data: Dataset, start: int, stop: int, device: str = "cpu", report: Report | None = None) -> None:
    """Draw, solve and store samples `start .. stop - 1` of a split, unless that shard is there already."""
    if data.path(start, stop).exists():
        if report is not None:
            report(stop - start, 0.0)
        return
    pde, seed, base = data.pde, data.seed, first_index(data.split)
    tile = pde.tile(device)
    parts: list[Labels] = []
    index: list[int] = []
    errors: list[Tensor] = []
    unavailable = ""
    spent, position = [], start
    while position < stop:
        end = min((position // tile + 1) * tile, stop)
        began = time.perf_counter()
        labels = pde.label(end - position, seed, base + position, device)
        seconds = time.perf_counter() - began
        for i in range(position, end):
            if i % LABEL_CHECK_EVERY == 0:
                try:
                    errors.append(_label_error(data, _rows(labels, i - position), base + i, device))
                    index.append(base + i)
                except (ArithmeticError, MemoryError, RuntimeError, ValueError) as problem:
                    unavailable = f"{type(problem).__name__}: {problem}".partition("\n")[0]
        parts.append(labels)
        position = end
        spent.append((seconds, len(next(iter(labels.fields.values())))))
        if report is not None:
            report(position - start, _seconds_per_sample(spent, end == stop))
        check_preempted()
    merged = {
        f.name: {name: torch.cat([getattr(p, f.name)[name] for p in parts]) for name in getattr(parts[0], f.name)}
        for f in fields(Labels)
    }
    frames = () if pde.times is None else (len(pde.times),)
    error = LabelError(index, torch.cat([torch.zeros(0, *frames, dtype=torch.float64), *errors]), unavailable)
    data.write(start, stop, Labels(**merged), error, device)


def _seconds_per_sample(tiles: list[tuple[float, int]], last: bool) -> float:
    """Mean over (seconds, samples) of tiles; 0 while too little is known. The first fast ones are half start-up."""
    if not last and sum(seconds for seconds, _ in tiles) < WARM:
        return 0.0
    counted = tiles[1:] or tiles
    return sum(seconds for seconds, _ in counted) / sum(samples for _, samples in counted)


def _label_error(data: Dataset, label: Labels, index: int, device: str) -> Tensor:
    """The estimate for one sample, `(1,)` or `(1, t)`.

    Raises:
        ValueError, ArithmeticError, MemoryError, RuntimeError: The refined problem cannot be posed or solved here. The
            labels themselves are none the worse for it.
    """
    error = data.pde.label_error(label, data.seed, index, device).to("cpu", torch.float64)
    if not torch.isfinite(error).all():
        raise ArithmeticError("the refined problem has no finite solution")
    return error


def _rows(labels: Labels, i: int) -> Labels:
    """One sample of several."""
    parts = (getattr(labels, f.name) for f in fields(Labels))
    return Labels(*({name: values[i : i + 1] for name, values in part.items()} for part in parts))


class Meter:
    """Turns what shards report into a progress display, and into a forecast as soon as one tile has been timed.

    Args:
        task: What is made, for the forecast.
        data: The split.
        jobs: Its shards.
        width: How many of them are made at once.
        advance: The display.
    """

    def __init__(self, task: str, data: Dataset, jobs: list[Job], width: int, advance: Advance):
        self.task, self.data, self.jobs, self.width, self.advance = task, data, jobs, width, advance
        self.slots = np.zeros((len(jobs), 2))
        """By shard: samples done, and seconds per sample or 0."""
        self.shown = 0
        self.forecast = sum(stop - start for start, stop in jobs) > HANDFUL

    def report(self, slot: int) -> Report:
        """What to hand to `make_shard` for a shard made in this process."""

        def note(done: int, seconds: float) -> None:
            self.slots[slot] = done, seconds
            self.show()

        return note

    def show(self) -> None:
        """Bring the display up to date."""
        measured = self.slots[self.slots[:, 1] > 0, 1]
        done = int(self.slots[:, 0].sum())
        if self.forecast and len(measured) and done < sum(stop - start for start, stop in self.jobs):
            self.forecast = False
            print(self._forecast(float(measured.min())), file=sys.stderr)
        self.advance(done - self.shown)
        self.shown = done

    def _forecast(self, seconds: float) -> str:
        samples = sum(stop - start for start, stop in self.jobs)
        checks = sum(-(-stop // LABEL_CHECK_EVERY) - -(-start // LABEL_CHECK_EVERY) for start, stop in self.jobs)
        work = seconds * (samples + checks * refinement_cost(self.data.pde))
        rounds = -(-len(self.jobs) // self.width)
        wall = max(work / self.width, rounds * work / len(self.jobs))
        workers = f"{self.width} worker{'s' * (self.width > 1)}"
        return (
            f"{self.task}: about {seconds:.2g} s a sample, {samples} samples in about {clock(max(1.0, wall))} on "
            f"{workers}, up to {human_bytes(self.data.estimate(samples))}"
        )


def refinement_cost(pde: PDE) -> float:
    """About how many times a sample's work its refined problem is: as many times the points and, in time, steps as
    many times finer. 0 where there is no refined problem."""
    try:
        finer = pde.refined().label_grid
    except ValueError:
        return 0.0
    points = finer.weights.numel() / pde.label_grid.weights.numel()
    return points if pde.times is None else points ** (1 + 1 / finer.ndim)


class Pool:
    """Something that makes shards. Subclasses differ in where."""

    def width(self, jobs: list[Job]) -> int:
        """How many of `jobs` are made at once."""
        raise NotImplementedError

    def run(self, data: Dataset, jobs: list[Job], meter: Meter) -> None:
        """Make every shard, reporting to `meter`; on any failure leave finished shards, stop the others, and raise."""
        raise NotImplementedError


class LocalPool(Pool):
    """Processes on this machine, each with one thread; with one worker, this process itself.

    Args:
        workers: Processes; None means one per available core. On GPUs there is one for each, at most.
        device: Where to solve: "cpu", "cuda" (all visible GPUs), "cuda:1".
        retries: Times a shard is tried again after a process died while it was made.
    """

    def __init__(self, workers: int | None = None, device: str = "cpu", retries: int = RETRIES):
        self.devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if device == "cuda" else [device]
        if not self.devices:
            raise ConfigError("device=cuda: there is no GPU here. Leave device=auto, or set device=cpu.")
        self.workers = workers or available_cores()
        if device != "cpu":
            self.workers = min(workers or len(self.devices), len(self.devices))
        self.retries = retries

    def width(self, jobs: list[Job]) -> int:
        return min(self.workers, len(jobs))

    def run(self, data: Dataset, jobs: list[Job], meter: Meter) -> None:
        if self.width(jobs) == 1:
            with _one_thread():
                for slot, job in enumerate(jobs):
                    make_shard(data, *job, self.devices[0], meter.report(slot))
            return
        context = multiprocessing.get_context("spawn")  # a fork would inherit locked thread pools and open HDF5 handles
        with held():  # may start the process that keeps track of shared memory
            shared = context.RawArray("d", 2 * len(jobs))  # without a lock: a killed worker would keep it
            resource_tracker.ensure_running()
        meter.slots = np.frombuffer(shared).reshape(len(jobs), 2)
        waiting = list(enumerate(jobs))
        attempts = [0] * len(jobs)
        while waiting:
            failed = self._run_once(context, shared, data, waiting, meter)
            for slot, _ in failed:
                attempts[slot] += 1
            if max(attempts) > self.retries:
                lost = ", ".join(f"{start} to {stop - 1}" for _, (start, stop) in sorted(failed))
                raise DataError(
                    f"A process died {max(attempts)} times while samples {lost} of {data.folder} were made (out of "
                    "memory?). Finished shards are kept; run the same command again, with fewer `workers` if memory is "
                    "short."
                )
            waiting = failed + waiting

    def _run_once(
        self, context: Any, shared: Any, data: Dataset, waiting: list[tuple[int, Job]], meter: Meter
    ) -> list[tuple[int, Job]]:
        """Take shards off `waiting` until none is left or a worker dies; the shards that were then being made."""
        devices = context.SimpleQueue()
        for i in range(self.workers):
            devices.put(self.devices[i % len(self.devices)])
        parent_gone, lifeline = context.Pipe(duplex=False)
        workers = min(self.workers, len(waiting))
        pool = ProcessPoolExecutor(workers, context, _start_worker, (shared, devices, parent_gone))
        running: dict[Future[None], tuple[int, Job]] = {}
        done: set[Future[None]] = set()
        try:
            while waiting or running:
                while waiting and len(running) < workers:  # no more than run: all that are lost with a worker are known
                    with held():  # starts a process, if there is none to spare
                        future = pool.submit(_work, data, *waiting[0])
                    running[future] = waiting.pop(0)
                done, _ = wait(running, timeout=0.25, return_when=FIRST_COMPLETED)
                meter.show()
                check_preempted()
                for future in done:
                    future.result()
                    del running[future]
            return []
        except BrokenProcessPool:
            return [entry for future, entry in running.items() if not future.done() or future.exception()]
        finally:
            if running:
                lifeline.close()  # workers end at once, in the middle of a shard
            pool.shutdown(cancel_futures=True)
            lifeline.close()
            parent_gone.close()
            devices.close()


_device = "cpu"
"""In a worker of a local pool: where it solves."""
_shared: Any = None
"""In a worker of a local pool: by shard, samples done, and seconds per sample or 0."""


def _start_worker(shared: Any, devices: Any, parent_gone: Connection) -> None:
    global _device, _shared
    _device, _shared = devices.get(), shared
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(parent_gone,), daemon=True).start()


def _end_with_parent(parent_gone: Connection) -> None:
    """A killed parent cannot stop its workers; they notice, and leave. So they do when it closes its end on purpose."""
    parent = multiprocessing.parent_process()
    connection.wait([parent_gone, *([parent.sentinel] if parent else [])])
    os._exit(1)


def _work(data: Dataset, slot: int, job: Job) -> None:
    def note(done: int, seconds: float) -> None:
        _shared[2 * slot], _shared[2 * slot + 1] = done, seconds

    make_shard(data, *job, _device, note)


def available_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_rank(*names: str) -> bool:
    """Whether the environment says that this is a further rank of a distributed run, not the first."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in names)


def _await_others(data: Dataset, count: int) -> None:
    """Wait until the first rank on this machine has made the data, or seems to have stopped."""
    print(f"waiting for the first rank to make {data.folder}", file=sys.stderr)
    left, since = data.missing(count), time.monotonic()
    while left and time.monotonic() - since < PATIENCE:
        time.sleep(1)
        check_preempted()
        if (now := data.missing(count)) != left:
            left, since = now, time.monotonic()


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
        probe = data.folder / f".probe-{uuid.uuid4().hex}"
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
            f"{samples} more samples of {data.pde.equation} ({data.split}) need up to {human_bytes(needed)}, but "
            f"{data.root.resolve()} has {human_bytes(free)} free. Free some space, lower data.{data.split}, or set "
            "OPKIT_DATA to a larger disk."
        )


def _check_size(data: Dataset, count: int) -> None:
    """Refuse what no disk here could hold before counting what of it is there."""
    place = next((p for p in (data.folder, *data.folder.parents) if p.exists()), None)
    if place is None or data.estimate(count) <= (total := shutil.disk_usage(place).total):
        return
    raise DataError(
        f"data.{data.split}={count}: so many samples of {data.pde.equation} need up to "
        f"{human_bytes(data.estimate(count))}, and the disk of {data.root.resolve()} has {human_bytes(total)}. "
        "Lower it, or set OPKIT_DATA to a larger disk."
    )

"""Training while the solvers run: samples go from processes that solve into a reservoir, and from there into batches.

Nothing is stored. The reservoir holds a bounded number of samples; a step draws its batch from it, a sample that was
used `reuse` times leaves, and the next one that is solved takes its place (compare Meyer et al. 2023, arXiv 2306.16133,
whose reservoir is filled as fast as it can be). Which samples a step takes is decided before the first step, from the
seed alone: training waits for a sample that is late, so a run does not depend on how fast anything is.
"""

import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from opkit.batches import Request
from opkit.errors import DataError
from opkit.fields import first_index, seed_key
from opkit.pdes import PDE
from opkit.settings import Stepping
from opkit.stepping import window, windows
from opkit.store import pair, trajectories

SPLIT = "train"
"""Samples are those that a stored training set would have."""


class Plan:
    """The samples of every step.

    Args:
        count: Samples in all.
        capacity: Samples in the reservoir.
        reuse: Uses of a sample.
        batch: Samples of a step.
        key: Seeds the draws.

    Attributes:
        steps: Indices below `count`, `(s, batch)`. No sample is in more than `reuse` of them, nearly all in as many.
    """

    def __init__(self, count: int, capacity: int, reuse: int, batch: int, key: np.random.SeedSequence):
        rng = np.random.Generator(np.random.Philox(key))
        members, left = list(range(min(capacity, count))), np.full(count, reuse)
        entering, steps = len(members), []
        while len(members) >= batch:
            weights = left[members] / left[members].sum()  # so that all leave after about the same time
            chosen = np.asarray(members)[rng.choice(len(members), batch, replace=False, p=weights)]
            steps.append(chosen)
            left[chosen] -= 1
            members = [i for i in members if left[i]]
            while len(members) < capacity and entering < count:
                members.append(entering)
                entering += 1
        self.steps = np.array(steps, dtype=np.int64).reshape(-1, batch)


class OnlineFields(TorchDataset):
    """The reservoir, and the processes that fill it. Item i is window i % w of sample i // w, each holding w windows.

    Args:
        pde: What to solve.
        seed: Seed of the samples.
        samples: Which of the training split's samples this process solves, in order.
        plan: When they are used, by their place in `samples`.
        stepping: Frames in and out of a window.
        workers: Processes.
    """

    def __init__(self, pde: PDE, seed: int, samples: np.ndarray, plan: Plan, stepping: Stepping, workers: int):
        self.pde, self.seed, self.samples, self.plan, self.stepping = pde, seed, samples, plan, stepping
        self.workers, self.windows = workers, 1 if pde.times is None else windows(len(pde.times), stepping)
        self.held: dict[int, tuple[Tensor, Tensor]] = {}
        self.waited, self.solved, self.most = 0.0, 0, 0
        self._left = np.zeros(len(samples), dtype=np.int64)
        self._queue: deque[int] = deque()  # places that are still to be solved
        self._running: deque[tuple[int, Future[dict[str, np.ndarray]]]] = deque()
        self._pool: ProcessPoolExecutor | None = None
        self.next_step = -1

    def __len__(self) -> int:
        return len(self.samples) * self.windows

    def begin(self, step: int) -> None:
        """Prepare for the steps from `step` on: solve what they need and is not held, in the order they need it."""
        self._left = np.bincount(self.plan.steps[step:].ravel(), minlength=len(self.samples))
        self.held = {place: value for place, value in self.held.items() if self._left[place]}
        self._solve_later([i for i in np.flatnonzero(self._left).tolist() if i not in self.held])
        self.next_step = step

    def _solve_later(self, places: list[int]) -> None:
        for _, job in self._running:
            job.cancel()
        self._running.clear()
        self._queue = deque(places)
        self._submit()

    def _submit(self) -> None:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _start)
        while self._queue and len(self._running) < 2 * self.workers:
            place = self._queue.popleft()
            self._running.append((place, self._pool.submit(_solve, self.pde, self.seed, int(self.samples[place]))))

    def _get(self, place: int) -> tuple[Tensor, Tensor]:
        began = time.monotonic()
        while place not in self.held:
            solved, job = self._running.popleft()
            try:
                stored = {name: torch.from_numpy(values) for name, values in job.result().items()}
            except BrokenProcessPool:
                raise DataError(
                    f"A process died while sample {self.samples[solved]} was solved (out of memory?). Add --resume to "
                    "continue the run, with fewer `workers` if memory is short."
                ) from None
            self._submit()
            self.held[solved] = pair(self.pde, stored) if self.pde.times is None else trajectories(self.pde, stored)
            self.solved += 1
            self.most = max(self.most, len(self.held))
        self.waited += time.monotonic() - began
        return self.held[place]

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor]:
        parts = []
        for item in request.indices:
            place, start = divmod(item, self.windows)
            parts.append(self._item(self._get(place), start))
            self._left[place] -= 1
            if not self._left[place]:
                del self.held[place]
        self.next_step += 1
        inputs, targets = (torch.cat(column) for column in zip(*parts, strict=True))
        return request.finish((inputs, targets))

    def _item(self, sample: tuple[Tensor, Tensor], start: int) -> tuple[Tensor, Tensor]:
        if self.pde.times is None:
            return sample
        return window(*sample, torch.tensor([0]), torch.tensor([start]), self.stepping)

    def first(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All items of the first samples, solved now; for fitting statistics."""
        self._solve_later([i for i in range(min(count, len(self.samples))) if i not in self.held])
        for place in range(min(count, len(self.samples))):
            sample = self._get(place)
            parts = [self._item(sample, start) for start in range(self.windows)]
            yield torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


def share(count: int, rank: int, world: int) -> np.ndarray:
    """The samples that one of several processes solves."""
    return np.arange(rank, count, world)


def plan(count: int, capacity: int, reuse: int, batch: int, seed: int, rank: int, world: int) -> Plan:
    """The plan of one of several processes, which hold equal parts of samples, reservoir and batch."""
    part = batch // world
    return Plan(
        count // world, max(part, capacity // world), reuse, part, seed_key("online", seed, rank * 2**16 + world)
    )


def _start() -> None:
    """Signals are for the trainer; a process that solves ends when it does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    os.nice(5)


def _solve(pde: PDE, seed: int, index: int) -> dict[str, np.ndarray]:
    labels = pde.label(1, seed, first_index(SPLIT) + index)
    stored = {name: values.float().numpy() for name, values in (labels.fields | labels.scalars).items()}
    bad = [name for name, values in stored.items() if not np.isfinite(values).all()]
    if bad:
        raise DataError(f"Sample {index} has values of {bad[0]} that are not finite.")
    return stored

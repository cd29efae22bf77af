"""Batches of (input, target) fields from a stored dataset; the one LightningDataModule for every PDE.

Splits are separate index ranges of the generator, so they cannot overlap. Samples live in memory, and on the GPU where
they fit; otherwise they are read from HDF5, each process opening its own handles. The order of samples, and the
symmetry applied to each, is a function of (seed, epoch) alone: it survives interruption and does not depend on the
number of devices or loader processes.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from opkit import online
from opkit.batches import EpochBatches, PlannedBatches, Request
from opkit.errors import ConfigError, RunError
from opkit.generate import available_cores
from opkit.pdes import PDE
from opkit.settings import Data, Stepping
from opkit.stepping import stepped, window, windows
from opkit.store import Dataset, pair, read_fields, trajectories

MEMORY_SHARE = 1 / 3
"""Largest share of free memory, host or GPU, that samples may take before they are read from disk."""

ONE_STEP = Stepping()


class MemoryFields(TorchDataset):
    """Samples of a steady equation as two tensors, on the host or on a GPU.

    Args:
        inputs: `(n, c, *x)`.
        targets: `(n, c, *x)`.
    """

    def __init__(self, inputs: Tensor, targets: Tensor):
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor]:
        items = torch.as_tensor(request.indices, dtype=torch.int64, device=self.inputs.device)  # may be empty
        return request.finish((self.inputs[items], self.targets[items]))


class MemoryTrajectories(TorchDataset):
    """Trajectories, on the host or on a GPU. Item i is window i % w of sample i // w, each holding w windows.

    Args:
        frames: `(n, t, c, *x)`.
        constants: Parameters drawn per sample, `(n, k)`.
        stepping: Frames in and out of a window.
    """

    def __init__(self, frames: Tensor, constants: Tensor, stepping: Stepping):
        self.frames, self.constants, self.stepping = frames, constants, stepping
        self.windows = windows(frames.shape[1], stepping)

    def __len__(self) -> int:
        return len(self.frames) * self.windows

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor]:
        items = torch.as_tensor(request.indices, dtype=torch.int64, device=self.frames.device)
        pairs = window(self.frames, self.constants, items // self.windows, items % self.windows, self.stepping)
        return request.finish(pairs)


class StoredFields(TorchDataset):
    """The same, read from shards as they are asked for; safe in loader processes, which open their own files."""

    def __init__(self, data: Dataset, count: int, stepping: Stepping):
        self.shards = [shard for shard in data.shards() if shard[0] < count]
        self.count, self.pde, self.stepping = count, data.pde, stepping
        self.windows = 1 if data.pde.times is None else windows(len(data.pde.times), stepping)

    def __len__(self) -> int:
        return self.count * self.windows

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor]:
        parts = [self._item(*divmod(item, self.windows)) for item in request.indices]
        if not parts:  # a rank beyond the samples of a short batch
            spec = stepped(self.pde.spec, self.stepping, self.pde.times)
            shape = spec.grid.shape
            empty = torch.empty(0, len(spec.inputs), *shape), torch.empty(0, len(spec.outputs), *shape)
            return request.finish(empty)
        inputs, targets = (torch.cat(column) for column in zip(*parts, strict=True))
        return request.finish((inputs, targets))

    def _item(self, i: int, start: int) -> tuple[Tensor, Tensor]:
        first, _, path = next(s for s in self.shards if s[0] <= i < s[1])
        stored = read_fields(path, self.pde, slice(i - first, i - first + 1))
        if self.pde.times is None:
            return pair(self.pde, stored)
        return window(*trajectories(self.pde, stored), torch.tensor([0]), torch.tensor([start]), self.stepping)


def strides(pde: PDE, settings: Data) -> tuple[int, ...]:
    """Every which point of the data training batches have, one stride for each of `data.resolutions`.

    Raises:
        ConfigError: The points of such a grid are not among those of the training grid.
    """

    def stride(points: int) -> int | None:
        return replace(pde.grid, shape=(points,) * pde.grid.ndim).stride_in(pde.grid)

    found = [(r, stride(r)) for r in settings.resolutions or (pde.resolution,)]
    if wrong := [r for r, every in found if every is None]:
        possible = [r for r in range(4, pde.resolution + 1) if stride(r)]
        raise ConfigError(
            f"data.resolutions={list(settings.resolutions or ())}: the points of a grid of {wrong[0]} a side are not "
            f"among those of the training grid (pde.resolution={pde.resolution}). Possible here: {possible}."
        )
    return tuple(every for _, every in found if every is not None)


class ResumableLoader(DataLoader):
    """A loader that knows how many batches of its epoch were used."""

    used = 0
    sampler: EpochBatches | PlannedBatches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.used = self.sampler.skip
        if isinstance(self.dataset, online.OnlineFields):
            step = self.sampler.epoch * len(self.sampler) + self.used
            if self.dataset.next_step != step:
                self.dataset.begin(step)
        for batch in super().__iter__():
            self.used += 1
            yield batch


class FieldData(L.LightningDataModule):
    """Training and validation batches of one dataset.

    Args:
        train: The stored training split.
        val: The stored validation split.
        settings: Sizes and how to feed them.
        seed: Seed of the order of samples.
        stepping: Windows that trajectories are cut into, as long as training is unrolled.
        workers: Processes that solve, where training is online; null means one per core.
    """

    def __init__(
        self, train: Dataset, val: Dataset, settings: Data, seed: int, stepping: Stepping = ONE_STEP,
        workers: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.workers = workers or available_cores()
        self.train, self.val, self.settings, self.seed, self.stepping = train, val, settings, seed, stepping
        self.fields: dict[str, MemoryFields | MemoryTrajectories | StoredFields | online.OnlineFields] = {}
        self._training: ResumableLoader | None = None
        self._skip = 0

    def state_dict(self) -> dict[str, int]:
        """Where in its epoch training is. Here and not in the loader, whose state Lightning restores too late if it was
        asked for before the checkpoint is read, as for the length of the schedule: data would be repeated."""
        used = 0 if self._training is None or self.trainer is None else self._training.used
        skip = used if self.trainer is not None and used < self.trainer.num_training_batches else 0
        return {"skip": skip, "world": self.trainer.world_size if self.trainer else 1}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lightning calls this before it asks for the loaders that it trains with.

        Raises:
            RunError: Training is online, and each process has samples of its own: another number has others.
        """
        world = self.trainer.world_size if self.trainer else 1
        if self.settings.mode == "online" and state.get("world", world) != world:
            raise RunError(
                f"data.mode=online: this run was begun by {state['world']} processes, whose samples are not those of "
                f"{world}. Continue it with as many."
            )
        self._skip = state["skip"]

    def setup(self, stage: str | None = None) -> None:
        if self.fields:
            return
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        settings = self.settings
        needed = self.val.estimate(settings.val)
        if settings.mode == "online":
            rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
            if settings.batch_size % world or settings.train < settings.batch_size:
                raise ConfigError(
                    f"data.mode=online: data.batch_size={settings.batch_size} must be a multiple of the {world} "
                    f"processes, and at most data.train={settings.train}."
                )
            uses = settings.reuse * self._uses()
            plan = online.plan(settings.train, settings.reservoir, uses, settings.batch_size, self.seed, rank, world)
            samples = online.share(settings.train, rank, world)
            self.fields["train"] = online.OnlineFields(
                self.train.pde, self.train.seed, samples, plan, self.stepping, max(1, self.workers // world)
            )
        else:
            needed += self.train.estimate(settings.train)
        for split, data, count in (
            ("train", self.train, self.settings.train),
            ("val", self.val, self.settings.val),
        ):
            if split in self.fields:
                continue
            if not self._in_memory(needed):
                data.verify(count)
                self.fields[split] = StoredFields(data, count, self.stepping)
                continue
            steady = data.pde.times is None
            first, second = (pair if steady else trajectories)(data.pde, data.load(count))
            if device.type == "cuda" and needed < MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
                first, second = first.to(device), second.to(device)
            self.fields[split] = (
                MemoryFields(first, second) if steady else MemoryTrajectories(first, second, self.stepping)
            )

    def train_dataloader(self) -> DataLoader:
        symmetries = self.train.pde.symmetries if self.settings.augment else 0
        self._training = self._loader("train", self.seed, symmetries, strides(self.train.pde, self.settings))
        self._training.sampler.skip = self._skip
        return self._training

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", None, 0, (1,))

    def close(self) -> None:
        """End processes that solve, and tell what they did."""
        fields = self.fields.get("train")
        if isinstance(fields, online.OnlineFields):
            fields.close()
            uses = self.settings.reuse * fields.windows
            print(
                f"online: {fields.solved} samples solved, each used at most {uses} times, "
                f"no more than {fields.most} held at once; training waited {fields.waited:.0f} s for them",
                file=sys.stderr,
            )

    def batch(self, epoch: int, index: int) -> Request:
        """What training asks for as the `index`-th batch of an epoch, over all ranks."""
        if self._training is not None and isinstance(planned := self._training.sampler, PlannedBatches):
            return planned.request(epoch * len(planned) + index)
        batches = EpochBatches(len(self.fields["train"]), self.settings.batch_size, self.seed)
        batches.set_epoch(epoch)
        return next(islice(batches, index, None))

    def _uses(self) -> int:
        """Items of a sample: each is one use."""
        return 1 if self.train.pde.times is None else windows(len(self.train.pde.times), self.stepping)

    def training_fields(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training items in natural order, in batches, for fitting statistics; of samples that are still to be
        solved, the first ones."""
        fields = self.fields["train"]
        if isinstance(fields, online.OnlineFields):
            yield from fields.first(max(1, self.settings.reservoir // (self.trainer.world_size if self.trainer else 1)))
            return
        for request in EpochBatches(len(fields), 100):
            yield fields[request]

    def _loader(self, split: str, seed: int | None, symmetries: int, strides: tuple[int, ...]) -> ResumableLoader:
        fields = self.fields[split]
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches: EpochBatches | PlannedBatches
        if isinstance(fields, online.OnlineFields) and seed is not None:
            epochs = (self.trainer.max_epochs if self.trainer else None) or 1
            if len(fields.plan.steps) < epochs:
                raise ConfigError(
                    f"data.train={self.settings.train} samples used data.reuse={self.settings.reuse} times are "
                    f"{len(fields.plan.steps)} steps of data.batch_size={self.settings.batch_size}, fewer than "
                    f"trainer.max_epochs={epochs}. Raise one of the first two."
                )
            batches = PlannedBatches(fields.plan.steps, fields.windows, epochs, seed, symmetries, rank, strides)
        else:
            batches = EpochBatches(len(fields), self.settings.batch_size, seed, symmetries, rank, world, strides)
        workers = self.settings.loader_workers if isinstance(fields, StoredFields) else 0
        context = "spawn" if workers else None
        return ResumableLoader(
            fields, sampler=batches, batch_size=None, num_workers=workers, multiprocessing_context=context,
            persistent_workers=workers > 0,
        )  # fmt: skip

    def _in_memory(self, needed: int) -> bool:
        if self.settings.in_memory == "auto":
            return needed < MEMORY_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return bool(self.settings.in_memory)

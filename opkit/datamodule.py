"""Batches of (input, target) fields from a stored dataset; the one LightningDataModule for every PDE.

Splits are separate index ranges of the generator, so they cannot overlap. Samples live in memory, and on the GPU where
they fit; otherwise they are read from HDF5, each process opening its own handles. The order of samples, and the
symmetry applied to each, is a function of (seed, epoch) alone: it survives interruption and does not depend on the
number of devices or loader processes.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from opkit.errors import ConfigError
from opkit.fields import seed_key
from opkit.pdes import PDE
from opkit.settings import Data, Stepping
from opkit.stepping import stepped, window, windows
from opkit.store import Dataset, pair, read_fields, trajectories

MEMORY_SHARE = 1 / 3
"""Largest share of free memory, host or GPU, that samples may take before they are read from disk."""

ONE_STEP = Stepping()


class Request(NamedTuple):
    """A batch to make.

    Args:
        indices: Its samples.
        moves: For each of them, which of the symmetries to apply.
        stride: Every which point along an axis it has.
    """

    indices: list[int]
    moves: np.ndarray | None = None
    stride: int = 1

    def finish(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The batch as it is asked for, given its samples as they are stored."""
        if self.stride > 1:
            points: tuple[Any, ...] = (..., *(slice(None, None, self.stride),) * (batch[0].ndim - 2))
            batch = batch[0][points], batch[1][points]
        return apply_symmetry(batch, self.moves)


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


def apply_symmetry(batch: tuple[Tensor, Tensor], moves: np.ndarray | None) -> tuple[Tensor, Tensor]:
    """Reflect or transpose each sample of scalar fields `(b, c, *x)` as its row of `moves` says.

    Columns are: reflect axis 1, ..., reflect axis d, exchange the first two axes. Together they generate all symmetries
    of an interval, a square, and of a box's faces.
    """
    if moves is None:
        return batch
    out = []
    for values in batch:
        masks = torch.as_tensor(moves, device=values.device)
        ndim = values.ndim - 2
        for axis in range(ndim):
            mask = masks[:, axis].view(-1, *(1 for _ in values.shape[1:]))
            values = torch.where(mask, values.flip(axis + 2), values)
        if ndim > 1:
            mask = masks[:, ndim].view(-1, *(1 for _ in values.shape[1:]))
            values = torch.where(mask, values.transpose(2, 3), values)
        out.append(values)
    return out[0], out[1]


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


class EpochBatches(Sampler):
    """Batches of indices in an order drawn from (seed, epoch), each rank taking its part of every global batch.

    Args:
        count: Samples.
        batch_size: Global batch, over all ranks.
        seed: Seed of the order; None keeps the natural order and applies no symmetry.
        symmetries: Columns of moves to draw per sample, 0 for none.
        rank: This process.
        world: Processes.
        strides: Every which point a batch has: one of these, drawn per global batch.

    Attributes:
        skip: Batches that the next pass leaves out at its beginning.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int | None = None, symmetries: int = 0, rank: int = 0, world: int = 1,
        strides: tuple[int, ...] = (1,),
    ):  # fmt: skip
        self.count, self.seed, self.symmetries, self.strides = count, seed, symmetries, strides
        self.batch_size, self.rank, self.world = min(batch_size, count), rank, world
        self.epoch, self.skip = 0, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch, resumed ones included."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Request]:
        order = np.arange(self.count)
        moves = None
        strides = np.full(len(self), self.strides[0])
        if self.seed is not None:
            rng = np.random.Generator(np.random.Philox(seed_key("epoch order", self.seed, self.epoch)))
            order = rng.permutation(self.count)
            if self.symmetries:
                moves = rng.random((self.count, self.symmetries)) < 0.5
            if len(self.strides) > 1:
                strides = rng.choice(self.strides, len(self))
        skip, self.skip = self.skip, 0
        for i in range(skip, len(self)):
            batch = order[i * self.batch_size : (i + 1) * self.batch_size]
            mine = batch[self.rank :: self.world]
            yield Request(mine.tolist(), None if moves is None else moves[mine], int(strides[i]))


class ResumableLoader(DataLoader):
    """A loader that knows how many batches of its epoch were used."""

    used = 0
    sampler: EpochBatches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.used = self.sampler.skip
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
    """

    def __init__(self, train: Dataset, val: Dataset, settings: Data, seed: int, stepping: Stepping = ONE_STEP):
        super().__init__()
        self.train, self.val, self.settings, self.seed, self.stepping = train, val, settings, seed, stepping
        self.fields: dict[str, MemoryFields | MemoryTrajectories | StoredFields] = {}
        self._training: ResumableLoader | None = None
        self._skip = 0

    def state_dict(self) -> dict[str, int]:
        """Where in its epoch training is. Here and not in the loader, whose state Lightning restores too late if it was
        asked for before the checkpoint is read, as for the length of the schedule: data would be repeated."""
        used = 0 if self._training is None or self.trainer is None else self._training.used
        return {"skip": used if self.trainer is not None and used < self.trainer.num_training_batches else 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lightning calls this before it asks for the loaders that it trains with."""
        self._skip = state["skip"]

    def setup(self, stage: str | None = None) -> None:
        if self.fields:
            return
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        needed = self.train.estimate(self.settings.train) + self.val.estimate(self.settings.val)
        for split, data, count in (
            ("train", self.train, self.settings.train),
            ("val", self.val, self.settings.val),
        ):
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

    def batch(self, epoch: int, index: int) -> Request:
        """What training asks for as the `index`-th batch of an epoch, over all ranks."""
        batches = EpochBatches(len(self.fields["train"]), self.settings.batch_size, self.seed)
        batches.set_epoch(epoch)
        return next(islice(batches, index, None))

    def training_fields(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training items in natural order, in batches; for fitting statistics."""
        for request in EpochBatches(len(self.fields["train"]), 100):
            yield self.fields["train"][request]

    def _loader(self, split: str, seed: int | None, symmetries: int, strides: tuple[int, ...]) -> ResumableLoader:
        fields = self.fields[split]
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
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

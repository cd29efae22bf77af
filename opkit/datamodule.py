"""Batches of (input, target) fields from a stored dataset; the one LightningDataModule for every PDE.

Splits are separate index ranges of the generator, so they cannot overlap. Samples live in memory, and on the GPU where
they fit; otherwise they are read from HDF5, each process opening its own handles. The order of samples, and the
symmetry applied to each, is a function of (seed, epoch) alone: it survives interruption and does not depend on the
number of devices or loader processes.
"""

import os
from collections.abc import Iterator

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from opkit.fields import seed_key
from opkit.settings import Data
from opkit.store import Dataset, pair, read_fields

MEMORY_SHARE = 1 / 3
"""Largest share of free memory, host or GPU, that samples may take before they are read from disk."""

Request = tuple[list[int], np.ndarray | None]
"""Indices of a batch, and for each sample which of the symmetries to apply."""


class MemoryFields(TorchDataset):
    """Samples as two tensors, on the host or on a GPU.

    Args:
        inputs: `(n, c, *x)`: for an evolution equation the state at the start, then constant channels.
        targets: `(n, c, *x)`; for an evolution equation the later states, `(n, t, c, *x)`, and an item is then a step
            from one frame to the next: item i is step i % t of sample i // t.
    """

    def __init__(self, inputs: Tensor, targets: Tensor):
        self.inputs, self.targets = inputs, targets
        self.steps = targets.shape[1] if targets.ndim > inputs.ndim else None

    def __len__(self) -> int:
        return len(self.inputs) * (self.steps or 1)

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor]:
        indices, moves = request
        items = torch.as_tensor(indices, dtype=torch.int64, device=self.inputs.device)  # may be empty
        if self.steps is None:
            return apply_symmetry((self.inputs[items], self.targets[items]), moves)
        rows, step = items // self.steps, items % self.steps
        return apply_symmetry(one_step(self.inputs[rows], self.targets, rows, step), moves)


class StoredFields(TorchDataset):
    """The same, read from shards as they are asked for; safe in loader processes, which open their own files."""

    def __init__(self, data: Dataset, count: int):
        self.shards = [shard for shard in data.shards() if shard[0] < count]
        self.count, self.pde = count, data.pde
        self.steps = None if data.pde.times is None else len(data.pde.times) - 1

    def __len__(self) -> int:
        return self.count * (self.steps or 1)

    def __getitem__(self, request: Request) -> tuple[Tensor, Tensor]:
        indices, moves = request
        parts = []
        for item in indices:
            i, step = divmod(item, self.steps or 1)
            start, _, path = next(s for s in self.shards if s[0] <= i < s[1])
            inputs, targets = pair(self.pde, read_fields(path, self.pde, slice(i - start, i - start + 1)))
            if self.steps is not None:
                inputs, targets = one_step(inputs, targets, torch.zeros(1, dtype=torch.int64), torch.tensor([step]))
            parts.append((inputs, targets))
        if not parts:  # a rank beyond the samples of a short batch
            shape = self.pde.grid.shape
            return torch.empty(0, len(self.pde.inputs), *shape), torch.empty(0, len(self.pde.outputs), *shape)
        inputs, targets = (torch.cat(column) for column in zip(*parts, strict=True))
        return apply_symmetry((inputs, targets), moves)


def one_step(inputs: Tensor, trajectories: Tensor, rows: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """(frame, next frame) of evolution equations, constant channels kept.

    Args:
        inputs: First frames and constant channels of the wanted samples, `(b, c + constants, *x)`.
        trajectories: The later frames of all samples, `(n, t, c, *x)`.
        rows: Which samples, `(b,)`.
        step: From which frame, `(b,)`; 0 is the first.
    """
    channels = trajectories.shape[2]
    before = trajectories[rows, (step - 1).clamp_min(0)]
    first = (step == 0).view(-1, *(1 for _ in before.shape[1:]))
    state = torch.where(first, inputs[:, :channels], before)
    return torch.cat([state, inputs[:, channels:]], 1), trajectories[rows, step]


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


class EpochBatches(Sampler):
    """Batches of indices in an order drawn from (seed, epoch), each rank taking its part of every global batch.

    Args:
        count: Samples.
        batch_size: Global batch, over all ranks.
        seed: Seed of the order; None keeps the natural order and applies no symmetry.
        symmetries: Columns of moves to draw per sample, 0 for none.
        rank: This process.
        world: Processes.
    """

    def __init__(
        self, count: int, batch_size: int, seed: int | None = None, symmetries: int = 0, rank: int = 0, world: int = 1
    ):
        self.count, self.seed, self.symmetries = count, seed, symmetries
        self.batch_size, self.rank, self.world = min(batch_size, count), rank, world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before every epoch, resumed ones included."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Request]:
        order = np.arange(self.count)
        moves = None
        if self.seed is not None:
            rng = np.random.Generator(np.random.Philox(seed_key("epoch order", self.seed, self.epoch)))
            order = rng.permutation(self.count)
            if self.symmetries:
                moves = rng.random((self.count, self.symmetries)) < 0.5
        for start in range(0, self.count, self.batch_size):
            batch = order[start : start + self.batch_size]
            mine = batch[self.rank :: self.world]
            yield mine.tolist(), None if moves is None else moves[mine]


class FieldData(L.LightningDataModule):
    """Training and validation batches of one dataset.

    Args:
        train: The stored training split.
        val: The stored validation split.
        settings: Sizes and how to feed them.
        seed: Seed of the order of samples.
    """

    def __init__(self, train: Dataset, val: Dataset, settings: Data, seed: int):
        super().__init__()
        self.train, self.val, self.settings, self.seed = train, val, settings, seed
        self.fields: dict[str, MemoryFields | StoredFields] = {}

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
                self.fields[split] = StoredFields(data, count)
                continue
            inputs, targets = pair(data.pde, data.load(count))
            if device.type == "cuda" and needed < MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
                inputs, targets = inputs.to(device), targets.to(device)
            self.fields[split] = MemoryFields(inputs, targets)

    def train_dataloader(self) -> DataLoader:
        symmetries = self.train.pde.symmetries if self.settings.augment else 0
        return self._loader("train", self.seed, symmetries)

    def val_dataloader(self) -> DataLoader:
        return self._loader("val", None, 0)

    def training_fields(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The training items in natural order, in batches; for fitting statistics."""
        for request in EpochBatches(len(self.fields["train"]), 100):
            yield self.fields["train"][request]

    def _loader(self, split: str, seed: int | None, symmetries: int) -> DataLoader:
        fields = self.fields[split]
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        batches = EpochBatches(
            len(fields),
            self.settings.batch_size,
            seed,
            symmetries,
            rank,
            world,
        )
        workers = 0 if isinstance(fields, MemoryFields) else self.settings.loader_workers
        context = "spawn" if workers else None
        return DataLoader(
            fields, sampler=batches, batch_size=None, num_workers=workers, multiprocessing_context=context,
            persistent_workers=workers > 0,
        )  # fmt: skip

    def _in_memory(self, needed: int) -> bool:
        if self.settings.in_memory == "auto":
            return needed < MEMORY_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return bool(self.settings.in_memory)

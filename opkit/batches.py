"""Which samples make a batch, and what is done to them: a function of (seed, epoch), not of how data are read."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from opkit.fields import seed_key


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


class PlannedBatches(Sampler):
    """Batches of a plan (`opkit.online.Plan`), cut into epochs of equal length.

    Args:
        steps: Samples of every step, `(s, b)`.
        windows: Items of a sample, of which one is drawn for each use.
        epochs: How many; steps that are left over are not made.
        seed: Seeds windows and symmetries.
        symmetries: Columns of moves to draw per item, 0 for none.
        rank: This process.
        strides: Every which point a batch has: one of these, drawn for all processes alike.

    Attributes:
        skip: Batches that the next pass leaves out at its beginning.
    """

    def __init__(
        self, steps: np.ndarray, windows: int, epochs: int, seed: int, symmetries: int = 0, rank: int = 0,
        strides: tuple[int, ...] = (1,),
    ):  # fmt: skip
        self.steps, self.windows, self.seed, self.symmetries, self.rank = steps, windows, seed, symmetries, rank
        self.strides, self.length, self.epoch, self.skip = strides, len(steps) // epochs, 0, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Request]:
        skip, self.skip = self.skip, 0
        for step in range(self.epoch * self.length + skip, (self.epoch + 1) * self.length):
            yield self.request(step)

    def request(self, step: int) -> Request:
        """What a step takes."""
        rng = np.random.Generator(np.random.Philox(seed_key("planned step", self.seed, self.rank * 2**32 + step)))
        alike = np.random.Generator(np.random.Philox(seed_key("planned grid", self.seed, step)))
        chosen = self.steps[step]
        items = chosen * self.windows + rng.integers(self.windows, size=len(chosen))
        moves = rng.random((len(chosen), self.symmetries)) < 0.5 if self.symmetries else None
        return Request(items.tolist(), moves, int(alike.choice(self.strides)))

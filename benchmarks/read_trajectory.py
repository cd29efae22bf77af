"""Time to read one random trajectory of 50 frames, 64 x 64, float32, through opkit's reader, from the page cache.

    python benchmarks/read_trajectory.py

Medians of CPU time, one process and one thread. Beside it: h5py alone, on a file that is open and on one that is not.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from torch import Tensor

from opkit.grid import Grid
from opkit.pdes import Evolution, Labels
from opkit.store import Dataset, LabelError, read_fields


@dataclass(frozen=True, eq=False)
class Noise(Evolution):
    """Frames of noise: what reading costs does not depend on what is read."""

    equation: ClassVar[str] = "noise"
    formula: ClassVar[str] = "w is white"
    outputs: ClassVar[tuple[str, ...]] = ("w",)

    resolution: int = 64
    label_resolution: int = 64
    times: Any = tuple(range(50))

    @property
    def grid(self) -> Grid:
        return Grid((self.resolution, self.resolution), "periodic")

    def sample(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        return torch.randn(n, 1, *self.grid.shape, dtype=torch.float64)

    def _solve(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError


def median_ms(read: Callable[[int], object], choices: np.ndarray) -> float:
    taken = []
    for i in choices:
        began = time.process_time()
        read(int(i))
        taken.append(time.process_time() - began)
    return 1e3 * float(np.median(taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--reads", type=int, default=400)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        pde = Noise()
        data = Dataset(pde, "train", 0, Path(folder))
        for start, stop in data.missing(args.samples):
            frames = torch.from_numpy(rng.standard_normal((stop - start, 50, 64, 64), np.float32))
            none = LabelError([], torch.zeros(0, 50, dtype=torch.float64))
            data.write(start, stop, Labels({"w": frames}, {}), none)
        shards = data.shards()

        def with_opkit(i: int) -> object:
            start, _, path = next(s for s in shards if s[0] <= i < s[1])
            return read_fields(path, pde, slice(i - start, i - start + 1))

        def with_a_new_handle(i: int) -> object:
            start, _, path = next(s for s in shards if s[0] <= i < s[1])
            with h5py.File(path) as file:
                return file["t0_fields/w"][i - start : i - start + 1]

        with h5py.File(shards[0][2]) as file:
            field = file["t0_fields/w"]
            print(f"chunks {field.chunks}, compression {field.compression}, fletcher32 {field.fletcher32}")
            inside = rng.integers(0, len(field), args.reads)
            alone = median_ms(lambda i: field[i : i + 1], inside)
        choices = rng.integers(0, args.samples, args.reads)
        for i in range(args.samples):
            with_opkit(i)
        opkit, new = median_ms(with_opkit, choices), median_ms(with_a_new_handle, choices)
        print(
            f"opkit's reader          {opkit:.3f} ms per trajectory of 50 x 64 x 64 float32, from {len(shards)} shards"
        )
        print(f"h5py, file open         {alone:.3f} ms")
        print(f"h5py, opened each time  {new:.3f} ms")


if __name__ == "__main__":
    main()

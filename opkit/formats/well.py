"""Laying data out as The Well's reader wants them (Ohana et al., NeurIPS 2024, https://github.com/PolymathicAI/the_well).

opkit's shards already are files of that format. A dataset there is a folder

    data/train/*.h5, data/valid/*.h5, data/test/*.h5     opkit's own shards, hard links where the disk allows them
    stats.yaml                                           mean, std and rms of each field and of its steps in time

and is read by `the_well.data.WellDataset(path=FOLDER, well_split_name="train", use_normalization=True, ...)`.
"""

import math
import os
import shutil
from pathlib import Path

import numpy as np

from opkit.errors import DataError
from opkit.files import whole_folder, write_text
from opkit.store import Dataset, read_fields

NAMES = {"train": "train", "val": "valid", "test": "test"}


def write_well(splits: list[Dataset], output: Path) -> None:
    """Lay verified splits of one dataset out in a new folder.

    Raises:
        DataError: The folder exists.
    """
    import yaml

    if output.exists():
        raise DataError(f"{output} exists. Choose another output, or move it away.")
    with whole_folder(output) as folder:
        for data in splits:
            place = folder / "data" / NAMES[data.split]
            place.mkdir(parents=True)
            for _, _, path in data.shards():
                _link(path, place / path.name)
        measured = next((data for data in splits if data.split == "train"), splits[0])
        write_text(folder / "stats.yaml", yaml.safe_dump(statistics(measured), sort_keys=True))


def statistics(data: Dataset) -> dict[str, dict[str, float]]:
    """Mean, standard deviation and root mean square of each field, and of its change from frame to frame."""
    sums: dict[str, np.ndarray] = {}
    for start, stop, path in data.shards():
        block = read_fields(path, data.pde, slice(0, stop - start))
        for name in data.pde.fields:
            values = block[name].double().numpy()
            sums[name] = sums.get(name, np.zeros(3)) + _moments(values)
            if data.pde.times is not None:
                key = f"delta {name}"
                sums[key] = sums.get(key, np.zeros(3)) + _moments(np.diff(values, axis=1))
    out: dict[str, dict[str, float]] = {f"{kind}{d}": {} for kind in ("mean", "std", "rms") for d in ("", "_delta")}
    for key, (count, total, squares) in sums.items():
        name, suffix = key.removeprefix("delta "), "_delta" if key.startswith("delta ") else ""
        mean, rms = total / count, math.sqrt(squares / count)
        out[f"mean{suffix}"][name] = float(mean)
        out[f"rms{suffix}"][name] = rms
        out[f"std{suffix}"][name] = math.sqrt(max(0.0, squares / count - mean**2))
    return out  # all keys, as the reader asks for them even where nothing changes in time


def _moments(values: np.ndarray) -> np.ndarray:
    return np.array([values.size, values.sum(), (values**2).sum()])


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)

"""Read every sample of folders of opkit's shards with The Well's reader, and compare with h5py. Needs the_well alone.

scripts/check_the_well.sh FOLDER ...
"""

import sys
from pathlib import Path

import h5py
import numpy as np
from the_well.data import WellDataset


def check(folder: Path) -> str:
    files = sorted(folder.glob("*.h5"))
    with h5py.File(files[0]) as file:
        steps = file["dimensions/time"].shape[-1]
        names = list(file["t0_fields"].attrs["field_names"])
        periodic = "x_periodic" in file["boundary_conditions"]
    dataset = WellDataset(path=str(folder), n_steps_input=1, n_steps_output=steps - 1)
    position = 0
    for path in files:
        with h5py.File(path) as file:
            varying = file["t0_fields"][names[0]].attrs["time_varying"]
            scalars = list(file["scalars"].attrs["field_names"])
            for row in range(file.attrs["n_trajectories"]):
                sample = dataset[position]
                stored = np.stack([file["t0_fields"][name][row] for name in names], -1)
                if varying:
                    read = np.concatenate(
                        [sample["input_fields"], sample.get("output_fields", sample["input_fields"][:0])]
                    )
                else:
                    read = sample["constant_fields"].numpy()
                assert read.shape == stored.shape and (read == stored).all(), f"{path}: sample {row} differs"
                assert (sample["boundary_conditions"] == (2 if periodic else 0)).all(), f"{path}: boundaries"
                assert len(sample["constant_scalars"]) == len(scalars), f"{path}: scalars"
                position += 1
    assert position == len(dataset), f"{folder}: The Well counts {len(dataset)} samples, not {position}"
    return f"{folder}: {position} samples of {', '.join(names)} are what The Well's reader returns"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for argument in sys.argv[1:]:
        print(check(Path(argument)))

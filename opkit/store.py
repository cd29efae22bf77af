"""Stored data: HDF5 shards that h5py alone, and readers of The Well's format, can open.

    $OPKIT_DATA/<equation>/<key>/<split>/samples-000000-000050.h5
                                         manifest.json            shards with sizes and SHA-256, derived from them

    /                      @opkit_schema @dataset_name @equation @split @seed @index_start @index_stop @config_json
                           @config_key @n_trajectories @n_spatial_dims @grid_type @simulation_parameters @complete
    /dimensions/x, y       positions, float64; @location @length
    /dimensions/time       frame times; one zero where the equation is steady
    /boundary_conditions/  walls or periodicity, one group per axis
    /scalars/              parameters that are numbers
    /t0_fields/<name>      (n, *x) steady, (n, t, *x) evolution; float32, one sample per chunk, Fletcher-32 checksums
    /sample/index, seed    int64 per sample; what `PDE.sample` needs to draw it again
    /sample/<diagnostic>   figures of the solver per sample, such as `residual`

The key is a hash of the equation, its parameters and the seed, so data made with other parameters lie elsewhere. A
shard is written under a temporary name, synced and renamed: a final name means a whole, immutable file. Nothing that
varies between runs goes inside, so the same samples give the same arrays whoever makes them.
"""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import opkit
from opkit.errors import DataError
from opkit.fields import first_index
from opkit.files import fingerprint, read_json, sha256, whole_file, write_json
from opkit.grid import Grid

if TYPE_CHECKING:
    import h5py

    from opkit.pdes import PDE, Labels

SCHEMA = "1.0"
SHARD = 50
"""Samples per shard. Shards begin at multiples of it; the last one of a split may be shorter."""
COMPRESS_ABOVE = 2**18
"""Bytes of one sample's field above which chunks are deflated: large fields are read one at a time, not in a loop."""
CONFIG_JSON = re.compile(rb'\{"equation": [^\0]*?"seed": \d+\}')
"""The attribute config_json as it stands in a shard's bytes; its keys are sorted."""
SHARD_NAME = re.compile(r"samples-(\d{6,})-(\d{6,})\.h5")


def data_root() -> Path:
    """Where data live: $OPKIT_DATA, else datasets/data below the working directory."""
    return Path(os.environ.get("OPKIT_DATA") or "datasets/data")


@dataclass(frozen=True)
class Dataset:
    """One split of the data of one PDE on one grid: a folder of shards, present or still to be made.

    Args:
        pde: The problem; its parameters, `resolution` among them, decide the folder.
        split: "train", "val" or "test".
        seed: Seed of the random inputs.
        root: Folder of all data.
    """

    pde: "PDE"
    split: str
    seed: int
    root: Path

    @property
    def config(self) -> dict[str, Any]:
        """What the data depend on: all of it is in the key."""
        return {
            "schema": SCHEMA,
            "equation": self.pde.equation,
            "parameters": _plain(self.pde.parameters()),
            "seed": self.seed,
        }

    @property
    def key(self) -> str:
        return fingerprint(self.config)

    @property
    def folder(self) -> Path:
        return self.root / self.pde.equation / self.key / self.split

    def shards(self) -> list[tuple[int, int, Path]]:
        """(start, stop, path) of the shards present, in order, overlaps left out.

        Raises:
            DataError: The folder holds an .h5 file that no opkit wrote.
        """
        found = []
        for path in sorted(self.folder.glob("*.h5")):
            match = SHARD_NAME.fullmatch(path.name)
            if match is None:
                raise DataError(
                    f"{path} does not belong to this dataset (shards are named samples-<start>-<stop>.h5). "
                    "Move it elsewhere and run the command again."
                )
            found.append((int(match[1]), int(match[2]), path))
        kept: list[tuple[int, int, Path]] = []
        for start, stop, path in sorted(found, key=lambda s: (s[0], -s[1])):
            if not kept or start >= kept[-1][1]:
                kept.append((start, stop, path))
        return kept

    def missing(self, count: int) -> list[tuple[int, int]]:
        """Index ranges of the first `count` samples that no shard holds, cut at shard boundaries."""
        gaps, position = [], 0
        for start, stop, _ in [*self.shards(), (count, count, None)]:
            while position < min(start, count):
                end = min((position // SHARD + 1) * SHARD, start, count)
                gaps.append((position, end))
                position = end
            position = max(position, stop)
        return gaps

    def estimate(self, samples: int) -> int:
        """Upper estimate of the bytes that `samples` samples take on disk."""
        channels = len(self.pde.fields)
        frames = 1 if self.pde.times is None else len(self.pde.times)
        points = int(np.prod(self.pde.grid.shape))
        return samples * channels * frames * points * 4 + 50_000 * (samples // SHARD + 1)

    def write(self, start: int, stop: int, labels: "Labels") -> Path:
        """Store samples `start .. stop - 1` of the split as one shard."""
        import h5py

        path = self.folder / f"samples-{start:06d}-{stop:06d}.h5"
        # Built in memory: HDF5 that cannot write takes the whole process down with it.
        with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
            _write(file, self, start, stop, labels)
            file.flush()
            image = file.id.get_file_image()
        with whole_file(path) as temporary:
            temporary.write_bytes(image)
        return path

    def finish(self, made: list[tuple[int, int]]) -> None:
        """Derive the manifest from the shards present.

        Args:
            made: Index ranges just written. Their hashes are taken now, as are those of shards no manifest lists; the
                others keep the hash they had, so that damage to them is still noticed.
        """
        listed = self._listed()
        shards = []
        for start, stop, path in self.shards():
            entry = listed.get(path.name)
            if entry is None or (start, stop) in made:
                entry = {"file": path.name, "start": start, "stop": stop}
                entry |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
            shards.append(entry)
        content = {"key": self.key, **self.config, "split": self.split, "shards": shards}
        write_json(self.folder / "manifest.json", content)

    def verify(self, count: int) -> None:
        """Check that the first `count` samples are there, whole, and the ones asked for.

        Raises:
            DataError: Names the file and what is wrong with it.
        """
        if gaps := self.missing(count):
            raise DataError(
                f"{self.folder} lacks samples {gaps[0][0]} to {gaps[0][1] - 1} of {count}. "
                "Run the same command again; it makes what is missing."
            )
        listed = self._listed()
        for start, stop, path in self.shards():
            if start >= count:
                break
            entry = listed.get(path.name)
            if entry is not None and (path.stat().st_size != entry["bytes"] or sha256(path) != entry["sha256"]):
                self._check_origin(path)
                raise _damaged(path, "its bytes are not those its manifest lists")
            with _open(path) as file:
                try:
                    self._check(file, path, start, stop)
                except (OSError, KeyError, RuntimeError, AttributeError, ValueError) as problem:
                    raise _damaged(path, str(problem)) from None

    def load(self, count: int) -> dict[str, Tensor]:
        """The first `count` samples, verified: each field by name as `(n, *x)` or `(n, t, *x)`, float32, and each
        parameter drawn per sample as `(n,)`."""
        self.verify(count)
        names = [*self.pde.fields, *self.pde.varying]
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        for start, stop, path in self.shards():
            if start < count:
                for name, values in read_fields(path, self.pde, slice(0, min(stop, count) - start)).items():
                    parts[name].append(values)
        return {name: torch.cat(values) for name, values in parts.items()}

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for _, _, path in self.shards())

    def _check_origin(self, path: Path) -> None:
        """Say so if a file that is not the one listed was made with other parameters: read from its raw bytes, because
        opening an HDF5 file that may be damaged is not safe."""
        found = CONFIG_JSON.search(path.read_bytes())
        try:
            theirs = json.loads(found[0]) if found else self.config
        except ValueError:
            return
        if theirs != self.config:
            raise _other_parameters(path, theirs, self.config)

    def _listed(self) -> dict[str, dict[str, Any]]:
        manifest = self.folder / "manifest.json"
        if not manifest.exists():
            return {}

        def fail(why: str) -> DataError:
            return DataError(f"{why}. Delete it and run the same command again; it is derived from the shards.")

        content = read_json(manifest, fail)
        try:
            keys = ("file", "start", "stop", "bytes", "sha256")
            return {entry["file"]: {key: entry[key] for key in keys} for entry in content.get("shards", [])}
        except (TypeError, KeyError):
            raise fail(f"{manifest} does not list shards as it should") from None

    def _check(self, file: "h5py.File", path: Path, start: int, stop: int) -> None:
        if file.attrs.get("opkit_schema") != SCHEMA or not file.attrs.get("complete", False):
            raise DataError(
                f"{path} is not an opkit data file of schema {SCHEMA}, or is incomplete. "
                "Move it elsewhere and run the command again."
            )
        if file.attrs["config_key"] != self.key:
            theirs = json.loads(file.attrs["config_json"])
            raise _other_parameters(path, theirs, self.config)
        span = (file.attrs["split"], int(file.attrs["index_start"]), int(file.attrs["index_stop"]))
        base = first_index(self.split)
        if span != (self.split, base + start, base + stop):
            raise DataError(f"{path} holds other samples than its name says. Move it elsewhere and run again.")
        for name in self.pde.fields:
            field = file.get(f"t0_fields/{name}")
            frames = () if self.pde.times is None else (len(self.pde.times),)
            shape = (stop - start, *frames, *self.pde.grid.shape)
            floating = getattr(field, "dtype", None) in (np.float32, np.float64)
            if not floating or field.shape != shape:
                raise _damaged(path, f"its field t0_fields/{name} is missing, or not floating point of shape {shape}")


def pair(pde: "PDE", stored: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(input, target) from what `Dataset.load` or `read_fields` returned.

    Returns:
        The input `(n, c, *x)`: for an evolution equation, the state at the start and a constant channel per parameter
        drawn per sample. The target: `(n, c, *x)`, or for an evolution equation the later states `(n, t, c, *x)`.
    """
    evolution = pde.times is not None
    channels = []
    for name in pde.inputs:
        values = stored[name]
        if name in pde.varying:
            channels.append(values.view(-1, *(1 for _ in pde.grid.shape)).expand(-1, *pde.grid.shape))
        else:
            channels.append(values[:, 0] if evolution else values)
    targets = torch.stack([stored[name] for name in pde.outputs], -pde.grid.ndim - 1)
    return torch.stack(channels, 1), targets[:, 1:] if evolution else targets


def read_fields(path: Path, pde: "PDE", rows: slice | np.ndarray) -> dict[str, Tensor]:
    """Rows of a shard: its fields and parameters drawn per sample, as float32; checksums are verified on the way.

    Raises:
        DataError: The file is damaged, or a value is not finite.
    """
    out = {}
    places = {name: f"t0_fields/{name}" for name in pde.fields} | {name: f"scalars/{name}" for name in pde.varying}
    with _open(path) as file:
        for name, place in places.items():
            try:
                values = torch.from_numpy(file[place][rows].astype(np.float32))
            except (OSError, KeyError) as problem:
                raise _damaged(path, f"field {name}: {problem}") from None
            if not torch.isfinite(values).all():
                raise _damaged(path, f"field {name} has values that are not finite")
            out[name] = values
    return out


def _open(path: Path) -> "h5py.File":
    import h5py

    try:
        return h5py.File(path, "r", rdcc_nbytes=2**26)
    except OSError as problem:
        raise _damaged(path, str(problem)) from None


def _other_parameters(path: Path, theirs: dict[str, Any], ours: dict[str, Any]) -> DataError:
    return DataError(
        f"{path} was made with other parameters than asked: {_difference(theirs, ours)}. "
        "Move it elsewhere and run the command again; the right data are then made."
    )


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} is damaged: {why}. Delete it and run the same command again; only its samples are made anew."
    )


def _write(file: "h5py.File", data: Dataset, start: int, stop: int, labels: "Labels") -> None:
    pde, n = data.pde, stop - start
    base = first_index(data.split)
    parameters = _plain(pde.parameters())
    numbers = {k: v for k, v in parameters.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    file.attrs.update(
        opkit_schema=SCHEMA,
        dataset_name=f"opkit_{pde.equation}",
        equation=pde.equation,
        formula=pde.formula,
        split=data.split,
        seed=data.seed,
        index_start=base + start,
        index_stop=base + stop,
        config_json=json.dumps(data.config, sort_keys=True),
        config_key=data.key,
        opkit_version=opkit.__version__,
        n_trajectories=n,
        n_spatial_dims=pde.grid.ndim,
        grid_type="cartesian",
        simulation_parameters=[*numbers, *labels.scalars],
        **{name: json.dumps(v) if isinstance(v, list) else v for name, v in parameters.items() if v is not None},
    )
    axes = ["x", "y", "z"][: pde.grid.ndim]
    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = axes
    times = torch.zeros(1, dtype=torch.float64) if pde.times is None else pde.times
    _dataset(dimensions, "time", times, sample_varying=False, time_varying=True)
    for i, axis in enumerate(axes):
        line = _dataset(dimensions, axis, pde.grid.axis(i), sample_varying=False, time_varying=False)
        line.attrs.update(location=pde.grid.location, length=pde.grid.lengths[i])
    _write_boundaries(file.create_group("boundary_conditions"), pde.grid, axes)
    scalars = file.create_group("scalars")
    scalars.attrs["field_names"] = [*numbers, *labels.scalars]
    for name, value in numbers.items():
        _dataset(scalars, name, torch.tensor(value, dtype=torch.float64), sample_varying=False, time_varying=False)
    for name, values in labels.scalars.items():
        _dataset(scalars, name, values, sample_varying=True, time_varying=False)
    fields = file.create_group("t0_fields")
    fields.attrs["field_names"] = list(labels.fields)
    for name, values in labels.fields.items():
        array = values.to(torch.float32).numpy()
        steady = array.ndim == pde.grid.ndim + 1
        large = array[0].nbytes > COMPRESS_ABOVE
        field = fields.create_dataset(
            name, data=array, chunks=(1, *array.shape[1:]), fletcher32=True, track_times=False,
            fillvalue=np.nan,  # a chunk the index has lost must not read as zeros
            shuffle=large, compression="gzip" if large else None, compression_opts=1 if large else None,
        )  # fmt: skip
        field.attrs.update(dim_varying=[True] * pde.grid.ndim, sample_varying=True, time_varying=not steady)
    for rank in (1, 2):
        file.create_group(f"t{rank}_fields").attrs.create("field_names", [], dtype="S1")
    sample = file.create_group("sample")
    _dataset(sample, "index", torch.arange(base + start, base + stop))
    _dataset(sample, "seed", torch.full((n,), data.seed))
    for name, values in labels.diagnostics.items():
        _dataset(sample, name, values)
    file.attrs["complete"] = True


def _write_boundaries(group: "h5py.Group", grid: Grid, axes: list[str]) -> None:
    for i, axis in enumerate(axes):
        kind = "periodic" if grid.location == "periodic" else "wall"
        wall = group.create_group(f"{axis}_{kind}")
        wall.attrs.update(bc_type=kind, associated_dims=[axis], sample_varying=False, time_varying=False)
        wall.attrs.create("associated_fields", [], dtype="S1")
        mask = torch.zeros(grid.shape[i], dtype=torch.bool)
        mask[[0, -1]] = True
        _dataset(wall, "mask", mask)


def _dataset(group: "h5py.Group", name: str, values: Tensor, **attributes: Any) -> "h5py.Dataset":
    dataset = group.create_dataset(name, data=values.numpy(), track_times=False)
    dataset.attrs.update(attributes)
    return dataset


def _plain(value: Any) -> Any:
    """The value as JSON would give it back: tuples become lists."""
    return json.loads(json.dumps(value))


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    flat = [{**c, **c.get("parameters", {})} for c in (theirs, ours)]
    names = [k for k in sorted(flat[0].keys() | flat[1].keys()) if k != "parameters"]
    changed = [f"{k} is {flat[0].get(k)!r}, not {flat[1].get(k)!r}" for k in names if flat[0].get(k) != flat[1].get(k)]
    return "; ".join(changed) or "the key differs"

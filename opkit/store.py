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
    /label_error/index     samples that were also solved on a refined problem, every 50th of a split; @unavailable
    /label_error/rel_l2    and how far their labels are from it: (m,) steady, (m, t) evolution

The key is a hash of the equation, its parameters and the seed, so data made with other parameters lie elsewhere. A
shard is written under a temporary name, synced and renamed: a final name means a whole, immutable file. Nothing that
varies between runs goes inside, so the same samples give the same arrays whoever makes them.
"""

import contextlib
import json
import math
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
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
from opkit.stepping import with_constants

if TYPE_CHECKING:
    import h5py

    from opkit.pdes import PDE, Labels

SCHEMA = "1.1"
SHARD = 50
"""Samples per shard, fewer where they are large: see `Dataset.shard_size`."""
SHARD_BYTES = 2**26
"""Bytes of fields per shard, about: what is lost when a writer is killed, and held in memory to be written."""
CHUNK_BYTES = 2**20
"""Largest chunk, read as a whole: less than HDF5's own chunk cache, and enough to make its overhead small."""
COMPRESS_ABOVE = 2**18
"""Bytes of a steady field above which it is deflated. Trajectories never are: they hardly shrink, and reading a random
one in a training loop would take a hundred times as long."""
LABEL_CHECK_EVERY = 50
"""Every how many samples of a split one is also solved on a refined problem."""
OPEN_SHARDS = 128
"""Shards a process keeps open for random reads: opening one takes longer than reading a sample."""
CONFIG_JSON = re.compile(rb'\{"equation": [^\0]*?"seed": \d+\}')
"""The attribute config_json as it stands in a shard's bytes; its keys are sorted."""
SHARD_NAME = re.compile(r"samples-(\d{6,})-(\d{6,})\.h5")


def data_root() -> Path:
    """Where data live: $OPKIT_DATA, else datasets/data below the working directory."""
    return Path(os.environ.get("OPKIT_DATA") or "datasets/data")


@dataclass(frozen=True)
class LabelError:
    """Estimated error of some labels, by solving the refined problem.

    Args:
        index: Public indices of the samples.
        values: Relative L2 error, `(m,)` or `(m, t)`.
        unavailable: Why samples that should have an estimate have none; empty if all have one.
    """

    index: list[int]
    values: Tensor
    unavailable: str = ""


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
    def origin(self) -> dict[str, Any]:
        """Root attributes of a shard that say where its samples come from."""
        return {"seed": self.seed}

    @property
    def parameters(self) -> dict[str, Any]:
        """Parameters that the samples are known to have, as JSON values."""
        return _plain(self.pde.parameters())

    @cached_property
    def key(self) -> str:
        return fingerprint(self.config)

    @property
    def shard_size(self) -> int:
        """Samples per shard: the largest divisor of 50 that keeps a shard's fields below about 64 MB. Shards begin at
        multiples of it; the last one of a split may be shorter."""
        sample = sum(math.prod(self._frames + self.pde.grid.shape) * 4 for _ in self.pde.fields)
        return max(n for n in range(1, SHARD + 1) if SHARD % n == 0 and (n == 1 or n * sample <= SHARD_BYTES))

    @property
    def _frames(self) -> tuple[int, ...]:
        return () if self.pde.times is None else (len(self.pde.times),)

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
        gaps, position, size = [], 0, self.shard_size
        for start, stop, _ in [*self.shards(), (count, count, None)]:
            while position < min(start, count):
                end = min((position // size + 1) * size, start, count)
                gaps.append((position, end))
                position = end
            position = max(position, stop)
        return gaps

    def estimate(self, samples: int) -> int:
        """Upper estimate of the bytes that `samples` samples take on disk."""
        shape = self._frames + self.pde.grid.shape
        chunk = _chunk(shape, len(self._frames))
        field = 4 * math.prod(chunk) * math.prod(-(-n // c) for n, c in zip(shape, chunk, strict=True))
        axes = 10 * sum(self.pde.grid.shape) + 8 * sum(self._frames)
        return samples * len(self.pde.fields) * (field + 200) + (60_000 + axes) * (samples // self.shard_size + 1)

    def path(self, start: int, stop: int) -> Path:
        """The shard of samples `start .. stop - 1`, present or not."""
        return self.folder / f"samples-{start:06d}-{stop:06d}.h5"

    def write(self, start: int, stop: int, labels: "Labels", error: "LabelError", device: str = "cpu") -> Path:
        """Store samples `start .. stop - 1` of the split as one shard."""
        import h5py

        path = self.path(start, stop)
        # Built in memory: HDF5 that cannot write takes the whole process down with it.
        with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
            _write(file, self, start, stop, labels, error, device)
            file.flush()
            image = file.id.get_file_image()
        with whole_file(path) as temporary:
            temporary.write_bytes(image)
        return path

    def finish(self, made: list[tuple[int, int]]) -> None:
        """Derive the manifest from the shards present.

        Several processes may do so at once: each looks again after it has written, so that whoever is last has seen
        all shards.

        Args:
            made: Index ranges just written. Their hashes are taken now, as are those of shards no manifest lists; the
                others keep the hash they had, so that damage to them is still noticed.
        """
        listed = {name: e for name, e in self._listed().items() if (e["start"], e["stop"]) not in made}
        while True:
            shards = self.shards()
            for start, stop, path in shards:
                if path.name not in listed:
                    listed[path.name] = {"file": path.name, "start": start, "stop": stop} | {
                        "bytes": path.stat().st_size,
                        "sha256": sha256(path),
                        "label_error": self._worst_label_errors(path),
                    }
            entries = [listed[path.name] for _, _, path in shards]
            errors = [value for entry in entries for value in entry["label_error"]]
            summary = {"samples": len(errors), "mean": None, "max": None}
            if errors:
                summary |= {"mean": sum(errors) / len(errors), "max": max(errors)}
            content = {"key": self.key, **self.config, "split": self.split, "label_error": summary, "shards": entries}
            write_json(self.folder / "manifest.json", content)
            if self._is_settled():
                return

    def settle(self) -> None:
        """Derive the manifest if it does not list the shards present: whoever made the last was killed before."""
        if not self._is_settled():
            with contextlib.suppress(OSError):  # somebody else's data, to be read only: they do without
                self.finish([])

    def _is_settled(self) -> bool:
        return list(self._listed()) == [path.name for _, _, path in self.shards()]

    def label_error(self, count: int) -> Tensor:
        """Estimated relative L2 error of the labels themselves, of those among the first `count` samples that were also
        solved on a refined problem: `(m,)`, or frame by frame `(m, t)` for an evolution equation, float64. m is 0 where
        no refined problem could be solved; `no_label_error` then says why.

        Raises:
            DataError: A shard is damaged.
        """
        found = [torch.zeros(0, *self._frames, dtype=torch.float64)]
        for start, _, path in self.shards():
            if start < count:
                index, values, _ = self._read_label_error(path)
                found.append(values[index < first_index(self.split) + count])
        return torch.cat(found)

    def no_label_error(self, count: int) -> str:
        """Why samples among the first `count` have no label error; empty where all that should have one do."""
        reasons = [self._read_label_error(path)[2] for start, _, path in self.shards() if start < count]
        return next(filter(None, reasons), "")

    def _read_label_error(self, path: Path) -> tuple[Tensor, Tensor, str]:
        """Public indices, estimates, and why some are missing."""
        with _open(path) as file:
            try:
                group = file["label_error"]
                index, values = (torch.from_numpy(group[name][:]) for name in ("index", "rel_l2"))
                reason = str(group.attrs.get("unavailable", ""))
            except (OSError, KeyError, TypeError, ValueError, AttributeError) as problem:
                raise _damaged(path, f"label_error: {problem}") from None
        if values.shape != (len(index), *self._frames) or not torch.isfinite(values).all():
            raise _damaged(path, f"label_error/rel_l2 is not {len(index)} finite estimates")
        return index, values, reason

    def _worst_label_errors(self, path: Path) -> list[float]:
        """Of each sample that has an estimate, that of its worst frame."""
        try:
            return [float(value.max()) for value in self._read_label_error(path)[1]]
        except DataError:  # `verify` knows better what is wrong with the file
            return []

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
                with _open(path) as file:
                    for name, values in _read(file, path, self.pde, slice(0, min(stop, count) - start)).items():
                        parts[name].append(values)
        return {name: torch.cat(values) for name, values in parts.items()}

    def windows(self, count: int, length: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The first `count` trajectories, verified, in pieces of time that need not all be in memory.

        Args:
            count: Samples.
            length: Frames at a time.

        Yields:
            `length` frames or fewer of all of them, `(count, t, c, *x)` float32, in order, and their parameters drawn
            per sample, `(count, k)`.
        """
        assert self.pde.times is not None
        self.verify(count)
        shards = [(start, min(stop, count), path) for start, stop, path in self.shards() if start < count]
        for first in range(0, len(self.pde.times), length):
            parts = []
            for start, stop, path in shards:
                with _open(path) as file:
                    rows = slice(0, stop - start)
                    parts.append(
                        trajectories(self.pde, _read(file, path, self.pde, rows, slice(first, first + length)))
                    )
            frames, constants = (torch.cat(values) for values in zip(*parts, strict=True))
            yield frames, constants

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
            keys = ("file", "start", "stop", "bytes", "sha256", "label_error")
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
            shape = (stop - start, *self._frames, *self.pde.grid.shape)
            floating = getattr(field, "dtype", None) in (np.float32, np.float64)
            if not floating or field.shape != shape:
                raise _damaged(path, f"its field t0_fields/{name} is missing, or not floating point of shape {shape}")
        index, values = file["label_error/index"], file["label_error/rel_l2"]
        if values.dtype != np.float64 or values.shape != (len(index), *self._frames):
            raise _damaged(path, "its label_error/rel_l2 is not float64 with a row for each label_error/index")


def pair(pde: "PDE", stored: dict[str, Tensor], history: int = 1) -> tuple[Tensor, Tensor]:
    """(input, target) from what `Dataset.load` or `read_fields` returned.

    Returns:
        For a steady equation, input and target fields `(n, c, *x)`. For an evolution equation, the first `history`
        frames as channels and a constant channel per parameter drawn per sample, and the later frames
        `(n, t, c, *x)`.
    """
    if pde.times is None:
        inputs = torch.stack([stored[name] for name in pde.inputs], 1)
        return inputs, torch.stack([stored[name] for name in pde.outputs], 1)
    frames, constants = trajectories(pde, stored)
    return with_constants(frames[:, :history].flatten(1, 2), constants), frames[:, history:]


def trajectories(pde: "PDE", stored: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """All frames `(n, t, c, *x)` of an evolution equation, and its parameters drawn per sample, `(n, k)`."""
    frames = torch.stack([stored[name] for name in pde.outputs], 2)
    constants = [stored[name].reshape(len(frames)) for name in pde.varying]
    return frames, torch.stack(constants, 1) if constants else frames.new_empty(len(frames), 0)


def read_fields(path: Path, pde: "PDE", rows: slice | np.ndarray) -> dict[str, Tensor]:
    """Rows of a shard: its fields and parameters drawn per sample, as float32; checksums are verified on the way.

    Shards stay open in this process, the 128 last used, and are opened again where the file was replaced.

    Raises:
        DataError: The file is damaged, or a value is not finite.
    """
    return _read(_kept_open(path), path, pde, rows)


def _read(
    file: "Mapping[str, h5py.Dataset]", path: Path, pde: "PDE", rows: slice | np.ndarray, times: slice | None = None
) -> dict[str, Tensor]:
    out = {}
    places = {name: f"t0_fields/{name}" for name in pde.fields} | {name: f"scalars/{name}" for name in pde.varying}
    for name, place in places.items():
        try:
            chosen = (rows, times) if times is not None and name in pde.fields else rows
            values = torch.from_numpy(file[place][chosen].astype(np.float32, copy=False))
        except (OSError, KeyError) as problem:
            raise _damaged(path, f"field {name}: {problem}") from None
        # A sum is finite only if all terms are, and takes one pass; where huge values overflow it, look at each.
        if not math.isfinite(values.sum()) and not torch.isfinite(values).all():
            raise _damaged(path, f"field {name} has values that are not finite")
        out[name] = values
    return out


class _OpenShard(dict[str, Any]):
    """A shard that stays open, and the datasets in it that were read: finding one takes a third of reading a sample."""

    def __init__(self, path: Path, identity: tuple[int, ...]):
        super().__init__()
        self.file, self.identity = _open(path), identity

    def __missing__(self, place: str) -> "h5py.Dataset":
        self[place] = self.file[place]
        return self[place]


_opened: dict[int, OrderedDict[Path, _OpenShard]] = {}
"""Open shards by process: a fork inherits its parent's handles, and must neither use nor close them."""


def _kept_open(path: Path) -> _OpenShard:
    shards = _opened.setdefault(os.getpid(), OrderedDict())
    shard = shards.pop(path, None)
    try:
        status = os.stat(path)
    except OSError as problem:
        raise _damaged(path, str(problem)) from None
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if shard is None or shard.identity != identity:
        shard = _OpenShard(path, identity)
    shards[path] = shard  # last, as the one used most recently
    if len(shards) > OPEN_SHARDS:
        shards.popitem(last=False)  # closes with its last reference
    return shard


def _open(path: Path) -> "h5py.File":
    import h5py

    try:  # no chunk cache: chunks are read whole and once, and many shards may be open
        return h5py.File(path, "r", rdcc_nbytes=0)
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


def _write(
    file: "h5py.File", data: Dataset, start: int, stop: int, labels: "Labels", error: LabelError, device: str
) -> None:
    pde, n = data.pde, stop - start
    base = first_index(data.split)
    parameters = data.parameters
    numbers = {k: v for k, v in parameters.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    file.attrs.update(
        opkit_schema=SCHEMA,
        dataset_name=f"opkit_{pde.equation}",
        equation=pde.equation,
        formula=pde.formula,
        split=data.split,
        **data.origin,
        index_start=base + start,
        index_stop=base + stop,
        config_json=json.dumps(data.config, sort_keys=True),
        config_key=data.key,
        opkit_version=opkit.__version__,
        device=device.partition(":")[0],
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
        steady = pde.times is None
        large = steady and array[0].nbytes > COMPRESS_ABOVE
        field = fields.create_dataset(
            name, data=array, chunks=(1, *_chunk(array.shape[1:], 0 if steady else 1)), fletcher32=True,
            track_times=False, fillvalue=np.nan,  # a chunk the index has lost must not read as zeros
            shuffle=large, compression="gzip" if large else None, compression_opts=1 if large else None,
        )  # fmt: skip
        field.attrs.update(dim_varying=[True] * pde.grid.ndim, sample_varying=True, time_varying=not steady)
        file.flush()  # what lies where must not depend on when Python lets go of an object, see `_dataset`
    for rank in (1, 2):
        file.create_group(f"t{rank}_fields").attrs.create("field_names", [], dtype="S1")
    sample = file.create_group("sample")
    _dataset(sample, "index", torch.arange(base + start, base + stop))
    if "seed" in data.origin:
        _dataset(sample, "seed", torch.full((n,), data.seed))
    for name, values in labels.diagnostics.items():
        _dataset(sample, name, values)
    group = file.create_group("label_error")
    _dataset(group, "index", torch.tensor(error.index, dtype=torch.int64))
    _dataset(group, "rel_l2", error.values)
    if error.unavailable:
        group.attrs["unavailable"] = error.unavailable
    file.attrs["complete"] = True


def _chunk(shape: tuple[int, ...], frames: int) -> tuple[int, ...]:
    """Shape of a chunk within one sample: as many whole frames as fit, or a part of one along its first axis.

    Args:
        shape: `(t, *x)` or `(*x)`.
        frames: How many leading axes count frames, 1 or 0.
    """
    chunk = list(shape)
    frame = 4 * math.prod(shape[frames:])
    if frames:
        chunk[0] = _even_part(shape[0], CHUNK_BYTES // frame)
    chunk[frames] = _even_part(shape[frames], CHUNK_BYTES * shape[frames] // frame)
    return tuple(chunk)


def _even_part(n: int, limit: int) -> int:
    """Size of the parts when n is cut into the fewest parts of at most `limit`, the last one hardly shorter."""
    parts = -(-n // max(1, limit))
    return -(-n // parts)


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
    # HDF5 places what is still open later, and a profiler, as in Dask's workers, keeps objects open now and then: the
    # same content in other bytes.
    group.file.flush()
    return dataset


def _plain(value: Any) -> Any:
    """The value as JSON would give it back: tuples become lists."""
    return json.loads(json.dumps(value))


def _difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    flat = [{**c, **c.get("parameters", {})} for c in (theirs, ours)]
    names = [k for k in sorted(flat[0].keys() | flat[1].keys()) if k != "parameters"]
    changed = [f"{k} is {flat[0].get(k)!r}, not {flat[1].get(k)!r}" for k in names if flat[0].get(k) != flat[1].get(k)]
    return "; ".join(changed) or "the key differs"

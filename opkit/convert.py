"""Files others made become opkit's data, and the other way round.

In: a file is recognised by its content (`opkit.formats`), read block by block, and written as shards, with a record of
where it came from, what the file and the user stated, and what nobody did. Out: stored data as a file for PDEBench's or
neuraloperator's loaders, or laid out for The Well's. And a check of which published problem a file follows.
"""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opkit.errors import ConfigError, DataError
from opkit.files import human_bytes, remove_leftovers, sha256
from opkit.formats import Arrays, Content, ImportedDataset, Samples, open_dataset
from opkit.formats.imported import NO_ESTIMATE
from opkit.pdes import PDE, Burgers, Darcy, Labels, NavierStokes
from opkit.progress import progress
from opkit.signals import check_preempted
from opkit.store import Dataset, LabelError, data_root, read_fields

PDES: dict[str, type[PDE]] = {"burgers": Burgers, "darcy": Darcy, "navier_stokes": NavierStokes}
SPLITS = ("train", "val", "test")
LOOK = 64
"""Samples looked at for statistics of the inputs."""


@dataclass(frozen=True)
class Plan:
    """A file as it is to be converted.

    Args:
        path: The file.
        pde: The problem it is taken for.
        known: Parameters that the file or the user stated.
        stated: Parameters that the user stated.
        notes: What its user must know.
        rows: First sample and last + 1.
    """

    path: Path
    pde: PDE
    known: frozenset[str]
    stated: tuple[str, ...]
    notes: tuple[str, ...]
    rows: tuple[int, int]


def settle(
    content: Content, of_name: dict[str, Any], overrides: dict[str, Any]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Parameters for the problem of a file, from what the file, a named configuration and the command line say.

    Args:
        content: What is in the file.
        of_name: Settings of the configuration the user named with --pde; the file overrules them.
        overrides: The command line's settings, `pde.viscosity` and so on; they overrule the file.

    Returns:
        Names of parameters the user stated, and values for the constructor, those of the command line left out.
    """
    from_file = {"label_resolution": content.resolution, **content.parameters, "resolution": content.resolution}
    stated = {key.removeprefix("pde.") for key in overrides if key.startswith("pde.")}
    frames = len({**content.assumed, **content.parameters}.get("times", ()))
    named = {name: value for name, value in of_name.items() if name not in from_file}
    if len(named.get("times", ())) != frames:
        named.pop("times", None)
    values = {**content.assumed, **named, **from_file}
    fields = {f.name for f in dataclasses.fields(PDES[content.equation])}  # type: ignore[arg-type]
    values = {name: _plain(value) for name, value in values.items() if name in fields and name not in stated}
    return tuple(sorted(stated | named.keys())), values


def describe(arrays: Arrays, content: Content, todo: Plan, guessed: bool) -> Iterator[str]:
    """What a file was found to be, in a few lines."""
    first, last = todo.rows
    grid = " x ".join([str(content.resolution)] * todo.pde.grid.ndim)
    keys = ", ".join(f"{key} is {field}" for key, field in content.keys.items())
    rows = "" if last - first == content.count else f", of which {first} to {last - 1} are taken"
    yield f"{todo.path.name}: {arrays.format}, {content.count} samples on {grid} points{rows}; {keys}"
    says = " (a guess from names and shapes; --pde NAME says otherwise)" if guessed else ""
    yield f"problem: {content.equation}{says}"
    values = todo.pde.parameters()
    known = [
        f"{name}={_short(values[name])}{' (stated)' if name in todo.stated else ''}" for name in sorted(todo.known)
    ]
    yield f"known: {', '.join(known)}"
    yield f"not known: {', '.join(name for name in values if name not in todo.known) or 'nothing'}"
    for note in todo.notes:
        yield f"note: {note}"


def _short(value: Any) -> str:
    if isinstance(value, tuple | list) and len(value) > 4:
        return f"{value[0]:g}..{value[-1]:g} ({len(value)})"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(f"{v:g}" for v in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plan(path: Path, content: Content, pde: PDE, stated: tuple[str, ...], rows: str | None) -> Plan:
    """Check that a problem and a file fit together.

    Args:
        path: The file.
        content: What is in it.
        pde: The problem, its parameters being the file's where it has them, else the user's, else defaults.
        stated: Parameters that the user gave.
        rows: "first:stop" of the samples wanted; None for all.

    Raises:
        ConfigError: They do not.
    """
    notes = list(content.notes)
    frames = len({**content.assumed, **content.parameters}.get("times", ()))
    if pde.times is not None and len(pde.times) != frames:
        raise ConfigError(
            f"pde.times has {len(pde.times)} entries, and the file {frames} frames, its input counted. Give as many."
        )
    own = _own_grid(pde, content.resolution)
    if pde.resolution != content.resolution and pde.grid.stride_in(own.grid) is None:
        raise ConfigError(
            f"pde.resolution={pde.resolution}: the file has {content.resolution} points along each axis, and those of "
            f"the grid asked for are not among them. Leave pde.resolution out, or choose a resolution that keeps every "
            "k-th point."
        )
    known = frozenset(content.parameters) | frozenset(stated) | {"resolution"} | frozenset(content.scalars)
    known &= frozenset(pde.parameters())
    if "location" in content.parameters and "location" not in pde.parameters():
        notes.append(f"The values belong to the {content.parameters['location']} points of the square.")
    for name in content.assumed:
        if name not in stated:
            notes.append(f"The file does not state {name}; it is assumed, and pde.{name}=... says otherwise.")
    return Plan(path, pde, known, stated, tuple(notes), _rows(rows, content.count))


def _rows(text: str | None, count: int) -> tuple[int, int]:
    if text is None:
        return 0, count
    start, colon, stop = text.partition(":")
    if colon and all(part.isdecimal() or not part for part in (start, stop)):
        first, last = int(start or 0), int(stop or count)
        if first < last <= count:
            return first, last
    raise ConfigError(f"rows={text}: give first:stop with first < stop <= {count}, the number of samples in the file.")


def _own_grid(pde: PDE, resolution: int) -> PDE:
    return pde if pde.resolution == resolution else pde.on(resolution)


def blocks(content: Content, todo: Plan, ranges: list[tuple[int, int]]) -> Iterator[dict[str, np.ndarray]]:
    """Samples in float32 on the plan's grid, for each of consecutive ranges of rows; the file is read in larger blocks.

    Raises:
        DataError: A value is not finite.
    """
    pde, own = todo.pde, _own_grid(todo.pde, content.resolution)
    held: dict[str, np.ndarray] = {}
    begin = end = 0
    for start, stop in ranges:
        if not (begin <= start and stop <= end):
            begin, end = start, min(max(stop, start + content.block), todo.rows[1])
            held.clear()  # before the next block is read: two at once would be twice the memory
            held.update({name: read(begin, end) for name, read in content.fields.items()})
        out = {}
        for name, values in held.items():
            part = np.ascontiguousarray(values[start - begin : stop - begin])
            if name == "a" and content.codes and "values" in todo.stated and isinstance(pde, Darcy):
                part = np.where(part > 0, *reversed(pde.values))
            with np.errstate(over="ignore"):
                single = torch.from_numpy(part.astype(np.float32))
            if not torch.isfinite(single).all():
                bad = int((~torch.isfinite(single.flatten(1))).any(1).nonzero()[0]) + start
                rest = f"{todo.rows[0]}:{bad}" if bad > todo.rows[0] else f"{bad + 1}:"
                raise DataError(
                    f"{todo.path}: sample {bad} has values in {name} that are not finite, or beyond single precision. "
                    f"Convert the samples without it, as in rows={rest}."
                )
            out[name] = own.grid.resample(single, pde.grid, "strided").numpy()
        out |= {name: values[start:stop].astype(np.float32) for name, values in content.scalars.items()}
        yield out


def import_data(content: Content, todo: Plan, kind: str, split: str, output: Path | None) -> ImportedDataset:
    """Write a file's samples in opkit's layout. What an earlier attempt wrote is kept.

    Args:
        content: The open file.
        todo: What to make of it.
        kind: Its format, in words.
        split: "train", "val" or "test".
        output: Folder that will hold the split; None means `$OPKIT_DATA/<equation>/imported-<hash>`.

    Raises:
        DataError: The disk is full, a value is not finite, or other data are in the way.
    """
    digest = sha256(todo.path)
    place = output or data_root() / content.equation / f"imported-{digest[:12]}"
    shaping = {name: todo.pde.parameters().get(name) for name in ("times", "label_resolution")}
    assumed = {name: value for name, value in shaping.items() if value is not None and name not in todo.known}
    source = {
        "file": todo.path.name, "sha256": digest, "format": kind, "keys": content.keys, "rows": list(todo.rows),
        "stated": sorted(todo.stated), "known": sorted(todo.known), "assumed": _plain(assumed),
        "notes": list(todo.notes),
    }  # fmt: skip
    data = ImportedDataset(todo.pde, split, 0, place, place, _plain(source))
    first, last = todo.rows
    count = last - first
    _check_same(data)
    missing = data.missing(count)
    _check_space(place, data.estimate(sum(stop - start for start, stop in missing)))
    remove_leftovers(data.folder)
    frames = () if todo.pde.times is None else (len(todo.pde.times),)
    unknown = LabelError([], torch.zeros(0, *frames, dtype=torch.float64), NO_ESTIMATE)
    ranges = [(first + start, first + stop) for start, stop in missing]
    with progress(f"convert {todo.path.name}", count, "samples", count - sum(b - a for a, b in missing)) as advance:
        for (start, stop), block in zip(missing, blocks(content, todo, ranges), strict=True):
            fields = {name: torch.from_numpy(block[name]) for name in content.fields}
            scalars = {
                name: torch.from_numpy(content.scalars[name][first + start : first + stop]) for name in content.scalars
            }
            row = {"source_row": torch.arange(first + start, first + stop)}
            data.write(start, stop, Labels(fields, row, scalars), unknown)
            check_preempted()
            advance(stop - start)
    data.finish(missing)
    return data


def _check_same(data: ImportedDataset) -> None:
    """Refuse a folder with samples from another file, or of other settings."""
    import h5py

    for _, _, path in data.shards()[:1]:
        try:
            with h5py.File(path) as file:
                theirs = json.loads(file.attrs["config_json"])
        except (OSError, KeyError, ValueError, TypeError) as problem:
            raise DataError(f"{path} is damaged ({problem}). Delete it and run the same command again.") from None
        if theirs == _plain(data.config):
            continue
        flat = [{**c, **c.get("parameters", {}), **c.get("source", {})} for c in (theirs, data.config)]
        names = (flat[0].keys() | flat[1].keys()) - {"parameters", "source", "notes", "known"}
        different = [name for name in sorted(names) if _plain(flat[0].get(name)) != _plain(flat[1].get(name))]
        raise DataError(
            f"{data.folder} holds samples converted from another file or with other settings; different: "
            f"{', '.join(different) or 'what is known of them'}. Choose another output=, or delete that folder."
        )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _check_space(folder: Path, needed: float) -> None:
    there = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if 1.1 * needed > free:
        raise DataError(
            f"the samples need up to {human_bytes(needed)}, and {there} has {human_bytes(free)} free. Free some space, "
            "give fewer with rows=, or write to another disk with output=."
        )


def stored_samples(data: Dataset, count: int | None = None) -> Samples:
    """Stored data as samples to be written elsewhere, verified shard by shard.

    Raises:
        DataError: A shard is missing or damaged.
    """
    total = max((stop for _, stop, _ in data.shards()), default=0)
    if not total:
        raise DataError(f"{data.folder} holds no samples.")
    data.verify(total)
    total = min(total, count or total)

    def read() -> Iterator[dict[str, np.ndarray]]:
        for start, stop, path in data.shards():
            if start < total:
                rows = slice(0, min(stop, total) - start)
                yield {name: values.numpy() for name, values in read_fields(path, data.pde, rows).items()}

    known = frozenset(data.parameters) if isinstance(data, ImportedDataset) else None
    return Samples(data.pde, total, read, known)


def file_samples(content: Content, todo: Plan) -> Samples:
    """The samples of an open file, to be written elsewhere."""
    first, last = todo.rows
    ranges = [(start, min(start + 50, last)) for start in range(first, last, 50)]
    return Samples(todo.pde, last - first, lambda: blocks(content, todo, ranges), todo.known)


def write(samples: Samples, to: str, output: Path) -> None:
    """Write samples as one file for PDEBench or neuraloperator.

    Raises:
        ConfigError: The file exists.
    """
    from opkit.formats.neuraloperator import write_neuraloperator
    from opkit.formats.pdebench import check_name, write_pdebench

    if output.exists():
        raise ConfigError(f"output={output} exists. Choose another name, or move it away.")
    if to == "pdebench":
        check_name(output)
    shape = ((1,) if samples.pde.times is None else (len(samples.pde.times),)) + samples.pde.grid.shape
    copies = 2 if to == "neuraloperator" else 1  # it goes through a scratch file
    _check_space(output.absolute().parent, copies * 4.0 * samples.count * len(samples.pde.fields) * np.prod(shape))
    {"pdebench": write_pdebench, "neuraloperator": write_neuraloperator}[to](samples, output)


def find_splits(folder: Path) -> list[Dataset]:
    """The split in a folder, or the splits in the folders below it.

    Raises:
        DataError: There are none.
    """
    if (folder / "manifest.json").exists():
        return [open_dataset(folder)]
    found = [folder / split for split in SPLITS if (folder / split / "manifest.json").exists()]
    if not found:
        raise DataError(
            f"{folder} holds no data of opkit's: neither a manifest.json nor train, val or test with one. Give a "
            "folder such as datasets/data/darcy/0123456789abcdef/test."
        )
    return [open_dataset(path) for path in found]


def check_definitions(inputs: torch.Tensor, paths: torch.Tensor, pde: PDE, codes: bool) -> Iterator[str]:
    """Solve stored inputs for each published definition of their equation; yields a table and a verdict.

    Args:
        inputs: Stored inputs, `(n, *x)`.
        paths: Stored solutions, `(n, *x)` or `(n, t, *x)`.
        pde: The problem they are taken for, on their grid.
        codes: Whether the coefficient of Darcy flow is given as 0 and 1.
    """
    from opkit.formats import definitions

    inputs, paths = inputs.double(), paths.double()
    if isinstance(pde, Darcy):
        tried, outputs, at = definitions.darcy_definitions(pde, codes), paths, ""
    elif isinstance(pde, Burgers):
        last = float(torch.as_tensor(pde.times)[-1])
        tried, outputs, at = definitions.burgers_definitions(pde, last), paths[:, -1], f" at t = {last:g}"
    elif isinstance(pde, NavierStokes):
        # The first frame after the start: later ones of two good solvers differ, because the flow is chaotic.
        first = float(torch.as_tensor(pde.times)[1])
        tried, outputs, at = definitions.navier_stokes_definitions(pde, first), paths[:, 1], f" at t = {first:g}"
    else:
        raise ConfigError(f"there are no published definitions of {pde.equation} to compare with.")
    fits = definitions.compare(tried, inputs, outputs)
    yield f"relative L2 distance of {len(inputs)} stored solutions{at} from opkit's, solved for the stored inputs:"
    yield "    error      factor   with it definition"
    for fit in fits:
        if fit.error is None:
            yield f"    -          -        -       {fit.name} ({fit.reason})"
        else:
            yield f"    {fit.error:<8.1e}   {fit.factor:<7.4g}  {fit.scaled:.1e} {fit.name}"
    yield definitions.verdict(fits)


def look(inputs: torch.Tensor, outputs: torch.Tensor, pde: PDE) -> Iterator[str]:
    """What the fields themselves tell, nothing being solved."""
    from opkit.formats import definitions

    if isinstance(pde, Darcy):
        yield from definitions.darcy_findings(inputs, outputs)
    elif isinstance(pde, NavierStokes):
        yield definitions.initial_variance(inputs.double())


def verify_file(content: Content, todo: Plan, samples: int) -> Iterator[str]:
    """Which published definition the samples of an open file follow."""
    first, last = todo.rows
    stop = min(first + max(samples, LOOK), last)
    whole = dataclasses.replace(todo, pde=_own_grid(todo.pde, content.resolution), rows=(first, stop))
    (block,) = blocks(content, whole, [(first, stop)])
    codes = content.codes and "values" not in todo.stated
    yield from _verify(block, whole.pde, samples, codes)


def verify_stored(data: Dataset, samples: int) -> Iterator[str]:
    """Which published definition stored samples follow."""
    taken = stored_samples(data, max(samples, LOOK))
    parts = list(taken.blocks())
    block = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    codes = isinstance(data.pde, Darcy) and set(np.unique(block["a"]).tolist()) <= {0.0, 1.0}
    yield from _verify(block, data.pde, samples, codes)


def _verify(block: dict[str, np.ndarray], pde: PDE, samples: int, codes: bool) -> Iterator[str]:
    if pde.varying:
        raise ConfigError(
            f"--verify compares with one viscosity for all samples, and here each has its own {pde.varying}."
        )
    values = {name: torch.from_numpy(values).double() for name, values in block.items()}
    paths = values[pde.outputs[0]]
    inputs = values[pde.inputs[0]] if pde.times is None else paths[:, 0]
    yield from look(inputs, paths, pde)
    yield from check_definitions(inputs[:samples], paths[:samples], pde, codes)

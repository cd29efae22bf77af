"""Data that opkit did not make, in opkit's layout: the same shards and manifest, and where they come from.

    $OPKIT_DATA/<equation>/imported-<12 digits of the file's SHA-256>/<split>/     or <output>/<split>/

    /   @provenance "imported" @source_file @source_sha256 @source_format @source_keys @source_rows
        @stated       parameters that the user gave
        @not_known    parameters that neither the file nor the user gave; they have no attribute of their own
        @notes        what a user of these data must know

There is no seed, no /sample/seed and no label error; /sample/source_row is the sample's place in the file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opkit.errors import DataError
from opkit.files import read_json
from opkit.pdes import PDE
from opkit.registry import pde_class, problem_of, tuples
from opkit.store import SCHEMA, Dataset

NO_ESTIMATE = "the labels were made elsewhere, and how finely is not known"


@dataclass(frozen=True)
class ImportedDataset(Dataset):
    """One split of data made elsewhere.

    Args:
        pde: The problem; parameters that are not known have their defaults.
        split: "train", "val" or "test".
        seed: Without meaning here.
        root: Without meaning here.
        place: The folder that holds the splits.
        source: `file`, `sha256`, `format`, `keys` (array to field), `rows` (first and last + 1), `stated` (parameters
            the user gave), `known` (parameters the file or the user gave), `assumed` (values of parameters that nobody
            gave and that shapes depend on), `notes`.
    """

    place: Path
    source: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "equation": self.pde.equation,
            "parameters": self.parameters,  # the others may get other defaults one day: these data stay
            "provenance": "imported",
            "source": self.source,
        }

    @property
    def origin(self) -> dict[str, Any]:
        source = self.source
        return {
            "provenance": "imported",
            **{f"source_{name}": source[name] for name in ("file", "sha256", "format", "rows")},
            "source_keys": [f"{key} -> {field}" for key, field in source["keys"].items()],
            "stated": ", ".join(source["stated"]),
            "not_known": ", ".join(self.not_known),
            "notes": "\n".join(source["notes"]),
        }

    @property
    def parameters(self) -> dict[str, Any]:
        return {name: value for name, value in super().parameters.items() if name in self.source["known"]}

    @property
    def not_known(self) -> list[str]:
        """Parameters that neither the file nor the user gave."""
        return [name for name in super().parameters if name not in self.source["known"]]

    @property
    def folder(self) -> Path:
        return self.place / self.split


def open_dataset(folder: Path) -> Dataset:
    """The dataset in a folder with a manifest, made by opkit or elsewhere.

    Raises:
        DataError: There is no manifest, or it does not describe what its path says.
    """
    manifest = read_json(folder / "manifest.json", DataError)
    try:
        if manifest.get("provenance") == "imported":
            place, source = folder.resolve().parent, manifest["source"]
            values = {**source["assumed"], **manifest["parameters"]}
            pde: PDE = pde_class(manifest["equation"])(**tuples(values))
            data: Dataset = ImportedDataset(pde, folder.resolve().name, 0, place, place, source)
        else:
            pde = problem_of({"pde": manifest["equation"], "parameters": manifest["parameters"]})
            data = Dataset(pde, manifest["split"], manifest["seed"], folder.resolve().parents[2])
        same = manifest["split"] == folder.resolve().name and manifest["key"] == data.key
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise DataError(f"{folder / 'manifest.json'} does not describe data this opkit knows ({problem}).") from None
    if not same or data.folder.resolve() != folder.resolve():
        raise DataError(f"{folder}: its manifest describes other data than its path; it belongs in {data.folder}.")
    return data

"""Does a thing still do what it says? Bundles are measured again, stored samples drawn and solved again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from opkit import metrics
from opkit.errors import BundleError, ConfigError, DataError
from opkit.fields import first_index
from opkit.formats import ImportedDataset, open_dataset
from opkit.generate import ensure
from opkit.registry import problem_of
from opkit.store import pair, read_fields
from opkit.surrogate import find_bundle, load

TOLERANCE = 1e-3
"""Largest relative deviation from a claimed error: other processors round differently, by far less than this."""


def verify(path: Path) -> Iterator[str]:
    """Check a run, a bundle, or one split of stored data; yields what was found.

    Raises:
        BundleError, DataError: The claim does not hold.
    """
    manifests = sorted(path.rglob("manifest.json")) if path.is_dir() else []
    if manifests:
        for manifest in manifests:
            yield from _verify_data(manifest.parent)
    elif path.is_dir():
        yield from _verify_bundle(find_bundle(path))
    else:
        raise ConfigError(f"there is no directory {path}. Give a run, a bundle, or a folder of stored data.")


def _verify_bundle(bundle: Path) -> Iterator[str]:
    surrogate = load(bundle)
    yield f"{bundle}: files whole, weights match their hash"
    stated = next((m for m in surrogate.metrics.get("metrics", []) if _is_headline(m)), None)
    if stated is None:
        raise BundleError(f"{bundle}: metrics.json states no rel_l2 to verify. Evaluate the run first.")
    pde, data = problem_of(surrogate.physics), surrogate.physics["data"]
    test = ensure(pde, "test", data["test"], data["seed"])
    inputs, truth = pair(pde, test.load(data["test"]), surrogate.stepping.history)
    if pde.times is None:
        prediction = torch.cat([surrogate(part) for part in inputs.split(16)])
    else:  # one ratio per trajectory: frames count as channels
        steps = truth.shape[1]
        prediction = torch.cat([surrogate.rollout(part, steps).flatten(1, 2) for part in inputs.split(16)])
        truth = truth.flatten(1, 2)
    value = float(metrics.rel_l2(prediction, truth, pde.grid).mean())
    deviation = abs(value / stated["value"] - 1)
    line = f"rel_l2 on {len(inputs)} test samples is {value:.6g}, metrics.json says {stated['value']:.6g}"
    if deviation > TOLERANCE:
        raise BundleError(f"{bundle}: {line}: the bundle does not do what it says.")
    yield f"{line}: confirmed"


def _is_headline(metric: dict[str, Any]) -> bool:
    return metric["name"] == "rel_l2" and metric["model"] == "surrogate" and metric["value"] is not None


def _verify_data(folder: Path) -> Iterator[str]:
    data = open_dataset(folder)
    pde = data.pde
    count = max((stop for _, stop, _ in data.shards()), default=0)
    if isinstance(data, ImportedDataset):
        data.verify(count)
        for start, stop, path in data.shards():  # not all at once: others' files are large
            read_fields(path, pde, slice(0, stop - start))
        yield f"{folder}: {count} samples, hashes and checksums hold"
        source = data.source
        yield f"imported from {source['file']}, SHA-256 {source['sha256']}, rows {source['rows']}: not made by opkit"
        yield f"not known: {', '.join(data.not_known) or 'nothing'}"
        yield f"`opkit convert {folder} --verify` compares them with the published problems"
        return
    fields = data.load(count)
    yield f"{folder}: {count} samples, hashes and checksums hold"
    label = pde.label(1, data.seed, first_index(data.split))
    for name, values in label.fields.items():
        difference = float((fields[name][:1] - values).norm() / values.norm())
        if difference > 1e-6:
            raise DataError(f"{folder}: {name} of the first sample differs from the generator's by {difference:.1e}.")
    yield "the first sample, drawn and solved again, is the stored one"

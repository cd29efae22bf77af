"""Weights published with the original implementations, as opkit models that give the same output.

    model = opkit.interop.from_reference("mgno.MgNO_DC", torch.load(file, weights_only=True), num_layer=4, ...)

Each source is a module of this package with a table `SOURCES`: the name of the original class, and the function that
builds the opkit model from the original's state dict and constructor arguments. docs/interop.md lists the keys.
"""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from opkit.models import Operator

MODULES = ("neuraloperator", "galerkin_transformer", "mgno", "gnot")


def sources() -> list[str]:
    """Names `from_reference` takes."""
    return [name for module in MODULES for name in importlib.import_module(f"opkit.interop.{module}").SOURCES]


def from_reference(source: str, state_dict: Mapping[str, Any], **config: Any) -> Operator:
    """An opkit model with the weights, and so the output, of an original implementation's.

    Args:
        source: The original class: "neuraloperator.FNO", "galerkin_transformer.SimpleTransformer",
            "galerkin_transformer.FourierTransformer2D", "mgno.MgNO_DC", "mgno.MgNO_DC_smooth", "mgno.MgNO_NS",
            "mgno.MgNO_helm", "gnot.GNOT" or "gnot.CGPTNO".
        state_dict: Its weights by their original names. Entries that are not tensors are ignored.
        **config: The original constructor's arguments by their original names; those left out take the original's
            defaults. Lists stand for tuples, and a function may be given by its name in `torch.nn.functional`.

    Returns:
        The model, in eval mode, on the CPU, in the dtype of the weights (complex128 counts as float64).

    Raises:
        ValueError: An unknown source or argument, a value the opkit model has no counterpart of, or a key that is
            missing, extra or of the wrong shape; the message names it.
    """
    module = importlib.import_module(f"opkit.interop.{found}") if (found := _module(source)) else None
    convert = module.SOURCES.get(source) if module else None
    if convert is None:
        known = sources()
        near = difflib.get_close_matches(source, known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"source={source!r} is not known; there are: {', '.join(known)}.{hint}")
    try:
        return convert(state_dict, **config)
    except (ValueError, TypeError, AttributeError, IndexError) as problem:
        if str(problem).startswith(source):
            raise
        raise ValueError(f"{source}: these arguments make no model of opkit's: {problem}") from problem


def _module(source: str) -> str | None:
    name = source.partition(".")[0]
    return name if name in MODULES else None

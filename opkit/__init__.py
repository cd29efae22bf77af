"""opkit: neural operators that stand in for slow simulations, with the data, training and proof they need.

    opkit.load(path)          a trained surrogate, from a run directory, a bundle or a hub repository
    opkit.metrics             errors of predicted fields
    opkit.pdes                equations: random inputs, grids, solvers
    opkit.models              architectures
    opkit.interop             weights of the original implementations, as opkit models

Importing opkit imports nothing heavy; each name loads what it needs on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Surrogate", "__version__", "interop", "load", "metrics", "models", "pdes"]

if TYPE_CHECKING:
    from opkit import interop, metrics, models, pdes
    from opkit.surrogate import Surrogate, load


def __getattr__(name: str) -> Any:
    if name in ("load", "Surrogate"):
        return getattr(importlib.import_module("opkit.surrogate"), name)
    if name in ("interop", "metrics", "models", "pdes"):
        return importlib.import_module(f"opkit.{name}")
    raise AttributeError(f"module 'opkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""Architectures, one file each: `Model(in_channels, out_channels, ...)` maps `(b, c, *x)` to `(b, c, *x)`."""

from opkit.models.activations import ACTIVATIONS, activation
from opkit.models.base import Operator, Resolution, count_parameters
from opkit.models.fno import FNO
from opkit.models.galerkin import GalerkinTransformer
from opkit.models.gnot import GNOT
from opkit.models.mgno import MgNO

__all__ = [
    "ACTIVATIONS",
    "FNO",
    "GNOT",
    "GalerkinTransformer",
    "MgNO",
    "Operator",
    "Resolution",
    "activation",
    "count_parameters",
]

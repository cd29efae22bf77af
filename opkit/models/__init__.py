"""Architectures, one file each: `Model(in_channels, out_channels, ...)` maps `(b, c, *x)` to `(b, c, *x)`."""

from opkit.models.activations import ACTIVATIONS, activation
from opkit.models.base import Operator, Resolution, count_parameters
from opkit.models.deeponet import DeepONet
from opkit.models.fno import FNO
from opkit.models.galerkin import GalerkinTransformer
from opkit.models.gnot import GNOT
from opkit.models.mgno import MgNO
from opkit.models.unet import UNet

__all__ = [
    "ACTIVATIONS",
    "FNO",
    "GNOT",
    "DeepONet",
    "GalerkinTransformer",
    "MgNO",
    "Operator",
    "Resolution",
    "UNet",
    "activation",
    "count_parameters",
]

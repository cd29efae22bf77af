"""Architectures, one file each: `Model(in_channels, out_channels, ...)` maps `(b, c, *x)` to `(b, c, *x)`."""

from opkit.models.base import Operator, count_parameters
from opkit.models.fno import FNO

__all__ = ["FNO", "Operator", "count_parameters"]

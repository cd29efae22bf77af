"""Equations, one file each: a distribution over inputs, a grid, a solver."""

from opkit.pdes.base import PDE, Labels
from opkit.pdes.darcy import Darcy

__all__ = ["PDE", "Darcy", "Labels"]

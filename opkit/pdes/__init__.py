"""Equations, one file each: a distribution over inputs, a grid, a solver."""

from opkit.pdes.base import PDE, Evolution, Labels, Shift
from opkit.pdes.burgers import Burgers
from opkit.pdes.darcy import Darcy
from opkit.pdes.navier_stokes import NavierStokes

__all__ = ["PDE", "Burgers", "Darcy", "Evolution", "Labels", "NavierStokes", "Shift"]

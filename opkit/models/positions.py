"""What models know of the grid they are given: where its points are, what they weigh in a sum, how long a period is.

All of it is computed from the shape of the input, which may be symbolic, so that weights act on every grid.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from opkit.grid import Location, axis_positions

Coordinates = bool | Literal["waves"]
"""Positions as features: x in [0, 1]; none; or cos 2 pi x and sin 2 pi x, which do not jump where a period closes."""


def count_positions(coordinates: Coordinates, ndim: int) -> int:
    """Channels that `with_positions` adds."""
    if coordinates not in (False, True, "waves"):
        raise ValueError(f"coordinates is true, false or 'waves', got {coordinates!r}.")
    return {False: 0, True: 1, "waves": 2}[coordinates] * ndim


def positions(shape: Sequence[int], coordinates: Coordinates, location: Location, like: Tensor) -> Tensor:
    """Position features of the points of a grid, `(p, *shape)`: x of every axis, or its cosines and sines."""
    if not coordinates:
        return like.new_empty(0, *shape)
    lines = [axis_positions(n, location, dtype=like.dtype, device=like.device) for n in shape]
    grid = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    if coordinates == "waves":
        return torch.cat([torch.cos(2 * math.pi * grid), torch.sin(2 * math.pi * grid)])
    return grid


def with_positions(u: Tensor, coordinates: Coordinates, location: Location) -> Tensor:
    """`(b, c, *x)` with the position features of its points as further channels."""
    if not coordinates:
        return u
    grid = positions(u.shape[2:], coordinates, location, u)
    return torch.cat([u, grid.expand(u.shape[0], *grid.shape)], 1)


def trapezoid(points: int, like: Tensor) -> Tensor:
    """Ones with one half at both ends, (points, 1)."""
    j = torch.arange(points, device=like.device)
    return (1 - 0.5 * ((j == 0) | (j == points - 1)).to(like.dtype))[:, None]


def trapezoid_weights(shape: Sequence[int], like: Tensor) -> Tensor:
    """Weights of the points of a node grid in an integral over the unit box, `(n,)`; they sum to one."""
    total = like.new_ones(1)
    for n in shape:
        total = torch.outer(total, trapezoid(n, like)[:, 0] / (n - 1)).flatten()
    return total


def period_of(points: int, padding: float, location: Location) -> int:
    """Grid steps in one period: the domain plus `padding` of it, rounded to the grid. Integers only, so that `points`
    may be symbolic."""
    if not padding:
        return points
    part = Fraction(padding).limit_denominator(1000)
    p, q = part.numerator, part.denominator
    steps = points - 1 if location == "node" else points
    return torch.sym_max(points, (2 * (p + q) * steps + q) // (2 * q))

"""Derivatives and products of trigonometric interpolants, float64, for putting fields of any origin into an equation.

    (d/dx) v = sum_k i k' v_k exp(i k' x),    k' = 2 pi k / L

The cosine at the Nyquist wavenumber of an even grid has a sine for derivative, which is zero at every point. Products
are formed on half as many points more per axis (Orszag's rule), so that what is kept of them carries no aliases.
"""

import math

import torch
from torch import Tensor

from opkit.grid import Grid


def waves(grid: Grid, device: torch.device | None = None) -> list[Tensor]:
    """k' along each axis, shaped to multiply a spectrum `(..., *x)`."""
    lines = []
    for axis, (n, length) in enumerate(zip(grid.shape, grid.lengths, strict=True)):
        k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=device) * (2 * math.pi / length)
        lines.append(k.view([-1 if i == axis else 1 for i in range(grid.ndim)]))
    return lines


def multiplied(values: Tensor, grid: Grid, factor: Tensor) -> Tensor:
    """The field `(..., *x)` whose Fourier coefficients are multiplied by a real factor, even in k."""
    axes = tuple(range(-grid.ndim, 0))
    return torch.fft.ifftn(torch.fft.fftn(values.double(), dim=axes) * factor, dim=axes).real


def derivative(values: Tensor, grid: Grid, axis: int = 0) -> Tensor:
    """Derivative of `(..., *x)` along an axis of the grid."""
    n, axes = grid.shape[axis], tuple(range(-grid.ndim, 0))
    k = waves(grid, values.device)[axis].clone()
    if n % 2 == 0:
        k.view(-1)[n // 2] = 0
    return torch.fft.ifftn(torch.fft.fftn(values.double(), dim=axes) * 1j * k, dim=axes).real


def product(grid: Grid, *pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Sum of the products of pairs of fields `(..., *x)`, cut to the waves of the grid."""
    fine = Grid(tuple(3 * n // 2 + 1 for n in grid.shape), "periodic", grid.length)
    total: Tensor | None = None
    for pair in pairs:
        one, two = (grid.resample(v.double(), fine, "spectral") for v in pair)
        total = one * two if total is None else total + one * two
    assert total is not None
    return fine.resample(total, grid, "spectral")

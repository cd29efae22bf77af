"""Errors of predicted fields, as plain functions on tensors, one number per sample.

With quadrature weights w_j, ||v||^2 = sum_j w_j |v_j|^2 summed over channels, and e = prediction - truth:

    rel_l2       ||e|| / ||u||
    rel_h1       (||e||^2 + ||grad e||^2)^1/2 / (||u||^2 + ||grad u||^2)^1/2
    max_error    max_j |e_j|, in the unit of u

Sums are taken in float64. No epsilon hides a vanishing denominator: such a sample yields NaN, which the evaluator
counts and reports. Averages over samples are the caller's: a mean of ratios, never a ratio of means.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from opkit.grid import Grid
from opkit.transforms import dst1


def norm(values: Float[Tensor, "n c *x"], weights: Float[Tensor, "*x"] | None = None) -> Float[Tensor, " n"]:
    """L2 norm per sample over channels and space, float64; without weights all points count alike."""
    squares = values.to(torch.float64) ** 2
    if weights is not None:
        squares = squares * weights.to(squares.device)
    return squares.flatten(1).sum(1).sqrt()


def rel_l2(
    prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid | None = None
) -> Float[Tensor, " n"]:
    """Relative L2 error per sample: space and channels jointly, physical units in, a pure number out.

    Args:
        prediction: `(n, c, *x)`; evolution equations flatten their frames into c.
        truth: Likewise.
        grid: Supplies quadrature weights. Without it all points count alike, as in the FNO papers; on nodes the
            difference is the weight of the walls.
    """
    weights = grid.weights if grid is not None else None
    return _ratio(norm(_error(prediction, truth), weights), norm(truth, weights))


def rel_h1(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, " n"]:
    """Relative H1 error per sample.

    On nodes the gradient is that of the bilinear (Q1) interpolant at cell centres, with no one-sided stencil at the
    walls; on periodic grids it is spectral.
    """
    error = _error(prediction, truth)
    return _ratio(*(torch.sqrt(norm(v, grid.weights) ** 2 + h1_seminorm(v, grid) ** 2) for v in (error, truth)))


def h1_seminorm(values: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, " n"]:
    """||grad v|| per sample, as `rel_h1` defines the gradient."""
    values = values.to(torch.float64)
    volume = math.prod(grid.spacing)
    if grid.location == "periodic":
        squares = torch.zeros(len(values), dtype=torch.float64, device=values.device)
        for axis, (n, length) in enumerate(zip(grid.shape, grid.lengths, strict=True)):
            k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=values.device) * (2 * math.pi / length)
            spectrum = torch.movedim(torch.fft.fft(values, dim=axis + 2, norm="ortho"), axis + 2, -1) * k
            squares += (spectrum.abs() ** 2).flatten(1).sum(1)
        return torch.sqrt(squares * volume)
    squares = torch.zeros(len(values), dtype=torch.float64, device=values.device)
    for axis, h in enumerate(grid.spacing):
        gradient = values.diff(dim=axis + 2) / h
        for other in range(grid.ndim):
            if other != axis:
                n = gradient.shape[other + 2]
                gradient = (gradient.narrow(other + 2, 0, n - 1) + gradient.narrow(other + 2, 1, n - 1)) / 2
        squares += (gradient**2).flatten(1).sum(1)
    return torch.sqrt(squares * volume)


def max_error(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"]) -> Float[Tensor, " n"]:
    """Largest absolute error per sample, over points and channels, in the unit of the field."""
    return _error(prediction, truth).abs().flatten(1).amax(1)


def sine_energy(values: Float[Tensor, "n c x y"], grid: Grid) -> Float[Tensor, "n k l"]:
    """Squared L2 norm carried by each sine mode sin(pi k x / L) sin(pi l y / L), channels summed, k, l = 1, 2, ...

    For node grids and fields that vanish on the walls; the wall values themselves are left out (`wall_energy`). Sums
    to the squared norm of the interior: Parseval holds to round-off. A plain FFT would see a jump at the walls and
    fake fine scales.
    """
    if grid.location != "node" or grid.ndim != 2:
        raise ValueError(f"sine_energy is for two-dimensional node grids, got {grid}.")
    interior = values[..., 1:-1, 1:-1].to(torch.float64)
    scale = math.prod(4 * h / (2 * (n - 1)) for h, n in zip(grid.spacing, grid.shape, strict=True))
    return (dst1(interior, 2) ** 2).sum(1) * scale


def wall_energy(values: Float[Tensor, "n c x y"], grid: Grid) -> Float[Tensor, " n"]:
    """Squared L2 norm carried by the boundary nodes of a two-dimensional node grid."""
    weights = grid.weights.clone()
    weights[1:-1, 1:-1] = 0
    return norm(values, weights) ** 2


def shell_spectrum(energy: Float[Tensor, "n k l"]) -> Float[Tensor, "n s"]:
    """Sum of mode energies over shells s <= |(k, l)| < s + 1, s = 1, 2, ..., up to the largest one-axis wavenumber."""
    k, m = (torch.arange(1, size + 1, dtype=torch.float64) for size in energy.shape[1:])
    shell = torch.sqrt(k[:, None] ** 2 + m**2).long().flatten()
    kept = shell <= max(energy.shape[1:])
    out = energy.new_zeros(len(energy), max(energy.shape[1:]) + 1)
    return out.index_add(1, shell[kept].to(energy.device), energy.flatten(1)[:, kept])[:, 1:]


def _error(prediction: Tensor, truth: Tensor) -> Tensor:
    if prediction.shape != truth.shape:
        raise ValueError(f"Prediction and truth differ in shape: {tuple(prediction.shape)}, {tuple(truth.shape)}.")
    return prediction.to(torch.float64) - truth.to(torch.float64)


def _ratio(error: Tensor, scale: Tensor) -> Tensor:
    return torch.where(scale > 0, error / scale, torch.nan)

"""Errors of predicted fields, as plain functions on tensors, one number per sample.

With quadrature weights w_j, ||v||^2 = sum_j w_j |v_j|^2 summed over channels, and e = prediction - truth:

    rel_l2       ||e|| / ||u||
    rel_h1       (||e||^2 + ||grad e||^2)^1/2 / (||u||^2 + ||grad u||^2)^1/2
    max_error    max_j |e_j|, in the unit of u

Sums are taken in float64. No epsilon hides a vanishing denominator: such a sample yields NaN, which the evaluator
counts and reports. Averages over samples are the caller's: a mean of ratios, never a ratio of means.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from opkit.grid import Grid
from opkit.transforms import dst1, dst2


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
    return torch.sqrt(gradient_square(values.to(torch.float64), grid))


def gradient_square(
    values: Float[Tensor, "n c *x"], grid: Grid, coefficient: Float[Tensor, "n 1 *x"] | None = None
) -> Float[Tensor, " n"]:
    """||grad v||^2 per sample, as `rel_h1` defines the gradient, in the precision of `values`.

    Args:
        values: The field.
        grid: Where it is.
        coefficient: Weight of the squared gradient at the points, whose mean over a cell's corners is taken; not on
            periodic grids.
    """
    volume = math.prod(grid.spacing)
    squares = torch.zeros(len(values), dtype=values.dtype, device=values.device)
    if grid.location == "periodic":
        for axis, (n, length) in enumerate(zip(grid.shape, grid.lengths, strict=True)):
            k = torch.fft.fftfreq(n, 1 / n, dtype=values.dtype, device=values.device) * (2 * math.pi / length)
            spectrum = torch.movedim(torch.fft.fft(values, dim=axis + 2, norm="ortho"), axis + 2, -1) * k
            squares = squares + torch.view_as_real(spectrum).square().flatten(1).sum(1)
        return squares * volume
    weights = None if coefficient is None else _corners(coefficient, range(grid.ndim))
    for axis, h in enumerate(grid.spacing):
        gradient = _corners(values.diff(dim=axis + 2) / h, (a for a in range(grid.ndim) if a != axis)).square()
        squares = squares + (gradient if weights is None else gradient * weights).flatten(1).sum(1)
    return squares * volume


def _corners(values: Tensor, axes: Iterable[int]) -> Tensor:
    """Means of neighbours along some axes."""
    for axis in axes:
        n = values.shape[axis + 2]
        values = (values.narrow(axis + 2, 0, n - 1) + values.narrow(axis + 2, 1, n - 1)) / 2
    return values


def max_error(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"]) -> Float[Tensor, " n"]:
    """Largest absolute error per sample, over points and channels, in the unit of the field."""
    return _error(prediction, truth).abs().flatten(1).amax(1)


def mode_energy(values: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, "n *k"]:
    """Squared L2 norm carried by each wave, channels summed: sines on node and cell grids, for fields that vanish on
    the walls, Fourier waves on periodic ones. `wave_numbers` says which is where.

    Parseval holds to round-off: the sum is the squared norm, less `wall_energy`. On walls a plain FFT would see a jump
    and fake fine scales.
    """
    return waves_square(values.to(torch.float64), grid)


def waves_square(values: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, "n *k"]:
    """`mode_energy` in the precision of `values`."""
    axes = tuple(range(-grid.ndim, 0))
    if grid.location == "periodic":
        spectrum = torch.view_as_real(torch.fft.fftn(values, dim=axes, norm="forward"))
        return spectrum.square().sum((1, -1)) * math.prod(grid.lengths)
    if grid.location == "node":
        inner = values
        for axis, n in zip(axes, grid.shape, strict=True):
            inner = inner.narrow(axis, 1, n - 2)
        scale = math.prod(2 * h / (n - 1) for h, n in zip(grid.spacing, grid.shape, strict=True))
        return (dst1(inner, grid.ndim) ** 2).sum(1) * scale
    energy = (dst2(values, grid.ndim) ** 2).sum(1) * math.prod(
        2 * h / n for h, n in zip(grid.spacing, grid.shape, strict=True)
    )
    for axis, n in zip(axes, grid.shape, strict=True):  # the highest wave of a cell grid has twice the others' norm
        halved = torch.ones(n, dtype=energy.dtype, device=energy.device)
        halved[-1] = 0.5
        energy = energy * halved.view(-1, *(1 for _ in range(-axis - 1)))
    return energy


def wave_numbers(grid: Grid) -> Float[Tensor, "d *k"]:
    """Wavenumber along each axis of every entry of `mode_energy`, not negative: half waves per edge for sines, waves
    per edge for Fourier."""
    lines = []
    for n in grid.shape:
        if grid.location == "periodic":
            lines.append(torch.fft.fftfreq(n, 1 / n, dtype=torch.float64).abs())
        else:
            lines.append(torch.arange(1, n - 1 if grid.location == "node" else n + 1, dtype=torch.float64))
    return torch.stack(torch.meshgrid(*lines, indexing="ij"))


def resolved_waves(grid: Grid, coarse: Grid) -> Bool[Tensor, "*k"]:
    """Which entries of `mode_energy` on `grid` the grid `coarse` resolves along every axis."""
    n = torch.tensor(coarse.shape, dtype=torch.float64).view(-1, *(1 for _ in grid.shape))
    highest = {"node": n - 2, "cell": n, "periodic": (n - 1) / 2}[grid.location]
    return (wave_numbers(grid) <= highest).all(0)


def wall_energy(values: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, " n"]:
    """Squared L2 norm carried by the boundary points of a node grid; other grids have none."""
    weights = grid.weights.clone()
    weights[tuple(slice(1, -1) if grid.location == "node" else slice(None) for _ in grid.shape)] = 0
    return norm(values, weights) ** 2


BANDS = {"low": (0.0, 4.0), "mid": (4.0, 12.0), "high": (12.0, math.inf)}
"""Wavenumbers |k| above the first and up to the second number, zero being low; limits as in PDEBench
(arXiv 2210.07182)."""


def band_errors(
    prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid
) -> Float[Tensor, "3 n"]:
    """Parts of the relative L2 error that lie in the `BANDS` of wavenumbers: ||P e|| / ||u||. Their squares sum to that
    of `rel_l2`, less the part on the walls. Wavenumbers are those of `wave_numbers`."""
    k = torch.sqrt((wave_numbers(grid) ** 2).sum(0)).flatten()
    energy = mode_energy(_error(prediction, truth), grid).flatten(1)
    scale = norm(truth, grid.weights)
    bands = []
    for low, high in BANDS.values():
        inside = ((k > low) & (k <= high)) | ((k == 0) & (low == 0))
        bands.append(_ratio((energy * inside.to(energy)).sum(1).sqrt(), scale))
    return torch.stack(bands)


def shell_spectrum(energy: Float[Tensor, "n *k"], grid: Grid) -> Float[Tensor, "n s"]:
    """Sum of mode energies over shells s <= |k| < s + 1, s = 1, 2, ..., up to the largest one-axis wavenumber."""
    k = wave_numbers(grid)
    shell = torch.sqrt((k**2).sum(0)).long().flatten()
    top = int(k.max())
    kept = shell <= top
    out = energy.new_zeros(len(energy), top + 1)
    return out.index_add(1, shell[kept].to(energy.device), energy.flatten(1)[:, kept])[:, 1:]


def _error(prediction: Tensor, truth: Tensor) -> Tensor:
    if prediction.shape != truth.shape:
        raise ValueError(f"Prediction and truth differ in shape: {tuple(prediction.shape)}, {tuple(truth.shape)}.")
    return prediction.to(torch.float64) - truth.to(torch.float64)


def _ratio(error: Tensor, scale: Tensor) -> Tensor:
    return torch.where(scale > 0, error / scale, torch.nan)

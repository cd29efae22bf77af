"""Errors of fields, one number per sample.

With quadrature weights w_j, ||v||^2 = sum_j w_j |v_j|^2, e = prediction - truth, and <v> the mean over space:

    rel_l2       ||e|| / ||u||                                       channels jointly, as in the FNO papers
    rel_h1       (||e||^2 + ||grad e||^2)^1/2 / (||u||^2 + ||grad u||^2)^1/2
    rel_energy   ||a^1/2 grad e|| / ||a^1/2 grad u||                 the energy norm of -div(a grad u)
    rel_linf     max_j |e_j| / max_j |u_j|
    max_error    max_j |e_j|, in the unit of u
    nrmse        <e^2>^1/2 / <u^2>^1/2                               per channel, then the mean over channels
    vrmse        (<e^2> / <(u - <u>)^2>)^1/2                         likewise; 1 is what predicting the mean gives
    srmse        <e^2>^1/2 / s, s given per channel                  likewise; for fields that decay

Frames of a trajectory may stand as channels: jointly for `rel_l2`, averaged for the others. Relative errors of what is
not finite are infinite, and NaN where the truth has no size to compare with.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from opkit.grid import Grid


def norm(values: Float[Tensor, "n c *x"], weights: Float[Tensor, "*x"] | None = None) -> Float[Tensor, " n"]:
    """L2 norm per sample over channels and space, float64; without weights all points count alike."""
    squares = values.to(torch.float64) ** 2
    if weights is not None:
        squares = squares * weights.to(squares.device)
    return squares.flatten(1).sum(1).sqrt()


def has_size(values: Float[Tensor, "n c *x"], grid: Grid | None = None, least: float = 0.0) -> Bool[Tensor, " n"]:
    """Whether the root mean square over space and channels is above `least`, in the unit of the field: what is below
    may be round-off, and nothing to compare an error with."""
    return space_mean(values.to(torch.float64).square(), grid).mean(1).sqrt() > least


def rel_l2(
    prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid | None = None, least: float = 0.0
) -> Float[Tensor, " n"]:
    """Relative L2 error per sample: space and channels jointly, physical units in, a pure number out.

    Args:
        prediction: `(n, c, *x)`; evolution equations flatten their frames into c.
        truth: Likewise.
        grid: Supplies quadrature weights. Without it all points count alike, as in the FNO papers; on nodes the
            difference is the weight of the walls.
        least: Root mean square of the truth at or below which a sample has no relative error: NaN.
    """
    weights = grid.weights if grid is not None else None
    size = torch.where(has_size(truth, grid, least), norm(truth, weights), 0.0)
    return ratio(norm(difference(prediction, truth), weights), size)


def rel_h1(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, " n"]:
    """Relative H1 error per sample.

    On nodes the gradient is that of the bilinear (Q1) interpolant at cell centres, with no one-sided stencil at the
    walls; on periodic grids it is spectral.
    """
    error = difference(prediction, truth)
    own, size = (torch.sqrt(norm(v, grid.weights) ** 2 + h1_seminorm(v, grid) ** 2) for v in (error, truth))
    return ratio(own, size)


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


def rel_energy(
    prediction: Float[Tensor, "n c *x"],
    truth: Float[Tensor, "n c *x"],
    grid: Grid,
    coefficient: Float[Tensor, "n 1 *x"],
) -> Float[Tensor, " n"]:
    """Relative error per sample in the energy norm of -div(a grad u), a given at the points; not on periodic grids."""
    a = coefficient.to(torch.float64)
    error, scale = (gradient_square(v, grid, a) for v in (difference(prediction, truth), truth.to(torch.float64)))
    return ratio(error.sqrt(), scale.sqrt())


def max_error(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"]) -> Float[Tensor, " n"]:
    """Largest absolute error per sample, over points and channels, in the unit of the field."""
    return difference(prediction, truth).abs().flatten(1).amax(1)


def rel_linf(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"]) -> Float[Tensor, " n"]:
    """Largest absolute error over the largest absolute value, per sample."""
    return ratio(max_error(prediction, truth), truth.to(torch.float64).abs().flatten(1).amax(1))


def nrmse(
    prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid | None = None
) -> Float[Tensor, " n"]:
    """Root mean square error over the root mean square, per sample and channel, then the mean over channels."""
    error = space_mean(difference(prediction, truth).square(), grid)
    return ratio(error.sqrt(), space_mean(truth.to(torch.float64).square(), grid).sqrt()).mean(1)


def vrmse(
    prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid | None = None
) -> Float[Tensor, " n"]:
    """Root mean square error over the standard deviation in space, per sample and channel, then the mean over channels.

    The variance is the plain one (no Bessel correction, no epsilon), so that predicting the mean of a field gives
    exactly 1. A constant field has no such error: NaN.
    """
    u = truth.to(torch.float64)
    mean = space_mean(u, grid)
    centred = u - mean.view(*mean.shape, *(1 for _ in u.shape[2:]))
    error = space_mean(difference(prediction, truth).square(), grid)
    varies = u.flatten(2).amax(2) > u.flatten(2).amin(2)  # round-off of the mean is no variance
    return ratio(error.sqrt(), torch.where(varies, space_mean(centred.square(), grid).sqrt(), 0.0)).mean(1)


def srmse(
    prediction: Float[Tensor, "n c *x"],
    truth: Float[Tensor, "n c *x"],
    scale: Float[Tensor, " c"],
    grid: Grid | None = None,
) -> Float[Tensor, " n"]:
    """Root mean square error per sample and channel over a fixed scale (the training data's standard deviation, say),
    then the mean over channels: of a field that decays it does not inflate, as relative errors do."""
    error = space_mean(difference(prediction, truth).square(), grid)
    if scale.shape != error.shape[1:]:
        raise ValueError(f"scale has one number per channel, {error.shape[1]}; got shape {tuple(scale.shape)}.")
    return ratio(error.sqrt(), scale.to(error)).mean(1)


def space_mean(values: Float[Tensor, "n c *x"], grid: Grid | None = None) -> Float[Tensor, "n c"]:
    """Mean over space by quadrature; without a grid all points count alike."""
    if grid is None:
        return values.flatten(2).mean(2)
    if values.shape[2:] != grid.shape:
        raise ValueError(f"A field (n, c, *x) on a grid {grid.shape} is expected, got shape {tuple(values.shape)}.")
    weights = grid.weights.to(values.device)
    return (values * weights).flatten(2).sum(2) / weights.sum()


def difference(prediction: Tensor, truth: Tensor) -> Tensor:
    """prediction - truth in float64.

    Raises:
        ValueError: Their shapes differ.
    """
    check_pair(prediction, truth)
    return prediction.to(torch.float64) - truth.to(torch.float64)


def check_pair(prediction: Tensor, truth: Tensor) -> None:
    """Raise ValueError unless both are real and of one shape: broadcasting would give an answer."""
    if prediction.shape != truth.shape:
        raise ValueError(f"Prediction and truth differ in shape: {tuple(prediction.shape)}, {tuple(truth.shape)}.")
    if prediction.is_complex() or truth.is_complex():
        raise ValueError("Prediction and truth are complex; give real fields, real and imaginary parts as channels.")


def ratio(error: Tensor, scale: Tensor) -> Tensor:
    """error / scale: NaN where the scale is zero, as no epsilon hides a vanishing denominator; infinite where the error
    is not a number."""
    return torch.where(scale > 0, torch.nan_to_num(error, nan=torch.inf, posinf=torch.inf) / scale, torch.nan)

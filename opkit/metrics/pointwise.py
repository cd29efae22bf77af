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

Frames of a trajectory may stand as channels: jointly for `rel_l2`, averaged for the others. What is not finite is
infinitely wrong; relative errors are NaN where the truth has no size to compare with. Of no samples there are none.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from opkit.grid import Grid

Channels = Literal["mean", "each"]
Numbers = Tensor | np.ndarray | Sequence[float]
"""What a few numbers may be given as."""


def norm(values: Float[Tensor, "n c *x"], weights: Float[Tensor, "*x"] | None = None) -> Float[Tensor, " n"]:
    """L2 norm per sample over channels and space, float64; without weights all points count alike."""
    check_field(values, weights, "n" if weights is None else "n, c")
    squares = values.to(torch.float64) ** 2
    if weights is not None:
        squares = squares * weights.to(squares.device)
    return squares.flatten(1).sum(1).sqrt()


def has_size(values: Float[Tensor, "n c *x"], grid: Grid | None = None, least: float = 0.0) -> Bool[Tensor, " n"]:
    """Whether the root mean square over space and channels is above `least`, in the unit of the field: what is below
    may be round-off, and nothing to compare an error with."""
    check_field(values, grid)
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
    error, weights = difference(prediction, truth, grid), grid.weights if grid is not None else None
    size = torch.where(has_size(truth, grid, least), norm(truth, weights), 0.0)
    return ratio(norm(error, weights), size)


def rel_h1(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, " n"]:
    """Relative H1 error per sample.

    On nodes the gradient is that of the bilinear (Q1) interpolant at cell centres, with no one-sided stencil at the
    walls; on periodic grids it is spectral.
    """
    error = difference(prediction, truth, grid)
    own, size = (torch.sqrt(norm(v, grid.weights) ** 2 + h1_seminorm(v, grid) ** 2) for v in (error, truth))
    return ratio(own, size)


def h1_seminorm(values: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, " n"]:
    """||grad v|| per sample, as `rel_h1` defines the gradient."""
    check_field(values, grid)
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
    check_field(values, grid)
    volume = math.prod(grid.spacing)
    squares = torch.zeros(len(values), dtype=values.dtype, device=values.device)
    if coefficient is not None:
        if tuple(coefficient.shape) != (wanted := (len(values), 1, *grid.shape)):
            raise ValueError(f"A coefficient of shape {wanted} is expected, got {tuple(coefficient.shape)}.")
        if grid.location == "periodic":
            raise ValueError("A coefficient weighs gradients on node and cell grids alone, got a periodic grid.")
    if not len(values):
        return squares  # which the transform refuses
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
    error = difference(prediction, truth, grid)
    check_real(coefficient)
    a = coefficient.to(torch.float64)
    error, scale = (gradient_square(v, grid, a) for v in (error, truth.to(torch.float64)))
    return ratio(error.sqrt(), scale.sqrt())


def max_error(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"]) -> Float[Tensor, " n"]:
    """Largest absolute error per sample, over points and channels, in the unit of the field."""
    largest = difference(prediction, truth, axes="n").abs().flatten(1).amax(1)
    return torch.nan_to_num(largest, nan=torch.inf, posinf=torch.inf)


def rel_linf(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"]) -> Float[Tensor, " n"]:
    """Largest absolute error over the largest absolute value, per sample."""
    return ratio(max_error(prediction, truth), truth.to(torch.float64).abs().flatten(1).amax(1))


def nrmse(
    prediction: Float[Tensor, "n c *x"],
    truth: Float[Tensor, "n c *x"],
    grid: Grid | None = None,
    channels: Channels = "mean",
) -> Tensor:
    """Root mean square error over the root mean square, per sample and channel, then the mean over channels: `(n,)`;
    of "each" channel `(n, c)`."""
    error = space_mean(difference(prediction, truth, grid).square(), grid)
    return _over(channels, ratio(error.sqrt(), space_mean(truth.to(torch.float64).square(), grid).sqrt()))


def vrmse(
    prediction: Float[Tensor, "n c *x"],
    truth: Float[Tensor, "n c *x"],
    grid: Grid | None = None,
    channels: Channels = "mean",
) -> Tensor:
    """Root mean square error over the standard deviation in space, per sample and channel, then the mean over channels:
    `(n,)`; of "each" channel `(n, c)`.

    The variance is the plain one (no Bessel correction, no epsilon), so that predicting the mean of a field gives
    exactly 1. A constant field has no such error: NaN.
    """
    error = space_mean(difference(prediction, truth, grid).square(), grid)
    u = truth.to(torch.float64)
    mean = space_mean(u, grid)
    centred = u - mean.view(*mean.shape, *(1 for _ in u.shape[2:]))
    varies = u.flatten(2).amax(2) > u.flatten(2).amin(2)  # round-off of the mean is no variance
    deviation = torch.where(varies, space_mean(centred.square(), grid).sqrt(), 0.0)
    return _over(channels, ratio(error.sqrt(), deviation))


def srmse(
    prediction: Float[Tensor, "n c *x"],
    truth: Float[Tensor, "n c *x"],
    scale: Numbers | float,
    grid: Grid | None = None,
    channels: Channels = "mean",
) -> Tensor:
    """Root mean square error per sample and channel over a fixed scale (the training data's standard deviation, say),
    then the mean over channels: of a field that decays it does not inflate, as relative errors do. `scale` has a number
    per channel, `(c,)`; that of a single channel may be a plain number. Of "each" channel `(n, c)`."""
    error = space_mean(difference(prediction, truth, grid).square(), grid)
    return _over(channels, ratio(error.sqrt(), per_channel(scale, error.shape[1], error)))


def _over(channels: Channels, values: Float[Tensor, "n c"]) -> Tensor:
    if channels not in get_args(Channels):
        raise ValueError(f"channels is one of {', '.join(get_args(Channels))}, got {channels!r}.")
    return values if channels == "each" else values.mean(1)


def per_channel(scale: Numbers | float, channels: int, like: Tensor) -> Float[Tensor, " c"]:
    """Scales as a float64 tensor beside `like`; ValueError unless there is one per channel."""
    scales = torch.as_tensor(scale, dtype=torch.float64, device=like.device)
    if scales.ndim == 0:
        scales = scales[None]
    if scales.shape != (channels,):
        raise ValueError(f"scale has one number per channel, {channels}; got shape {tuple(scales.shape)}.")
    return scales


def space_mean(values: Float[Tensor, "n c *x"], grid: Grid | None = None) -> Float[Tensor, "n c"]:
    """Mean over space by quadrature; without a grid all points count alike."""
    check_field(values, grid)
    if grid is None:
        return values.flatten(2).mean(2)
    weights = grid.weights.to(values.device)
    return (values * weights).flatten(2).sum(2) / weights.sum()


def difference(prediction: Tensor, truth: Tensor, grid: Grid | None = None, axes: str = "n, c") -> Tensor:
    """prediction - truth in float64.

    Raises:
        ValueError: Their shapes differ, or are not those of `check_field`.
    """
    check_pair(prediction, truth, grid, axes)
    return prediction.to(torch.float64) - truth.to(torch.float64)


def check_pair(prediction: Tensor, truth: Tensor, grid: Grid | None = None, axes: str = "n, c") -> None:
    """Raise ValueError unless both are what `check_field` asks for and of one shape: broadcasting would give an
    answer."""
    check_real(prediction, truth)
    if prediction.shape != truth.shape:
        raise ValueError(f"Prediction and truth differ in shape: {tuple(prediction.shape)}, {tuple(truth.shape)}.")
    check_field(truth, grid, axes)


def check_field(values: Tensor, grid: Grid | Tensor | None = None, axes: str = "n, c") -> None:
    """Raise ValueError unless `values` is a real tensor of shape (axes, *x), *x that of the grid, or of its weights;
    without one anything that is not empty. There may be no samples."""
    check_real(values)
    shape, lead = tuple(values.shape), axes.count(",") + 1
    fits = len(shape) > lead if grid is None else shape[lead:] == tuple(grid.shape)
    if not fits or 0 in shape[max(1, lead - 1) :]:
        where = "" if grid is None else f" on a grid {tuple(grid.shape)}"
        raise ValueError(f"A field ({axes}, *x){where} is expected, got shape {shape}.")


def check_real(*values: Tensor) -> None:
    """Raise ValueError unless these are tensors, and real."""
    for v in values:
        if not isinstance(v, Tensor):
            raise ValueError(f"Torch tensors are expected, got {type(v).__name__}; torch.as_tensor makes one.")
        if v.is_complex():
            raise ValueError(f"Real fields are expected, real and imaginary parts as channels; got {v.dtype}.")


def ratio(error: Tensor, scale: Tensor) -> Tensor:
    """error / scale: NaN where the scale is zero, as no epsilon hides a vanishing denominator; infinite where the error
    is not a number."""
    return torch.where(scale > 0, torch.nan_to_num(error, nan=torch.inf, posinf=torch.inf) / scale, torch.nan)

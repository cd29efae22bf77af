"""Other projects' definitions under their names, to compare with published numbers. opkit's own are in the modules
beside this one; what differs is said at each function.

Read from the projects' papers and documentation: PDEBench (Takamoto et al. 2022, arXiv 2210.07182), The Well (Ohana et
al. 2024, arXiv 2412.00568), APEBench (Koehler et al. 2024, arXiv 2411.00180), FNO (Li et al. 2021, arXiv 2010.08895),
PDEArena (Gupta and Brandstetter 2022, arXiv 2209.15616).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from opkit.grid import Grid
from opkit.metrics.pointwise import check_pair, difference
from opkit.metrics.trajectories import correlation


def fno_rel_l2(prediction: Float[Tensor, "n *any"], truth: Float[Tensor, "n *any"]) -> Float[Tensor, ""]:
    """FNO's test error: the relative L2 norm of each sample, space, time and channels flattened, all points alike, then
    the mean over samples. `opkit.metrics.rel_l2` weighs points by quadrature, which on nodes differs at the walls."""
    error, size = (v.flatten(1).norm(dim=1) for v in (difference(prediction, truth, axes="n"), truth.double()))
    return (error / size).mean()


def pdebench_nrmse(prediction: Float[Tensor, "n t c *x"], truth: Float[Tensor, "n t c *x"]) -> Float[Tensor, ""]:
    """PDEBench's nRMSE: per sample, channel and time the root mean square error over the root mean square of the truth,
    averaged over samples, then over channels and times."""
    apart = difference(prediction, truth, axes="n, t, c")
    error, size = (v.square().flatten(3).mean(3).sqrt() for v in (apart, truth.double()))
    return (error / size).mean(0).mean()


def pdebench_crmse(prediction: Float[Tensor, "n t c *x"], truth: Float[Tensor, "n t c *x"]) -> Float[Tensor, ""]:
    """PDEBench's RMSE of conserved quantities: difference of the sums over space, root mean square over samples, over
    the number of points, averaged over channels and times."""
    sums = difference(prediction, truth, axes="n, t, c").flatten(3).sum(3)
    points = math.prod(truth.shape[3:])
    return (sums.square().mean(0).sqrt() / points).mean()


def pdebench_frmse(
    prediction: Float[Tensor, "n t c *x"], truth: Float[Tensor, "n t c *x"], lengths: tuple[float, ...] = (1.0, 1.0)
) -> tuple[float, float, float]:
    """PDEBench's RMSE in Fourier space, in one or two dimensions: shells 0 to 3, 4 to 11, and 12 and above.

    Amplitudes of the unnormalised transform in shells of integer |k|, of the quadrant of wavenumbers that are not
    negative alone, so Parseval's identity does not hold; root mean square over samples, over the number of points,
    times the box, averaged over each band's shells. `opkit.metrics.rmse_bands` has all waves and adds up.
    """
    error = difference(prediction, truth, axes="n, t, c")
    shape = error.shape[3:]
    if len(shape) > 2 or min(shape) // 2 <= 12:
        raise ValueError(f"PDEBench's bands need more than 24 points a side, in one or two dimensions; got {shape}.")
    if len(shape) == 1:
        power = torch.fft.rfft(error).abs().square()
    else:
        corner = tuple(n // 2 for n in shape)
        square = torch.fft.fftn(error, dim=(-2, -1)).abs().square()[..., : corner[0], : corner[1]]
        k = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in corner), indexing="ij")
        shell = torch.sqrt(k[0] ** 2 + k[1] ** 2).floor().long()
        kept = shell < min(corner)
        power = square.new_zeros(*square.shape[:3], min(corner)).index_add(-1, shell[kept], square[..., kept])
    amplitude = power.mean(0).sqrt() * math.prod(length / n for length, n in zip(lengths, shape, strict=False))
    bands = (amplitude[..., :4], amplitude[..., 4:12], amplitude[..., 12:])
    return tuple(float(b.mean()) for b in bands)  # type: ignore[return-value]


def well_vrmse(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"]) -> Float[Tensor, "n c"]:
    """The Well's VRMSE: sqrt(<e^2> / (var + 1e-7)) with Bessel's correction in var.

    Returns:
        `(n, c)`. The number inside the root makes it wrong for fields whose variance is not far above 1e-7, in
        whatever unit they are; the correction is a factor ((M - 1) / M)^1/2 for M points.
    """
    error = difference(prediction, truth).flatten(2).square().mean(2)
    return (error / (truth.double().flatten(2).var(2, correction=1) + 1e-7)).sqrt()


def apebench_mean_nrmse(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"]) -> Float[Tensor, ""]:
    """APEBench's mean_nRMSE of one frame: ratios of channels are summed, not averaged, then the mean over samples."""
    error, size = (v.square().flatten(2).mean(2).sqrt() for v in (difference(prediction, truth), truth.double()))
    return (error / size).sum(1).mean()


def apebench_gmean(errors: Float[Tensor, " t"], steps: int = 100) -> Float[Tensor, ""]:
    """APEBench's aggregate: geometric mean of the mean_nRMSE of the first `steps` frames, n of them in `errors`."""
    if len(errors) < steps:
        raise ValueError(f"The geometric mean over {steps} frames needs as many; got {len(errors)}.")
    return errors[:steps].double().log().mean().exp()


def apebench_correlation(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"]) -> Float[Tensor, ""]:
    """APEBench's correlation: the cosine of the angle between fields, which are not centred, averaged over channels and
    samples. `opkit.metrics.correlation` is centred."""
    check_pair(prediction, truth)
    p, u = prediction.double().flatten(2), truth.double().flatten(2)
    return ((p * u).sum(2) / (p.norm(dim=2) * u.norm(dim=2))).mean()


def pdearena_correlation_steps(
    prediction: Float[Tensor, "n t c *x"], truth: Float[Tensor, "n t c *x"], grid: Grid, threshold: float = 0.8
) -> int:
    """PDEArena's correlation time in steps: how many frames have a correlation, averaged over samples, above the
    threshold; frames after a first crossing count too. `opkit.metrics.correlation_time` is the first crossing, per
    sample."""
    return int((correlation(prediction, truth, grid).mean(0) > threshold).sum())

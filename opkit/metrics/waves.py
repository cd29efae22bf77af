"""Spectra of fields and of their errors: Fourier waves on periodic grids, sines between walls.

A field between walls is not periodic; its plain FFT sees a jump and fakes fine scales. Fields that vanish on the walls
are expanded in sines (DST-I on nodes, DST-II on cells) and the squares of wall values are counted apart. Parseval's
identity holds to round-off, so errors of bands add up to the whole.

    band_errors          ||P_b e|| / ||u||                                     b = low, mid, high
    rmse_bands           (mean over points and channels of (P_b e)^2)^1/2      absolute
    phase_error          1 - |<prediction, truth>_b| / (|prediction|_b |truth|_b)
    log_spectral_distance    (mean over shells of (log10 E' - log10 E)^2)^1/2

with P_b the projection on a band of wavenumbers and E(s) the sum of `mode_energy` over the shell s <= |k| < s + 1.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opkit.grid import Grid
from opkit.metrics.pointwise import check_pair, difference, norm, ratio
from opkit.transforms import dst1, dst2


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
"""Wavenumbers |k| from the first up to, without it, the second number; limits as in PDEBench (arXiv 2210.07182)."""


def band_masks(grid: Grid, bands: dict[str, tuple[float, float]] | None = None) -> Bool[Tensor, "b k"]:
    """Which entries of `mode_energy`, flattened, each band holds."""
    k = torch.sqrt((wave_numbers(grid) ** 2).sum(0)).flatten()
    return torch.stack([(k >= low) & (k < high) for low, high in (bands or BANDS).values()])


def band_errors(
    prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid
) -> Float[Tensor, "b n"]:
    """Parts of the relative L2 error that lie in the `BANDS` of wavenumbers: ||P e|| / ||u||. Their squares sum to that
    of `rel_l2`, less the part on the walls. Wavenumbers are those of `wave_numbers`."""
    energy = mode_energy(difference(prediction, truth), grid).flatten(1)
    inside = band_masks(grid).to(energy)
    return ratio((inside @ energy.mT).sqrt(), norm(truth, grid.weights))


def rmse_bands(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, "b n"]:
    """Root mean square, over points and channels, of the error's part in each of the `BANDS`, in the unit of the field.
    Squares sum to the mean square error, less the part on the walls."""
    energy = mode_energy(difference(prediction, truth), grid).flatten(1)
    count = truth.shape[1] * math.prod(grid.lengths)
    return (band_masks(grid).to(energy) @ energy.mT / count).sqrt()


def shells(grid: Grid) -> Int[Tensor, " k"]:
    """Shell of every entry of `mode_energy`, flattened: the integer part of |k|, corners included."""
    return torch.sqrt((wave_numbers(grid) ** 2).sum(0)).long().flatten()


def shell_spectrum(energy: Float[Tensor, "n *k"], grid: Grid) -> Float[Tensor, "n s"]:
    """Sum of mode energies over shells s <= |k| < s + 1, s = 1, 2, ..., up to the largest one-axis wavenumber."""
    shell = shells(grid)
    top = int(wave_numbers(grid).max())
    kept = shell <= top
    out = energy.new_zeros(len(energy), top + 1)
    return out.index_add(1, shell[kept].to(energy.device), energy.flatten(1)[:, kept])[:, 1:]


FLOOR = 1e-12
"""Share of the whole energy below which a shell is taken for round-off and not compared."""


def log_spectral_distance(
    prediction: Float[Tensor, "n s"], truth: Float[Tensor, "n s"], floor: float = FLOOR
) -> Float[Tensor, " n"]:
    """Root mean square difference of the decimal logarithms of two shell spectra, over the lowest two thirds of shells.

    Shells that hold less than `floor` of the true energy are left out: float32 fields have nothing to say there. For
    the same reason a prediction's shell is not taken for emptier than that, so each counts twelve decades at most.
    """
    check_pair(prediction, truth)
    count = max(1, 2 * truth.shape[1] // 3)
    own, true = prediction[:, :count].double(), truth[:, :count].double()
    least = floor * truth.sum(1, keepdim=True).double()
    kept = true > least
    apart = torch.where(kept, (torch.maximum(own, least) / true).log10(), 0.0)
    return ratio(apart.square().sum(1), kept.sum(1).double()).sqrt()


def phase_error(
    prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid
) -> Float[Tensor, "b n"]:
    """1 - |<P p, P u>| / (||P p|| ||P u||) in each of the `BANDS`: 0 where a prediction only has other amplitudes, 1
    where its waves have nothing to do with the truth's. NaN where either has none."""
    check_pair(prediction, truth)
    sums, differences = prediction.double() + truth.double(), prediction.double() - truth.double()
    inside = band_masks(grid).double()

    def in_bands(values: Tensor) -> Tensor:
        energy = mode_energy(values, grid).flatten(1)
        return inside.to(energy.device) @ energy.mT

    product = (in_bands(sums) - in_bands(differences)) / 4  # <p, u> by polarisation
    return 1 - ratio(product.abs(), (in_bands(prediction.double()) * in_bands(truth.double())).sqrt())

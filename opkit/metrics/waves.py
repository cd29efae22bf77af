"""Spectra of fields and of their errors: Fourier waves on periodic grids, sines between walls.

A field between walls is not periodic; its plain FFT sees a jump and fakes fine scales. Fields that vanish on the walls
are expanded in sines (DST-I on nodes, DST-II on cells) and the squares of wall values are counted apart. Parseval's
identity holds to round-off, so errors of bands add up to the whole.

    band_errors          ||P_b e|| / ||u||                                     b = low, mid, high
    band_rel             ||P_b e|| / ||P_b u||
    band_amplitude       ||P_b p|| / ||P_b u||                                 p the prediction
    phase_error          1 - <P_b p, P_b u> / (||P_b p|| ||P_b u||)           from 0, in place, to 2, opposite
    rmse_bands           (mean over points and channels of (P_b e)^2)^1/2      absolute
    rel_hminus1          ||e||_-1 / ||u||_-1,  ||v||_-1^2 = sum_{k != 0} |v_k|^2 / |k'|^2
    log_spectral_distance    (mean over shells of (log10 E' - log10 E)^2)^1/2

with P_b the projection on a band of wavenumbers, E(s) the sum of `mode_energy` over the shell s <= |k| < s + 1, and
k' = 2 pi k / L per axis of Fourier waves, pi k / L of sines. The dual norm of fields that vanish on the walls (or of
those without a mean on a torus) has no derivative: residuals of equations are measured in it, as by Cao et al.,
"Spectral-Refiner" (arXiv 2405.17211).

Errors of what is not finite are infinite in every band; of no samples there are none.
"""

import itertools
import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from opkit.grid import Grid
from opkit.metrics.pointwise import check_field, check_pair, check_real, difference, norm, ratio
from opkit.transforms import dst1, dst2


def mode_energy(values: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, "n *k"]:
    """Squared L2 norm carried by each wave, channels summed: sines on node and cell grids, for fields that vanish on
    the walls, Fourier waves on periodic ones. `wave_numbers` says which is where.

    Parseval holds to round-off: the sum is the squared norm, less `wall_energy`. On walls a plain FFT would see a jump
    and fake fine scales.
    """
    check_field(values, grid)
    return waves_square(values.to(torch.float64), grid)


def waves_square(values: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, "n *k"]:
    """`mode_energy` in the precision of `values`."""
    check_field(values, grid)
    if not len(values) or 0 in _waves(grid):  # which transforms refuse
        return values.new_zeros(len(values), *_waves(grid))
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


def _waves(grid: Grid) -> tuple[int, ...]:
    """Waves per axis of `mode_energy`."""
    return tuple(n - 2 if grid.location == "node" else n for n in grid.shape)


def _flat(energy: Tensor, grid: Grid) -> Float[Tensor, "n k"]:
    """`mode_energy`, whose waves may be flat already, with flat ones."""
    check_real(energy)
    waves = _waves(grid)
    if tuple(energy.shape[1:]) not in (waves, (math.prod(waves),)):
        raise ValueError(
            f"The mode_energy (n, *{waves}) of fields on a grid {grid.shape} is expected, got shape "
            f"{tuple(energy.shape)}."
        )
    return energy.flatten(1)


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


def wave_squares(grid: Grid) -> Float[Tensor, " *k"]:
    """|k'|^2 of every entry of `mode_energy`: k' = 2 pi k / L along axes of Fourier waves, pi k / L of sines, which
    count half waves. Minus the Laplacian multiplies a wave by it."""
    unit = math.pi * (2 if grid.location == "periodic" else 1)
    lengths = torch.tensor(grid.lengths, dtype=torch.float64).view(-1, *(1 for _ in grid.shape))
    return (wave_numbers(grid) * unit / lengths).square().sum(0)


def hminus1_norm(values: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, " n"]:
    """||v||_-1 per sample over channels: the norm of the gradient of the solution of -Laplacian phi = v, without the
    mean on periodic grids, phi = 0 on walls. Values on the walls themselves are not seen."""
    return hminus1_of_energy(mode_energy(values, grid), grid)


def hminus1_of_energy(energy: Float[Tensor, "n *k"], grid: Grid) -> Float[Tensor, " n"]:
    """`hminus1_norm` of a field whose `mode_energy` is known."""
    square = wave_squares(grid).to(energy.device).flatten()
    return torch.where(square > 0, _flat(energy, grid) / square, 0.0).sum(1).sqrt()


def rel_hminus1(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, " n"]:
    """Relative H^-1 error per sample, channels jointly: what is smooth counts most. Of the mean over a periodic box it
    knows nothing; between walls it is meant for fields that vanish there."""
    error = hminus1_norm(difference(prediction, truth, grid), grid)
    return ratio(error, hminus1_norm(truth, grid))


def resolved_waves(grid: Grid, coarse: Grid) -> Bool[Tensor, "*k"]:
    """Which entries of `mode_energy` on `grid` the grid `coarse` resolves along every axis."""
    if (grid.ndim, grid.location) != (coarse.ndim, coarse.location):
        raise ValueError(f"Grids of one kind and as many axes are expected, got {grid} and {coarse}.")
    n = torch.tensor(coarse.shape, dtype=torch.float64).view(-1, *(1 for _ in grid.shape))
    highest = {"node": n - 2, "cell": n, "periodic": (n - 1) / 2}[grid.location]
    return (wave_numbers(grid) <= highest).all(0)


def wall_energy(values: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, " n"]:
    """Squared L2 norm carried by the boundary points of a node grid; other grids have none."""
    check_field(values, grid)
    weights = grid.weights.clone()
    weights[tuple(slice(1, -1) if grid.location == "node" else slice(None) for _ in grid.shape)] = 0
    return norm(values, weights) ** 2


Bands = dict[str, tuple[float, float]]
"""Wavenumbers |k| of each band, from the first up to, without it, the second number."""

BANDS: Bands = {"low": (0.0, 4.0), "mid": (4.0, 12.0), "high": (12.0, math.inf)}
"""Limits as in PDEBench (arXiv 2210.07182)."""


def nyquist_bands(grid: Grid) -> Bands:
    """Bands by fractions of the Nyquist wavenumber k_N, the coarsest axis's: up to k_N / 8, k_N / 4, k_N / 2, and all
    above, the corners of the spectrum included."""
    top = float(min(line.max() for line in wave_numbers(grid).flatten(1)))
    edges = (0.0, top / 8, top / 4, top / 2, math.inf)
    names = ("below 1/8", "1/8 to 1/4", "1/4 to 1/2", "above 1/2")
    return dict(zip(names, itertools.pairwise(edges), strict=True))


def band_masks(grid: Grid, bands: Bands = BANDS) -> Bool[Tensor, "b k"]:
    """Which entries of `mode_energy`, flattened, each band holds."""
    k = torch.sqrt((wave_numbers(grid) ** 2).sum(0)).flatten()
    return torch.stack([(k >= low) & (k < high) for low, high in bands.values()])


def energy_in_bands(
    energy: Float[Tensor, "n *k"], grid: Grid, masks: Bool[Tensor, "b k"] | None = None
) -> Float[Tensor, "b n"]:
    """Squared norm in each band of a field whose `mode_energy` is known; bands as of `band_errors`."""
    flat = _flat(energy, grid)
    if masks is None:
        masks = band_masks(grid)
    elif masks.ndim != 2 or masks.shape[1] != flat.shape[1]:
        raise ValueError(
            f"Masks (b, {flat.shape[1]}) of the waves on a grid {grid.shape} are expected, as band_masks makes them; "
            f"got shape {tuple(masks.shape)}."
        )
    return masks.to(energy) @ flat.mT


def _in_bands(values: Tensor, grid: Grid, masks: Tensor | None) -> Tensor:
    return energy_in_bands(mode_energy(values, grid), grid, masks)


def band_errors(
    prediction: Float[Tensor, "n c *x"],
    truth: Float[Tensor, "n c *x"],
    grid: Grid,
    masks: Bool[Tensor, "b k"] | None = None,
) -> Float[Tensor, "b n"]:
    """Parts of the relative L2 error that lie in bands of wavenumbers: ||P e|| / ||u||. Of bands that share no wave and
    leave none out, squares sum to that of `rel_l2`, less the part on the walls.

    Args:
        prediction: The field.
        truth: Likewise.
        grid: Wavenumbers are those of `wave_numbers`.
        masks: The bands, as `band_masks` returns them; by default the `BANDS`.
    """
    return ratio(_in_bands(difference(prediction, truth, grid), grid, masks).sqrt(), norm(truth, grid.weights))


def band_rel(
    prediction: Float[Tensor, "n c *x"],
    truth: Float[Tensor, "n c *x"],
    grid: Grid,
    masks: Bool[Tensor, "b k"] | None = None,
) -> Float[Tensor, "b n"]:
    """Relative error within each band, ||P e|| / ||P u||; arguments as of `band_errors`. NaN where the truth has no
    more than `FLOOR` of its energy there: what float32 fields have in such a band is round-off."""
    return _over_truth(_in_bands(difference(prediction, truth, grid), grid, masks), truth, grid, masks)


def band_amplitude(
    prediction: Float[Tensor, "n c *x"],
    truth: Float[Tensor, "n c *x"],
    grid: Grid,
    masks: Bool[Tensor, "b k"] | None = None,
) -> Float[Tensor, "b n"]:
    """Size of the prediction over that of the truth within each band, ||P p|| / ||P u||; otherwise as `band_rel`."""
    check_pair(prediction, truth, grid)
    return _over_truth(_in_bands(prediction.double(), grid, masks), truth, grid, masks)


def _over_truth(square: Tensor, truth: Tensor, grid: Grid, masks: Tensor | None) -> Tensor:
    true, whole = _in_bands(truth.double(), grid, masks), mode_energy(truth, grid).flatten(1).sum(1)
    return torch.where(true > FLOOR * whole, ratio(square, true), torch.nan).sqrt()


def phase_error(
    prediction: Float[Tensor, "n c *x"],
    truth: Float[Tensor, "n c *x"],
    grid: Grid,
    masks: Bool[Tensor, "b k"] | None = None,
) -> Float[Tensor, "b n"]:
    """1 - <P p, P u> / (||P p|| ||P u||) in each band: 0 where a prediction only has other amplitudes, 1 where its
    waves are a quarter period off or have nothing to do with the truth's, 2 where they are its opposite. Arguments as
    of `band_errors`; NaN as in `band_rel`, and where the prediction has nothing."""
    check_pair(prediction, truth, grid)
    own, true = (_in_bands(v.double(), grid, masks) for v in (prediction, truth))
    product = (own + true - _in_bands(difference(prediction, truth), grid, masks)) / 2  # <p, u> by polarisation
    whole = mode_energy(truth, grid).flatten(1).sum(1)
    sizes = (own * true).sqrt()
    found = torch.where(torch.isfinite(own), 1 - product / sizes, torch.inf)
    return torch.where((true > FLOOR * whole) & (sizes != 0), found, torch.nan)


def rmse_bands(prediction: Float[Tensor, "n c *x"], truth: Float[Tensor, "n c *x"], grid: Grid) -> Float[Tensor, "b n"]:
    """Root mean square, over points and channels, of the error's part in each of the `BANDS`, in the unit of the field.
    Squares sum to the mean square error, less the part on the walls."""
    return rmse_of_energy(mode_energy(difference(prediction, truth, grid), grid), truth.shape[1], grid)


def rmse_of_energy(energy: Float[Tensor, "n *k"], channels: int, grid: Grid) -> Float[Tensor, "b n"]:
    """`rmse_bands` of an error of so many channels whose `mode_energy` is known."""
    square = energy_in_bands(energy, grid) / (channels * math.prod(grid.lengths))
    return torch.nan_to_num(square, nan=torch.inf, posinf=torch.inf).sqrt()


def shells(grid: Grid) -> Int[Tensor, " k"]:
    """Shell of every entry of `mode_energy`, flattened: the integer part of |k|, corners included."""
    return torch.sqrt((wave_numbers(grid) ** 2).sum(0)).long().flatten()


def shell_spectrum(energy: Float[Tensor, "n *k"], grid: Grid) -> Float[Tensor, "n s"]:
    """Sum of mode energies over shells s <= |k| < s + 1, s = 1, 2, ..., up to the largest one-axis wavenumber."""
    shell = shells(grid)
    top = int(wave_numbers(grid).max())
    kept = shell <= top
    out = energy.new_zeros(len(energy), top + 1)
    return out.index_add(1, shell[kept].to(energy.device), _flat(energy, grid)[:, kept])[:, 1:]


FLOOR = 1e-12
"""Share of the whole energy below which a shell or band is taken for round-off and not compared."""


def log_spectral_distance(
    prediction: Float[Tensor, "n s"], truth: Float[Tensor, "n s"], floor: float = FLOOR
) -> Float[Tensor, " n"]:
    """Root mean square difference of the decimal logarithms of two shell spectra, over the lowest two thirds of shells.

    Shells that hold less than `floor` of the true energy are left out: float32 fields have nothing to say there. For
    the same reason a prediction's shell is not taken for emptier than that, so each counts twelve decades at most.
    """
    check_pair(prediction, truth, axes="n")
    if truth.ndim != 2:
        raise ValueError(f"Spectra (n, s) are expected, got shape {tuple(truth.shape)}.")
    count = max(1, 2 * truth.shape[1] // 3)
    own, true = prediction[:, :count].double(), truth[:, :count].double()
    least = floor * truth.sum(1, keepdim=True).double()
    kept = true > least
    apart = torch.where(kept, (torch.maximum(own, least) / true).log10(), 0.0)
    return ratio(apart.square().sum(1), kept.sum(1).double()).sqrt()

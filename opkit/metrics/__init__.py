"""Errors of predicted fields and trajectories, as plain functions on tensors, one number per sample.

pointwise       norms of the error of a field
waves           its spectrum: where the error sits
trajectories    how long a rollout is right, when it fails, how fast its error grows
compat          the same under other projects' definitions

Fields are in physical units, sums in float64. No epsilon hides a vanishing denominator: such a sample yields NaN, which
the evaluator leaves out and counts. What is not finite is infinitely wrong. Fields are real tensors of the shapes said,
or a ValueError says what was given. Averages over samples are the caller's: a mean of ratios, never a ratio of means.
"""

from opkit.metrics import compat
from opkit.metrics.pointwise import (
    difference,
    gradient_square,
    h1_seminorm,
    has_size,
    max_error,
    norm,
    nrmse,
    ratio,
    rel_energy,
    rel_h1,
    rel_l2,
    rel_linf,
    space_mean,
    srmse,
    vrmse,
)
from opkit.metrics.trajectories import (
    CORRELATED,
    LEAVES,
    Bounds,
    Events,
    Growth,
    correlation,
    correlation_time,
    first_crossing,
    growth_rate,
    leaving,
    power_law,
    valid_time,
)
from opkit.metrics.waves import (
    BANDS,
    Bands,
    band_amplitude,
    band_errors,
    band_masks,
    band_rel,
    energy_in_bands,
    hminus1_norm,
    hminus1_of_energy,
    log_spectral_distance,
    mode_energy,
    nyquist_bands,
    phase_error,
    rel_hminus1,
    resolved_waves,
    rmse_bands,
    rmse_of_energy,
    shell_spectrum,
    shells,
    wall_energy,
    wave_numbers,
    wave_squares,
    waves_square,
)

__all__ = [
    "BANDS", "CORRELATED", "LEAVES", "Bands", "Bounds", "Events", "Growth", "band_amplitude", "band_errors",
    "band_masks", "band_rel", "compat", "correlation", "correlation_time", "difference", "energy_in_bands",
    "first_crossing", "gradient_square", "growth_rate", "h1_seminorm", "has_size", "hminus1_norm",
    "hminus1_of_energy", "leaving", "log_spectral_distance", "max_error", "mode_energy", "norm", "nrmse",
    "nyquist_bands", "phase_error", "power_law", "ratio", "rel_energy", "rel_h1", "rel_hminus1", "rel_l2",
    "rel_linf", "resolved_waves", "rmse_bands", "rmse_of_energy", "shell_spectrum", "shells", "space_mean", "srmse",
    "valid_time", "vrmse", "wall_energy", "wave_numbers", "wave_squares", "waves_square",
]  # fmt: skip

"""Errors of predicted fields and trajectories, as plain functions on tensors, one number per sample.

pointwise       norms of the error of a field
waves           its spectrum: where the error sits
trajectories    how long a rollout is right, when it fails, how fast its error grows
compat          the same under other projects' definitions

Fields are in physical units, sums in float64. No epsilon hides a vanishing denominator: such a sample yields NaN, which
the evaluator counts and reports. Averages over samples are the caller's: a mean of ratios, never a ratio of means.
"""

from opkit.metrics import compat
from opkit.metrics.pointwise import (
    difference,
    gradient_square,
    h1_seminorm,
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
    band_errors,
    log_spectral_distance,
    mode_energy,
    phase_error,
    resolved_waves,
    rmse_bands,
    shell_spectrum,
    shells,
    wall_energy,
    wave_numbers,
    waves_square,
)

__all__ = [
    "BANDS", "LEAVES", "Bounds", "Events", "Growth", "band_errors", "compat", "correlation", "correlation_time",
    "difference", "first_crossing", "gradient_square", "growth_rate", "h1_seminorm", "leaving",
    "log_spectral_distance", "max_error", "mode_energy", "norm", "nrmse", "phase_error", "power_law", "ratio",
    "rel_energy", "rel_h1", "rel_l2", "rel_linf", "resolved_waves", "rmse_bands", "shell_spectrum", "shells",
    "space_mean", "srmse", "valid_time", "vrmse", "wall_energy", "wave_numbers", "waves_square",
]  # fmt: skip

"""What training minimises: errors of predicted fields in physical units, as sums of named terms.

With e = prediction - truth u, one number per sample, averaged over the batch:

    rel_l2     ||e|| / ||u||, every point counting alike
    mse        mean over points and channels of e^2
    rel_h1     (||e||^2 + ||grad e||^2)^1/2 over the same of u, the gradient as in `opkit.metrics.rel_h1`
    gradient   ||grad e|| / ||grad u||
    energy     (sum a |grad e|^2)^1/2 / (sum a |grad u|^2)^1/2, with a the first input channel: Darcy's energy norm (the
               published code of Cao 2021, arXiv 2105.14995, has a^2 above and 2 a below)
    rel_hs     (sum_k (1 + |k|^2)^s |e_k|^2)^1/2 over the same of u, in Fourier or sine waves; with s < 0 what is smooth
               counts most
    residual   that of the equation itself, where `PDE.residual` defines one (Darcy): it needs no labels
    h1_modes   the published MgNO code's (arXiv 2310.19809), to compare with: weights 1 + |k|^2 of the plain FFT over
               all points, whatever the walls, k in waves per domain, and k = 0 along an axis from `cutoff` on
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from opkit.errors import ConfigError
from opkit.grid import Grid, Spec
from opkit.metrics import gradient_square, wave_squares, waves_square
from opkit.pdes import PDE
from opkit.settings import Loss

Term = Callable[[Tensor, Tensor, Loss, Grid], Tensor]
"""Squared norm per sample of a field `(b, c, *x)`, given the inputs; of the error and of the truth alike."""


def _l2(v: Tensor, _: Tensor, settings: Loss, grid: Grid) -> Tensor:
    return v.square().flatten(1).sum(1)


def _h1(v: Tensor, _: Tensor, settings: Loss, grid: Grid) -> Tensor:
    return (v.square() * grid.weights.to(v)).flatten(1).sum(1) + gradient_square(v, grid)


def _gradient(v: Tensor, _: Tensor, settings: Loss, grid: Grid) -> Tensor:
    return gradient_square(v, grid)


def _energy(v: Tensor, inputs: Tensor, settings: Loss, grid: Grid) -> Tensor:
    return gradient_square(v, grid, inputs[:, :1])


def _hs(v: Tensor, _: Tensor, settings: Loss, grid: Grid) -> Tensor:
    weights = (1 + wave_squares(grid)) ** settings.order
    return (waves_square(v, grid) * weights.to(v)).flatten(1).sum(1)


def _h1_modes(v: Tensor, _: Tensor, settings: Loss, grid: Grid) -> Tensor:
    weights = torch.ones((), dtype=v.dtype, device=v.device)
    for axis, n in enumerate(grid.shape):
        k = torch.fft.fftfreq(n, 1 / n, dtype=v.dtype, device=v.device)
        square = torch.where(k.abs() < settings.cutoff, k, 0).square()
        weights = weights + square.view(-1, *(1 for _ in grid.shape[axis + 1 :]))
    spectrum = torch.fft.fftn(v, dim=tuple(range(2, v.ndim)), norm="ortho")
    return (torch.view_as_real(spectrum).square().sum(-1) * weights).flatten(1).sum(1)


RELATIVE: dict[str, Term] = {
    "rel_l2": _l2, "rel_h1": _h1, "gradient": _gradient, "energy": _energy, "rel_hs": _hs, "h1_modes": _h1_modes,
}  # fmt: skip
NAMES = (*RELATIVE, "mse", "residual")


def parse(text: str) -> dict[str, float]:
    """Factors by name of a sum such as "rel_l2 + 0.1 * rel_h1".

    Raises:
        ConfigError: It is not such a sum.
    """
    factors: dict[str, float] = {}
    for part in re.split(r"(?<![eE])\+", text):
        found = re.fullmatch(r"(?:([0-9.eE+-]+)\s*\*\s*)?(\w+)", part.strip())
        try:
            factor = 1.0 if found is None or found[1] is None else float(found[1])
        except ValueError:
            found = None
        if found is None or found[2] not in NAMES or found[2] in factors or not 0 < factor < math.inf:
            raise ConfigError(
                f"loss.terms={text!r}: {part.strip()!r} is not a loss, or not with a positive factor, or not the first "
                f"of its name. Write a sum such as 'rel_l2 + 0.1 * rel_h1', of: {', '.join(NAMES)}."
            )
        factors[found[2]] = factor
    return factors


class TrainingLoss:
    """The mean over samples of the sum that `settings` names.

    Args:
        settings: Terms and their parameters.
        spec: Channels and grid of the data.
        pde: The equation, whose residual a term may be.

    Raises:
        ConfigError: A term is unknown, or has no meaning for these data.
    """

    def __init__(self, settings: Loss, spec: Spec, pde: PDE | None = None):
        self.settings, self.grid, self.factors, self.pde = settings, spec.grid, parse(settings.terms), pde
        if "residual" in self.factors and (pde is None or type(pde).residual is PDE.residual):
            raise ConfigError(
                f"loss.terms={settings.terms!r}: {pde.equation if pde else 'this equation'} has no residual to "
                "minimise; darcy has. Leave it out."
            )
        if "energy" in self.factors and (spec.inputs[0] != "a" or spec.grid.location == "periodic"):
            raise ConfigError(
                f"loss.terms={settings.terms!r}: energy weighs gradients by the coefficient a, but the first input of "
                f"these data is {spec.inputs[0]}. Leave it out."
            )

    def __call__(self, prediction: Tensor, truth: Tensor, inputs: Tensor, channels: int) -> Tensor:
        """A number to minimise.

        Args:
            prediction: `(b, t c, *x)`, frames as channels.
            truth: Likewise.
            inputs: What the prediction was made from, `(b, k, *x)`.
            channels: Channels of a frame, c.
        """
        if self.settings.frames == "each":
            inputs = inputs.repeat_interleave(truth.shape[1] // channels, 0)
            prediction, truth = (v.unflatten(1, (-1, channels)).flatten(0, 1) for v in (prediction, truth))
        grid = replace(self.grid, shape=tuple(truth.shape[2:]))  # training batches may be on coarser grids
        error = prediction - truth
        total = torch.zeros(len(error), dtype=error.dtype, device=error.device)
        least = torch.finfo(error.dtype).tiny  # the root has no gradient at zero
        for name, factor in self.factors.items():
            if name == "mse":
                total = total + factor * error.square().flatten(1).mean(1)
                continue
            if name == "residual" and self.pde is not None:
                total = total + factor * self.pde.residual(inputs, prediction)
                continue
            above, below = (RELATIVE[name](v, inputs, self.settings, grid) for v in (error, truth))
            total = total + factor * (above.clamp_min(least) / below).sqrt()
        return total.mean()

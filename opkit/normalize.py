"""Channel-wise standardisation x -> (x - mean) / std, the only normaliser.

One mean and one standard deviation per channel, never per pixel, so that the same statistics serve every grid.
Buffers, so they are saved, moved and exported with the model.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalizer(nn.Module):
    """Standardise the channels of `(b, c, *x)`.

    Args:
        mean: One number per channel, in physical units.
        std: One positive number per channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        if mean.shape != std.shape or mean.ndim != 1 or not bool((std > 0).all()):
            raise ValueError(f"Normalizer needs one mean and one positive std per channel, got {mean} and {std}.")
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def fit(cls, batches: Iterable[Float[Tensor, "n c *x"]]) -> "Normalizer":
        """Statistics of the training split, taken batch by batch. A channel that never varies is only centred."""
        count, mean, squares = 0, torch.zeros(()), torch.zeros(())
        for values in batches:  # Chan, Golub and LeVeque (1979): moments of parts, combined without cancellation
            wide = values.to("cpu", torch.float64).transpose(0, 1).flatten(1)
            n, part = wide.shape[1], wide.mean(1)
            shift = part - mean
            mean = mean + shift * n / (count + n)
            squares = squares + ((wide - part[:, None]) ** 2).sum(1) + shift**2 * count * n / (count + n)
            count += n
        std = torch.sqrt(squares / count)
        std = torch.where(std > 1e-12 * (1 + mean.abs()), std, 1.0)
        return cls(mean.float(), std.float())

    def forward(self, values: Float[Tensor, "b c *x"]) -> Float[Tensor, "b c *x"]:
        """To zero mean and unit variance."""
        return (values - _column(self.mean, values)) / _column(self.std, values)

    def inverse(self, values: Float[Tensor, "b c *x"]) -> Float[Tensor, "b c *x"]:
        """Back to physical units."""
        return values * _column(self.std, values) + _column(self.mean, values)


def _column(statistic: Tensor, values: Tensor) -> Tensor:
    return statistic.view(-1, *(1 for _ in values.shape[2:]))

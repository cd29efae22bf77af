"""Layers that several architectures share."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from opkit.models.activations import activation as make_activation
from opkit.models.kernels import linear

FFN = Literal["mlp", "glu", "bilinear", "reglu", "geglu", "swiglu"]

GATES: dict[str, str] = {"glu": "sigmoid", "bilinear": "identity", "reglu": "relu", "geglu": "gelu", "swiglu": "silu"}


class Linear(nn.Linear):
    """`torch.nn.Linear` by `opkit.models.kernels.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class Pointwise(nn.Linear):
    """The same linear layer at every point of `(b, c, *x)`."""

    def matrix(self) -> Tensor:
        return self.weight

    def forward(self, u: Tensor) -> Tensor:
        weight = self.matrix()
        weight = weight.expand(u.shape[0], *weight.shape)
        bias: Tensor | None = self.bias
        if bias is None:
            return torch.bmm(weight, u.flatten(2)).unflatten(2, u.shape[2:])
        return torch.baddbmm(bias[:, None], weight, u.flatten(2)).unflatten(2, u.shape[2:])


class BoundedPointwise(Pointwise):
    """The same with a matrix that lengthens no vector: divided by its largest singular value where that is above one.

    Miyato et al. 2018 (arXiv 1802.05957), who divide always; McCabe et al. 2023 (arXiv 2306.10619) where needed. The
    singular value is computed, not estimated by a power iteration, so that it has no state. At first no singular value
    is below one either, else signals die away through bounded layers.
    """

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.orthogonal_(self.weight)

    def matrix(self) -> Tensor:
        return self.weight / torch.linalg.matrix_norm(self.weight, 2).clamp_min(1)


class FeedForward(nn.Module):
    """Two-layer network applied to the last axis: W2 act(W1 x + b1) + b2, or a gated variant of it.

    The gated ones are W2 (gate(W1 x + b1) * (V x + c)) + b2, Shazeer 2020 (arXiv 2002.05202), their hidden width two
    thirds of `hidden` so that the number of parameters stays about the same.

    Args:
        width: Length of the last axis.
        hidden: Hidden width.
        activation: Of "mlp"; the gated variants name theirs.
        ffn: "mlp", or gated by sigmoid ("glu"), nothing ("bilinear"), "reglu", "geglu", "swiglu".
        dropout: After the hidden layer.
    """

    def __init__(self, width: int, hidden: int, activation: str = "gelu", ffn: FFN = "mlp", dropout: float = 0.0):
        super().__init__()
        if ffn not in get_args(FFN):
            raise ValueError(f"ffn={ffn!r} is not known; there are: {', '.join(get_args(FFN))}.")
        self.gated = ffn != "mlp"
        if self.gated:
            hidden = max(1, round(2 * hidden / 3))
            self.activation = nn.Sigmoid() if ffn == "glu" else make_activation(GATES[ffn])
        else:
            self.activation = make_activation(activation)
        self.inner = Linear(width, 2 * hidden if self.gated else hidden)
        self.dropout = nn.Dropout(dropout)
        self.outer = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape[:-1]
        x = self.inner(x.flatten(0, -2))
        if self.gated:
            gate, value = x.chunk(2, -1)
            x = self.activation(gate) * value
        else:
            x = self.activation(x)
        return self.outer(self.dropout(x)).unflatten(0, shape)

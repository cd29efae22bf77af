"""What a model must be: an `nn.Module` that maps `(b, c_in, *x)` to `(b, c_out, *x)` on any grid it supports."""

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor, nn

from opkit.grid import Spec


class Operator(nn.Module, ABC):
    """Base of all models. Constructors take `in_channels`, `out_channels` and `location` first-hand, then their own
    named arguments with defaults; that signature is the configuration schema and what a bundle stores."""

    @abstractmethod
    def forward(self, u: Tensor) -> Tensor:
        """Map `(b, c_in, *x)` to `(b, c_out, *x)`."""

    @classmethod
    def build(cls, spec: Spec, **arguments: Any) -> Self:
        """The model for data described by `spec`; `arguments` are the constructor's own."""
        return cls(
            in_channels=len(spec.inputs), out_channels=len(spec.outputs), location=spec.grid.location, **arguments
        )

    @classmethod
    def check(cls, spec: Spec, arguments: dict[str, Any]) -> None:
        """Refuse, before data or GPU are touched, what `build` would accept but never could train on `spec`.

        Raises:
            ValueError: Names the argument, its value and what is possible.
        """

    def prepare_export(self) -> int:
        """Switch, in place, to the code path that torch.export can trace with free grid sizes.

        Returns:
            The fewest points per axis that path allows.
        """
        return 8


def count_parameters(module: nn.Module) -> int:
    """Number of trainable real scalars."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters() if p.requires_grad)

"""What an equation must provide, and nothing about files, batches, devices or networks.

A PDE is a frozen dataclass whose fields are its physical and numerical parameters: they are the constructor, the
command line (`pde.resolution=141`), the attributes of every data file and the key under which data are stored.
"""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from opkit.grid import Grid, Spec


@dataclass(frozen=True)
class Labels:
    """What `PDE.label` returns: fields to store by name, `(n, *x)` or `(n, t, *x)`, and figures of the solver."""

    fields: dict[str, Tensor]
    diagnostics: dict[str, Tensor]


class PDE(ABC):
    """An equation with a distribution over its inputs and a solver: the map `a -> u` a network is to learn.

    Subclasses are frozen dataclasses with a field `resolution`; they name their equation and channels and define
    `grid`, `on`, `sample` and `_solve`.
    """

    equation: ClassVar[str]
    """Name of the equation; enters the random key, so that two equations never share a stream."""
    formula: ClassVar[str]
    """The equation in one line of plain text, for cards and bundles."""
    inputs: ClassVar[tuple[str, ...]]
    """Names of the input channels."""
    outputs: ClassVar[tuple[str, ...]]
    """Names of the output channels."""

    resolution: int
    label_resolution: int

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """The grid fields live on."""

    @property
    def times(self) -> Tensor | None:
        """Times of the frames, starting at 0; None where the equation is steady."""
        return None

    @abstractmethod
    def sample(self, n: int, seed: int = 0, first: int = 0) -> Tensor:
        """Random inputs `first .. first + n - 1`, float64 `(n, c, *x)`; sample i depends on (seed, i) alone.

        Args:
            n: How many.
            seed: Seed of the whole set.
            first: Index of the first one. The splits of a dataset are the index ranges from `opkit.fields.first_index`.
        """

    @abstractmethod
    def _solve(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Solution for checked float64 inputs, and per-sample diagnostics of the solver."""

    @property
    def boundary(self) -> str:
        """Boundary condition of the solution, in words."""
        return "periodic" if self.grid.location == "periodic" else "unspecified"

    @property
    def symmetries(self) -> int:
        """How many generating symmetries training may apply to a sample, 0 for none: reflections of each axis, then
        exchange of the first two axes. Right only where both the equation and the law of its inputs have them and all
        fields are scalars."""
        return 0

    @property
    def input_law(self) -> str:
        """Distribution of the inputs in one line, for cards and bundles."""
        return ""

    @property
    def spec(self) -> Spec:
        """Channel names and grid, for building a model."""
        return Spec(self.inputs, self.outputs, self.grid)

    @property
    def label_grid(self) -> Grid:
        """The grid labels are solved on: the smallest refinement of `grid` with `label_resolution` points a side.

        It contains every point of `grid`, so restricting a solution to the stored grid needs no interpolation.
        """
        gap = 1 if self.grid.location == "node" else 0
        factor = -(-(self.label_resolution - gap) // (self.resolution - gap))
        return self.grid.refine(max(1, factor))

    def on(self, resolution: int) -> "PDE":
        """The same problem on another grid: every other parameter is kept."""
        return dataclasses.replace(self, resolution=resolution)  # type: ignore[type-var]

    def parameters(self) -> dict[str, Any]:
        """Constructor arguments by name; JSON values only."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def solve(self, inputs: Any) -> Any:
        """Solution u for given inputs, on this grid, in float64.

        Args:
            inputs: `(n, c, *x)` on `grid`, a torch tensor on any device or a numpy array. Every PDE accepts any input
                on its grid, not only its own samples.

        Returns:
            Steady: `(n, c, *x)`. Evolution: `(n, t, c, *x)`, frame 0 being the input. Torch in, torch out; numpy in,
            numpy out.

        Raises:
            ValueError: Wrong shape or values the equation cannot take; the message says which.
        """
        tensor = torch.from_numpy(inputs) if isinstance(inputs, np.ndarray) else inputs
        expected = (len(self.inputs), *self.grid.shape)
        if not isinstance(tensor, Tensor) or tensor.ndim != len(expected) + 1 or tensor.shape[1:] != expected:
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(inputs).__name__
            raise ValueError(
                f"{type(self).__name__}(resolution={self.resolution}).solve expects inputs of shape "
                f"(n, {', '.join(map(str, expected))}), got {got}."
            )
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{type(self).__name__}.solve got inputs that are not finite.")
        solution, _ = self._solve(tensor.to(torch.float64))
        return solution.numpy() if isinstance(inputs, np.ndarray) else solution

    def label(self, n: int, seed: int, first: int, device: str = "cpu") -> Labels:
        """Inputs and labels for a dataset: drawn and solved on `label_grid`, restricted to `grid`."""
        fine = self.on(self.label_grid.shape[0])
        inputs = fine.sample(n, seed, first)
        outputs, diagnostics = fine._solve(inputs.to(device))
        fields: dict[str, Tensor] = {}
        for names, values in ((self.inputs, inputs), (self.outputs, outputs)):
            stored = fine.grid.resample(values.cpu(), self.grid, "strided")
            fields |= {name: stored.select(-self.grid.ndim - 1, i) for i, name in enumerate(names)}
        return Labels(fields, {k: v.cpu() for k, v in diagnostics.items()})

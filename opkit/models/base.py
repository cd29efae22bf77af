"""What a model must be: an `nn.Module` that maps `(b, c_in, *x)` to `(b, c_out, *x)` on any grid it supports."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from opkit.grid import Grid, Location, Method, Spec

Resolution = Literal["native", "latent", "project"]
"""How a model meets a grid finer than the one it was trained on.

native     the same layers act on the finer grid: the function converges as the grid is refined
latent     part of the network works on a latent grid of fixed size, between resampling layers; the rest on the grid
project    the field is brought to the training grid, the network runs there, its output is interpolated back: what it
           knows ends at the training grid
"""


class Operator(nn.Module, ABC):
    """Base of all models.

    A constructor takes first what the data decide, then its own named arguments with defaults. Which of its arguments
    the data decide is read from its signature: those named as in `of_spec`. The rest is the configuration schema, and
    what a bundle stores.
    """

    resolution: Resolution = "native"
    """How it meets a finer grid; an instance may differ from its class."""
    in_channels: int
    ndim: int
    least: int = 2
    """Fewest points per axis."""
    compile_pays: bool = True
    """Whether its training step on a CPU is faster, or not slower, through torch.compile."""

    OF_SPEC: ClassVar[dict[str, Callable[[Spec], Any]]] = {
        "in_channels": lambda spec: len(spec.inputs),
        "out_channels": lambda spec: len(spec.outputs),
        "ndim": lambda spec: spec.grid.ndim,
        "location": lambda spec: spec.grid.location,
        "boundary": lambda spec: spec.boundary,
        "shape": lambda spec: spec.grid.shape,
    }
    """Constructor arguments that the data decide: channels, number of axes, kind of grid (`Location`), boundary
    condition of the output (`Boundary`), points per axis of the training grid."""

    arguments: dict[str, Any]
    """What the constructor was called with, by name; with the class, enough to build it again."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        operator = super().__new__(cls)
        if args or kwargs:  # copies and unpickled models bring their own
            operator.__dict__["arguments"] = dict(inspect.signature(cls).bind(*args, **kwargs).arguments)
        return operator

    @abstractmethod
    def forward(self, u: Tensor) -> Tensor:
        """Map `(b, c_in, *x)` to `(b, c_out, *x)`."""

    @classmethod
    def from_data(cls) -> set[str]:
        """The constructor's arguments that `build` takes from the data."""
        return set(inspect.signature(cls).parameters) & set(cls.OF_SPEC)

    @classmethod
    def build(cls, spec: Spec, **arguments: Any) -> Self:
        """The model for data described by `spec`; `arguments` are the constructor's own.

        An argument that the data would decide may be among them, and then stands: weights of an original that takes its
        positions from another kind of grid, say.
        """
        return cls(**{name: cls.OF_SPEC[name](spec) for name in cls.from_data()} | arguments)

    @classmethod
    def check(cls, spec: Spec, arguments: dict[str, Any]) -> None:
        """Refuse, before data or GPU are touched, what `build` would accept but never could train on `spec`.

        Raises:
            ValueError: Names the argument, its value and what is possible.
        """

    @property
    def highest_waves(self) -> tuple[int, ...] | None:
        """Highest Fourier wave its spectral layers act on, waves per edge along each axis: what lies above comes from
        pointwise layers alone. None where it has no such layers, or where their waves are not those of the grid, as
        between walls or on a padded domain."""
        return None

    def constrain(self, outputs: Tensor) -> Tensor:
        """Impose exactly what is known of the output, in physical units: boundary values, say. Nothing by default."""
        return outputs

    def on_its_grid(self, u: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        """`run` on the grid this model works on, given `u` on any: a model that is tied to its training grid brings
        `u` there and the output back. `run` is all that happens between input and output in physical units, so that
        what is interpolated is a finished prediction, its boundary values included."""
        return run(u)

    def tied(self, shape: tuple[int, ...]) -> "Operator":
        """This network as one that was trained on a grid of so many points per axis: itself, unless its layers are in
        units of the grid's spacing and it was not told which grid."""
        return self

    def prepare_export(self) -> int:
        """Switch, in place, to the code path that torch.export can trace with free grid sizes.

        Returns:
            The fewest points per axis that path allows.
        """
        return max(8, self.least)

    def check_input(self, u: Tensor) -> None:
        """Refuse a tensor of the wrong shape.

        Raises:
            ValueError: Says which shape was expected and which was given.
        """
        name, axes = type(self).__name__, ", ".join("xyz"[: self.ndim])
        if u.ndim != self.ndim + 2 or u.shape[1] != self.in_channels:
            raise ValueError(
                f"{name} with {self.in_channels} input channel(s) and {self.ndim} axis(es) expects a tensor of shape "
                f"(batch, {self.in_channels}, {axes}), got {tuple(u.shape)}."
            )
        for n in u.shape[2:]:
            if n < self.least:
                raise ValueError(
                    f"{name} needs at least {self.least} points per axis, got {tuple(u.shape[2:])}. Use a finer grid."
                )


def zero_walls(outputs: Tensor) -> Tensor:
    """The field `(b, c, *x)`, its first and last point along every axis set to zero."""
    for axis in range(2, outputs.ndim):
        outputs = outputs.narrow(axis, 1, outputs.shape[axis] - 2)
    return nn.functional.pad(outputs, (1, 1) * (outputs.ndim - 2))


def projected(u: Tensor, shape: tuple[int, ...], location: Location, run: Callable[[Tensor], Tensor]) -> Tensor:
    """Run a network that is tied to a training grid on any other: `resolution = "project"`.

    The input is taken to the training grid (at coinciding points where they are, else linearly, on periodic grids by
    truncating its Fourier series), the output back (by Fourier series on periodic grids, else cubic splines).

    Args:
        u: Field `(b, c, *x)`.
        shape: Points per axis of the training grid.
        location: Kind of both grids.
        run: The network on the training grid.
    """
    if tuple(u.shape[2:]) == shape:
        return run(u)
    here, training = Grid(tuple(u.shape[2:]), location), Grid(shape, location)
    nested = training.stride_in(here) is not None
    down: Method = "strided" if nested else "spectral" if location == "periodic" else "linear"
    up: Method = "spectral" if location == "periodic" else "cubic"
    return training.resample(run(here.resample(u, training, down)), here, up)


def count_parameters(module: nn.Module) -> int:
    """Number of trainable real scalars."""
    return sum(p.numel() * (2 if p.is_complex() else 1) for p in module.parameters() if p.requires_grad)

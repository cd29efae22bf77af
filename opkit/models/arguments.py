"""Refusals that constructors share; each names the argument, its value and what is accepted."""

import inspect
from typing import Any, get_args

from opkit.grid import LOCATIONS, Spec


def check_least(least: int = 1, **sizes: int) -> None:
    """Refuse a number below `least`."""
    for name, value in sizes.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}.")


def check_sizes(sizes: dict[str, int], n_modes: tuple[int, ...], location: str, padding: float) -> None:
    """Refuse what no Fourier network has: sizes below one, other than one to three axes, a padding out of range."""
    check_least(**sizes)
    if not 1 <= len(n_modes) <= 3 or any(n < 1 for n in n_modes):
        raise ValueError(f"n_modes needs one positive number per axis (1 to 3 axes), got {n_modes}.")
    if not 0 <= padding <= 1:
        raise ValueError(f"padding is a fraction of the domain between 0 and 1, got {padding}.")
    if location not in LOCATIONS:
        raise ValueError(f"location is one of {', '.join(LOCATIONS)}, got {location!r}.")


def check_names(**given: tuple[Any, Any]) -> None:
    """Refuse a value that is not among those of its `Literal` type."""
    for name, (value, kind) in given.items():
        if value not in get_args(kind):
            raise ValueError(f"{name} is one of {', '.join(get_args(kind))}, got {value!r}.")


def check_idle(kind: type, arguments: dict[str, Any], why: str, *names: str) -> None:
    """Refuse what was set and has no effect beside the other arguments.

    Args:
        kind: Class of the model, whose defaults are not refused.
        arguments: Those of its constructor.
        why: Where they have none, to complete "has no effect ..".
        names: The arguments that have none.
    """
    for name in names:
        default = inspect.signature(kind).parameters[name].default
        value = arguments.get(name, default)
        if (tuple(value) if isinstance(value, list) else value) != default:
            usual = "null" if default is None else default
            raise ValueError(f"{name}={value} has no effect {why}. Leave it at its default, {usual}.")


def check_modes(n_modes: tuple[int, ...], spec: Spec) -> None:
    """Refuse modes that the training grid does not have."""
    if len(n_modes) != spec.grid.ndim:
        raise ValueError(
            f"n_modes={n_modes} has {len(n_modes)} entries, but the data have {spec.grid.ndim} axes. "
            f"Give one number of modes per axis."
        )
    for n, points in zip(n_modes, spec.grid.shape, strict=True):
        if n > points:
            raise ValueError(
                f"n_modes={n_modes} asks for more modes than the training grid of {spec.grid.shape} points has. "
                f"Lower model.n_modes to at most {spec.grid.shape}, or raise pde.resolution."
            )

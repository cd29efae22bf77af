"""How a surrogate advances an evolution equation: from `history` frames to the next `bundle` frames.

Frames are laid out as channels, oldest first: w[-2], w[-1], w[0] -> w[1], w[2]; parameters drawn per sample follow as
constant channels. With target "residual" the network gives the change from w[0], else the frame itself.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice

import torch
from torch import Tensor

from opkit.errors import ConfigError
from opkit.grid import Spec
from opkit.settings import Stepping, Unroll


def stepped(spec: Spec, stepping: Stepping, times: Tensor | None) -> Spec:
    """The channels of the network, given those of the equation.

    Args:
        spec: Channels of the equation: its state and constant channels, and its state.
        stepping: How to advance.
        times: Frames of the data, `(t,)`; None where the equation is steady.

    Raises:
        ConfigError: A steady equation is asked to step, or trajectories are too short.
    """
    if times is None:
        _refuse("stepping", stepping, "step")
        return spec
    if windows(len(times), stepping) < 1:
        raise ConfigError(
            f"stepping.history={stepping.history} and stepping.bundle={stepping.bundle} need "
            f"{stepping.history + stepping.bundle} frames, but pde.times has {len(times)}. Lower them, or give more "
            "times."
        )
    states, constants = spec.outputs, spec.inputs[len(spec.outputs) :]
    before, after = range(1 - stepping.history, 1), range(1, stepping.bundle + 1)
    inputs = states if stepping.history == 1 else tuple(f"{name}[{k}]" for k in before for name in states)
    outputs = states if stepping.bundle == 1 else tuple(f"{name}[{k}]" for k in after for name in states)
    return Spec(inputs + constants, outputs, spec.grid, spec.boundary)


def unrolled(stepping: Stepping, unroll: Unroll, times: Tensor | None) -> Stepping:
    """The windows to train on: as many frames ahead as `unroll.steps` calls of the network predict.

    Raises:
        ConfigError: A steady equation is asked to step, or trajectories are too short.
    """
    if times is None:
        _refuse("unroll", unroll, "unroll")
        return stepping
    longer = replace(stepping, bundle=stepping.bundle * unroll.steps)
    if windows(len(times), longer) < 1:
        raise ConfigError(
            f"unroll.steps={unroll.steps} needs {longer.history + longer.bundle} frames (stepping.history="
            f"{stepping.history}, stepping.bundle={stepping.bundle}), but pde.times has {len(times)}. Lower it, or "
            "give more times."
        )
    return longer


def _refuse(section: str, settings: Stepping | Unroll, verb: str) -> None:
    for name, default in vars(type(settings)()).items():
        if (given := getattr(settings, name)) != default:
            raise ConfigError(
                f"{section}.{name}={given}: this equation is steady, there is nothing to {verb}. Leave {section}.* out."
            )


def roll_out(
    step: Callable[[Tensor], Tensor], inputs: Tensor, given: int, calls: int, without_gradient: int = 0
) -> list[Tensor]:
    """What a map from frames to the next frames gives when it is applied to its own output.

    Args:
        step: From states and constant channels to the next frames, `(b, given + k, *x)` to `(b, bundle c, *x)`.
        inputs: States and constant channels at the start.
        given: Channels of states.
        calls: How often to apply it.
        without_gradient: How many of the first calls to make without gradients.

    Returns:
        The frames of every call.
    """
    return list(islice(advance(step, inputs, given, without_gradient), calls))


def advance(
    step: Callable[[Tensor], Tensor], inputs: Tensor, given: int, without_gradient: int = 0
) -> Iterator[Tensor]:
    """What `roll_out` returns, call by call and without end; keeps the last `given` channels alone."""
    states, constants = inputs[:, :given], inputs[:, given:]
    for call in count():
        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= without_gradient):
            frames = step(torch.cat([states, constants], 1) if call else inputs)
        yield frames
        states = torch.cat([states, frames], 1)[:, -given:]


def windows(frames: int, stepping: Stepping) -> int:
    """How many (history, bundle) pairs a trajectory of `frames` holds."""
    return frames - stepping.history - stepping.bundle + 1


def window(frames: Tensor, constants: Tensor, rows: Tensor, start: Tensor, stepping: Stepping) -> tuple[Tensor, Tensor]:
    """(input, target) fields of some windows of trajectories.

    Args:
        frames: All frames, `(n, t, c, *x)`.
        constants: Parameters drawn per sample, `(n, k)`.
        rows: Which samples, `(b,)`.
        start: First frame of each window, `(b,)`.
        stepping: How many frames go in and out.

    Returns:
        `(b, history c + k, *x)` and `(b, bundle c, *x)`.
    """
    index = start[:, None] + torch.arange(stepping.history + stepping.bundle, device=start.device)
    chosen = frames[rows[:, None], index]
    before, after = chosen[:, : stepping.history].flatten(1, 2), chosen[:, stepping.history :].flatten(1, 2)
    return with_constants(before, constants[rows]), after


def with_constants(states: Tensor, constants: Tensor) -> Tensor:
    """Append constant channels `(b, k)` to `(b, c, *x)`."""
    if not constants.shape[1]:
        return states
    channels = constants.view(*constants.shape, *(1 for _ in states.shape[2:]))
    return torch.cat([states, channels.expand(*constants.shape, *states.shape[2:])], 1)


def time_step(times: Tensor | None) -> float | None:
    """Time between frames, which a surrogate advances by; None where the equation is steady.

    Raises:
        ConfigError: Frames are not evenly spaced, so that no one map leads from each to the next.
    """
    if times is None:
        return None
    gaps = times.diff()
    if float(gaps.max() - gaps.min()) > 1e-9 * float(gaps.max()):
        raise ConfigError(
            f"pde.times={times.tolist()} are not evenly spaced, but a surrogate learns one step, from each "
            "frame to the next. Give evenly spaced times."
        )
    return float(gaps.mean())

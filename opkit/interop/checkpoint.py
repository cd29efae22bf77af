"""A published checkpoint file becomes a bundle that `opkit.load` opens.

    opkit convert FNO_darcy.pt source=neuraloperator.FNO --pde darcy reference.n_modes=[16,16] ...

Only files of plain tensors are read: safetensors, or what torch.save wrote of a state dict, with `weights_only=True`. A
pickled model is refused with instructions, since reading it would run code of whoever made it.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opkit.errors import ConfigError, DataError
from opkit.interop import from_reference
from opkit.models import Operator
from opkit.normalize import Normalizer
from opkit.pdes import PDE
from opkit.registry import Architecture, names, read
from opkit.settings import Data, Stepping
from opkit.stepping import stepped
from opkit.surrogate import PhysicalOperator, Surrogate, physics, residual_channels

NESTED = ("state_dict", "model_state_dict", "model", "net", "params")
"""Entries under which training scripts keep a state dict among other things."""
NAMED_ONLY = ("torch._C._nn.", "torch.nn.functional.", "neuralop.")
"""Where functions and classes live that a state dict may name without their being imported."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every key."""


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights in a checkpoint file, wrappers' prefixes removed, and what it says of the constructor's arguments.

    Args:
        path: A .safetensors file, or one torch.save wrote of a state dict or a dict that holds one.

    Returns:
        Weights by name, and arguments by name: those neuraloperator keeps under `_metadata`, else none.

    Raises:
        DataError: It is no such file, or holds Python objects.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    content = _read(path)
    if not isinstance(content, Mapping):
        raise DataError(
            f"{path} holds a {type(content).__name__}, not a state dict. Where you trust it: "
            "torch.save(model.state_dict(), 'weights.pt')."
        )
    if not any(isinstance(v, Tensor) for v in content.values()):
        found = [k for k in NESTED if isinstance(content.get(k), Mapping)]
        if not found:
            raise DataError(
                f"{path} holds no weights: its entries are {', '.join(map(repr, list(content)[:8]))}. A state dict "
                f"maps names to tensors, at the top or under {', '.join(NESTED)}."
            )
        content = content[found[0]]
    weights = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    while weights and (prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in weights)), "")):
        weights = {k.removeprefix(prefix): v for k, v in weights.items()}
    stated = content.get("_metadata")
    if not isinstance(stated, Mapping):
        return weights, {}
    named = {k: v.__name__ if isinstance(v, type) else v for k, v in stated.items()}
    return weights, {k: v for k, v in named.items() if not k.startswith("_") and k != "args"}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as problem:
            raise DataError(f"{path} cannot be read ({problem}).") from None
    try:
        with torch.serialization.safe_globals(_inert(path)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        text = str(problem)
        if any(word in text for word in ("weights_only", "Unsupported", "WeightsUnpickler")):
            raise DataError(
                f"{path} holds Python objects, such as a whole model, that run code when they are read, so it was not "
                "read. Where you trust it, with the original's code at hand: "
                "torch.save(torch.load(file, weights_only=False).state_dict(), 'weights.pt'), and convert that."
            ) from None
        reason = text.splitlines()[0] if " " in text else "no file that torch.save wrote"
        raise DataError(f"{path} cannot be read ({reason}).") from None


def _inert(path: Path) -> list[Any]:
    """Stand-ins for functions and classes that neuraloperator's state dicts name: empty classes of the same name.

    Nothing is imported; torch's reader puts the stand-in where the name stands.
    """
    try:
        needed = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # no zip file, or damaged: the reader itself says so
        return []
    return [(type(n.rpartition(".")[2], (), {}), n) for n in needed if n.startswith(NAMED_ONLY)]


def to_surrogate(
    weights: Mapping[str, Tensor],
    source: str,
    config: dict[str, Any],
    pde: PDE,
    stepping: Stepping,
    statistics: dict[str, list[float]] | None = None,
) -> Surrogate:
    """The original's network as a surrogate of `pde`.

    Args:
        weights: Its state dict.
        source: A source of `from_reference`.
        config: The original constructor's arguments.
        pde: The problem it was trained on, as far as opkit has it: names channels and grid.
        stepping: Frames in and out, for an evolution equation.
        statistics: "input_mean", "input_std", "output_mean", "output_std", one number per channel each, of the
            normaliser it was trained with; what is left out is 0 and 1.

    Raises:
        ConfigError: Weights, arguments and problem do not fit together.
    """
    try:
        model = from_reference(source, weights, **config)
    except ValueError as problem:
        raise ConfigError(str(problem)) from None
    spec = stepped(pde.spec, stepping, pde.times)
    try:
        with torch.no_grad():
            out = model(torch.zeros(1, len(spec.inputs), *spec.grid.shape, dtype=next(model.parameters()).dtype))
        if out.shape != (1, len(spec.outputs), *spec.grid.shape):
            raise ValueError(f"it gives {out.shape[1]} channels")
    except (ValueError, RuntimeError) as problem:
        raise ConfigError(
            f"{source} with these weights does not map {', '.join(spec.inputs)} to {', '.join(spec.outputs)} on "
            f"{' x '.join(map(str, spec.grid.shape))} points ({str(problem).splitlines()[0]}). Say what it was trained "
            "on with --pde, pde.resolution and stepping.history."
        ) from None
    given = _normalizer(statistics or {}, "input", len(spec.inputs))
    predicted = _normalizer(statistics or {}, "output", len(spec.outputs))
    model = model.tied(spec.grid.shape)
    operator = PhysicalOperator(model, given, predicted, residual_channels(spec, stepping))
    about = physics(pde, Data())
    about["data"] |= {"weights": f"converted from {source}, trained elsewhere on data of its own"}
    return Surrogate(operator, Architecture(name_of(model), _arguments(model)), spec, about, stepping=stepping)


def name_of(model: Operator) -> str:
    """The name in configs/model of a model's class."""
    path = f"{type(model).__module__}.{type(model).__name__}"
    return next(name for name in names("model") if read("model", name).get("class_path") == path)


def _arguments(model: Operator) -> dict[str, Any]:
    """What the model was built with, as JSON holds it. Arguments that data decide are among them even where they were
    left at their defaults: loading the bundle would take them from the problem otherwise."""
    signature = inspect.signature(type(model)).parameters
    decided = {name: signature[name].default for name in model.from_data() - model.arguments.keys()}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in (decided | model.arguments).items()}


def _normalizer(statistics: dict[str, list[float]], side: str, channels: int) -> Normalizer:
    mean = statistics.get(f"{side}_mean") or [0.0] * channels
    std = statistics.get(f"{side}_std") or [1.0] * channels
    for name, values in ((f"{side}_mean", mean), (f"{side}_std", std)):
        if len(values) != channels:
            raise ConfigError(f"{name} needs one number for each of {channels} channel(s), got {values}.")
    try:
        return Normalizer(torch.tensor(mean), torch.tensor(std))
    except ValueError:
        raise ConfigError(f"{side}_std must be positive, got {std}.") from None

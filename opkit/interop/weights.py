"""A foreign state dict, taken apart key by key, so that nothing in it is overlooked and nothing is made up."""

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from opkit.models import Operator, activation

WHOLE = """
    in_channels out_channels hidden_channels n_layers node_feats pos_dim n_targets n_hidden num_encoder_layers n_head
    dim_feedforward num_regressor_layers fourier_modes spacial_dim freq_dim num_layer num_channel_u num_channel_f
    output_dim mlp_hidden_dim trunk_size output_size n_inner mlp_layers horiz_fourier_dim space_dim n_experts
"""
NUMBERS = """
    lifting_channel_ratio projection_channel_ratio channel_mlp_dropout channel_mlp_expansion xavier_init
    diagonal_weight dropout encoder_dropout ffn_dropout decoder_dropout downscaler_dropout upscaler_dropout norm_eps
"""
"""Arguments of the originals that are whole numbers, and numbers, in all of them."""


class Weights:
    """The tensors of an original's state dict; every key must be taken exactly as the original has it.

    Args:
        source: Name of the original, for messages.
        state_dict: Its entries; those that are not tensors are left out.

    Raises:
        ValueError: No tensors, or of several precisions.
    """

    def __init__(self, source: str, state_dict: Mapping[str, Any]):
        if not isinstance(state_dict, Mapping):
            raise ValueError(f"{source}: a state dict maps names to tensors, got a {type(state_dict).__name__}.")
        tensors = {str(k): v.detach().cpu() for k, v in state_dict.items() if isinstance(v, Tensor)}
        self.source, self.rest = source, tensors
        real = {v.real.dtype if v.is_complex() else v.dtype for v in tensors.values() if not _is_integer(v)}
        if len(real) != 1:
            given = ", ".join(sorted(str(d) for d in real)) or "none"
            raise ValueError(f"{source}: the state dict needs floating-point tensors of one precision, got {given}.")
        self.dtype = real.pop()

    def __contains__(self, key: str) -> bool:
        return key in self.rest

    def take(self, key: str, *shape: int) -> Tensor:
        """Remove and return a tensor.

        Raises:
            ValueError: It is not there, or has another shape than `shape`.
        """
        if key not in self.rest:
            near = difflib.get_close_matches(key, self.rest, 1)
            hint = f" The nearest key there is {near[0]!r}." if near else ""
            raise ValueError(f"{self.source}: the state dict lacks {key!r}, of shape {shape}.{hint}")
        tensor = self.rest.pop(key)
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{self.source}: {key!r} has shape {tuple(tensor.shape)}, these arguments need {shape}. Give the "
                "arguments the weights were made with."
            )
        return tensor

    def drop(self, key: str) -> None:
        """Ignore a tensor that the original stores and does not need."""
        self.rest.pop(key, None)

    def into(self, model: Operator, state: dict[str, Tensor]) -> Operator:
        """Load what was taken, under our names, into `model`.

        Raises:
            ValueError: Keys of the original are left over.
        """
        if self.rest:
            extra = sorted(self.rest)
            more = f" and {len(extra) - 5} more" if len(extra) > 5 else ""
            raise ValueError(
                f"{self.source}: the state dict has keys these arguments have no place for: "
                f"{', '.join(map(repr, extra[:5]))}{more}. Give the arguments the weights were made with."
            )
        model = model.to(self.dtype)
        model.load_state_dict({name: value.contiguous() for name, value in state.items()}, strict=True)
        return model.eval()


def _is_integer(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()


def arguments(source: str, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The original's constructor arguments: its defaults, and over them those given; lists become tuples.

    Raises:
        ValueError: An argument the original does not have.
    """
    for name in given:
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{source} has no argument {name!r}; it has: {', '.join(defaults)}.{hint}")
    for name, value in given.items():
        for names, kind, words in ((WHOLE, int, "a whole number"), (NUMBERS, int | float, "a number")):
            if name in names.split() and value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                raise ValueError(f"{source}: {name}={value!r} should be {words}.")
    return {name: tupled(given.get(name, default)) for name, default in defaults.items()}


def tupled(value: Any) -> Any:
    return tuple(tupled(v) for v in value) if isinstance(value, list | tuple) else value


def activation_name(source: str, argument: str, value: Any) -> str:
    """opkit's name of an activation given as a function, a module (class) or a name in `torch.nn.functional`.

    Raises:
        ValueError: There is no counterpart.
    """
    names = {
        "gelu": "gelu", "relu": "relu", "leaky_relu": "leaky_relu", "leakyrelu": "leaky_relu", "elu": "elu",
        "silu": "silu", "swish": "silu", "mish": "mish", "tanh": "tanh", "softplus": "softplus", "sin": "sine",
        "identity": "identity",
    }  # fmt: skip
    name = value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)
    if name.lower() not in names:
        raise ValueError(f"{source}: {argument}={name!r} has no counterpart; accepted are {', '.join(names)}.")
    found = names[name.lower()]
    x = torch.linspace(-3, 3, 13)
    if isinstance(value, nn.Module) and not torch.allclose(value(x), activation(found)(x), atol=1e-5):
        raise ValueError(f"{source}: {argument}={value!r} has no counterpart with these arguments of its own.")
    return found


def refuse(source: str, values: dict[str, Any], **accepted: Any) -> None:
    """Raise where an argument has a value the opkit model does not have.

    Args:
        source: Name of the original.
        values: Its arguments.
        **accepted: For an argument, the only value that can be converted, or a set of them.
    """
    for name, allowed in accepted.items():
        possible = allowed if isinstance(allowed, set | frozenset) else {allowed}
        if values[name] not in possible:
            listed = " or ".join(sorted(map(repr, possible)))
            raise ValueError(f"{source}: {name}={values[name]!r} cannot be converted; it must be {listed}.")


def as_real(tensor: Tensor) -> Tensor:
    """A complex tensor as real pairs, `(..., 2)`."""
    return torch.view_as_real(tensor.resolve_conj())

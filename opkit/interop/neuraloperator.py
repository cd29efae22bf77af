"""neuraloperator 2.0.0's FNO (Kossaifi et al., arXiv 2412.10354; https://github.com/neuraloperator/neuraloperator).

Its factorised weights are multiplied out, separable ones become diagonal matrices, and of weights made with
`max_n_modes` those in use are kept. A bias that an instance norm takes away again is dropped.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from opkit.interop.weights import Weights, activation_name, arguments, as_real, refuse
from opkit.models import FNO, Operator, activation
from opkit.models.spectral import from_factors

SOURCE = "neuraloperator.FNO"
REQUIRED = ("n_modes", "in_channels", "out_channels", "hidden_channels")
DEFAULTS: dict[str, Any] = dict.fromkeys(REQUIRED) | {
    "n_layers": 4, "lifting_channel_ratio": 2, "projection_channel_ratio": 2, "positional_embedding": "grid",
    "non_linearity": "gelu", "norm": None, "complex_data": False, "use_channel_mlp": True, "channel_mlp_dropout": 0,
    "channel_mlp_expansion": 0.5, "channel_mlp_skip": "soft-gating", "fno_skip": "linear",
    "resolution_scaling_factor": None, "domain_padding": None, "fno_block_precision": "full", "stabilizer": None,
    "max_n_modes": None, "factorization": None, "rank": 1.0, "fixed_rank_modes": False, "implementation": "factorized",
    "decomposition_kwargs": None, "separable": False, "preactivation": False, "conv_module": "SpectralConv",
}  # fmt: skip
SKIPS = {None: "none", "linear": "linear", "identity": "identity", "soft-gating": "gate"}
NORMS = {None: "none", "instance_norm": "instance", "group_norm": "group"}
FACTORIZATIONS = ("dense", "tucker", "cp", "tt")


def fno(state_dict: Mapping[str, Any], **config: Any) -> Operator:
    """opkit's FNO with the weights of neuraloperator's; `config` holds that constructor's arguments."""
    weights = Weights(SOURCE, state_dict)
    given = _checked(config)
    n_modes, width, n_layers = given["n_modes"], given["hidden_channels"], given["n_layers"]
    lifting, projection = (int(given[f"{part}_channel_ratio"] * width) for part in ("lifting", "projection"))
    mlp, norm = given["use_channel_mlp"], NORMS[given["norm"]]
    skip, mlp_skip = SKIPS[given["fno_skip"]], SKIPS[given["channel_mlp_skip"]]
    options: dict[str, Any] = {
        "coordinates": given["positional_embedding"] is not None,
        "location": "periodic",  # positions i / n, the end left out
        "activation": _activation(given["non_linearity"]),
        "lifting_width": lifting,
        "skip": skip,
        "mlp_expansion": given["channel_mlp_expansion"] if mlp else 0.0,
        "mlp_skip": mlp_skip,
        "dropout": float(given["channel_mlp_dropout"]),
        "norm": norm,
        "second_activation": "before" if given["preactivation"] else "after",
        "tanh": given["stabilizer"] == "tanh",
        "domain_padding": given["domain_padding"] or 0.0,
    }
    channels = given["in_channels"], given["out_channels"]
    model = FNO(*channels, n_modes, width, n_layers, projection, **options)
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ones = (1,) * len(n_modes)
    state: dict[str, Tensor] = {}

    def take(name: str, key: str, *lead: int, trail: tuple[int, ...] = ()) -> None:
        """Move a weight that differs from ours by axes of length one."""
        shape = ours.get(name, (width,))
        tensor = weights.take(key, *lead, *shape, *trail)
        if name in ours:
            state[name] = tensor.reshape(shape)

    def linear(name: str, key: str) -> None:
        take(f"{name}.weight", f"{key}.weight", trail=(1,))
        take(f"{name}.bias", f"{key}.bias")

    def beside(name: str, key: str, kind: str) -> None:
        if kind == "linear":
            take(f"{name}.weight", f"{key}.conv.weight", trail=(1,))
        elif kind == "gate":
            take(f"{name}.weight", f"{key}.weight", 1, trail=ones)

    for name, key in (("lift.0", "0"), ("lift.2", "1")) if lifting else (("lift", "0"),):
        linear(name, f"lifting.fcs.{key}")
    for i in range(n_layers):
        state[f"spectral_layers.{i}.weight"] = _spectral_weight(weights, f"fno_blocks.convs.{i}.weight", given)
        bias = f"pointwise_layers.{i}.bias"
        take(bias if bias in ours else f"spectral_layers.{i}.bias", f"fno_blocks.convs.{i}.bias", trail=ones)
        beside(f"pointwise_layers.{i}", f"fno_blocks.fno_skips.{i}", skip)
        if mlp:
            linear(f"mlps.{i}.inner", f"fno_blocks.channel_mlp.{i}.fcs.0")
            linear(f"mlps.{i}.outer", f"fno_blocks.channel_mlp.{i}.fcs.1")
            beside(f"mlp_skips.{i}", f"fno_blocks.channel_mlp_skips.{i}", mlp_skip)
        if norm == "group":
            for j, which in enumerate(("first", "second")):
                for part in ("weight", "bias"):
                    take(f"{which}_norms.{i}.{part}", f"fno_blocks.norm.{2 * i + j}.{part}")
    for i in (0, 1):
        linear(f"project.{i}", f"projection.fcs.{i}")
    return weights.into(model, state)


def _checked(config: dict[str, Any]) -> dict[str, Any]:
    given = arguments(SOURCE, DEFAULTS, config)
    for name in REQUIRED:
        if given[name] is None:
            raise ValueError(f"{SOURCE} needs the argument {name}; the original has no default for it.")
    if not isinstance(given["n_modes"], tuple):
        raise ValueError(f"{SOURCE}: n_modes={given['n_modes']!r} must have one number per axis.")
    if isinstance(config.get("domain_padding"), tuple):
        raise ValueError(
            f"{SOURCE}: release 2.0.0 takes domain_padding={config['domain_padding']} for no padding, because it is a "
            "tuple. Give None if the weights were made so, else a list."
        )
    for name in ("fno_skip", "channel_mlp_skip"):
        given[name] = given[name].lower() if isinstance(given[name], str) else given[name]
    given["conv_module"] = getattr(given["conv_module"], "__name__", given["conv_module"])
    refuse(
        SOURCE, given, complex_data=False, resolution_scaling_factor=None, conv_module="SpectralConv",
        fno_block_precision="full", stabilizer={None, "tanh"}, norm=set(NORMS), fno_skip=set(SKIPS),
        channel_mlp_skip=set(SKIPS), implementation={"factorized", "reconstructed"},
    )  # fmt: skip
    embedding = given["positional_embedding"]
    bounds = [[float(x) for x in side] for side in getattr(embedding, "grid_boundaries", ())]
    if embedding not in ("grid", None) and bounds != [[0.0, 1.0]] * len(given["n_modes"]):
        raise ValueError(
            f"{SOURCE}: positional_embedding={embedding!r} cannot be converted; it must be 'grid', None or a grid "
            "embedding from 0 to 1 on every axis."
        )
    return given


def _activation(value: Any) -> str:
    name = activation_name(SOURCE, "non_linearity", value)
    x = torch.linspace(-4, 4, 33)
    if callable(value) and not torch.allclose(value(x), activation(name)(x), atol=1e-6):
        raise ValueError(f"{SOURCE}: non_linearity={value!r} is not the usual {name}, which is all there is.")
    return name


def _spectral_weight(weights: Weights, key: str, given: dict[str, Any]) -> Tensor:
    """A layer's weight as ours, `(*k, i, o, 2)`: multiplied out, cut to the modes in use, channels last."""
    modes = (*given["n_modes"][:-1], given["n_modes"][-1] // 2 + 1)
    stored = given["max_n_modes"] or modes
    stored = (stored,) if isinstance(stored, int) else stored
    if len(stored) != len(modes) or any(n > m for n, m in zip(modes, stored, strict=True)):
        raise ValueError(
            f"{SOURCE}: max_n_modes={stored} must have room for the {modes} modes that n_modes={given['n_modes']} "
            "keeps; the original halves n_modes on the last axis, and not max_n_modes."
        )
    width, separable = given["hidden_channels"], given["separable"]
    named = (given["factorization"] or "dense").lower()
    kind = named.removeprefix("complex")  # those store real pairs
    if kind not in FACTORIZATIONS:
        raise ValueError(
            f"{SOURCE}: factorization={given['factorization']!r} cannot be converted; it must be None or one of "
            f"{', '.join(FACTORIZATIONS)}."
        )
    shape = (width, *stored) if separable else (width, width, *stored)
    factors = []
    for name, part in _parts(kind, shape, given).items():
        tensor = weights.take(f"{key}.{name}", *part, *((2,) if kind != named else ()))
        if kind == named and not tensor.is_complex():
            raise ValueError(f"{SOURCE}: '{key}.{name}' must be complex, it is {tensor.dtype}.")
        factors.append(tensor if kind != named else as_real(tensor))
    weight = from_factors(kind, factors)
    first = 1 if separable else 2
    for axis, (n, m) in enumerate(zip(modes, stored, strict=True)):
        start = 0 if axis == len(modes) - 1 else (m - n) // 2
        weight = weight.narrow(first + axis, start, n)
    if separable:
        return torch.diag_embed(weight.movedim(0, -1)).movedim(-3, -1)
    return weight.movedim((0, 1), (-3, -2))


def _parts(kind: str, shape: tuple[int, ...], given: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of a decomposition's tensors; what rank stands for is the library's own matter."""
    if kind == "dense":
        return {"tensor": shape}
    from tltorch.factorized_tensors.core import FactorizedTensor

    fixed = given["fixed_rank_modes"]
    fixed = ([0] if fixed else None) if isinstance(fixed, bool) else list(fixed)
    tensor = FactorizedTensor.new(
        shape, rank=given["rank"], factorization=kind, fixed_rank_modes=fixed, device="meta",
        **(given["decomposition_kwargs"] or {}),
    )  # fmt: skip
    return {name: tuple(parameter.shape) for name, parameter in tensor.named_parameters()}


SOURCES = {SOURCE: fno}

"""The original MgNO (github.com/xlliu2017/MgNO): He, Liu and Xu, ICLR 2024 (arXiv 2310.19809)."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from opkit.interop.weights import Weights, activation_name, arguments, refuse
from opkit.models import MgNO, Operator

DEFAULTS: dict[str, Any] = dict(
    num_layer=None, num_channel_u=None, num_channel_f=None, num_classes=1, num_iteration=None, in_chans=1,
    normalizer=None, output_dim=1, activation="gelu", padding_mode="zeros",
)  # fmt: skip
"""Of the constructors for Darcy flow, None where there is no default. `num_classes` and `in_chans` have no effect."""
SMOOTH = (3, 4, 3, 3, 4)
"""Points per axis of the up-sampling stencils of MgNO_DC_smooth, of which it always has five."""
VALID = (3, 4, 4, 3)
"""The same of MgNO_helm, between 101, 50, 24, 11 and 5 points."""


def darcy(state_dict: Mapping[str, Any], **config: Any) -> Operator:
    """`mgno.MgNO_DC`: acts on every grid of 2^(L - 1) j points, L its number of levels."""
    return _darcy("mgno.MgNO_DC", None, state_dict, config)


def darcy_smooth(state_dict: Mapping[str, Any], **config: Any) -> Operator:
    """`mgno.MgNO_DC_smooth`: with six levels, acts on every grid of 32 j - 13 points."""
    return _darcy("mgno.MgNO_DC_smooth", SMOOTH, state_dict, config)


def navier_stokes(state_dict: Mapping[str, Any], **config: Any) -> Operator:
    """`mgno.MgNO_NS`: acts on its 64 x 64 grid; other grids are projected to it."""
    source = "mgno.MgNO_NS"
    own = dict(
        in_chans=3, mlp_hidden_dim=0, padding_mode="circular", bias=False, use_res=False, elementwise_affine=True
    )
    given = _arguments(source, {**DEFAULTS, **own}, config)
    channels, hidden = given["num_channel_f"], given["mlp_hidden_dim"]
    head = given["output_dim"] if hidden else 1
    if 1 not in (channels, head) and channels != head:
        raise ValueError(
            f"{source} adds its input to its output: num_channel_f={channels} and output_dim={head} must be equal, or "
            "one of them 1."
        )
    outputs = max(channels, head)
    weights = Weights(source, state_dict)
    model = MgNO(
        channels, outputs, shape=(64, 64), location="periodic", boundary="periodic", skip=False, residual=True,
        bias=given["bias"], restrict_residual=given["use_res"], norm="layer", norm_affine=given["elementwise_affine"],
        head="mlp" if hidden else "linear", projection_width=hidden or 1, pad_upsampling=False,
        **_common(source, given),
    )  # fmt: skip
    state: dict[str, Tensor] = {}
    width = given["num_channel_u"]
    for i in range(given["num_layer"]):
        size, kernels = width if i else channels, (4,) * (len(given["num_iteration"]) - 1)
        _cycle(weights, state, f"conv_list.{i}", f"cycles.{i}", size, width, given, kernels)
    last = "last_layer.2" if hidden else "last_layer"
    if hidden:
        state["head.0.weight"] = weights.take("last_layer.0.weight", hidden, width, 1, 1)
        state["head.0.bias"] = weights.take("last_layer.0.bias", hidden)
    # One output and several inputs: the original's sum of both spreads the output over them.
    rows = weights.take(f"{last}.weight", head, hidden or width, 1, 1).expand(outputs, -1, -1, -1)
    state["head.2.weight" if hidden else "head.weight"] = rows
    return weights.into(model, state)


def helmholtz(state_dict: Mapping[str, Any], **config: Any) -> Operator:
    """`mgno.MgNO_helm`: acts on its 101 x 101 grid; other grids are projected to it."""
    source = "mgno.MgNO_helm"
    defaults = {k: v for k, v in DEFAULTS.items() if k != "padding_mode"} | {"in_chans": 3, "init": False}
    given = arguments(source, defaults, config)
    counts = given["num_iteration"]
    if counts is not None:
        if not isinstance(counts, tuple) or len(counts) != 5 or not all(type(n) is int for n in counts):
            raise ValueError(
                f"{source}: num_iteration={counts!r} cannot be converted; it must have a number for each of five "
                "levels, such as [1, 1, 1, 1, 2]: the original's up-sampling is made for no other number of them."
            )
        given["num_iteration"] = tuple((n, 0) for n in counts)
    given = _checked(source, given)
    width, channels = given["num_channel_u"], given["num_channel_f"]
    weights = Weights(source, state_dict)
    model = MgNO(
        channels, 1, shape=(101, 101), skip=False, bias=True, growth=1, coarsening="valid", padding="reflect",
        norm="layer", norm_at="layers", head="multigrid", **_common(source, given),
    )  # fmt: skip
    given = given | dict(use_res=False, bias=True, elementwise_affine=False)
    state: dict[str, Tensor] = {}
    for i in range(given["num_layer"]):
        size = width if i else channels
        _cycle(weights, state, f"conv_list.{i}", f"cycles.{i}", size, width, given, VALID, growth=1)
        for part in ("weight", "bias"):
            field = weights.take(f"norm_layer_list.{i}.{part}", width, 101, 101)
            state[f"norms.{i}.{part}"] = field.permute(1, 2, 0)
    _cycle(weights, state, "last_layer", "head", width, 1, given, VALID, growth=1)
    return weights.into(model, state)


def _darcy(source: str, kernels: tuple[int, ...] | None, state_dict: Mapping[str, Any], config: dict) -> Operator:
    given = _arguments(source, DEFAULTS, config)
    refuse(source, given, padding_mode=frozenset({"zeros", "reflect", "replicate", "circular"}))
    levels, width, channels = len(given["num_iteration"]), given["num_channel_u"], given["num_channel_f"]
    if kernels and levels > len(kernels) + 1:
        raise ValueError(f"{source} has at most {len(kernels) + 1} levels, got num_iteration={given['num_iteration']}.")
    kernels = kernels or (4,) * (levels - 1)
    weights = Weights(source, state_dict)
    model = MgNO(
        channels, 1, padding=given["padding_mode"], pad_upsampling=False, upsampling=kernels[: levels - 1],
        **_common(source, given),
    )  # fmt: skip
    given = given | dict(use_res=False, bias=False, elementwise_affine=False)
    state: dict[str, Tensor] = {}
    for i in range(given["num_layer"]):
        size = width if i else channels
        _cycle(weights, state, f"conv_list.{i}", f"cycles.{i}", size, width, given, kernels)
        state[f"skips.{i}.weight"] = weights.take(f"linear_list.{i}.weight", width, size, 1, 1)
        state[f"skips.{i}.bias"] = weights.take(f"linear_list.{i}.bias", width)
    state["head.weight"] = weights.take("linear.weight", 1, width, 1, 1)
    return weights.into(model, state)


def _arguments(source: str, defaults: dict[str, Any], config: dict) -> dict[str, Any]:
    given = arguments(source, defaults, config)
    return _checked(source, given)


def _checked(source: str, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, if there is a counterpart of them."""
    for name in ("num_layer", "num_channel_u", "num_channel_f", "num_iteration"):
        if given[name] is None:
            raise ValueError(f"{source} has no default for {name}; give it.")
    refuse(source, given, normalizer=None, activation=frozenset({"relu", "gelu", "tanh", "silu"}))
    counts = given["num_iteration"] if isinstance(given["num_iteration"], tuple) else ()
    pairs = [c for c in counts if isinstance(c, tuple) and len(c) == 2 and all(isinstance(n, int) for n in c)]
    if not pairs or len(pairs) < len(counts) or min(map(min, pairs)) < 0 or not pairs[0][0] or not pairs[-1][0]:
        raise ValueError(
            f"{source}: num_iteration={given['num_iteration']!r} cannot be converted; it must have a pair for "
            "each level, such as [[1, 0], [1, 0], [2, 0]], the first number of the first and of the last at least 1."
        )
    return given


def _common(source: str, given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `MgNO` that follow alike from all the originals."""
    *counts, (last, _) = given["num_iteration"]
    return dict(
        width=given["num_channel_u"], n_layers=given["num_layer"], smoothings=(*counts, (last, 0)),
        activation=activation_name(source, "activation", given["activation"]),
    )  # fmt: skip


def _cycle(
    weights: Weights,
    state: dict[str, Tensor],
    theirs: str,
    ours: str,
    f: int,
    u: int,
    given: dict[str, Any],
    kernels: Sequence[int],
    growth: int = 0,
) -> None:
    """Take the weights of one V-cycle; what the original stores and never uses is taken and left.

    Level l has 1 + growth l times the channels of level 0. Where they grow, every smoothing has an A, the first too,
    which does not need one.
    """
    counts, bias = given["num_iteration"], given["bias"]

    def stencil(key: str, name: str | None, inputs: int, outputs: int, bias: bool = False) -> None:
        found = {"weight": weights.take(f"{theirs}.{key}.weight", outputs, inputs, 3, 3)}
        if bias:
            found["bias"] = weights.take(f"{theirs}.{key}.bias", outputs)
        if name is not None:
            state.update({f"{ours}.levels.{name}.{part}": tensor for part, tensor in found.items()})

    for level, (before, after) in enumerate(counts):
        coarsest = level == len(counts) - 1
        here, below = 1 + growth * level, 1 + growth * (level + 1)
        smoothing = (("A", here * u, here * f), ("S", here * f, here * u))
        for j in range(before):
            for part, inputs, outputs in smoothing:
                idle = part == "A" and level == j == 0  # of u = 0
                if not idle or growth:  # below the finest level its own restriction comes first
                    name = None if idle else f"{level}.before.{j}.{part}"
                    stencil(f"layer{level}.{j + (level > 0)}.{part}", name, inputs, outputs, bias)
        for j in range(after):  # those of the coarsest level it never runs
            for part, inputs, outputs in smoothing:
                name = None if coarsest else f"{level}.after.{j}.{part}"
                stencil(f"post_smooth_layer{level}.{j}.{part}", name, inputs, outputs, bias)
        if coarsest:
            break
        stencil(f"layer{level + 1}.0.Pi", f"{level}.Pi", here * u, below * u)
        stencil(f"layer{level + 1}.0.R", f"{level}.R", here * f, below * f)
        if given["use_res"]:
            stencil(f"layer{level + 1}.0.A", f"{level}.A", u, f, bias)
        if given["elementwise_affine"]:
            n = 64 // 2**level
            for part in ("weight", "bias"):
                field = weights.take(f"{theirs}.norm_layer_list.{level}.{part}", u, n, n)
                state[f"{ours}.levels.{level}.norm.{part}"] = field.permute(1, 2, 0)
    for level, kernel in enumerate(kernels):
        here, below = 1 + growth * level, 1 + growth * (level + 1)
        up = weights.take(f"{theirs}.RTlayers.{level}.weight", below * u, here * u, kernel, kernel)
        if level < len(counts) - 1:
            state[f"{ours}.levels.{level}.P.weight"] = up


SOURCES = {
    "mgno.MgNO_DC": darcy, "mgno.MgNO_DC_smooth": darcy_smooth, "mgno.MgNO_NS": navier_stokes,
    "mgno.MgNO_helm": helmholtz,
}  # fmt: skip

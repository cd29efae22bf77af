"""GNOT, github.com/HaoZhongkai/GNOT: models/mmgpt.py `GNOT` and models/cgpt.py `CGPTNO`.

The converted models take point sets: `model.forward_points(query, inputs)`, coordinates and values normalised as the
weights were trained with. That code sums over input functions where the paper averages, its output network always uses
GELU, and its `CGPTNO` ignores `n_inner`. Its `GNOT` makes room for the features of `horiz_fourier_dim` but leaves them
out: it fails with any value but 0.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from opkit.interop.weights import Weights, arguments, refuse
from opkit.models import GNOT, Operator
from opkit.models.gnot import Form

DEFAULTS: dict[str, Any] = dict(
    trunk_size=2, branch_sizes=None, output_size=3, n_layers=2, n_hidden=64, n_head=1, n_inner=4, mlp_layers=2,
    attn_type="linear", act="gelu", ffn_dropout=0.0, attn_dropout=0.0, horiz_fourier_dim=0,
)  # fmt: skip
ACTIVATIONS = {"gelu": "gelu", "relu": "relu", "tanh": "tanh", "sigmoid": "torch.nn.Sigmoid"}


def _gnot(state_dict: Mapping[str, Any], **config: Any) -> Operator:
    weights = Weights("gnot.GNOT", state_dict)
    given = arguments(weights.source, {**DEFAULTS, "space_dim": 2, "n_experts": 2}, config)
    refuse(weights.source, given, horiz_fourier_dim=0)
    if given["branch_sizes"] is None:
        raise ValueError("gnot.GNOT: branch_sizes must be given, the columns of every input function; () for none.")
    if not 1 <= given["space_dim"] <= given["trunk_size"]:
        raise ValueError(
            f"gnot.GNOT: space_dim={given['space_dim']} must be between 1 and trunk_size={given['trunk_size']}: the "
            "gates see the first columns of the queries."
        )
    return _convert(weights, given, "gnot")


def _cgptno(state_dict: Mapping[str, Any], **config: Any) -> Operator:
    weights = Weights("gnot.CGPTNO", state_dict)
    given = arguments(weights.source, DEFAULTS, config)
    # It has no gates, so of its columns none are set apart as coordinates.
    given |= {"n_inner": 4, "n_experts": 1, "space_dim": 1, "branch_sizes": given["branch_sizes"] or ()}
    return _convert(weights, given, "cgpt")


SOURCES: dict[str, Callable[..., Operator]] = {"gnot.GNOT": _gnot, "gnot.CGPTNO": _cgptno}


def _convert(weights: Weights, given: dict[str, Any], form: Form) -> Operator:
    refuse(weights.source, given, attn_type="linear", act=set(ACTIVATIONS))
    width, layers, sizes, experts = (given[k] for k in ("n_hidden", "mlp_layers", "branch_sizes", "n_experts"))
    model = GNOT(
        in_channels=1,
        out_channels=given["output_size"],
        ndim=given["space_dim"],
        width=width,
        n_layers=given["n_layers"],
        n_heads=given["n_head"],
        n_experts=experts,
        expansion=given["n_inner"],
        mlp_layers=layers,
        form=form,
        combine="sum",
        coordinates="plain",
        fourier=given["horiz_fourier_dim"],
        activation=ACTIVATIONS[given["act"]],
        output_activation="gelu",
        dropout=given["ffn_dropout"],
        trunk_size=given["trunk_size"],
        branch_sizes=sizes,
    )
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state: dict[str, Tensor] = {}

    def copy(ours: str, theirs: str) -> None:
        for part in ("weight", "bias"):
            state[f"{ours}.{part}"] = weights.take(f"{theirs}.{part}", *shapes[f"{ours}.{part}"])

    for ours, theirs in (
        ("trunk", "trunk_mlp"), *((f"branches.{i}", f"branch_mlps.{i}") for i in range(len(sizes))), ("head", "out_mlp")
    ):  # fmt: skip
        copy(f"{ours}.first", f"{theirs}.linear_pre")
        for k in range(layers):
            copy(f"{ours}.layers.{k}", f"{theirs}.linears.{k}")
        copy(f"{ours}.last", f"{theirs}.linear_post")
    for block in (f"blocks.{i}" for i in range(given["n_layers"])):
        names = {
            "cross_norm": "ln1", "ffn_norms.0": "ln3", "self_norm": "ln4", "ffn_norms.1": "ln5",
            "cross_attention.query": "crossattn.query", "cross_attention.project": "crossattn.proj",
            "self_attention.query": "selfattn.query", "self_attention.keys.0": "selfattn.key",
            "self_attention.values.0": "selfattn.value", "self_attention.project": "selfattn.proj",
        }  # fmt: skip
        for i in range(len(sizes)):
            names[f"source_norms.{i}"] = f"ln2_branch.{i}"
            names[f"cross_attention.keys.{i}"] = f"crossattn.keys.{i}"
            names[f"cross_attention.values.{i}"] = f"crossattn.values.{i}"
        if form == "gnot":
            names |= {f"gate.{k}": f"gatenet.{k}" for k in (0, 2, 4)}
        for j, e in itertools.product((0, 1), range(experts)):
            network = f"moe_mlp{j + 1}.{e}" if form == "gnot" else f"mlp{j + 1}"
            names |= {f"ffns.{j}.networks.{e}.inner": f"{network}.0", f"ffns.{j}.networks.{e}.outer": f"{network}.2"}
        for ours, theirs in names.items():
            copy(f"{block}.{ours}", f"{block}.{theirs}")
    return weights.into(model, state)

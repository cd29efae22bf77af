"""The original MgNO, run from a checkout."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

REPOSITORY = "https://github.com/xlliu2017/MgNO"
COMMIT = "3a68a900bcccdb2246fd86ede4b001440a56c152"


def build(directory: Path, source: str, config: dict[str, Any]) -> nn.Module:
    """The original model with its own initial weights, in eval mode.

    Its file imports a printer of summaries, and a module of file readers and plots, for its own demonstration only.
    """
    fakes = {"torchinfo": "summary", "utilities3": "count_params"}
    before = {name: sys.modules.get(name) for name in (*fakes, "models")}
    try:
        for name, attribute in fakes.items():
            sys.modules[name] = ModuleType(name)
            setattr(sys.modules[name], attribute, None)
        sys.modules.pop("models", None)
        sys.path.insert(0, str(directory))
        original = getattr(importlib.import_module("models"), source.partition(".")[2])
        return original(**{"num_classes": 1, **config}).eval()
    finally:
        sys.path.remove(str(directory))
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def run(model: nn.Module, source: str, config: dict[str, Any], inputs: dict[str, Tensor]) -> Tensor:
    return model(inputs["u"])


def call(model: nn.Module, source: str, inputs: dict[str, Tensor]) -> Tensor:
    return model(inputs["u"])


def _field(*shape: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"u": torch.randn(shape, dtype=torch.float64)}


def _config(layers: int, width: int, given: int, iterations: list[Any], **others: Any) -> dict[str, Any]:
    names = dict(num_layer=layers, num_channel_u=width, num_channel_f=given, num_classes=1, num_iteration=iterations)
    return names | others


CASES: dict[str, tuple[str, dict[str, Any], Callable[[], dict[str, Tensor]]]] = {
    "dc": ("mgno.MgNO_DC", _config(2, 3, 1, [[1, 0], [1, 0], [2, 0]]), _field(2, 1, 16, 16)),
    "dc_post_two_inputs": (
        "mgno.MgNO_DC",
        _config(2, 2, 2, [[2, 1], [0, 2], [1, 0]], padding_mode="reflect", activation="tanh"),
        _field(1, 2, 12, 20),
    ),
    "dc_unused_post_circular": (
        "mgno.MgNO_DC",
        _config(2, 2, 1, [[1, 0], [1, 1], [1, 1]], padding_mode="circular", activation="silu"),
        _field(1, 1, 16, 8),
    ),
    "dc_one_level_replicate": (
        "mgno.MgNO_DC",
        _config(2, 3, 1, [[2, 0]], padding_mode="replicate", activation="relu"),
        _field(1, 1, 7, 5),
    ),
    "dc_smooth": ("mgno.MgNO_DC_smooth", _config(2, 2, 1, [[1, 0]] * 5 + [[2, 0]]), _field(1, 1, 19, 19)),
    "dc_smooth_post": (
        "mgno.MgNO_DC_smooth",
        _config(1, 2, 1, [[1, 0], [1, 1], [2, 0], [1, 0], [1, 1], [2, 0]]),
        _field(1, 1, 19, 51),
    ),
    "dc_smooth_four_levels": ("mgno.MgNO_DC_smooth", _config(2, 2, 1, [[1, 0]] * 3 + [[2, 0]]), _field(2, 1, 11, 19)),
    "ns": ("mgno.MgNO_NS", _config(1, 2, 1, [[1, 0], [2, 1]], bias=True), _field(1, 1, 64, 64)),
    "ns_residual_restriction_mlp": (
        "mgno.MgNO_NS",
        _config(
            2, 3, 1, [[1, 1], [1, 0], [1, 1], [2, 0]], bias=True, use_res=True, elementwise_affine=False,
            mlp_hidden_dim=4, activation="silu",
        ),
        _field(1, 1, 64, 64),
    ),
    "helm": ("mgno.MgNO_helm", _config(2, 1, 2, [2, 1, 0, 1, 2]), _field(1, 2, 101, 101)),
}  # fmt: skip

PAPER: dict[str, tuple[str, dict[str, Any], Callable[[], dict[str, Tensor]], float]] = {
    "mgno": (
        "mgno.MgNO_DC",
        _config(4, 24, 1, [[1, 0]] * 5 + [[2, 0]]),
        lambda: {"u": torch.randn(8, 1, 256, 256)},
        2.0,
    ),
}

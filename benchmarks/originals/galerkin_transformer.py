"""Galerkin Transformer, github.com/scaomath/galerkin-transformer: how its classes are built, run and compared."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

REPOSITORY = "https://github.com/scaomath/galerkin-transformer"
COMMIT = "f9e7d6abc24e958b1165f48b22625c5bab688043"


def build(directory: Path, source: str, config: dict) -> nn.Module:
    """The original with its own initial weights, in eval mode, attention without dropout."""
    with _imports(directory):
        layers, model = importlib.import_module("layers"), importlib.import_module("model")
    functional = dict(vars(torch.nn.functional))
    # The attention functions call dropout with its defaults: one half, also in evaluation.
    functional["dropout"] = lambda x, *_, **__: x
    layers.F = SimpleNamespace(**functional)  # type: ignore[attr-defined]
    made = getattr(model, source.partition(".")[2])(**_tupled(config))
    return made.eval()


@contextmanager
def _imports(directory: Path) -> Iterator[None]:
    """Its modules are top-level names; the models need nothing of the last three but that they can be imported."""
    names = ("layers", "model")
    fakes = {name: ModuleType(name) for name in ("utils_ft", "torchinfo", "utils")}
    fakes["torchinfo"].summary = None  # type: ignore[attr-defined]
    before = {name: sys.modules.pop(name) for name in (*names, *fakes) if name in sys.modules}
    sys.modules.update(fakes)
    sys.path.insert(0, str(directory / "libs"))
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path[1:]
        for name in (*names, *fakes):
            sys.modules.pop(name, None)
        sys.modules.update(before)


def _tupled(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tupled(v) for k, v in value.items()}
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value


def run(model: nn.Module, source: str, config: dict, inputs: dict[str, Tensor]) -> Tensor:
    u = inputs["u"]
    default = torch.get_default_dtype()
    torch.set_default_dtype(u.dtype)  # its 2-D spectral layer allocates in the default precision
    try:
        if source.endswith("SimpleTransformer"):
            x = torch.linspace(0, 1, u.shape[-1])[None, :, None].expand(len(u), -1, -1)
            return model(u.mT, None, pos=x, grid=x)["preds"].mT
        grid = _grid(u.shape[-1]).expand(len(u), -1, -1, -1)
        pos = _grid(_tokens(config, u.shape[-1])).expand(len(u), -1, -1, -1).flatten(1, 2)
        return model(u.movedim(1, -1), None, pos=pos, grid=grid)["preds"].movedim(-1, 1)
    finally:
        torch.set_default_dtype(default)


def _grid(n: int) -> Tensor:
    line = torch.linspace(0, 1, n)
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)


def _tokens(config: dict, n: int) -> int:
    """Tokens per axis."""
    for step in config.get("downscaler_size") or ():
        n = int(n * step) if isinstance(step, float) else step[0]
    return n


def call(model: nn.Module, source: str, inputs: dict[str, Tensor]) -> Tensor:
    return model(inputs["u"])


def _case(source: str, points: int, channels: int = 1, **config: Any) -> tuple[str, dict, Callable[[], dict]]:
    shape = (points,) if source == "SimpleTransformer" else (points, points)

    def inputs() -> dict[str, Tensor]:
        return {"u": torch.randn(2, channels, *shape, dtype=torch.float64)}

    return f"galerkin_transformer.{source}", config | {"node_feats": channels}, inputs


def _burgers(points: int, channels: int = 1, **config: Any) -> tuple[str, dict, Callable[[], dict]]:
    """Its first example, narrower."""
    small: dict[str, Any] = dict(
        edge_feats=None, pos_dim=1, n_targets=1, n_hidden=6, num_feat_layers=0, num_encoder_layers=1, n_head=1,
        pred_len=0, n_freq_targets=0, dim_feedforward=8, feat_extract_type=None, attention_type="galerkin",
        xavier_init=0.001, diagonal_weight=0.01, symmetric_init=False, layer_norm=False, attn_norm=True,
        batch_norm=False, spacial_residual=False, return_attn_weight=False, return_latent=False, residual_type="plus",
        seq_len=None, bulk_regression=False, decoder_type="ifft", freq_dim=4, num_regressor_layers=2, fourier_modes=4,
        spacial_dim=1, spacial_fc=False, dropout=0.0, encoder_dropout=0.0, ffn_dropout=0.0, decoder_dropout=0.0,
        debug=False,
    )  # fmt: skip
    return _case("SimpleTransformer", points, channels, **(small | config))


def _darcy(points: int, channels: int = 1, **config: Any) -> tuple[str, dict, Callable[[], dict]]:
    """Its second example, narrower."""
    small: dict[str, Any] = dict(
        pos_dim=2, n_targets=1, n_hidden=6, num_feat_layers=0, num_encoder_layers=1, n_head=2, dim_feedforward=8,
        feat_extract_type=None, attention_type="galerkin", xavier_init=0.01, diagonal_weight=0.01,
        symmetric_init=False, layer_norm=False, attn_norm=True, norm_eps=1e-7, batch_norm=False,
        return_attn_weight=False, return_latent=False, decoder_type="ifft2", spacial_dim=2, spacial_fc=True,
        upsample_mode="interp", downsample_mode="interp", freq_dim=4, boundary_condition="dirichlet",
        num_regressor_layers=2, fourier_modes=3, regressor_activation="silu", downscaler_activation="relu",
        upscaler_activation="silu", last_activation=True, dropout=0.0, downscaler_dropout=0.05, upscaler_dropout=0.0,
        ffn_dropout=0.05, encoder_dropout=0.05, decoder_dropout=0.0, debug=False,
        downscaler_size=[0.7, 0.7], upscaler_size=[[8, 8], [points, points]],
    )  # fmt: skip
    return _case("FourierTransformer2D", points, channels, **(small | config))


SIZES = dict(downscaler_size=[[10, 10], [6, 6]], upscaler_size=[[9, 9], [15, 15]])
NO_NAMES = dict(downscaler_activation=None, upscaler_activation=None, regressor_activation=None)
ALL_POINTS = dict(downscaler_size=None, upscaler_size=None, spacial_fc=False, freq_dim=6)
OUTER_NORM = dict(layer_norm=True, attn_norm=False)
BOTH_NORMS = dict(layer_norm=True, attn_norm=True)
CASES: dict[str, tuple[str, dict, Callable[[], dict[str, Tensor]]]] = {
    "1d_galerkin_odd": _burgers(17, num_encoder_layers=2),
    "1d_galerkin_heads_positions": _burgers(16, 2, n_head=2, spacial_fc=True, n_targets=3),
    "1d_fourier_even": _burgers(16, attention_type="fourier"),
    "1d_fourier_heads_odd": _burgers(15, attention_type="integral", n_head=2, attn_activation="silu"),
    "1d_linear": _burgers(17, attention_type="linear", n_head=2),
    "1d_softmax": _burgers(14, attention_type="softmax", n_head=2, residual_type="minus"),
    "1d_layer_norm": _burgers(13, n_head=2, **OUTER_NORM),
    "1d_both_norms": _burgers(12, attention_type="fourier", **BOTH_NORMS),
    "1d_pointwise": _burgers(11, decoder_type="pointwise", spacial_fc=True, regressor_activation="silu"),
    "2d_galerkin_odd": _darcy(11, num_encoder_layers=2),
    "2d_galerkin_even_free": _darcy(12, 2, n_targets=2, fourier_modes=2, boundary_condition="free"),
    "2d_fourier_odd_sizes": _darcy(15, attention_type="fourier", **SIZES, **NO_NAMES),
    "2d_fourier_even": _darcy(10, attention_type="fourier", downscaler_size=[0.8, 0.75]),
    "2d_linear": _darcy(
        11, attention_type="linear", fourier_modes=2, last_activation=False, downscaler_activation="silu"
    ),
    "2d_softmax": _darcy(12, attention_type="softmax", fourier_modes=2, **BOTH_NORMS),
    "2d_every_point": _darcy(9, 2, fourier_modes=2, **ALL_POINTS, **OUTER_NORM),
    "2d_pointwise": _darcy(12, decoder_type="pointwise", num_regressor_layers=1, boundary_condition=None),
}


def _paper(case: tuple[str, dict, Callable[[], dict]], batch: int, ratio: float, *shape: int) -> tuple:
    source, config, _ = case
    return source, config, lambda: {"u": torch.randn(batch, config["node_feats"], *shape)}, ratio


EXAMPLE_1: dict[str, Any] = dict(
    n_hidden=96, num_encoder_layers=4, n_head=1, dim_feedforward=192, freq_dim=48, fourier_modes=16
)
PAPER: dict[str, tuple] = {
    "fourier-1d": _paper(_burgers(2048, attention_type="fourier", **EXAMPLE_1), 8, 4.0, 2048),
    "galerkin-1d": _paper(_burgers(2048, **EXAMPLE_1), 8, 1.7, 2048),
    "galerkin-2d": _paper(
        _darcy(
            141, n_hidden=128, num_encoder_layers=6, n_head=4, dim_feedforward=256, freq_dim=32, fourier_modes=12,
            downscaler_size=[0.555, 0.555], upscaler_size=[[77, 77], [141, 141]],
        ), 4, 1.7, 141, 141,
    ),
}  # fmt: skip
"""Its first example, with either attention, and its second."""

"""Weights of `SimpleTransformer` (1-D) and `FourierTransformer2D`, github.com/scaomath/galerkin-transformer.

What those classes make of their arguments is repeated here, oddities included, since a converted model must give the
same output: which activations None stands for, where `dim_feedforward` is not passed on, where dropout is set to 0.1.
The originals take coordinates as inputs; the models here make them, x in [0, 1] with both ends in. In 2-D theirs come
in the order (last axis, first axis), so the columns that meet them are exchanged.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from opkit.interop.weights import Weights, arguments, refuse
from opkit.models import GalerkinTransformer, Operator

KINDS = {"galerkin": "galerkin", "fourier": "fourier", "integral": "fourier", "linear": "linear", "softmax": "softmax"}

# All are None where they are left out. The last two lines have no effect on the output.
NAMES_1D = """
    node_feats pos_dim n_targets n_hidden num_feat_layers num_encoder_layers n_head dim_feedforward feat_extract_type
    attention_type layer_norm attn_norm norm_type batch_norm spacial_residual residual_type attn_activation
    n_freq_targets decoder_type freq_dim num_regressor_layers fourier_modes spacial_dim spacial_fc regressor_activation
    normalizer xavier_init diagonal_weight dropout encoder_dropout ffn_dropout decoder_dropout
    norm_eps symmetric_init edge_feats pred_len seq_len bulk_regression return_attn_weight return_latent debug
    raw_laplacian graph_activation boundary_condition upscaler_size downscaler_size
"""
NAMES_2D = """
    node_feats pos_dim n_targets n_hidden num_feat_layers num_encoder_layers n_head dim_feedforward feat_extract_type
    attention_type layer_norm attn_norm norm_eps batch_norm decoder_type freq_dim num_regressor_layers fourier_modes
    spacial_dim spacial_fc regressor_activation last_activation downscaler_size upscaler_size downsample_mode
    upsample_mode downscaler_activation upscaler_activation boundary_condition normalizer xavier_init diagonal_weight
    dropout encoder_dropout ffn_dropout decoder_dropout downscaler_dropout upscaler_dropout
    norm_type residual_type attn_activation symmetric_init edge_feats return_attn_weight return_latent debug
    raw_laplacian subsample_nodes subsample_attn gamma noise inverse seq_len
"""


def simple_transformer(state_dict: Mapping[str, Any], **config: Any) -> Operator:
    """`SimpleTransformer(**config)`: 1-D, every point a token."""
    source = "galerkin_transformer.SimpleTransformer"
    w, a = Weights(source, state_dict), _arguments(source, NAMES_1D, config)
    a["spacial_dim"] = _default(a["spacial_dim"], a["pos_dim"])
    off = {None, False}
    refuse(
        source, a, pos_dim=1, spacial_dim=1, n_freq_targets=off, spacial_residual=off, norm_type={None, "layer"},
        decoder_type={"ifft", "pointwise"},
    )  # fmt: skip
    pointwise = a["decoder_type"] == "pointwise"
    width, freq = a["n_hidden"], a["n_hidden"] if pointwise else a["freq_dim"]
    activation = a["attn_activation"] if a["attn_activation"] in ("silu", "gelu") else "relu"
    model = GalerkinTransformer(
        a["node_feats"], a["n_targets"], 1, activation=activation, decoder_lift=width if a["spacial_fc"] else 0,
        decoder_width=freq, decoder_hidden=freq, n_decoder_layers=1 if pointwise else a["num_regressor_layers"],
        **_shared(source, a, KINDS), **_decoder(a, 1),
    )  # fmt: skip
    state = _linear(w, "feat_extract.id", "lift", width, a["node_feats"])
    minus = a["residual_type"] not in (None, "add", "plus")
    state |= _encoder(w, a, minus) | _regressor(w, model, a, width)
    return w.into(model, state)


def fourier_transformer_2d(state_dict: Mapping[str, Any], **config: Any) -> Operator:
    """`FourierTransformer2D(**config)`: 2-D, tokens on a coarser grid, or every point a token without scalers."""
    source = "galerkin_transformer.FourierTransformer2D"
    w, a = Weights(source, state_dict), _arguments(source, NAMES_2D, config)
    refuse(source, a, pos_dim=2, spacial_dim=2, decoder_type={"ifft2", "pointwise"})
    pointwise, width = a["decoder_type"] == "pointwise", a["n_hidden"]
    channels = width if pointwise else a["freq_dim"]
    if not a["spacial_fc"] and channels != width:
        raise ValueError(f"{source}: spacial_fc=False needs freq_dim=n_hidden={width}, got {channels}.")
    model = GalerkinTransformer(
        a["node_feats"], a["n_targets"], 2, norm_eps=_default(a["norm_eps"], 1e-5),
        boundary="dirichlet" if a["boundary_condition"] == "dirichlet" else "open",
        decoder_lift=channels if a["spacial_fc"] else 0, decoder_width=channels,
        decoder_hidden=width if pointwise else 4 * channels,
        n_decoder_layers=a["num_regressor_layers"] - pointwise,
        last_activation=pointwise or bool(_default(a["last_activation"], "last_activation" not in config)),
        **_shared(source, a, KINDS | {"local": "fourier", "global": "linear"}), **_decoder(a, 2), **_scalers(source, a),
    )  # fmt: skip
    if model.up is None:
        columns = a["node_feats"] + 2
        state = _linear(w, "downscaler.id", "lift", width, columns)
        state["lift.weight"] = _exchanged(state["lift.weight"], columns - 2)
    else:
        third = width // 3
        pairs = [(width, a["node_feats"]), (third, width), (third, third), (width - 2 * third, third)]
        state = {
            f"lift.convolutions.{i}.weight": w.take(f"downscaler.downsample.conv{i}.conv.0.weight", *pair, 3, 3)
            for i, pair in enumerate(pairs)
        }
        state["up.convolution.weight"] = w.take("upscaler.upsample.conv.0.conv.0.weight", width, width, 3, 3)
    state |= _encoder(w, a) | _regressor(w, model, a, width)
    return w.into(model, state)


SOURCES = {
    "galerkin_transformer.SimpleTransformer": simple_transformer,
    "galerkin_transformer.FourierTransformer2D": fourier_transformer_2d,
}


def _default(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _arguments(source: str, names: str, config: dict[str, Any]) -> dict[str, Any]:
    a = arguments(source, dict.fromkeys(names.split()), config)
    needed = ["node_feats", "n_targets", "n_hidden", "num_encoder_layers", "n_head", "pos_dim", "attention_type"]
    needed += ["decoder_type"]
    if a["decoder_type"] != "pointwise":
        needed += ["num_regressor_layers", "freq_dim", "fourier_modes"]
    elif "downscaler_dropout" in a:  # in 2-D
        needed += ["num_regressor_layers"]
    for name in needed:
        if a[name] is None:
            raise ValueError(f"{source} has no default for {name}: give it.")
    if a["num_feat_layers"] and a["feat_extract_type"] in ("gcn", "gat"):
        raise ValueError(
            f"{source}: feat_extract_type={a['feat_extract_type']!r}, a graph network, cannot be converted."
        )
    refuse(source, a, batch_norm={None, False}, normalizer=None)
    return a


def _shared(source: str, a: dict[str, Any], kinds: dict[str, str]) -> dict[str, Any]:
    """Our arguments of the encoder."""
    refuse(source, a, attention_type=set(kinds))
    layer = bool(a["layer_norm"])
    heads = bool(_default(a["attn_norm"], not layer)) or not layer
    dropout = 0.1 if a["attention_type"] in ("linear", "softmax") else _default(a["encoder_dropout"], 0.05)
    return dict(
        width=a["n_hidden"], n_heads=a["n_head"], n_layers=a["num_encoder_layers"],
        ffn_hidden=_default(a["dim_feedforward"], 2 * a["n_hidden"]), attention=kinds[a["attention_type"]],
        norm="both" if heads and layer else "heads" if heads else "layer", quadrature=False, dropout=dropout,
        attention_dropout=dropout, ffn_dropout=_default(a["ffn_dropout"], dropout),
        feature_dropout=_default(a["dropout"], 0.05), initial_gain=_default(a["xavier_init"], 1e-2),
        initial_diagonal=_default(a["diagonal_weight"], 1e-2),
    )  # fmt: skip


def _decoder(a: dict[str, Any], ndim: int) -> dict[str, Any]:
    """Our arguments of the decoder that both classes decide alike."""
    rate = _default(a["decoder_dropout"], 0.1)
    if a["decoder_type"] == "pointwise":
        activation = "silu" if a["regressor_activation"] == "silu" else "relu"
        return dict(decoder="pointwise", decoder_activation=activation, decoder_dropout=rate)
    modes = a["fourier_modes"]
    return dict(
        n_modes=(2 * modes,) * (ndim - 1) + (max(1, 2 * modes - 2),), decoder_dropout=rate,
        decoder_activation="silu" if a["regressor_activation"] in (None, "silu") else "relu",
    )  # fmt: skip


def _scalers(source: str, a: dict[str, Any]) -> dict[str, Any]:
    """Our arguments of the ways down and up."""
    down, up = a["downscaler_size"], a["upscaler_size"]
    if not down and not up:
        return dict(scalers=False)
    if not down or not up:
        raise ValueError(
            f"{source}: downscaler_size={down} with upscaler_size={up} cannot be converted: the output must be on the "
            "grid of the input. Give both or neither."
        )
    refuse(source, a, downsample_mode={None, "interp"}, upsample_mode={None, "interp"})
    upper, training = _sizes(source, "upscaler_size", up)
    down = (down, down) if isinstance(down, float) else down
    if all(isinstance(factor, float) for factor in down):
        middle = tuple(int(n * down[0]) for n in training)
        latent = tuple(int(n * down[1]) for n in middle)
    else:
        middle, latent = _sizes(source, "downscaler_size", down)
    return dict(
        shape=training, latent_shape=latent, down_shape=middle, up_shape=upper,
        down_activation="silu" if a["downscaler_activation"] in (None, "silu") else "relu",
        up_activation="silu" if a["upscaler_activation"] in (None, "silu") else "relu",
        scaler_dropout=(_default(a["downscaler_dropout"], 0.1), _default(a["upscaler_dropout"], 0.1)),
    )  # fmt: skip


def _sizes(source: str, name: str, sizes: Any) -> list[tuple[int, ...]]:
    pairs = [size if isinstance(size, tuple) else (size, size) for size in sizes] if isinstance(sizes, tuple) else []
    if len(pairs) != 2 or not all(len(p) == 2 and all(isinstance(n, int) for n in p) for p in pairs):
        accepted = "two pairs of sizes" + (", or scale factors" if name == "downscaler_size" else "")
        raise ValueError(f"{source}: {name} must be {accepted}, got {sizes!r}.")
    return pairs


def _linear(w: Weights, theirs: str, ours: str, rows: int, columns: int) -> dict[str, Tensor]:
    return {
        f"{ours}.weight": w.take(f"{theirs}.weight", rows, columns),
        f"{ours}.bias": w.take(f"{theirs}.bias", rows),
    }


def _exchanged(weight: Tensor, first: int) -> Tensor:
    """Columns `first` and `first + 1` exchanged."""
    order = list(range(weight.shape[-1]))
    order[first], order[first + 1] = order[first + 1], order[first]
    return weight[..., order]


def _encoder(w: Weights, a: dict[str, Any], minus: bool = False) -> dict[str, Tensor]:
    width, heads, positions = a["n_hidden"], a["n_head"], a["pos_dim"]
    layer = bool(a["layer_norm"])
    norms = ("K", "V") if a["attention_type"] in ("galerkin", "linear", "global") else ("Q", "K")
    hidden, each = _default(a["dim_feedforward"], 2 * width), width // heads
    state: dict[str, Tensor] = {}
    for i in range(a["num_encoder_layers"]):
        theirs, ours = f"encoder_layers.{i}", f"layers.{i}"
        for part, shape in (("weight", (width, width)), ("bias", (width,))):
            parts = [w.take(f"{theirs}.attn.linears.{j}.{part}", *shape) for j in range(3)]
            state[f"{ours}.attention.qkv.{part}"] = torch.cat(parts)
            if not layer or a["attn_norm"]:
                rows = [[w.take(f"{theirs}.attn.norm_{n}.{j}.{part}", each) for j in range(heads)] for n in norms]
                stacked = torch.stack([torch.stack(row) for row in rows])
                state[f"{ours}.attention.{'scale' if part == 'weight' else 'shift'}"] = stacked
        out = _linear(w, f"{theirs}.attn.fc", f"{ours}.attention.out", width, width + heads * positions)
        if positions == 2:
            columns = out[f"{ours}.attention.out.weight"].unflatten(1, (heads, -1))
            out[f"{ours}.attention.out.weight"] = _exchanged(columns, 0).flatten(1)
        state |= {name: -value if minus else value for name, value in out.items()}
        for j in (1, 2) if layer else ():
            for part in ("weight", "bias"):
                state[f"{ours}.norms.{j - 1}.{part}"] = w.take(f"{theirs}.layer_norm{j}.{part}", width)
        state |= _linear(w, f"{theirs}.ff.lr1", f"{ours}.ffn.inner", hidden, width)
        state |= _linear(w, f"{theirs}.ff.lr2", f"{ours}.ffn.outer", width, hidden)
    return state


def _regressor(w: Weights, model: GalerkinTransformer, a: dict[str, Any], width: int) -> dict[str, Tensor]:
    decoder, ndim, modes = model.decoder, model.ndim, a["fourier_modes"]
    channels, state = width, {}
    if decoder.lift is not None:
        channels = _rows(decoder.lift)
        state = _linear(w, "regressor.fc", "decoder.lift", channels, width + ndim)
        if ndim == 2:
            state["decoder.lift.weight"] = _exchanged(state["decoder.lift.weight"], width)
    pointwise = a["decoder_type"] == "pointwise"
    for i, layer in enumerate(decoder.pointwise_layers):
        theirs = f"regressor.ff.{i}.0" if pointwise else f"regressor.spectral_conv.{i}.linear"
        inputs, channels = channels, _rows(layer)
        state |= _linear(w, theirs, f"decoder.pointwise_layers.{i}", channels, inputs)
        if pointwise:
            continue
        key, shape = f"regressor.spectral_conv.{i}.fourier_weight", (inputs, channels, *(modes,) * ndim, 2)
        if ndim == 1:
            weight = w.take(key, *shape)
        else:  # of the first axis, wavenumbers -m .. -1 and 0 .. m - 1 apart
            weight = torch.cat([w.take(f"{key}.1", *shape), w.take(f"{key}.0", *shape)], 2)
        state[f"decoder.spectral_layers.{i}.weight"] = torch.movedim(weight, (0, 1), (-3, -2))
    first, second = "regressor.regressor.0", "regressor.regressor.2"
    if pointwise:
        first, second = f"regressor.ff.{len(decoder.pointwise_layers)}.0", "regressor.out"
    rows = _rows(decoder.project[0])
    state |= _linear(w, first, "decoder.project.0", rows, channels)
    return state | _linear(w, second, "decoder.project.1", a["n_targets"], rows)


def _rows(layer: nn.Module) -> int:
    return layer.get_parameter("weight").shape[0]

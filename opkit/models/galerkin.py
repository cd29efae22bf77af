"""Galerkin and Fourier Transformer: attention without softmax, a learned integral operator with a separable kernel.

Cao, "Choose a Transformer: Fourier or Galerkin", NeurIPS 2021 (arXiv 2105.14995). The rows of Q, K and V are queries,
keys and values of one head at the n points, the position of the point appended to each. Attention is one of

    galerkin   z = Q (K^T V) / n                 K and V normalised: a Petrov-Galerkin projection
    fourier    z = (Q K^T / sqrt d) V / n        Q and K normalised: an integral equation
    linear     z = softmax(Q) (softmax(K)^T V)   over features and over points: Shen et al. 2018 (arXiv 1812.01243)
    softmax    z = softmax(Q K^T / sqrt d) V     Q and K normalised

where sum / n stands for the integral over the domain. The encoder stacks x <- x + W z, x <- x + FFN(x); the decoder has
spectral layers x <- act(F^-1(R_k (F x)_k) + W x). In 2-D, convolutions and interpolations bring the field to a coarser
grid, whose points are the tokens, and back.

Notes on this implementation, the original's mathematics unless stated:

- Only softmax needs n x n products. The fourier kind is Q (K^T V) as well, since products are associative.
- The small matrices K^T V are multiplied by the output projection first (galerkin: by that of the queries too), which
  leaves one product with the tokens. Positions are rows and columns of K^T V, not copied to every head; the scales and
  shifts of the heads' norms act on it, not on K and V.
- The last interpolation of the way up commutes with the linear layer that follows and acts on its fewer channels.
- `quadrature`, not in the original, weighs walls by one half in attention and decoder, whose Fourier series then has
  the domain as its period, not the domain and one step: convergence in the grid rises from first to second order.
  Linear attention, which the original divides by n once more, so that it vanishes on fine grids, becomes an average.
- Convolutions act in steps of the grid, so the way down begins with interpolation to the training grid.
- The original drops half of the attention matrix, in evaluation too; here dropout has its rate and is off in eval.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opkit.grid import BOUNDARIES, LOCATIONS, Boundary, Location, Spec
from opkit.models.activations import activation as make_activation
from opkit.models.arguments import check_idle, check_modes
from opkit.models.base import Operator, zero_walls
from opkit.models.kernels import linear
from opkit.models.layers import FFN, FeedForward, Linear, Pointwise
from opkit.models.positions import Coordinates, count_positions, period_of, positions, trapezoid_weights
from opkit.models.spectral import SpectralConv, choose
from opkit.models.stencils import resize

Kind = Literal["galerkin", "fourier", "linear", "softmax"]
Norm = Literal["heads", "layer", "both"]
PAPERS_MODES = {1: (30,), 2: (24, 22)}


class Attention(nn.Module):
    """Self-attention over points, `(b, n, width)` to the same.

    Args:
        width: Features of a point.
        n_heads: Heads; a divisor of `width`.
        positions: Position features appended to the queries, keys and values of every head.
        kind: See the table above.
        norm: Whether each head of K and V (galerkin, linear) or of Q and K has a layer norm of its own.
        eps: Added to its variance.
        dropout: Of entries of K^T V (galerkin, linear) or of Q K^T, which is then formed while training.
        quadrature: Whether linear attention is an average over points.
        gain: Of the Xavier-uniform initial projections to Q, K and V; at 0 they are those of `nn.Linear`.
        diagonal: Added to their diagonals.
    """

    def __init__(
        self,
        width: int,
        n_heads: int,
        positions: int,
        kind: Kind = "galerkin",
        norm: bool = True,
        eps: float = 1e-5,
        dropout: float = 0.0,
        quadrature: bool = True,
        gain: float = 1e-2,
        diagonal: float = 1e-2,
    ):
        super().__init__()
        self.n_heads, self.positions, self.kind, self.norm, self.eps = n_heads, positions, kind, norm, eps
        self.dropout, self.quadrature = dropout, quadrature
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width + n_heads * positions, width)  # columns of a head: positions, features
        if norm:
            self.scale = nn.Parameter(torch.ones(2, n_heads, width // n_heads))
            self.shift = nn.Parameter(torch.zeros(2, n_heads, width // n_heads))
        if gain > 0:
            with torch.no_grad():
                self.qkv.bias.zero_()
                for weight in self.qkv.weight.chunk(3):
                    nn.init.xavier_uniform_(weight, gain)
                    weight.diagonal().add_(diagonal)

    def forward(self, x: Tensor, p: Tensor, weights: Tensor | None, residual: bool = False) -> Tensor:
        """Attend.

        Args:
            x: Features of the points, `(b, n, width)`.
            p: Their position features, `(n, positions)`.
            weights: Quadrature weights of sum one, `(n, 1)`; None where all are 1 / n.
            residual: Add x. The galerkin kind adds the identity to the matrix it multiplies x by.
        """
        heads = (self.n_heads, x.shape[-1] // self.n_heads)
        weight, bias = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        galerkin = self.kind == "galerkin"
        of = (1, 2) if galerkin else (0, 1, 2)  # its queries, linear in x, are not needed as such
        # One product each: the parts' gradients would be copied together for a common one.
        parts = {i: linear(x, weight[i], bias[i]).unflatten(-1, heads) for i in of}
        affine: dict[int, Tensor | None] = dict.fromkeys(range(3))
        if self.norm:
            normed = (1, 2) if galerkin or self.kind == "linear" else (0, 1)
            for i, scale, shift in zip(normed, self.scale, self.shift, strict=True):
                parts[i] = F.layer_norm(parts[i], heads[1:], eps=self.eps)
                affine[i] = self._affine(scale, shift)
                if self._explicit(i):
                    parts[i], affine[i] = torch.addcmul(shift, parts[i], scale), None
        q, k, v = x if galerkin else parts[0], parts[1], parts[2]
        if self._is_dense:
            z = self.out(self._dense(q, k, v, p, weights))
            return x + z if residual else z
        places = torch.cat([p.new_ones(p.shape[0], 1), p], 1)  # len() would fix a symbolic size
        gram = self._gram(k, v, places, weights, affine[1], affine[2]).to(x.dtype)
        matrix = gram @ self.out.weight.unflatten(1, (self.n_heads, -1)).permute(1, 2, 0)  # (b, head, e, width)
        if self.kind == "linear":
            q = torch.cat([_per_head(p, v), q], -1).softmax(-1)
            z = torch.baddbmm(self.out.bias, q.flatten(2), matrix.flatten(1, 2))
            return x + z if residual else z
        if affine[0] is not None:
            matrix = affine[0].to(matrix.dtype) @ matrix
        else:
            places = p
        by_place, by_feature = matrix.split([places.shape[1], heads[1]], 2)
        constant, mix = self.out.bias[None], by_feature.flatten(1, 2)  # (b, width, width)
        if galerkin:
            constant, mix = constant + bias[0] @ mix, weight[0].mT @ mix
        constant = constant[:, None] + places @ by_place.sum(1)
        if galerkin and residual and not torch.is_autocast_enabled(x.device.type):  # it would round x itself
            return torch.baddbmm(constant, x, mix + torch.eye(x.shape[-1], dtype=x.dtype, device=x.device))
        z = torch.baddbmm(constant, q.flatten(2), mix)
        return x + z if residual else z

    @property
    def _is_dense(self) -> bool:
        return self.kind == "softmax" or (self.kind == "fourier" and self.training and self.dropout > 0)

    def _explicit(self, part: int) -> bool:
        """Whether queries (0), keys (1) or values (2) are themselves scaled and shifted, not only sums of them."""
        return self._is_dense or (self.kind == "linear" and part == 1)

    def _affine(self, scale: Tensor, shift: Tensor) -> Tensor:
        """The matrix T with [P K'] = [1 P K] T, where K' is K scaled and shifted, `(head, 1 + e, e)`."""
        e = self.positions
        diagonal = torch.diag_embed(F.pad(scale, (e, 0), value=1.0))
        return torch.cat([F.pad(shift, (e, 0))[:, None], diagonal], 1)

    def _gram(
        self, k: Tensor, v: Tensor, p: Tensor, weights: Tensor | None, of_k: Tensor | None, of_v: Tensor | None
    ) -> Tensor:
        """[P K]^T [P V] / n of every head, `(b, head, e, e)`, e positions and features; sums in float32 at least.

        `p` is [1 P]. Where K or V are to be scaled and shifted, `of_k` and `of_v` do it to the sums.
        """
        with torch.autocast(k.device.type, enabled=False):
            k, v, p = (t if t.dtype == torch.float64 else t.float() for t in (k, v, p))
            left, parts = p, 1  # an integer, which may be symbolic, where a quotient could not be exported
            if self.kind == "linear":
                if weights is not None:
                    k, left = k + weights.log()[:, None], left + weights.log()
                k, left = k.softmax(1), left.softmax(0)
                parts = 1 if self.quadrature else k.shape[1]
            elif weights is not None:
                k, left = k * weights[:, None], left * weights
            else:
                parts = k.shape[1]
            inner = k.permute(0, 2, 3, 1) @ v.permute(0, 2, 1, 3)
            below = (k.flatten(2).mT @ p).unflatten(1, (self.n_heads, -1))
            right = (left.mT @ v.flatten(2)).unflatten(2, (self.n_heads, -1)).transpose(1, 2)
            corner = (left.mT @ p).expand(*right.shape[:-1], -1)
            gram = torch.cat([torch.cat([corner, right], -1), torch.cat([below, inner], -1)], -2)
            gram = gram[..., 1:, :] if of_k is None else of_k.to(gram.dtype).mT @ gram
            gram = gram[..., 1:] if of_v is None else gram @ of_v.to(gram.dtype)
            scale = 1 / math.sqrt(k.shape[-1] + self.positions) if self.kind == "fourier" else 1.0
            gram = gram * scale / parts
        return F.dropout(gram, self.dropout, self.training and self.kind != "fourier")

    def _dense(self, q: Tensor, k: Tensor, v: Tensor, p: Tensor, weights: Tensor | None) -> Tensor:
        """Attention with all n x n products formed, `(b, n, heads * e)`."""
        place = _per_head(p, q)
        q, k, v = (torch.cat([place, t], -1).transpose(1, 2) for t in (q, k, v))
        rate = self.dropout if self.training else 0.0
        if self.kind == "softmax":
            mask = None if weights is None else (weights / weights.max()).log().mT.to(q.dtype)
            z = F.scaled_dot_product_attention(q, k, v, mask, dropout_p=rate)
        else:
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            scores = scores / q.shape[2] if weights is None else scores * weights.mT
            z = F.dropout(scores, rate) @ v
        return z.transpose(1, 2).flatten(2)


def _per_head(p: Tensor, like: Tensor) -> Tensor:
    """Positions `(n, positions)` for every sample and head of `(b, n, head, feature)`."""
    return p[:, None].expand(*like.shape[:-1], p.shape[-1])


class Layer(nn.Module):
    """x <- x + attention, x <- x + FFN(x), each followed by a layer norm if asked for."""

    def __init__(self, attention: Attention, ffn: FeedForward, width: int, norm: bool, eps: float, dropout: float):
        super().__init__()
        self.attention, self.ffn, self.dropout = attention, ffn, nn.Dropout(dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, p: Tensor, weights: Tensor | None) -> Tensor:
        if self.training and self.dropout.p:
            x = x + self.dropout(self.attention(x, p, weights))
        else:
            x = self.attention(x, p, weights, residual=True)
        x = self.norms[0](x)
        return self.norms[1](x + self.dropout(self.ffn(x)))


class Down(nn.Module):
    """From any grid to the tokens, `(b, c, *x)` to `(b, width, *latent)`: a convolution on the training grid, three on
    the middle one, whose outputs are stacked.

    Args:
        in_channels: c.
        width: Channels out.
        shapes: Points per axis of training, middle and latent grid.
        location: Kind of all grids; on periodic ones convolutions wrap around, on others zeros lie beyond the walls.
        activation: After convolutions, and again after interpolations.
        dropout: After convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
        location: Location,
        activation: str,
        dropout: float,
    ):
        super().__init__()
        self.shapes, self.location = shapes, location
        third = width // 3
        channels = [(in_channels, width), (width, third), (third, third), (third, width - 2 * third)]
        self.convolutions = nn.ModuleList(_convolution(i, o, location) for i, o in channels)
        self.activations = nn.ModuleList(make_activation(activation, "down_activation") for _ in channels)
        self.after = nn.ModuleList(make_activation(activation) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, u: Tensor) -> Tensor:
        training, middle, latent = self.shapes
        u = self._convolve(0, resize(u, training, self.location))
        u = self.after[0](resize(u, middle, self.location))
        parts = []
        for i in (1, 2, 3):
            u = self._convolve(i, u)
            parts.append(u)
        return self.after[1](resize(torch.cat(parts, 1), latent, self.location))

    def _convolve(self, i: int, u: Tensor) -> Tensor:
        return self.activations[i](self.dropout(self.convolutions[i](u)))


class Up(nn.Module):
    """From the tokens to a middle grid, `(b, width, *latent)` to `(b, width, *shape)`; the activation acts twice."""

    def __init__(self, width: int, shape: tuple[int, ...], location: Location, activation: str, dropout: float):
        super().__init__()
        self.shape, self.location = shape, location
        self.convolution = _convolution(width, width, location)
        self.activations = nn.ModuleList(make_activation(activation, "up_activation") for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, u: Tensor) -> Tensor:
        u = self.convolution(resize(u, self.shape, self.location))
        for activation in self.activations:
            u = activation(self.dropout(u))
        return u


def _convolution(in_channels: int, out_channels: int, location: Location) -> nn.Conv2d:
    mode: Literal["circular", "zeros"] = "circular" if location == "periodic" else "zeros"
    return nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False, padding_mode=mode)


class Decoder(nn.Module):
    """From features on any grid to the output on another, `(b, width, *x)` to `(b, out_channels, *shape)`.

    A linear layer that joins positions, spectral layers, a two-layer projection.

    Args:
        width: Channels in.
        out_channels: Channels out.
        positions: Position features.
        location: Kind of both grids.
        quadrature: Whether walls of node grids weigh one half.
        coarse: Whether the features come from another grid.
        lift, channels, hidden, n_layers, n_modes, padding, activation, last_activation, spectral, pointwise, dropout:
            As `decoder_lift`, `decoder_width` and so on of `GalerkinTransformer`.
    """

    def __init__(
        self,
        width: int,
        out_channels: int,
        positions: int,
        location: Location,
        quadrature: bool,
        coarse: bool,
        lift: int,
        channels: int,
        hidden: int,
        n_layers: int,
        n_modes: tuple[int, ...],
        padding: float,
        activation: str,
        last_activation: bool,
        spectral: str,
        pointwise: bool,
        dropout: float,
    ):
        super().__init__()
        self.location, self.coarse = location, coarse
        self.n_modes, self.padding, self.spectral = n_modes, padding, spectral
        # Both walls of an axis are one point of the circle on which a Fourier series lives, half of it each.
        self.walls = quadrature and location == "node"
        self.lift = Pointwise(width + positions, lift) if lift else None
        pairs = list(itertools.pairwise([lift or width] + [channels] * n_layers))
        self.spectral_layers = nn.ModuleList(_spectral_layer(i, o, n_modes) for i, o in pairs if not pointwise)
        self.pointwise_layers = nn.ModuleList(Pointwise(i, o) for i, o in pairs)
        names = [activation] * n_layers
        if names and not last_activation:
            names[-1] = "identity"
        self.activations = nn.ModuleList(make_activation(name, "decoder_activation") for name in [*names, activation])
        self.dropout = nn.Dropout(dropout)
        last = channels if pairs else lift or width
        self.project = nn.ModuleList([Pointwise(last, hidden), Pointwise(hidden, out_channels)])

    def forward(self, x: Tensor, grid: Tensor) -> Tensor:
        """Decode.

        Args:
            x: Features.
            grid: Position features of the points wanted, `(positions, *shape)`.
        """
        shape = grid.shape[1:]
        if self.lift is not None:
            features, positions = self.lift.weight.split([x.shape[1], grid.shape[0]], 1)
            x = torch.bmm(features.expand(x.shape[0], *features.shape), x.flatten(2)).unflatten(2, x.shape[2:])
            field = torch.addmm(self.lift.bias[:, None], positions, grid.flatten(1)).unflatten(1, shape)
            x = self._onto(shape, x) + field
        else:
            x = self._onto(shape, x)
        period = tuple(self._period(n) for n in shape)
        spectral = choose("dft" if self.walls and not self.padding else self.spectral, self.n_modes, period)
        *activations, last = self.activations
        for i, (pointwise, activation) in enumerate(zip(self.pointwise_layers, activations, strict=True)):
            if self.spectral_layers:
                x = activation(self.spectral_layers[i](self.dropout(x), period, spectral, self.walls) + pointwise(x))
            else:
                x = self.dropout(activation(pointwise(x)))
        return self.project[1](last(self.project[0](x)))

    def _onto(self, shape: Sequence[int], x: Tensor) -> Tensor:
        return resize(x, shape, self.location) if self.coarse else x

    def _period(self, points: int) -> int:
        """Grid steps in one period, in integers, so that `points` may be symbolic."""
        if not self.padding and self.walls:
            return points - 1
        return period_of(points, self.padding, self.location)


def _spectral_layer(i: int, o: int, n_modes: tuple[int, ...]) -> SpectralConv:
    """With the small initial values of the original."""
    layer, ndim, modes = SpectralConv(i, o, n_modes), len(n_modes), n_modes[-1] // 2 + 1
    weight: Tensor = layer.weight
    nn.init.normal_(weight, 0, (i + o) ** (ndim / 2 - 1) / (i * o * modes ** (ndim / 2)))
    return layer


class GalerkinTransformer(Operator):
    """Galerkin Transformer in 1-D and 2-D, and its relatives by `attention`.

    The defaults are the paper's Darcy network, 2 220 829 parameters.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        ndim: Axes, 1 or 2.
        shape: Points per axis of the training grid; needed with `scalers`.
        location: Kind of grid, "node", "cell" or "periodic"; set from the data, as are those above.
        boundary: "dirichlet" makes the output zero on the walls of node grids.
        width: Features of a token.
        n_heads: Attention heads, a divisor of `width`.
        n_layers: Encoder layers.
        ffn_hidden: Hidden width of their feed-forward blocks.
        attention: "galerkin", "fourier", "linear" or "softmax".
        norm: Layer norms in each head before the products ("heads"), after each block ("layer"), or both.
        norm_eps: Added to variances.
        coordinates: Whether positions enter attention, the decoder, and in 2-D without `scalers` the input: true for
            x in [0, 1], false, or "waves" for cos 2 pi x and sin 2 pi x, which do not jump where a period closes.
        quadrature: Whether sums over points are integrals, see above; false as in the original.
        activation: Of the feed-forward blocks: a name in `opkit.models.activations`, or an importable class.
        ffn: "mlp" or a gated variant, see `opkit.models.layers.FeedForward`.
        scalers: Whether tokens are points of a coarser grid; by default in 2-D. If not, every point is one.
        latent_shape: Points per axis of that grid; by default 1/4 of the training grid's and 8, as 29 of 85, 43 of 141
            and 61 of 211 in the paper.
        down_shape: Points per axis of the middle grid on the way down; by default near the geometric mean.
        up_shape: The same on the way up.
        down_activation: Of the way down, after convolutions and after interpolations.
        up_activation: Of the way up.
        decoder: "spectral", or "pointwise" for the same layers without their spectral part.
        decoder_lift: Channels of a linear layer that joins positions ahead of the decoder; 0 for none.
        decoder_width: Channels of its layers.
        decoder_hidden: Hidden channels of the two-layer projection after them.
        n_decoder_layers: Spectral layers.
        n_modes: Their Fourier modes per axis, counted as in neuraloperator; by default the paper's, (30,) or (24, 22),
            which it calls 16 and 12.
        padding: Length added to the period of their Fourier series, as a fraction of the domain.
        decoder_activation: Of the decoder.
        last_activation: Whether its last spectral layer has one.
        spectral: "fft", "dft" (truncated transform as matrix products) or "auto", as in `FNO`. On node grids with
            `quadrature` and without `padding` always "dft".
        dropout: After attention and feed-forward blocks.
        attention_dropout: Of the attention matrix; makes the fourier kind quadratic in memory while training.
        ffn_dropout: Inside feed-forward blocks.
        feature_dropout: Of the features before (2-D) and after the encoder.
        scaler_dropout: After convolutions of the way down and of the way up.
        decoder_dropout: Before the spectral part of the decoder's layers, or after the layers if pointwise.
        initial_gain: Of the Xavier-uniform initial projections to queries, keys and values; 0 for those of `nn.Linear`.
        initial_diagonal: Added to their diagonals; without it training is less stable.

    Raises:
        ValueError: An impossible argument; the message names it, its value and what is accepted.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ndim: int = 2,
        shape: tuple[int, ...] | None = None,
        location: Location = "node",
        boundary: Boundary = "open",
        width: int = 128,
        n_heads: int = 4,
        n_layers: int = 6,
        ffn_hidden: int = 256,
        attention: Kind = "galerkin",
        norm: Norm = "heads",
        norm_eps: float = 1e-5,
        coordinates: Coordinates = True,
        quadrature: bool = True,
        activation: str = "relu",
        ffn: FFN = "mlp",
        scalers: bool | None = None,
        latent_shape: tuple[int, ...] | None = None,
        down_shape: tuple[int, ...] | None = None,
        up_shape: tuple[int, ...] | None = None,
        down_activation: str = "relu",
        up_activation: str = "silu",
        decoder: Literal["spectral", "pointwise"] = "spectral",
        decoder_lift: int = 32,
        decoder_width: int = 32,
        decoder_hidden: int = 128,
        n_decoder_layers: int = 2,
        n_modes: tuple[int, ...] | None = None,
        padding: float = 0.0,
        decoder_activation: str = "silu",
        last_activation: bool = True,
        spectral: Literal["auto", "fft", "dft"] = "auto",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        ffn_dropout: float = 0.0,
        feature_dropout: float = 0.0,
        scaler_dropout: tuple[float, float] = (0.0, 0.0),
        decoder_dropout: float = 0.0,
        initial_gain: float = 1e-2,
        initial_diagonal: float = 1e-2,
    ):
        super().__init__()
        scalers = ndim == 2 if scalers is None else scalers
        n_modes = PAPERS_MODES.get(ndim, (1,)) if n_modes is None else tuple(n_modes)
        least = dict(
            in_channels=(in_channels, 1), out_channels=(out_channels, 1), width=(width, 3 if scalers else 1),
            n_heads=(n_heads, 1), n_layers=(n_layers, 1), ffn_hidden=(ffn_hidden, 1), decoder_lift=(decoder_lift, 0),
            decoder_width=(decoder_width, 1), decoder_hidden=(decoder_hidden, 1),
            n_decoder_layers=(n_decoder_layers, 0),
        )  # fmt: skip
        rates = {"dropout": dropout, "attention_dropout": attention_dropout, "ffn_dropout": ffn_dropout}
        rates |= {"feature_dropout": feature_dropout, "decoder_dropout": decoder_dropout, "padding": padding}
        rates |= {f"scaler_dropout[{i}]": rate for i, rate in enumerate(scaler_dropout)}
        choices = dict(
            ndim=(ndim, (1, 2)), location=(location, LOCATIONS), boundary=(boundary, BOUNDARIES),
            attention=(attention, get_args(Kind)), norm=(norm, get_args(Norm)),
            coordinates=(coordinates, (True, False, "waves")), decoder=(decoder, ("spectral", "pointwise")),
            spectral=(spectral, ("auto", "fft", "dft")),
        )  # fmt: skip
        _check(least, rates, choices)
        if not norm_eps > 0:
            raise ValueError(f"norm_eps, added to variances, must be positive, got {norm_eps}.")
        if len(scaler_dropout) != 2:
            raise ValueError(
                f"scaler_dropout needs two rates, of the way down and of the way up, got {scaler_dropout}."
            )
        if width % n_heads:
            raise ValueError(f"n_heads must divide width={width}, got {n_heads}.")
        if len(n_modes) != ndim or any(n < 1 for n in n_modes):
            raise ValueError(f"n_modes needs one positive number per axis, ndim={ndim}, got {n_modes}.")
        if scalers and ndim == 1:
            raise ValueError("scalers=True needs ndim=2; in 1-D every point is a token.")
        if spectral == "fft" and quadrature and location == "node" and not padding:
            raise ValueError("spectral='fft' needs padding, or quadrature=False, on node grids; leave it at 'auto'.")
        self.in_channels, self.ndim, self.location, self.boundary = in_channels, ndim, location, boundary
        self.coordinates, self.quadrature = coordinates, quadrature
        self.resolution = "latent" if scalers else "native"
        self.compile_pays = not scalers  # slower at the paper's size: benchmarks/models.py
        features = count_positions(coordinates, ndim)
        if scalers:
            training, latent, down, up = _shapes(shape, latent_shape, down_shape, up_shape)
            self.lift: nn.Module = Down(
                in_channels, width, (training, down, latent), location, down_activation, scaler_dropout[0]
            )
            self.up: Up | None = Up(width, up, location, up_activation, scaler_dropout[1])
        else:
            self.lift = Linear(in_channels + (features if ndim == 2 else 0), width)
            self.up = None
        self.feature_dropout = nn.Dropout(feature_dropout)
        self.layers = nn.ModuleList(
            Layer(
                Attention(
                    width, n_heads, features, attention, norm != "layer", norm_eps, attention_dropout, quadrature,
                    initial_gain, initial_diagonal,
                ),
                FeedForward(width, ffn_hidden, activation, ffn, ffn_dropout),
                width, norm != "heads", norm_eps, dropout,
            )
            for _ in range(n_layers)
        )  # fmt: skip
        self.decoder = Decoder(
            width, out_channels, features, location, quadrature, scalers, decoder_lift, decoder_width, decoder_hidden,
            n_decoder_layers, n_modes, padding, decoder_activation, last_activation, spectral,
            decoder == "pointwise", decoder_dropout,
        )  # fmt: skip

    @classmethod
    def check(cls, spec: Spec, arguments: dict[str, Any]) -> None:
        ndim = spec.grid.ndim
        if ndim > 2:
            raise ValueError(f"{cls.__name__} is for 1 or 2 axes, the data have {ndim}. Choose another model.")
        if arguments.get("decoder", "spectral") == "spectral":
            check_modes(tuple(arguments.get("n_modes") or PAPERS_MODES[ndim]), spec)
        else:
            check_idle(cls, arguments, "with decoder=pointwise", "n_modes", "padding", "spectral")
        scalers = arguments.get("scalers")
        if not (ndim == 2 if scalers is None else scalers):
            check_idle(
                cls, arguments, "without scalers", "latent_shape", "down_shape", "up_shape", "down_activation",
                "up_activation", "scaler_dropout",
            )  # fmt: skip
        if arguments.get("ffn", "mlp") != "mlp":
            check_idle(cls, arguments, f"with ffn={arguments['ffn']}, which names its own", "activation")
        if not arguments.get("initial_gain", 1e-2):
            check_idle(cls, arguments, "with initial_gain=0", "initial_diagonal")

    def forward(self, u: Tensor) -> Tensor:
        """Map `(b, c_in, *x)` to `(b, c_out, *x)`; every axis needs at least 2 points."""
        self.check_input(u)
        shape = u.shape[2:]
        grid = positions(shape, self.coordinates, self.location, u)
        if self.up is not None:
            x = self.lift(u)
            tokens: Sequence[int] = x.shape[2:]
            p, x = positions(tokens, self.coordinates, self.location, u), x.flatten(2).mT
        else:
            tokens, p, x = shape, grid, u.flatten(2).mT
            if self.ndim == 2:
                x = torch.cat([x, grid.flatten(1).mT.expand(x.shape[0], -1, -1)], -1)
            x = self.lift(x)
        if self.ndim == 2:
            x = self.feature_dropout(x)
        weighed = self.quadrature and self.location == "node"
        p, weights = p.flatten(1).mT, trapezoid_weights(tokens, u)[:, None] if weighed else None
        for layer in self.layers:
            x = layer(x, p, weights)
        x = x.mT.unflatten(2, tokens)
        if self.up is not None:
            x = self.up(x)
            if self.training and self.feature_dropout.p:
                x = resize(x, shape, self.location)
        return self.constrain(self.decoder(self.feature_dropout(x), grid))

    def constrain(self, outputs: Tensor) -> Tensor:
        return zero_walls(outputs) if self.boundary == "dirichlet" and self.location == "node" else outputs

    def prepare_export(self) -> int:
        self.decoder.spectral = "dft"
        return max(8, *(n + 1 for n in self.decoder.n_modes))


def _check(
    least: dict[str, tuple[int, int]], rates: dict[str, float], choices: dict[str, tuple[Any, tuple[Any, ...]]]
) -> None:
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise ValueError(f"{name} must be at least {lowest}, got {value}.")
    for name, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ValueError(f"{name} must be between 0 and 1, got {rate}.")
    for name, (value, possible) in choices.items():
        if value not in possible:
            raise ValueError(f"{name} is one of {', '.join(map(str, possible))}, got {value!r}.")


def _shapes(
    shape: tuple[int, ...] | None,
    latent: tuple[int, ...] | None,
    down: tuple[int, ...] | None,
    up: tuple[int, ...] | None,
) -> list[tuple[int, ...]]:
    """Training grid, latent grid, middle grids down and up; what is None by the original's rules."""
    if shape is None:
        raise ValueError("shape, the points per axis of the training grid, is needed; or give scalers=False.")
    chosen = latent or tuple(min(n, (n + 2) // 4 + 8) for n in shape)
    for name, given in dict(shape=shape, latent_shape=chosen, down_shape=down, up_shape=up).items():
        if given is not None and (len(given) != 2 or any(n < 2 for n in given)):
            raise ValueError(f"{name} needs 2 or more points for each of 2 axes, got {tuple(given)}.")
    if any(m > n for n, m in zip(shape, chosen, strict=True)):
        raise ValueError(
            f"latent_shape={tuple(chosen)} is finer than the training grid of {tuple(shape)} points. Tokens are points "
            "of a coarser grid: lower it, or set scalers=false, where every point is one."
        )
    if down is None:
        down = tuple(_middle(n, m)[0] for n, m in zip(shape, chosen, strict=True))
    if up is None:
        up = tuple(_middle(n, m)[1] for n, m in zip(shape, chosen, strict=True))
    return [tuple(s) for s in (shape, chosen, down, up)]


def _middle(points: int, tokens: int) -> list[int]:
    """Points between a grid and its tokens, down and up, by the original's rule: half the way in logarithms, the factor
    rounded to 0.005 as it does, mostly upwards."""
    digits = round(1e4 * math.sqrt(tokens / points))
    raised = 5 if int(str(digits).rstrip("0")[-1]) < 5 else 0
    factor = 0.005 * int((round(digits / 10) + raised) / 5 + 0.5)
    return [max(tokens, min(points, n)) for n in (int(points * factor), round(points * factor) - 1)]

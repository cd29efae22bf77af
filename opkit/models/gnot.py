"""General neural operator transformer: query points attend to input functions, each a set of points with values.

Hao et al., "GNOT: A General Neural Operator Transformer for Operator Learning", ICML 2023 (arXiv 2302.14376), as in its
published code. With queries encoded to x, input functions to z_i, and gates g(position) = softmax(MLP(position)):

    x <- x + A(N x; N z_1, .., N z_L)        x <- x + N sum_e g_e FFN_e(x)
    x <- x + A(N x; N x)                     x <- x + N sum_e g_e FFN'_e(x)

    A(x; z_1, .., z_L) = W (q + mean_i sum_j (q . k_ij) v_ij / sum_j q . k_ij),    q, k softmaxed over their d/h entries

N is layer normalisation; every head has its own q, k, v. With sum_j k_j v_j first, A is linear in the number of points.

Notes on this implementation:

- Sums over points can carry quadrature weights. On node grids they are the trapezoid rule's: with equal ones, wall
  points count twice as much as they stand for, and the output changes with the grid at first order instead of second.
- Values are never computed. sum_j k_j v_j = (sum_j k_j z_j) W_v, and the output matrix joins in: what is left is one
  d x d matrix per sample and source, and products with it in which heads need not be set apart.
- Gates depend on positions alone, as do encoded queries and the first block's q where queries have no columns but
  these: with all samples on the same points they are computed once, not once per sample.
- The softmax is spelled out: PyTorch's takes rows of d/h entries one by one on a CPU, and five times as long.
- The experts run one after the other. A single network of all their hidden units would have to scale those by the
  gates, the largest tensor there is, where here it is their outputs; on a CPU it takes a quarter longer.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from opkit.grid import Location, Spec
from opkit.models.activations import activation as make_activation
from opkit.models.arguments import check_least, check_names
from opkit.models.base import Operator
from opkit.models.layers import FFN, FeedForward, Linear
from opkit.models.positions import positions, trapezoid_weights

Form = Literal["gnot", "cgpt"]
Combine = Literal["mean", "sum"]
Coordinates = Literal["auto", "plain", "waves"]


class GNOT(Operator):
    """General neural operator transformer, on a uniform grid or on any sets of points.

    On a grid the queries are the grid's points and the input functions its fields there, given as (position, values).

    Args:
        in_channels: Channels of the input field.
        out_channels: Channels of the output.
        ndim: Coordinates of a point.
        location: Kind of grid `forward` is for: "node", "cell" or "periodic"; set from the data.
        width: Channels inside, d.
        n_layers: Blocks.
        n_heads: Heads of every attention; they share `width`.
        n_experts: Feed-forward networks that the gates mix. With one the gates are 1 everywhere; their weights stay, as
            in the original, and have no effect.
        expansion: Hidden width of the feed-forward networks and gates, in units of `width`.
        mlp_layers: Hidden layers of the encoders and of the output network, beyond the first.
        form: "gnot", or "cgpt" for the code's smaller variant: one feed-forward network, normalised before and not
            after, and no gates; `n_experts` has no meaning then.
        combine: "mean" over input functions as in the paper, or "sum" as in its code.
        coordinates: What the network sees of a position: "plain" x, "waves" for cos 2 pi x and sin 2 pi x of every
            axis, or "auto": waves on periodic grids, where x itself jumps where the period closes, gates and sums with
            it, and the output then changes with the grid at first order. The gates see the same.
        harmonics: Further waves it sees: cos and sin of pi k x beside x itself, or of 2 pi k x where those of k = 1
            stand in its place, k up to this.
        fourier: If n > 0, every column of the queries is joined by its cos and sin at the frequencies 2^-n .. 2^n.
        quadrature: Whether sums over the points of a node grid are weighted by the trapezoid rule.
        branch_per_channel: Whether every channel of the field is an input function of its own.
        query_fields: Whether the queries carry, beside their coordinates, the fields' values there. The paper's do not:
            what is local then passes through the sums of the attention.
        activation: A name in `opkit.models.activations`, or an importable class.
        output_activation: That of the output network, if it is another.
        ffn: Feed-forward networks: "mlp", or a gated variant, see `opkit.models.layers.FeedForward`.
        dropout: After every attention.
        trunk_size: Columns of the queries of `forward_points`: `ndim` coordinates, then global parameters if any;
            default `ndim`, with `query_fields` `ndim + in_channels`.
        branch_sizes: Columns of each of its input functions; default those of a field on a grid. With this or
            `trunk_size` given, the network takes point sets alone.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        ndim: int,
        location: Location = "node",
        width: int = 64,
        n_layers: int = 3,
        n_heads: int = 4,
        n_experts: int = 3,
        expansion: int = 4,
        mlp_layers: int = 3,
        form: Form = "gnot",
        combine: Combine = "mean",
        coordinates: Coordinates = "auto",
        harmonics: int = 0,
        fourier: int = 0,
        quadrature: bool = True,
        branch_per_channel: bool = False,
        query_fields: bool = False,
        activation: str = "gelu",
        output_activation: str | None = None,
        ffn: FFN = "mlp",
        dropout: float = 0.0,
        trunk_size: int | None = None,
        branch_sizes: tuple[int, ...] | None = None,
    ):
        super().__init__()
        check_least(
            in_channels=in_channels, out_channels=out_channels, ndim=ndim, width=width, n_layers=n_layers,
            n_heads=n_heads, n_experts=n_experts, expansion=expansion,
        )  # fmt: skip
        check_names(location=(location, Location), form=(form, Form), combine=(combine, Combine))
        check_names(coordinates=(coordinates, Coordinates), ffn=(ffn, FFN))
        if width % n_heads:
            raise ValueError(f"n_heads must divide width={width}, which the heads share, got {n_heads}.")
        check_least(0, mlp_layers=mlp_layers, harmonics=harmonics, fourier=fourier)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a probability below 1, got {dropout}.")
        self.on_grid = trunk_size is None and branch_sizes is None
        if query_fields and not self.on_grid:
            raise ValueError(
                f"query_fields is for fields on a grid, trunk_size={trunk_size} and branch_sizes={branch_sizes} are "
                "for point sets. Leave query_fields out and count the columns of the queries in trunk_size."
            )
        if trunk_size is None:
            trunk_size = ndim + in_channels if query_fields else ndim
        if branch_sizes is None:
            branch_sizes = (ndim + 1,) * in_channels if branch_per_channel else (ndim + in_channels,)
        branch_sizes = tuple(branch_sizes)
        self.waves = coordinates == "waves" or (coordinates == "auto" and location == "periodic")
        self.harmonics = max(1, harmonics) if self.waves else harmonics
        if trunk_size < ndim or any(size < (ndim if self.harmonics else 1) for size in branch_sizes):
            raise ValueError(
                f"trunk_size={trunk_size} and branch_sizes={branch_sizes} count columns of which the first ndim={ndim} "
                "are coordinates; they cannot be fewer."
            )
        self.in_channels, self.ndim, self.location = in_channels, ndim, location
        self.trunk_size, self.branch_sizes, self.branch_per_channel = trunk_size, branch_sizes, branch_per_channel
        self.query_fields = query_fields
        self.fourier, self.trapezoid = fourier, quadrature and location == "node"
        added = ndim * (2 * self.harmonics - int(self.waves))
        encoder: dict[str, Any] = dict(width=width, n_layers=mlp_layers, activation=activation)
        self.trunk = MLP((trunk_size + added) * (4 * fourier + 3 if fourier else 1), width, **encoder)
        self.branches = nn.ModuleList(MLP(size + added, width, **encoder) for size in branch_sizes)
        share = 1 / len(branch_sizes) if combine == "mean" and branch_sizes else 1.0
        self.blocks = nn.ModuleList(
            Block(
                width, n_heads, len(branch_sizes), share, expansion * width, n_experts if form == "gnot" else 0,
                ndim + added, activation, ffn, dropout,
            )
            for _ in range(n_layers)
        )  # fmt: skip
        last = (output_activation, "output_activation") if output_activation else (activation, "activation")
        self.head = MLP(width, out_channels, width, mlp_layers, *last)

    @classmethod
    def check(cls, spec: Spec, arguments: dict[str, Any]) -> None:
        for name in ("trunk_size", "branch_sizes"):
            if arguments.get(name) is not None:
                raise ValueError(
                    f"{name}={arguments[name]} is for point sets. For data on a grid leave it out: the queries are the "
                    "grid's points, and the input function its field."
                )

    def forward(self, u: Tensor) -> Tensor:
        """Map `(b, c_in, *x)` to `(b, c_out, *x)`; every axis needs at least 2 points."""
        if not self.on_grid:
            raise ValueError(
                f"This GNOT was built for point sets, with trunk_size={self.trunk_size} and branch_sizes="
                f"{self.branch_sizes}: call forward_points. For fields on a grid leave both out."
            )
        self.check_input(u)
        shape = u.shape[2:]
        points = positions(shape, True, self.location, u).flatten(1).mT[None]
        weights = trapezoid_weights(shape, u)[None] if self.trapezoid else None
        values = u.flatten(2).mT
        fields = values.split(1, -1) if self.branch_per_channel else [values]
        everywhere = points.expand(u.shape[0], -1, -1)
        inputs = [torch.cat([everywhere, field], -1) for field in fields]
        query = torch.cat([everywhere, values], -1) if self.query_fields else points
        return self._run(points, query, inputs, weights, [weights] * len(inputs)).mT.unflatten(2, shape)

    def forward_points(
        self,
        query: Tensor,
        inputs: Sequence[Tensor],
        query_mask: Tensor | None = None,
        input_masks: Sequence[Tensor | None] | None = None,
        query_weights: Tensor | None = None,
        input_weights: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """The outputs at any points, from input functions known at any points.

        Samples with fewer points than others are padded to the same number, and masks say which points are real; what
        stands in the padding, NaN included, changes nothing. A leading size of 1 stands for the whole batch: queries
        that all samples share are best given so, or expanded, and are then encoded once.

        Args:
            query: Points `(b, n, trunk_size)`: coordinates, for waves in periods, or for harmonics between walls in
                units of the domain, then global parameters.
            inputs: Input functions, one tensor `(b, m_i, branch_sizes[i])` each: coordinates, then values.
            query_mask: True where a query is real, `(b, n)`; all are by default.
            input_masks: The same of every input function, `(b, m_i)` or None.
            query_weights: Quadrature weights of the query points in the sums of self-attention, not negative, `(b, n)`;
                equal by default. A common factor changes nothing.
            input_weights: The same of every input function, `(b, m_i)` or None.

        Returns:
            Outputs `(b, n, c_out)`, zero where `query_mask` is false.

        Raises:
            ValueError: A tensor does not fit the network or the others, a sample has no real point, or a weight is
                negative or not finite.
        """
        number = len(self.branch_sizes)
        if not isinstance(query, Tensor) or inputs is None or not all(isinstance(z, Tensor) for z in inputs):
            raise ValueError(
                f"forward_points takes tensors: the queries, and a list of {number} input function(s); got "
                f"{type(query).__name__} and {type(inputs).__name__}."
            )
        masks: Sequence[Tensor | None] = [None] * number if input_masks is None else input_masks
        weights: Sequence[Tensor | None] = [None] * number if input_weights is None else input_weights
        for name, entries in (("inputs", inputs), ("input_masks", masks), ("input_weights", weights)):
            if len(entries) != number:
                raise ValueError(f"This GNOT has {number} input function(s); {name} has {len(entries)} entries.")
        given = (query, *inputs, query_mask, query_weights, *masks, *weights)
        batch = max([1, *(t.shape[0] for t in given if t is not None and t.ndim > 1)])
        if query.ndim == 3 and query.stride(0) == 0:  # the same points, expanded
            query = query[:1]
        query, w = _real(query, query_mask, query_weights, "query", self.trunk_size, batch)
        pairs = [
            _real(points, mask, weight, f"inputs[{i}]", self.branch_sizes[i], batch)
            for i, (points, mask, weight) in enumerate(zip(inputs, masks, weights, strict=True))
        ]
        inputs, input_weights = zip(*pairs, strict=True) if pairs else ((), ())
        outputs = self._run(query[..., : self.ndim], query, inputs, w, input_weights).expand(batch, -1, -1)
        return outputs if query_mask is None else outputs.masked_fill(~query_mask[..., None], 0)

    def _run(
        self,
        points: Tensor,
        query: Tensor,
        inputs: Sequence[Tensor],
        weights: Tensor | None,
        input_weights: Sequence[Tensor | None],
    ) -> Tensor:
        """The network on queries at points, batches of 1 or b; weights are zero where a point is padding."""
        places, query = self._positions(points), self._positions(query)
        if self.fourier:
            powers = 2.0 ** torch.arange(-self.fourier, self.fourier + 1, dtype=query.dtype, device=query.device)
            phase = query[..., None] * powers
            query = torch.cat([query[..., None], phase.cos(), phase.sin()], -1).flatten(-2)
        x = self.trunk(query)
        z = [branch(self._positions(points)) for branch, points in zip(self.branches, inputs, strict=True)]
        for block in self.blocks:
            x = block(x, z, places, weights, input_weights)
        return self.head(x)

    def _positions(self, points: Tensor) -> Tensor:
        """The first `ndim` columns with their waves, or replaced by these, where wanted."""
        if not self.harmonics:
            return points
        x, others = points[..., : self.ndim], points[..., self.ndim :]
        k = torch.arange(1, self.harmonics + 1, dtype=points.dtype, device=points.device)
        phase = ((2 if self.waves else 1) * math.pi * k[:, None] * x[..., None, :]).flatten(-2)
        places = [phase.cos(), phase.sin()] if self.waves else [x, phase.cos(), phase.sin()]
        return torch.cat([*places, others], -1)


class MLP(nn.Module):
    """Linear layer, `n_layers` residual layers x + act(W x + b) behind its activation, linear layer."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int,
        n_layers: int,
        activation: str,
        argument: str = "activation",
    ):
        super().__init__()
        self.first = Linear(in_features, width)
        self.layers = nn.ModuleList(Linear(width, width) for _ in range(n_layers))
        self.activations = nn.ModuleList(make_activation(activation, argument) for _ in range(n_layers + 1))
        self.last = Linear(width, out_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activations[0](self.first(x))
        for layer, activation in zip(self.layers, self.activations[1:], strict=True):
            x = x + activation(layer(x))
        return self.last(x)


class Attention(nn.Module):
    """Normalised linear attention of points to several sets of points.

    Args:
        width: Channels.
        n_heads: Heads.
        n_sources: Sets of points attended to, each with its own keys and values.
        share: Factor of every source's term.
    """

    def __init__(self, width: int, n_heads: int, n_sources: int, share: float = 1.0):
        super().__init__()
        self.n_heads, self.share = n_heads, share
        self.query = Linear(width, width)
        self.keys = nn.ModuleList(Linear(width, width) for _ in range(n_sources))
        self.values = nn.ModuleList(Linear(width, width) for _ in range(n_sources))
        self.project = Linear(width, width)

    def forward(self, x: Tensor, sources: Sequence[Tensor], weights: Sequence[Tensor | None]) -> Tensor:
        """Attend from points `(b, n, d)` to sources `(b, m_i, d)` with weights `(b, m_i)` or None."""
        query, keys = self.query(x), [key(z) for key, z in zip(self.keys, sources, strict=True)]
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):  # sums over thousands of points: float32 at least
                return self._attend(query.float(), [k.float() for k in keys], [z.float() for z in sources], weights)
        return self._attend(query, keys, sources, weights)

    def _attend(
        self, query: Tensor, keys: Sequence[Tensor], sources: Sequence[Tensor], weights: Sequence[Tensor | None]
    ) -> Tensor:
        heads = (self.n_heads, -1)
        q = _softmax(query.unflatten(-1, heads))
        out = self.project(q.flatten(-2))
        project = self.project.weight.mT.unflatten(0, heads)
        values: list[Any] = list(self.values)
        for key, z, weight, value in zip(keys, sources, weights, values, strict=True):
            k = _softmax(key.unflatten(-1, heads), 1 if weight is None else weight[..., None, None]).flatten(-2)
            total = k.sum(1).unflatten(-1, heads)  # (b, h, d_k)
            mean = (k.mT @ z).unflatten(1, heads) @ value.weight.unflatten(0, heads).mT
            mean = mean + total[..., None] * value.bias.unflatten(0, heads)[:, None]  # sum of k_j v_j, (b, h, d_k, d_k)
            mix = ((self.share * mean) @ project).flatten(1, 2)  # (b, d, d)
            # The sum is positive, but for a q and k that never meet it may underflow: 0 / 0.
            norm = (q * total[:, None]).sum(-1, keepdim=True).clamp_min(torch.finfo(q.dtype).tiny)
            out = out + (q * (1 / norm)).flatten(-2) @ mix
        return out


class Experts(nn.Module):
    """Feed-forward networks whose outputs are mixed with weights that vary from point to point.

    Args:
        width: Length of the last axis.
        hidden: Hidden width of each.
        n_experts: How many.
        activation: Of "mlp"; the gated variants name theirs.
        ffn: Kind of network, as of `FeedForward`.
    """

    def __init__(self, width: int, hidden: int, n_experts: int, activation: str = "gelu", ffn: FFN = "mlp"):
        super().__init__()
        self.networks = nn.ModuleList(FeedForward(width, hidden, activation, ffn) for _ in range(n_experts))

    def forward(self, x: Tensor, gates: Sequence[Tensor] | None = None) -> Tensor:
        """Map `(b, n, d)` to the same; one gate `(b, n, 1)` for every expert, or none for a single one."""
        if gates is None:
            return self.networks[0](x)
        out = gates[0] * self.networks[0](x)
        others: list[Any] = list(self.networks[1:])
        for gate, network in zip(gates[1:], others, strict=True):
            out = torch.addcmul(out, gate, network(x))
        return out


class Block(nn.Module):
    """Cross-attention, feed-forward, self-attention, feed-forward, each added to what it is given.

    Args:
        width: Channels.
        n_heads: Heads of both attentions.
        n_sources: Input functions.
        share: Factor of each in the cross-attention.
        hidden: Hidden width of feed-forward networks and gates.
        n_experts: Experts, or 0 for one network without gates, its input normalised and not its output.
        places: Columns of what the gates see.
        activation: Name of the activation.
        ffn: Kind of feed-forward network.
        dropout: After every attention.
    """

    def __init__(
        self, width: int, n_heads: int, n_sources: int, share: float, hidden: int, n_experts: int, places: int,
        activation: str, ffn: FFN, dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.n_experts = n_experts
        self.cross_norm, self.self_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.source_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_sources))
        self.cross_attention = Attention(width, n_heads, n_sources, share)
        self.self_attention = Attention(width, n_heads, 1)
        self.ffn_norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.ffns = nn.ModuleList(Experts(width, hidden, n_experts or 1, activation, ffn) for _ in range(2))
        if n_experts:
            self.gate = nn.Sequential(
                Linear(places, hidden), make_activation(activation),
                Linear(hidden, hidden), make_activation(activation),
                Linear(hidden, n_experts),
            )  # fmt: skip

    def forward(
        self,
        x: Tensor,
        sources: Sequence[Tensor],
        places: Tensor,
        weights: Tensor | None,
        source_weights: Sequence[Tensor | None],
    ) -> Tensor:
        """Map `(b, n, d)` to the same, given sources `(b, m_i, d)`, positions and quadrature weights."""
        gates: Sequence[Tensor] | None = None
        if self.n_experts:  # a single gate is 1: computed at one point, so that its weights still have a gradient, zero
            gates = _softmax(self.gate(places if self.n_experts > 1 else places[:, :1])).split(1, -1)
        sources = [norm(z) for norm, z in zip(self.source_norms, sources, strict=True)]
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), sources, source_weights))
        x = x + self._feed(0, x, gates)
        normed = self.self_norm(x)
        x = x + self.dropout(self.self_attention(normed, [normed], [weights]))
        return x + self._feed(1, x, gates)

    def _feed(self, i: int, x: Tensor, gates: Sequence[Tensor] | None) -> Tensor:
        norm, experts = self.ffn_norms[i], self.ffns[i]
        return experts(norm(x)) if gates is None else norm(experts(x, gates))


def _softmax(x: Tensor, factor: Tensor | int = 1) -> Tensor:
    """Softmax over the last axis, in float32 at least, times a factor that does not vary along it."""
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    x = torch.exp(x - x.detach().amax(-1, keepdim=True))
    return x * (factor / x.sum(-1, keepdim=True))


def _real(
    points: Tensor, mask: Tensor | None, weights: Tensor | None, name: str, columns: int, batch: int
) -> tuple[Tensor, Tensor | None]:
    """Points with zeros for padding, and their weights in sums, zero there.

    Raises:
        ValueError: Something does not fit.
    """
    if points.ndim != 3:
        raise ValueError(f"{name} should be of shape (batch, points, {columns}), got {tuple(points.shape)}.")
    if points.shape[2] != columns or points.shape[0] not in (1, batch) or not points.shape[1]:
        raise ValueError(
            f"{name} should be of shape (batch, points, {columns}) with at least one point and the batch 1 or {batch}, "
            f"got {tuple(points.shape)}."
        )
    for kind, given in (("mask", mask), ("weights", weights)):
        if given is not None and (
            given.ndim != 2 or given.shape[0] not in (1, batch) or given.shape[1] != points.shape[1]
        ):
            raise ValueError(
                f"The {kind} of {name} should be of shape ({batch}, {points.shape[1]}), got {tuple(given.shape)}."
            )
    if weights is not None:
        if not weights.is_floating_point():
            raise ValueError(f"The weights of {name} should be floating-point numbers, got {weights.dtype}.")
        weights = weights.to(points.dtype)
    if mask is None:
        return points, _areas(weights, name)
    if mask.dtype != torch.bool:
        raise ValueError(f"The mask of {name} should be boolean, true at real points, got {mask.dtype}.")
    if not torch.compiler.is_compiling() and not mask.any(1).all():
        raise ValueError(f"A sample has no real point: the mask of {name} is false everywhere in it.")
    ours = mask if points.shape[0] == mask.shape[0] else mask.any(0, keepdim=True).expand(points.shape[0], -1)
    points = points.masked_fill(~ours[..., None], 0)
    return points, mask.to(points.dtype) if weights is None else _areas(torch.where(mask, weights, 0), name)


def _areas(weights: Tensor | None, name: str) -> Tensor | None:
    """The weights of real points, refused where they stand for no area."""
    if weights is not None and not torch.compiler.is_compiling() and not (weights.isfinite() & (weights >= 0)).all():
        raise ValueError(f"The weights of {name} stand for areas: they must be finite and not negative.")
    return weights

"""GNOT against sums written out point by point, and its promises on batches, padding, point sets and other grids."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from opkit.grid import Grid, Spec
from opkit.models import GNOT, count_parameters
from opkit.models.gnot import Attention, Experts

SMALL = dict(width=12, n_layers=2, n_heads=3, n_experts=2, expansion=2, mlp_layers=1)


def small(*arguments, **others) -> GNOT:
    return GNOT(*arguments, **SMALL | others).double()


def roughened(model: GNOT) -> GNOT:
    """Weights three times as large: what the positions contribute is then no small part of the output."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 3
    return model


def points(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def direct(attention: Attention, x, sources, weights, share: float) -> torch.Tensor:
    """Attention by its definition, one sample, head, query and source point at a time."""
    h, out = attention.n_heads, torch.empty_like(x)
    for b in range(x.shape[0]):
        queries = attention.query(x[b]).chunk(h, -1)
        columns = []
        for head in range(h):
            rows = []
            for q in queries[head].softmax(-1):
                row = q.clone()
                for i, z in enumerate(sources):
                    keys = attention.keys[i](z[b]).chunk(h, -1)[head].softmax(-1)
                    values = attention.values[i](z[b]).chunk(h, -1)[head]
                    alphas = [w * (q * k).sum() for w, k in zip(weights[i][b], keys, strict=True)]
                    row = row + share * sum(a * v for a, v in zip(alphas, values, strict=True)) / sum(alphas)
                rows.append(row)
            columns.append(torch.stack(rows))
        out[b] = attention.project(torch.cat(columns, -1))
    return out


@pytest.mark.parametrize(("n_heads", "share"), [(1, 1.0), (4, 0.5), (8, 1.0)])
def test_attention_is_the_direct_double_sum(n_heads, share):
    attention = Attention(8, n_heads, 2, share).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.7)
    x, sources = torch.randn(2, 5, 8).double(), [torch.randn(2, 6, 8).double(), torch.randn(2, 3, 8).double()]
    weights = [points(2, 6), points(2, 3)]
    expected = direct(attention, x, sources, weights, share)
    assert expected.std() > 0.1
    torch.testing.assert_close(attention(x, sources, weights), expected, rtol=0, atol=1e-12)
    ones = [torch.ones_like(w) for w in weights]
    expected = direct(attention, x, sources, ones, share)
    torch.testing.assert_close(attention(x, sources, [None, None]), expected, rtol=0, atol=1e-12)


def test_queries_and_keys_that_never_meet_give_no_nan():
    attention = Attention(4, 1, 1)
    with torch.no_grad():
        attention.query.bias[0] += 1e3
        attention.keys[0].bias[1] += 1e3
    assert attention(torch.randn(1, 3, 4), [torch.randn(1, 5, 4)], [None]).isfinite().all()


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
def test_experts_are_one_wide_network_with_its_hidden_units_scaled_by_the_gates(ffn):
    experts = Experts(6, 10, 3, "tanh", ffn).double()
    x, gates = torch.randn(2, 7, 6).double(), torch.rand(1, 7, 3).double().softmax(-1)
    first = torch.cat([e.inner(x) for e in experts.networks], -1)
    if ffn == "swiglu":
        hidden = torch.cat([F.silu(part.chunk(2, -1)[0]) * part.chunk(2, -1)[1] for part in first.chunk(3, -1)], -1)
    else:
        hidden = first.tanh()
    hidden = hidden * gates.repeat_interleave(hidden.shape[-1] // 3, -1)
    wide = torch.cat([e.outer.weight for e in experts.networks], -1)
    expected = hidden @ wide.mT + gates @ torch.stack([e.outer.bias for e in experts.networks])
    torch.testing.assert_close(experts(x, gates.split(1, -1)), expected, rtol=0, atol=1e-13)


def test_gates_sum_to_one_and_are_computed_once_for_all_samples():
    gates = []
    for n_experts, places in ((3, 42), (1, 1)):
        model = roughened(small(1, 1, 2, n_experts=n_experts))
        model.blocks[1].ffns[0].register_forward_pre_hook(lambda module, given: gates.append(torch.cat(given[1], -1)))
        model(torch.randn(2, 1, 6, 7).double())
        assert gates[-1].shape == (1, places, n_experts)
        torch.testing.assert_close(gates[-1].sum(-1), torch.ones(1, places).double(), rtol=0, atol=1e-14)
    assert gates[0].std() > 1e-3


def test_experts_that_are_all_alike_are_one():
    one, three = small(1, 1, 2, n_experts=1), small(1, 1, 2, n_experts=3)
    state = one.state_dict()
    for name in three.state_dict():
        if ".networks." in name:
            state[name] = state[name.replace("networks.1", "networks.0").replace("networks.2", "networks.0")]
        elif ".gate." in name:
            state[name] = 0.3 * torch.randn_like(three.state_dict()[name])
    three.load_state_dict(state)
    u = torch.randn(2, 1, 6, 7).double()
    torch.testing.assert_close(three(u), one(u), rtol=0, atol=1e-12)
    with torch.no_grad():
        three.blocks[0].ffns[0].networks[1].outer.weight.normal_()
    assert (three(u) - one(u)).abs().max() > 1e-3


def test_the_gates_of_a_single_expert_have_no_effect_and_no_gradient():
    model = small(1, 1, 1, n_experts=1)
    u = torch.randn(2, 1, 9).double()
    before = model(u)
    before.sum().backward()
    for block in model.blocks:
        for parameter in block.gate.parameters():
            assert (parameter.grad == 0).all()
            nn.init.normal_(parameter)
    assert (model(u) == before).all()


@pytest.mark.parametrize("form", ["gnot", "cgpt"])
def test_order_of_the_points_is_of_no_consequence(form):
    model = roughened(small(1, 2, 2, trunk_size=3, branch_sizes=(3, 2), form=form))
    query, inputs = points(2, 11, 3), [points(2, 9, 3), points(2, 5, 2)]
    expected = model.forward_points(query, inputs)
    order = torch.randperm(11)
    torch.testing.assert_close(model.forward_points(query[:, order], inputs), expected[:, order], rtol=0, atol=1e-12)
    shuffled = [z[:, torch.randperm(z.shape[1])] for z in inputs]
    torch.testing.assert_close(model.forward_points(query, shuffled), expected, rtol=0, atol=1e-12)
    assert (model.forward_points(query, [inputs[0] + 0.1, inputs[1]]) - expected).abs().max() > 1e-3
    assert (model.forward_points(query, [inputs[0], inputs[1] + 0.1]) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("garbage", [7.0, math.nan, math.inf])
def test_a_sample_depends_neither_on_its_batch_nor_on_its_padding(garbage, weighted):
    model = roughened(small(1, 2, 2, trunk_size=3, branch_sizes=(3, 4)))
    sizes = [(7, 4, 9), (12, 1, 3), (1, 8, 5)]
    alone = [
        dict(
            query=points(1, n, 3), inputs=[points(1, a, 3), points(1, b, 4)],
            query_weights=points(1, n) if weighted else None,
            input_weights=[points(1, a), None] if weighted else None,
        )
        for n, a, b in sizes
    ]  # fmt: skip

    def padded(tensors):
        longest = max(t.shape[1] for t in tensors)
        rows = [F.pad(t, (0, 0) * (t.ndim - 2) + (0, longest - t.shape[1]), value=garbage) for t in tensors]
        masks = [(torch.arange(longest) < t.shape[1])[None] for t in tensors]
        return torch.cat(rows), torch.cat(masks)

    query, query_mask = padded([s["query"] for s in alone])
    inputs, input_masks = zip(*(padded([s["inputs"][i] for s in alone]) for i in (0, 1)), strict=True)
    weights = {}
    if weighted:
        weights["query_weights"] = padded([s["query_weights"] for s in alone])[0]
        weights["input_weights"] = [padded([s["input_weights"][0] for s in alone])[0], None]
    query.requires_grad_()
    together = model.forward_points(query, inputs, query_mask, input_masks, **weights)
    for i, (sample, (n, _, _)) in enumerate(zip(alone, sizes, strict=True)):
        expected = model.forward_points(**sample)[0]
        torch.testing.assert_close(together[i, :n], expected, rtol=0, atol=1e-12)
        assert (together[i, n:] == 0).all()
    together.square().sum().backward()
    assert (query.grad[~query_mask] == 0).all() and query.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_batches_on_a_grid_are_independent():
    model = roughened(small(2, 1, 2))
    u = torch.randn(4, 2, 7, 6).double()
    torch.testing.assert_close(model(u)[1:2], model(u[1:2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("given", ["single", "expanded"])
def test_shared_queries_are_as_good_as_one_copy_per_sample(given):
    model = roughened(small(1, 1, 2, trunk_size=2, branch_sizes=(3,)))
    query, inputs = points(1, 8, 2), [points(3, 9, 3)]
    mask = torch.rand(3, 8) < 0.7
    mask[:, 0], mask[:, 7] = True, False
    mask[0, 1], mask[1, 1] = False, True  # real in some samples
    query[:, 7] = math.nan
    shared = query if given == "single" else query.expand(3, -1, -1)
    expected = model.forward_points(query.repeat(3, 1, 1), inputs, mask)
    torch.testing.assert_close(model.forward_points(shared, inputs, mask), expected, rtol=0, atol=1e-12)
    assert expected.isfinite().all()
    widened = model.forward_points(points(1, 4, 2), inputs=[points(1, 5, 3)], query_mask=torch.ones(3, 4).bool())
    assert widened.shape == (3, 4, 1)
    alone = small(1, 1, 2, branch_sizes=())
    assert alone.forward_points(points(1, 4, 2).expand(3, -1, -1), []).shape == (3, 4, 1)


@pytest.mark.parametrize(("per_channel", "query_fields"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize(
    ("shape", "location"),
    [
        ((9,), "node"),
        ((10,), "periodic"),
        ((7, 6), "node"),
        ((5, 8), "cell"),
        ((6, 7), "periodic"),
        ((4, 5, 3), "node"),
    ],
)
def test_a_grid_is_a_set_of_points(shape, location, per_channel, query_fields):
    """With the coordinates and quadrature weights of `opkit.grid`, given to every sample."""
    grid = Grid(shape, location)
    arguments = dict(branch_per_channel=per_channel, query_fields=query_fields)
    model = roughened(small(2, 2, len(shape), location, **arguments))
    u = torch.randn(3, 2, *shape).double()
    places = grid.coordinates.flatten(1).mT.repeat(3, 1, 1)
    channels = [u[:, :1], u[:, 1:]] if per_channel else [u]
    inputs = [torch.cat([places, c.flatten(2).mT], -1) for c in channels]
    query = torch.cat([places, u.flatten(2).mT], -1) if query_fields else places
    weights = grid.weights.flatten().expand(3, -1)
    outputs = model.forward_points(query, inputs, query_weights=weights, input_weights=[weights] * len(inputs))
    expected = model(u)
    assert expected.shape == (3, 2, *shape)
    torch.testing.assert_close(outputs.mT.unflatten(2, shape), expected, rtol=0, atol=1e-12)
    if location == "node":
        plain = model.forward_points(query, inputs)
        assert (plain.mT.unflatten(2, shape) - expected).abs().max() > 1e-6
        model.trapezoid = False
        torch.testing.assert_close(plain.mT.unflatten(2, shape), model(u), rtol=0, atol=1e-12)


def order(model: GNOT, location: str, ndim: int) -> float:
    """Observed order of convergence of the output under refinement, at the coarsest grid's points."""

    def output(n: int) -> torch.Tensor:
        grid = Grid((n,) * ndim, location)
        x = grid.coordinates
        u = torch.cos(2 * math.pi * x[0]) if location == "periodic" else torch.exp(x).sum(0)
        u = model(u[None, None])
        stride = coarsest.stride_in(grid)
        start = stride // 2 if location == "cell" else 0
        return u[(slice(None), slice(None)) + (slice(start, None, stride),) * ndim]

    coarsest = Grid((9 if location == "node" else 8,) * ndim, location)
    sizes = [coarsest, *(coarsest.refine(factor) for factor in (3, 9, 81 if ndim == 1 else 27))]
    u = [output(g.shape[0]) for g in sizes]
    errors = [(v - u[-1]).abs().max() for v in u[:-1]]
    assert errors[0] > 1e-6
    return float(torch.log(errors[1] / errors[2]) / math.log(3))


@pytest.mark.parametrize(
    ("location", "ndim", "arguments", "expected"),
    [
        ("node", 1, {}, 2),
        ("node", 2, {}, 2),
        ("node", 1, dict(quadrature=False), 1),
        ("cell", 1, {}, 2),
        ("periodic", 1, dict(coordinates="plain"), 1),
        ("periodic", 1, {}, 10),
        ("node", 1, dict(harmonics=2), 2),
        ("periodic", 1, dict(harmonics=2), 10),
    ],
)
def test_order_at_which_the_output_converges_as_the_grid_is_refined(location, ndim, arguments, expected):
    """On periodic grids seen through waves, sums converge faster than any power, gates included."""
    torch.manual_seed(1)
    with torch.no_grad():
        found = order(roughened(small(1, 1, ndim, location, **arguments)), location, ndim)
    assert found > 6 if expected == 10 else abs(found - expected) < 0.3


@pytest.mark.parametrize("harmonics", [0, 3])
def test_waves_close_the_period(harmonics):
    model = roughened(small(1, 1, 2, "periodic", harmonics=harmonics))
    inputs = [points(1, 12, 3)]
    first, second = torch.tensor([[[0.3, 0.0], [1.0, 0.4]], [[1.3, 1.0], [0.0, 2.4]]], dtype=torch.float64)
    outputs = [model.forward_points(x[None], inputs) for x in (first, second)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    assert outputs[0].std() > 1e-4


def test_harmonics_are_the_waves_they_are_said_to_be():
    """At (1/6, 1/2): pi k x is 30, 60 and 90, 180 degrees; 2 pi k x twice that."""
    x = torch.tensor([[1 / 6, 1 / 2, 7.0]], dtype=torch.float64)  # and a value
    half, root = 0.5, math.sqrt(3) / 2
    walls, ring = (small(1, 1, 2, location, harmonics=2)._positions(x)[0] for location in ("node", "periodic"))
    torch.testing.assert_close(walls, torch.tensor([1 / 6, 0.5, root, 0, half, -1, half, 1, root, 0, 7]).double())
    torch.testing.assert_close(ring, torch.tensor([half, -1, -half, 1, root, 0, root, 0, 7]).double())
    assert torch.equal(small(1, 1, 2)._positions(x), x)
    one, none = (small(1, 1, 2, "periodic", harmonics=n) for n in (1, 0))
    assert torch.equal(one._positions(x), none._positions(x))


def test_mean_over_input_functions_does_not_count_the_same_one_twice():
    once = roughened(small(1, 1, 2, trunk_size=2, branch_sizes=(3,)))
    twice = small(1, 1, 2, trunk_size=2, branch_sizes=(3, 3))
    added = small(1, 1, 2, trunk_size=2, branch_sizes=(3, 3), combine="sum")
    state = once.state_dict()
    for model in (twice, added):
        copied = {}
        for name in model.state_dict():
            original = name
            for part in ("branches", "source_norms", "cross_attention.keys", "cross_attention.values"):
                original = original.replace(f"{part}.1.", f"{part}.0.")
            copied[name] = state[original]
        model.load_state_dict(copied)
    query, z = points(2, 6, 2), points(2, 9, 3)
    expected = once.forward_points(query, [z])
    torch.testing.assert_close(twice.forward_points(query, [z, z]), expected, rtol=0, atol=1e-12)
    assert (added.forward_points(query, [z, z]) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        (dict(width=64, n_heads=1, n_experts=1), 551_236),
        (dict(width=96, n_heads=8), 2_125_162),
        (dict(width=128, n_heads=1, form="cgpt"), 1_389_697),
        (dict(width=128, n_heads=1, n_layers=4, mlp_layers=4), 5_006_349),
        (dict(width=192, n_heads=1, n_layers=4, mlp_layers=4), 11_232_781),
    ],
)
def test_sizes_are_those_of_the_published_code(arguments, parameters):
    """Two coordinates, one global parameter, one input function with one value, one output."""
    with torch.device("meta"):
        model = GNOT(1, 1, 2, trunk_size=3, branch_sizes=(3,), **arguments)
    assert count_parameters(model) == parameters


@pytest.mark.parametrize("arguments", [{}, dict(form="cgpt"), dict(ffn="geglu", activation="snake", fourier=1)])
@pytest.mark.parametrize("location", ["node", "periodic"])
def test_every_parameter_receives_a_gradient(arguments, location):
    model = small(2, 2, 2, location, branch_per_channel=True, **arguments)
    before = {k: v.shape for k, v in model.state_dict().items()}
    model(torch.randn(2, 2, 6, 7).double()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert {k: v.shape for k, v in model.state_dict().items()} == before
    assert not list(model.buffers())


def test_dropout_acts_in_training_alone():
    model = small(1, 1, 1, dropout=0.5)
    u = torch.randn(2, 1, 9).double()
    assert (model(u) != model(u)).any()
    model.eval()
    assert (model(u) == model(u)).all()


def test_grid_and_scattered_versions_of_the_same_data_train():
    """The permuted full set begins with the grid's loss; random subsets under masks bring it down."""
    model = small(1, 1, 2, quadrature=False)
    u = torch.randn(6, 1, 9, 9).double()
    target = F.avg_pool2d(u, 3, 1, 1)
    columns = lambda v: v.flatten(2).mT  # noqa: E731
    query = Grid((9, 9)).coordinates.flatten(1).mT.expand(6, -1, -1)
    z, target_points = torch.cat([query, columns(u)], -1), columns(target)

    def loss(outputs, wanted):
        return (outputs - wanted).norm() / wanted.norm()

    at_first = loss(model(u), target)
    p = torch.randperm(81)
    permuted = loss(model.forward_points(query[:, p], [z[:, p]]), target_points[:, p])
    torch.testing.assert_close(permuted, at_first, rtol=0, atol=1e-12)

    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    history = []
    for _ in range(40):
        p = torch.randperm(81)[:60]
        query_mask, input_mask = torch.rand(6, 60) < 0.8, torch.rand(6, 60) < 0.9
        outputs = model.forward_points(query[:, p], [z[:, p]], query_mask, [input_mask])
        history.append(loss(outputs, target_points[:, p].masked_fill(~query_mask[..., None], 0)))
        optimizer.zero_grad()
        history[-1].backward()
        optimizer.step()
    assert history[-1] < 0.9 * history[0]
    assert loss(model(u), target) < 0.9 * at_first


@pytest.mark.slow
def test_overfits_four_samples():
    model = GNOT(1, 1, 1, **SMALL | dict(width=24))
    u = torch.randn(4, 1, 32)
    v = F.avg_pool1d(u, 9, 1, 4).cumsum(-1)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(250):
        optimizer.zero_grad()
        loss = (model(u) - v).norm() / v.norm()
        loss.backward()
        optimizer.step()
    assert loss < 0.2


def test_bfloat16_autocast_runs_and_stays_close():
    model = GNOT(1, 1, 2, **SMALL)
    u = torch.randn(2, 1, 20, 20)
    exact = model(u)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(u)
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


def test_one_graph_for_any_batch_and_grid():
    """Traced without breaks; generating code for it takes a minute."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph

    model = small(1, 1, 2, n_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for shape in ((2, 8, 9), (3, 11, 13), (4, 17, 7)):
        u = torch.randn(shape[0], 1, *shape[1:]).double()
        torch.testing.assert_close(compiled(u), model(u), rtol=0, atol=1e-12)
    assert len(graphs) <= 2


def test_point_sets_compile_without_breaks():
    torch._dynamo.reset()
    model = small(1, 1, 2, n_layers=1)
    run = torch.compile(model.forward_points, fullgraph=True, backend="eager")
    query, inputs, mask = points(2, 8, 2), [points(2, 5, 3)], torch.rand(2, 8) < 0.8
    expected = model.forward_points(query, inputs, mask)
    torch.testing.assert_close(run(query, inputs, mask), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(width=0), "width must be at least 1, got 0"),
        (dict(n_heads=5), "n_heads must divide width=.* got 5"),
        (dict(n_experts=0), "n_experts must be at least 1"),
        (dict(mlp_layers=-1), "mlp_layers"),
        (dict(harmonics=-1), "harmonics must be at least 0, got -1"),
        (dict(location="nodes"), "location is one of node, cell, periodic, got 'nodes'"),
        (dict(form="cgptno"), "form is one of gnot, cgpt"),
        (dict(combine="max"), "combine is one of mean, sum"),
        (dict(coordinates=True), "coordinates is one of auto, plain, waves"),
        (dict(ffn="moe"), "ffn is one of"),
        (dict(activation="gelo"), "Did you mean 'gelu'"),
        (dict(dropout=1.0), "dropout"),
        (dict(trunk_size=1), "trunk_size=1"),
        (dict(branch_sizes=[3, 0]), r"branch_sizes=\(3, 0\)"),
        (dict(trunk_size=3, query_fields=True), "query_fields is for fields on a grid, trunk_size=3"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GNOT(**dict(in_channels=1, out_channels=1, ndim=2) | SMALL | arguments)


def test_wrong_points_are_refused_in_words():
    model = small(1, 1, 2, trunk_size=3, branch_sizes=[3, 2])
    query, inputs = points(2, 5, 3), [points(2, 6, 3), points(2, 7, 2)]
    full = torch.ones(2, 6).bool()
    cases = [
        (r"query should be of shape \(batch, points, 3\).*got \(2, 5, 2\)", dict(query=query[..., :2])),
        (r"query should be.*got \(5, 3\)", dict(query=query[0])),
        (r"query should be.*at least one point.*got \(2, 0, 3\)", dict(query=query[:, :0])),
        (r"inputs\[1\] should be of shape \(batch, points, 2\)", dict(inputs=[inputs[0], inputs[0]])),
        ("batch 1 or 4", dict(query=points(4, 5, 3))),
        ("2 input function.*inputs has 1", dict(inputs=inputs[:1])),
        ("input_masks has 1", dict(input_masks=[full])),
        ("input_weights has 3", dict(input_weights=[None] * 3)),
        (r"mask of query should be of shape \(2, 5\), got \(2, 6\)", dict(query_mask=full)),
        (r"mask of inputs\[0\] should be of shape", dict(input_masks=[full[..., None], None])),
        (r"mask of inputs\[0\] should be boolean.*float64", dict(input_masks=[full.double(), None])),
        ("no real point: the mask of query", dict(query_mask=torch.tensor([[True] * 5, [False] * 5]))),
        (r"no real point: the mask of inputs\[0\]", dict(input_masks=[full & torch.tensor([[True], [False]]), None])),
        (r"weights of query should be of shape \(2, 5\), got \(5,\)", dict(query_weights=points(5))),
        (r"weights of inputs\[1\] should be floating", dict(input_weights=[None, torch.ones(2, 7).long()])),
        ("weights of query .*not negative", dict(query_weights=torch.tensor([[1.0, 1, 1, 1, -1e-9]] * 2))),
        (r"weights of inputs\[0\] .*finite", dict(input_weights=[torch.full((2, 6), math.inf), None])),
        ("weights of query .*finite", dict(query_weights=torch.full((2, 5), math.nan))),
        ("takes tensors.*got list", dict(query=query.tolist())),
        ("takes tensors.*got Tensor and NoneType", dict(inputs=None)),
    ]
    for message, wrong in cases:
        with pytest.raises(ValueError, match=message):
            model.forward_points(**dict(query=query, inputs=inputs) | wrong)


def test_a_network_for_point_sets_says_so_when_given_a_grid():
    with pytest.raises(ValueError, match="forward_points"):
        small(1, 1, 2, branch_sizes=(3,))(torch.zeros(1, 1, 4, 4).double())
    spec = Spec(("a",), ("u",), Grid((13, 13)))
    with pytest.raises(ValueError, match=r"branch_sizes=\[3\] is for point sets"):
        GNOT.check(spec, {"branch_sizes": [3]})
    GNOT.check(spec, {"width": 8, "trunk_size": None})
    assert GNOT.build(spec, width=8).waves is False
    assert GNOT.build(Spec(("a",), ("u",), Grid((13, 13), "periodic")), width=8).waves is True


@pytest.mark.parametrize("shape", [(2, 2, 9, 9), (1, 9, 9), (2, 1, 9)])
def test_wrong_inputs_are_refused_with_the_shape_expected(shape):
    with pytest.raises(ValueError, match=r"\(batch, 1, x, y\), got"):
        small(1, 1, 2)(torch.zeros(shape).double())

"""The Galerkin Transformer against dense formulas, known orders, other interpolation; parity is in test_interop.py."""

import inspect
import itertools
import json
import math

import pytest
import torch
from torch.nn import functional as F

from opkit.grid import Grid, Spec
from opkit.interop import from_reference
from opkit.models import GalerkinTransformer, count_parameters
from opkit.models.galerkin import Attention
from opkit.models.positions import trapezoid_weights
from opkit.models.stencils import resize

KINDS = ["galerkin", "fourier", "linear", "softmax"]
SMALL = dict(width=8, n_heads=2, n_layers=2, ffn_hidden=8, decoder_lift=6, decoder_width=6, decoder_hidden=8)


def small(ndim: int = 2, n_modes: int = 6, scalers: bool = False, seed: int = 0, **arguments) -> GalerkinTransformer:
    """A model whose parameters, also those that start small, are random of order one: everything counts."""
    model = GalerkinTransformer(
        1, 1, ndim, n_modes=(n_modes,) * ndim, scalers=scalers, **{**SMALL, "activation": "silu", **arguments}
    )
    torch.manual_seed(seed)
    for parameter in model.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.data = torch.randn(parameter.shape) / max(1, fan) ** 0.5
    return model.double()


def smooth(grid: Grid) -> torch.Tensor:
    """A field that vanishes nowhere on the walls, or a smooth periodic one."""
    x, y = grid.coordinates[0], grid.coordinates[-1]
    if grid.location == "periodic":
        return torch.exp(torch.sin(2 * math.pi * x + 1) + 0.5 * torch.cos(2 * math.pi * y))[None, None]
    return (torch.exp(x) * torch.cos(2 * y))[None, None]


def attention(kind: str, positions: int = 2, **arguments) -> Attention:
    layer = Attention(6, 2, positions, kind, gain=0.0, **arguments).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer.eval()


def dense(layer: Attention, x: torch.Tensor, p: torch.Tensor, w: torch.Tensor | None) -> torch.Tensor:
    """Attention as the paper writes it, sample by sample and head by head, with n x n matrices where it has them."""
    n, e = x.shape[1], x.shape[2] // layer.n_heads
    out = []
    for sample in x:
        q, k, v = (sample @ layer.qkv.weight.T + layer.qkv.bias).split(x.shape[2], 1)
        heads = []
        for h in range(layer.n_heads):
            parts = {name: part[:, h * e : (h + 1) * e] for name, part in zip("qkv", (q, k, v), strict=True)}
            if layer.norm:
                for row, name in enumerate("kv" if layer.kind in ("galerkin", "linear") else "qk"):
                    normal = F.layer_norm(parts[name], (e,), eps=layer.eps)
                    parts[name] = normal * layer.scale[row, h] + layer.shift[row, h]
            a, b, c = (torch.cat([p, parts[name]], 1) for name in "qkv")
            uniform = torch.full((n, 1), 1 / n, dtype=x.dtype) if w is None else w
            if layer.kind == "galerkin":
                z = a @ (b.T @ (uniform * c))
            elif layer.kind == "fourier":
                z = (a @ b.T / math.sqrt(a.shape[1]) * uniform.T) @ c
            elif layer.kind == "linear":
                weighted = uniform * b.exp()
                z = a.softmax(1) @ ((weighted / weighted.sum(0)).T @ c)
                z = z if layer.quadrature else z / n
            else:
                weighted = (a @ b.T / math.sqrt(a.shape[1])).exp() * uniform.T
                z = weighted / weighted.sum(1, keepdim=True) @ c
            heads.append(z)
        out.append(torch.cat(heads, 1) @ layer.out.weight.T + layer.out.bias)
    return torch.stack(out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", [0, 1, 4])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_attention_is_the_dense_formula(kind, positions, norm, weighted):
    layer = attention(kind, positions, norm=norm, quadrature=weighted)
    x, p = torch.randn(3, 7, 6).double(), torch.rand(7, positions).double()
    w = torch.rand(7, 1).double() if weighted else None
    w = None if w is None else w / w.sum()
    expected = dense(layer, x, p, w)
    assert expected.std() > 1e-2
    torch.testing.assert_close(layer(x, p, w), expected, rtol=0, atol=1e-12 * expected.abs().max().item())


@pytest.mark.parametrize("training", [True, False])
def test_fourier_attention_is_linear_in_time_and_memory(training):
    """20 000 points: the n x n matrix of one sample would fill 3 gigabytes."""
    layer = attention("fourier").train(training)
    layer._dense = None  # type: ignore[method-assign,assignment]
    assert layer(torch.randn(1, 20000, 6).double(), torch.rand(20000, 2).double(), None).isfinite().all()


@pytest.mark.parametrize("weighted", [True, False])
def test_fourier_attention_is_the_same_where_dropout_makes_it_quadratic(weighted):
    layer = attention("fourier", dropout=1e-15).train()
    x, p, w = torch.randn(3, 7, 6).double(), torch.rand(7, 2).double(), torch.rand(7, 1).double()
    w = w / w.sum() if weighted else None
    torch.testing.assert_close(layer(x, p, w), dense(layer, x, p, w), rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_does_not_depend_on_the_order_of_points(kind):
    layer = attention(kind)
    x, p, w, order = (
        torch.randn(2, 9, 6).double(),
        torch.rand(9, 2).double(),
        torch.rand(9, 1).double(),
        torch.randperm(9),
    )
    torch.testing.assert_close(layer(x[:, order], p[order], w[order]), layer(x, p, w)[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["galerkin", "fourier", "linear", "softmax"])
def test_attention_adds_its_input_where_asked_to(kind, training):
    layer = attention(kind, 2, dropout=0.0).train(training)
    x, p = torch.randn(2, 5, 6).double(), torch.randn(5, 2).double()
    torch.testing.assert_close(layer(x, p, None, residual=True), x + layer(x, p, None), rtol=0, atol=1e-13)
    with torch.autocast("cpu", torch.bfloat16):  # what is added is not rounded
        x, layer = x.float(), layer.float()
        assert (layer(x, p.float(), None, residual=True) == x + layer(x, p.float(), None)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_attention_dropout_has_its_rate_and_is_off_in_evaluation(kind):
    """Of K^T V, or of Q K^T, which shows where V is the identity."""
    rate = 0.3
    layer = attention(kind, 0, dropout=rate)
    x, p = torch.randn(2, 5, 6).double(), torch.empty(5, 0).double()
    assert (layer(x, p, None) == layer(x, p, None)).all()
    layer.train()
    assert (layer(x, p, None) != layer(x, p, None)).any()
    k = torch.rand(800, 12, 2, 12).double() + 1
    if kind in ("galerkin", "linear"):
        entries = layer._gram(k, k, torch.ones(12, 1).double(), None, None, None)
        kept = layer.eval()._gram(k, k, torch.ones(12, 1).double(), None, None, None)
    else:
        v = torch.eye(12).double()[None, :, None].expand_as(k)
        entries = layer._dense(k, k, v, torch.empty(12, 0).double(), None)
        kept = layer.eval()._dense(k, k, v, torch.empty(12, 0).double(), None)
    dropped = entries == 0
    assert abs(dropped.double().mean() - rate) < 0.01  # of 230 400 entries: six standard deviations
    torch.testing.assert_close(entries[~dropped], (kept / (1 - rate))[~dropped], rtol=1e-12, atol=0)


def test_every_dropout_acts_in_training_alone():
    names = ["dropout", "attention_dropout", "ffn_dropout", "feature_dropout", "scaler_dropout", "decoder_dropout"]
    u = torch.randn(1, 1, 12, 12).double()
    for name in names:
        model = small(scalers=True, shape=(12, 12), **{name: (0.0, 0.5) if name == "scaler_dropout" else 0.5})
        assert (model(u) != model(u)).any(), name
        model.eval()
        assert (model(u) == model(u)).all(), name
    model = small(scalers=True, shape=(12, 12), scaler_dropout=(0.5, 0.0))
    assert (model(u) != model(u)).any()
    for silent in ("attention.out", "ffn.outer"):  # the other branch drops, too
        model = small(dropout=0.5, n_layers=1)
        for parameter in model.layers[0].get_submodule(silent).parameters():
            parameter.data.zero_()
        assert (model(u) != model(u)).any(), silent


def test_features_are_dropped_ahead_of_encoder_and_decoder_on_their_grids_as_in_the_original():
    model = small(scalers=True, shape=(12, 12), latent_shape=(9, 9), feature_dropout=0.5, down_activation="silu")
    seen = []
    for module in (model.layers[0], model.decoder):
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.randn(1, 1, 20, 15).double())
    assert seen[0].shape[1] == 81 and seen[1].shape[2:] == (20, 15)
    assert all(0.4 < (features == 0).double().mean() < 0.6 for features in seen)


def test_projections_start_diagonally_dominant():
    layer = Attention(32, 4, 2, gain=1e-2, diagonal=0.25)
    bound = 1e-2 * math.sqrt(6 / 64)  # Xavier's of 32 inputs and 32 outputs, times the gain
    for part in layer.qkv.weight.chunk(3):
        noise = part - 0.25 * torch.eye(32)
        assert 0.95 * bound < noise.abs().max() <= bound * (1 + 1e-6)
    assert not layer.qkv.bias.any()
    plain = Attention(32, 4, 2, gain=0.0, diagonal=0.25).qkv
    assert plain.weight.diagonal().mean().abs() < 0.1 and plain.bias.any()


def test_the_papers_networks_have_their_published_sizes():
    burgers = dict(width=96, n_heads=1, n_layers=4, ffn_hidden=192, decoder_lift=0, decoder_width=48, decoder_hidden=48)
    lite = dict(width=48, n_heads=1, n_layers=4, ffn_hidden=96, decoder_lift=0, decoder_width=20, decoder_hidden=20)
    with torch.device("meta"):
        assert count_parameters(GalerkinTransformer(1, 1, 1, **burgers)) == 530_305
        assert count_parameters(GalerkinTransformer(1, 1, 2, (141, 141))) == 2_220_829
        assert count_parameters(GalerkinTransformer(10, 1, 2, scalers=False, norm="layer", **lite)) == 862_049


@pytest.mark.parametrize(("n", "down", "tokens", "up"), [(85, 50, 29, 49), (141, 78, 43, 77), (211, 113, 61, 113)])
def test_the_papers_grids_follow_from_the_training_grid(n, down, tokens, up):
    with torch.device("meta"):
        model = GalerkinTransformer(1, 1, 2, (n, 85))
    assert [shape[0] for shape in model.lift.shapes] == [n, down, tokens]
    assert [shape[1] for shape in model.lift.shapes] == [85, 50, 29]
    assert model.up.shape == (up, 49)


@pytest.mark.parametrize("location", ["node", "cell", "periodic"])
@pytest.mark.parametrize(("n", "m"), [((9, 12), (5, 17)), ((8, 7), (8, 7)), ((4, 5), (13, 9))])
def test_interpolation_is_bilinear_on_every_kind_of_grid(location, n, m):
    u = torch.randn(2, 3, *n).double()
    expected = Grid(n, location).resample(u, Grid(m, location), "linear")
    found = resize(u, m, location)
    if location == "cell":  # beyond the outermost centres one is constant, the other extrapolates
        reach = 0.5 - 0.5 / torch.tensor(n)[:, None, None]
        inside = (Grid(m, location).coordinates - 0.5).abs() <= reach
        found, expected = found[..., inside.all(0)], expected[..., inside.all(0)]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("shape", [(5,), (4, 7)])
def test_quadrature_weights_are_the_grids(shape):
    weights = trapezoid_weights(shape, torch.empty(0).double())
    torch.testing.assert_close(weights, Grid(shape).weights.flatten(), rtol=0, atol=1e-15)


def orders(model: GalerkinTransformer, location: str, sizes: list[int], shared: int) -> list[float]:
    """Observed orders of convergence of the output, compared at points that all the grids have."""
    coarse, ndim = Grid((shared,) * model.ndim, location), model.ndim
    outputs = []
    for n in sizes:
        grid = Grid((n,) * ndim, location)
        with torch.no_grad():
            outputs.append(grid.resample(model(smooth(grid)), coarse, "strided"))
    assert outputs[-1].std() > 1e-3
    changes = [(a - b).norm().item() for a, b in itertools.pairwise(outputs)]
    step = math.log(sizes[1] / sizes[0]) if location != "node" else math.log((sizes[1] - 1) / (sizes[0] - 1))
    return [math.log(a / b) / step for a, b in itertools.pairwise(changes)]


@pytest.mark.parametrize(("ndim", "kind"), [*((1, kind) for kind in KINDS), (2, "galerkin")])
def test_with_quadrature_the_order_on_node_grids_is_two_and_without_it_one(ndim, kind):
    sizes = [19, 37, 73] if ndim == 2 else [22, 43, 85, 169]
    second = orders(small(ndim, attention=kind), "node", sizes, sizes[0])
    assert all(1.9 < order < 2.1 for order in second), second
    first = orders(small(ndim, attention=kind, quadrature=False), "node", sizes, sizes[0])
    assert all(0.8 < order < 1.2 for order in first), first


def test_padding_keeps_the_second_order():
    assert all(1.9 < o < 2.1 for o in orders(small(1, padding=1 / 7, spectral="fft"), "node", [22, 43, 85, 169], 22))


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_on_cells_is_two(kind):
    assert all(1.9 < o < 2.3 for o in orders(small(1, attention=kind, location="cell"), "cell", [11, 33, 99], 11))


@pytest.mark.parametrize("kind", KINDS)
def test_refining_a_periodic_grid_converges_spectrally_with_waves(kind):
    """Smooth activations, smooth positions: nothing but aliasing is left. Plain positions jump: order one."""
    model = small(1, attention=kind, location="periodic", coordinates="waves")
    assert orders(model, "periodic", [40, 80, 160], 40)[0] > 5
    model = small(1, attention=kind, location="periodic")
    assert all(0.9 < order < 1.1 for order in orders(model, "periodic", [40, 80, 160, 320], 40))


def test_linear_attention_of_the_original_vanishes_on_fine_grids():
    layer, averaged = attention("linear", quadrature=False), attention("linear")
    averaged.load_state_dict(layer.state_dict())
    for n in (10, 1000):
        x, p = torch.ones(1, n, 6).double(), torch.zeros(n, 2).double()
        ratio = (layer(x, p, None) - layer.out.bias).norm() / (averaged(x, p, None) - layer.out.bias).norm()
        assert abs(ratio * n - 1) < 1e-9


def test_latent_tokens_see_the_training_grid_of_any_finer_one():
    """Nested nodes: the way down begins with the very points it was trained on."""
    model = small(scalers=True, shape=(13, 9))
    fine = torch.randn(2, 1, 37, 25).double()
    torch.testing.assert_close(model.lift(fine), model.lift(fine[..., ::3, ::3]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["galerkin", "softmax"])
def test_latent_models_converge_at_second_order_too(kind):
    model = small(scalers=True, shape=(13, 13), up_shape=(13, 13), attention=kind, boundary="dirichlet")
    assert model.resolution == "latent" and small().resolution == "native"
    found = orders(model, "node", [25, 49, 97, 193], 25)
    assert all(1.8 < order < 2.2 for order in found), found


@pytest.mark.parametrize("location", ["node", "cell", "periodic"])
@pytest.mark.parametrize("scalers", [True, False])
def test_other_grids_odd_prime_and_not_square(location, scalers):
    model = small(scalers=scalers, shape=(16, 16), location=location, boundary="dirichlet", n_modes=8)
    reference = model(smooth(Grid((16, 16), location)))
    for shape in [(15, 15), (21, 16), (13, 34), (32, 32), (2, 3)]:
        grid = Grid(shape, location)
        output = model(smooth(grid))
        assert output.shape == (1, 1, *shape)
        assert output.isfinite().all()
        if min(shape) > 10:  # the same function, seen on another grid
            there = Grid((16, 16), location).resample(reference, grid, "linear")
            inside = (slice(None), slice(None), slice(2, -2), slice(2, -2))
            assert (output - there)[inside].norm() < 0.25 * there[inside].norm()


def test_trained_at_64_it_runs_where_evaluation_asks():
    model = GalerkinTransformer(1, 1, 2, (64, 64), boundary="dirichlet", n_modes=(12, 12), **SMALL).eval()
    with torch.no_grad():
        for n in (61, 64, 85, 128, 256):
            output = model(torch.randn(1, 1, n, n))
            assert output.shape[2:] == (n, n) and output[..., 1:-1, 1:-1].std() > 0


@pytest.mark.parametrize("ndim", [1, 2])
def test_walls_are_exactly_zero_in_physical_units_as_well(ndim):
    model = small(ndim, boundary="dirichlet")
    outputs = [model(torch.randn(2, 1, *(9, 12)[:ndim]).double()), model.constrain(torch.ones(2, 3, *(9, 12)[:ndim]))]
    for u in outputs:
        for axis in range(2, 2 + ndim):
            assert (u.select(axis, 0) == 0).all() and (u.select(axis, -1) == 0).all()
            assert (u.movedim(axis, 2)[:, :, 1:-1] != 0).any()
    for other in (small(ndim, boundary="open"), small(ndim, boundary="dirichlet", location="cell")):
        assert (other.constrain(torch.ones(1, 1, *(9, 12)[:ndim])) == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_without_positions_shifts_commute_on_periodic_grids(kind):
    model = small(1, attention=kind, location="periodic", coordinates=False)
    u = torch.randn(2, 1, 15).double()
    torch.testing.assert_close(model(u.roll(4, 2)), model(u).roll(4, 2), rtol=0, atol=1e-12)
    # With scalers by as many steps as lie between tokens: convolutions and interpolations have no seam.
    grids = dict(shape=(12, 12), down_shape=(12, 12), latent_shape=(6, 6), up_shape=(12, 12))
    model = small(2, attention=kind, location="periodic", coordinates=False, scalers=True, **grids)
    u = torch.randn(2, 1, 12, 12).double()
    torch.testing.assert_close(model(u.roll((4, -2), (2, 3))), model(u).roll((4, -2), (2, 3)), rtol=0, atol=1e-12)


def test_axes_are_not_confused():
    """Transposing the input transposes the output of a model whose weights are symmetric in the axes."""
    model = small(decoder="pointwise", coordinates="waves", shape=(10, 14), scalers=True, location="periodic")
    grids = [model.lift.shapes, model.up.shape]
    for conv in (*model.lift.convolutions, model.up.convolution):
        conv.weight.data = conv.weight + conv.weight.mT
    p, e = 4, 4
    exchange = torch.tensor([1, 0, 3, 2])
    for layer in model.layers:
        columns = layer.attention.out.weight.data.unflatten(1, (2, p + e))
        columns[..., :p] = columns[..., :p] + columns[..., exchange]
    positions = model.decoder.lift.weight.data[:, -p:]
    positions += positions[:, exchange]
    u = torch.randn(2, 1, 10, 14).double()
    expected = model(u).mT
    model.lift.shapes = tuple(shape[::-1] for shape in grids[0])
    model.up.shape = grids[1][::-1]
    torch.testing.assert_close(model(u.mT), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scalers", [True, False])
def test_samples_do_not_mix(scalers):
    model = small(scalers=scalers, shape=(11, 14))
    u = torch.randn(3, 1, 11, 14).double()
    torch.testing.assert_close(model(u)[1:2], model(u[1:2]), rtol=0, atol=1e-12)


def test_both_transforms_agree():
    for n in (11, 16):
        model = small(1, n_modes=4, padding=0.25)
        u = torch.randn(2, 1, n).double()
        outputs = []
        for spectral in ("fft", "dft"):
            model.decoder.spectral = spectral
            outputs.append(model(u))
        torch.testing.assert_close(*outputs, rtol=0, atol=1e-13)


def test_automatic_choice_takes_matrices_for_few_modes():
    for n, spectral in ((16, "dft"), (15, "fft")):
        model = small(1, n_modes=8, location="periodic")
        u = torch.randn(1, 1, n).double()
        found = model(u)
        model.decoder.spectral = spectral
        assert (model(u) == found).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arguments", [dict(scalers=True), dict(norm="both", ffn="swiglu"), dict(decoder="pointwise")])
def test_every_parameter_receives_a_gradient(kind, arguments):
    model = small(attention=kind, shape=(12, 12), **arguments)
    model(torch.randn(2, 1, 12, 12).double()).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if "shift" not in name:  # of keys, it does not matter to a softmax over points
            assert parameter.grad.abs().sum() > 0, name


def test_arguments_survive_json():
    arguments = dict(
        in_channels=2, out_channels=1, ndim=2, shape=(12, 10), latent_shape=(5, 6), down_shape=(8, 8), up_shape=(7, 9),
        n_modes=(4, 6), scaler_dropout=(0.1, 0.2), **SMALL,
    )  # fmt: skip
    model = GalerkinTransformer(**arguments).eval()
    again = GalerkinTransformer(**json.loads(json.dumps(arguments))).eval()
    again.load_state_dict(model.state_dict())
    u = torch.randn(1, 2, 12, 10)
    assert (model(u) == again(u)).all()
    assert not list(model.buffers()) and not any(v.is_complex() for v in model.state_dict().values())


@pytest.mark.slow
def test_overfits_eight_samples():
    model = GalerkinTransformer(1, 1, 2, (13, 13), n_modes=(8, 8), width=16, n_layers=1, decoder_width=16)
    u, v = torch.randn(8, 1, 13, 13), torch.randn(8, 1, 13, 13)
    v = F.avg_pool2d(v, 5, 1, 2)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        loss = (model(u) - v).norm() / v.norm()
        loss.backward()
        optimizer.step()
    assert loss < 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_autocast_runs_and_stays_close(kind):
    model = small(attention=kind, scalers=True, shape=(16, 16), seed=1).float()
    u = torch.randn(2, 1, 16, 16)
    exact = model(u)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(u)
        rough.float().square().sum().backward()
    assert (rough.float() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("kind", ["galerkin", "softmax"])
def test_one_graph_for_every_grid_and_batch(kind):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    model = small(1, attention=kind, n_layers=1)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for b, n in ((2, 20), (3, 33)):
        u = torch.randn(b, 1, n).double()
        torch.testing.assert_close(compiled(u), model(u), rtol=0, atol=1e-12)
    assert len(graphs) == 1


@pytest.mark.slow
def test_compiled_with_scalers_it_gives_the_same_numbers():
    torch._dynamo.reset()
    model = small(scalers=True, shape=(12, 12), boundary="dirichlet", n_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    u = torch.randn(2, 1, 12, 12).double()
    torch.testing.assert_close(compiled(u), model(u), rtol=0, atol=1e-12)


def test_exported_it_runs_on_other_grids():
    from torch.export import Dim

    model = small(scalers=True, shape=(12, 12), n_layers=1).eval()
    least = model.prepare_export()
    axes = {2: Dim("n", min=least, max=1000), 3: Dim("m", min=least, max=1000)}
    example = torch.randn(2, 1, 14, 15).double()
    program = torch.export.export(model, (example,), dynamic_shapes=({0: Dim("b"), **axes},)).module()
    for shape in ((3, 1, 12, 12), (1, 1, 9, 31)):
        u = torch.randn(shape).double()
        torch.testing.assert_close(program(u), model(u), rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ["galerkin", "linear"])
@pytest.mark.parametrize("ndim", [1, 2])
def test_exported_without_scalers_it_runs_on_other_grids(attention, ndim):
    from torch.export import Dim

    model = small(ndim=ndim, scalers=False, n_layers=1, attention=attention).eval()
    axes = {i + 2: Dim(f"n{i}", min=model.prepare_export(), max=1000) for i in range(ndim)}
    example = torch.randn(2, 1, *(14, 15)[:ndim]).double()
    program = torch.export.export(model, (example,), dynamic_shapes=({0: Dim("b"), **axes},)).module()
    u = torch.randn(3, 1, *(21, 18)[:ndim]).double()
    torch.testing.assert_close(program(u), model(u), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(width=0), "width must be at least 3, got 0"),
        (dict(n_heads=3), "n_heads must divide width=128, got 3"),
        (dict(ndim=3), "ndim is one of 1, 2, got 3"),
        (dict(attention="global"), "attention is one of galerkin, fourier, linear, softmax, got 'global'"),
        (dict(norm="batch"), "norm is one of heads, layer, both"),
        (dict(coordinates="sines"), "coordinates"),
        (dict(location="nodes"), "location"),
        (dict(boundary="walls"), "boundary"),
        (dict(n_modes=(8,)), r"n_modes needs one positive number per axis, ndim=2, got \(8,\)"),
        (dict(attention_dropout=1.5), "attention_dropout must be between 0 and 1, got 1.5"),
        (dict(scaler_dropout=(0.0, -0.1)), r"scaler_dropout\[1\] must be between 0 and 1, got -0.1"),
        (dict(padding=-0.1), "padding"),
        (dict(shape=None), "shape, the points per axis of the training grid, is needed; or give scalers=False"),
        (dict(shape=(20,)), "shape needs 2 or more points for each of 2 axes"),
        (dict(norm_eps=-1.0), "norm_eps.* must be positive, got -1.0"),
        (dict(scaler_dropout=(0.1,)), r"scaler_dropout needs two rates.*got \(0.1,\)"),
        (dict(latent_shape=(50, 5)), r"latent_shape=\(50, 5\) is finer than the training grid of"),
        (dict(latent_shape=(5, 1)), r"latent_shape needs 2 or more points for each of 2 axes, got \(5, 1\)"),
        (dict(ndim=1, shape=(20,), scalers=True), "scalers=True needs ndim=2"),
        (dict(spectral="fft"), "spectral='fft' needs padding, or quadrature=False"),
        (dict(activation="rellu"), "Did you mean 'relu'"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GalerkinTransformer(**{**dict(in_channels=1, out_channels=1, shape=(20, 20)), **arguments})


@pytest.mark.parametrize("shape", [(2, 2, 9, 9), (1, 9, 9), (2, 1, 9), (2, 1, 9, 1)])
def test_wrong_inputs_are_refused_with_the_shape_expected(shape):
    with pytest.raises(ValueError, match=r"\(batch, 1, x, y\), got|at least 2 points per axis"):
        small()(torch.zeros(shape).double())


def test_what_could_never_train_is_refused_before_training():
    spec = Spec(("a",), ("u",), Grid((13, 13)))
    with pytest.raises(ValueError, match=r"at most \(13, 13\)"):
        GalerkinTransformer.check(spec, {})
    with pytest.raises(ValueError, match="2 axes"):
        GalerkinTransformer.check(spec, {"n_modes": [8]})
    with pytest.raises(ValueError, match="1 or 2 axes"):
        GalerkinTransformer.check(Spec(("a",), ("u",), Grid((9, 9, 9))), {})
    GalerkinTransformer.check(spec, {"n_modes": [8, 8]})
    assert set(inspect.signature(GalerkinTransformer).parameters) >= GalerkinTransformer.from_data() >= {"shape"}


def test_built_from_data_it_knows_grid_and_boundary():
    spec = Spec(("a", "f"), ("u",), Grid((13, 11)), "dirichlet")
    model = GalerkinTransformer.build(spec, n_modes=(6, 6), **SMALL)
    assert model.lift.shapes[0] == (13, 11)
    assert not model(torch.randn(1, 2, 13, 11))[..., 0].any()


@pytest.mark.parametrize(
    ("source", "arguments", "message"),
    [
        ("SimpleTransformer", dict(n_hidden=None), "has no default for n_hidden"),
        ("SimpleTransformer", dict(attention_type="cosine"), "attention_type='cosine' cannot be converted"),
        ("SimpleTransformer", dict(pos_dim=2), "pos_dim=2 cannot be converted; it must be 1"),
        ("SimpleTransformer", dict(norm_type="instance"), "norm_type"),
        ("SimpleTransformer", dict(spacial_residual=True), "spacial_residual"),
        ("SimpleTransformer", dict(n_freq_targets=2), "n_freq_targets"),
        ("SimpleTransformer", dict(feat_extract_type="gcn", num_feat_layers=2), "a graph network"),
        ("FourierTransformer2D", dict(batch_norm=True), "batch_norm"),
        ("FourierTransformer2D", dict(attention_type="official"), "attention_type"),
        ("FourierTransformer2D", dict(upscaler_size=None), "Give both or neither"),
        ("FourierTransformer2D", dict(upscaler_size=[0.5, 0.5]), "upscaler_size must be two pairs of sizes"),
        ("FourierTransformer2D", dict(downsample_mode="conv"), "downsample_mode"),
        ("FourierTransformer2D", dict(spacial_fc=False), "spacial_fc=False needs freq_dim=n_hidden=8"),
        ("FourierTransformer2D", dict(decoder_type="pointwise", num_regressor_layers=None), "num_regressor_layers"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_words(source, arguments, message):
    flat = source == "SimpleTransformer"
    usual = dict(
        node_feats=1, n_targets=1, n_hidden=8, num_encoder_layers=1, n_head=1, pos_dim=1 if flat else 2, freq_dim=4,
        attention_type="galerkin", decoder_type="ifft" if flat else "ifft2", num_regressor_layers=1, fourier_modes=2,
    )  # fmt: skip
    if not flat:
        usual |= dict(spacial_dim=2, spacial_fc=True, downscaler_size=0.8, upscaler_size=[[8, 8], [12, 12]])
    with pytest.raises(ValueError, match=f"galerkin_transformer.{source}.*{message}"):
        from_reference(f"galerkin_transformer.{source}", {"w": torch.zeros(2)}, **{**usual, **arguments})
    with pytest.raises(ValueError, match="the state dict lacks"):
        from_reference(f"galerkin_transformer.{source}", {"w": torch.zeros(2)}, **usual)

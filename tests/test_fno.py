"""The Fourier neural operator against a direct sum, neuraloperator, and its own promises on other grids."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from opkit.grid import Grid, Spec
from opkit.models import FNO, count_parameters
from opkit.models.fno import ChannelNorm
from opkit.models.spectral import SpectralConv


def direct(u: torch.Tensor, weight: torch.Tensor, n_modes: tuple[int, ...], period: tuple[int, ...]) -> torch.Tensor:
    """Spectral convolution by its definition, one complex exponential at a time."""
    shape, ndim = u.shape[2:], u.ndim - 2
    axes = [torch.arange(n, dtype=torch.float64) / p for n, p in zip(shape, period, strict=True)]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    kept = [range(-(n // 2), (n + 1) // 2) for n in n_modes[:-1]] + [range(n_modes[-1] // 2 + 1)]
    out = torch.zeros(u.shape[0], weight.shape[-2], *shape, dtype=torch.float64)
    for position in itertools.product(*(range(len(k)) for k in kept)):
        k = [kept[axis][p] for axis, p in enumerate(position)]
        if any(not -(p // 2) <= j < (p + 1) // 2 for j, p in zip(k[:-1], period[:-1], strict=True)):
            continue  # the grid has no such wave
        if k[-1] > period[-1] // 2:
            continue
        phase = 2 * math.pi * sum(j * x[axis] for axis, j in enumerate(k))
        wave = torch.complex(torch.cos(phase), torch.sin(phase))
        coefficient = (u * wave.conj()).flatten(2).sum(2) / math.prod(period)
        mixed = coefficient @ torch.view_as_complex(weight[position])
        twice = 1 if k[-1] == 0 or 2 * k[-1] == period[-1] else 2
        out += twice * (mixed.reshape(*mixed.shape, *(1,) * ndim) * wave).real
    return out


@pytest.mark.parametrize("spectral", ["fft", "dft"])
@pytest.mark.parametrize(
    ("n_modes", "shape"),
    [
        ((6,), (16,)), ((6,), (17,)), ((7,), (9,)), ((8,), (8,)), ((12,), (7,)),
        ((4, 4), (8, 8)), ((4, 6), (9, 11)), ((5, 4), (8, 7)), ((6, 6), (6, 6)), ((8, 8), (5, 6)), ((8, 8), (6, 5)),
        ((2, 4, 4), (5, 4, 6)), ((4, 3, 2), (4, 7, 3)),
    ],
)  # fmt: skip
def test_spectral_convolution_is_the_direct_sum(n_modes, shape, spectral):
    conv = SpectralConv(2, 3, n_modes).double()
    u = torch.randn(2, 2, *shape, dtype=torch.float64)
    for period in (shape, tuple(n + 3 for n in shape)):
        expected = direct(u, conv.weight, n_modes, period)
        assert expected.std() > 1e-3
        torch.testing.assert_close(conv(u, period, spectral), expected, rtol=0, atol=1e-13)


def copy_from_neuraloperator(theirs: torch.nn.Module, ours: FNO) -> None:
    """Weights of a plain neuraloperator FNO, mode by mode: its axes run k = -m .. m-1, as ours do."""
    state = {k: v for k, v in theirs.state_dict().items() if isinstance(v, torch.Tensor)}
    with torch.no_grad():
        ours.lift.weight.copy_(state["lifting.fcs.0.weight"][..., 0])
        ours.lift.bias.copy_(state["lifting.fcs.0.bias"])
        for i, (conv, linear) in enumerate(zip(ours.spectral_layers, ours.pointwise_layers, strict=True)):
            weight = torch.view_as_real(state[f"fno_blocks.convs.{i}.weight.tensor"])
            conv.weight.copy_(torch.movedim(weight, (0, 1), (-3, -2)))
            linear.weight.copy_(state[f"fno_blocks.fno_skips.{i}.conv.weight"][..., 0])
            linear.bias.copy_(state[f"fno_blocks.convs.{i}.bias"].flatten())
        for i in (0, 1):
            ours.project[i].weight.copy_(state[f"projection.fcs.{i}.weight"][..., 0])
            ours.project[i].bias.copy_(state[f"projection.fcs.{i}.bias"])


@pytest.mark.parametrize("spectral", ["fft", "dft"])
@pytest.mark.parametrize(
    ("n_modes", "shape"), [((12,), (32,)), ((12,), (33,)), ((8, 6), (20, 16)), ((4, 4, 4), (8, 10, 8))]
)
def test_parity_with_neuraloperator(n_modes, shape, spectral):
    """In float32, which that package casts to, and on even grids: in more than one dimension release 2.0.0 shifts the
    frequencies of odd ones the wrong way.

    Its blocks apply the activation twice; with relu that is once. Its grid embedding leaves out the end point.
    """
    from opkit.models.neuralop import neuralop

    theirs = neuralop.models.FNO(
        n_modes=n_modes, in_channels=2, out_channels=3, hidden_channels=6, n_layers=3, lifting_channel_ratio=0,
        projection_channel_ratio=2, use_channel_mlp=False, non_linearity=F.relu,
    )  # fmt: skip
    ours = FNO(2, 3, n_modes, 6, 3, projection_width=12, location="periodic", activation="relu", spectral=spectral)
    copy_from_neuraloperator(theirs, ours)
    u = torch.randn(2, 2, *shape)
    expected = theirs(u)
    torch.testing.assert_close(ours(u), expected, rtol=0, atol=3e-6 * expected.abs().max().item())


def test_the_papers_darcy_network_has_its_published_size():
    assert count_parameters(FNO(1, 1, n_modes=(24, 22), width=32)) == 2_368_001


@pytest.mark.parametrize("padding", [0.0, 1 / 7])
@pytest.mark.parametrize("shape", [(16, 16), (15, 17), (11, 13), (8, 30)])
def test_both_transforms_agree_on_any_grid(shape, padding):
    model = FNO(1, 2, n_modes=(10, 8), width=5, n_layers=2, padding=padding).double()
    u = torch.randn(2, 1, *shape, dtype=torch.float64)
    outputs = []
    for spectral in ("fft", "dft"):
        model.spectral = spectral
        outputs.append(model(u))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-13)


def test_automatic_choice_takes_matrices_for_few_modes():
    model = FNO(1, 1, n_modes=(8, 8), width=4)
    reference = FNO(1, 1, n_modes=(8, 8), width=4, spectral="dft")
    reference.load_state_dict(model.state_dict())
    u = torch.randn(1, 1, 16, 16)
    assert (model(u) == reference(u)).all()
    u = torch.randn(1, 1, 15, 15)
    reference.spectral = "fft"
    assert (model(u) == reference(u)).all()


@pytest.mark.parametrize("spectral", ["fft", "dft"])
@pytest.mark.parametrize("coordinates", [False, "waves"])
def test_refining_a_periodic_grid_does_not_change_the_output(spectral, coordinates):
    """Band-limited input, smooth positions or none: the activation's aliasing is left, and refinement removes it."""
    model = FNO(1, 1, (8, 8), width=8, coordinates=coordinates, location="periodic", spectral=spectral).double()

    def field(grid: Grid) -> torch.Tensor:
        x, y = grid.coordinates
        return (torch.sin(2 * torch.pi * x) * torch.cos(4 * torch.pi * y))[None, None]

    outputs = [model(field(Grid((n, n), "periodic"))) for n in (24, 48, 96)]
    scale = outputs[-1].norm()
    assert outputs[-1].std() > 1e-3
    coarse = (outputs[0] - outputs[-1][..., ::4, ::4]).norm() / scale * 4
    fine = (outputs[1] - outputs[-1][..., ::2, ::2]).norm() / scale * 2
    assert coarse < 1e-2
    assert fine < coarse / 2


def test_plain_positions_on_a_periodic_grid_change_the_output_at_first_order():
    """Why there are waves: x jumps where the period closes. Halving the spacing halves the difference, no better."""
    torch.manual_seed(1)
    model = FNO(1, 1, (8,), width=8, location="periodic").double()
    outputs = [model(torch.zeros(1, 1, n, dtype=torch.float64)).detach() for n in (32, 64, 512)]
    errors = [float((u - outputs[-1][..., :: 512 // u.shape[-1]]).abs().mean()) for u in outputs[:2]]
    assert 1.7 < errors[0] / errors[1] < 2.5
    smooth = FNO(1, 1, (8,), width=8, coordinates="waves", location="periodic").double()
    outputs = [smooth(torch.zeros(1, 1, n, dtype=torch.float64)).detach() for n in (32, 64, 512)]
    errors = [float((u - outputs[-1][..., :: 512 // u.shape[-1]]).abs().mean()) for u in outputs[:2]]
    assert max(errors) < 1e-6 * float(outputs[-1].std())


def test_padding_keeps_its_physical_length_on_nested_grids():
    model = FNO(1, 1, padding=0.142857142857)
    assert [model._period(n) for n in (43, 85, 141, 211, 421)] == [48, 96, 160, 240, 480]
    assert FNO(1, 1, padding=0.0)._period(85) == 85
    assert FNO(1, 1, padding=0.5, location="periodic")._period(64) == 96


@pytest.mark.parametrize("spectral", ["fft", "dft"])
def test_refining_a_grid_with_walls_converges_at_second_order(spectral):
    """A smooth input that vanishes nowhere on the walls; with full weights there the order is one."""
    model = FNO(1, 1, n_modes=(6, 6), width=6, n_layers=2, padding=1 / 7, spectral=spectral).double()

    def output(n: int) -> torch.Tensor:
        x, y = Grid((n, n)).coordinates
        fine = model((torch.exp(x) * torch.cos(2 * y))[None, None])
        return Grid((n, n)).resample(fine, Grid((22, 22)), "strided")

    steps = [output(n) for n in (22, 43, 85, 169)]
    assert steps[0].std() > 1e-3
    changes = [(a - b).norm().item() for a, b in itertools.pairwise(steps)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(changes)]
    assert all(1.8 < order < 2.2 for order in orders), orders


@pytest.mark.parametrize("spectral", ["fft", "dft"])
def test_walls_weigh_one_half(spectral):
    conv = SpectralConv(1, 1, (4, 6)).double()
    u = torch.randn(2, 1, 8, 9, dtype=torch.float64)
    weighted = u.clone()
    weighted[:, :, [0, -1]] /= 2
    weighted[..., [0, -1]] /= 2
    torch.testing.assert_close(
        conv(u, (9, 11), spectral, walls=True), conv(weighted, (9, 11), spectral), rtol=0, atol=1e-15
    )


def test_shift_equivariance_on_periodic_grids():
    model = FNO(1, 1, n_modes=(6, 6), width=6, coordinates=False, location="periodic").double()
    u = torch.randn(1, 1, 15, 12, dtype=torch.float64)
    torch.testing.assert_close(model(u.roll((4, 7), (2, 3))), model(u).roll((4, 7), (2, 3)), rtol=0, atol=1e-13)


OPTIONS: list[dict] = [
    dict(lifting_width=9),
    dict(mlp_expansion=0.5, second_activation="after"),
    dict(mlp_expansion=2.0, mlp_skip="linear", dropout=0.1),
    dict(mlp_expansion=1.0, mlp_skip="identity", skip="gate", norm="group"),
    dict(mlp_expansion=1.0, mlp_skip="none", skip="identity", norm="instance", second_activation="after"),
    dict(skip="none", tanh=True),
    dict(norm="group", second_activation="before", mlp_expansion=0.5),
    dict(norm="instance"),
]


def with_options(options: dict, **arguments) -> FNO:
    """In double precision, its zeros and ones (biases, gates, scales) drawn at random."""
    torch.manual_seed(0)
    model = FNO(1, 2, (6, 6), width=6, n_layers=3, projection_width=8, **options, **arguments).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) / 4)
    return model


@pytest.mark.parametrize("options", OPTIONS, ids=str)
class TestOptions:
    def test_shift_equivariance(self, options):
        model = with_options(options, coordinates=False, location="periodic")
        u = torch.randn(1, 1, 15, 12, dtype=torch.float64)
        out = model(u)
        torch.testing.assert_close(
            model(u.roll((4, 7), (2, 3))), out.roll((4, 7), (2, 3)), rtol=0, atol=1e-12 * out.abs().max().item()
        )

    def test_refining_a_periodic_grid(self, options):
        """Aliasing of the nonlinearities is all there is; it falls faster than any power."""
        model = with_options(options, coordinates="waves", location="periodic")

        def output(n: int) -> torch.Tensor:
            x, y = Grid((n, n), "periodic").coordinates
            return model((torch.sin(2 * torch.pi * x) * torch.cos(4 * torch.pi * y))[None, None])[
                ..., :: n // 16, :: n // 16
            ]

        outputs = [output(n) for n in (16, 32, 64)]
        scale = (outputs[-1] - outputs[-1].mean()).norm()
        coarse, fine = ((out - outputs[-1]).norm() / scale for out in outputs[:2])
        assert coarse < 0.05 and fine < coarse / 8

    def test_refining_a_grid_with_walls(self, options):
        """Second order, means of the norms included."""
        model = with_options(options, padding=1 / 7)
        outputs = []
        for n in (29, 57, 113, 225):
            x, y = Grid((n, n)).coordinates
            outputs.append(
                model((torch.exp(x) * torch.cos(2 * y))[None, None])[..., :: (n - 1) // 28, :: (n - 1) // 28]
            )
        changes = [(a - b).norm().item() for a, b in itertools.pairwise(outputs)]
        orders = [math.log2(a / b) for a, b in itertools.pairwise(changes)]
        assert all(1.7 < order < 2.3 for order in orders), orders

    def test_every_parameter_has_a_gradient_and_samples_are_apart(self, options):
        model = with_options(options).train()
        u = torch.randn(3, 1, 13, 12, dtype=torch.float64)
        (model(u) * torch.randn(3, 2, 13, 12).double()).sum().backward()
        idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-9]
        assert not idle
        model.eval()
        out = model(u)
        assert (model(u) == out).all()
        u[0] = 7
        torch.testing.assert_close(model(u)[1:], out[1:], rtol=0, atol=1e-12)

    def test_both_transforms_agree(self, options):
        model = with_options(options, padding=0.25)
        for shape in ((15, 17), (20, 13)):
            u = torch.randn(2, 1, *shape, dtype=torch.float64)
            model.spectral = "fft"
            expected = model(u)
            model.spectral = "dft"
            torch.testing.assert_close(model(u), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [OPTIONS[3] | dict(padding=0.25), OPTIONS[6] | dict(domain_padding=0.2, lifting_width=5, tanh=True)],
)
def test_traced_whole_with_options_and_free_sizes(options):
    model = with_options(options)
    torch._dynamo.reset()
    traced = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for n, shape in ((2, (15, 17)), (3, (20, 13))):
        u = torch.randn(n, 1, *shape, dtype=torch.float64)
        torch.testing.assert_close(traced(u), model(u), rtol=0, atol=1e-12)


def test_means_of_norms_are_means_over_the_domain():
    """x on [0, 1] has mean 1/2 and variance 1/12: by the trapezoid rule to second order, over points to first."""
    for n in (11, 21):
        x = torch.linspace(0, 1, n, dtype=torch.float64)
        u = torch.stack([x**2, 3 * x])[None]
        out = ChannelNorm("instance", 2).double()(u, walls=True)
        weight = Grid((n,)).weights
        torch.testing.assert_close((out * weight).sum(-1), torch.zeros(1, 2, dtype=torch.float64), rtol=0, atol=1e-14)
        torch.testing.assert_close((out[0, 1, -1]) ** 2, torch.tensor(0.25 * 12.0).double(), rtol=3 / n**2, atol=0)
        group = ChannelNorm("group", 2).double()(u, walls=True)
        assert abs((group * weight).sum()) < 1e-14 and abs((group[:, 0] * weight).sum()) > 0.1
    u = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    whole = ChannelNorm("group", 3).double()
    with torch.no_grad():
        whole.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
    flat = u.flatten(1)
    expected = (u - flat.mean(1).view(2, 1, 1, 1)) / (flat.var(1, correction=0).view(2, 1, 1, 1) + 1e-5).sqrt()
    torch.testing.assert_close(whole(u), expected * torch.tensor([1.0, 2, 3]).view(3, 1, 1), rtol=0, atol=1e-12)


def test_zeros_put_around_the_field_are_a_fraction_of_its_points_on_both_sides():
    """What the network makes of a field is what it makes of the lifted field padded by hand."""
    torch.manual_seed(0)
    model = FNO(1, 1, (4, 4), width=4, n_layers=2, coordinates=False, domain_padding=(0.25, 0.5)).double()
    by_hand = FNO(1, 1, (4, 4), width=4, n_layers=2, coordinates=False).double()
    by_hand.load_state_dict(model.state_dict())
    by_hand.lift, lift = nn.Identity(), by_hand.lift
    by_hand.in_channels = 4
    u = torch.randn(2, 1, 10, 7, dtype=torch.float64)
    padded = F.pad(lift(u), (4, 4, 2, 2))  # 0.5 * 7 = 3.5 and 0.25 * 10 = 2.5, halves to even
    torch.testing.assert_close(model(u), by_hand(padded)[..., 2:-2, 4:-4], rtol=0, atol=1e-13)


def test_dropout_acts_in_training_alone():
    model = FNO(1, 1, (4, 4), width=8, mlp_expansion=1.0, dropout=0.5)
    u = torch.randn(1, 1, 9, 9)
    assert (model(u) != model(u)).any()
    model.eval()
    assert (model(u) == model(u)).all()


def test_without_options_the_weights_have_the_names_they_always_had():
    names = {"lift.weight", "lift.bias", *(f"project.{i}.{p}" for i in (0, 1) for p in ("weight", "bias"))}
    for i in range(2):
        names |= {f"spectral_layers.{i}.weight", f"pointwise_layers.{i}.weight", f"pointwise_layers.{i}.bias"}
    assert set(FNO(1, 1, (4, 4), width=4, n_layers=2).state_dict()) == names


def test_every_parameter_receives_a_gradient():
    model = FNO(2, 1, n_modes=(6, 6), width=6)
    model(torch.randn(3, 2, 12, 12)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_no_complex_parameters_and_no_state_that_depends_on_the_grid():
    model = FNO(1, 1, n_modes=(6, 6), width=4)
    before = {k: v.shape for k, v in model.state_dict().items()}
    model(torch.randn(1, 1, 20, 20))
    model(torch.randn(1, 1, 9, 31))
    assert {k: v.shape for k, v in model.state_dict().items()} == before
    assert not any(v.is_complex() for v in model.state_dict().values())
    assert not list(model.buffers())


def test_overfits_eight_samples():
    model = FNO(1, 1, n_modes=(8, 8), width=16, n_layers=2)
    u, v = torch.randn(8, 1, 13, 13), torch.randn(8, 1, 13, 13)
    v = F.avg_pool2d(v, 5, 1, 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (model(u) - v).norm() / v.norm()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_bfloat16_autocast_runs_and_stays_close():
    model = FNO(1, 1, n_modes=(8, 8), width=8)
    u = torch.randn(2, 1, 20, 20)
    exact = model(u)
    for spectral in ("fft", "dft"):
        model.spectral = spectral
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(u)
        assert (rough.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.slow
def test_compiled_it_gives_the_same_numbers():
    model = FNO(1, 1, n_modes=(6, 6), width=4, n_layers=1, projection_width=4, padding=1 / 7)
    u = torch.randn(2, 1, 15, 15)
    compiled = torch.compile(model, fullgraph=True)
    torch.testing.assert_close(compiled(u), model(u), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(width=0), "width must be at least 1, got 0"),
        (dict(n_modes=(8, 0)), "n_modes"),
        (dict(n_modes=(2, 2, 2, 2)), "n_modes"),
        (dict(padding=-0.1), "padding"),
        (dict(in_channels=0), "in_channels"),
        (dict(location="nodes"), "location"),
        (dict(skip="conv"), "skip is one of linear, gate, identity, none, got 'conv'"),
        (dict(mlp_skip="soft-gating"), "mlp_skip is one of"),
        (dict(norm="batch"), "norm is one of none, instance, group, got 'batch'"),
        (dict(second_activation=True), "second_activation is one of none, after, before, got True"),
        (dict(lifting_width=-1), "lifting_width"),
        (dict(spectral="wavelet"), "spectral is one of"),
        (dict(coordinates="grid"), "coordinates is true, false or 'waves', got 'grid'"),
        (dict(mlp_expansion=0.01), "mlp_expansion.*at least one hidden channel of width=32, got 0.01"),
        (dict(dropout=1.5), "dropout is a probability"),
        (dict(domain_padding=[0.1]), "domain_padding.*2 axes"),
        (dict(domain_padding=2), "domain_padding"),
        (dict(domain_padding=0.1, padding=0.1), "^domain_padding=0.1 stands in the place of padding=0.1"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FNO(**{**dict(in_channels=1, out_channels=1), **arguments})


@pytest.mark.parametrize("shape", [(2, 2, 9, 9), (1, 9, 9), (2, 1, 9)])
def test_wrong_inputs_are_refused_with_the_shape_expected(shape):
    with pytest.raises(ValueError, match=r"\(batch, 1, x, y\), got"):
        FNO(1, 1, n_modes=(4, 4), width=4)(torch.zeros(shape))


def test_modes_beyond_the_training_grid_are_refused_before_training():
    spec = Spec(("a",), ("u",), Grid((13, 13)))
    with pytest.raises(ValueError, match="at most"):
        FNO.check(spec, {"n_modes": [24, 24]})
    with pytest.raises(ValueError, match="2 axes"):
        FNO.check(spec, {"n_modes": [8]})

"""The multigrid neural operator against explicit matrices, textbook multigrid, and its own promises."""

import itertools
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from conftest import GHOSTS
from torch import nn
from torch.nn import functional as F

from opkit.grid import Grid, Spec
from opkit.models import MgNO, count_parameters
from opkit.models.mgno import Level, Standardization, VCycle
from opkit.models.stencils import Wrap


def stencil(weight: torch.Tensor, n: int, padding: str, stride: int = 1) -> np.ndarray:
    """The matrix of a convolution with weight (o, i, 1, 3), from (i, n) to (o, n / stride), entry by entry."""
    outputs, inputs = weight.shape[:2]
    matrix = np.zeros((outputs, (n - 1) // stride + 1, inputs, n))
    for o, i, j, k in itertools.product(range(outputs), range(inputs), range(matrix.shape[1]), range(3)):
        source = GHOSTS[padding](stride * j + k - 1, n)
        if source is not None:
            matrix[o, j, i, source] += weight[o, i, 0, k].item()
    return matrix.reshape(-1, inputs * n)


def prolongation(weight: torch.Tensor, m: int, padding: str) -> np.ndarray:
    """The matrix of P with weight (i, o, 1, k): coarse point j gives to the fine points 2 j - 1 .. 2 j + k - 2."""
    inputs, outputs, _, kernel = weight.shape
    n = 2 * m - 4 + kernel
    matrix = np.zeros((outputs, n, inputs, m))
    for o, i, j, k in itertools.product(range(outputs), range(inputs), range(-1, m + 1), range(kernel)):
        source, place = GHOSTS[padding](j, m), 2 * j - 1 + k
        if source is not None and 0 <= place < n:
            matrix[o, place, i, source] += weight[i, o, 0, k].item()
    return matrix.reshape(-1, inputs * m)


def cycle_matrix(levels: list[Level], n: int, padding: str, pad_upsampling: bool) -> np.ndarray:
    """f -> u of a V-cycle that starts from u = 0, and (f, u) -> u below: products of matrices alone."""

    def solve(i: int, n: int, f: np.ndarray, u: np.ndarray | None) -> np.ndarray:
        level = levels[i]

        def smooth(smoothing: nn.Module, u: np.ndarray | None) -> np.ndarray:
            s = stencil(smoothing.S.weight, n, padding)
            return s @ f if u is None else u + s @ (f - stencil(smoothing.A.weight, n, padding) @ u)

        for smoothing in level.before:
            u = smooth(smoothing, u)
        assert u is not None
        if i < len(levels) - 1:
            residual = f if level.A is None else f - stencil(level.A.weight, n, padding) @ u
            below = solve(
                i + 1, (n + 1) // 2,
                stencil(level.R.weight, n, padding, 2) @ residual, stencil(level.Pi.weight, n, padding, 2) @ u,
            )  # fmt: skip
            u = u + prolongation(level.P.weight, (n + 1) // 2, padding if pad_upsampling else "zeros") @ below
        for smoothing in level.after:
            u = smooth(smoothing, u)
        return u

    channels = levels[0].before[0].S.in_channels
    return solve(0, n, np.eye(channels * n), None)


@pytest.mark.parametrize("padding", list(GHOSTS))
@pytest.mark.parametrize("n", [16, 13])
@pytest.mark.parametrize("options", [{}, {"restrict_residual": True}, {"pad_upsampling": False}], ids=str)
def test_a_v_cycle_is_the_product_of_its_matrices(padding, n, options):
    model = MgNO(
        2, 1, ndim=1, shape=(n,), width=3, n_layers=1, smoothings=((2, 1), (0, 2), (1, 1), (2, 0)), padding=padding,
        **options,
    ).double()  # fmt: skip
    cycle = model.cycles[0]
    expected = cycle_matrix(list(cycle.levels), n, padding, options.get("pad_upsampling", True))
    units = torch.eye(2 * n, dtype=torch.float64).reshape(2 * n, 2, 1, n)
    found = cycle(units).flatten(1).T.detach().numpy()
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    x, y = torch.randn(2, 1, 2, 1, n, dtype=torch.float64)
    torch.testing.assert_close(cycle(2 * x - y), 2 * cycle(x) - cycle(y), rtol=0, atol=1e-13)


def textbook(ndim: int, n: int, omega: float, levels: int, last: int) -> VCycle:
    """V(1, 1) for -Laplace u = f on the n^d points inside the unit cube, its weights set by hand: damped Jacobi, full
    weighting of the residual, linear interpolation; on the coarsest level `last` steps of Jacobi without damping."""
    model = MgNO(
        1, 1, ndim=ndim, shape=(n,) * ndim, width=1, n_layers=1, coarsening="valid", restrict_residual=True,
        smoothings=((1, 1),) * (levels - 1) + ((last, 0),),
    ).double()  # fmt: skip
    laplace, hat = laplacian(ndim), HAT[None] if ndim == 1 else torch.outer(HAT, HAT)
    with torch.no_grad():
        for i, level in enumerate(model.cycles[0].levels):
            h = 2**i / (n + 1)
            for smoothing in (*level.before, *level.after):
                damped = omega if i < levels - 1 else 1.0
                smoothing.S.weight.zero_()[..., laplace.shape[0] // 2, 1] = damped * h**2 / laplace.max()
                if smoothing.A is not None:
                    smoothing.A.weight.copy_(laplace / h**2)
            if not level.coarsest:
                level.A.weight.copy_(laplace / h**2)
                level.R.weight.copy_(hat / 2**ndim)
                level.Pi.weight.zero_()
                level.P.weight.copy_(hat)
    return model.cycles[0]


HAT = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)


def laplacian(ndim: int) -> torch.Tensor:
    """Stencil of -Laplace for a spacing of one."""
    second, middle = torch.tensor([[-1.0, 2.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    return second[None] if ndim == 1 else torch.outer(second, middle) + torch.outer(middle, second)


def reduction(cycle: VCycle, ndim: int, n: int) -> float:
    """Factor by which, in the long run, u <- u + cycle(f - A u) reduces the error: the spectral radius of I - B A."""
    error = torch.randn(1, 1, *((1, n) if ndim == 1 else (n, n)), dtype=torch.float64)
    factor = 0.0
    with torch.no_grad():
        for _ in range(40):
            residual = F.conv2d(error, laplacian(ndim)[None, None] * (n + 1) ** 2, padding=(ndim - 1, 1))
            new = error - cycle(residual)
            factor = (new.norm() / error.norm()).item()
            error = new / new.norm()
    return factor


@pytest.mark.parametrize(("n", "steps"), [(7, 80), (15, 300)])
def test_with_textbook_weights_two_levels_leave_a_ninth_of_the_error(n, steps):
    """1-D Poisson, Jacobi damped by 2/3 before and after an exact solve on every other point. Of each pair of waves the
    coarse grid cannot tell apart there remains s (1 - 4 s / 3)^2 + c (1 - 4 c / 3)^2 = 1/9, where s = sin^2 and
    c = cos^2 of half their phase."""
    assert reduction(textbook(1, n, 2 / 3, 2, steps), 1, n) == pytest.approx(1 / 9, abs=1e-6)


def test_with_textbook_weights_a_layer_is_a_multigrid_solver():
    """Down to one point, where one step of Jacobi is exact: the error falls as fast on every grid."""
    factors = [reduction(textbook(1, n, 2 / 3, n.bit_length(), 1), 1, n) for n in (15, 31, 63, 127)]
    assert all(1 / 9 < factor < 0.2 for factor in factors), factors
    assert max(factors) - min(factors) < 0.01, factors
    alone = textbook(1, 63, 2 / 3, 6, 1)
    nn.init.zeros_(alone.levels[0].P.weight)
    assert reduction(alone, 1, 63) > 0.98  # smoothings alone
    # In 2-D, Jacobi damped by 4/5 leaves at most 3/5 of the waves the coarse grid does not have; here it is run twice.
    factors = [reduction(textbook(2, n, 4 / 5, n.bit_length(), 1), 2, n) for n in (15, 31)]
    assert all(0.32 < factor < 0.38 for factor in factors), factors


@pytest.mark.parametrize(("ndim", "shape", "shift"), [(1, (32,), (12,)), (2, (24, 16), (4, 8)), (2, (16, 32), (0, 4))])
def test_on_a_periodic_grid_it_commutes_with_shifts_by_cells_of_the_coarsest(ndim, shape, shift):
    arguments = dict(
        ndim=ndim, shape=shape, location="periodic", width=3, n_layers=2, bias=True, residual=True, norm="group",
        smoothings=((1, 1), (1, 0), (2, 0)),
    )  # fmt: skip
    u = torch.randn(1, 1, *shape, dtype=torch.float64)
    axes = tuple(range(2, ndim + 2))

    def broken(model: MgNO, by: tuple[int, ...]) -> float:
        return (model(u.roll(by, axes)) - model(u).roll(by, axes)).abs().max().item()

    model = MgNO(1, 1, **arguments).double()
    assert broken(model, shift) < 1e-12
    assert broken(model, tuple(s // 4 for s in shift)) > 1e-3
    original = MgNO(1, 1, **arguments, pad_upsampling=False).double()
    original.load_state_dict(model.state_dict())
    assert broken(original, shift) > 1e-3


@pytest.mark.parametrize("n", range(9, 71))
def test_every_size_has_levels_that_lead_back_to_it(n):
    for ndim, shape in ((1, (n,)), (2, (n, 79 - n))):
        location, boundary = (("node", "open"), ("periodic", "periodic"), ("cell", "neumann"))[n % 3]
        model = MgNO(1, 1, ndim=ndim, shape=shape, location=location, boundary=boundary, width=1, n_layers=1)
        assert model(torch.randn(1, 1, *shape)).shape == (1, 1, *shape)
        sizes = [min(shape)]
        while sizes[-1] > 8:
            sizes.append(-(-sizes[-1] // 2))
        assert len(model.plan.smoothings) == len(sizes)
        most = 1 + int(np.ceil(np.log2(min(shape))))  # halving, rounded up, down to one point
        deep = ((1, 0),) * most
        model = MgNO(1, 1, ndim=ndim, shape=shape, location=location, boundary=boundary, width=1, smoothings=deep)
        assert model(torch.randn(1, 1, *shape)).shape == (1, 1, *shape)
        with pytest.raises(ValueError, match=rf"{most + 1} levels, but .* allows at most {most}\."):
            MgNO(1, 1, ndim=ndim, shape=shape, smoothings=(*deep, (1, 0)))


@pytest.mark.parametrize("size", [(9, 9), (12, 17)])
def test_outputs_are_exactly_zero_on_dirichlet_walls(size):
    arguments = dict(shape=(12, 17), width=3, n_layers=1)
    model = MgNO(1, 2, boundary="dirichlet", **arguments)
    out = model(torch.randn(2, 1, *size))
    assert (out[..., 1:-1, 1:-1] != 0).all()
    out[..., 1:-1, 1:-1] = 0
    assert (out == 0).all()
    physical = model.constrain(torch.ones(1, 2, *size))
    assert physical.sum() == 2 * (size[0] - 2) * (size[1] - 2)
    for others in (dict(boundary="neumann"), dict(boundary="dirichlet", location="cell"), dict(boundary="open")):
        model = MgNO(1, 2, **arguments, **others)
        assert (model(torch.randn(2, 1, *size)) != 0).all()
        assert (model.constrain(torch.ones(1, 2, *size)) == 1).all()
    free = MgNO(1, 2, boundary="dirichlet", zero_walls=False, **arguments)
    assert (free(torch.randn(2, 1, *size)) != 0).all()


def test_neumann_walls_are_mirrors():
    """With symmetric stencils, a field on n nodes and the same field continued evenly to a period of 2 (n - 1)."""
    n = 17
    arguments = dict(ndim=1, width=3, n_layers=2, smoothings=((1, 1), (1, 0), (2, 0)))
    model = MgNO(1, 1, shape=(n,), boundary="neumann", **arguments).double()
    periodic = MgNO(1, 1, shape=(2 * n - 2,), location="periodic", **arguments).double()
    state = {k: (w + w.flip(-1)) / 2 if w.ndim == 4 else w for k, w in model.state_dict().items()}
    model.load_state_dict(state)
    # Up-sampling by a stencil of 3 is that by one of 4 whose last entry is zero.
    periodic.load_state_dict({k: F.pad(w, (0, 1)) if ".P." in k else w for k, w in state.items()})
    u = torch.randn(2, 1, n, dtype=torch.float64)
    even = torch.cat([u, u[..., 1:-1].flip(-1)], -1)
    torch.testing.assert_close(model(u), periodic(even)[..., :n], rtol=0, atol=1e-13)
    free = MgNO(1, 1, shape=(n,), **arguments).double()
    free.load_state_dict(state)
    assert (free(u) - model(u)).abs().max() > 1e-3


@pytest.mark.parametrize("location", ["periodic", "node", "cell"])
def test_finer_grids_are_projected_to_the_training_grid_and_back(location):
    """At coinciding points a band-limited field, where periodic, has the output it has on the training grid."""
    coarse = Grid((18, 15), location)
    model = MgNO(1, 1, shape=coarse.shape, location=location, width=3, n_layers=2, residual=True).double()
    assert model.resolution == "project"

    def field(grid: Grid) -> torch.Tensor:
        x, y = 2 * torch.pi * grid.coordinates
        return (torch.sin(x) * torch.cos(2 * y) + torch.cos(3 * x - 2 * y))[None, None]

    expected = model(field(coarse))
    for factor in (3, 5):
        fine = coarse.refine(factor)
        found = fine.resample(model(field(fine)), coarse, "strided")
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("location", ["periodic", "node"])
@pytest.mark.parametrize("n", [61, 85, 128, 256])
def test_a_network_of_64_points_runs_on_other_grids(n, location):
    model = MgNO(1, 1, shape=(64, 64), location=location, width=2, n_layers=1).double()

    def out(n: int) -> torch.Tensor:
        x, y = Grid((n, n), location).coordinates
        return model((torch.sin(2 * torch.pi * x) * torch.cos(2 * torch.pi * y))[None, None]).detach()

    expected = Grid((64, 64), location).resample(
        out(64), Grid((n, n), location), "spectral" if location == "periodic" else "cubic"
    )
    # On nodes that do not coincide the input is interpolated linearly: (2 pi)^2 / 8 of the squared spacing.
    assert (out(n) - expected).norm() < (1e-10 if location == "periodic" else 3e-3) * expected.norm()


def test_the_input_is_added_on_the_grid_it_is_given_on():
    model = MgNO(1, 1, shape=(16, 16), location="periodic", width=2, n_layers=1, residual=True)
    nn.init.zeros_(model.head.weight)
    u = torch.randn(2, 1, 37, 20)
    assert (model(u) == u).all()


PAPER = dict(n_layers=4, width=20, growth=1, coarsening="valid", skip=False, bias=True, padding="reflect")


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        (572_661, dict(shape=(256, 256))),
        (678_093, dict(shape=(211, 211), n_layers=5)),
        (
            2_885_194,
            dict(
                shape=(64, 64), location="periodic", width=32, n_layers=5, bias=True, skip=False, residual=True,
                norm="layer", smoothings=[[1, 0], [1, 0], [1, 0], [2, 0], [2, 0]],
            ),
        ),
        # The original counts 5 351 806: in each of its five V-cycles it makes an A, with bias, that it never uses.
        (
            5_351_806 - (9 * 20 + 1) - 3 * (9 * 400 + 20) - (9 * 20 + 20),
            dict(
                shape=(101, 101), norm="layer", norm_at="layers", head="multigrid",
                smoothings=[[1, 0], [1, 0], [1, 0], [1, 0], [2, 0]], **PAPER,
            ),
        ),
    ],
    ids=["darcy", "darcy smooth", "navier_stokes", "helmholtz"],
)  # fmt: skip
def test_the_papers_networks_have_their_published_sizes(expected, arguments):
    with torch.device("meta"):
        assert count_parameters(MgNO(1, 1, **arguments)) == expected


def test_valid_coarsening_of_the_papers_helmholtz_grid():
    """101, 50, 24, 11, 5 points, and back."""
    model = MgNO(1, 1, shape=(101, 101), smoothings=((1, 0),) * 5, head="multigrid", **(PAPER | dict(width=1)))
    seen = []
    for level in model.cycles[0].levels:
        level.before[0].S.register_forward_hook(lambda _, __, out: seen.append(tuple(out.shape[1:])))
    assert model(torch.randn(1, 1, 101, 101)).shape == (1, 1, 101, 101)
    assert seen == [(1, 101, 101), (2, 50, 50), (3, 24, 24), (4, 11, 11), (5, 5, 5)]


VARIANTS: list[dict] = [
    dict(shape=(11, 14)),
    dict(shape=(16, 12), location="periodic", norm="layer", bias=True, residual=True, skip=False),
    dict(shape=(12, 12), boundary="neumann", norm="group", head="mlp", projection_width=5, restrict_residual=True),
    dict(shape=(23, 18), smoothings=((1, 1), (2, 0)), norm="layer", norm_at="layers", head="multigrid", growth=1,
         coarsening="valid", bias=True, activation="snake"),
    dict(ndim=1, shape=(37,), boundary="dirichlet", norm="group", norm_at="layers"),
    dict(shape=None, smoothings=((1, 0), (1, 0), (1, 0)), upsampling=(3, 4)),
]  # fmt: skip


@pytest.fixture(params=range(len(VARIANTS)))
def variant(request) -> Iterator[tuple[MgNO, torch.Tensor]]:
    arguments = VARIANTS[request.param]
    model = MgNO(1, 1, width=3, n_layers=2, **arguments)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, torch.randn(3, 1, *(arguments["shape"] or (11, 19)))


def test_every_parameter_receives_a_gradient(variant):
    model, u = variant
    model(u).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_samples_of_a_batch_do_not_meet(variant):
    model, u = variant
    model, u = model.double(), u.double()
    torch.testing.assert_close(model(u)[1:2], model(u[1:2]), rtol=0, atol=1e-13)


def test_convolutions_see_channels_last_memory_forwards_and_backwards(variant):
    """What halves its time on a CPU; one operation that falls back to the other order loses it for all that follow."""
    model, u = variant
    wrong = []

    def last(t: torch.Tensor) -> bool:
        return t.shape[1] == 1 or t.is_contiguous(memory_format=torch.channels_last)

    def look(name: str) -> Callable:
        def hook(_: nn.Module, given: tuple[torch.Tensor], out: torch.Tensor) -> None:
            wrong.extend([name] * (not last(given[0]) or not last(out)))
            out.register_hook(lambda g: wrong.extend([f"gradient of {name}"] * (not last(g))))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(look(name))
    out = model(u)
    out.square().sum().backward()
    assert not wrong


@pytest.mark.parametrize(
    "arguments", [dict(shape=(8, 9), location="periodic", norm="layer", residual=True), dict(boundary="dirichlet")]
)
def test_compiled_it_is_one_graph_with_the_same_numbers(arguments):
    model = MgNO(1, 1, width=3, n_layers=1, smoothings=((1, 0), (1, 0)), **arguments)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for shape in ((2, 1, 8, 9), (3, 1, 8, 9)) if model.shape else ((2, 1, 8, 10), (3, 1, 12, 6)):
        u = torch.randn(shape)
        torch.testing.assert_close(compiled(u), model(u), rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast_runs_and_stays_close(variant):
    model, u = variant
    exact = model(u)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(u)
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


def test_periodic_padding_and_its_gradient_are_torchs():
    u = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    for axes in ((1, 1), (0, 1), (1, 0)):
        expected = F.pad(u, (axes[1], axes[1], axes[0], axes[0]), "circular")
        assert (Wrap.apply(u, axes) == expected).all()
        weights = torch.randn_like(expected)
        torch.testing.assert_close(*(torch.autograd.grad(v, u, weights)[0] for v in (Wrap.apply(u, axes), expected)))
    assert torch.autograd.gradgradcheck(lambda v: Wrap.apply(v, (1, 1)), u)


def test_normalisation_is_torchs():
    u = torch.randn(2, 3, 5, 4).contiguous(memory_format=torch.channels_last)
    theirs = nn.LayerNorm([3, 5, 4])
    ours = Standardization(3, "layer", True, (5, 4))
    group, one_each = nn.GroupNorm(1, 3), Standardization(3, "group", True, None)
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(ours, name).copy_(getattr(theirs, name).normal_().permute(1, 2, 0))
            getattr(one_each, name).copy_(getattr(group, name).normal_())
    torch.testing.assert_close(ours(u), theirs(u))
    torch.testing.assert_close(one_each(u), group(u))
    assert not list(Standardization(3, "layer", False, (5, 4)).parameters())


def test_told_its_grid_a_network_is_the_same_there_and_is_projected_elsewhere():
    model = MgNO(1, 1, width=2, n_layers=2, smoothings=((1, 0), (1, 0), (2, 0)), upsampling=(3, 4)).double().eval()
    tied = model.tied((19, 19))
    assert tied.resolution == "project" and tied.tied((5, 5)) is tied
    u = torch.randn(2, 1, 19, 19).double()
    torch.testing.assert_close(tied(u), model(u), rtol=0, atol=0)
    fine = torch.randn(1, 1, 37, 37).double()
    torch.testing.assert_close(tied(fine)[..., ::2, ::2], model(fine[..., ::2, ::2].contiguous()))
    assert model.tied((17, 17)) is model  # 17, 9, 5: on that grid other stencils lead back


def test_without_a_training_grid_sizes_must_fit():
    """The original's smooth Darcy network: 32 j - 13."""
    model = MgNO(1, 1, width=1, n_layers=1, upsampling=(3, 4, 3, 3, 4))
    assert model.resolution == "native"
    fitting = []
    for n in range(9, 90):
        try:
            model(torch.randn(1, 1, n, 19))
            fitting.append(n)
        except ValueError as problem:
            assert "32 j - 13" in str(problem)
    assert fitting == [19, 51, 83]
    with pytest.raises(ValueError, match=r"32 j \+ 0 points .* got \(64, 80\)"):
        MgNO(1, 1, width=1, n_layers=1)(torch.randn(1, 1, 64, 80))
    with pytest.raises(ValueError, match=r"4 j \+ 0 points for j = 2, 3, .* got \(8, 4\)"):
        MgNO(1, 1, smoothings=((1, 0),) * 3, padding="reflect")(torch.randn(1, 1, 8, 4))


def test_a_multigrid_head_is_not_standardised():
    model = MgNO(1, 2, shape=(16, 16), width=2, n_layers=1, norm="group", head="multigrid")
    assert len([name for name, _ in model.named_parameters() if "norm" in name]) == 2
    out = model(torch.randn(1, 1, 16, 16))
    assert out.is_contiguous()
    assert not out.var(correction=0).isclose(torch.ones(()), atol=0.1)


def test_arguments_survive_json():
    spec = Spec(("a", "b"), ("u",), Grid((20, 24), "periodic"))
    arguments = dict(width=2, n_layers=1, smoothings=((1, 1), (2, 0)), norm="layer")
    model = MgNO.build(spec, **json.loads(json.dumps(arguments)))
    MgNO.build(spec, **arguments).load_state_dict(model.state_dict())
    assert model(torch.randn(1, 2, 20, 24)).shape == (1, 1, 20, 24)


@pytest.mark.slow
def test_overfits_four_samples():
    model = MgNO(1, 1, shape=(13, 13), width=12, n_layers=2)
    u, v = torch.randn(4, 1, 13, 13), torch.randn(4, 1, 13, 13)
    v = F.avg_pool2d(v, 5, 1, 2)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(u) - v).norm() / v.norm()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(width=0), "width must be at least 1, got 0"),
        (dict(growth=-1), "growth must be at least 0"),
        (dict(ndim=3, shape=(8, 8, 8)), "1 or 2 axes"),
        (dict(shape=(8,)), "1 or 2 axes"),
        (dict(smoothings=()), "smoothings needs"),
        (dict(smoothings=(1, 2)), "smoothings needs"),
        (dict(smoothings=((0, 1), (1, 0))), "smoothings needs"),
        (dict(smoothings=((1, 0), (0, 0))), "smoothings needs"),
        (dict(smoothings=((1, -1), (1, 0))), "smoothings needs"),
        (dict(smoothings=((1, 0), (1, 1))), r"write \(2, 0\) for \(1, 1\)"),
        (dict(shape=(9, 40), smoothings=((1, 0),) * 6), r"6 levels, but a grid of \(9, 40\) points allows at most 5"),
        (dict(shape=(9, 9), smoothings=((1, 0),) * 5, padding="reflect"), "allows at most 4"),
        (dict(shape=(9, 9), smoothings=((1, 0),) * 5, coarsening="valid"), "allows at most 3"),
        (dict(upsampling=(4, 5), smoothings=((1, 0),) * 3), "3 or 4 for each of 2 levels"),
        (dict(upsampling=(4,), smoothings=((1, 0),) * 3), "3 or 4 for each of 2 levels"),
        (dict(shape=(8, 8), upsampling=(4,)), "leave it out"),
        (dict(norm="layer"), "needs shape"),
        (dict(norm="batch"), "norm is one of none, group, layer"),
        (dict(padding="same"), "padding is one of"),
        (dict(head="big"), "head is one of"),
        (dict(in_channels=3, residual=True), "3 input and 1 output channels"),
        (dict(activation="gelo"), "gelu"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MgNO(**{**dict(in_channels=1, out_channels=1), **arguments})


def test_too_many_levels_are_refused_before_training():
    spec = Spec(("a",), ("u",), Grid((13, 13)))
    MgNO.check(spec, {"smoothings": [[1, 0]] * 5})
    with pytest.raises(ValueError, match=r"\(13, 13\) points allows at most 5"):
        MgNO.check(spec, {"smoothings": [[1, 0]] * 6})


@pytest.mark.parametrize("shape", [(2, 2, 16, 16), (1, 16, 16), (2, 1, 16)])
def test_wrong_inputs_are_refused_with_the_shape_expected(shape):
    with pytest.raises(ValueError, match=r"\(batch, 1, x, y\), got"):
        MgNO(1, 1, shape=(16, 16), width=2)(torch.zeros(shape))


def test_positions_let_it_know_where_it_is():
    """Without them a periodic network commutes with shifts by whole cells of its coarsest level; with them it does not,
    and it sees the same positions whatever grid the input comes on."""
    u = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    for coordinates, same in ((False, True), ("waves", False)):
        torch.manual_seed(0)
        model = MgNO(1, 1, 2, (16, 16), location="periodic", width=4, n_layers=2, coordinates=coordinates).double()
        shifted = model(u.roll((8, 8), (2, 3)))
        assert torch.allclose(shifted, model(u).roll((8, 8), (2, 3)), rtol=0, atol=1e-12) == same

"""What every model promises, on every equation; parametrised over configs/, so a new one is tested at once."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from opkit import registry
from opkit.cli.settings import Request, layered
from opkit.errors import OpkitError
from opkit.export import export
from opkit.grid import Grid
from opkit.models import Operator, count_parameters
from opkit.normalize import Normalizer
from opkit.registry import Architecture
from opkit.surrogate import PhysicalOperator, Surrogate, load

SMALL = {"burgers": 64, "darcy": 57, "navier_stokes": 32}
"""Training grids of these tests."""
OTHER = {
    "burgers": [(61,), (85,), (128,)],
    "darcy": [(61, 61), (64, 64), (65, 65), (40, 53)],
    "navier_stokes": [(61, 61), (64, 64), (85, 85), (40, 53)],
}
"""Grids they must run on too."""
ADAPTED = ("tfno", "uno", "neuralop_fno")
CASES = [(model, pde) for model in registry.names("model") for pde in SMALL]
REFINEMENT = {"native": 0.05, "latent": 0.2, "project": 1e-5}
"""Largest change on twice the points that each kind of model may show on a smooth field, at random weights."""


def spec_of(pde: str):
    settings = layered(Request(["--pde", pde]), ("pde",))[1].get("pde", {})
    size = {"resolution": SMALL[pde], "label_resolution": SMALL[pde]}
    if pde == "navier_stokes":
        size["modes"] = 10
    return registry.pde_class(pde)(**registry.tuples(settings) | size).spec


def architecture(model: str, pde: str) -> Architecture:
    return Architecture(model, layered(Request(["--pde", pde, "--model", model]), ("pde", "model"))[1].get("model", {}))


def smooth(grid: Grid, channels: int, n: int = 2, seed: int = 0) -> torch.Tensor:
    """A field of few waves, the same function on every grid, `(n, channels, *x)`, float64."""
    random = torch.Generator().manual_seed(seed)
    out = torch.zeros(n, channels, *grid.shape, dtype=torch.float64)
    x = grid.coordinates / torch.tensor(grid.lengths).view(-1, *(1 for _ in grid.shape))
    for _ in range(4):
        k = torch.randint(-2, 3, (grid.ndim,), generator=random).double()
        phase = 2 * torch.pi * (torch.tensordot(k, x, 1) + torch.rand(n, channels, *(1,) * grid.ndim, generator=random))
        out += torch.cos(phase)
    return out / 2


@pytest.fixture(params=CASES, ids="-".join)
def case(request):
    """(name of the model, name of the PDE, spec, model in eval mode)."""
    name, pde = request.param
    torch.manual_seed(0)
    spec = spec_of(pde)
    return name, pde, spec, architecture(name, pde).build(spec).eval()


def test_forward_in_both_modes_and_precisions(case):
    _, _, spec, model = case
    u = smooth(spec.grid, len(spec.inputs))
    for training in (True, False):
        out = model.train(training)(u.float())
        assert out.shape == (2, len(spec.outputs), *spec.grid.shape) and out.dtype == torch.float32
        assert torch.isfinite(out).all()
    wide = model.double()(u)
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), out, rtol=1e-3, atol=1e-4 * wide.abs().max().item())


def test_samples_do_not_see_each_other_and_nothing_is_random(case):
    _, _, spec, model = case
    model.double()
    u = smooth(spec.grid, len(spec.inputs), 3)
    out = model(u)
    assert (model(u) == out).all()
    torch.testing.assert_close(model(u[1:2]), out[1:2], rtol=0, atol=1e-11 * out.abs().max().item())
    u[0] = 1e3
    torch.testing.assert_close(model(u)[1:], out[1:], rtol=0, atol=1e-11 * out.abs().max().item())


def test_every_parameter_has_a_gradient(case):
    _, _, spec, model = case
    u = smooth(spec.grid, len(spec.inputs)).float()
    out = model.train()(u)
    (out * torch.randn_like(out)).sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not idle


def test_other_grids(case):
    _, pde, spec, model = case
    for shape in OTHER[pde]:
        u = smooth(Grid(shape, spec.grid.location, spec.grid.length), len(spec.inputs)).float()
        out = model(u)
        assert out.shape == (2, len(spec.outputs), *shape) and torch.isfinite(out).all()


def test_a_finer_grid_gives_the_same_function(case):
    """At points both grids have; how close depends on how the model meets finer grids."""
    _, _, spec, model = case
    model.double()
    fine = spec.grid.refine(2)
    coarse_out = model(smooth(spec.grid, len(spec.inputs)))
    fine_out = fine.resample(model(smooth(fine, len(spec.inputs))), spec.grid, "strided")
    change = (fine_out - coarse_out).norm() / (coarse_out - coarse_out.mean()).norm()
    assert change < REFINEMENT[model.resolution]


def test_wrong_input_is_refused_in_words(case):
    _, _, spec, model = case
    channels, ndim = len(spec.inputs), spec.grid.ndim
    kind = type(model).__name__
    with pytest.raises(ValueError, match=rf"{kind}.*expects a tensor of shape.*got \(2, {channels + 1}"):
        model(torch.zeros(2, channels + 1, *spec.grid.shape))
    with pytest.raises(ValueError, match=rf"{kind}.*expects a tensor of shape"):
        model(torch.zeros(2, channels, *spec.grid.shape, 5))
    with pytest.raises(ValueError, match="at least"):
        model(torch.zeros(2, channels, *(1,) * ndim))


def test_bundles_give_the_same_output_to_the_bit(case, tmp_path):
    name, pde, spec, model = case
    normalizers = [Normalizer(torch.rand(n), 1 + torch.rand(n)) for n in (len(spec.inputs), len(spec.outputs))]
    surrogate = Surrogate(PhysicalOperator(model, *normalizers), architecture(name, pde), spec, {
        "pde": pde, "parameters": {}, "formula": "", "time_step": None,
    })  # fmt: skip
    u = smooth(spec.grid, len(spec.inputs)).float()
    expected = surrogate(u)
    loaded = load(surrogate.save(tmp_path / "bundle"))
    assert (loaded(u) == expected).all()
    assert count_parameters(loaded.model) == count_parameters(model)
    with pytest.raises(ValueError, match="finite"):
        loaded(u * torch.nan)


def test_a_projected_prediction_is_the_interpolated_one(case):
    """In physical units, walls and all: on a finer grid that holds the training grid's points, such a model gives what
    interpolating its prediction gives."""
    _, _, spec, model = case
    if model.resolution != "project":  # the others get the finer grid itself
        u = torch.zeros(1, len(spec.inputs), *spec.grid.refine(2).shape)
        assert model.on_its_grid(u, lambda v: v) is u
        return
    normalizers = (Normalizer(torch.rand(n), 1 + torch.rand(n)) for n in (len(spec.inputs), len(spec.outputs)))
    physical = PhysicalOperator(model, *normalizers)
    fine = spec.grid.refine(2)
    u = smooth(fine, len(spec.inputs)).float()
    own = physical(fine.resample(u, spec.grid, "strided"))
    expected = spec.grid.resample(own, fine, "spectral" if spec.boundary == "periodic" else "cubic")
    torch.testing.assert_close(physical(u), expected, rtol=0, atol=1e-5)


def test_exact_walls_are_exact(case):
    """A model that claims them imposes them in physical units, whatever its normaliser."""
    _, _, spec, model = case
    out = model.constrain(torch.ones(1, len(spec.outputs), *spec.grid.shape))
    physical = PhysicalOperator(model, *(Normalizer(torch.ones(n), torch.ones(n)) for n in (len(spec.inputs), 1)))
    imposed = not (out == 1).all()
    assert spec.boundary == "dirichlet" or not imposed
    field = physical(smooth(spec.grid, len(spec.inputs)).float())
    for axis in range(2, field.ndim):
        assert (field.select(axis, 0) == 0).all() == imposed and (field.select(axis, -1) == 0).all() == imposed
    assert (field != 0).any()


def test_bfloat16_autocast_is_close(case):
    _, _, spec, model = case
    u = smooth(spec.grid, len(spec.inputs)).float()
    expected = model(u)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(u)
    assert (out - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=() if c[0] == "fno" or (c[0] not in ADAPTED and c[1] == "darcy") else pytest.mark.slow)
     for c in CASES],
    ids="-".join, indirect=True,
)  # fmt: skip
def test_the_graph_has_no_breaks(case):
    """Traced whole, batch and (where the model is native) grid free: what torch.compile needs. No code is generated."""
    _, pde, spec, model = case
    torch._dynamo.reset()
    traced = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    grids = [spec.grid.shape, *(OTHER[pde][1:2] if model.resolution == "native" else [])]
    for n, shape in zip((2, 3), grids, strict=False):
        u = smooth(Grid(shape, spec.grid.location, spec.grid.length), len(spec.inputs), n).float()
        torch.testing.assert_close(traced(u), model(u), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Torchinductor does not support code generation for complex:UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:torch")  # of its own functions
def test_compiled_training_steps_are_the_eager_ones(case):
    _, _, spec, model = case
    torch._dynamo.reset()
    u = smooth(spec.grid, len(spec.inputs)).float()
    gradients = []
    for run in (model, torch.compile(model, dynamic=False)):
        model.zero_grad()
        run(u).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4 * eager.abs().max().item())


@pytest.mark.slow
def test_exported_programs_agree(case, tmp_path):
    name, pde, spec, model = case
    ones = [Normalizer(torch.zeros(n), torch.ones(n)) for n in (len(spec.inputs), len(spec.outputs))]
    surrogate = Surrogate(PhysicalOperator(copy.deepcopy(model), *ones), architecture(name, pde), spec, {})
    try:
        assert export(surrogate, tmp_path / "model.pt2") < 1e-4
    except OpkitError as problem:
        pytest.fail(str(problem))


def fit(model: Operator, u: torch.Tensor, target: torch.Tensor, steps: int, lr: float = 3e-3) -> float:
    """Relative L2 error after some steps of Adam on the whole set."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((model(u) - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    return loss.item()


@pytest.mark.slow
def test_eight_samples_can_be_learned_by_heart(case):
    """Random smooth targets, unrelated to the inputs except by index: capacity and gradients, nothing else.

    The inputs have many waves: a network that commutes with shifts cannot tell two from each other that are shifts of
    one another, nor give what has fewer symmetries than it is given.
    """
    _, _, spec, model = case
    u = sum(smooth(spec.grid, len(spec.inputs), 8, seed) for seed in range(4)).float()
    target = smooth(spec.grid, len(spec.outputs), 8, 4).float()
    if spec.boundary == "dirichlet":
        x = spec.grid.coordinates.float()
        target = target * torch.sin(torch.pi * x).prod(0)
    assert fit(model, u, target, 1000, 1e-3) < 0.05


LESSONS: dict[str, dict[str, Any]] = {
    "deeponet": dict(steps=20_000),  # 0.0015 after half as many: it has to learn that a shifted field is one
    # 0.048 after 4000 without waves of the coordinates, by which a sum over points is a Fourier coefficient
    "gnot": dict(arguments=dict(harmonics=8), steps=40_000, rate=3e-3),
}
"""How the heat propagator is taught, where ten thousand steps at a rate of 1e-3 are not enough."""


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names("model"))
def test_the_heat_propagator_is_learned(name):
    """exp(t Laplacian) of periodic fields: linear, smoothing, known exactly."""
    pde = "burgers"
    torch.manual_seed(0)
    spec = spec_of(pde)
    lesson: dict[str, Any] = dict(arguments={}, steps=10_000, rate=1e-3) | LESSONS.get(name, {})
    taught = architecture(name, pde)
    model = replace(taught, arguments=taught.arguments | lesson["arguments"]).build(spec)
    k = torch.arange(1, 9.0)
    x = 2 * torch.pi * torch.arange(64) / 64
    waves = torch.stack([torch.cos(k[:, None] * x), torch.sin(k[:, None] * x)])

    def draw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        amplitude = torch.randn(n, 2, 8) / k
        fields = torch.stack([amplitude, amplitude * torch.exp(-0.05 * k**2)])
        u, target = torch.einsum("anpk,pkx->anx", fields, waves)[:, :, None]
        return u, target

    optimizer = torch.optim.Adam(model.parameters(), lesson["rate"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lesson["rate"], total_steps=lesson["steps"])
    for _ in range(lesson["steps"]):
        optimizer.zero_grad()
        u, target = draw(32)
        ((model(u) - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)).mean().backward()
        optimizer.step()
        schedule.step()
    u, target = draw(256)
    error = (model.eval()(u) - target).flatten(1).norm(dim=1) / target.flatten(1).norm(dim=1)
    assert error.mean() < 1e-3

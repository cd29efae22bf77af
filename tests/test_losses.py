"""Losses against closed forms: waves, whose norms are known, and numbers worked out by hand."""

import csv
import math

import pytest
import torch
from conftest import SMALL
from torch import Tensor

from opkit import metrics
from opkit.cli import main
from opkit.errors import ConfigError
from opkit.grid import Grid, Spec
from opkit.losses import NAMES, TrainingLoss, parse
from opkit.pdes import Burgers, Darcy
from opkit.settings import Loss

PI = math.pi


def value(loss: Loss, grid: Grid, truth: Tensor, error: Tensor, inputs: Tensor | None = None, channels: int = 1):
    spec = Spec(("a",), ("u",), grid)
    inputs = torch.ones(len(truth), 1, *grid.shape) if inputs is None else inputs
    return TrainingLoss(loss, spec)(truth + error, truth, inputs, channels).item()


WAVES = {
    "rel_l2": (Loss("rel_l2"), 0.1),
    "mse": (Loss("mse"), 0.01 / 2),
    "rel_h1": (Loss("rel_h1"), 0.1 * math.sqrt((1 + (6 * PI) ** 2) / (1 + (2 * PI) ** 2))),
    "gradient": (Loss("gradient"), 0.3),
    "rel_hs, s = -1": (Loss("rel_hs"), 0.1 * math.sqrt((1 + (2 * PI) ** 2) / (1 + (6 * PI) ** 2))),
    "rel_hs, s = 2": (Loss("rel_hs", order=2), 0.1 * (1 + (6 * PI) ** 2) / (1 + (2 * PI) ** 2)),
    "h1_modes": (Loss("h1_modes"), 0.1 * math.sqrt(10 / 2)),
    "h1_modes, cut": (Loss("h1_modes", cutoff=3), 0.1 * math.sqrt(1 / 2)),
    "a sum": (Loss("2e-1*gradient + rel_l2"), 0.1 + 0.2 * 0.3),
}


@pytest.mark.parametrize("name", WAVES)
def test_a_wave_of_three_in_a_wave_of_one(name):
    """u = sin 2 pi x and e = 0.1 sin 6 pi x on the unit circle."""
    grid = Grid((64,), location="periodic")
    x = grid.coordinates[:1].float()[None]
    loss, wanted = WAVES[name]
    assert value(loss, grid, torch.sin(2 * PI * x), 0.1 * torch.sin(6 * PI * x)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("location", ["node", "cell"])
def test_sines_between_walls_with_a_negative_order(location):
    """u = sin pi x sin pi y and e = 0.1 sin 2 pi x sin pi y: |k|^2 is 2 pi^2 and 5 pi^2."""
    grid = Grid((33, 33), location=location)
    x, y = grid.coordinates.float()[:, None, None]
    truth, error = torch.sin(PI * x) * torch.sin(PI * y), 0.1 * torch.sin(2 * PI * x) * torch.sin(PI * y)
    wanted = 0.1 * math.sqrt((1 + 2 * PI**2) / (1 + 5 * PI**2))
    assert value(Loss("rel_hs"), grid, truth, error) == pytest.approx(wanted, rel=1e-4)


def test_the_energy_weighs_by_the_coefficient():
    """On 5 nodes, u = x and e = 0.1 min(x, 1/2); a is 1, 2, 3, 4, 5, so 1.5, 2.5, 3.5, 4.5 on the cells."""
    grid = Grid((5,))
    x = grid.coordinates.float()[None]
    a = torch.arange(1.0, 6.0)[None, None]
    wanted = 0.1 * math.sqrt((1.5 + 2.5) / (1.5 + 2.5 + 3.5 + 4.5))
    assert value(Loss("energy"), grid, x, 0.1 * x.clamp(max=0.5), a) == pytest.approx(wanted, rel=1e-5)


def test_frames_together_or_each():
    """Errors 1 of 1 and 1 of 10."""
    grid = Grid((4,), location="periodic")
    truth = torch.tensor([1.0, 10.0])[None, :, None].expand(1, 2, 4)
    error = torch.ones(1, 2, 4)
    assert value(Loss(), grid, truth, error) == pytest.approx(math.sqrt(2 / 101), rel=1e-5)
    assert value(Loss(frames="each"), grid, truth, error) == pytest.approx((1 + 0.1) / 2, rel=1e-5)


@pytest.mark.parametrize("location", ["node", "cell", "periodic"])
@pytest.mark.parametrize("name", ["rel_l2", "rel_h1"])
def test_what_is_trained_is_what_is_measured(name, location):
    """Where the walls do not matter, the metric of the same name in float64."""
    torch.manual_seed(0)
    grid = Grid((12, 9), location=location)
    truth, error = torch.randn(2, 5, 2, 12, 9)
    if location == "node":
        for field in (truth, error):
            field[..., 0] = field[..., -1] = field[..., 0, :] = field[..., -1, :] = 0
    wanted = getattr(metrics, name)(truth + error, truth, grid).mean().item()
    assert value(Loss(name), grid, truth, error) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("location", ["node", "cell"])
@pytest.mark.parametrize("boundary", ["zero", "random"])
def test_the_residual_vanishes_at_the_solution_alone(location, boundary):
    """The solver's u has none; an error e has (L^-1 A e, A e)^1/2, here with a = 2 a multiple of its energy norm."""
    pde = Darcy(
        resolution=17, label_resolution=17, modes=16, location=location, coefficient="lognormal", sigma=5.0,
        source="sine", boundary_values=boundary,
    )  # fmt: skip
    inputs = pde.sample(2)
    u = pde.solve(inputs).requires_grad_()
    assert pde.residual(inputs, u).max() < 1e-8
    other = u.detach() * 1.1
    found = pde.residual(inputs, other)
    if boundary == "zero":  # linear: a tenth of the right-hand side is left
        assert found.tolist() == pytest.approx([0.1, 0.1], rel=1e-7)
    assert (found > 1e-3).all()
    off = u.detach().clone()
    off[..., 0, :] += 1.0  # at a wall
    assert (pde.residual(inputs, off) > 0.1).all()


def test_the_residual_measures_the_errors_energy():
    """With a constant coefficient it is |grad e| / |grad u|, whatever the error's waves: the gradient loss."""
    pde = Darcy(resolution=65, label_resolution=65, modes=8, values=(5.0, 5.0))
    inputs = pde.sample(1)
    u = pde.solve(inputs)
    x, y = pde.grid.coordinates
    for k in (1, 7, 20):
        wrong = u + 1e-3 * torch.sin(k * PI * x) * torch.sin(3 * PI * y)
        wanted = value(Loss("gradient"), pde.grid, u, wrong - u)
        assert pde.residual(inputs, wrong).item() == pytest.approx(wanted, rel=0.1)


@pytest.mark.slow
def test_a_network_learns_from_the_equation_alone(small_data, tmp_path):
    """No label is looked at, and the error in the labels falls."""
    run = tmp_path / "run"
    assert main(["train", *SMALL, f"run_dir={run}", "loss.terms=residual", "trainer.max_epochs=30"]) == 0
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["val/rel_l2"]) < 0.5 * float(rows[0]["val/rel_l2"])
    assert float(rows[-1]["train/loss"]) < 0.8 * float(rows[0]["train/loss"])


@pytest.mark.parametrize("name", NAMES)
def test_no_loss_has_an_infinite_gradient_at_zero_error(name):
    grid = Grid((9, 9))
    pde = Darcy(resolution=9, label_resolution=9, modes=8)
    a = pde.sample(2).float()
    truth = pde.solve(a.double()).float()
    found = truth.clone().requires_grad_()
    loss = TrainingLoss(Loss(name), Spec(("a",), ("u",), grid), pde)(found, truth, a, 1)
    loss.backward()
    assert loss < 1e-6 and found.grad.isfinite().all()


@pytest.mark.parametrize("text", ["", "rel_l3", "rel_l2 + rel_l2", "0 * rel_l2", "-1*mse", "rel_l2 +", "x * mse"])
def test_a_sum_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=r"loss\.terms=.*rel_l2, rel_h1"):
        parse(text)


def test_the_energy_needs_a_coefficient():
    with pytest.raises(ConfigError, match="first input of these data is u"):
        TrainingLoss(Loss("energy"), Spec(("u",), ("u",), Grid((8,), location="periodic")))


@pytest.mark.parametrize("pde", [None, Burgers()])
def test_an_equation_without_a_residual_is_told_so(pde):
    with pytest.raises(ConfigError, match="no residual to minimise"):
        TrainingLoss(Loss("residual"), Spec(("u",), ("u",), Grid((8,), location="periodic")), pde)


def test_a_run_minimises_what_it_was_told(small_data, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", *SMALL, f"run_dir={run}", "loss.terms=rel_l2 + 0.5 * rel_h1"]) == 0
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(r["train/loss"]) > 1.3 * float(r["train/rel_l2"]) > 0 for r in rows)
    assert main(["train", *SMALL, f"run_dir={tmp_path / 'other'}", "loss.terms=h1"]) == 2
    assert "loss.terms='h1'" in capsys.readouterr().err

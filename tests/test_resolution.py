"""What a grid does to a surrogate and to its data, against closed forms."""

import itertools
import math

import pytest
import scipy.fft
import torch

from opkit.errors import SolverError
from opkit.evaluation import resolution, verdicts
from opkit.evaluation.resolution import changes, data_accuracy, refinements, representation_errors, restricted
from opkit.evaluation.rollout import first_failure
from opkit.grid import Grid
from opkit.metrics import Bounds
from opkit.models import FNO
from opkit.pdes import Burgers, Darcy


def wave(grid: Grid, k: int) -> torch.Tensor:
    """A wave that every kind of grid holds: cos 2 pi k x where periodic, cos pi k x between walls."""
    turns = 2 if grid.location == "periodic" else 1
    return torch.cos(turns * math.pi * k * grid.axis(0))[None, None]


def multiplier(location):
    """Divides the k-th wave by 1 + k, on any grid, by transforms that are not opkit's."""

    def smooth(v: torch.Tensor) -> torch.Tensor:
        if location == "periodic":
            spectrum = torch.fft.rfft(v)
            return torch.fft.irfft(spectrum / (1 + torch.arange(spectrum.shape[-1])), n=v.shape[-1])
        kind = {"node": 1, "cell": 2}[location]
        spectrum = torch.from_numpy(scipy.fft.dct(v.numpy(), kind))
        return torch.from_numpy(scipy.fft.idct((spectrum / (1 + torch.arange(v.shape[-1]))).numpy(), kind))

    return smooth


@pytest.mark.parametrize(("location", "n", "k"), [("periodic", 8, 3), ("node", 9, 5), ("cell", 8, 5)])
def test_one_function_of_functions_has_no_representation_error_and_a_square_has_the_aliases_worked_out(location, n, k):
    """The square of a wave k is (1 + wave 2 k) / 2. The training grid takes wave 2 k for another; one twice as fine
    does not, and there 2 k is cut off. The alias has half the energy of the constant."""
    grid = Grid((n,), location)
    fine = grid.refine(2)
    u = wave(grid, k)
    few = wave(grid, 1) + 0.3 * wave(grid, 2)
    [error] = representation_errors(multiplier(location), few, grid, [fine])
    assert error.item() < 1e-12
    [error] = representation_errors(torch.square, u, grid, [fine])
    assert error.item() == pytest.approx(math.sqrt(1 / 3), rel=1e-9)


def test_the_wave_whose_phase_an_even_grid_does_not_know_is_no_part_of_the_functions():
    """Moved by 1 / 32 twice, +1, -1, ... on eight points becomes cos^2 of an eighth of a turn, not cos of a fourth: no
    operator can do better there."""
    grid = Grid((8,), "periodic")

    def moved(v: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            spectrum = torch.fft.rfft(v)
            turn = torch.exp(2j * math.pi / 32 * torch.arange(spectrum.shape[-1]))
            v = torch.fft.irfft(spectrum * turn, n=v.shape[-1])
        return v

    [error] = representation_errors(moved, wave(grid, 1) + wave(grid, 4), grid, [grid.refine(2)])
    assert error.item() < 1e-12


def test_where_solutions_vanish_outputs_are_cut_to_sines():
    """sin pi k x is one function on all grids, and the coarse one holds it up to k = 7; in cosines it is a long
    series."""
    grid = Grid((9,))

    def sines(v: torch.Tensor) -> torch.Tensor:
        x = Grid((v.shape[-1],)).axis(0)
        return sum(torch.sin(math.pi * k * x) for k in (1, 4, 7)).expand_as(v)

    found = [representation_errors(sines, wave(grid, 1), grid, [grid.refine(2)], v)[0].item() for v in (True, False)]
    assert found[0] < 1e-12 and found[1] > 1e-3


def test_coefficients_given_to_the_surrogate_stay_within_their_bounds():
    grid = Grid((9, 9))
    a = torch.where(torch.rand(4, 1, 9, 9) < 0.5, 0.01, 1.0)
    seen = []

    def look(v: torch.Tensor) -> torch.Tensor:
        seen.append(v)
        return v

    representation_errors(look, a, grid, [grid.refine(2), Grid((14, 14))])
    assert len(seen) == 12
    assert min(v.min() for v in seen) >= 0.01 - 1e-7 and max(v.max() for v in seen) <= 1 + 1e-7


def judged(surrogate, inputs, grid):
    found = changes(surrogate, inputs, grid)
    record = {"resolutions": [g.shape[0] for g in refinements(grid)], "changes": found.mean(0).tolist()}
    return found[0].tolist(), *verdicts.convergence(record, grid.ndim)


def test_central_differences_converge_with_order_two():
    """They give sin x times sin(h) / h for the slope."""
    grid = Grid((32,), "periodic", 2 * math.pi)
    u = torch.cos(grid.axis(0))[None, None]

    def slope(v: torch.Tensor) -> torch.Tensor:
        return (v.roll(-1, -1) - v.roll(1, -1)) * v.shape[-1] / (4 * math.pi)

    found, order, verdict, text = judged(slope, u, grid)
    exact = [math.sin(h) / h for h in (2 * math.pi / (32 * r) for r in (1, 2, 4, 8))]
    expected = [abs(b - a) / exact[0] for a, b in itertools.pairwise(exact)]
    assert found == pytest.approx(expected, rel=1e-9)
    assert verdict == "converges" and order == pytest.approx(2, abs=0.01) and "order 2." in text


def test_what_grows_with_the_number_of_points_is_a_plateau():
    """log2 n grows by one whenever n doubles: of 5, a fifth."""
    grid = Grid((32,), "periodic")
    found, order, verdict, text = judged(lambda v: v * math.log2(v.shape[-1]), wave(grid, 3), grid)
    assert found == pytest.approx([0.2] * 3, rel=1e-9) and order == pytest.approx(0, abs=1e-9)
    assert verdict == "plateau" and "not discretisation-convergent" in text


def test_an_operator_of_fourier_space_is_the_same_on_every_grid():
    grid = Grid((32,), "periodic")
    found, order, verdict, _ = judged(multiplier("periodic"), wave(grid, 3), grid)
    assert max(found) < 1e-12 and (order, verdict) == (None, "the same")


@pytest.mark.parametrize(("location", "padding", "least"), [("periodic", 0.0, None), ("node", 1 / 8, 1.5)])
def test_a_fourier_neural_operator_converges(location, padding, least):
    grid = Grid((32 + (location == "node"),), location)
    operator = FNO(1, 1, (8,), 8, padding=padding, coordinates=False, location=location).double().eval()
    with torch.no_grad():
        found, order, verdict, _ = judged(operator, wave(grid, 2) + wave(grid, 5), grid)
    assert verdict in ("converges", "the same")
    assert found[-1] < 1e-12 if least is None else order > least


def test_grids_that_cannot_be_refined_say_so():
    grid = Grid((513, 513))
    assert changes(torch.square, torch.ones(1, 1, 513, 513), grid).shape == (1, 0)
    order, verdict, text = verdicts.convergence({"resolutions": [], "changes": []}, 2)
    assert (order, verdict) == (None, "unknown") and "too many points" in text
    assert verdicts.convergence({"resolutions": [9, 17, 33], "changes": [0.1, None]}, 2)[1] == "unknown"
    assert verdicts.convergence({"resolutions": [9, 17], "changes": [0.1]}, 2)[1] == "unknown"
    assert verdicts.convergence({"resolutions": [9, 17, 33], "changes": [1e-8, 1e-3]}, 2)[:2] == (None, "plateau")
    assert verdicts.convergence({"resolutions": [9, 17, 33], "changes": [1e-3, 1e-8]}, 2)[:2] == (None, "converges")


def test_a_two_valued_coefficient_is_averaged_harmonically():
    """Nodes 9 to 5: a coarse point's cell holds one fine cell whole and two by half, at walls two halves. The interface
    is between fine columns 3 and 4: of the middle cell a quarter has 3, and 1 / (1 / 4 / 3 + 3 / 4 / 12) = 48 / 7."""
    fine, coarse = Darcy(resolution=9), Darcy(resolution=5)
    a = torch.full((1, 1, 9, 9), 12.0, dtype=torch.float64)
    a[..., :4, :] = 3.0
    across = torch.tensor([3, 3, 48 / 7, 12, 12], dtype=torch.float64)
    torch.testing.assert_close(fine.filtered(a, coarse.grid)[0, 0], across[:, None].expand(5, 5), rtol=1e-12, atol=0)
    # In the plane: a single fine node of 3, which is the middle of a cell, is a quarter of it.
    a = torch.full((1, 1, 9, 9), 12.0, dtype=torch.float64)
    a[..., 4, 4] = 3.0
    assert fine.filtered(a, coarse.grid)[0, 0, 2, 2].item() == pytest.approx(1 / (1 / 4 / 3 + 3 / 4 / 12), rel=1e-12)


def test_cells_that_do_not_nest_are_averaged_by_overlap():
    """Three cells on two: the first is one whole cell and half the next, 1 / (2 / 3 / 3 + 1 / 3 / 12) = 4."""
    values = torch.tensor([3.0, 12.0, 12.0], dtype=torch.float64)
    harmonic = 1 / Grid((3,), "cell").resample(1 / values, Grid((2,), "cell"), "average")
    assert harmonic.tolist() == pytest.approx([4.0, 12.0], rel=1e-12)


def test_sources_are_averaged_and_boundary_values_kept():
    fine = Darcy(resolution=9, source="random", boundary_values="random", modes=4)
    grid = Darcy(resolution=5).grid
    ramp = fine.grid.coordinates[0] * 8
    fields = torch.stack([torch.ones_like(ramp), ramp, ramp])[None]
    a, f, g = fine.filtered(fields, grid)[0]
    assert (a == 1).all()
    assert f[:, 0].tolist() == pytest.approx([0.5, 2, 4, 6, 7.5]) and g[:, 0].tolist() == [0, 2, 4, 6, 8]


def test_solutions_are_cut_to_sines_and_periodic_fields_to_waves():
    pde = Darcy(resolution=17)
    x, y = pde.grid.coordinates
    held = torch.sin(math.pi * 2 * x) * torch.sin(math.pi * 3 * y)
    fine = torch.sin(math.pi * 12 * x) * torch.sin(math.pi * y)  # on 9 nodes it looks like wave 4
    target = pde.on(9).grid
    a = torch.ones(1, 1, 17, 17)
    _, u = restricted(pde, a, (held + fine)[None, None], target)
    torch.testing.assert_close(u[0, 0], held[::2, ::2], rtol=0, atol=1e-12)
    # Where the solution does not vanish on the walls its values are kept.
    _, u = restricted(Darcy(resolution=17, boundary_values="linear"), a, (1 + held)[None, None], target)
    torch.testing.assert_close(u[0, 0], 1 + held[::2, ::2], rtol=0, atol=0)
    circle = Burgers(resolution=32, label_resolution=32)
    a = wave(circle.grid, 0) + torch.cos(14 * circle.grid.axis(0))
    for v in restricted(circle, a, 2 * a, Burgers(resolution=16).grid):
        assert (v - v[..., :1]).abs().max() < 1e-12


def test_data_are_as_accurate_as_they_are_far_from_better_ones(monkeypatch):
    pde = Darcy(resolution=9, label_resolution=9, modes=4, coefficient="lognormal", tolerance=1e-12)
    a = pde.sample(3)
    truth = pde.solve(a) / torch.tensor([1.0, 1.01, 1.1]).double().view(-1, 1, 1, 1)
    found = data_accuracy(pde, a, truth, None, 1, torch.device("cpu"))
    torch.testing.assert_close(found, torch.tensor([0, 0.01, 0.1]).double(), rtol=1e-6, atol=1e-6)

    def fails(*_):
        raise SolverError("The solution blew up.")

    monkeypatch.setattr(resolution, "solve_for", fails)
    assert data_accuracy(pde, a, truth, None, 1, torch.device("cpu")) == "The solution blew up."


def test_rollouts_end_by_the_same_rules_on_every_grid():
    """One grows tenfold a frame, past ten at the second; one piles up on the grid scale; one freezes at its first frame
    and one at the start; one is right."""
    grid = Grid((16,), "periodic")
    x = 2 * math.pi * grid.axis(0)
    times = torch.tensor([0.5, 1.0, 1.5]).double()
    truth = torch.stack([torch.sin(x + t) for t in times])[None, :, None].repeat(5, 1, 1, 1)
    start = torch.sin(x)[None, None].repeat(5, 1, 1)
    states = truth.clone()
    states[0] *= torch.tensor([1.0, 10.0, 100.0]).double()[:, None, None]
    states[1, 2] += 0.1 * torch.cos(8 * x)
    states[2] = states[2, :1].clone()
    states[3] = start[3]
    ends = first_failure(states, truth, start, times, grid, Bounds(norm=5.0, peak=9.0))
    assert ends.observed.tolist() == [True, True, True, True, False]
    assert ends.time.tolist() == [1.0, 1.5, 1.0, 0.5, 1.5]

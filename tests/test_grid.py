import math

import pytest
import torch

from opkit.grid import Grid, axis_positions


def test_positions_by_hand():
    assert axis_positions(3, "node").tolist() == [0.0, 0.5, 1.0]
    assert axis_positions(2, "cell").tolist() == [0.25, 0.75]
    assert axis_positions(4, "periodic").tolist() == [0.0, 0.25, 0.5, 0.75]


def test_the_first_coordinate_varies_along_the_first_axis():
    x, y = Grid((5, 3), length=(2.0, 1.0)).coordinates
    assert x[:, 0].tolist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert (x[:, 0] == x[:, 2]).all()
    assert y[0].tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("location", ["node", "cell", "periodic"])
def test_weights_sum_to_the_volume_and_integrate_linear_functions(location):
    grid = Grid((7, 5), location, (2.0, 3.0))
    assert math.isclose(grid.weights.sum().item(), 6.0)
    if location != "periodic":  # x is not a periodic function
        assert math.isclose((grid.weights * grid.coordinates[0]).sum().item(), 6.0)


@pytest.mark.parametrize("location", ["node", "periodic", "cell"])
def test_a_refined_grid_contains_the_coarse_one(location):
    coarse = Grid((9, 5), location)
    fine = coarse.refine(3)
    assert coarse.stride_in(fine) == 3
    field = torch.sin(fine.coordinates[0]) + fine.coordinates[1]
    expected = torch.sin(coarse.coordinates[0]) + coarse.coordinates[1]
    torch.testing.assert_close(fine.resample(field, coarse, "strided"), expected, rtol=0, atol=1e-15)


def test_only_odd_refinements_of_cells_keep_the_centres():
    coarse = Grid((4, 6), "cell")
    assert [coarse.stride_in(coarse.refine(factor)) for factor in (1, 2, 3, 4, 5)] == [1, None, 3, None, 5]
    index = torch.arange(15, dtype=torch.float64)
    assert Grid((15,), "cell").resample(index, Grid((3,), "cell"), "strided").tolist() == [2.0, 7.0, 12.0]
    with pytest.raises(ValueError, match="not points"):
        coarse.refine(2).resample(torch.zeros(8, 12), coarse, "strided")
    smooth = coarse.refine(2).resample(torch.ones(8, 12), coarse)  # auto: where no centres coincide, interpolate
    torch.testing.assert_close(smooth, torch.ones(4, 6))


def test_the_fno_grids_are_nested_in_421():
    fine = Grid((421, 421))
    assert [Grid((n, n)).stride_in(fine) for n in (85, 141, 211, 421)] == [5, 3, 2, 1]
    assert Grid((100, 100)).stride_in(fine) is None
    assert Grid((85, 141)).stride_in(fine) is None
    assert Grid((85, 85), "periodic").stride_in(fine) is None


@pytest.mark.parametrize(("method", "degree"), [("linear", 1), ("cubic", 3)])
@pytest.mark.parametrize("location", ["node", "cell"])
def test_interpolation_reproduces_polynomials(method, degree, location):
    grid, target = Grid((9, 8), location), Grid((13, 17), location)
    field = lambda g: g.coordinates[0] ** degree * (1 + g.coordinates[1] ** degree)  # noqa: E731
    result = grid.resample(field(grid)[None, None], target, method)[0, 0]
    torch.testing.assert_close(result, field(target), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(9, 16), (8, 15), (16, 9), (15, 8), (8, 16), (16, 8)])
def test_spectral_resampling_is_exact_below_both_nyquist_wavenumbers(n, m):
    field = lambda g: torch.sin(2 * torch.pi * 3 * g.coordinates[0] + 0.3) * torch.cos(2 * torch.pi * g.coordinates[1])  # noqa: E731
    grid, target = Grid((n, n), "periodic"), Grid((m, m), "periodic")
    torch.testing.assert_close(grid.resample(field(grid), target), field(target), rtol=0, atol=1e-13)


def test_spectral_resampling_keeps_a_nyquist_wave():
    grid = Grid((8,), "periodic")
    wave = torch.cos(torch.pi * torch.arange(8, dtype=torch.float64))
    fine = grid.resample(wave, Grid((16,), "periodic"))
    torch.testing.assert_close(fine[::2], wave)
    torch.testing.assert_close(Grid((16,), "periodic").resample(fine, grid, "spectral"), wave)


@pytest.mark.parametrize("location", ["node", "cell"])
@pytest.mark.parametrize("shapes", [((9, 12), (17, 30)), ((17, 30), (9, 12)), ((12, 9), (10, 16))])
@pytest.mark.parametrize(("method", "wave"), [("sine", torch.sin), ("cosine", torch.cos)])
def test_series_between_walls_are_exact_for_the_waves_both_grids_hold(location, shapes, method, wave):
    grid, target = (Grid(shape, location) for shape in shapes)
    field = lambda g: wave(torch.pi * 7 * g.coordinates[0]) * wave(torch.pi * 2 * g.coordinates[1])  # noqa: E731
    torch.testing.assert_close(grid.resample(field(grid), target, method), field(target), rtol=0, atol=1e-13)


@pytest.mark.parametrize("location", ["node", "cell"])
def test_series_between_walls_cut_off_what_the_coarser_grid_does_not_hold(location):
    """Wave 12 takes the values of wave 4 (with a sign) at every other of 17 nodes."""
    grid, target = Grid((17,), location), Grid((9,), location)
    for method, wave in (("sine", torch.sin), ("cosine", torch.cos)):
        fine = grid.resample(wave(torch.pi * 12 * grid.axis(0)), target, method)
        torch.testing.assert_close(fine, torch.zeros(9).double(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("location", ["node", "cell"])
def test_fejer_means_weight_waves_linearly_and_keep_bounds(location):
    grid = Grid((9,), location)
    top = {"node": 8, "cell": 9}[location]
    for fine in (grid, grid.refine(3), Grid((14,), location)):
        for k in range(9):
            u, v = (torch.cos(torch.pi * k * g.axis(0)) for g in (grid, fine))
            torch.testing.assert_close(grid.resample(u, fine, "fejer"), (1 - k / top) * v, rtol=0, atol=1e-14)
        jumps = (torch.rand(300, 9) < 0.5).double()
        means = grid.resample(jumps, fine, "fejer")
        assert means.min() > -1e-14 and means.max() < 1 + 1e-14
        assert (grid.resample(jumps, fine, "cosine").min() < -0.05) == (fine != grid)


def test_averages_are_means_over_the_cells_of_points():
    values = torch.tensor([0.0, 4.0, 8.0, 4.0, 0.0], dtype=torch.float64)
    assert Grid((5,)).resample(values, Grid((3,)), "average").tolist() == [2.0, 6.0, 2.0]
    assert Grid((3,), "cell").resample(values[:3], Grid((2,), "cell"), "average").tolist() == pytest.approx(
        [4 / 3, 20 / 3]
    )
    with pytest.raises(ValueError, match="between walls"):
        Grid((8,), "periodic").resample(torch.zeros(8), Grid((4,), "periodic"), "average")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(shape=(1, 4)), "at least 2 points"),
        (dict(shape=(4,), location="nodes"), "node, cell, periodic"),
        (dict(shape=(4,), length=0.0), "positive"),
        (dict(shape=(2, 2, 2, 2)), "1 to 3 axes"),
    ],
)
def test_impossible_grids_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Grid(**arguments)


def test_resampling_between_different_boxes_is_refused():
    with pytest.raises(ValueError, match="boxes"):
        Grid((4,)).resample(torch.zeros(4), Grid((8,), length=2.0))
    with pytest.raises(ValueError, match="shape"):
        Grid((4,)).resample(torch.zeros(5), Grid((7,)))
    with pytest.raises(ValueError, match="not points"):
        Grid((4,)).resample(torch.zeros(4), Grid((5,)), "strided")

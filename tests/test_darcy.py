"""The Darcy solver against analytic solutions, measured orders, and a direct sparse solve."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

from opkit.fields import first_index
from opkit.grid import Grid
from opkit.pdes import Darcy
from opkit.pdes.elliptic import solve_dirichlet

SMALL = Darcy(resolution=33, label_resolution=33, modes=32)


def five_point_matrix(a: np.ndarray) -> scipy.sparse.csr_matrix:
    """-div(a grad) with harmonic faces, assembled entry by entry: independent of the solver's own stencil."""
    n = a.shape[0]
    m, h = n - 2, 1 / (n - 1)
    rows, columns, entries = [], [], []
    for i in range(1, n - 1):
        for j in range(1, n - 1):
            row = (i - 1) * m + j - 1
            for di, dj in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                p, q = i + di, j + dj
                face = 2 / (1 / a[i, j] + 1 / a[p, q]) / h**2
                rows.append(row), columns.append(row), entries.append(face)
                if 0 < p < n - 1 and 0 < q < n - 1:
                    rows.append(row), columns.append((p - 1) * m + q - 1), entries.append(-face)
    return scipy.sparse.csr_matrix((entries, (rows, columns)), shape=(m * m, m * m))


@pytest.mark.parametrize("resolution", [10, 33, 38])
def test_the_solution_is_that_of_a_direct_solver(resolution):
    pde = dataclasses.replace(SMALL, resolution=resolution)
    a = pde.sample(2, seed=0)
    u = pde.solve(a)
    for i in range(2):
        direct = scipy.sparse.linalg.spsolve(five_point_matrix(a[i, 0].numpy()), np.ones((resolution - 2) ** 2))
        error = np.linalg.norm(u[i, 0, 1:-1, 1:-1].numpy().ravel() - direct) / np.linalg.norm(direct)
        assert error < 1e-9
    walls = torch.ones(resolution, resolution, dtype=torch.bool)
    walls[1:-1, 1:-1] = False
    assert (u[:, 0, walls] == 0).all()


@pytest.mark.parametrize("face_mean", ["harmonic", "arithmetic"])
def test_second_order_on_a_manufactured_solution(face_mean):
    errors = []
    for n in (33, 65, 129):
        x, y = Grid((n, n)).coordinates
        p = math.pi
        u = torch.sin(p * x) * torch.sin(2 * p * y)
        a = 1 + 0.5 * torch.sin(2 * p * x) * torch.cos(2 * p * y)
        a_x, a_y = p * torch.cos(2 * p * x) * torch.cos(2 * p * y), -p * torch.sin(2 * p * x) * torch.sin(2 * p * y)
        u_x, u_y = p * torch.cos(p * x) * torch.sin(2 * p * y), 2 * p * torch.sin(p * x) * torch.cos(2 * p * y)
        f = 5 * p**2 * a * u - a_x * u_x - a_y * u_y
        solution, _ = solve_dirichlet(a[None], f[None], face_mean=face_mean)
        errors.append((solution[0] - u).abs().max().item())
    orders = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert all(1.9 < order < 2.1 for order in orders), orders


def test_at_an_interface_harmonic_faces_keep_the_order_and_arithmetic_ones_lose_it():
    """Two layers, a = 1 for x < 1/2 and 10 beyond; the jump lies halfway between two nodes.

    u = phi(x) sin(pi y) with continuous flux a phi' = c - x solves the equation for f = (1 + pi^2 a phi) sin(pi y); c
    makes phi(1) = 0.
    """
    c = 0.1625 / 0.55

    def error(n: int, face_mean: str) -> float:
        x, y = Grid((n, n)).coordinates
        left = c * x - x**2 / 2
        right = (c / 2 - 1 / 8) + (c * (x - 0.5) - (x**2 - 0.25) / 2) / 10
        a, phi = torch.where(x < 0.5, 1.0, 10.0).double(), torch.where(x < 0.5, left, right)
        u = phi * torch.sin(math.pi * y)
        f = torch.sin(math.pi * y) * (1 + math.pi**2 * a * phi)
        solution, _ = solve_dirichlet(a[None], f[None], face_mean=face_mean)
        return ((solution[0] - u).norm() / u.norm()).item()

    def order(face_mean: str) -> float:  # spacing 1/31 and 1/63
        return math.log(error(32, face_mean) / error(64, face_mean)) / math.log(63 / 31)

    assert 1.8 < order("harmonic") < 2.2
    assert 0.7 < order("arithmetic") < 1.3


def test_the_value_at_the_centre_of_the_unit_problem():
    """-Laplacian u = 1: u(1/2, 1/2) = 0.0736713532814..., by its sine series."""
    series = sum(
        16 / (math.pi**4 * i * j * (i**2 + j**2)) * math.sin(i * math.pi / 2) * math.sin(j * math.pi / 2)
        for i in range(1, 400, 2)
        for j in range(1, 400, 2)
    )
    pde = dataclasses.replace(SMALL, resolution=65)
    u = pde.solve(torch.ones(1, 1, 65, 65, dtype=torch.float64))
    assert abs(series - 0.0736713532) < 1e-7
    assert abs(u[0, 0, 32, 32].item() - series) < 2e-5  # h^2 = 2.4e-4, constant below 0.1


def test_forcing_scales_the_solution():
    a = SMALL.sample(1)
    twice = dataclasses.replace(SMALL, forcing=2.0)
    torch.testing.assert_close(twice.solve(a), 2 * SMALL.solve(a), rtol=1e-8, atol=0)


def test_maximum_principle_and_energy_identity():
    a = SMALL.sample(4, seed=2)
    u = SMALL.solve(a)
    assert (u[:, 0, 1:-1, 1:-1] > 0).all()
    h = 1 / 32
    for i in range(4):
        matrix = five_point_matrix(a[i, 0].numpy())
        v = u[i, 0, 1:-1, 1:-1].numpy().ravel()
        assert math.isclose(v @ (matrix @ v) * h**2, v.sum() * h**2, rel_tol=1e-8)


def test_the_symmetries_of_the_square():
    """Also the licence for using them to augment training data."""
    a = SMALL.sample(1, seed=4)
    u = SMALL.solve(a)
    for move in (lambda v: v.flip(-1), lambda v: v.flip(-2), lambda v: v.transpose(-1, -2)):
        torch.testing.assert_close(SMALL.solve(move(a)), move(u), rtol=0, atol=1e-11)


def test_coefficients_take_two_values_in_equal_measure():
    a = Darcy(resolution=17, modes=16).sample(400, seed=0)
    assert set(a.unique().tolist()) == {3.0, 12.0}
    share = (a == 12).double().mean((1, 2, 3))
    assert abs(share.mean().item() - 0.5) < 4 * share.std().item() / math.sqrt(400)


def test_lognormal_coefficients_are_the_exponential_of_the_same_field():
    threshold, lognormal = (dataclasses.replace(SMALL, coefficient=c).sample(3) for c in ("threshold", "lognormal"))
    assert ((lognormal >= 1) == (threshold == 12)).all()


def test_a_sample_is_the_same_function_on_every_grid():
    coarse, fine = (dataclasses.replace(SMALL, resolution=n).sample(3, seed=1) for n in (17, 65))
    assert (coarse == fine[..., ::4, ::4]).all()


def test_a_sample_depends_on_seed_and_index_alone():
    assert (SMALL.sample(5, seed=1)[3:] == SMALL.sample(2, seed=1, first=3)).all()
    assert (SMALL.sample(2, seed=1) != SMALL.sample(2, seed=2)).any()


def test_solutions_do_not_depend_on_the_batch():
    a = SMALL.sample(6)
    together = SMALL.solve(a)
    alone = torch.cat([SMALL.solve(a[i : i + 1]) for i in range(6)])
    assert (together == alone).all()


def test_labels_are_solved_fine_and_restricted():
    pde = Darcy(resolution=9, label_resolution=33, modes=16)
    assert pde.label_grid.shape == (33, 33)
    assert Darcy(resolution=85).label_grid.shape == (421, 421)
    assert Darcy(resolution=100).label_grid.shape == (496, 496)
    assert Darcy(resolution=500, label_resolution=421).label_grid.shape == (500, 500)
    labels = pde.label(1, 0, first_index("test"))
    fine = dataclasses.replace(pde, resolution=33)
    expected = fine.solve(fine.sample(1, 0, first_index("test")))[0, 0, ::4, ::4]
    assert (labels.fields["u"][0] == expected).all()
    assert (labels.fields["a"] == pde.sample(1, 0, first_index("test"))[:, 0]).all()
    assert labels.diagnostics["residual"].max() < 1e-6


def test_iterations_are_bounded_by_the_contrast_on_every_grid():
    """Constant-coefficient preconditioning: condition number <= max a / min a = 4, an error factor of 1/3 each."""
    bound = math.ceil(math.log(2 / 1e-9) / math.log(3)) + 2
    counts = []
    for n in (17, 65, 129):
        a = dataclasses.replace(SMALL, resolution=n).sample(1)[:, 0]
        _, stats = solve_dirichlet(a, torch.ones_like(a), solver="sine")
        counts.append(int(stats["iterations"][0]))
    assert max(counts) <= bound, counts
    assert max(counts) - min(counts) <= 6


def test_the_stored_residual_is_the_true_one():
    a = SMALL.sample(1)
    u, stats = solve_dirichlet(a[:, 0], torch.ones_like(a[:, 0]), tolerance=1e-4)
    residual = 1 - five_point_matrix(a[0, 0].numpy()) @ u[0, 1:-1, 1:-1].numpy().ravel()
    assert math.isclose(stats["residual"].item(), np.linalg.norm(residual) / 31, rel_tol=1e-6)
    assert stats["residual"].item() > 1e-8  # a loose tolerance leaves a residual worth reporting


def test_numpy_in_numpy_out():
    a = SMALL.sample(1)
    assert np.array_equal(SMALL.solve(a.numpy()), SMALL.solve(a).numpy())
    assert SMALL.solve(a.float()).dtype == torch.float64


def test_grid_and_attributes_of_the_contract():
    pde = Darcy(resolution=85)
    assert (pde.grid.location, pde.grid.shape, pde.times) == ("node", (85, 85), None)
    assert pde.grid.coordinates.shape == (2, 85, 85)
    assert (pde.resolution, pde.values, pde.forcing, pde.tau, pde.mean) == (85, (3.0, 12.0), 1.0, 3.0, "keep")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(resolution=4), "at least 5"),
        (dict(values=(0.0, 12.0)), "positive"),
        (dict(tolerance=0.0), "tolerance"),
        (dict(alpha=0.5), "alpha"),
        (dict(modes=0), "modes"),
        (dict(label_resolution=0), "label_resolution"),
    ],
)
def test_impossible_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Darcy(**arguments)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.ones(1, 1, 32, 33), r"\(n, 1, 33, 33\), got \(1, 1, 32, 33\)"),
        (torch.ones(33, 33), "33"),
        (torch.full((1, 1, 33, 33), -1.0), "positive"),
        (torch.full((1, 1, 33, 33), torch.nan), "not finite"),
        ("a", "str"),
    ],
)
def test_bad_inputs_are_refused_in_words(inputs, message):
    with pytest.raises(ValueError, match=message):
        SMALL.solve(inputs)

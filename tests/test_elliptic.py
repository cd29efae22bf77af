"""Discretisation and solvers of -div(a grad u) = f against exact solutions and a matrix assembled entry by entry."""

import itertools
import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch

from opkit.errors import OpkitError, SolverError
from opkit.fields import first_index
from opkit.grid import Grid
from opkit.pdes import Darcy, elliptic
from opkit.pdes.elliptic import SOLVERS, choose, discretise, solve_dirichlet
from opkit.pdes.multigrid import BOTTOM, VCycle

LOCATIONS = ("node", "cell")
pi = math.pi


def two_phase(n: int, contrast: float, location: str = "node", seed: int = 0) -> torch.Tensor:
    """Blobs and single points of high coefficient: `(1, n, n)`."""
    pde = Darcy(resolution=n, label_resolution=1, modes=24, values=(1.0, contrast), location=location)
    a = pde.sample(1, seed)[:, 0]
    generator = torch.Generator().manual_seed(seed)
    specks = torch.rand(a.shape, generator=generator) < 0.05
    return torch.where(specks, contrast, a)


def assembled_solution(a: np.ndarray, f: np.ndarray, g: np.ndarray | None, location: str) -> np.ndarray:
    """The discrete problem with harmonic faces, written down point by point, solved by SuperLU."""
    n = len(a)
    inside = range(1, n - 1) if location == "node" else range(n)
    h = 1 / (n - 1) if location == "node" else 1 / n
    number = {(i, j): k for k, (i, j) in enumerate(itertools.product(inside, inside))}
    matrix = scipy.sparse.lil_array((len(number), len(number)))
    right = np.zeros(len(number))
    for (i, j), k in number.items():
        right[k] = f[i, j]
        for p, q in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
            if (p, q) in number:
                face = 2 / (1 / a[i, j] + 1 / a[p, q]) / h**2
                matrix[k, number[p, q]] = -face
            elif location == "node":
                face = 2 / (1 / a[i, j] + 1 / a[p, q]) / h**2
                right[k] += face * (0 if g is None else g[p, q])
            else:
                face = a[i, j] / (h / 2) / h
                line = None if g is None else [g[i - s * (p - i), j - s * (q - j)] for s in range(3)]
                right[k] += face * (0 if line is None else (15 * line[0] - 10 * line[1] + 3 * line[2]) / 8)
            matrix[k, k] += face
    u = np.zeros_like(a) if g is None else g.copy()
    inner = slice(1, -1) if location == "node" else slice(None)
    u[inner, inner] = scipy.sparse.linalg.spsolve(matrix.tocsc(), right).reshape(len(inside), -1)
    return u


def distance(u: torch.Tensor, reference: torch.Tensor) -> float:
    return ((u - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("contrast", [4.0, 1e4])
@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("n", [10, 21, 38])
def test_every_solver_gives_the_solution_of_the_assembled_matrix(n, location, contrast):
    a = two_phase(n, contrast, location, seed=n)
    f, g = torch.randn(2, 1, n, n, dtype=torch.float64)
    for boundary in (None, g):
        data = None if boundary is None else boundary[0].numpy()
        reference = torch.from_numpy(assembled_solution(a[0].numpy(), f[0].numpy(), data, location))
        for solver in ("auto", *SOLVERS):
            u, stats = solve_dirichlet(a, f, boundary, location, solver=solver)
            assert distance(u[0], reference) < 1e-9, solver
            assert stats["residual"].item() < 1e-4
            if solver != "auto":
                assert SOLVERS[stats["solver"].item()] == solver
            assert (stats["iterations"].item() == 0) == (SOLVERS[stats["solver"].item()] == "direct")


@pytest.mark.parametrize("contrast", [4.0, 1e4, 1e8])
def test_the_default_solver_at_the_size_of_labels_is_within_1e_9_of_the_direct_one(contrast):
    for location in LOCATIONS:
        a = two_phase(150, contrast, location)
        f = torch.ones_like(a)
        reference, _ = solve_dirichlet(a, f, None, location, solver="direct")
        u, stats = solve_dirichlet(a, f, None, location)
        assert distance(u, reference) < (
            1e-9 if contrast < 1e8 else 1e-6
        )  # there the matrix' condition is felt by both
        assert (SOLVERS[stats["solver"].item()] == "multigrid") == (contrast > 4 or location == "cell")


@pytest.mark.parametrize("face_mean", ["harmonic", "arithmetic"])
@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("walls", ["zero", "given"])
def test_second_order_on_a_manufactured_solution(location, face_mean, walls):
    """u = sin(pi x) sin(2 pi y), and the same plus exp(x) cos(y) whose values on the walls are not zero."""
    errors = []
    for n in (32, 64, 128):
        x, y = Grid((n, n), location).coordinates
        a = 1 + 0.5 * torch.sin(2 * pi * x) * torch.cos(2 * pi * y)
        a_x, a_y = (
            pi * torch.cos(2 * pi * x) * torch.cos(2 * pi * y),
            -pi * torch.sin(2 * pi * x) * torch.sin(2 * pi * y),
        )
        u = torch.sin(pi * x) * torch.sin(2 * pi * y)
        f = 5 * pi**2 * a * u
        f -= a_x * pi * torch.cos(pi * x) * torch.sin(2 * pi * y) + a_y * 2 * pi * torch.sin(pi * x) * torch.cos(
            2 * pi * y
        )
        boundary = None
        if walls == "given":
            boundary = torch.exp(x) * torch.cos(y)  # harmonic: its Laplacian is zero
            u = u + boundary
            f = f - a_x * torch.exp(x) * torch.cos(y) + a_y * torch.exp(x) * torch.sin(y)
            boundary = boundary[None]
        solution, _ = solve_dirichlet(a[None], f[None], boundary, location, face_mean)
        errors.append((solution[0] - u).abs().max().item())
    steps = [math.log(63 / 31), math.log(127 / 63)] if location == "node" else [math.log(2)] * 2
    orders = [math.log(p / q) / step for (p, q), step in zip(itertools.pairwise(errors), steps, strict=True)]
    assert all(1.9 < order < 2.1 for order in orders), orders


@pytest.mark.parametrize("location", LOCATIONS)
def test_layers_in_series_are_exact_where_the_jump_lies_on_a_face(location):
    """u piecewise linear with continuous flux across a jump at x = 1/2; arithmetic faces must be first order."""

    def error(n: int, face_mean: str) -> float:
        x, _ = Grid((n, n), location).coordinates  # n even: 1/2 lies midway between two points
        a = torch.where(x < 0.5, 1.0, 10.0).double()
        u = torch.where(x < 0.5, 10 * x, 4.5 + x) / 5.5
        solution, _ = solve_dirichlet(a[None], torch.zeros(1, n, n), u[None], location, face_mean, "direct")
        return (solution[0] - u).abs().max().item()

    assert error(32, "harmonic") < 1e-13
    coarse, fine = error(32, "arithmetic"), error(64, "arithmetic")
    assert coarse > 1e-3
    assert 0.8 < math.log2(coarse / fine) < 1.2


def test_a_fine_laminate_conducts_as_its_harmonic_mean_across_the_layers():
    """Layers of 1 and 10, half and half, 32 of them; a pressure drop of 1 drives 20/11 through each unit of section."""
    n = 128
    pde = Darcy(resolution=n, label_resolution=1, location="cell", forcing=0.0, boundary_values="linear")
    layer = (torch.arange(n) * 32 // n) % 2
    a = torch.where(layer == 0, 1.0, 10.0).double()[:, None].expand(n, n)[None, None]
    u = pde.solve(a)[0, 0]
    faces = 2 * a[0, 0, :-1] * a[0, 0, 1:] / (a[0, 0, :-1] + a[0, 0, 1:])
    flux = (faces * (u[:-1] - u[1:]) * n)[:, n // 2]
    assert abs(flux[48:80].mean().item() / (20 / 11) - 1) < 0.01


@pytest.mark.parametrize("location", LOCATIONS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_value_at_the_centre_of_the_unit_problem(solver, location):
    pde = Darcy(resolution=65, label_resolution=1, location=location, solver=solver)
    u = pde.solve(torch.ones(1, 1, 65, 65, dtype=torch.float64))
    assert abs(u[0, 0, 32, 32].item() - 0.0736713532) < 2e-5


@pytest.mark.parametrize("location", LOCATIONS)
def test_positive_symmetric_and_of_the_right_energy(location):
    n = 39
    a = two_phase(n, 1e3, location)
    solve = lambda a: solve_dirichlet(a, torch.ones_like(a), None, location, solver="multigrid", tolerance=1e-12)[0]  # noqa: E731
    u = solve(a)
    inner = u[:, 1:-1, 1:-1] if location == "node" else u
    assert (inner > 0).all()
    for move in (lambda v: v.flip(-1), lambda v: v.flip(-2), lambda v: v.transpose(-1, -2)):
        torch.testing.assert_close(solve(move(a)), move(u), rtol=0, atol=1e-10 * u.max().item())
    a = a[0]  # energy: sum over faces of a |difference|^2, walls included
    u, h = u[0], 1 / (n - 1) if location == "node" else 1 / n
    energy = 0.0
    for a_, u_ in ((a, u), (a.T, u.T)):
        if location == "node":
            a_, u_ = a_[:, 1:-1], u_[:, 1:-1]
        energy += (2 / (1 / a_[1:] + 1 / a_[:-1]) * (u_[1:] - u_[:-1]) ** 2).sum().item()
        if location == "cell":
            energy += (2 * a_[[0, -1]] * u_[[0, -1]] ** 2).sum().item()
    assert math.isclose(energy, inner.sum().item() * h**2, rel_tol=1e-8)


@pytest.mark.parametrize("contrast", [4.0, 100.0])
def test_sine_iterations_stay_below_the_bound_of_the_contrast(contrast):
    rate = (math.sqrt(contrast) + 1) / (math.sqrt(contrast) - 1)
    bound = math.ceil(math.log(2 / 1e-9) / math.log(rate)) + 2
    for location, n in itertools.product(LOCATIONS, (17, 64, 129)):
        a = two_phase(n, contrast, location)
        _, stats = solve_dirichlet(a, torch.ones_like(a), None, location, solver="sine")
        assert stats["iterations"].item() <= bound


@pytest.mark.parametrize("location", LOCATIONS)
def test_multigrid_iterations_grow_neither_with_the_grid_nor_with_the_contrast(location):
    counts = {}
    for contrast, n in itertools.product((10.0, 1e4, 1e8), (34, 67, 128, 257)):
        a = two_phase(n, contrast, location, seed=3)
        _, stats = solve_dirichlet(a, torch.ones_like(a), None, location, solver="multigrid")
        counts[contrast, n] = stats["iterations"].item()
    assert max(counts.values()) <= 25, counts
    assert counts[1e4, 257] <= counts[1e4, 34] + 8, counts  # specks of one point cost a little, the grid itself nothing
    for n in (67, 257):
        pde = Darcy(resolution=n, label_resolution=1, modes=24, location=location, values=(1.0, 1e4))
        _, stats = solve_dirichlet(*pde.sample(1).unbind(1), torch.ones(1, n, n), None, location, solver="multigrid")
        assert stats["iterations"].item() <= 14


@pytest.mark.parametrize(("n", "location"), [(19, "node"), (18, "cell"), (37, "cell")])
def test_a_cycle_is_symmetric_and_positive(n, location):
    """Conjugate gradients rest on it. Single precision: up to rounding."""
    operator, _ = discretise(two_phase(n, 1e3, location), location, "harmonic")
    m = operator.centre.shape[-1]
    assert m > BOTTOM
    cycle = VCycle(*operator.stencil(torch.float64))
    inverse = torch.zeros(m * m, m * m, dtype=torch.float64)
    for i in range(m * m):
        unit = torch.zeros(1, m * m, dtype=torch.float64)
        unit[0, i] = 1
        cycle(unit.view(1, m, m), inverse[i].view(1, m, m))
    scale = inverse.abs().max()
    assert (inverse - inverse.T).abs().max() < 1e-5 * scale
    assert torch.linalg.eigvalsh((inverse + inverse.T) / 2).min() > 0


def test_a_batch_gives_every_sample_what_it_gets_alone():
    """The way of GPUs, where samples of different contrast and so different solvers share a batch."""
    a = torch.cat([two_phase(34, c, seed=i) for i, c in enumerate((4.0, 1e4, 4.0, 1e6))])
    f = torch.randn(a.shape, dtype=torch.float64)
    together, stats = elliptic._solve(a, f, f, "node", "harmonic", "auto", 1e-9)
    assert stats["solver"].tolist() == [0, 1, 0, 1]
    alone, single = solve_dirichlet(a, f, f)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-11 * alone.abs().max().item())
    assert stats["iterations"].tolist() == single["iterations"].tolist()


def test_the_choice_of_solver():
    assert choose(1.0, 421) == choose(4.0, 85) == "sine"
    assert choose(4.0, 421) == choose(1e4, 33) == choose(4.0, 129, "cell") == "multigrid"


def test_a_solver_that_fails_is_replaced_or_reported(monkeypatch):
    a, f = two_phase(30, 1e4), torch.ones(1, 30, 30, dtype=torch.float64)
    reference, _ = solve_dirichlet(a, f, solver="direct")
    monkeypatch.setattr(VCycle, "__call__", lambda self, residual, out: out.copy_(residual))
    u, stats = solve_dirichlet(a, f)
    assert SOLVERS[stats["solver"].item()] == "direct"
    assert distance(u, reference) < 1e-12
    with pytest.raises(SolverError, match="multigrid solver did not reach tolerance 1e-09 in 60") as caught:
        solve_dirichlet(a, f, solver="multigrid")
    assert isinstance(caught.value, OpkitError) and isinstance(caught.value, ArithmeticError)


def test_a_contrast_beyond_double_precision_is_refused():
    f = torch.ones(1, 40, 40, dtype=torch.float64)
    u, stats = solve_dirichlet(two_phase(40, 1e12), f)
    assert (u[:, 1:-1, 1:-1] > 0).all() and stats["residual"].item() < 1e-2
    for contrast in (1e50, 1e300):
        with pytest.raises(SolverError, match="less contrast"):
            solve_dirichlet(two_phase(40, contrast), f)


def test_units_do_not_matter():
    """A coefficient of 1e30 and a source of 1e-30 are as good as any, single-precision cycles or not."""
    a, f = two_phase(40, 1e4), torch.ones(1, 40, 40, dtype=torch.float64)
    u, _ = solve_dirichlet(a, f)
    scaled, _ = solve_dirichlet(1e30 * a, 1e-30 * f)
    torch.testing.assert_close(scaled * 1e60, u, rtol=1e-9, atol=0)
    zero, stats = solve_dirichlet(a, 0 * f)
    assert (zero == 0).all() and stats["residual"].item() == 0


@pytest.mark.parametrize("law", ["threshold", "lognormal", "multiscale", "checkerboard"])
@pytest.mark.parametrize(("location", "coarse", "fine"), [("node", 17, 65), ("cell", 12, 36)])
def test_samples_of_every_law_are_the_same_functions_on_every_grid(law, location, coarse, fine):
    pde = Darcy(resolution=coarse, label_resolution=1, location=location, coefficient=law, modes=16, cells=4,
                source="random", boundary_values="random")  # fmt: skip
    a, b = pde.sample(3, seed=5, first=2), pde.on(fine).sample(3, seed=5, first=2)
    kept = pde.on(fine).grid.resample(b, pde.grid, "strided")
    torch.testing.assert_close(kept, a, rtol=0, atol=1e-9)
    assert (pde.sample(1, seed=5, first=4) == a[2:]).all()
    assert (pde.sample(3, seed=6, first=2) != a).flatten(2).any(2).all()


def test_checkerboards_are_fair_coins():
    pde = Darcy(
        resolution=24, label_resolution=1, location="cell", coefficient="checkerboard", cells=8, values=(1.0, 5.0)
    )
    a = pde.sample(200)[:, 0]
    squares = a.view(200, 8, 3, 8, 3)
    assert (squares == squares[:, :, :1, :, :1]).all()
    high = (squares[:, :, 0, :, 0] == 5).double()
    assert abs(high.mean().item() - 0.5) < 4 * 0.5 / math.sqrt(200 * 64)
    assert set(a.unique().tolist()) == {1.0, 5.0}
    neighbours = ((high[:, 1:] - 0.5) * (high[:, :-1] - 0.5)).mean().item() * 4
    assert abs(neighbours) < 4 / math.sqrt(200 * 56)


def test_the_multiscale_coefficient_at_points_known_by_hand():
    """All sines vanish on y = 3 x, all cosines are 1 on x + y = 0; between them every factor lies in [1/2, 3/2]."""
    pde = Darcy(resolution=13, label_resolution=1, coefficient="multiscale")
    a = pde.sample(200)[:, 0]
    assert torch.allclose(a[:, 0, 0], torch.tensor(1.5**6, dtype=torch.float64))
    assert a.max() <= 1.5**12 and a.min() >= 0.5**12
    # y = 3 x = 1/4: product of 1 + cos(c_k pi / 3) / 2, c_k uniform on [1, 3/2] 2^(k-1); its mean by quadrature.
    mean = 1.0
    for k in range(6):
        c = 2**k * (1 + (np.arange(20000) + 0.5) / 40000)
        mean *= (1 + np.cos(c * pi / 3) / 2).mean()
    line = a[:, 1, 3]
    assert abs(line.mean().item() - mean) < 4.5 * line.std().item() / math.sqrt(200)


def test_random_sources_and_boundary_values_are_inputs_of_the_stated_size():
    pde = Darcy(resolution=9, label_resolution=1, modes=40, source="random", forcing=2.0, source_tau=9.0,
                boundary_values="random", boundary_amplitude=0.5, boundary_tau=9.0)  # fmt: skip
    assert pde.inputs == ("a", "f", "g")
    assert Darcy(boundary_values="random").inputs == ("a", "g")
    assert pde.fields == ("a", "f", "g", "u")
    values = pde.sample(400)[:, 1:, 4, 4]  # the centre: walls are nine correlation lengths away
    for column, std in zip(values.T, (2.0, 0.5), strict=True):
        assert abs(column.std().item() / std - 1) < 0.15  # a factor of sqrt(2) is twice that and more
    assert abs(np.corrcoef(values.T.numpy())[0, 1]) < 0.2


@pytest.mark.parametrize("location", LOCATIONS)
def test_solutions_are_linear_in_source_and_boundary_values(location):
    pde = Darcy(resolution=25, label_resolution=1, modes=16, location=location, tolerance=1e-12,
                source="random", boundary_values="random")  # fmt: skip
    inputs = pde.sample(2)
    parts = []
    for kept in (1, 2):
        part = inputs.clone()
        part[:, 3 - kept] = 0
        parts.append(pde.solve(part))
    u = pde.solve(inputs)
    torch.testing.assert_close(parts[0] + parts[1], u, rtol=0, atol=1e-10)
    if location == "node":
        wall = torch.ones(25, 25, dtype=torch.bool)
        wall[1:-1, 1:-1] = False
        assert (u[:, 0, wall] == inputs[:, 2, wall]).all()


def test_a_sine_source_is_known_exactly_for_constant_a():
    """-Laplacian u = sin(2 pi x) sin(2 pi y), u = f / (8 pi^2); the five-point sum changes 8 pi^2 in a known way."""
    pde = Darcy(resolution=41, label_resolution=1, source="sine", source_wavenumber=2)
    u = pde.solve(torch.ones(1, 1, 41, 41, dtype=torch.float64))
    x, y = pde.grid.coordinates
    eigenvalue = 2 * (2 * 40 * math.sin(2 * pi / 80)) ** 2
    torch.testing.assert_close(u[0, 0], torch.sin(2 * pi * x) * torch.sin(2 * pi * y) / eigenvalue, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(source="sine"),
        dict(source="sine", source_wavenumber=2),
        dict(boundary_values="linear"),
        dict(source="random", boundary_values="random"),
        dict(coefficient="checkerboard", cells=3, location="cell"),
    ],
)
def test_the_symmetries_promised_are_those_of_the_equation(arguments):
    pde = Darcy(resolution=21, label_resolution=1, modes=10, tolerance=1e-12, **arguments)
    inputs = pde.sample(1)
    u = pde.solve(inputs)
    moves = (lambda v: v.flip(-2), lambda v: v.flip(-1), lambda v: v.transpose(-1, -2))
    holds = all(torch.allclose(pde.solve(move(inputs)), move(u), rtol=0, atol=1e-9) for move in moves)
    assert holds == (pde.symmetries == 3)


def test_labels_on_cells_are_solved_on_an_odd_refinement_and_picked_at_the_centres():
    pde = Darcy(resolution=9, label_resolution=20, location="cell", modes=16)
    assert pde.label_grid.shape == (27, 27)
    assert pde.refined().label_grid.shape == (81, 81)
    labels = pde.label(1, 0, first_index("test"))
    fine = pde.on(27)
    expected = fine.solve(fine.sample(1, 0, first_index("test")))[0, 0, 1::3, 1::3]
    assert (labels.fields["u"][0] == expected).all()
    assert (labels.fields["a"] == pde.sample(1, 0, first_index("test"))[:, 0]).all()
    assert set(labels.diagnostics) == {"residual", "iterations", "solver"}


@pytest.mark.parametrize(("law", "least"), [("threshold", 0.7), ("lognormal", 1.7)])
def test_one_problem_on_three_grids(law, least):
    """The same samples at 106, 211 and 421 nodes: distances fall at the order of the law, or faster."""
    problems = [Darcy(resolution=n, label_resolution=1, modes=105, coefficient=law) for n in (106, 211, 421)]
    u = [p.solve(p.sample(3, seed=1)) for p in problems]
    near = distance(u[2][..., ::2, ::2], u[1])
    far = distance(u[1][..., ::2, ::2], u[0])
    assert far < (1e-2 if law == "threshold" else 2e-4)
    assert math.log2(far / near) > least


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(cells=0), "cells must be at least 1"),
        (dict(source_alpha=1.0), "source_alpha must exceed 1"),
        (dict(boundary_tau=0.0), "boundary_tau"),
        (dict(forcing=0.0), "boundary_values"),
        (dict(forcing=0.0, boundary_values="linear", source="random"), "source=constant"),
        (dict(boundary_amplitude=math.nan), "boundary_amplitude must be finite"),
    ],
)
def test_impossible_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Darcy(**arguments)


def test_unknown_names_are_refused_where_no_checker_of_types_is_at_work():
    pde = Darcy()
    object.__setattr__(pde, "solver", "lu")
    with pytest.raises(ValueError, match="solver is one of auto, sine, multigrid, direct, got 'lu'"):
        pde.__post_init__()


@pytest.mark.parametrize("location", ["node", "cell"])
def test_a_solution_lets_out_what_its_source_gives(location):
    """On its own grid to the solver's tolerance; an error of a quarter of u is one of a quarter of the outflow."""
    pde = Darcy(resolution=33, label_resolution=33, modes=8, location=location)
    a = pde.sample(3)
    u = pde.solve(a)
    found = pde.checks(a, u)
    assert found["imbalance"].max() < 1e-8 and found["residual"].max() < 1e-8 and found["below zero"].max() == 0
    wrong = pde.checks(a, 1.25 * u)
    torch.testing.assert_close(wrong["imbalance"], torch.full((3,), 0.25, dtype=torch.float64), rtol=1e-7, atol=0)
    lower = u - 0.1 * u.amax((1, 2, 3), keepdim=True)  # 0.1 below zero at the walls, its largest value 0.9
    below = pde.checks(a, lower)["below zero"]
    assert (below > 0.07).all() and (below < 0.12).all()
    assert "below zero" not in Darcy(resolution=9, label_resolution=9, modes=4, boundary_values="linear").checks(
        *(torch.ones(1, 1, 9, 9),) * 2
    )


def test_a_kept_fine_solution_balances_to_second_order():
    """u = sin(pi x) sin(pi y) with a = 1 and f = 2 pi^2 u: the five-point imbalance falls by four per refinement."""
    found = []
    for n in (17, 33, 65):
        pde = Darcy(resolution=n, label_resolution=n, modes=4, source="sine", forcing=2 * math.pi**2)
        x, y = pde.grid.coordinates
        u = (torch.sin(math.pi * x) * torch.sin(math.pi * y))[None, None]
        found.append(pde.checks(torch.ones_like(u), u)["imbalance"].item())
    assert found[0] / found[1] == pytest.approx(4, rel=0.1) and found[1] / found[2] == pytest.approx(4, rel=0.1)

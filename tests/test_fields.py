import math

import numpy as np
import pytest
import torch
from scipy import stats

from opkit.fields import GRF, SPLIT_STRIDE, first_index, normals
from opkit.grid import Grid
from opkit.pdes import NavierStokes

LAWS = [
    GRF(1, "periodic", 2.0, 5.0, sigma=25.0, modes=40, mean="drop"),
    GRF(1, "dirichlet", 1.5, 2.0, modes=30),
    GRF(2, "neumann", 2.0, 3.0, modes=12),
    GRF(2, "periodic", 2.5, 7.0, sigma=7**1.5, modes=10, mean="drop"),
    GRF(2, "dirichlet", 2.0, 3.0, modes=10),
    GRF(3, "periodic", 2.5, 4.0, modes=4, mean="drop"),
    GRF(3, "neumann", 2.5, 4.0, modes=4),
]
LOCATION = {"periodic": "periodic", "neumann": "node", "dirichlet": "node"}


def eigenvalue(law: GRF, wavenumbers) -> float:
    step = math.pi * (2 if law.boundary == "periodic" else 1) / law.length
    return sum((step * k) ** 2 for k in wavenumbers)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: f"{law.ndim}d-{law.boundary}")
def test_pointwise_variance_is_that_of_the_series(law):
    """Against a direct sum over eigenfunctions, and against samples; a factor sqrt(2) would be ten of these sigmas."""
    grid = Grid((9,) * law.ndim, LOCATION[law.boundary], law.length)
    point = (2,) * law.ndim
    x = [grid.axis(i)[2].item() for i in range(law.ndim)]

    def squares(k: int, position: float) -> float:  # of all eigenfunctions of wavenumber k on one axis
        if law.boundary == "periodic":
            return 1.0 if k == 0 else 2.0  # cos^2 + sin^2
        if k == 0:
            return 1.0 if law.boundary == "neumann" else 0.0
        wave = math.cos if law.boundary == "neumann" else math.sin
        return 2 * wave(math.pi * k * position) ** 2

    exact = 0.0
    for k in np.ndindex(*(law.modes + 1,) * law.ndim):
        if law.mean == "drop" and not any(k):
            continue
        weight = math.prod(squares(j, p) for j, p in zip(k, x, strict=True))
        exact += weight * law.sigma**2 * (eigenvalue(law, k) + law.tau**2) ** -law.alpha
    assert math.isclose(law.variance(grid)[point].item(), exact, rel_tol=1e-12)

    n = 400
    values = law.sample(grid, n, seed=1)[(slice(None), *point)]
    assert abs(values.pow(2).mean().item() / exact - 1) < 4.5 * math.sqrt(2 / n)


@pytest.mark.parametrize(
    ("law", "std"),
    [
        (GRF(2, "periodic", 2.5, 7.0, sigma=7**1.5, modes=64, mean="drop"), 0.1852),  # Navier-Stokes, code of 2022
        (GRF(2, "periodic", 2.5, 7.0, sigma=math.sqrt(2) * 7**1.5, modes=64, mean="drop"), 0.2620),  # code of 2020
        (GRF(2, "periodic", 2.5, 7.0, sigma=7**0.75, modes=64, mean="drop"), 0.04304),  # the paper's text
        (GRF(1, "periodic", 2.0, 5.0, sigma=25.0, modes=512, mean="drop"), 0.5936),  # Burgers on (0, 1)
        (GRF(1, "periodic", 2.0, 5.0, sigma=25.0, modes=512, mean="drop", length=2 * math.pi), 1.0444),
    ],
)
def test_published_standard_deviations(law, std):
    grid = Grid((4,) * law.ndim, "periodic", law.length)
    assert math.isclose(law.variance(grid).flatten()[0].sqrt().item(), std, rel_tol=4e-4)


@pytest.mark.parametrize("boundary", ["neumann", "dirichlet", "periodic"])
def test_coefficients_are_orthonormal_projections(boundary):
    """Draw coefficients, evaluate, project back by quadrature: the basis is L2-orthonormal on the box."""
    law = GRF(1, boundary, 2.0, 3.0, modes=5, length=2.0)
    coefficients = law.coefficients(0, 0)
    grid = Grid((64,), {"periodic": "periodic"}.get(boundary, "cell"), 2.0)
    field = law.evaluate(coefficients, grid)
    assert math.isclose((field**2 * grid.weights).sum().item(), (coefficients**2).sum().item(), rel_tol=1e-12)


def test_coefficients_are_independent_normals():
    law = GRF(2, "neumann", 2.0, 3.0, modes=3)
    draws = torch.stack([law.coefficients(0, i).flatten() for i in range(500)]) / law._std.flatten()
    for column in draws.T[:6]:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-4
    correlation = np.corrcoef(draws.numpy().T) - np.eye(draws.shape[1])
    assert np.abs(correlation).max() < 4.5 / math.sqrt(500)


def test_a_sample_is_the_same_function_on_every_grid():
    law = GRF(2, "neumann", 2.0, 3.0, modes=30)
    fine = Grid((41, 41))
    on_fine, on_coarse = law.sample(fine, 2, seed=3), law.sample(Grid((11, 11)), 2, seed=3)
    assert on_coarse.std() > 0.01
    torch.testing.assert_close(on_fine[:, ::4, ::4], on_coarse, rtol=0, atol=1e-14)


def test_more_modes_leave_the_coarse_ones_alone():
    for boundary, few in (("neumann", (5, 5)), ("periodic", (9, 9)), ("dirichlet", (4, 4))):
        small, large = (GRF(2, boundary, 2.0, 3.0, modes=m).coefficients(7, 2) for m in (4, 9))
        torch.testing.assert_close(large[: few[0], : few[1]], small, rtol=0, atol=0)


def test_a_sample_depends_on_seed_and_index_alone():
    law = GRF(2, "neumann", 2.0, 3.0, modes=8)
    grid = Grid((5, 5))
    torch.testing.assert_close(law.sample(grid, 4, seed=1)[2:], law.sample(grid, 2, seed=1, first=2), rtol=0, atol=0)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    again = law.sample(grid, 4, seed=1)
    torch.testing.assert_close(again, law.sample(grid, 4, seed=1), rtol=0, atol=0)
    for other in (law.sample(grid, 4, seed=2), law.sample(grid, 4, seed=1, first=4)):
        assert not torch.isclose(other, again).any()


def test_streams_and_splits_do_not_overlap():
    assert [first_index(s) for s in ("train", "val", "test")] == [0, SPLIT_STRIDE, 2 * SPLIT_STRIDE]
    draws = [normals(*key, 8) for key in (("darcy", 0, 0), ("burgers", 0, 0), ("darcy", 1, 0), ("darcy", 0, 2**32))]
    for i, a in enumerate(draws):
        assert all(not np.isclose(a, b).any() for b in draws[i + 1 :])


def test_golden_draws():
    """Data made today must be reproducible for ever: these numbers may never change."""
    expected = [
        [-0.9365600801038433, 1.382112894747338, -0.30285986104518253, 0.09760216362049583],
        [-0.5399747284433637, -0.13118197340638743, 0.386783271340725, 0.6178436984242326],
    ]
    np.testing.assert_array_equal(normals("darcy", 0, 0, 4), expected[0])
    np.testing.assert_array_equal(normals("darcy", 3, first_index("test") + 17, 4), expected[1])


def test_dropped_means_are_zero_and_kept_ones_are_not():
    grid = Grid((16, 16), "periodic")
    law = GRF(2, "periodic", 2.0, 3.0, modes=4, mean="drop")
    assert law.sample(grid, 3).mean((1, 2)).abs().max() < 1e-15
    kept = GRF(2, "periodic", 2.0, 3.0, modes=4)
    assert kept.sample(grid, 3).mean((1, 2)).abs().min() > 1e-4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(alpha=1.0), "infinite variance"),
        (dict(modes=0), "modes"),
        (dict(tau=0.0), "mean='drop'"),
    ],
)
def test_impossible_laws_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GRF(**{**dict(ndim=2, boundary="neumann", alpha=2.0, tau=3.0), **arguments})


def test_negative_seeds_are_refused():
    with pytest.raises(ValueError, match="seed"):
        normals("darcy", -1, 0, 1)


def test_sums_by_fft_and_by_matrix_product_are_the_same(monkeypatch):
    """Two ways to sum one series; the second is tested above against its orthonormal basis."""
    for law, grid in (
        (GRF(1, "periodic", 2.0, 5.0, modes=20, mean="keep", length=2.0), Grid((51,), "periodic", 2.0)),
        (GRF(2, "periodic", 2.5, 7.0, modes=6), Grid((16, 21), "periodic")),
    ):
        coefficients = law.coefficients(3, 1)
        by_product = law.evaluate(coefficients, grid)
        with monkeypatch.context() as patch:
            patch.setattr("opkit.fields.FFT_FROM", 0)
            by_fft = law.evaluate(coefficients, grid)
        assert not torch.equal(by_fft, by_product), "the same way was taken twice"
        torch.testing.assert_close(by_fft, by_product, rtol=0, atol=1e-14)


def test_the_spectrum_of_initial_vorticities_is_the_stated_one_and_isotropic():
    """Mean energy of every shell of 300 samples by FFT, against 7^3 / (4 pi^2 k^2 + 49)^2.5 summed by hand; chi-square
    bounds of 4.5 deviations. A factor sqrt(2) in the amplitude is a factor two here."""
    n, count = 16, 300
    samples = NavierStokes(resolution=n, modes=7, initial="code2022").sample(count, seed=2)[:, 0]
    energy = torch.fft.fft2(samples, norm="forward").abs().square()
    k = torch.fft.fftfreq(n, 1 / n, dtype=torch.float64)
    square = k[:, None] ** 2 + k**2
    exact = 7.0**3 / (4 * math.pi**2 * square + 49) ** 2.5
    inside = (k.abs() <= 7)[:, None] & (k.abs() <= 7) & (square > 0)
    for shell in range(1, 8):
        mask = inside & (square.sqrt().round() == shell)
        waves = int(mask.sum()) / 2  # a wave and its negative are one complex draw: two normals
        bound = 4.5 * math.sqrt(1 / (count * waves)) * 1.5  # weights differ within a shell
        assert abs(float(energy[:, mask].sum(1).mean() / exact[mask].sum()) - 1) < bound
    along_x, along_y = (
        energy[:, (s & inside)].sum(1) for s in (k[:, None].abs() > k.abs(), k[:, None].abs() < k.abs())
    )
    difference = along_x - along_y
    assert abs(float(difference.mean())) < 4.5 * float(difference.std()) / math.sqrt(count)

"""Problems outside the training distribution: what they are, and what is measured there."""

import dataclasses
import math

import pytest
import torch
from test_rollout import Solver, surrogate_of

from opkit import registry
from opkit.evaluation.records import Records
from opkit.evaluation.shift import all_shifts, measure_shifts, shift_record
from opkit.pdes import Burgers, Darcy, NavierStokes
from opkit.settings import Data, Evaluation

WEAK = Burgers(
    resolution=48, label_resolution=48, modes=12, times=(0, 0.1, 0.2), viscosity=0.2, tail=1.0, sigma=1e-9, dt=0.02
)
DATA = Data(train=4, val=2, test=6)
MAKE = Records(Evaluation(resamples=200))


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize("name", registry.names("pde"))
def test_every_problem_knows_some_and_each_is_as_large_as_it_says(name):
    content = registry.read("pde", name).get("pde", {})
    pde = registry.pde_class(name)(**registry.tuples(content))
    found = all_shifts(pde)
    kinds = {s.what for s in found}
    assert kinds >= (
        {"correlation length"} if getattr(pde, "coefficient", "") not in ("multiscale", "checkerboard") else set()
    )
    assert found or getattr(pde, "coefficient", "") == "multiscale"
    for shift in found:
        assert shift.factor > 0 and shift.factor != 1 and shift.problem != pde
        assert shift.problem.inputs == pde.inputs
    small = {"resolution": 32, "label_resolution": 32, "modes": 15}
    if isinstance(pde, Burgers | NavierStokes):
        here = dataclasses.replace(pde, **small)
        size = here.sample(16)[:, 0].square().mean().sqrt()
        for shift in here.shifts():
            if shift.problem.resolution == 32:
                other = shift.problem.sample(16)[:, 0].square().mean().sqrt()
                wanted = shift.factor if shift.what == "initial amplitude" else 1.0
                assert float(other / size) == pytest.approx(wanted, rel=0.25), shift.what


def test_longer_waves_have_less_of_the_short_ones():
    pde = NavierStokes(resolution=32, label_resolution=32, modes=15)
    spectra = {
        s.factor: torch.fft.fft2(s.problem.sample(8)).abs().mean((0, 1)) for s in pde.shifts() if "length" in s.what
    }
    share = {f: float(v[8:16].square().sum() / v.square().sum()) for f, v in spectra.items()}
    assert share[2.0] < share[0.5] / 3


def test_the_coarser_grid_is_among_the_points():
    assert [s.problem.resolution for s in all_shifts(Darcy(resolution=85)) if s.what == "resolution"] == [43]
    assert not [s for s in all_shifts(Darcy(resolution=84, label_resolution=84)) if s.what == "resolution"]


def test_another_viscosity_is_an_error_worked_out_by_hand(one_thread):
    """The exact step for viscosity 0.2 on fields that only diffuse, asked for 0.4: each wave off by its own factor."""
    found = measure_shifts(surrogate_of(Solver(WEAK), WEAK), WEAK, DATA, torch.full((6,), 1e-3).double(), 6, 1)
    twice = next(s for s in found if (s.shift.what, s.shift.factor) == ("viscosity", 2.0))
    waves = torch.fft.rfft(WEAK.sample(6, 0, 2 * 2**32)[:, 0])
    k, t = torch.arange(25).double(), torch.tensor([0.1, 0.2]).double()[:, None]
    weight = torch.full((25,), 2.0).double()
    slow, fast = (torch.exp(-nu * k**2 * t) for nu in (0.2, 0.4))
    power = waves.abs().square()[:, None] * weight
    expected = (power * (slow - fast) ** 2).sum((1, 2)).sqrt() / (power * fast**2).sum((1, 2)).sqrt()
    torch.testing.assert_close(twice.errors, expected, rtol=1e-4, atol=0)
    for shift in found:
        if shift.shift.what in ("initial amplitude", "correlation length"):
            assert shift.errors.max() < 1e-5  # the solver holds there
    record = shift_record(MAKE, found)
    assert record["verdict"] == "does not hold" and "viscosity times 2" in record["text"]
    row = next(r for r in record["rows"] if (r["what"], r["factor"]) == ("viscosity", 2.0))
    assert row["distance"] == 1.0 and row["ratio"] == pytest.approx(float(expected.mean()) / 1e-3, rel=1e-3)


def test_what_cannot_be_solved_is_said(one_thread):
    """Half the viscosity leaves a grid of 48 points too coarse: its data are refused, twice as much is measured."""
    hard = dataclasses.replace(WEAK, sigma=5.0, tail=1e-3)
    model = surrogate_of(Solver(dataclasses.replace(hard, unresolved="accept")), hard)
    found = measure_shifts(model, hard, DATA, torch.full((6,), 1e-3).double(), 2, 1)
    refused = [s for s in found if s.errors is None]
    assert refused and all(s.reason for s in refused)
    assert any(s.errors is not None for s in found)
    record = shift_record(MAKE, found)
    assert all(r["reason"] for r in record["rows"] if r["rel_l2"] is None)


def test_what_holds_everywhere_is_said_to():
    ones = torch.full((6,), 1.0).double()
    found = measure_shifts(surrogate_of(Solver(WEAK), WEAK), WEAK, DATA, ones, 6, 1)
    record = shift_record(MAKE, [s for s in found if s.shift.what != "viscosity"])
    assert record["verdict"] == "holds" and math.isclose(record["rows"][0]["unchanged"]["value"], 1.0)


@pytest.mark.parametrize(("cells", "factors"), [(1, [2.0]), (3, [2 / 3, 2.0]), (5, [2 / 5, 2.0]), (4, [0.5, 2.0])])
def test_a_factor_of_cells_is_what_it_says(cells, factors):
    pde = Darcy(resolution=61, label_resolution=61, coefficient="checkerboard", cells=cells)
    found = {s.factor: s.problem.cells for s in pde.shifts() if s.what == "cells per side"}
    assert found == {f: pytest.approx(f * cells) for f in factors}


def test_a_grid_too_coarse_for_the_equation_is_no_shift():
    assert not [s for s in all_shifts(Darcy(resolution=5, label_resolution=9)) if s.what == "resolution"]


def test_no_word_of_holding_where_the_unchanged_error_is_unknown():
    found = measure_shifts(surrogate_of(Solver(WEAK), WEAK), WEAK, DATA, torch.full((6,), math.inf).double(), 6, 1)
    record = shift_record(MAKE, found)
    assert record["verdict"] == "not measured" and "not finite for 6 of 6" in record["text"]

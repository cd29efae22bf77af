"""The evaluator on models whose answers are known: the exact solver, interpolation, noise."""

import csv
import dataclasses
import html.parser
import json
import math
import re

import numpy as np
import pytest
import torch

from opkit.errors import ConfigError, GateError
from opkit.evaluation import check_gate, fine_resolutions, parse_gate, protocol
from opkit.evaluation.protocol import bands_of, measure
from opkit.evaluation.records import Records
from opkit.evaluation.statistics import Estimate, gain_with_interval, mean_with_interval
from opkit.evaluation.verdicts import (
    accuracy_text,
    balance_text,
    gain,
    is_useless,
    label_verdict,
    percent,
    resolution_text,
    super_resolution,
)
from opkit.grid import Grid
from opkit.models import FNO
from opkit.pdes import Darcy
from opkit.settings import Data, Evaluation

PDE = Darcy(resolution=13, label_resolution=49, modes=24, coefficient="lognormal")
DATA = Data(train=8, val=2, test=8, test_fine=8)
SETTINGS = Evaluation(resolutions=(25, 49), resamples=200)
gains = Records(SETTINGS).gains


@pytest.fixture(scope="module")
def shared_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPKIT_DATA", str(root))
        yield root


def solver(a: torch.Tensor) -> torch.Tensor:
    return PDE.on(a.shape[-1]).solve(a).float()


def interpolator(a: torch.Tensor) -> torch.Tensor:
    """Solves on the training grid whatever it is given, and interpolates."""
    grid = PDE.on(a.shape[-1]).grid
    coarse = solver(grid.resample(a, PDE.grid, "strided"))
    return PDE.grid.resample(coarse.double(), grid, "cubic")


def test_the_exact_solver_is_exact_where_labels_were_solved(shared_data):
    finest = measure(solver, PDE, DATA, SETTINGS, workers=1).fine[-1]
    assert finest.resolution == 49
    assert finest.errors["surrogate"]["rel_l2"].max() < 1e-6
    found = gains(finest)
    assert found["unresolved gain"].value > 1 - 1e-6
    assert found["gain"].value > 0.99


def test_a_factor_is_its_own_error_in_every_relative_norm_and_changes_no_phase(shared_data):
    """1.25 times the label: a quarter in the energy norm and the dual norm, an amplitude of 1.25 in every band."""
    known = {}

    def scaled(a: torch.Tensor) -> torch.Tensor:
        return 1.25 * known["truth"][: len(a)] if a.shape[-1] == 13 else solver(a)

    known["truth"] = measure(solver, PDE, DATA, SETTINGS, workers=1).truth
    coarse = measure(scaled, PDE, DATA, SETTINGS, workers=1).coarse
    for name in ("rel_energy", "rel_hminus1"):
        torch.testing.assert_close(coarse.errors["surrogate"][name], torch.full((8,), 0.25).double(), rtol=1e-5, atol=0)
    assert "srmse" not in coarse.errors["surrogate"]
    assert [b.name for b in coarse.bands] == ["low", "mid", "high", "1/8 to 1/4", "1/4 to 1/2", "above 1/2"]
    for band in coarse.bands:
        for name, expected in (("band_rel", 0.25), ("band_amplitude", 1.25), ("phase_error", 0.0)):
            found = band.figures[name]
            torch.testing.assert_close(found, torch.full_like(found, expected), rtol=0, atol=1e-4)
        torch.testing.assert_close(
            band.figures["band_error"], 0.25 * band.figures["share"].sqrt(), rtol=1e-3, atol=1e-9
        )
    for kind in ("shells", "nyquist"):
        whole = sum(b.figures["share"] for b in coarse.bands if b.kind == kind)
        torch.testing.assert_close(whole, torch.ones_like(whole), rtol=1e-9, atol=0)


def test_bands_of_a_model_are_the_waves_its_layers_act_on():
    """FNO with 8 x 6 modes: |k_x| <= 4, |k_y| <= 3. cos 4x is inside, cos 4y above; predicted without it."""
    grid = Grid((16, 16), "periodic", 2 * math.pi)
    x, y = grid.coordinates
    model = FNO(1, 1, n_modes=(8, 6), width=2, location="periodic")
    truth = (torch.cos(4 * x) + 2 * torch.cos(4 * y))[None, None]
    prediction = (0.9 * torch.cos(4 * x) + 1e-14 * torch.sin(4 * y))[None, None]
    bands = {b.name: b for b in bands_of(prediction, truth, grid, model.highest_waves) if b.kind == "model"}
    assert bands["modes"].waves == "|k_x| <= 4, |k_y| <= 3"
    found = {n: {k: v.item() for k, v in b.figures.items()} for n, b in bands.items()}
    assert found["modes"] == pytest.approx(
        {"share": 0.2, "band_error": 0.1 / math.sqrt(5), "band_rel": 0.1, "band_amplitude": 0.9, "phase_error": 0},
        abs=1e-12,
    )
    assert found["above"] == pytest.approx(
        {"share": 0.8, "band_error": 2 / math.sqrt(5), "band_rel": 1, "band_amplitude": 0, "phase_error": 1}, abs=1e-12
    )
    assert FNO(1, 1, n_modes=(8, 6), width=2).highest_waves is None  # between walls waves are not those of the grid
    assert FNO(1, 1, n_modes=(8, 6), width=2, location="periodic", padding=0.25).highest_waves is None


def test_the_coarse_solver_is_a_baseline_on_every_grid(shared_data):
    """The same solver as surrogate and as baseline: the same errors, and interpolated the same gain of nothing."""
    measured = measure(solver, PDE, DATA, SETTINGS, workers=1)
    own, baseline = (measured.coarse.errors[model]["rel_l2"] for model in ("surrogate", "solver"))
    torch.testing.assert_close(own, baseline, rtol=0, atol=2e-3)  # it may use the looser tolerance of 1e-3
    assert baseline.min() > 1e-3  # labels come from a finer grid
    for grids in measured.fine:
        theirs, free = (grids.errors[model]["rel_l2"] for model in ("solver", "interpolation"))
        torch.testing.assert_close(theirs, free, rtol=0, atol=2e-3)


def test_interpolation_as_model_gains_exactly_nothing(shared_data):
    for grids in measure(interpolator, PDE, DATA, SETTINGS, workers=1).fine:
        assert abs(gains(grids)["gain"].value) < 1e-12
        for name in ("rel_l2", "rel_h1", "max_error"):
            own, free = (grids.errors[model][name] for model in ("surrogate", "interpolation"))
            torch.testing.assert_close(own, free, rtol=1e-12, atol=0)


def test_fine_noise_is_an_error_of_unresolved_scales_alone(shared_data):
    def noisy(a: torch.Tensor) -> torch.Tensor:
        u, n = solver(a), a.shape[-1]
        if n == PDE.resolution:
            return u
        x = torch.linspace(0, 1, n, dtype=torch.float64)
        wave = torch.sin(20 * math.pi * x)  # beyond the 11 interior nodes of the training grid
        return u + 0.01 * wave[:, None] * wave

    finest = measure(noisy, PDE, DATA, SETTINGS, workers=1).fine[-1]
    assert finest.scales["surrogate resolved"].max() < 1e-6
    torch.testing.assert_close(
        finest.scales["surrogate unresolved"], finest.errors["surrogate"]["rel_l2"], rtol=1e-6, atol=0
    )
    assert gains(finest)["unresolved gain"].value < -10


def test_scales_and_walls_sum_to_the_error(shared_data):
    def offset(a: torch.Tensor) -> torch.Tensor:
        return solver(a) + 0.01  # wrong on the walls too

    for grids in measure(offset, PDE, DATA, SETTINGS, workers=1).fine:
        parts = [grids.scales[f"surrogate {part}"] ** 2 for part in ("resolved", "unresolved", "wall")]
        torch.testing.assert_close(sum(parts), grids.errors["surrogate"]["rel_l2"] ** 2, rtol=1e-9, atol=0)
        assert parts[2].min() > 0


def test_results_do_not_depend_on_the_batch(shared_data, monkeypatch):
    whole = measure(solver, PDE, DATA, SETTINGS, workers=1)
    monkeypatch.setattr("opkit.evaluation.protocol.POINTS_PER_CALL", 1)
    single = measure(solver, PDE, DATA, SETTINGS, workers=1)
    for a, b in zip([whole.coarse, *whole.fine], [single.coarse, *single.fine], strict=True):
        assert (a.errors["surrogate"]["rel_l2"] == b.errors["surrogate"]["rel_l2"]).all()


def test_finer_grids_by_default():
    none = Evaluation()
    assert fine_resolutions(Darcy(resolution=85), none) == (141, 211, 421)
    assert fine_resolutions(Darcy(resolution=141), none) == (211, 421)
    assert fine_resolutions(Darcy(resolution=211), none) == (421, 841)
    assert fine_resolutions(Darcy(resolution=43, label_resolution=169), none) == (57, 85, 169)
    with pytest.raises(ConfigError, match="64 is not finer"):
        fine_resolutions(Darcy(resolution=85), Evaluation(resolutions=(64, 100)))


def test_a_grid_that_no_label_grid_contains_is_solved_natively(shared_data):
    measured = measure(solver, PDE, Data(train=8, val=2, test=2, test_fine=2), Evaluation(resolutions=(20, 49)), 1)
    assert [g.resolution for g in measured.fine] == [20, 49]
    assert measured.fine[0].errors["surrogate"]["rel_l2"].max() < 0.05


def test_bca_interval_agrees_with_normal_theory_on_normal_data():
    values = np.random.default_rng(0).normal(5, 2, 400)
    estimate = mean_with_interval(values, 4000, seed=0)
    half = 1.96 * values.std(ddof=1) / 20
    assert math.isclose(estimate.value, values.mean())
    assert abs(estimate.ci_low - (values.mean() - half)) < 0.03
    assert abs(estimate.ci_high - (values.mean() + half)) < 0.03
    assert mean_with_interval(values, 4000, seed=0) == estimate


@pytest.mark.slow
def test_intervals_cover_the_true_mean():
    rng = np.random.default_rng(1)
    hits = 0
    for i in range(500):
        estimate = mean_with_interval(rng.exponential(1.0, 60), 1000, seed=i)
        hits += estimate.ci_low <= 1.0 <= estimate.ci_high
    assert 0.91 <= hits / 500 <= 0.98


def test_what_has_no_mean_or_no_interval_says_why():
    assert mean_with_interval(np.array([1.0, np.inf, 1.0]), 200, 0) == Estimate(
        None, None, None, 3, median=1.0, reason="not finite for 1 of 3 samples"
    )
    nothing = mean_with_interval(np.full(3, np.nan), 200, 0)
    assert nothing == Estimate(None, None, None, 0, reason="undefined for 3 of 3 samples", n_degenerate=3)
    assert mean_with_interval(np.array([3.0]), 200, 0).reason == "one sample has no interval"
    assert mean_with_interval(np.array([3.0, 3.0]), 200, 0).reason == "all samples agree"


def test_samples_without_a_figure_are_left_out_and_counted():
    """Beside what failed, which is not: its mean is undefined, and no average hides that."""
    rng = np.random.default_rng(0)
    some, others = rng.uniform(1, 2, 20), rng.uniform(1, 2, 20)
    gap = np.insert(some, 3, np.nan)
    found = mean_with_interval(gap, 500, 0)
    assert found == dataclasses.replace(mean_with_interval(some, 500, 0), n_degenerate=1) and found.n == 20
    assert mean_with_interval(np.append(gap, np.inf), 500, 0).value is None
    gain = gain_with_interval(gap, np.insert(others, 3, np.nan), 500, 0)
    assert gain == dataclasses.replace(gain_with_interval(some, others, 500, 0), n_degenerate=1)


def test_a_truth_that_is_round_off_counts_in_no_relative_error(shared_data, monkeypatch):
    """One label of eight is 1e-14 of its size, one prediction is not finite: the first has no relative error on any
    grid and in no table, the second an infinite one."""
    real = protocol.pair

    def faded(*given):
        inputs, truth = real(*given)
        if len(truth) == 8 and truth.shape[-1] in (13, 49):
            truth = truth.clone()
            truth[3] *= 1e-14
        return inputs, truth

    def failing(a: torch.Tensor) -> torch.Tensor:
        u = solver(a)
        if len(a) == 8:
            u[5, 0, 6, 6] = torch.nan
        return u

    monkeypatch.setattr(protocol, "pair", faded)
    for model in (solver, failing):
        data = dataclasses.replace(DATA, train=7)
        measured = measure(model, PDE, data, SETTINGS, workers=1)
        errors = measured.coarse.errors["surrogate"]
        for name in ("rel_l2", "rel_h1", "rel_hminus1", "rel_energy", "nrmse", "vrmse", "rel_linf"):
            assert errors[name].isnan().tolist() == [i == 3 for i in range(8)], name
        assert not any(errors[name].isnan().any() for name in ("max_error", "rmse_low"))
        assert errors["rel_l2"].isinf().tolist() == [model is failing and i == 5 for i in range(8)]
        assert all(s.index != 3 for s in measured.samples) and measured.coarse.scales["resolved"][3].isnan()
        found = Records(SETTINGS).metric("rel_l2", errors["rel_l2"], "surrogate", 13, None)
        assert (found["n"], found["n_degenerate"], found["value"] is None) == (7, 1, model is failing)
        finest = measured.fine[-1]
        assert finest.errors["surrogate"]["rel_l2"][3].isnan() and gains(finest)["gain"].n_degenerate == 1


def test_a_gain_compares_means_of_paired_errors():
    other = np.random.default_rng(0).uniform(1, 2, 50)
    half = gain_with_interval(other / 2, other, 500, 0)
    assert math.isclose(half.value, 0.75)
    assert half.ci_low is None  # the pairing leaves no spread
    assert gain_with_interval(other, other, 500, 0).value == 0.0
    worse = gain_with_interval(other + np.random.default_rng(1).normal(1, 0.3, 50), other, 500, 0)
    assert worse.ci_low < worse.value < worse.ci_high < 0
    assert gain_with_interval(np.full(3, np.nan), np.ones(3), 500, 0).value is None


def estimate(low, value, high):
    return Estimate(value, low, high, 10)


@pytest.mark.parametrize(
    ("gain", "unresolved", "resolved", "verdict"),
    [
        (estimate(0.1, 0.2, 0.3), estimate(0.1, 0.2, 0.3), 1.05, "super-resolves"),
        (estimate(0.1, 0.2, 0.3), estimate(-0.1, 0.2, 0.3), 1.05, "transfers"),
        (estimate(-0.05, 0.0, 0.05), estimate(-9, -5, -1), 1.0, "transfers"),
        (estimate(-0.5, -0.4, -0.3), estimate(-9, -5, -1), 1.0, "does not transfer"),
        (estimate(0.1, 0.2, 0.3), estimate(0.1, 0.2, 0.3), 1.2, "does not transfer"),
        (Estimate(None, None, None, 3), estimate(0.1, 0.2, 0.3), 1.0, "does not transfer"),
    ],
)
def test_verdicts(gain, unresolved, resolved, verdict):
    figures = (gain, unresolved, estimate(resolved, resolved, resolved), estimate(0.9, 1.0, 1.1))
    assert super_resolution(*figures, 0.05, True) == verdict
    assert super_resolution(*figures, 0.05, True, useless=True) == "does not transfer"
    without = "transfers" if verdict == "super-resolves" else verdict
    assert super_resolution(*figures, 0.049, True) == without  # next to nothing is finer than the training grid
    assert super_resolution(*figures, None, True) == without
    assert super_resolution(*figures, 0.05, False) == without  # the data cannot show the gain


def row(own=0.03, free=0.05, accuracy=0.001, finer=0.2, strided=0.03, filtered=0.03, unresolved=-1.0, **more):
    figures = {"surrogate": own, "interpolation": free, "oracle": 0.04, "data_accuracy": accuracy, "strided": strided}
    found = {name: {"value": value, "n": 8, "reason": "it blew up."} for name, value in figures.items()}
    scales = {"truth_unresolved": finer, "gain": 0.64, "unresolved_gain": unresolved}
    found |= {"filtered": {"value": filtered, "n": 8}, "scales": {k: {"value": v} for k, v in scales.items()}}
    return found | {"resolution": 49, "verdict": "transfers", "correlation_time": None, "divergence_time": None} | more


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({}, None),
        ({"finer": 0.04}, "next to nothing to add: 4.00% of the solution is finer"),
        (
            {"accuracy": 0.0067},
            "interpolation, 2.00%, is below data accuracy (3 times the solver's own error there, 0.670%)",
        ),
        ({"accuracy": 0.0066}, None),
        ({"accuracy": None}, "2.00%, cannot be told from errors of the data: it blew up."),
        ({"own": 0.06, "accuracy": 0.1}, None),  # there is no gain to doubt
        ({"filtered": 0.0331}, "3.00% with values at its points, 3.31% with"),
        ({"filtered": 0.0271}, "3.00% with values at its points, 2.71% with"),
        ({"filtered": 0.0329}, None),
    ],
)
def test_what_is_to_be_held_against_a_gain_is_said(figures, said):
    text = resolution_text(row(**figures), {}, 13, 2, "native")
    plain = resolution_text(row(), {}, 13, 2, "native")
    assert text.endswith("interpolation would not.") if said is None else said in text
    assert said is not None or text.count(".") == plain.count(".")
    better = resolution_text(row(unresolved=0.5), {}, 13, 2, "native")  # not shown to be chance
    assert better.endswith("It keeps its error there.")


def test_a_rollout_that_fails_earlier_on_a_finer_grid_is_said():
    def times(correlated, diverged, censored=0.0):
        one, other = ({"value": v, "censored": censored} for v in (correlated, diverged))
        return {"correlation_time": {"surrogate": one}, "divergence_time": other}

    here = times(20.0, 20.0, 1.0)
    text = resolution_text(row(**times(20.0, 19.0)), here, 13, 2, "native")
    assert "Rolled out" not in text
    text = resolution_text(row(**times(18.0, 2.5)), here, 13, 2, "native")
    assert (
        "has lost the true trajectory (correlation below 0.8) after 18 time units there, after 20 or more on 13 x 13"
        in text
    )
    assert "it diverges after 2.5 time units there, after 20 or more on 13 x 13" in text


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "undefined"), (0.0, "0%"), (3.76e-9, "below 0.001%"), (-9.9e-6, "below 0.001%"), (1e-5, "0.00100%"),
     (0.0109, "1.09%"), (1.69, "169%")],
)  # fmt: skip
def test_people_are_shown_digits_that_mean_something(value, said):
    assert percent(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "undefined"), (-7.29e-6, "0.000"), (5e-4, "0.001"), (0.6382, "0.638"), (-2.664, "-2.664"), (-26.64, "-27"),
     (-999, "-999"), (-2.72e6, "< -1000")],
)  # fmt: skip
def test_gains_are_shown_likewise(value, said):
    assert gain(value) == said


def test_no_sentence_has_meaningless_digits():
    small = row(own=1e-9, free=3e-9, accuracy=4e-9, finer=2e-8, strided=1e-9, filtered=2e-9)
    label = {"value": 2.5e-9, "n": 4}
    for text in (resolution_text(small, {}, 13, 2, "native"), label_verdict({"value": 0.01}, label)["text"]):
        assert "e-0" not in text and "below 0.001%" in text and "about below" not in text


def balance(ratio, floor, own, true):
    def figure(value, **more):
        return {"value": value, "ci_low": None, "reason": "all samples agree"} | more

    return {
        "trajectories": 8, "residual_ratio": figure(ratio, ci_low=0.9, ci_high=1.1), "truth_residual": figure(floor),
        "energy_budget": {"surrogate": figure(own), "truth": figure(true)},
    }  # fmt: skip


def test_frames_too_far_apart_are_evidence_of_nothing():
    """True frames that leave half the rate of change over: a ratio of one to them is no praise."""
    text = balance_text(balance(0.994, 0.485, 0.766, 0.748), 0.5)
    assert "a time of 0.5 apart say nothing" in text and "48.5% of the rate of change" in text
    assert not [words for words in ("0.994", "times what", "no telling", "76.6%") if words in text]
    assert "74.8% of what is dissipated" in text
    close = balance_text(balance(22.4, 0.0354, 0.206, 0.00580), 1.0)
    assert "22.4 times what true frames leave (95% interval 0.9 to 1.1; H⁻¹ norm, 8 trajectories)" in close
    assert "20.6% of what is dissipated (true frames: 0.580%)" in close and "nothing of" not in close
    mixed = balance_text(balance(22.4, 0.0354, 0.206, 0.11), 1.0)
    assert "22.4 times" in mixed and "20.6%" not in mixed and "11.0% of what is dissipated" in mixed
    unknown = balance_text(balance(None, None, None, None), 1.0)
    assert "undefined (all samples agree)" in unknown and "None" not in unknown


@pytest.mark.parametrize(("error", "useless"), [(0.4, False), (0.5, True), (None, True)])
def test_what_a_constant_does_as_well_is_useless(error, useless):
    assert is_useless({"value": error}, [{"value": 0.5}, {"value": 0.9}, {"value": None}]) is useless
    assert is_useless({"value": 1.04}, [{"value": 1.2}])  # predicting zero is better than both


def test_a_surrogate_worse_than_the_mean_is_called_so():
    error = {"value": 0.6, "ci_low": 0.5, "ci_high": 0.7, "n": 9, "n_degenerate": 0, "resolution": 13, "horizon": None}
    assert "do not use this surrogate" in accuracy_text(error, [{"value": 0.5, "model": "mean"}], 2, [])
    assert "do not use" not in accuracy_text(error, [{"value": 0.7, "model": "mean"}], 2, [])


def test_report_json_keeps_the_contract(small_run):
    report = json.loads((small_run / "evaluation" / "report.json").read_text(), parse_constant=pytest.fail)
    keys = {"name", "value", "ci_low", "ci_high", "n", "split", "resolution", "horizon", "model"}
    for record in report["metrics"]:
        assert keys <= record.keys()
        assert record["horizon"] is None
        assert record["split"] == "test"
        if record["ci_low"] is not None:
            assert record["ci_low"] <= record["value"] <= record["ci_high"]
    found = {(m["name"], m["model"], m["resolution"]) for m in report["metrics"]}
    for name in ("rel_l2", "rel_h1", "max_error"):
        assert {(name, "surrogate", 13), (name, "mean", 13)} <= found
    finer = {r for _, model, r in found if model == "interpolation"}
    assert len(finer) >= 2
    assert all(("rel_l2", "surrogate", r) in found for r in finer)


def test_the_table_has_every_sample_and_agrees_with_the_report(small_run):
    with open(small_run / "evaluation" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    report = json.loads((small_run / "evaluation" / "report.json").read_text())
    for record in report["metrics"]:
        where = {"metric": record["name"], "model": record["model"], "resolution": str(record["resolution"])}
        values = [float(r["value"]) for r in rows if where.items() <= r.items()]
        assert len(values) == record["n"]
        assert math.isclose(np.mean(values), record["value"], rel_tol=1e-6)


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.stack, self.images, self.problems = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        elif tag not in ("meta", "br", "hr", "link", "!doctype"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if not self.stack or self.stack.pop() != tag:
            self.problems.append(tag)


def test_the_page_is_one_well_formed_file_without_network(small_run):
    text = (small_run / "evaluation" / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.problems == []
    assert page.stack == []
    assert len(page.images) == 4
    assert all(len(image["alt"]) > 40 and image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text
    assert "default-src 'none'" in text
    # Nothing reads as the mean of the errors but that; no rollout is explained where there is none; no dangling note.
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', text)
    assert heads[:7] == ["metric", "mean", "95% interval", "median", "p90", "largest", "training mean"]
    terms = re.findall(r"<dt><code>([^<]*)</code>", text)
    assert {"norm", "rel_l2", "rel_energy", "interval"} <= set(terms)
    for name in ("rel_l2_step", "horizon", "correlation_time", "valid_time", "energy_budget", "srmse"):
        assert (
            name not in terms
            and name in json.loads((small_run / "evaluation" / "report.json").read_text())["conventions"]
        )
    assert len(text) < 3_000_000


def test_gates():
    report = {
        "metrics": [
            {"name": "rel_l2", "resolution": 85, "model": "surrogate", "value": 0.015},
            {"name": "rel_l2", "resolution": 85, "model": "mean", "value": 0.5},
            {"name": "rel_l2", "resolution": 141, "model": "surrogate", "value": 0.03},
            {"name": "rel_h1", "resolution": 85, "model": "surrogate", "value": None},
            {"name": "correlation_time", "resolution": 85, "model": "surrogate", "value": 5.0},
            {"name": "correlation_time@0.9", "resolution": 85, "model": "surrogate", "value": 3.0},
        ],
    }
    grids = (85, 141)
    check_gate(parse_gate("rel_l2<0.02, rel_l2@141<=0.03", grids), report)
    check_gate(parse_gate("correlation_time>4, correlation_time@0.9>=3, correlation_time@0.9@85<4", grids), report)
    with pytest.raises(GateError, match=r"correlation_time@0\.9@85 is 3, not > 4"):
        check_gate(parse_gate("correlation_time@0.9>4", grids), report)
    with pytest.raises(ConfigError, match="is not measured"):
        parse_gate("correlation_time@0.7>4", grids)
    with pytest.raises(GateError, match=r"rel_l2@85 is 0\.015, not < 0\.01"):
        check_gate(parse_gate("rel_l2<0.01", grids), report)
    with pytest.raises(GateError, match="undefined"):
        check_gate(parse_gate("rel_h1<1", grids), report)
    check_gate(parse_gate("correlation_time@0.8>4, correlation_time@0.8@85>4", grids), report)
    report["rollout"] = {"time_step": 0.5}
    report["metrics"][-1] |= {"censored": 1.0, "horizon": 6}
    with pytest.raises(GateError, match=r"is 3 up to the horizon of 3, beyond which nothing is known.*not > 4"):
        check_gate(parse_gate("correlation_time@0.9>4", grids), report)
    for wrong in ("rel_l2", "rel_l2<", "rel_l2<two", "rel_l2<1e999", "<3", ""):
        with pytest.raises(ConfigError, match="cannot read"):
            parse_gate(wrong, grids)
    with pytest.raises(ConfigError, match="Did you mean 'rel_l2'"):
        parse_gate("rell2<1", grids)
    with pytest.raises(ConfigError, match="on grids 85, 141"):
        parse_gate("rel_l2@100<1", grids)

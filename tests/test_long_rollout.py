"""Rollouts far beyond training, of models whose answers are known."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_rollout import Solver, surrogate_of

from opkit import metrics
from opkit.errors import ConfigError
from opkit.evaluation.records import Records, _fan, _power_law, per_sample, rises, rollout_record
from opkit.evaluation.rollout import (
    REASONS,
    Bounds,
    lengths,
    measure_rollout,
    reference_problem,
)
from opkit.evaluation.verdicts import stability
from opkit.generate import ensure
from opkit.normalize import Normalizer
from opkit.pdes import Burgers, NavierStokes
from opkit.registry import Architecture
from opkit.settings import Data, Evaluation, Stepping
from opkit.stepping import stepped
from opkit.surrogate import PhysicalOperator, Surrogate

PDE = Burgers(resolution=48, label_resolution=48, modes=12, times=(0, 0.1, 0.2, 0.3), viscosity=0.2, tail=1.0, dt=0.02)
DATA = Data(train=6, val=2, test=6, test_fine=4)
SETTINGS = Evaluation(resolutions=(72, 96), resamples=200, rollouts=6)
BOUNDS = Bounds(1e3, 1e3)
ZERO = torch.zeros(1, 48)
MAKE = Records(SETTINGS)


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))


def measured(operator, pde=PDE, settings=SETTINGS, bounds=BOUNDS, climate=ZERO):
    return measure_rollout(surrogate_of(operator, pde), pde, DATA, settings, climate, bounds, workers=1)


def test_how_far_it_goes():
    assert lengths(PDE, Evaluation(), 1) == (3, 30, 30)
    assert lengths(PDE, Evaluation(suite="quick"), 1) == (3, 3, 30)
    assert lengths(PDE, Evaluation(horizon=12, steps=1000), 2) == (2, 12, 1000)
    assert reference_problem(PDE, 3, 1) is PDE
    torch.testing.assert_close(reference_problem(PDE, 30, 1).times, 0.1 * torch.arange(31).double())


def test_the_exact_solver_never_loses_the_truth(one_thread):
    found = measured(Solver(PDE))
    assert found.errors["surrogate"].shape == (6, 30) and found.errors["surrogate"].max() < 1e-5
    for events in (found.correlated(), found.valid, found.diverged):
        assert not events.observed.any()
    assert found.errors["persistence"][:, -1].min() > 0.1
    for curves in found.quantities.values():
        torch.testing.assert_close(curves["surrogate"], curves["truth"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.spectra["surrogate"], found.spectra["truth"], rtol=1e-4, atol=1e-12)
    assert found.climate.first == 16


def test_not_a_number_ends_one_sample_at_its_step_and_no_other(one_thread):
    """NaN at step 7 in sample 3."""

    class Failing(Solver):
        calls = 0

        def forward(self, u):
            self.calls += 1
            out = super().forward(u)
            if self.calls == 7:
                out[3] = torch.nan
            return out

    found, exact = measured(Failing(PDE)), measured(Solver(PDE))
    others = [0, 1, 2, 4, 5]
    assert found.ended.tolist() == [31, 31, 31, 7, 31, 31]
    assert REASONS[found.reasons[3] - 1] == "not finite"
    assert found.diverged.time[3].item() == pytest.approx(0.7)
    assert torch.isfinite(found.errors["surrogate"][3, :6]).all() and found.errors["surrogate"][3, 6:].isinf().all()
    torch.testing.assert_close(
        found.errors["surrogate"][others], exact.errors["surrogate"][others], rtol=1e-9, atol=1e-14
    )
    assert found.correlated().observed.tolist() == [False, False, False, True, False, False]
    assert found.correlated().time[3].item() == pytest.approx(0.6)
    assert (found.correlations["surrogate"][3, 6:] == -math.inf).all()
    json.dumps(rollout_record(MAKE, found)[1], allow_nan=False)
    unknown = found.correlations | {"surrogate": found.correlations["surrogate"].clone()}
    unknown["surrogate"][:3] = math.nan  # as of constant truths
    fans = rollout_record(MAKE, dataclasses.replace(found, correlations=unknown))[1]["curves"]["correlation"]
    assert fans["surrogate"]["low"][-1] is None and fans["surrogate"]["median"][-1] == pytest.approx(1)


def test_what_grows_out_of_bounds_ends_before_it_overflows(one_thread):
    """A factor of 2 per step from fields of root mean square s passes ten times that between steps 3 and 4."""
    weak = dataclasses.replace(PDE, sigma=1e-9)
    a = weak.sample(6, first=2 * 2**32)
    limit = 10 * float(a.flatten(1).square().mean(1).sqrt().max())
    found = measured(Solver(weak, 2.0), weak, bounds=Bounds(limit, 1.0))
    truth = ensure(reference_problem(weak, 30, 1), "test", 6, 0, 1).load(6)["u"].double()
    sizes = truth[:, 1:].square().mean(2).sqrt() * 2.0 ** torch.arange(1, 31)
    first = [int((sizes[i] > limit).nonzero()[0]) + 1 for i in range(6)]
    assert found.reasons.tolist() == [2] * 6 and found.ended.tolist() == first
    assert found.steps == 30  # the rest of the steps were not taken


def test_freezing_counts_only_where_the_truth_moves(one_thread):
    class Frozen(Solver):
        def forward(self, u):
            return u.clone()

    assert measured(Frozen(PDE)).ended.tolist() == [1] * 6
    assert [REASONS[r - 1] for r in measured(Frozen(PDE)).reasons] == ["frozen"] * 6


def test_nearing_a_fixed_point_without_end_is_freezing(one_thread):
    """Halfway to 1.1 times the start at every step: the n-th change is 0.05 2^(1 - n) of the start. It ends with the
    first below a hundredth of the truth's, long before it stands still."""
    start = PDE.sample(6, first=2 * 2**32)

    class Settling(Solver):
        def forward(self, u):
            rows = [int((start - one).flatten(1).norm(dim=1).argmin()) for one in u]
            return (u + 1.1 * start[rows]) / 2

    found = measured(Settling(PDE))
    truth = ensure(reference_problem(PDE, 30, 1), "test", 6, 0, 1).load(6)["u"].double()
    theirs = truth.diff(dim=1).flatten(2).norm(dim=2)
    own = 0.05 * start.flatten(1).norm(dim=1)[:, None] * 0.5 ** torch.arange(30)
    expected = [int((own[i] < 0.01 * theirs[i]).nonzero()[0]) + 1 for i in range(6)]
    assert found.ended.tolist() == expected and {REASONS[r - 1] for r in found.reasons} == {"frozen"}
    assert min(expected) > 3 and float((own / theirs).min()) > 1e-12


def test_fine_scales_that_pile_up_end_it(one_thread):
    class Noisy(Solver):
        def forward(self, u):
            return super().forward(u) + 0.1 * torch.cos(22 * torch.arange(48).double() * 2 * torch.pi / 48)

    found = measured(Noisy(PDE))
    assert [REASONS[r - 1] for r in found.reasons] == ["fine scales piling up"] * 6


def test_a_factor_per_step_is_a_drift_and_an_error_worked_out_by_hand(one_thread):
    weak = dataclasses.replace(PDE, sigma=1e-9)
    found = measured(Solver(weak, 1.01), weak)
    expected = torch.tensor([1.01**k - 1 for k in range(1, 31)], dtype=torch.float64).expand(6, 30)
    torch.testing.assert_close(found.errors["surrogate"], expected, rtol=1e-4, atol=1e-6)
    energy = found.quantities["energy"]
    ratio = energy["surrogate"][:, -1] / energy["truth"][:, -1]
    torch.testing.assert_close(ratio, torch.full((6,), 1.01**60, dtype=torch.float64), rtol=1e-4, atol=0)
    assert not found.correlated().observed.any()  # a scaled field is correlated
    _, section = rollout_record(MAKE, found)
    # Of the start, and the flow has decayed: 1.01^60 - 1 of the energy that is left.
    left = float((energy["truth"][:, -1] / energy["truth"][:, 0]).mean())
    drift = section["quantities"]["energy"]["drift"]
    assert drift["mean"] == pytest.approx((1.01**60 - 1) * left, rel=1e-3) and drift["n"] == 6
    assert section["curves"]["rel_l2"]["surrogate"]["median"][-1] == pytest.approx(1.01**30 - 1, rel=1e-3)
    # Every shell has 1.01^(2 k) times the energy, k = 16 .. 30: its mean, in decades, weighted by how it decays.
    decades = section["climate"]["log_spectral_distance"]
    assert 32 * np.log10(1.01) < decades < 60 * np.log10(1.01)
    assert section["growth"]["reason"] and section["verdict"] == "stays bounded"


def test_what_loses_its_energy_collapses(one_thread):
    """A factor of 0.7 per step leaves 0.7^(2 k) of the energy: less than a tenth from k = 4 on."""
    weak = dataclasses.replace(PDE, sigma=1e-9)
    found = measured(Solver(weak, 0.7), weak)
    assert found.ended.tolist() == [4] * 6 and {REASONS[r - 1] for r in found.reasons} == {"energy lost"}
    _, section = rollout_record(MAKE, found)
    assert section["verdict"] == "collapses" and "6 of 6 trajectories fail, the first at step 4" in section["text"]

    class Zero(Solver):
        def forward(self, u):
            return torch.zeros_like(u)

    nothing = measured(Zero(PDE))
    assert nothing.ended.tolist() == [1] * 6  # not "frozen within bounds"
    assert rollout_record(MAKE, nothing)[1]["verdict"] == "collapses"


def test_bands_count_what_has_ended_as_the_worst():
    """0.85, 0.9, 0.95 and two more: worse than all, better than none, or unknown."""

    def fan(more):
        return _fan(torch.tensor([[0.95], [0.9], [0.85], [more], [more]], dtype=torch.float64))

    assert fan(-math.inf) == {"low": [None], "median": [0.85], "high": [0.95]}
    assert fan(math.inf) == {"low": [0.85], "median": [0.95], "high": [None]}
    assert fan(math.nan) == {"low": [0.85], "median": [0.9], "high": [0.95]}
    assert _fan(torch.full((2, 1), math.nan))["median"] == [None]


def test_a_truth_shorter_than_training_and_than_the_data(one_thread, capsys):
    """The frames are those of the data at hand, and nothing is made anew."""
    ensure(PDE, "test", 6, 0, 1)
    capsys.readouterr()
    found = measured(Solver(PDE), settings=dataclasses.replace(SETTINGS, horizon=1, steps=4))
    assert found.errors["surrogate"].shape == (6, 1) and found.instants == [1] and found.steps == 4
    assert "generate" not in capsys.readouterr().err
    _, section = rollout_record(MAKE, found)
    assert len(section["spectra"]["truth"]) == 1 and section["windows"][0]["to"] == 1
    with pytest.raises(ConfigError, match="steps=5 are fewer than the 30"):
        lengths(PDE, Evaluation(steps=5), 1)


QUIET = {"value": 3.0, "ci_low": None, "ci_high": None}


def section_with(ended=(), drift=0.0, ends=(-0.1, 0.1), excess=None):
    """What `stability` reads: eight trajectories, 30 steps of 0.1, trained on 3."""
    return {
        "trajectories": 8, "steps": 30, "time_step": 0.1, "trained_steps": 3, "reference_steps": 30,
        "ended": [{"sample": i, "step": s, "reason": why} for i, (s, why) in enumerate(ended)],
        "quantities": {"energy": {"drift": {"mean": drift, "ci_low": ends[0], "ci_high": ends[1]}}},
        "survival": {"correlation_time": {"median": None, "censored": 1.0}},
        "growth": {"excess": excess, "surrogate": QUIET, "solver": {**QUIET, "value": 1.0}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("section", "verdict", "said"),
    [
        (section_with(), "stays bounded", "none of 8 trajectories leaves"),
        (section_with(drift=0.3, ends=(0.2, 0.4)), "drifts", "off by 30.0% of the largest it truly has after 30"),
        (section_with(drift=-0.3, ends=(-0.4, -0.2)), "drifts", "energy is off by -30.0%"),
        (section_with(drift=0.3, ends=(-0.1, 0.7)), "stays bounded", "none of 8"),
        (section_with(drift=0.09, ends=(0.08, 0.1)), "stays bounded", "none of 8"),
        (section_with([(9, "not finite"), (5, "energy lost")]), "diverges", "first at step 5 (energy lost)"),
        (section_with([(9, "frozen"), (5, "energy lost")]), "collapses", "2 of 8 trajectories fail"),
        (section_with([(9, "too large")], 0.3, (0.2, 0.4)), "diverges", "over the 7 that last"),
        (section_with(excess={"ci_low": 0.5, "ci_high": 3.0, "n": 8}), "stays bounded", "faster than the equation's"),
        (section_with(excess={"ci_low": -0.1, "ci_high": 4.0, "n": 8}), "stays bounded", "not to be told from"),
        (section_with(excess={"ci_low": None, "ci_high": None, "n": 2}), "stays bounded", "too few"),
    ],
)  # fmt: skip
def test_what_is_said_of_stability(section, verdict, said):
    found, text = stability(section)
    assert found == verdict and said in text


def test_steps_beyond_the_truth_are_watched(one_thread):
    class Late(Solver):
        calls = 0

        def forward(self, u):
            self.calls += 1
            return super().forward(u) * (1e9 if self.calls == 20 else 1)

    found = measured(Late(PDE), settings=dataclasses.replace(SETTINGS, horizon=5, steps=25))
    assert found.errors["surrogate"].shape == (6, 5) and found.ended.tolist() == [20] * 6
    assert not found.correlated().observed.any()


@pytest.mark.parametrize(("history", "bundle"), [(1, 1), (2, 2), (3, 2), (1, 3)])
def test_histories_bundles_and_parameters_per_sample_are_rolled_out_too(history, bundle, one_thread):
    """The exact solver given several frames and asked for several, viscosities drawn per sample."""
    pde = dataclasses.replace(PDE, viscosity=(0.2, 0.6), times=(0, 0.1, 0.2, 0.3, 0.4))
    stepping = Stepping(history=history, bundle=bundle)

    class Frames(Solver):
        def forward(self, u):
            several = dataclasses.replace(self.pde, times=[0.1 * i for i in range(bundle + 1)])
            return several._solve(u[:, history - 1 :])[0][:, 1:, 0]

    spec = stepped(pde.spec, stepping, pde.times)
    plain = [Normalizer(torch.zeros(n), torch.ones(n)).double() for n in (len(spec.inputs), len(spec.outputs))]
    physics = {"pde": pde.equation, "time_step": 0.1}
    surrogate = Surrogate(PhysicalOperator(Frames(pde), *plain), Architecture("fno"), spec, physics, stepping=stepping)
    found = measure_rollout(surrogate, pde, DATA, SETTINGS, ZERO, BOUNDS, workers=1)
    assert found.errors["surrogate"].shape == (6, 10 * (5 - history))
    assert found.errors["surrogate"].max() < 1e-4 and not found.diverged.observed.any()


def test_windows_of_time_are_the_trajectory(monkeypatch, one_thread):
    whole = measured(Solver(PDE))
    monkeypatch.setattr("opkit.evaluation.rollout.WINDOW_BYTES", 1)
    monkeypatch.setattr("opkit.evaluation.rollout.POINTS_PER_CALL", 1)
    pieces = measured(Solver(PDE))
    for name, curve in whole.errors.items():
        assert (curve == pieces.errors[name]).all()
    stored = ensure(PDE, "test", 6, 0, 1)
    frames = torch.cat([f for f, _ in stored.windows(6, 3)], 1)[:, :, 0]
    assert (frames == stored.load(6)["u"]).all()


@pytest.mark.slow
def test_the_solver_in_another_precision_errs_no_faster_than_chaos(one_thread):
    """A chaotic flow: the solver at float32 as surrogate differs from the labels by round-off that grows at the rate of
    the flow itself, which the perturbed solver has too."""
    flow = NavierStokes(
        resolution=32, label_resolution=32, modes=10, viscosity=5e-3, length=2 * np.pi, forcing="kolmogorov",
        forcing_amplitude=1.0, forcing_wavenumber=4, times=tuple(np.arange(9.0) * 0.5),
    )  # fmt: skip
    data = Data(train=2, val=2, test=4)
    noisy = Solver(dataclasses.replace(flow, precision="float32"))
    found = measure_rollout(
        surrogate_of(noisy, flow), flow, data, Evaluation(horizon=160, rollouts=4, resamples=200),
        torch.zeros(1, 32, 32), BOUNDS, 1,
    )  # fmt: skip
    rates = [(own.rate, theirs.rate) for own, theirs in found.growth if own.rate and theirs.rate]
    assert len(rates) >= 2
    own, theirs = np.mean(rates, axis=0)
    assert own == pytest.approx(theirs, rel=0.3)


FINE = dataclasses.replace(PDE, times=(0, 0.02, 0.04), dt=0.01, modes=3)
BRIEF = Evaluation(horizon=10, steps=10, resamples=200, rollouts=6)


def test_what_true_frames_leave_over_is_the_measure_of_a_surrogates(one_thread):
    """The exact solver leaves what the truth does. One with a tenth less viscosity misses a tenth of the dissipation,
    by hand: dE/dt + nu <u_x^2> = (nu - 0.9 nu) <u_x^2>."""
    exact = measured(Solver(FINE), FINE, BRIEF)
    ratio = per_sample(exact)["residual_ratio"]
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=1e-3, atol=0)
    thin = measured(Solver(dataclasses.replace(FINE, viscosity=0.18)), FINE, BRIEF)
    found = per_sample(thin)
    assert (found["residual_ratio"] > 10).all()
    torch.testing.assert_close(found["energy_budget"], torch.full((6,), 0.1).double(), rtol=0.02, atol=0)
    assert thin.balance.residual["truth"].shape == (6, 9)
    section = rollout_record(Records(BRIEF), thin)[1]["balance"]
    assert section["energy_budget"]["truth"]["value"] < 0.01 and section["truth_residual"]["value"] < 0.05
    torch.testing.assert_close(exact.balance.rate, thin.balance.rate)


def test_what_has_no_three_frames_has_no_balance_and_what_has_ended_an_infinite_one(one_thread):
    assert measured(Solver(FINE), FINE, Evaluation(horizon=1, steps=1, resamples=200)).balance is None

    class Explosive(Solver):
        def forward(self, u):
            return 1e30 * u

    found = measured(Explosive(FINE), FINE, BRIEF)
    assert per_sample(found)["residual_ratio"].isinf().all()
    record = rollout_record(Records(BRIEF), found)[1]["balance"]
    assert record["residual_ratio"]["value"] is None and record["truth_residual"]["value"] is not None


def test_a_bias_of_every_step_grows_as_the_first_power_of_time(one_thread):
    """A field so weak that it only diffuses, and a constant added in every step: ||e|| = n b."""

    class Biased(Solver):
        def forward(self, u):
            return super().forward(u) + 1e-13

    weak = dataclasses.replace(PDE, sigma=1e-9)
    found = measured(Biased(weak), weak)
    section = rollout_record(Records(SETTINGS), found)[1]
    assert section["growth"]["excess"] is None and section["power_law"]["n"] == 6
    assert section["power_law"]["exponent"]["value"] == pytest.approx(1, abs=1e-3)
    assert section["growth"]["reason"] != section["power_law"]["reason"]


def test_errors_that_grow_exponentially_have_no_power(one_thread):
    """exp(0.2 t) is a line over t and bends over log t; t is a line over log t and bends over t."""
    times = np.arange(10.0, 31.0)  # so late that either is nearly a line in the other, too

    def record(curves):
        growth = [(metrics.growth_rate(c, times, 1.0), None) for c in curves]
        powers = [metrics.power_law(c, times, 1.0) for c in curves]
        return _power_law(Records(SETTINGS), SimpleNamespace(growth=growth, powers=powers))

    exponential, linear = 1e-4 * np.exp(0.2 * times), 1e-3 * times
    found = record([exponential, 2 * exponential, linear])
    assert found["exponent"] is None and found["n"] == 1
    found = record([exponential, 2 * linear, linear])
    assert found["exponent"]["value"] == pytest.approx(1) and found["n"] == 2 and found["tried"] == 3


def test_energy_that_can_only_fall_is_seen_to_rise(one_thread):
    """By hand; and a factor of 1.5 per step, more than diffusion takes, makes it rise at every step."""
    curve = torch.tensor([[3.0, 2.0, 2.5, 2.0, math.nan, math.nan], [3.0, 3.5, 4.0, 1.0, 1.5, 1.5]])
    assert rises(curve).tolist() == [1, 3]
    weak = dataclasses.replace(PDE, sigma=1e-9, viscosity=1e-2)
    settings = Evaluation(horizon=8, steps=8, resamples=200, rollouts=6)
    found = rollout_record(Records(settings), measured(Solver(weak, 1.5), weak, settings))[1]["quantities"]
    assert found["energy"]["rises"]["surrogate"]["value"] == 8 and found["energy"]["rises"]["truth"]["value"] == 0
    assert found["mean"]["rises"] is None

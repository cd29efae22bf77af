"""Speed at equal error, with clocks that only move when told to: what is asserted never depends on the machine."""

import dataclasses
import itertools
import json
import math

import pytest
import torch

from opkit.callbacks import EpochTable
from opkit.errors import ConfigError, SolverError
from opkit.evaluation import speed as speed_module
from opkit.evaluation.protocol import as_channels
from opkit.evaluation.solving import solve_for
from opkit.evaluation.speed import (
    BEYOND,
    COARSE,
    DOMINATED,
    FASTER,
    LEVEL,
    MODES,
    Point,
    Reach,
    Speed,
    Timing,
    Watch,
    _compare,
    _names,
    _seconds_of_data,
    break_even,
    measure_speed,
    pareto,
    pareto_picture,
    seconds_of_training,
    speed_text,
    time_at_error,
)
from opkit.generate import ensure
from opkit.metrics import rel_l2
from opkit.models.base import Operator
from opkit.normalize import Normalizer
from opkit.pdes import PDE, Burgers, Darcy, NavierStokes
from opkit.registry import Architecture, names, pde_class, read, tuples
from opkit.settings import Stepping
from opkit.stepping import stepped, time_step
from opkit.store import pair
from opkit.surrogate import PhysicalOperator, Surrogate, residual_channels

NUMERICAL = {
    Burgers: {"resolution", "label_resolution", "dt", "scheme", "precision", "unresolved", "tail"},
    NavierStokes: {"resolution", "label_resolution", "dt", "cfl", "scheme", "precision"},
    Darcy: {"resolution", "label_resolution", "solver", "tolerance"},
}
"""Parameters that say how, not what."""
CPU = torch.device("cpu")
DARCY = Darcy(resolution=17, label_resolution=33, modes=8, coefficient="lognormal")
BURGERS = Burgers(
    resolution=32, label_resolution=64, modes=10, times=(0, 0.1, 0.2, 0.3), viscosity=0.2, tail=1.0, dt=0.01
)
FLOW = NavierStokes(resolution=16, label_resolution=32, modes=5, times=(0, 0.5, 1.0), viscosity=1e-2)


class Clock:
    """Stands still until work moves it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """Every solve takes a second per sample, point of its grid, and digit of its tolerance; LU factors ten times that;
    labels take none."""
    clock, solve = Clock(), PDE.solve
    monkeypatch.setattr(speed_module, "REPEATS", 3)  # every repeat of a clock like this gives the same
    monkeypatch.setattr(speed_module, "WARM_UP", 1)
    monkeypatch.setattr(speed_module, "POINTS_PER_BATCH", 1)  # no batches

    def timed(self, inputs):
        digits = 10 * 9 if getattr(self, "solver", "") == "direct" else -math.log10(getattr(self, "tolerance", 0.1))
        clock.now += len(inputs) * digits * self.grid.weights.numel()
        return solve(self, inputs)

    monkeypatch.setattr(PDE, "solve", timed)
    return clock


class Ready(Operator):
    """Whatever a function gives, at a cost per sample."""

    resolution = "native"

    def __init__(self, function, clock=None, seconds=0.0):
        super().__init__()
        self.function, self.clock, self.seconds = function, clock, seconds
        self.nothing = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, u):
        if self.clock is not None:
            self.clock.now += len(u) * self.seconds
        return self.function(u)


def surrogate_of(operator, pde, stepping=None, dtype=torch.float64, data=None):
    stepping = stepping or Stepping()
    spec = pde.spec if pde.times is None else stepped(pde.spec, stepping, pde.times)
    plain = [Normalizer(torch.zeros(len(c)), torch.ones(len(c))).to(dtype) for c in (spec.inputs, spec.outputs)]
    physics = {"pde": pde.equation, "time_step": time_step(pde.times), "data": data or {}}
    model = PhysicalOperator(operator, *plain, residual_channels(spec, stepping))
    return Surrogate(model, Architecture("fno"), spec, physics, stepping=stepping)


def untrained(pde, stepping=None, data=None):
    spec = pde.spec if pde.times is None else stepped(pde.spec, stepping or Stepping(), pde.times)
    small = {"width": 4, "n_modes": [4] * pde.grid.ndim, "n_layers": 1, "projection_width": 4}
    return surrogate_of(Architecture("fno", small).build(spec), pde, stepping, torch.float32, data)


def fields(pde, n=3, history=1):
    """Inputs and labels, float64, solved as labels are."""
    fine = pde.on(pde.label_grid.shape[0])
    a = fine.sample(n)
    u = fine.grid.resample(fine.solve(a), pde.grid, "strided")
    if pde.times is None:
        return fine.grid.resample(a, pde.grid, "strided"), u
    names = dict(zip(pde.outputs, u.unbind(2), strict=True))
    names |= {name: a[:, pde.inputs.index(name)].flatten(1)[:, 0] for name in pde.varying}
    return as_channels(pde, pair(pde, names, history))


def test_the_front_and_times_on_it_by_hand():
    points = [(9, 0.05), (2, 0.6), (8, 0.1), (1, 0.5), (4, 0.1), (2, 0.3)]
    assert pareto(points) == [(1, 0.5), (2, 0.3), (4, 0.1), (9, 0.05)]
    front = [(1.0, 1e-1), (10.0, 1e-2), (1000.0, 1e-3)]
    for error, seconds in ((1e-1, 1), (10**-1.5, 10**0.5), (1e-2, 10), (10**-2.5, 100), (1e-3, 1000)):
        reach = time_at_error(front, error)
        assert reach.bound == "equal" and math.isclose(reach.seconds, seconds)


def test_nothing_is_extrapolated():
    front = [(1.0, 1e-1), (10.0, 1e-2)]
    assert time_at_error(front, 0.11) == Reach(1.0, "at most")
    assert time_at_error(front, 0.009) == Reach(10.0, "more than")
    assert time_at_error([(3.0, 0.0)], 0.5) == Reach(3.0, "at most")
    assert math.isclose(time_at_error([(3.0, 0.0)], 0.0).seconds, 3.0)


def test_break_even_by_hand():
    solves, reason = break_even(100.0, 20.0, solver=0.5, surrogate=0.1)
    assert math.isclose(solves, 300) and reason is None
    assert break_even(100.0, 20.0, 0.1, 0.1) == (None, "the surrogate is not faster than a solver with its error")
    assert break_even(None, None, 0.5, 0.1) == (None, "it is not known how long data and training took")
    assert break_even(1.0, None, 0.5, 0.1) == (None, "it is not known how long training took")


def test_seconds_of_training_are_those_of_all_epochs(tmp_path):
    table = EpochTable(tmp_path / "metrics.csv")
    assert seconds_of_training(tmp_path) is None
    table._write([], "w")
    assert seconds_of_training(tmp_path) is None
    table._write([{"epoch": 0, "seconds": "2.25"}, {"epoch": 1, "seconds": "0.50"}], "a")
    assert seconds_of_training(tmp_path) == 2.75


def test_times_are_medians_and_quartiles_over_samples():
    clock = Clock()

    def work(values):  # sample i takes i + 1 seconds, whatever else is in the batch
        clock.now += float((values + 1).sum())
        return values

    inputs = torch.arange(5.0)[:, None]
    latency, throughput, outputs = Watch(CPU, clock).measure(work, inputs, budget=1.0, limit=math.inf)
    assert (latency.low, latency.median, latency.high, latency.repeats, latency.batch) == (2, 3, 4, 5, 1)
    assert throughput == latency  # no time for batches
    assert torch.equal(outputs, inputs)
    assert Watch(CPU, clock).measure(work, inputs, 1.0, limit=4.0) is None


def test_the_best_batch_is_found_where_batches_pay():
    for fixed, batch in ((0.0, 1), (1.0, 64)):
        clock = Clock()

        def work(values, clock=clock, fixed=fixed):
            clock.now += max(fixed, 0.02 * len(values))  # pays up to fifty samples, hardly beyond
            return values

        _, best, _ = Watch(CPU, clock).measure(work, torch.zeros(2, 1), budget=1e5, limit=math.inf)
        assert best.batch == batch and math.isclose(best.median, 0.02)
        assert best.repeats <= 50


@pytest.mark.parametrize("name", names("pde"))
def test_cheaper_settings_are_the_same_problem_down_to_its_own_solver(name):
    cls = pde_class(name)
    pde = cls(**tuples(read("pde", name).get("pde", {})))
    settings = pde.cheaper()
    gap = 1 if pde.grid.location == "node" else 0
    for setting in settings:
        ours, theirs = pde.parameters(), setting.parameters()
        assert {k for k in ours if ours[k] != theirs[k]} <= NUMERICAL[cls]
        assert setting.label_grid == setting.grid
        large, small = sorted((setting.resolution - gap, pde.resolution - gap), reverse=True)
        assert pde.grid.location == "periodic" or large % small == 0
    assert settings[-1].grid == pde.label_grid
    own = {k: v for k, v in settings[-1].parameters().items() if k not in ("resolution", "label_resolution")}
    assert {k for k, v in own.items() if v != pde.parameters()[k]} <= {"unresolved"}
    assert len(set(settings)) == len(settings) == len(dict(_names(settings)))
    assert min(s.resolution for s in settings) <= pde.resolution // 4


def test_the_grids_of_a_sweep():
    def grids(pde):
        return sorted({s.resolution for s in pde.cheaper()})

    assert grids(Darcy(resolution=85)) == [13, 22, 43, 85, 169, 337, 421]
    assert grids(Darcy(resolution=43, label_resolution=169)) == [7, 15, 22, 43, 85, 169]
    assert grids(Darcy(resolution=84, label_resolution=84)) == [84]  # 83 intervals: no coarser grid shares its points
    assert grids(Darcy(resolution=45, label_resolution=225, location="cell")) == [5, 9, 15, 45, 135, 225]
    assert grids(Burgers(resolution=512)) == [64, 128, 256, 512, 1024]
    assert grids(NavierStokes(resolution=30, label_resolution=60)) == [8, 15, 30, 60]


def test_darcy_on_coarser_grids_has_the_error_of_its_scheme():
    """a = 1, f = sin(pi x) sin(pi y): the five-point solution on spacing h is the exact one over (sin z / z)^2,
    z = pi h / 2, at every node; a spline between nodes adds O(h^4)."""
    pde = Darcy(resolution=33, label_resolution=33, source="sine", coefficient="lognormal")
    x, y = pde.grid.coordinates
    truth = (torch.sin(math.pi * x) * torch.sin(math.pi * y) / (2 * math.pi**2))[None, None]
    errors = {}
    for setting in pde.cheaper():
        u = solve_for(setting, pde, torch.ones_like(truth), CPU)
        errors[setting.resolution, setting.solver] = float(rel_l2(u, truth, pde.grid))
    for n in (9, 17, 33):
        z = math.pi / (n - 1) / 2
        assert math.isclose(errors[n, "direct"], (z / math.sin(z)) ** 2 - 1, rel_tol=0.02 if n < 33 else 1e-6)
    assert 1.9 < math.log2(errors[9, "direct"] / errors[33, "direct"]) / 2 < 2.1


def test_burgers_comes_close_to_the_exact_solution_as_grid_and_step_shrink():
    pde = dataclasses.replace(BURGERS, resolution=64, times=(0, 0.5))
    a = pde.sample(3)
    truth = (
        dataclasses.replace(pde, scheme="cole-hopf").on(256).solve(pde.grid.resample(a, pde.on(256).grid, "spectral"))
    )
    truth = pde.on(256).grid.resample(truth[:, 1], pde.grid, "strided")
    found = {
        (s.resolution, s.scheme, round(s.dt / pde.dt)): float(rel_l2(solve_for(s, pde, a, CPU), truth).mean())
        for s in pde.cheaper()
    }
    exact = [found[n, "cole-hopf", 1] for n in (8, 16, 32, 64)]
    assert exact[0] > 4 * exact[1] > 40 * exact[2] and exact[3] < 1e-9
    grids = [found[n, "etdrk4", 4] for n in (8, 16, 32, 64)]
    assert grids[0] > 4 * grids[1] > 40 * grids[2] > 4000 * grids[3]
    steps = [found[64, "etdrk4", k] for k in (64, 16, 4)]
    assert 128 < steps[0] / steps[1] < 512 and steps[1] > 10 * steps[2]  # fourth order is 256, until the grid's shows


def test_waves_that_a_coarse_grid_cannot_hold_do_not_come_back_as_others():
    """Waves so weak that they only decay: the sixth, which 8 points would take for the second, is gone at the end."""
    pde = Burgers(resolution=32, label_resolution=32, modes=10, times=(0, 1.0), viscosity=0.5)
    x = pde.grid.coordinates[0]
    a = 1e-6 * (torch.sin(x) + torch.sin(6 * x))[None, None]
    truth = 1e-6 * math.exp(-0.5) * torch.sin(x)[None, None]
    for setting in pde.cheaper():
        assert float(rel_l2(solve_for(setting, pde, a, CPU), truth)) < 1e-5


def test_flow_comes_close_to_a_fine_solution_as_the_grid_is_refined():
    pde = dataclasses.replace(FLOW, resolution=32, label_resolution=32, modes=4)
    a = pde.sample(2)
    fine = dataclasses.replace(pde, resolution=96, dt=5e-3)
    truth = fine.grid.resample(fine.solve(pde.grid.resample(a, fine.grid, "spectral")), pde.grid, "strided")
    found = {
        (s.resolution, s.cfl): float(rel_l2(solve_for(s, pde, a, CPU), truth[:, 1:].flatten(1, 2)).mean())
        for s in pde.cheaper()
    }
    assert found[8, 2.4] > 10 * found[16, 2.4] > 100 * found[32, 2.4]
    assert found[32, 0.6] < 1e-6


def test_settings_start_from_the_last_frame_given_and_keep_constant_channels(clock):
    pde = dataclasses.replace(BURGERS, resolution=30, label_resolution=60, viscosity=(0.2, 0.9))
    inputs, truth = fields(pde, history=2)
    assert inputs.shape == (3, 3, 30) and truth.shape == (3, 2, 30)
    stepping = Stepping(history=2)
    surrogate = surrogate_of(Ready(lambda u: u[:, 1:2], clock, 1.0), pde, stepping)
    speed = measure_speed(surrogate, pde, inputs, truth, 2, budget=1e9, clock=clock)
    own = speed.settings[-1]
    assert own.parameters["resolution"] == 60 and own.error < 1e-4  # of what 30 points keep of the frame
    coarse = [p.error for p in speed.settings if p.parameters["resolution"] == 15]
    assert 1e-6 < min(coarse) < 0.05
    kept = (truth - inputs[:, 1:2]).norm() / truth.norm()
    assert math.isclose(speed.surrogate.error, kept, rel_tol=0.3)


@pytest.mark.parametrize("factor", [1.0, 2.0, 0.25])
def test_a_solver_setting_as_surrogate_is_as_fast_as_itself(clock, factor):
    inputs, truth = fields(DARCY)
    setting = next(s for s in DARCY.cheaper() if s.resolution == 9 and s.tolerance == 1e-3)

    def solve(a):
        before = clock.now
        u = solve_for(setting, DARCY, a, CPU)
        clock.now = before + factor * (clock.now - before)
        return u

    surrogate = surrogate_of(Ready(solve), DARCY, data={"train": 0, "val": 0})
    speed = measure_speed(
        surrogate, DARCY, inputs, truth, None, budget=1e9, training=0.0, fine=lambda p: p.sample(3), clock=clock
    )
    assert not speed.skipped and not speed.failed
    verdict = {1.0: LEVEL, 2.0: DOMINATED, 0.25: FASTER}[factor]
    for comparison in speed.comparisons.values():
        assert comparison.bound == "equal" and math.isclose(comparison.speedup, 1 / factor)
        assert comparison.verdict == speed.verdict == verdict


def test_between_two_settings_the_speed_is_interpolated_and_pays_off_when_it_does(clock):
    inputs, truth = fields(DARCY)
    ends = [p for p in DARCY.cheaper() if p.solver == "auto" and p.tolerance == 1e-3 and p.resolution in (9, 17)]
    errors = [float(rel_l2(solve_for(p, DARCY, inputs, CPU), truth, DARCY.grid).mean()) for p in ends]
    middle = math.sqrt(errors[0] * errors[1])
    surrogate = surrogate_of(Ready(lambda a: (1 + middle) * truth[: len(a)], clock, 10.0), DARCY)
    speed = measure_speed(surrogate, DARCY, inputs[:1], truth[:1], None, budget=1e9, training=77.0, clock=clock)
    assert math.isclose(speed.surrogate.error, middle)
    found = {p.name: (p.latency.median, p.error) for p in speed.settings}
    assert found["9 x 9, tolerance 0.001, auto"][0] == 3 * 81
    front = pareto(found.values())
    (fast, large), (slow, small) = next((p, q) for p, q in itertools.pairwise(front) if q[1] <= middle <= p[1])
    share = math.log(large / middle) / math.log(large / small)
    seconds = fast ** (1 - share) * slow**share
    assert math.isclose(speed.comparisons["latency"].speedup, seconds / 10)
    assert speed.comparisons["latency"].break_even is None
    assert speed.comparisons["latency"].reason == "it is not known how long data took"
    assert speed.reasons == {"data": "the bundle does not say how many labels it was trained with"}


def test_beyond_the_ends_of_the_front_speed_is_bounded(clock):
    inputs, truth = fields(DARCY)

    def measured(function, seconds, training=1.0):
        surrogate = surrogate_of(Ready(function, clock, seconds), DARCY, data={"train": 2, "val": 1})
        return measure_speed(surrogate, DARCY, inputs, truth, None, budget=1e9, training=training, clock=clock)

    known = {float(a.sum()): u for a, u in zip(inputs, truth, strict=True)}
    found = measured(lambda a: torch.stack([known[float(row.sum())] for row in a]), 1.0)
    assert found.verdict == BEYOND and found.comparisons["latency"].bound == "more than"
    assert found.comparisons["latency"].speedup > 1 and found.comparisons["latency"].break_even is None
    assert BEYOND in speed_text(found.record())

    slow = measured(lambda a: 0 * a, 1e6)
    cheapest = min(p.latency.median for p in slow.settings)
    assert slow.verdict == DOMINATED and slow.comparisons["latency"].bound == "at most"
    assert slow.comparisons["latency"].speedup == cheapest / 1e6
    assert f"{1e6 / cheapest:.3g} times as fast or more" in speed_text(slow.record())
    quick = measured(lambda a: 0 * a, 1e-3)
    assert quick.verdict == COARSE and quick.comparisons["latency"].break_even is None
    assert quick.comparisons["latency"].speedup == pytest.approx(
        cheapest / 1e-3, rel=1e-4
    )  # a difference of large times
    assert f"at most {cheapest / 1e-3:.3g} times as fast" in speed_text(quick.record())


def point(name, error, alone, batched):
    def timing(seconds, batch):
        return Timing(seconds, 0.99 * seconds, 1.01 * seconds, 10, batch)

    return Point(name, error, timing(alone, 1), timing(batched, 8))


def test_alone_and_in_batches_are_judged_apart_and_the_worse_counts():
    own = point("surrogate", 1e-2, 0.1, 0.05)
    settings = [point("coarse", 1e-1, 0.25, 0.01), point("fine", 1e-3, 1.0, 0.04)]
    alone, batched = (_compare(own, settings, mode, data=100.0, training=20.0) for mode in MODES)
    assert (alone.verdict, batched.verdict) == (FASTER, DOMINATED)
    assert math.isclose(alone.solver_seconds, 0.5) and math.isclose(alone.speedup, 5.0)  # halfway, in logarithms
    assert math.isclose(alone.low, 5 * 0.99 / 1.01) and math.isclose(alone.high, 5 * 1.01 / 0.99)
    assert math.isclose(alone.break_even, 300) and alone.reason is None
    assert math.isclose(batched.speedup, 0.4) and batched.break_even is None and "not faster" in batched.reason
    comparisons = {"latency": alone, "throughput": batched}
    speed = Speed(own, settings, {}, {}, comparisons, 100.0, 20.0, {}, "64 points", None, 8, "cpu", 2, 1.0, 1.0)
    assert speed.verdict == DOMINATED
    text = speed_text(speed.record())
    assert (
        "a solver with its error takes 500 ms (5 times as long)" in text and "takes 20 ms (2.5 times as fast)" in text
    )
    assert "2 threads" in text and "never paid back" in text
    whole = dataclasses.replace(speed, comparisons={"latency": alone, "throughput": alone})
    assert whole.verdict == FASTER and "paid back after 300 solves" in speed_text(whole.record())


def test_errors_below_round_off_are_drawn_as_bounds():
    own = point("surrogate", 1e-2, 0.1, 0.05)
    settings = [point("coarse", 1e-1, 0.25, 0.01), point("slow", 2e-1, 0.5, 0.5), point("exact", 3e-12, 1.0, 0.04)]
    comparisons = {m: _compare(own, settings, m, 100.0, 20.0) for m in MODES}
    speed = Speed(own, settings, {}, {}, comparisons, 100.0, 20.0, {}, "64 points", None, 8, "cpu", 2, 1.0, 1.0)
    record = speed.record()

    def drawn(record):
        axis = pareto_picture(record)._figure.axes[0]
        open_ = {float(y) for line in axis.lines if line.get_mfc() == "white" for y in line.get_ydata()}
        return open_, {text.get_text() for text in axis.get_legend().get_texts()}

    bounds, said = drawn(record)
    assert bounds == {1e-7} and "at most this: below round-off of float32" in said
    assert {"coarse", "exact", "surrogate", "other settings"} <= said and "slow" not in said
    record["settings"] = [record["settings"][0]]
    bounds, said = drawn(record)
    assert bounds == set() and said == {"coarse", "surrogate"}


@pytest.mark.parametrize(("mode", "seconds"), [("stored", 220.0), ("online", 20.0)])
def test_data_cost_what_labels_cost_here(clock, monkeypatch, mode, seconds):
    label = PDE.label

    def timed(self, n, *rest):
        clock.now += 2.0 * n
        return label(self, n, *rest)

    monkeypatch.setattr(PDE, "label", timed)
    inputs, truth = fields(DARCY)
    data = {"train": 100, "val": 10, "mode": mode}
    surrogate = surrogate_of(Ready(lambda a: 0 * a, clock, 1.0), DARCY, data=data)
    speed = measure_speed(surrogate, DARCY, inputs, truth, None, budget=1e9, clock=clock)
    assert math.isclose(speed.seconds_of_data, seconds)
    assert speed.reasons == {"training": "only a run directory records how long training took"}


def test_labels_that_do_not_fit_cost_what_their_solver_did():
    surrogate = surrogate_of(Ready(lambda a: 0 * a), DARCY, data={"train": 100, "val": 10})
    labels, grid = "33 x 33, tolerance 1e-09, auto", {"resolution": 33}
    measured = dataclasses.replace(point(labels, 1e-7, 0.5, 0.25), parameters=grid)
    assert _seconds_of_data(surrogate, DARCY, [measured], Watch(CPU), left=0.1) == (27.5, {})
    other = dataclasses.replace(measured, name="33 x 33, tolerance 0.001, auto")
    seconds, reasons = _seconds_of_data(surrogate, DARCY, [other], Watch(CPU), left=0.1)
    assert seconds is None and "does not fit" in reasons["data"]


def test_what_fails_or_does_not_fit_is_named(clock, monkeypatch):
    solve = Darcy._solve

    def failing(self, inputs):
        if self.solver == "direct":
            raise SolverError("no factors today\nnor tomorrow")
        return solve(self, inputs)

    monkeypatch.setattr(Darcy, "_solve", failing)
    inputs, truth = fields(DARCY)
    surrogate = surrogate_of(Ready(lambda a: 0 * a, clock, 1.0), DARCY)
    speed = measure_speed(surrogate, DARCY, inputs, truth, None, budget=3 * 81 * 60, clock=clock)
    assert "9 x 9, tolerance 1e-09, direct" in speed.failed
    assert set(speed.failed.values()) == {"no factors today"}
    reasons = {name: reason for name, reason in speed.skipped.items() if name.startswith("33")}
    assert set(reasons.values()) == {"its inputs are not known on a grid finer than the surrogate's"}
    tight = measure_speed(surrogate, DARCY, inputs, truth, None, budget=3 * 81 * 8, clock=clock)
    assert "it does not fit the time allowed" in tight.skipped.values()
    assert tight.spent < 2 * tight.budget
    none = measure_speed(surrogate, DARCY, inputs, truth, None, budget=1e-9, clock=clock)
    assert not none.settings and none.verdict == "undefined" and "no solver setting" in speed_text(none.record())


def test_a_surrogate_that_explodes_has_no_speed(clock):
    inputs, truth = fields(BURGERS)
    surrogate = surrogate_of(Ready(lambda u: u * 1e200 * u.abs()), BURGERS)
    speed = measure_speed(surrogate, BURGERS, inputs, truth, 3, budget=1e9, clock=clock)
    assert speed.surrogate is None and speed.verdict == "undefined"
    assert "undefined" in speed_text(speed.record())
    json.dumps(speed.record(), allow_nan=False)
    assert pareto_picture(speed.record()).png[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match=r"budget must be positive .* got -1"):
        measure_speed(surrogate, BURGERS, inputs, truth, 3, budget=-1)


@pytest.mark.parametrize("pde", [DARCY, BURGERS, FLOW], ids=lambda p: p.equation)
def test_an_untrained_network_end_to_end(pde, tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path))
    for name, value in {"POINTS_PER_BATCH": 2**11, "REPEATS": 2, "WARM_UP": 1}.items():  # by this clock batches pay
        monkeypatch.setattr(speed_module, name, value)
    ticks = itertools.count()
    stored = ensure(pde, "test", 4, 0, workers=1)
    inputs, truth = as_channels(pde, pair(pde, stored.load(4)))
    horizon = None if pde.times is None else len(pde.times) - 1
    surrogate = untrained(pde, data={"train": 100, "val": 10, "mode": "stored"})
    first = 2 * 2**32  # of the test split
    speed = measure_speed(
        surrogate, pde, inputs, truth, horizon, budget=0.6, training=5.0, fine=lambda p: p.sample(4, 0, first),
        clock=lambda: 1e-3 * next(ticks),
    )  # fmt: skip
    record = speed.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["device"] == "cpu" and record["threads"] == 1 and record["horizon"] == horizon
    assert record["samples"] == 4 and record["settings"]
    assert record["surrogate"]["error"] > 0.3
    assert min(p["error"] for p in record["settings"]) < 0.3
    assert math.isclose(record["seconds_of_data"], 110e-3 / pde.tile())
    text = speed_text(record)
    assert record["verdict"] in text and "test samples" in text
    assert pareto_picture(record).png[:4] == b"\x89PNG"

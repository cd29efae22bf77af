"""Evolution equations end to end: rollout of surrogates, evaluation of models whose answers are known, reports."""

import dataclasses
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import opkit
from opkit.cli import main
from opkit.datamodule import MemoryFields
from opkit.errors import ConfigError
from opkit.evaluation.figures import percent_axis, render
from opkit.evaluation.protocol import fine_problems, measure
from opkit.evaluation.records import Records, resolution_rows
from opkit.evaluation.verdicts import label_verdict
from opkit.grid import Grid, Spec
from opkit.models import FNO
from opkit.models.base import Operator
from opkit.normalize import Normalizer
from opkit.pdes import Burgers, Darcy, NavierStokes
from opkit.registry import Architecture
from opkit.settings import Data, Evaluation, Stepping
from opkit.stepping import stepped, time_step
from opkit.surrogate import PhysicalOperator, Surrogate, residual_channels

PDE = Burgers(resolution=48, label_resolution=96, modes=12, times=(0, 0.1, 0.2, 0.3), viscosity=0.2, tail=1.0)
DATA = Data(train=6, val=2, test=6, test_fine=4)
SETTINGS = Evaluation(resolutions=(72, 96), resamples=200)


class Solver(Operator):
    """The exact step of the equation, as if it had been learned."""

    def __init__(self, pde, factor=1.0):
        super().__init__()
        self.pde = dataclasses.replace(pde, times=pde.times[:2].tolist())
        self.factor = torch.nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, u):
        return self.factor * self.pde.on(u.shape[-1])._solve(u)[0][:, 1]


def surrogate_of(operator, pde):
    plain = [Normalizer(torch.zeros(n), torch.ones(n)).double() for n in (len(pde.inputs), len(pde.outputs))]
    physics = {"pde": pde.equation, "time_step": time_step(pde.times)}
    return Surrogate(PhysicalOperator(operator, *plain), Architecture("fno"), pde.spec, physics)


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))


def test_the_exact_step_rolled_out_is_the_solution():
    a = PDE.sample(3)
    path = surrogate_of(Solver(PDE), PDE).rollout(a, 3)
    assert path.shape == (3, 3, 1, 48)
    torch.testing.assert_close(path, PDE.solve(a)[:, 1:], rtol=0, atol=1e-12)
    single = surrogate_of(Solver(PDE), PDE).rollout(a[0].numpy(), 2)
    assert isinstance(single, np.ndarray)
    np.testing.assert_allclose(single, path[0, :2].numpy(), rtol=0, atol=1e-12)


def test_constant_channels_stay_through_a_rollout():
    pde = dataclasses.replace(PDE, viscosity=(0.2, 0.9))
    a = pde.sample(3)
    path = surrogate_of(Solver(pde), pde).rollout(a, 3)
    assert path.shape == (3, 3, 1, 48)
    torch.testing.assert_close(path, pde.solve(a)[:, 1:], rtol=0, atol=1e-12)


def test_the_exact_step_has_no_error_but_the_labels_restriction(one_thread):
    measured = measure(surrogate_of(Solver(PDE.on(96)), PDE), PDE, DATA, SETTINGS, workers=1)
    finest = measured.fine[-1]
    assert finest.resolution == 96 and finest.errors["surrogate"]["rel_l2"].max() < 1e-6
    assert measured.coarse.steps["surrogate"].shape == (6, 3)
    assert measured.label_error.shape == (1, 4)


def test_data_brought_to_a_grid_without_aliases_are_another_test(one_thread):
    """Waves that the middle grid cannot hold turn into others when points are kept; the exact solver of the filtered
    field is not the filtered solution, but nearly."""
    rough = dataclasses.replace(PDE, modes=40, alpha=1.0, sigma=3.0, label_resolution=192)
    settings = Evaluation(resolutions=(96, 192), resamples=200, suite="quick")
    measured = measure(surrogate_of(Solver(rough.on(48)), rough), rough, DATA, settings, workers=1)
    middle, finest = measured.fine
    assert finest.filtered is None and measured.coarse.filtered.shape == middle.filtered.shape == (4,)
    assert middle.filtered.max() < 0.1 and (middle.filtered != middle.errors["surrogate"]["rel_l2"]).all()
    # The training grid holds 23 of the 40 waves: kept at its points, the others are aliases; the truth has none.
    assert (measured.coarse.filtered < measured.coarse.errors["surrogate"]["rel_l2"][:4]).all()
    assert middle.representation.shape == (4,) and middle.representation.max() < 0.1


ROUGH = Burgers(
    resolution=24, label_resolution=192, modes=6, times=(0, 0.2, 0.4), viscosity=0.05, tail=1.0, unresolved="accept"
)
"""Fronts that 24 points cannot hold: a tenth of the solution is finer."""
ROUGH_SETTINGS = Evaluation(resolutions=(96, 192), resamples=200, suite="quick")


def test_the_exact_solver_super_resolves_where_there_is_something_to_resolve(one_thread):
    data = dataclasses.replace(DATA, test_fine=6)
    measured = measure(surrogate_of(Solver(ROUGH), ROUGH), ROUGH, data, ROUGH_SETTINGS, workers=1)
    make = Records(ROUGH_SETTINGS)
    rows, _, home = resolution_rows(make, measured, 2, 0.2, "native", 1, False)
    assert [row["verdict"] for row in rows] == ["super-resolves"] * 2
    middle, finest = rows
    assert finest["scales"]["truth_unresolved"]["value"] > 0.05
    assert finest["scales"]["unresolved_gain"]["value"] > 1 - 1e-6
    # On 96 points the exact solution is found, on 192 the labels' own error stands.
    assert 0 < middle["data_accuracy"]["value"] < 1e-4 and 0 < finest["data_accuracy"]["value"] < 1e-3
    # Filtered, the truth on 24 points is its first waves; the input, of six, stays as it is.
    a = ROUGH.on(192).sample(6, 0, 2 * 2**32)
    waves = torch.fft.rfft(ROUGH.on(192).solve(a)[:, 1:, 0], norm="forward")[..., :13]
    waves[..., 12] = 2 * waves[..., 12].real
    cut = torch.fft.irfft(waves, n=24, norm="forward")
    own = ROUGH.solve(a[..., ::8])[:, 1:, 0]
    expected = (own - cut).flatten(1).norm(dim=1) / cut.flatten(1).norm(dim=1)
    torch.testing.assert_close(measured.coarse.filtered, expected, rtol=1e-4, atol=0)
    assert home["divergence_time"]["censored"] == finest["divergence_time"]["censored"] == 1
    assert finest["last_frame"]["log_spectral_distance"] < 1e-3 < home["last_frame"]["log_spectral_distance"]


def test_a_rollout_that_piles_up_on_fine_grids_alone_is_told_from_one_step(one_thread):
    """Beyond the training grid's waves it leaves a wave of twelve times the size: on the training grid nothing."""

    class Ringing(Solver):
        def forward(self, u):
            n = u.shape[-1]
            alternating = 1.0 - 2.0 * (torch.arange(n) % 2).double()
            return super().forward(u) + (12.0 * alternating if n > 24 else 0.0)

    measured = measure(surrogate_of(Ringing(ROUGH), ROUGH), ROUGH, DATA, ROUGH_SETTINGS, workers=1)
    assert not measured.coarse.failures.observed.any()
    for grids in measured.fine:
        assert grids.failures.observed.all() and grids.failures.time.tolist() == pytest.approx([0.2] * 4)
    row = resolution_rows(Records(ROUGH_SETTINGS), measured, 2, 0.2, "native", 1, False)[0][0]
    assert "it diverges after 0.2 time units there, after 0.4 or more on 24 points" in row["text"]


def test_errors_by_step_and_block_are_the_hand_computed_ones(one_thread):
    """A model that is exact but for a factor 1.1 per step errs by 1.1^k - 1 after k of them where the map is linear: a
    field so weak that it only diffuses."""
    weak = dataclasses.replace(PDE, sigma=1e-9, mean="keep", label_resolution=48)
    measured = measure(surrogate_of(Solver(weak, 1.1), weak), weak, DATA, Evaluation(resamples=200), workers=1)
    expected = torch.tensor([0.1, 0.21, 0.331], dtype=torch.float64).expand(6, 3)
    torch.testing.assert_close(measured.coarse.steps["surrogate"], expected, rtol=1e-5, atol=0)
    block = measured.coarse.errors["surrogate"]["rel_l2"]
    assert (block > 0.1).all() and (block < 0.331).all()
    a = weak.sample(6, first=2 * 2**32)
    u = weak.solve(a)
    kept = (u[:, 1:] - u[:, :1]).flatten(1).norm(dim=1) / u[:, 1:].flatten(1).norm(dim=1)
    torch.testing.assert_close(measured.coarse.errors["persistence"]["rel_l2"], kept, rtol=1e-5, atol=0)
    # srmse: each frame's error over one standard deviation of the training data, then their mean.
    deviation = float(weak.solve(weak.sample(6))[:, 1:].std(correction=0))
    size = expected * u[:, 1:, 0].square().mean(2).sqrt() / deviation
    torch.testing.assert_close(measured.coarse.errors["surrogate"]["srmse"], size.mean(1), rtol=1e-5, atol=0)


def test_a_rollout_that_explodes_is_undefined_not_a_crash():
    class Explosive(Solver):
        def forward(self, u):
            return 1e30 * u * u.abs()

    measured = measure(surrogate_of(Explosive(PDE), PDE), PDE, DATA, SETTINGS, workers=1)
    assert not torch.isfinite(measured.coarse.errors["surrogate"]["rel_l2"]).any()
    assert measured.samples[0].role == "best"


def test_fine_grids_that_are_not_nested_are_solved_apart():
    assert [p.resolution for p in fine_problems(PDE, SETTINGS)] == [96, 72]
    assert [p.resolution for p in fine_problems(PDE, Evaluation(resolutions=(96, 192)))] == [192]


@pytest.mark.parametrize(
    ("error", "label", "verdict"),
    [(0.01, 0.001, "measured"), (0.01, 0.005, "below label error"), (0.01, None, "unknown")],
)
def test_labels_that_are_no_better_than_the_model_are_called_so(error, label, verdict):
    found = label_verdict({"value": error}, {"value": label, "n": 3, "reason": "none was refined"})
    assert found["verdict"] == verdict


class Extrapolate(Operator):
    """Frames that continue a straight line through the last two given: exact for u = p + q t."""

    def __init__(self, stepping, constants):
        super().__init__()
        self.stepping, self.constants = stepping, constants
        self.one = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, u):
        before, last = u[:, self.stepping.history - 2, None], u[:, self.stepping.history - 1, None]
        assert (u[:, self.stepping.history :] == 7).all()  # constant channels
        ahead = [self.one * (k * (last - before)) for k in range(1, self.stepping.bundle + 1)]
        shift = 0 if self.stepping.target == "residual" else last
        return torch.cat([shift + step for step in ahead], 1)


@pytest.mark.parametrize("target", ["absolute", "residual"])
@pytest.mark.parametrize(("history", "bundle", "steps"), [(2, 1, 5), (2, 2, 5), (3, 4, 4), (4, 3, 7), (2, 5, 3)])
def test_a_rollout_with_history_and_bundles(history, bundle, steps, target):
    """A straight line in time is continued exactly, whatever the number of frames in and out."""
    stepping = Stepping(history, bundle, target)
    pde = dataclasses.replace(PDE, viscosity=(0.2, 0.9), times=tuple(0.1 * k for k in range(history + bundle)))
    spec = stepped(pde.spec, stepping, pde.times)
    assert (len(spec.inputs), len(spec.outputs)) == (history + 1, bundle)
    plain = [Normalizer(torch.zeros(n), torch.ones(n)).double() for n in (history + 1, bundle)]
    operator = PhysicalOperator(Extrapolate(stepping, 1), *plain, residual_channels(spec, stepping))
    surrogate = Surrogate(operator, Architecture("fno"), spec, {"time_step": 0.1}, stepping=stepping)
    p, q = torch.randn(2, 3, 1, 48, dtype=torch.float64)
    line = torch.stack([p[:, 0] + k * q[:, 0] for k in range(history + steps)], 1)
    given = torch.cat([line[:, :history], torch.full((3, 1, 48), 7.0, dtype=torch.float64)], 1)
    path = surrogate.rollout(given, steps)
    assert path.shape == (3, steps, 1, 48)
    torch.testing.assert_close(path[:, :, 0], line[:, history:], rtol=0, atol=1e-11)
    torch.testing.assert_close(surrogate.rollout(given[0], steps), path[0], rtol=0, atol=1e-12)


def test_frames_one_by_one_are_those_of_the_rollout():
    """In bundles and alone, torch and numpy; what cannot be stepped is refused at once."""
    stepping = Stepping(history=2, bundle=3)
    pde = dataclasses.replace(PDE, viscosity=(0.2, 0.9), times=tuple(0.1 * k for k in range(5)))
    spec = stepped(pde.spec, stepping, pde.times)
    plain = [Normalizer(torch.zeros(n), torch.ones(n)).double() for n in (3, 3)]
    operator = PhysicalOperator(Extrapolate(stepping, 1), *plain, residual_channels(spec, stepping))
    surrogate = Surrogate(operator, Architecture("fno"), spec, {"time_step": 0.1}, stepping=stepping)
    given = torch.cat([torch.randn(2, 2, 48), torch.full((2, 1, 48), 7.0)], 1).double()
    path = surrogate.rollout(given, 7)
    assert torch.equal(torch.stack(list(itertools.islice(surrogate.frames(given), 7)), 1), path)
    [first] = itertools.islice(surrogate.frames(given[0].numpy()), 1)
    assert isinstance(first, np.ndarray) and np.array_equal(first, path[0, 0].numpy())
    with pytest.raises(ValueError, match="3 channel"):
        surrogate.frames(given[:, :2])
    with pytest.raises(TypeError, match="steady"):
        Surrogate(operator, Architecture("fno"), spec, {"time_step": None}).frames(given)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads a process's memory from /proc")
@pytest.mark.slow
def test_ten_thousand_frames_take_no_more_memory_than_one():
    """A frame has 8 kB: kept, they would take 80 MB."""
    operator = FNO(1, 1, (4,), 2, n_layers=1, projection_width=2, location="periodic")
    one = [Normalizer(torch.zeros(1), torch.ones(1)) for _ in range(2)]
    spec = Spec(("w",), ("w",), Grid((1024,), "periodic"))
    surrogate = Surrogate(PhysicalOperator(operator, *one), Architecture("fno"), spec, {"time_step": 0.1})
    frames = surrogate.frames(torch.randn(1, 1024, dtype=torch.float64))
    sizes = {}
    for k in range(10_000):
        frame = next(frames)
        if k in (500, 9_999):
            sizes[k] = resident()
    assert frame.shape == (1, 1024)
    assert sizes[9_999] - sizes[500] < 3e6


def test_names_of_channels_say_which_frame():
    pde = dataclasses.replace(PDE, viscosity=(0.2, 0.9))
    spec = stepped(pde.spec, Stepping(history=2, bundle=2), pde.times)
    assert spec.inputs == ("u[-1]", "u[0]", "viscosity") and spec.outputs == ("u[1]", "u[2]")


@pytest.mark.parametrize(
    ("pde", "stepping", "said"),
    [
        (PDE, Stepping(history=3, bundle=2), "need 5 frames, but pde.times has 4"),
        (Darcy(resolution=9), Stepping(target="residual"), "stepping.target=residual: this equation is steady"),
    ],
)
def test_stepping_that_cannot_be_is_refused(pde, stepping, said):
    with pytest.raises(ConfigError, match=said):
        stepped(pde.spec, stepping, pde.times)


def test_a_run_with_history_and_residual_targets(tmp_path, capsys):
    """Seven frames, two given: the rollout has five steps; the bundle knows how to step and loads as it was."""
    run = tmp_path / "run"
    settings = [
        "pde.resolution=32", "pde.label_resolution=64", "pde.modes=6", "pde.times=[0,0.1,0.2,0.3,0.4,0.5,0.6]",
        "pde.viscosity=0.5", "pde.unresolved=accept", "model.n_modes=[8]", "stepping.history=2", "stepping.bundle=2",
        "stepping.target=residual", "evaluation.resolutions=[48,64]",
    ]  # fmt: skip
    assert main(["train", "--model", "fno", "--pde", "burgers", *TINY, *settings, f"run_dir={run}"]) == 0
    report = json.loads((run / "evaluation" / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["horizon"] == 5 and report["resolution_mode"] == "native"
    assert report["stepping"] == {"history": 2, "bundle": 2, "target": "residual"}
    surrogate = opkit.load(run)
    assert surrogate.spec.inputs == ("u[-1]", "u[0]") and surrogate.stepping.target == "residual"
    # The fitted normaliser is that of the changes, which are smaller than the states.
    assert surrogate.model.output_normalizer.std[0] < surrogate.model.input_normalizer.std[0] / 2
    assert main(["verify", str(run)]) == 0
    assert "confirmed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.6, 9.0, ["100%", "200%", "500%"]),
        (0.015, 0.3, ["2%", "5%", "10%", "20%"]),
        (0.9e-5, 2.0, ["0.001%", "0.01%", "0.1%", "1%", "10%", "100%"]),
        (0.0121, 0.0137, ["1.22%", "1.24%", "1.26%", "1.28%", "1.3%", "1.32%", "1.34%", "1.36%"]),
    ],
)
def test_ticks_are_percent_all_of_them(low, high, shown):
    def draw(figure):
        axis = figure.subplots()
        axis.set_yscale("log")
        axis.set_ylim(low, high)
        percent_axis(axis)

    axis = render(draw, 6.4, 4.2)._figure.axes[0]
    ticks = [(t.get_loc(), t.label1.get_text()) for t in [*axis.yaxis.get_major_ticks(), *axis.yaxis.get_minor_ticks()]]
    assert [text for where, text in ticks if low <= where <= high] == shown


def test_uneven_frames_cannot_be_stepped():
    with pytest.raises(ConfigError, match="not evenly spaced"):
        time_step(Burgers(times=(0, 0.1, 0.3)).times)


def test_memory_fields_of_a_steady_problem_are_samples():
    assert len(MemoryFields(torch.zeros(4, 1, 8), torch.zeros(4, 1, 8))) == 4


TINY = [
    "data.train=6", "data.val=2", "data.test=4", "data.test_fine=2", "data.batch_size=4", "trainer.max_epochs=1",
    "trainer.accelerator=cpu", "evaluation.resamples=100", "evaluation.suite=quick",
    "evaluation.timing=0", "compile=false", "workers=1",
    "model.width=4", "model.projection_width=8",
]  # fmt: skip


@pytest.mark.parametrize(
    ("pde", "settings"),
    [
        ("burgers", ["pde.resolution=64", "pde.label_resolution=256", "model.n_modes=[8]", "pde.viscosity=[0.2,0.5]"]),
        (
            "navier_stokes",
            ["pde.resolution=16", "pde.label_resolution=32", "pde.modes=5", "pde.times=[0,0.2,0.4,0.6]",
             "model.n_modes=[8,8]", "evaluation.resolutions=[24,32]"],
        ),
    ],
)  # fmt: skip
def test_a_run_from_data_to_bundle(pde, settings, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", "--model", "fno", "--pde", pde, *TINY, *settings, f"run_dir={run}"]) == 0
    report = json.loads((run / "evaluation" / "report.json").read_text(), parse_constant=pytest.fail)
    horizon = 1 if pde == "burgers" else 3
    own = [m for m in report["metrics"] if m["resolution"] == report["training_resolution"]]
    assert all(m["horizon"] == horizon for m in own if m["name"] == "rel_l2")
    assert {m["horizon"] for m in own if m["name"] == "rel_l2_step"} == ({1} if horizon == 1 else {1, 2, 3})
    assert {m["model"] for m in own} == {"surrogate", "mean", "persistence", "climate", "solver"}
    assert report["label_error"]["value"] > 0
    assert "Rollout" in (run / "evaluation" / "report.html").read_text() or horizon == 1
    surrogate = opkit.load(run)
    physics = json.loads((run / "surrogate" / "physics.json").read_text())
    assert physics["time_step"] == pytest.approx(1.0 if pde == "burgers" else 0.2)
    shape = (2, len(surrogate.spec.inputs), *surrogate.spec.grid.shape)
    assert surrogate.rollout(np.random.default_rng(0).normal(size=shape), steps=4).shape[:3] == (2, 4, 1)
    assert main(["verify", str(run)]) == 0
    assert "confirmed" in capsys.readouterr().out
    assert report["rollout"]["steps"] == 10 * horizon and report["rollout"]["reference_steps"] == horizon
    assert main(["evaluate", str(run), "--gate", "rel_l2<0.000001"]) == 3
    assert main(["evaluate", str(run), "--gate", "divergence_time>0,correlation_time>=0"]) == 0
    assert Path(run / "surrogate" / "README.md").read_text().count("rel_l2_step") >= 1


def test_a_range_of_parameters_survives_the_bundle(tmp_path):
    """physics.json speaks JSON, which has no tuples."""
    from opkit.registry import problem_of

    pde = NavierStokes(viscosity=(1e-3, 1e-2), times=(0, 1))
    physics = json.loads(json.dumps({"pde": "navier_stokes", "parameters": pde.parameters()}))
    assert problem_of(physics) == pde

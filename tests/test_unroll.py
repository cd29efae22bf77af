"""Training through the surrogate's own output: losses and gradients of a map whose powers are known."""

import math

import pytest
import torch
from conftest import SMALL
from torch import Tensor, nn

from opkit.cli import main
from opkit.errors import ConfigError
from opkit.grid import Grid, Spec
from opkit.models import Operator
from opkit.normalize import Normalizer
from opkit.pdes.burgers import Burgers
from opkit.pdes.darcy import Darcy
from opkit.settings import Optim, Stepping, Unroll
from opkit.stepping import roll_out, unrolled
from opkit.surrogate import PhysicalOperator
from opkit.task import SupervisedTask

W, NU = 0.9, 2.0
"""The map is u -> (w + nu) u, nu a constant channel."""


class Scale(Operator):
    def __init__(self, in_channels: int = 2, out_channels: int = 1, ndim: int = 1):
        super().__init__()
        self.in_channels, self.ndim = in_channels, ndim
        self.w = nn.Parameter(torch.tensor(W))

    def forward(self, u: Tensor) -> Tensor:
        return (self.w + u[:, 1:]) * u[:, :1]


def task(unroll: Unroll, std: float = 1.0) -> SupervisedTask:
    plain = Normalizer(torch.zeros(1), torch.ones(1))
    model = PhysicalOperator(Scale(), Normalizer(torch.zeros(2), torch.tensor([std, std])), plain)
    spec = Spec(("u", "nu"), ("u",), Grid((8,), location="periodic"))
    return SupervisedTask(model, spec, Optim(), 1, unroll=unroll)


def step(unroll: Unroll, wanted: list[float]) -> tuple[float, float]:
    """(loss, its derivative by w) of one item: u = 1 everywhere, the k-th frame `wanted[k]` everywhere."""
    trained = task(unroll)
    inputs = torch.tensor([1.0, NU])[None, :, None].expand(1, 2, 8)
    loss = trained.training_step((inputs, torch.tensor(wanted)[None, :, None].expand(1, -1, 8)), 0)
    loss.backward()
    return loss.item(), trained.model.operator.w.grad.item()


def test_the_loss_is_that_of_the_whole_trajectory():
    """Frames s, s^2, s^3 with s = w + nu, against 1, 1, 1."""
    s = W + NU
    errors, slopes = [s - 1, s**2 - 1, s**3 - 1], [1, 2 * s, 3 * s**2]
    square = sum(e * e for e in errors)
    loss, gradient = step(Unroll(steps=3), [1.0, 1.0, 1.0])
    assert loss == pytest.approx(math.sqrt(square / 3), rel=1e-5)
    wanted = sum(e * d for e, d in zip(errors, slopes, strict=True)) / math.sqrt(3 * square)
    assert gradient == pytest.approx(wanted, rel=1e-5)


def test_one_step_is_plain_training():
    loss, gradient = step(Unroll(), [2.0])
    assert loss == pytest.approx((W + NU - 2) / 2, rel=1e-5)
    assert gradient == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("unroll", "frames", "slope"),
    [
        (Unroll(steps=2, gradient=1), [2], lambda s: s),  # pushforward: s times a state s that is taken as given
        (Unroll(steps=3, gradient=1), [3], lambda s: s**2),
        (Unroll(steps=3, gradient=2, loss="last"), [3], lambda s: 2 * s**2),
        (Unroll(steps=3, loss="last"), [3], lambda s: 3 * s**2),
    ],
    ids=["pushforward", "pushed twice", "last two", "last frame"],
)
def test_gradients_pass_through_the_last_calls_alone(unroll, frames, slope, monkeypatch):
    monkeypatch.setattr(SupervisedTask, "_pushed", staticmethod(lambda most: most))
    s = W + NU
    loss, gradient = step(unroll, [1.0] * unroll.steps)
    assert loss == pytest.approx(s ** frames[0] - 1, rel=1e-5)
    assert gradient == pytest.approx(slope(s), rel=1e-5)


def test_some_batches_are_not_pushed():
    """With one call pushed at most, half of the losses are those of a first step and half those of a second one."""
    s, losses = W + NU, []
    for seed in range(60):
        torch.manual_seed(seed)
        losses.append(step(Unroll(steps=2, gradient=1), [1.0, 2.0])[0])
    first, second = s - 1, (s**2 - 2) / 2
    assert {round(loss, 4) for loss in losses} == {round(first, 4), round(second, 4)}
    assert 20 < sum(abs(loss - first) < 1e-3 for loss in losses) < 40


def test_checkpointing_keeps_less_and_changes_nothing():
    """Loss and gradient are the same; of six calls, only their inputs are kept for the backward pass."""

    def trained(checkpointing: bool) -> tuple[float, float, int]:
        kept = 0

        def note(v: Tensor) -> Tensor:
            nonlocal kept
            kept += 1
            return v

        made = task(Unroll(steps=6, checkpointing=checkpointing))
        inputs = torch.tensor([1.0, NU])[None, :, None].expand(1, 2, 8)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda v: v):
            loss = made.training_step((inputs, torch.ones(1, 6, 8)), 0)
        loss.backward()
        return loss.item(), made.model.operator.w.grad.item(), kept

    (loss, gradient, many), (same, equal, few) = trained(False), trained(True)
    assert (loss, gradient) == pytest.approx((same, equal), rel=1e-6)
    assert few < many - 6


def test_a_bundle_and_a_history_go_round_as_they_should():
    """w[1] = 2 w[0] - w[-1], w[2] = 3 w[0] - 2 w[-1]: a straight line continues."""

    def extrapolate(u: Tensor) -> Tensor:
        before, last = u[:, :1], u[:, 1:2]
        return torch.cat([2 * last - before, 3 * last - 2 * before], 1)

    line = torch.arange(2.0)[None, :, None].expand(1, 2, 4)
    frames = torch.cat(roll_out(extrapolate, torch.cat([line, torch.full((1, 1, 4), 7.0)], 1), 2, 3), 1)
    assert torch.equal(frames[0, :, 0], torch.arange(2.0, 8.0))


def test_noise_has_its_size_and_spares_constants():
    torch.manual_seed(0)
    trained = task(Unroll(noise=0.1), std=3.0)
    noisy = trained._noisy(torch.zeros(4000, 2, 8))
    assert float(noisy[:, 0].std()) == pytest.approx(0.3, rel=0.02)
    assert not noisy[:, 1].any()


@pytest.mark.parametrize("growth", [0.5, 1.0])
def test_the_length_grows_evenly(growth, monkeypatch):
    trained = task(Unroll(steps=4, growth=growth))
    lengths = []
    for epoch in range(16):
        trainer = type("Trainer", (), {"max_epochs": 16, "current_epoch": epoch})()
        monkeypatch.setattr(SupervisedTask, "trainer", trainer, raising=False)
        monkeypatch.setattr(SupervisedTask, "current_epoch", epoch)
        lengths.append(trained._calls())
    of_each = int(16 * growth) // 4
    assert lengths == sorted(lengths)
    assert [lengths.count(n) for n in (1, 2, 3)] == [of_each] * 3


BURGERS = [s for s in SMALL if not s.startswith("pde.") and s != "--pde" and s != "darcy"] + [
    "--pde", "burgers", "pde.resolution=32", "pde.label_resolution=32", "pde.times=[0,0.1,0.2,0.3,0.4,0.5]",
    "pde.viscosity=0.5", "pde.unresolved=accept", "model.n_modes=[8]", "evaluation.resolutions=[48]",
]  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        ["unroll.steps=3", "unroll.noise=0.01", "unroll.growth=1"],
        pytest.param(
            [
                "unroll.steps=2",
                "unroll.gradient=1",
                "stepping.history=2",
                "stepping.bundle=2",
                "stepping.target=residual",
            ],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["unrolled", "pushforward"],
)
def test_a_whole_run(settings, tmp_path, monkeypatch, capsys):
    """Also resumed: noise is a function of the step."""
    monkeypatch.setenv("OPKIT_DATA", str(tmp_path / "data"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", *BURGERS, *settings, f"run_dir={whole}"]) == 0
    original = SupervisedTask.training_step

    def stop(self, batch, i):
        if (self.current_epoch, i) == (1, 2):
            raise KeyboardInterrupt
        return original(self, batch, i)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTask, "training_step", stop)
        assert main(["train", *BURGERS, *settings, f"run_dir={parts}"]) == 130
    assert main(["train", *BURGERS, *settings, f"run_dir={parts}", "--resume"]) == 0
    ours, theirs = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (parts, whole)
    )
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize(
    ("pde", "unroll", "said"),
    [
        (Darcy(resolution=9), Unroll(steps=2), "unroll.steps=2: this equation is steady"),
        (Darcy(resolution=9), Unroll(noise=0.1), "unroll.noise=0.1: this equation is steady"),
        (Burgers(resolution=32, times=(0, 0.5, 1.0)), Unroll(steps=3), "unroll.steps=3 needs 4 frames"),
    ],
)
def test_what_cannot_be_unrolled_is_refused(pde, unroll, said):
    with pytest.raises(ConfigError, match=said):
        unrolled(Stepping(), unroll, pde.times)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"steps": 0}, "unroll.steps must be at least 1, got 0"),
        ({"steps": 2, "gradient": 3}, "unroll.gradient must not be above unroll.steps=2, got 3"),
        ({"noise": -1.0}, "unroll.noise must not be negative"),
        ({"growth": 1.5}, "unroll.growth is a fraction"),
    ],
)
def test_settings_out_of_range_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Unroll(**values)

"""How long an FNO stays right, and stays in bounds, on its own output: what each way of training it changes.

    python benchmarks/stability.py [--seeds 3] [--only one_step unroll] [--runs DIR]

Forced turbulence on 32 x 32 points (Kolmogorov flow, viscosity 0.01, drag 0.1), one step being a quarter of a time
unit; all variants see the same 24 trajectories of 40 steps for the same number of epochs, whatever that costs them.
Measured on 16 further trajectories, from a state of developed flow on:

    one step     relative L2 error of the first step
    correlated   steps until the correlation with the truth falls below 0.8, the median trajectory (at most 80)
    in bounds    steps until the field is not finite or twice as large as the truth ever is, the median (at most 1000)
    survive      share of trajectories in bounds after 1000 steps
    size         r.m.s. vorticity of the last 500 steps of those that survive, over the truth's

Each as the mean over seeds of the weights, and the least and greatest. A finished run in DIR is not trained again.
"""

import argparse
import csv
import statistics
import tempfile
from pathlib import Path

import torch
import yaml

import opkit
from opkit import registry
from opkit.cli import main as command
from opkit.pdes import PDE

STEPS, COMPARED, START = 1000, 80, 20
"""Steps of a rollout, steps compared with the truth, frame of the test trajectories it begins with."""
PROBLEM = [
    "--pde", "navier_stokes-kolmogorov", "pde.resolution=32", "pde.label_resolution=64", "pde.modes=15",
    "pde.label_restriction=spectral", "pde.initial_amplitude=12",
    f"pde.times={[i / 4 for i in range(41)]}", "data.train=24", "data.val=4",
    "data.test=4", "data.test_fine=2", "data.batch_size=20", "evaluation.resolutions=[48,64]",
    "evaluation.resamples=100",
]  # fmt: skip
NETWORK = [
    "--model", "fno", "model.n_modes=[16,16]", "model.width=20", "model.projection_width=64", "model.lifting_width=0",
    "model.mlp_expansion=0",
]  # fmt: skip
STABLE = ["model.skip=none", "model.mlp_expansion=2", "model.mlp_skip=identity"]
FILTERS = [*STABLE, "model.spectral_norm=true", "model.width=48", "optim.lr=1e-2"]
"""One number per channel and mode is little: these networks are wider, and still have fewer parameters; and they learn
better at a higher rate."""
TRAINING = ["trainer.max_epochs=20", "trainer.accelerator=cpu", "optim.lr=3e-3", "compile=false"]
VARIANTS: dict[str, list[str]] = {
    "one_step": [],
    "residual": ["stepping.target=residual"],
    "rel_h1": ["loss.terms=rel_h1"],
    "noise": ["unroll.noise=0.01"],
    "pushforward": ["unroll.steps=2", "unroll.gradient=1"],
    "unroll": ["unroll.steps=4"],
    "growth": ["unroll.steps=4", "unroll.growth=0.5"],
    "bundle": ["stepping.bundle=4"],
    "resolutions": ["data.resolutions=[32,16]"],
    "mlp": STABLE,
    "spectral_norm": [*STABLE, "model.spectral_norm=true"],
    "bounded": [*FILTERS, "model.filters=bounded"],
    "dynamic": [*FILTERS, "model.filters=dynamic"],
}


def train(variant: str, seed: int, run: Path) -> float:
    """The run's seconds of training."""
    if not (run / "evaluation" / "report.json").exists():
        own = [*VARIANTS[variant], f"seed={seed}", f"run_dir={run}", *(["--resume"] if run.exists() else [])]
        code = command(["train", *PROBLEM, *NETWORK, *TRAINING, *own])
        if code:
            raise SystemExit(f"{run}: opkit train ended with {code}")
    with open(run / "metrics.csv", newline="") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def problem(run: Path) -> PDE:
    """The equation of a run, its trajectories long enough to compare with."""
    config = yaml.safe_load((run / "config.yaml").read_text())["pde"]
    name = config.pop("name")
    times = [i / 4 for i in range(START + COMPARED + 1)]
    return registry.pde_class(name)(**registry.tuples(config | {"times": times}))


def correlation(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Pearson's, of fields `(n, t, *x)`, frame by frame."""
    a, b = (v - v.mean(2, keepdim=True) for v in (a.flatten(2), b.flatten(2)))
    return (a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2))


def first(failed: torch.Tensor, most: int) -> torch.Tensor:
    """The first frame, counted from 1, of `(n, t)` that failed, less one: steps that went well."""
    return torch.where(failed.any(1), failed.int().argmax(1), most)


def measure(run: Path, truth: torch.Tensor) -> dict[str, float]:
    surrogate = opkit.load(run)
    with torch.no_grad():
        path = surrogate.rollout(truth[:, START].float(), steps=STEPS)[:, :, 0].double()
    truth = truth[:, START + 1 :, 0]
    error = (path[:, 0] - truth[:, 0]).flatten(1).norm(dim=1) / truth[:, 0].flatten(1).norm(dim=1)
    size = path.square().mean((2, 3)).sqrt()
    usual = truth.square().mean((2, 3)).sqrt()
    within = first(~(size < 2 * usual.max()), STEPS)
    right = first(~(correlation(path[:, :COMPARED], truth) > 0.8), COMPARED)
    lasting = within == STEPS
    late = size[lasting][:, STEPS // 2 :].mean().item() / usual.mean().item() if lasting.any() else float("nan")
    return {
        "one step": error.mean().item(), "correlated": float(right.median()), "in bounds": float(within.median()),
        "survive": lasting.double().mean().item(), "size": late,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "opkit-stability")
    given = parser.parse_args()
    truth, lines = None, []
    for variant in given.only:
        found, seconds = [], []
        for seed in range(given.seeds):
            run = given.runs / f"{variant}-{seed}"
            seconds.append(train(variant, seed, run))
            if truth is None:
                equation = problem(run)
                truth = equation.solve(equation.sample(16, seed=10_000))
            found.append(measure(run, truth))
        columns = []
        for name in found[0]:
            values = [f[name] for f in found]
            columns.append(f"{statistics.fmean(values):9.3g} ({min(values):.3g}..{max(values):.3g})".ljust(28))
        lines.append(f"{variant:15}{''.join(columns)}{statistics.fmean(seconds):6.0f}")
        print(lines[-1], flush=True)
    print(f"\ncommand    python benchmarks/stability.py   ({given.seeds} seeds, {torch.get_num_threads()} threads)")
    print(f"{'':15}{''.join(f'{name:>9}'.ljust(28) for name in found[0])}seconds")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""CPU time of opkit's generators against what they replace: one thread, process CPU seconds, all in one run.

    python benchmarks/generators.py [darcy] [burgers] [navier_stokes_64] [navier_stokes_256]

- darcy: scipy.sparse.linalg.spsolve on the same matrix; error against it (`benchmarks/darcy_solver.py`).
- burgers: error against the exact solution, time for 2048 samples on 8192 points.
- navier_stokes: the published scheme (Euler and Crank-Nicolson, float32, dt = 1e-4, `scheme=reference`), whose time per
  step is measured over 200 steps in its best batch; errors of both at t = 1 against a converged float64 solution. Our
  times are whole solves of t = 0 .. 1, everything counted, in the batch generation uses.

Times are minima of repeats. Nothing else should run beside it.
"""

import dataclasses
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from opkit.pdes import Burgers, NavierStokes

REPEATS = 3


def cpu_seconds(work, repeats: int = REPEATS) -> float:
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def relative(u: torch.Tensor, truth: torch.Tensor) -> float:
    return float(((u - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)).max())


def darcy() -> None:
    subprocess.run([sys.executable, Path(__file__).with_name("darcy_solver.py")], check=True)


def burgers() -> None:
    pde = Burgers(resolution=1024)
    a = pde.sample(50)
    exact = dataclasses.replace(pde, scheme="cole-hopf").solve(a)
    print(f"burgers    {round(1 / pde.dt)} steps on 1024 points: error {relative(pde.solve(a)[:, 1], exact[:, 1]):.1e}")
    print(f"           (largest of 50), {cpu_seconds(lambda: pde.solve(a)) / 50:.4f} s CPU per sample")
    fine = Burgers(resolution=8192, label_resolution=8192, modes=2730)
    a = fine.sample(4)
    seconds = cpu_seconds(lambda: fine.solve(a)) / 4
    total = 2048 * seconds / 2
    print(f"           8192 points: {seconds:.3f} s CPU per sample, so 2048 samples in {total:.0f} s on 2 cores")


def navier_stokes(n: int, viscosity: float, batch: int, reference_batches: tuple[int, ...], converged: float) -> None:
    name = f"navier_stokes {n} x {n}, viscosity {viscosity:g}"
    pde = NavierStokes(resolution=n, label_resolution=n, viscosity=viscosity, times=(0.0, 1.0), modes=-(-n // 3) - 1)
    a = pde.sample(batch)
    truth = dataclasses.replace(pde, dt=converged).solve(a)[:, 1]
    steps = 200
    short = dataclasses.replace(pde, scheme="reference", precision="float32", dt=1e-4, times=(0.0, steps * 1e-4))
    per_unit = {}
    for b in reference_batches:
        inputs = pde.sample(b)
        per_unit[b] = cpu_seconds(lambda i=inputs: short._solve_tile(i)) / (b * steps) * 1e4
    b, reference = min(per_unit.items(), key=lambda item: item[1])
    print(f"{name}: published scheme {reference:.2f} s CPU per trajectory and time unit (batch {b})")
    for settings in (
        {}, {"cfl": 1.0}, {"precision": "float32"}, {"precision": "float32", "cfl": 1.0},
    ):  # fmt: skip
        ours = dataclasses.replace(pde, **settings)
        error = relative(ours.solve(a)[:, 1], truth)
        seconds = cpu_seconds(lambda o=ours: o.solve(a)) / batch
        label = ", ".join(f"{k}={v}" for k, v in settings.items()) or "default"
        print(f"    {label:<28} {seconds:.4f} s, {reference / seconds:5.0f} times less; error {error:.1e}")


def reference_error() -> None:
    """How far the published scheme is from the truth at t = 1, in its own precision and step; minutes."""
    pde = NavierStokes(times=(0.0, 1.0))
    a = pde.sample(2)
    truth = dataclasses.replace(pde, dt=2.5e-3).solve(a)[:, 1]
    published = dataclasses.replace(pde, scheme="reference", precision="float32", dt=1e-4)
    print(f"published scheme at 64 x 64, viscosity 1e-3, t = 1: error {relative(published.solve(a)[:, 1], truth):.1e}")


BENCHMARKS = {
    "darcy": darcy,
    "burgers": burgers,
    "navier_stokes_64": lambda: navier_stokes(64, 1e-3, 10, (1, 5, 20), 2.5e-3),
    "navier_stokes_256": lambda: navier_stokes(256, 1e-5, 1, (1, 4), 5e-3),
    "reference_error": reference_error,
}


def main() -> None:
    wanted = sys.argv[1:] or list(BENCHMARKS)
    if unknown := [name for name in wanted if name not in BENCHMARKS]:
        sys.exit(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    torch.set_num_threads(1)
    print(f"command    python benchmarks/generators.py {' '.join(wanted)}   (seed 0, 1 thread)")
    print(f"machine    {platform.processor() or platform.machine()}, torch {torch.__version__}")
    for name in wanted:
        BENCHMARKS[name]()


if __name__ == "__main__":
    main()

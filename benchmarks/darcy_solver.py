"""CPU time of opkit's Darcy solver against a sparse direct solve of the same system, one thread, in one run.

    python benchmarks/darcy_solver.py [resolution] [samples] [solver]

Both solve -div(a grad u) = 1 with two-valued a on the same nodes; solver is auto (default), sine or multigrid. Times
are minima over samples of process CPU seconds, the error is relative L2 against the direct solution. Assembly is not
counted for spsolve; the set-up of multigrid is.
"""

import platform
import sys
import time

import numpy as np
import scipy
import scipy.sparse
import scipy.sparse.linalg
import torch

from opkit.pdes import Darcy


def assemble(a: np.ndarray) -> scipy.sparse.csc_matrix:
    """The five-point matrix with harmonic faces on interior nodes."""
    n = a.shape[0]
    m, h = n - 2, 1 / (n - 1)
    harmonic = lambda p, q: 2 * p * q / (p + q) / h**2  # noqa: E731
    x = harmonic(a[:-1, 1:-1], a[1:, 1:-1])
    y = harmonic(a[1:-1, :-1], a[1:-1, 1:])
    diagonal = (x[:-1] + x[1:] + y[:, :-1] + y[:, 1:]).ravel()
    across = -x[1:-1].ravel()
    along = np.concatenate([-y[:, 1:-1], np.zeros((m, 1))], axis=1).ravel()[:-1]
    return scipy.sparse.diags([diagonal, across, across, along, along], [0, m, -m, 1, -1], format="csc")


def cpu_seconds(work):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main() -> None:
    resolution = int(sys.argv[1]) if len(sys.argv) > 1 else 421
    samples = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    torch.set_num_threads(1)
    solver = sys.argv[3] if len(sys.argv) > 3 else "auto"
    pde = Darcy(resolution=resolution, label_resolution=resolution, solver=solver)  # type: ignore[arg-type]
    a = pde.sample(samples + 1, seed=0)
    pde.solve(a[:1])  # warm-up
    ours, direct, errors = [], [], []
    for i in range(1, samples + 1):
        seconds, u = cpu_seconds(lambda i=i: pde.solve(a[i : i + 1]))
        ours.append(seconds)
        matrix, ones = assemble(a[i, 0].numpy()), np.ones((resolution - 2) ** 2)
        seconds, reference = cpu_seconds(lambda m=matrix, f=ones: scipy.sparse.linalg.spsolve(m, f))
        direct.append(seconds)
        inner = u[0, 0, 1:-1, 1:-1].numpy().ravel()
        errors.append(np.linalg.norm(inner - reference) / np.linalg.norm(reference))
    print(f"command    python benchmarks/darcy_solver.py {resolution} {samples} {solver}   (seed 0, 1 thread)")
    print(
        f"machine    {platform.processor() or platform.machine()}, torch {torch.__version__}, scipy {scipy.__version__}"
    )
    print(f"opkit      {min(ours):.4f} s CPU per sample (median {np.median(ours):.4f}), tolerance {pde.tolerance:g}")
    print(f"spsolve    {min(direct):.4f} s CPU per sample (median {np.median(direct):.4f})")
    print(f"ratio      {np.median(np.array(direct) / np.array(ours)):.1f} (median of paired ratios)")
    print(f"error      {max(errors):.1e} relative L2, largest of {samples}")


if __name__ == "__main__":
    main()

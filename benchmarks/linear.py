"""Linear layers as PyTorch's matrix products and as `opkit.models.kernels.linear` computes them, float32.

    python benchmarks/linear.py

GFLOP a second of the forward pass, and with all gradients, and the ratio of both ways, the least of 20 interleaved
repeats. `kernels.CONVOLVE_FROM` comes from the ratios below it: the convolution is made to run for every size here.
"""

import math
import platform
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from opkit.models import kernels

SIZES = [
    (points, *widths)
    for widths in ((32, 64), (64, 64), (96, 96), (128, 32))
    for points in (512, 1024, 2048, 4096, 16384)
] + [(7396, 96, 384), (7396, 384, 96)]  # the last two: an expert of GNOT


def least(work: dict[str, Callable[[], None]], repeats: int = 20) -> dict[str, float]:
    seconds = dict.fromkeys(work, math.inf)
    for _ in range(repeats):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds


def main() -> None:
    kernels.CONVOLVE_FROM = 0
    print("command    python benchmarks/linear.py   (seed 0)")
    processor = platform.processor() or platform.machine()
    print(f"machine    {processor}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("products, 2^k   points   in  out    forward: product  convolution        with gradients")
    torch.manual_seed(0)
    for points, inside, out in SIZES:
        x, weight, bias = (torch.randn(s, requires_grad=True) for s in ((points, inside), (out, inside), (out,)))
        gradient = torch.randn(points, out)

        def forward(linear: Callable[..., Tensor], x=x, weight=weight, bias=bias) -> None:
            with torch.no_grad():
                linear(x, weight, bias)

        def both(linear: Callable[..., Tensor], x=x, weight=weight, bias=bias, gradient=gradient) -> None:
            torch.autograd.grad(linear(x, weight, bias), (x, weight, bias), gradient)

        work = 2 * points * inside * out / 1e9
        columns = []
        for run, times in ((forward, 1), (both, 3)):
            found = least({"product": lambda r=run: r(F.linear), "convolution": lambda r=run: r(kernels.linear)})
            rates = [times * work / found[name] for name in ("product", "convolution")]
            columns.append(f"{rates[0]:8.0f} {rates[1]:8.0f} {rates[1] / rates[0]:6.2f} x")
        print(f"{math.log2(points * inside * out):10.1f} {points:10} {inside:5} {out:4}      {'      '.join(columns)}")


if __name__ == "__main__":
    main()

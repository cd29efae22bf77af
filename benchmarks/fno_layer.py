"""Training step of the paper's Darcy FNO: opkit, with either transform, against neuraloperator's, in one run.

    python benchmarks/fno_layer.py [resolution] [batch]

Same modes, width and layers, float32, forward and backward, threads as set by the environment; medians of interleaved
steps. neuraloperator applies its activation twice per block, which is counted as its own.
"""

import platform
import statistics
import sys
import time

import torch

from opkit.models import FNO

REPEATS = 15


def main() -> None:
    resolution = int(sys.argv[1]) if len(sys.argv) > 1 else 85
    batch = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    torch.manual_seed(0)
    u = torch.randn(batch, 1, resolution, resolution)
    dft = FNO(1, 1, n_modes=(24, 22), width=32, spectral="dft")
    models = {"opkit, fft": FNO(1, 1, n_modes=(24, 22), width=32, spectral="fft"), "opkit, dft": dft}
    models["opkit, dft, compiled"] = torch.compile(dft, dynamic=False)
    try:
        from neuralop.models import FNO as Theirs

        models["neuraloperator"] = Theirs(
            n_modes=(24, 22), in_channels=1, out_channels=1, hidden_channels=32, n_layers=4, lifting_channel_ratio=0,
            projection_channel_ratio=4, use_channel_mlp=False,
        )  # fmt: skip
    except ImportError:
        print("neuraloperator is not installed; it is left out")
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(REPEATS + 2):
        for name, model in models.items():
            start = time.perf_counter()
            model(u).square().mean().backward()
            if repeat >= 2:
                seconds[name].append(time.perf_counter() - start)
    print(f"command    python benchmarks/fno_layer.py {resolution} {batch}   (seed 0)")
    processor = platform.processor() or platform.machine()
    print(f"machine    {processor}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    last = statistics.median(seconds.get("neuraloperator", seconds["opkit, fft"]))
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{1000 * median:8.1f} ms  {last / median:5.2f} x  {name}")


if __name__ == "__main__":
    main()

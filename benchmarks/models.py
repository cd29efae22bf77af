"""The four architectures in their papers' configurations against the originals: time of a training step and of
inference, peak memory, and arithmetic of a training step's matrix products and convolutions, in one run. (FFTs are not
counted.)

    python benchmarks/models.py [--reference DIRECTORY] [ROW ...]

DIRECTORY holds checkouts of the original repositories under their own names: galerkin-transformer, MgNO, GNOT (see
benchmarks/originals for addresses and commits); without it only FNO, whose original is a package, is compared. opkit's
model of a row is the original's weights through `opkit.interop.from_reference`, and both outputs are compared first.
Float32, threads as the environment says, medians of interleaved repeats; memory is the growth of a fresh process's peak
resident set over one training step. Both sides take memory from the system as PyTorch does by itself; opkit's training
keeps what was freed, and `--keep-memory` has both do so.
"""

import argparse
import importlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from opkit.interop import from_reference
from opkit.training import keep_freed_memory

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@dataclass(frozen=True)
class Row:
    """A configuration of a paper.

    Args:
        source: The original class.
        folder: Its checkout, below --reference; empty for an installed package.
        config: Its constructor's arguments.
        inputs: Makes the inputs.
        ratio: What opkit is to reach.
    """

    source: str
    folder: str
    config: dict[str, Any]
    inputs: Callable[[], dict[str, Tensor]]
    ratio: float


def grid_input(batch: int, channels: int, *shape: int) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"u": torch.randn(batch, channels, *shape)}


def rows() -> dict[str, Row]:
    """The table of configurations; those of the originals come with benchmarks/originals."""
    found = {}
    for module, folder in (
        ("neuraloperator", ""), ("galerkin_transformer", "galerkin-transformer"), ("mgno", "MgNO"), ("gnot", "GNOT"),
    ):  # fmt: skip
        originals = importlib.import_module(f"benchmarks.originals.{module}")
        for name, (source, config, inputs, ratio) in originals.PAPER.items():
            found[name] = Row(source, folder, config, inputs, ratio)
    return found


def build(row: Row, directory: Path) -> tuple[nn.Module, nn.Module, Any]:
    """(the original, opkit's, module of benchmarks/originals), same weights, float32."""
    originals = importlib.import_module(f"benchmarks.originals.{row.source.partition('.')[0]}")
    torch.manual_seed(0)
    if hasattr(originals, "released"):  # a package that parity needs patched, and timing must not
        theirs = originals.build_released(row.config)
    else:
        theirs = originals.build(directory / row.folder, row.source, row.config).float()
    ours = from_reference(row.source, theirs.state_dict(), **row.config)
    return theirs, ours, originals


def sides(row: Row, directory: Path, compiled: bool = True) -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
    """By name: the module, and a forward pass on the same inputs."""
    theirs, ours, originals = build(row, directory)
    torch.manual_seed(1)
    inputs = {k: v.float() for k, v in row.inputs().items()}
    run = originals.run
    same = inputs
    if hasattr(originals, "released"):  # right on even grids alone
        run = originals.released
        same = {k: v[..., : v.shape[-2] // 2 * 2, : v.shape[-1] // 2 * 2] for k, v in inputs.items()}
    with torch.no_grad():
        expected, found = run(theirs, row.source, row.config, same), originals.call(ours, row.source, same)
    difference = float((found - expected).norm() / expected.norm())
    if not difference < 1e-4:
        sys.exit(f"{row.source}: opkit's output differs from the original's by {difference:.1e}")
    out = {
        "original": (theirs, lambda: run(theirs, row.source, row.config, inputs)),
        "opkit": (ours, lambda: originals.call(ours, row.source, inputs)),
    }
    if compiled:
        faster = from_reference(row.source, theirs.state_dict(), **row.config)
        if hasattr(originals, "compile"):  # what it calls is not the module itself
            originals.compile(faster)
        else:
            faster.compile(dynamic=False)
        out["opkit, compiled"] = (faster, lambda: originals.call(faster, row.source, inputs))
    return out


def train_step(module: nn.Module, forward: Callable[[], Tensor]) -> None:
    module.zero_grad(set_to_none=True)
    forward().square().mean().backward()


def infer(module: nn.Module, forward: Callable[[], Tensor]) -> None:
    with torch.no_grad():
        forward()


def products(module: nn.Module, forward: Callable[[], Tensor]) -> float:
    """Floating-point operations of the matrix products and convolutions of a training step, in 1e9."""
    with FlopCounterMode(display=False) as counter:
        train_step(module, forward)
    return counter.get_total_flops() / 1e9


def medians(work: dict[str, Callable[[], None]], budget: float) -> dict[str, float]:
    """Median seconds of interleaved repeats, as many as fit `budget` seconds, at least 3."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for run in work.values():
        run()
    began = time.perf_counter()
    while len(seconds["original"]) < 3 or (
        time.perf_counter() - began < budget and len(seconds["original"]) < 31
    ):  # fmt: skip
        for name, run in work.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory(row: str, side: str, directory: Path) -> float:
    """MiB by which one training step raises the peak resident set of a fresh process."""
    command = [sys.executable, __file__, "--reference", str(directory), "--memory", side, row]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure_memory(row: Row, side: str, directory: Path) -> float:
    module, forward = sides(row, directory, compiled=False)[side]
    infer(module, forward)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    train_step(module, forward)
    return (resident("VmHWM") - before) / 1024


def resident(what: str) -> int:
    """KiB of resident memory, now (VmRSS) or at its peak (VmHWM); Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--reference", type=Path, help="folder of the originals' checkouts")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds per measurement")
    parser.add_argument("--keep-memory", action="store_true", help="keep freed memory, as opkit's training does")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    table = rows()
    if unknown := set(arguments.rows) - set(table):
        sys.exit(f"no row {', '.join(unknown)}; there are: {', '.join(table)}")
    directory = arguments.reference or Path()
    if arguments.keep_memory:
        keep_freed_memory()
    if arguments.memory:
        print(measure_memory(table[arguments.rows[0]], arguments.memory, directory))
        return
    print(f"command    python {' '.join(sys.argv)}   (seed 0)")
    processor = platform.processor() or platform.machine()
    print(f"machine    {processor}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in arguments.rows or table:
        row = table[name]
        if row.folder and not arguments.reference:
            print(f"{name}: left out, it needs --reference")
            continue
        models = sides(row, directory)
        steps = medians({k: lambda v=v: train_step(*v) for k, v in models.items()}, arguments.budget)
        calls = medians({k: lambda v=v: infer(*v) for k, v in models.items()}, arguments.budget / 2)
        memory = {side: peak_memory(name, side, directory) for side in ("original", "opkit")}
        work = {side: products(*models[side]) for side in memory}
        print(f"\n{name}   (to reach: {row.ratio:g} x)")
        for side in models:
            room = f"{memory[side]:8.0f} MiB   {work[side]:6.1f} GFLOP" if side in memory else ""
            print(
                f"  {side:<16} training step {1000 * steps[side]:9.1f} ms {steps['original'] / steps[side]:6.2f} x   "
                f"inference {1000 * calls[side]:9.1f} ms {calls['original'] / calls[side]:6.2f} x   {room}".rstrip()
            )


if __name__ == "__main__":
    main()

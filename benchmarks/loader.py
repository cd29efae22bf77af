"""What feeding data costs, of a training step: the time to draw a batch over the time of the step on it.

    python benchmarks/loader.py [--models fno galerkin mgno gnot] [--pdes darcy burgers navier_stokes]

Default configurations, from memory and, with data.in_memory=false and no loader processes, from disk. Medians of 30
batches and of 5 steps, the least such step; without torch.compile. The data are made if they are not there.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import replace

import torch
import yaml

from opkit import registry
from opkit.datamodule import FieldData
from opkit.generate import ensure
from opkit.normalize import Normalizer
from opkit.settings import Data, Loss, Optim, Stepping, Unroll
from opkit.stepping import stepped, unrolled
from opkit.surrogate import PhysicalOperator, residual_channels
from opkit.task import SupervisedTask


def settings(model: str, pde: str) -> dict:
    code = "import sys; from opkit.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "train", "--model", model, "--pde", pde, "--print_config"]
    return yaml.safe_load(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def seconds_per_batch(data: FieldData, count: int = 30) -> float:
    loader, found = data.train_dataloader(), []
    iterator = iter(loader)
    for _ in range(min(count, len(loader))):
        began = time.perf_counter()
        next(iterator)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["fno", "galerkin", "mgno", "gnot"])
    parser.add_argument("--pdes", nargs="+", default=["darcy", "burgers", "navier_stokes"])
    given = parser.parse_args()
    print("command    python benchmarks/loader.py   (seed 0)")
    processor = platform.processor() or platform.machine()
    print(f"machine    {processor}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("model      pde              step        from memory        from disk")
    for name in given.pdes:
        for model in given.models:
            config = settings(model, name)
            config["pde"].pop("name"), config["model"].pop("name")
            pde = registry.pde_class(name)(**registry.tuples(config["pde"]))
            stepping, unroll = Stepping(**config["stepping"]), Unroll(**config["unroll"])
            data, spec = Data(**config["data"]), stepped(pde.spec, stepping, pde.times)
            train, val = ensure(pde, "train", data.train), ensure(pde, "val", data.val)
            feeds = {}
            for way, changes in (("memory", {"in_memory": True}), ("disk", {"in_memory": False, "loader_workers": 0})):
                fields = FieldData(train, val, replace(data, **changes), 0, unrolled(stepping, unroll, pde.times))
                fields.setup()
                feeds[way] = seconds_per_batch(fields)
            torch.manual_seed(0)
            operator = registry.Architecture(model, config["model"]).build(spec)
            plain = [Normalizer(torch.zeros(len(c)), torch.ones(len(c))) for c in (spec.inputs, spec.outputs)]
            physical = PhysicalOperator(operator, *plain, residual_channels(spec, stepping)).train()
            task = SupervisedTask(
                physical, spec, Optim(**config["optim"]), data.batch_size, False, 0, stepping, unroll,
                Loss(**config["loss"]),
            )  # fmt: skip
            optimizer, batch = task.optimizer(), next(iter(fields.train_dataloader()))
            steps = []
            for i in range(5):
                began = time.perf_counter()
                optimizer.zero_grad()
                task.training_step(batch, i).backward()
                optimizer.step()
                steps.append(time.perf_counter() - began)
            step = min(steps)
            parts = "   ".join(f"{1e3 * feeds[w]:7.2f} ms {feeds[w] / step:6.1%}" for w in ("memory", "disk"))
            print(f"{model:10} {name:14} {1e3 * step:7.1f} ms   {parts}", flush=True)


if __name__ == "__main__":
    main()

"""Time until a validation error of 2 percent on the default Darcy problem: opkit's default run against neuraloperator's
own trainer with its own FNO.

    python benchmarks/time_to_error.py [--target 0.02] [--epochs 20 40] [--lr 3e-3]

Both train on the same 1000 samples of 85 x 85 points and are validated on the same 100 after every epoch, by the same
relative L2 error; one after the other in one process, with all its threads. Seconds are those of training: data are
made before, validation does not count, torch.compile does.

neuraloperator's side is its Trainer, its AdamW, H1 loss on normalised fields as in its examples, a cosine over the run,
its FNO with opkit's modes and width and its own default channel networks, and opkit's batches of 10. A schedule that is
too short does not reach the error and one that is too long reaches it late: several lengths are tried, the fastest
counts.
"""

import argparse
import csv
import math
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from opkit import metrics
from opkit.cli import main as command
from opkit.generate import ensure
from opkit.pdes import Darcy
from opkit.store import pair

TRAIN, VAL, BATCH = 1000, 100, 10


class Reached(Exception):
    """The error was reached."""


class Fields(torch.utils.data.Dataset):
    """Samples as neuraloperator wants them."""

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor):
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"x": self.inputs[i], "y": self.targets[i]}


def ours(target: float) -> tuple[float, float, int]:
    """(seconds, error, epochs) of opkit's default run, up to the first epoch that reaches the error."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        if command(["train", "--model", "fno", "--pde", "darcy", f"run_dir={run}", "logger=csv"]):
            raise SystemExit("opkit's run failed")
        with open(run / "metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
    seconds = 0.0
    for row in rows:
        seconds += TRAIN / float(row["samples_per_second"])
        if float(row["val/rel_l2"]) <= target:
            return seconds, float(row["val/rel_l2"]), int(row["epoch"]) + 1
    return math.inf, float(rows[-1]["val/rel_l2"]), len(rows)


def theirs(target: float, epochs: int, rate: float, data: dict[str, Any]) -> tuple[float, float, int]:
    """The same of neuraloperator's trainer; stops when the error is reached."""
    from neuralop import H1Loss, LpLoss, Trainer
    from neuralop.data.transforms.data_processors import DefaultDataProcessor
    from neuralop.data.transforms.normalizers import UnitGaussianNormalizer
    from neuralop.models import FNO
    from neuralop.training import AdamW

    (inputs, targets), (val_inputs, val_targets) = data["train"], data["val"]
    given, wanted = (UnitGaussianNormalizer(dim=[0, 2, 3]) for _ in range(2))
    given.fit(inputs)
    wanted.fit(targets)
    torch.manual_seed(0)
    model = FNO(n_modes=(24, 24), in_channels=1, out_channels=1, hidden_channels=32, n_layers=4)
    optimizer = AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    found: dict[str, Any] = {"seconds": 0.0, "error": math.inf, "epoch": 0}

    class Timed(Trainer):
        def train_one_epoch(self, epoch: int, *args: Any) -> Any:
            began = time.monotonic()
            out = super().train_one_epoch(epoch, *args)
            found["seconds"] += time.monotonic() - began
            self.model.eval()
            with torch.no_grad():
                parts = [wanted.inverse_transform(self.model(given.transform(v))) for v in val_inputs.split(BATCH)]
            found["error"] = float(metrics.rel_l2(torch.cat(parts), val_targets, data["grid"]).mean())
            found["epoch"] = epoch + 1
            print(f"neuraloperator {epochs} epochs: {epoch + 1}, {found['error']:.4f}", file=sys.stderr)
            if found["error"] <= target:
                raise Reached
            return out

    loader = DataLoader(Fields(inputs, targets), batch_size=BATCH, shuffle=True)
    trainer = Timed(
        model=model,
        n_epochs=epochs,
        data_processor=DefaultDataProcessor(given, wanted),
        device="cpu",
        eval_interval=10**6,
    )  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    try:
        trainer.train(loader, {}, optimizer, schedule, training_loss=H1Loss(d=2), eval_losses={"l2": LpLoss(d=2, p=2)})
    except Reached:
        return found["seconds"], found["error"], found["epoch"]
    print(f"neuraloperator, {epochs} epochs: {found['seconds']:.0f} s without reaching it", file=sys.stderr)
    return math.inf, found["error"], epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=float, default=0.02)
    parser.add_argument("--epochs", type=int, nargs="+", default=[20, 40])
    parser.add_argument("--lr", type=float, default=3e-3)
    given = parser.parse_args()
    pde, threads = Darcy(resolution=85), torch.get_num_threads()
    data: dict[str, Any] = {"grid": pde.grid}
    for split, count in (("train", TRAIN), ("val", VAL)):
        data[split] = pair(pde, ensure(pde, split, count).load(count))
    rows = [("opkit", *ours(given.target))]
    torch.set_num_threads(threads)
    for epochs in given.epochs:
        rows.append((f"neuraloperator, {epochs} epochs", *theirs(given.target, epochs, given.lr, data)))
    processor = platform.processor() or platform.machine()
    print(f"\ncommand    python benchmarks/time_to_error.py --target {given.target:g}   (seed 0, {threads} threads)")
    print(f"machine    {processor}, torch {torch.__version__}")
    fastest = min(seconds for name, seconds, *_ in rows if name != "opkit")
    for name, seconds, error, epochs in rows:
        reached = f"{seconds:7.0f} s, epoch {epochs}" if math.isfinite(seconds) else f"not in {epochs} epochs"
        print(f"{name:28} {reached:24} rel_l2 {error:.4f}")
    if math.isfinite(fastest):
        print(f"ratio      {rows[0][1] / fastest:.2f} (opkit over the fastest of the others; to reach: 0.33)")


if __name__ == "__main__":
    main()

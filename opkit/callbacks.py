"""What goes on around the steps of a training run: its table, its progress bar, its end when the machine is wanted."""

import csv
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger

from opkit.errors import Diverged, Preempted, RunError
from opkit.progress import progress
from opkit.signals import SIGNALS

LOG_EVERY = 50
"""Steps from one loss sent to the loggers to the next: each makes a GPU wait."""


class EpochTable(L.Callback):
    """metrics.csv: one row per epoch, appended as it ends; a resumed run drops the rows it trains again.

    Args:
        path: The file.

    Attributes:
        loggers: Also get every row, and the loss now and then. One that fails is told of and left out from then on.
    """

    columns = (
        "epoch", "step", "lr", "train/loss", "train/rel_l2", "train/grad_norm", "val/rel_l2", "val/low", "val/mid",
        "val/high", "samples_per_second", "seconds",
    )  # fmt: skip

    def __init__(self, path: Path):
        self.path, self.began, self.rate, self.validating = path, 0.0, 0.0, 0.0
        self.loggers: list[Logger] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        rows = []
        if self.path.exists():
            try:
                with open(self.path, newline="", encoding="utf-8") as file:
                    rows = [row for row in csv.DictReader(file) if int(row["epoch"]) < trainer.current_epoch]
                if strange := [name for row in rows for name in row if name not in self.columns]:
                    raise ValueError(f"it has a column {strange[0]}")
            except (KeyError, TypeError, ValueError, csv.Error) as problem:
                raise RunError(
                    f"{self.path} is damaged ({problem}). Move it elsewhere: the run continues without its rows."
                ) from None
        self._write(rows, "w")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began, self.validating = time.monotonic(), 0.0

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]  # by the epoch's end the schedule has moved on

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.loggers and trainer.global_step % LOG_EVERY == 0:
            self._log({"train/loss_step": float(outputs["loss"]), "lr": self.rate}, trainer.global_step)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validating -= time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validating += time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        values = {name: float(v) for name, v in trainer.callback_metrics.items() if name in self.columns}
        seconds = time.monotonic() - self.began
        task: Any = pl_module
        values["samples_per_second"] = float(task.seen) / max(1e-9, seconds - self.validating)
        self._log(values | {"epoch": trainer.current_epoch, "lr": self.rate}, trainer.global_step)
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, "lr": f"{self.rate:.6g}"}
        row |= {name: f"{value:.6g}" for name, value in values.items()}
        self._write([row | {"seconds": f"{seconds:.2f}"}], "a")

    def _log(self, values: dict[str, float], step: int) -> None:
        for logger in list(self.loggers):
            try:
                logger.log_metrics(values, step)
            except Exception as problem:
                print(f"{type(logger).__name__} failed and is left out from here on ({problem})", file=sys.stderr)
                self.loggers.remove(logger)

    def _write(self, rows: list[dict[str, Any]], mode: str) -> None:
        with open(self.path, mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)


class TrainingProgress(L.Callback):
    """One bar for the whole run: steps, rate, time left, and the latest loss and validation error."""

    def __init__(self, title: str):
        self.title, self.loss = title, float("nan")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            total = int(trainer.estimated_stepping_batches)
            self.display = progress(self.title, total, "steps", trainer.global_step)
            self.advance = self.display.__enter__()
            self.shown = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        if self._due(trainer):
            self.loss = float(outputs["loss"])
        val = trainer.callback_metrics.get("val/rel_l2")
        note = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, loss {self.loss:.4f}"
        self.advance(trainer.global_step - self.shown, note + (f", val {float(val):.4f}" if val is not None else ""))
        self.shown = trainer.global_step

    @staticmethod
    def _due(trainer: L.Trainer) -> bool:
        """Read the loss now and then only: each read makes a GPU wait."""
        return trainer.global_step % 10 in (0, 1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.display.__exit__(None, None, None)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero and hasattr(self, "display"):
            self.display.__exit__(None, None, None)


class Failure(L.Callback):
    """Keeps the state of a run that diverged or ran out of memory, to be looked at.

    Args:
        path: Where to. A run does not resume from it.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        # Ranks diverge together, but memory may be short on one of them, and saving takes all.
        if isinstance(exception, Diverged) or (is_out_of_memory(exception) and trainer.world_size == 1):
            trainer.save_checkpoint(self.path)


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether memory was short, on a GPU or on the host."""
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(problem, RuntimeError) and "allocate memory" in str(problem)


class Preemption(Checkpoint):
    """On SIGTERM or SIGUSR1: finish the optimiser step, save, stop.

    The handler sets a flag and nothing else. After a step all ranks agree on it, so that a signal which reached one
    of them stops all at the same step, and none waits for another that is gone. Lightning's own handlers, which
    broadcast from inside the handler, are set aside while training runs. As a `Checkpoint` it has its turn after all
    other callbacks: an epoch's row is written, and its best weights are, before it stops.

    Args:
        path: The checkpoint to save.
    """

    def __init__(self, path: Path):
        self.path = path
        self.received: str | None = None
        self.stopped: Preempted | None = None
        """What ended the run, if something did: Lightning turns it into another exception."""
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = self.received or signal.Signals(number).name

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Several GPUs would wait for each other's answer every time.
        asks = trainer.world_size == 1 or trainer.strategy.root_device.type == "cpu" or batch_idx % 10 == 9
        if asks and not trainer.is_last_batch and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._stop_if_asked(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._stop_if_asked(trainer)  # not at the last step: the validation after it belongs to it

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        asked = self.received is not None
        if not (asked if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(asked, all=False)):
            return
        trainer.save_checkpoint(self.path)
        self._restore()
        # A signal that reached another rank has no name here.
        self.stopped = Preempted(
            self.received or "a signal to another rank",
            f"its state after {trainer.global_step} steps is saved; add --resume to continue it",
        )
        raise self.stopped

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

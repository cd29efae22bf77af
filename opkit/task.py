"""Fit an operator to (input, target) pairs, or to trajectories through its own output; knows nothing of
architectures. The one LightningModule.

The model carries its normalisers, so the loss is taken on physical fields, as are the logged errors.
"""

import math
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from opkit import metrics
from opkit.errors import Diverged, RunError
from opkit.fields import SPLIT_STRIDE, seed_key
from opkit.grid import Spec
from opkit.losses import TrainingLoss
from opkit.models.activations import decay_groups
from opkit.models.bounded import SpectrumNorm
from opkit.pdes import PDE
from opkit.settings import Loss, Optim, Stepping, Unroll
from opkit.stepping import roll_out
from opkit.surrogate import PhysicalOperator

ONE_STEP, NOT_UNROLLED, REL_L2 = Stepping(), Unroll(), Loss()


class SupervisedTask(L.LightningModule):
    """Supervised training of an operator.

    Args:
        model: The map in physical units.
        spec: Its channels and grid.
        optim: Optimiser and schedule.
        batch_size: Samples per step over all devices; only steps of this size use the compiled model, so that a shorter
            last batch does not compile a second one.
        compile: Whether training steps run through torch.compile.
        seed: Seed of what a training step draws at random: dropout, noise.
        stepping: Frames it takes and gives, for an evolution equation.
        unroll: How it is trained on its own output.
        loss: What is minimised.
        pde: The equation, for a loss that is its residual.
    """

    def __init__(
        self,
        model: PhysicalOperator,
        spec: Spec,
        optim: Optim,
        batch_size: int,
        compile: bool = False,
        seed: int = 0,
        stepping: Stepping = ONE_STEP,
        unroll: Unroll = NOT_UNROLLED,
        loss: Loss = REL_L2,
        pde: PDE | None = None,
    ):
        super().__init__()
        self.model, self.grid, self.optim, self.unroll, self.batch_size = model, spec.grid, optim, unroll, batch_size
        self.loss = TrainingLoss(loss, spec, pde)
        self.predicted = len(spec.outputs)
        self.channels = self.predicted // stepping.bundle
        self.given = stepping.history * self.channels
        self.compile_model = compile
        self._compiled: tuple[Any, ...] = ()
        self._norms: tuple[SpectrumNorm, ...] = ()
        self._part = batch_size
        self.seed = seed
        self._val: list[Tensor] = []  # relative errors of samples, whole and by band, (4, n)
        self._train = torch.zeros(5, dtype=torch.float64)
        """Of the epoch so far: losses, errors, samples; norms of the gradients, optimiser steps."""
        self.seen = torch.zeros(())
        """Samples of the epoch so far that this session trained on, over all ranks."""
        self._failed = torch.tensor(-1)  # the epoch's first batch whose loss was not finite

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)

    def on_fit_start(self) -> None:
        # Not earlier: a moving average of the weights begins with a copy of the task. In a tuple, so that the wrapper
        # is not registered as a second copy of the model's parameters.
        self._part = len(range(self.global_rank, self.batch_size, self.trainer.world_size))
        self._compiled = (torch.compile(self.model, dynamic=False),) if self.compile_model else ()
        self._norms = tuple(layer for layer in self.model.modules() if isinstance(layer, SpectrumNorm))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """All that a step draws at random is a function of (seed, step, rank), so that a resumed run draws the same."""
        if batch_idx == 0:
            self._train = torch.zeros_like(self._train)
            self._failed = torch.tensor(-1)
            self.seen = torch.zeros_like(self.seen)
        step = self.trainer.fit_loop.total_batch_idx
        key = seed_key("training step", self.seed, self.global_rank * SPLIT_STRIDE + step)
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, targets = batch
        samples = len(inputs)
        if not samples:  # of a batch smaller than the number of ranks; not every layer can work on nothing
            inputs, targets = (v.new_ones(1, *v.shape[1:]) for v in batch)
        for norm in self._norms:
            norm.counted = samples > 0  # until the next step: layers may be run again when gradients are taken
        model = self._compiled[0] if self._compiled and samples == self._part else self.model
        calls = self._calls()
        first = self._pushed(max(0, calls - (self.unroll.gradient or calls)))
        calls = first + min(calls, self.unroll.gradient or calls)
        precision = torch.promote_types(inputs.dtype, torch.float32)  # the loss is never taken in half precision

        def step(u: Tensor) -> Tensor:
            if self.unroll.checkpointing and torch.is_grad_enabled():
                return checkpoint(model, u, use_reentrant=False).to(precision)
            return model(u).to(precision)

        parts = roll_out(step, self._noisy(inputs), self.given, calls, first)
        first = calls - 1 if self.unroll.loss == "last" else first
        targets = targets[:, first * self.predicted : calls * self.predicted]
        prediction = torch.cat(parts[first:], 1)
        loss = self.loss(prediction, targets, inputs, self.channels) if samples else 0 * prediction.sum()
        with torch.no_grad():
            error = (prediction - targets).flatten(1).norm(dim=1) / targets.flatten(1).norm(dim=1)
            sums = torch.stack([loss * len(inputs), error.sum(), loss.new_tensor(len(inputs))])
        if samples:
            self._add(sums, 0)
        return loss if self._trainer is None else loss * self._agreed(loss.detach(), samples, batch_idx)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """After gradients were summed over ranks, before they are clipped."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        self._add(torch.stack([norm, torch.ones_like(norm)]), 3)

    def _add(self, values: Tensor, first: int) -> None:
        self._train = self._train.to(values.device)
        self._train[first : first + len(values)] += values.double()

    def _agreed(self, loss: Tensor, samples: int, batch_idx: int) -> Tensor:
        """What makes the mean over ranks of their mean losses the mean over samples of the global batch: ranks may hold
        unequal parts of it, the last one of an epoch above all.

        Raises:
            Diverged: On all ranks together, where the loss of one of them is not finite. On a GPU, which would have to
                wait for the answer, every tenth step alone.
        """
        own = torch.stack([loss.new_tensor(samples), (~torch.isfinite(loss)).to(loss.dtype)])
        if self.trainer.world_size > 1:
            torch.distributed.all_reduce(own)  # Lightning's own would wait at a barrier
        total, failed = own
        self.seen = self.seen.to(total.device) + total
        self._failed = torch.where((failed > 0) & (self._failed.to(loss.device) < 0), batch_idx, self._failed)
        if (loss.device.type == "cpu" or batch_idx % 10 == 9) and (first := int(self._failed)) >= 0:
            raise self._diverged("loss", loss, first)
        return samples * self.trainer.world_size / total

    @staticmethod
    def _pushed(most: int) -> int:
        """How many calls to make without gradients. Drawn, so that some batches begin with true frames: trained on its
        own output alone, a network need not make its first step a right one."""
        return int(torch.randint(most + 1, ())) if most else 0

    def _calls(self) -> int:
        """How far training is unrolled in this epoch."""
        if not self.unroll.growth:
            return self.unroll.steps
        grown = self.current_epoch / (self.unroll.growth * (self.trainer.max_epochs or 1))
        return min(self.unroll.steps, 1 + math.floor(grown * self.unroll.steps))

    def _noisy(self, inputs: Tensor) -> Tensor:
        if not self.unroll.noise:
            return inputs
        states, constants = inputs[:, : self.given], inputs[:, self.given :]
        spread = self.model.input_normalizer.std[: self.given].view(-1, *(1 for _ in states.shape[2:]))
        return torch.cat([states + self.unroll.noise * spread * torch.randn_like(states), constants], 1)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.is_last_batch:
            loss, error = self._means(self._train[:3])
            if not torch.isfinite(loss):
                first = int(self._failed)
                raise self._diverged("loss", loss, first if first >= 0 else None)
            [norm] = self._means(self._train[3:])
            self.log_dict({"train/loss": loss, "train/rel_l2": error, "train/grad_norm": norm})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        so_far = self._train.to(self.device, copy=True)  # reduced in place
        checkpoint["train_loss"] = self.trainer.strategy.reduce(so_far, reduce_op="sum").cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own, given = ({k: tuple(v.shape) for k, v in s.items()} for s in (self.state_dict(), checkpoint["state_dict"]))
        if differing := sorted(k for k in own.keys() | given.keys() if own.get(k) != given.get(k)):
            name = differing[0]
            raise RunError(
                f"The checkpoint is of another network: {name} is {given.get(name, 'missing')}, not "
                f"{own.get(name, 'there')}. Put the run's own checkpoints back, or start in another run_dir."
            )
        self._train = checkpoint["train_loss"] * (self.global_rank == 0)

    def _means(self, sums: Tensor) -> Tensor:
        """Means over samples, given this rank's sums and number: exact where ranks hold unequal parts."""
        total = self.trainer.strategy.reduce(sums.clone(), reduce_op="sum")
        return (total[:-1] / total[-1]).float()

    def _diverged(self, what: str, value: Tensor, batch_idx: int | None = None) -> Diverged:
        where = ""
        if batch_idx is not None:
            samples = self.trainer.datamodule.batch(self.current_epoch, batch_idx).indices  # type: ignore[attr-defined]
            shown = ", ".join(map(str, samples[:8])) + (", ..." if len(samples) > 8 else "")
            where = f", batch {batch_idx + 1} (training items {shown})"
        low = self.trainer.precision in ("16-true", "16-mixed", "bf16-true", "bf16-mixed")
        return Diverged(
            f"Training diverged in epoch {self.current_epoch + 1}{where}: the {what} is {value.item()}. "
            f"Lower optim.lr (now {self.optim.lr}) or set optim.grad_clip=1"
            f"{f' or trainer.precision=32-true (now {self.trainer.precision})' if low else ''}, in another run_dir. "
            "The state it ended with is in checkpoints/failed.ckpt."
        )

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        inputs, targets = batch
        if not len(inputs):
            return
        prediction = torch.cat(roll_out(self.model, inputs, self.given, self.unroll.steps), 1)
        error = metrics.rel_l2(prediction, targets, self.grid)
        bands = metrics.band_errors(prediction, targets, self.grid)
        self._val.append(torch.cat([error[None], bands]))

    def on_validation_epoch_end(self) -> None:
        none = torch.empty(1 + len(metrics.BANDS), 0, dtype=torch.float64, device=self.device)
        errors = torch.cat([none, *self._val], 1)
        self._val.clear()
        means = self._means(torch.cat([errors.sum(1), errors.new_tensor([errors.shape[1]])]))
        if not torch.isfinite(means[0]):
            raise self._diverged("validation error", means[0])
        self.log_dict({f"val/{name}": mean for name, mean in zip(("rel_l2", *metrics.BANDS), means, strict=True)})

    def optimizer(self, accumulated: int = 1) -> torch.optim.Optimizer:
        """The optimiser at its peak rate.

        Args:
            accumulated: Steps whose gradients are added up.
        """
        optim = self.optim
        power = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}[optim.scaling]
        batch = self.batch_size * accumulated
        rate = optim.lr * (batch / (optim.reference_batch or batch)) ** power
        kind = {k.lower(): v for k, v in vars(torch.optim).items() if isinstance(v, type)}[optim.name]
        more = {"momentum": optim.momentum} if optim.momentum else {}
        return kind(decay_groups(self, optim.weight_decay), lr=rate, **more)

    def configure_optimizers(self) -> Any:
        optim, optimizer = self.optim, self.optimizer(self.trainer.accumulate_grad_batches)
        rate = optimizer.param_groups[0]["lr"]
        if optim.schedule == "step":
            steps = torch.optim.lr_scheduler.StepLR(optimizer, optim.decay_epochs, optim.decay)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": steps, "interval": "epoch"}}
        total = int(self.trainer.estimated_stepping_batches)
        schedule: torch.optim.lr_scheduler.LRScheduler
        if optim.schedule == "cosine":
            rising = max(1, round(optim.warmup * total))
            last = rate / optim.div_factor / optim.final_div_factor
            up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / optim.div_factor, total_iters=rising)
            down = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, total - rising), eta_min=last)
            schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [up, down], [rising])
        else:
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, rate, total_steps=total, pct_start=optim.warmup, div_factor=optim.div_factor,
                final_div_factor=optim.final_div_factor,
                cycle_momentum=bool({"betas", "momentum"} & optimizer.defaults.keys()) and optim.name != "rmsprop",
            )  # fmt: skip
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

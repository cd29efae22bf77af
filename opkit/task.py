"""Fit an operator to (input, target) pairs; knows nothing of PDEs or architectures. The one LightningModule.

The model carries its normalisers, so the relative L2 loss is taken on physical fields, as are the logged errors.
"""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from opkit import metrics
from opkit.errors import OpkitError
from opkit.grid import Grid
from opkit.models.activations import decay_groups
from opkit.settings import Optim
from opkit.surrogate import PhysicalOperator


class SupervisedTask(L.LightningModule):
    """Supervised training of one step of an operator.

    Args:
        model: The map in physical units.
        grid: Grid of the targets, for quadrature weights.
        optim: Optimiser and schedule.
        batch_size: Samples per step on this device; only steps of this size use the compiled model, so that a
            shorter last batch does not compile a second one.
        compile: Whether training steps run through torch.compile.
    """

    def __init__(self, model: PhysicalOperator, grid: Grid, optim: Optim, batch_size: int, compile: bool = False):
        super().__init__()
        self.model, self.grid, self.optim, self.batch_size = model, grid, optim, batch_size
        # In a tuple, so that the wrapper is not registered as a second copy of the model's parameters.
        self._compiled = (torch.compile(model, dynamic=False),) if compile else ()
        self._val: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        inputs, targets = batch
        model = self._compiled[0] if self._compiled and len(inputs) == self.batch_size else self.model
        error = (model(inputs).float() - targets).flatten(1)
        loss = (error.norm(dim=1) / targets.flatten(1).norm(dim=1)).mean()
        self.log("train/rel_l2", loss.detach(), on_step=False, on_epoch=True, batch_size=len(inputs), sync_dist=True)
        return loss

    def on_train_epoch_end(self) -> None:
        loss = self.trainer.callback_metrics["train/rel_l2"]
        if not torch.isfinite(loss):
            raise self._diverged("loss", loss)

    def _diverged(self, what: str, value: Tensor) -> OpkitError:
        return OpkitError(
            f"Training diverged in epoch {self.current_epoch + 1}: the {what} is {value.item()}. "
            f"Lower optim.lr (now {self.optim.lr}) or set optim.grad_clip=1."
        )

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        inputs, targets = batch
        self._val.append(metrics.rel_l2(self.model(inputs), targets, self.grid))

    def on_validation_epoch_end(self) -> None:
        errors = torch.cat(self._val)
        self._val.clear()
        total = torch.stack([errors.sum(), torch.tensor(float(len(errors)), dtype=errors.dtype, device=errors.device)])
        total = self.trainer.strategy.reduce(total, reduce_op="sum")  # weighted by count: exact on uneven ranks
        if not torch.isfinite(total[0]):
            raise self._diverged("validation error", total[0])
        self.log("val/rel_l2", (total[0] / total[1]).float())

    def configure_optimizers(self) -> Any:
        optim = self.optim
        kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optim.name]
        optimizer = kind(decay_groups(self, optim.weight_decay), lr=optim.lr)
        if optim.schedule == "step":
            steps = torch.optim.lr_scheduler.StepLR(optimizer, optim.decay_epochs, optim.decay)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": steps, "interval": "epoch"}}
        cycle = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, optim.lr, total_steps=int(self.trainer.estimated_stepping_batches), pct_start=optim.warmup,
            div_factor=optim.div_factor, final_div_factor=optim.final_div_factor,
        )  # fmt: skip
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

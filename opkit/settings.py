"""Settings that belong to no equation and no architecture: how much data, which optimiser, what to evaluate.

Their fields, types, defaults and docstrings are the command line: `data.train=200`, `optim.lr=1e-3`.
"""

import math
from dataclasses import dataclass
from typing import Literal


def _at_least(section: str, least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < least:
            raise ValueError(f"{section}.{name} must be at least {least}, got {value}.")


@dataclass(frozen=True)
class Data:
    """How many samples, and how they are fed.

    Args:
        train: Training samples.
        val: Validation samples: they choose the checkpoint.
        test: Test samples: looked at once, at the end.
        test_fine: How many of the test samples are also kept on finer grids.
        seed: Seed of the random inputs; independent of the training seed.
        batch_size: Samples per optimiser step, over all devices.
        resolutions: Points per side of the grids that training batches are on, one of them drawn for each batch: the
            training grid and coarser ones whose points are among its own, which are kept as they are (no filter). Null:
            the training grid alone. Validation, and what is stored, stay on the training grid.
        augment: Apply the equation's own symmetries (for Darcy the eight of the square) to training samples at random.
        mode: "stored": training samples are made before training and kept on disk. "online": they are solved while the
            network trains, and not kept; validation and test samples are stored all the same.
        reuse: Online: how often a sample is used; of a trajectory, every window of it. What epochs are to stored ones:
            `trainer.max_epochs` only says how often to validate.
        reservoir: Online: samples held at a time.
        in_memory: Keep the samples in memory, and on the GPU where they fit; "auto" does when they take less than a
            third of what is free.
        loader_workers: Processes that read samples when they are not kept in memory.
    """

    train: int = 1000
    val: int = 100
    test: int = 200
    test_fine: int = 100
    seed: int = 0
    batch_size: int = 10
    resolutions: tuple[int, ...] | None = None
    augment: bool = True
    mode: Literal["stored", "online"] = "stored"
    reuse: int = 20
    reservoir: int = 200
    in_memory: bool | Literal["auto"] = "auto"
    loader_workers: int = 2

    def __post_init__(self) -> None:
        _at_least("data", 1, train=self.train, val=self.val, test=self.test, test_fine=self.test_fine)
        _at_least("data", 1, batch_size=self.batch_size, reuse=self.reuse)
        _at_least("data", self.batch_size, reservoir=self.reservoir)
        _at_least("data", 4, resolutions=min(self.resolutions or (4,)))
        _at_least("data", 0, seed=self.seed, loader_workers=self.loader_workers)


@dataclass(frozen=True)
class Stepping:
    """How a surrogate advances an evolution equation; has no meaning where the equation is steady.

    Args:
        history: Frames it is given.
        bundle: Frames it predicts at a time.
        target: What the network predicts: "absolute", the frame; "residual", its change from the last frame given.
    """

    history: int = 1
    bundle: int = 1
    target: Literal["absolute", "residual"] = "absolute"

    def __post_init__(self) -> None:
        _at_least("stepping", 1, history=self.history, bundle=self.bundle)


@dataclass(frozen=True)
class Unroll:
    """How a surrogate of an evolution equation is trained on its own output; has no meaning where the equation is
    steady.

    Args:
        steps: Calls of the network, each on what the last one gave, that a training item spans.
        gradient: How many of them, the last ones, gradients pass through; null for all. The others only bring the state
            to where the network will meet it, and how many of them are made, from none to all, is drawn for each batch:
            with steps=2 and gradient=1, the pushforward trick of Brandstetter et al. 2022 (arXiv 2202.03376).
        loss: "all" predicted frames that have a gradient, or those of the "last" call.
        noise: Standard deviation of Gaussian noise on the frames given, in units of the field's own (Sanchez-Gonzalez
            et al. 2020, arXiv 2002.09405). Parameters drawn per sample have none.
        growth: Part of the epochs over which `steps` grows from 1 to its value, evenly.
        checkpointing: Keep only the frames between calls and compute the rest again when gradients are taken: less
            memory, about a third more time.
    """

    steps: int = 1
    gradient: int | None = None
    loss: Literal["all", "last"] = "all"
    noise: float = 0.0
    growth: float = 0.0
    checkpointing: bool = False

    def __post_init__(self) -> None:
        _at_least("unroll", 1, steps=self.steps, gradient=self.gradient)
        if self.gradient is not None and self.gradient > self.steps:
            raise ValueError(f"unroll.gradient must not be above unroll.steps={self.steps}, got {self.gradient}.")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise ValueError(f"unroll.noise must not be negative, got {self.noise}.")
        if not 0 <= self.growth <= 1:
            raise ValueError(f"unroll.growth is a fraction between 0 and 1, got {self.growth}.")


@dataclass(frozen=True)
class Loss:
    """What training minimises, in physical units, averaged over samples.

    Args:
        terms: A sum such as "rel_l2 + 0.1 * rel_h1", of: rel_l2, mse, rel_h1, gradient, energy, rel_hs, h1_modes,
            residual; see `opkit.losses` for what they are.
        frames: For several predicted frames: "together", one norm over all of them, or "each", the mean of theirs.
        order: s of rel_hs.
        cutoff: First wave without a weight of h1_modes, per axis.
    """

    terms: str = "rel_l2"
    frames: Literal["together", "each"] = "together"
    order: float = -1.0
    cutoff: int = 20

    def __post_init__(self) -> None:
        _at_least("loss", 1, cutoff=self.cutoff)
        if not -8 <= self.order <= 8:
            raise ValueError(f"loss.order must be between -8 and 8, got {self.order}.")


@dataclass(frozen=True)
class Optim:
    """Optimiser and schedule of its rate: by default AdamW (Loshchilov and Hutter 2019) on one cycle (Smith and Topin
    2019), stepped per batch.

    Args:
        name: One of PyTorch's: "adamw"; "adam", whose weight decay is added to the gradient, as several papers have it;
            "nadam", "radam", "adamax", "adagrad", "adafactor", "rmsprop", "sgd".
        schedule: "one_cycle"; "cosine": a straight line up to `lr` and half a cosine down, per batch, the optimiser's
            momentum left alone; or "step": `lr`, multiplied by `decay` every `decay_epochs` epochs.
        lr: Peak learning rate.
        scaling: How `lr` follows the global batch (`data.batch_size` times accumulated steps): not at all; "linear" or
            "sqrt" in its ratio to `reference_batch`, for which `lr` then stands.
        reference_batch: See `scaling`.
        momentum: Of "sgd" and "rmsprop".
        weight_decay: Weight decay; a learned activation's own parameters have none.
        warmup: Fraction of the steps of "one_cycle" and "cosine" spent rising to the peak.
        div_factor: Peak over initial learning rate of both.
        final_div_factor: Initial over final learning rate of both.
        decay_epochs: See `schedule`.
        decay: See `schedule`.
        grad_clip: Largest gradient norm; null for none.
        ema: Decay of a moving average of the weights, updated after every step, such as 0.999: it is what is validated,
            and what becomes the surrogate. Null for none.
    """

    name: Literal["adamw", "adam", "nadam", "radam", "adamax", "adagrad", "adafactor", "rmsprop", "sgd"] = "adamw"
    schedule: Literal["one_cycle", "cosine", "step"] = "one_cycle"
    lr: float = 3e-3
    scaling: Literal["none", "linear", "sqrt"] = "none"
    reference_batch: int | None = None
    momentum: float = 0.0
    weight_decay: float = 1e-4
    warmup: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    decay_epochs: int = 100
    decay: float = 0.5
    grad_clip: float | None = None
    ema: float | None = None

    def __post_init__(self) -> None:
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"optim.ema must be between 0 and 1, or null, got {self.ema}.")
        for name in ("lr", "div_factor", "final_div_factor"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"optim.{name} must be positive, got {getattr(self, name)}.")
        _at_least("optim", 1, decay_epochs=self.decay_epochs, reference_batch=self.reference_batch)
        if (self.scaling != "none") != (self.reference_batch is not None):
            raise ValueError(
                f"optim.scaling and optim.reference_batch go together, got {self.scaling} and {self.reference_batch}."
            )
        if not 0 <= self.momentum < 1 or (self.momentum and self.name not in ("sgd", "rmsprop")):
            raise ValueError(
                f"optim.momentum is a number below 1, of sgd and rmsprop alone; got {self.momentum} for {self.name}."
            )
        if not 0 < self.decay <= 1:
            raise ValueError(f"optim.decay is a factor between 0 and 1, got {self.decay}.")
        if not 0 < self.warmup < 1:
            raise ValueError(f"optim.warmup is a fraction between 0 and 1, got {self.warmup}.")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"optim.weight_decay must not be negative, got {self.weight_decay}.")
        if self.grad_clip is not None and not (math.isfinite(self.grad_clip) and self.grad_clip > 0):
            raise ValueError(f"optim.grad_clip must be positive or null, got {self.grad_clip}.")


@dataclass(frozen=True)
class Evaluation:
    """What the evaluator looks at.

    Args:
        suite: How much. "quick": what the data at hand allow, under a minute; "standard": also trajectories ten times
            as long as the training's, made on demand; "full": also other parameters and inputs, and more repetitions.
        resolutions: Finer grids for zero-shot super-resolution, points per side; null takes those that share the
            labels' grid.
        horizon: Steps of rollouts that have a truth to compare with; null: ten times those of a training trajectory,
            quick: as many as it has.
        steps: Steps of rollouts in all; those beyond the truth are watched for divergence. Null: ten times those of a
            training trajectory.
        rollouts: Trajectories rolled out, at most those of the test set.
        timing: Seconds, about, in which solvers and surrogate are timed; 0 for no timing. Null: 5, 15 and 60 by suite.
        resamples: Bootstrap resamples per confidence interval.
        seed: Seed of the bootstrap.
    """

    suite: Literal["quick", "standard", "full"] = "standard"
    resolutions: tuple[int, ...] | None = None
    horizon: int | None = None
    steps: int | None = None
    rollouts: int = 32
    timing: float | None = None
    resamples: int = 9999
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least("evaluation", 100, resamples=self.resamples)
        _at_least("evaluation", 0, seed=self.seed)
        if self.timing is not None and not (math.isfinite(self.timing) and self.timing >= 0):
            raise ValueError(f"evaluation.timing must not be negative, got {self.timing}.")
        _at_least("evaluation", 1, horizon=self.horizon, steps=self.steps, rollouts=self.rollouts)
        if self.horizon is not None and self.steps is not None and self.steps < self.horizon:
            raise ValueError(
                f"evaluation.steps={self.steps} are fewer than the evaluation.horizon={self.horizon} that have a "
                "truth. Raise the one or lower the other."
            )
        if self.resolutions is not None and not self.resolutions:
            raise ValueError("evaluation.resolutions=[] names no grid; null takes those that share the labels' grid.")
        _at_least("evaluation", 5, resolutions=min(self.resolutions or (5,)))

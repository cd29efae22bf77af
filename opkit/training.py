"""From a PDE and a model to a run directory: data, fit, bundle, evaluation. The story of `opkit train`, in order.

runs/fno-darcy/
  config.yaml      resolved settings; `--config` with this file repeats the run
  environment.json data, code and hardware of each session
  metrics.csv      one row per epoch
  checkpoints/     last.ckpt, last.previous.ckpt, best.ckpt, for resuming
  surrogate/       the bundle, from the best checkpoint
  evaluation/      report.json, metrics.csv, report.html, figures/
"""

import ctypes
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from opkit import loggers
from opkit.callbacks import EpochTable, Failure, Preemption, TrainingProgress, is_out_of_memory
from opkit.checkpoints import FAILED, LAST, DurableCheckpoints, damage, newest, read
from opkit.datamodule import FieldData, strides
from opkit.errors import ConfigError, OutOfMemory, Preempted, RunError
from opkit.evaluation import evaluate_surrogate, fine_problems
from opkit.files import LOCK, alone_in, read_json, remove_leftovers, write_json, write_text
from opkit.generate import available_cores, ensure
from opkit.grid import Spec
from opkit.models import count_parameters
from opkit.normalize import Normalizer
from opkit.pdes import PDE
from opkit.registry import Architecture, read_yaml
from opkit.settings import Data, Evaluation, Loss, Optim, Stepping, Unroll
from opkit.signals import preemptible
from opkit.stepping import stepped, time_step, unrolled
from opkit.store import Dataset, data_root
from opkit.surrogate import PhysicalOperator, Surrogate, physics, residual_channels
from opkit.task import SupervisedTask

POSITIVE_TRAINER_ARGUMENTS = (
    "max_epochs", "max_steps", "limit_train_batches", "limit_val_batches", "accumulate_grad_batches",
    "check_val_every_n_epoch", "val_check_interval",
)  # fmt: skip
FIXED_SECTIONS = ("pde", "model", "data", "optim", "stepping", "unroll", "loss")
"""Settings that a resumed run must share with its beginning."""
FIXED_TRAINER_ARGUMENTS = ("max_epochs", "max_steps", "limit_train_batches", "accumulate_grad_batches", "precision")
"""And those of the Trainer's that decide the schedule and the arithmetic. How many devices there are does not."""
COMPILE_STEPS = 500
"""Optimiser steps from which compiling pays for its half minute, when `compile` is "auto"."""


@dataclass(frozen=True)
class Run:
    """All that decides one training run.

    Args:
        pde: The equation, on the grid to learn on.
        model: The architecture.
        data: Sizes of the splits and how they are fed.
        optim: Optimiser and schedule.
        stepping: How the surrogate advances, for an evolution equation.
        unroll: How it is trained on its own output.
        loss: What is minimised.
        evaluation: What to evaluate at the end.
        trainer: Arguments of Lightning's Trainer.
        config: The resolved settings as plain values, kept as config.yaml.
        folder: Where everything goes.
        seed: Seed of the initial weights and the order of samples.
        workers: Processes that generate data; null means one per core. No effect on the data.
        compile: Run training steps through torch.compile; "auto" does for models and runs that gain from it, where a
            C++ compiler is at hand.
        loggers: Where figures go beside metrics.csv, of `opkit.loggers.NAMES`.
    """

    pde: PDE
    model: Architecture
    data: Data
    optim: Optim
    stepping: Stepping
    unroll: Unroll
    loss: Loss
    evaluation: Evaluation
    trainer: dict[str, Any]
    config: dict[str, Any]
    folder: Path
    seed: int = 0
    workers: int | None = None
    compile: bool | Literal["auto"] = "auto"
    loggers: tuple[str, ...] = ()


def train(run: Run, resume: bool = False) -> Path:
    """Train a surrogate and evaluate it. One process at a time, or the ranks of one run, work in a run directory.

    Args:
        run: What to do.
        resume: Continue the run in its folder.

    Returns:
        The run directory.

    Raises:
        RunError: The folder holds another run, is in use, or cannot be written to.
    """
    if _is_launched_rank():
        return _train(run, resume)
    _check_place(run.folder)
    with alone_in(run.folder, lambda why: RunError(f"run_dir: {why}. Choose another run_dir=...")):
        _check_run_dir(run.folder, run.config, resume)
        return _train(run, resume)


def _train(run: Run, resume: bool) -> Path:
    pde, data, run_dir, workers = run.pde, run.data, run.folder, run.workers
    began = time.monotonic()
    spec = stepped(pde.spec, run.stepping, pde.times)
    spans = unrolled(run.stepping, run.unroll, pde.times)
    run.model.check(spec)
    time_step(pde.times)
    strides(pde, data)
    check_trainer(run.trainer)

    _quiet()
    checkpoints = ModelCheckpoint(
        run_dir / "checkpoints", "best", monitor="val/rel_l2", save_last=True, enable_version_counter=False
    )
    preemption, table = Preemption(run_dir / "checkpoints" / LAST), EpochTable(run_dir / "metrics.csv")
    loop = _trainer(
        **run.trainer, gradient_clip_val=run.optim.grad_clip, default_root_dir=run_dir, logger=False,
        callbacks=[
            checkpoints, table, TrainingProgress(f"train {run_dir.name}"), preemption,
            Failure(run_dir / "checkpoints" / FAILED),
            *([] if run.optim.ema is None else [EMAWeightAveraging(decay=run.optim.ema, use_buffers=False)]),
        ],
        plugins=[DurableCheckpoints(), *_cluster()], enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip

    train_set = Dataset(pde, "train", data.seed, data_root())
    if data.mode == "stored":
        train_set = ensure(pde, "train", data.train, data.seed, workers)
    val_set = ensure(pde, "val", data.val, data.seed, workers)
    ensure(pde, "test", data.test, data.seed, workers)
    for problem in fine_problems(pde, run.evaluation):
        ensure(problem, "test", min(data.test_fine, data.test), data.seed, workers)

    L.seed_everything(run.seed, workers=True, verbose=False)
    keep_freed_memory()
    if not _is_launched_rank():  # a folder made by another rank would look to the first one like an earlier run's
        facts = loggers.environment(train_set.key)
        _prepare(run_dir, run.config, facts)
        table.loggers = loggers.make(run.loggers, run_dir, run.config | {"environment": facts})
    fields = FieldData(train_set, val_set, data, run.seed, spans, workers)
    fields.trainer = loop
    fields.setup()
    surrogate = untrained(run, spec, fields.training_fields)
    steps = loop.max_epochs * len(fields.train_dataloader()) if loop.max_epochs else 0
    pays = surrogate.model.operator.compile_pays or loop.strategy.root_device.type != "cpu"
    compiled = _can_compile(run.compile, steps if pays else 0)
    batch = min(data.batch_size, len(fields.fields["train"]))
    task = SupervisedTask(
        surrogate.model, spec, run.optim, batch, compiled, run.seed, run.stepping, run.unroll, run.loss, pde
    )
    print(
        f"{run.model.name} on {pde.equation}: {count_parameters(surrogate.model):,} parameters, {data.train} samples "
        f"{'' if pde.times is None else f'of {len(pde.times) - 1} steps '}on {' x '.join(map(str, pde.grid.shape))}"
        f"{' points' if pde.grid.ndim == 1 else ''}, {loop.strategy.root_device.type}"
        f"{', compiling the first step (about half a minute)' if compiled else ''}",
        file=sys.stderr,
    )
    checkpoint, notes = newest(run_dir / "checkpoints") if resume else (None, [])
    if loop.is_global_zero:
        remove_leftovers(run_dir / "checkpoints")
        for note in notes:
            print(note, file=sys.stderr)
    try:
        _fit(loop, task, fields, checkpoint, preemption)
    finally:
        fields.close()
    if not loop.is_global_zero:
        return run_dir

    best = run_dir / "checkpoints" / "best.ckpt"
    if not best.exists():
        raise ConfigError(
            "No validation took place, so no checkpoint was chosen. Check trainer.check_val_every_n_epoch, "
            "trainer.limit_val_batches and trainer.fast_dev_run."
        )
    if reason := damage(best):
        raise RunError(f"{best} is damaged: {reason}. Start the run again in another run_dir.")
    state = read(best)["state_dict"]
    surrogate.model.load_state_dict({name.removeprefix("model."): value for name, value in state.items()})
    surrogate.model.eval().float()  # training left it in its own mode, and in the trainer's precision
    surrogate.to(loop.strategy.root_device)
    try:
        with preemptible():
            surrogate.save(run_dir / "surrogate")
            report = evaluate_surrogate(
                surrogate, pde, data, run.evaluation, run_dir / "evaluation", run_dir / "surrogate", workers
            )
    except Preempted as stop:
        then = "training is complete, the evaluation is not; add --resume to repeat it"
        raise Preempted(stop.signal, then) from None
    found = {
        f"test/{m['name']}@{m['resolution']}" + (f"/{m['horizon']}" if m["name"] == "rel_l2_step" else ""): m["value"]
        for m in report["metrics"]
        if m["model"] == "surrogate"
    }
    pictures = {path.stem: path for path in sorted((run_dir / "evaluation" / "figures").glob("*.png"))}
    loggers.finish(table.loggers, {k: v for k, v in found.items() if v is not None}, pictures)
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    print(f"finished in {minutes} min {seconds} s; use it: opkit.load({str(run_dir)!r})")
    return run_dir


def untrained(run: Run, spec: Spec, items: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> Surrogate:
    """The model with freshly drawn weights and fitted normalisers.

    Args:
        run: What will be trained.
        spec: Its channels and grid.
        items: Gives all training items once, in batches.
    """
    residual = residual_channels(spec, run.stepping)

    def predicted(inputs: Tensor, targets: Tensor) -> Tensor:
        targets = targets[:, : len(spec.outputs)]  # of the first call, if training is unrolled
        if residual is None:
            return targets
        last = inputs[:, residual[0] : residual[1]]
        return targets - last.repeat(1, run.stepping.bundle, *(1 for _ in last.shape[2:]))

    given = Normalizer.fit(inputs for inputs, _ in items())
    wanted = Normalizer.fit(predicted(*batch) for batch in items())
    operator = PhysicalOperator(run.model.build(spec), given, wanted, residual)
    return Surrogate(operator, run.model, spec, physics(run.pde, run.data), stepping=run.stepping)


def _fit(
    loop: L.Trainer, task: SupervisedTask, fields: FieldData, checkpoint: Path | None, preemption: Preemption
) -> None:
    if loop.precision == "64-true":
        task.double()  # Lightning does so after it has restored a checkpoint, which went through float32 then
    try:
        task.model.train()
        loop.fit(task, datamodule=fields, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    except SystemExit:  # Lightning's answer to Ctrl-C, and to what is derived from it
        raise preemption.stopped or KeyboardInterrupt from None
    except Exception as problem:
        if preemption.stopped:  # and another rank left first
            raise preemption.stopped from None
        if is_out_of_memory(problem):
            raise _out_of_memory(problem, loop, fields.settings) from None
        lost = isinstance(problem, torch.distributed.DistError) or "gloo" in str(problem)
        if loop.world_size > 1 and lost:
            reason = str(problem).splitlines()[0]
            raise RunError(
                f"rank {loop.global_rank} of {loop.world_size} lost another process of this run, whose own message, if "
                f"it had time for one, says why ({reason}). Add --resume to continue from the last checkpoint."
            ) from None
        raise


def _out_of_memory(problem: BaseException, loop: L.Trainer, data: Data) -> OutOfMemory:
    parts = loop.accumulate_grad_batches
    advice = "Make the model or the grid smaller"
    if data.batch_size > loop.world_size:
        fewer = max(loop.world_size, data.batch_size // 2)
        advice = (
            f"Set data.batch_size={fewer} trainer.accumulate_grad_batches={2 * parts}, which is nearly the same run"
        )
    saved = f" Its state is in {FAILED}, beside the checkpoints." if loop.world_size == 1 else ""
    reason = str(problem).splitlines()[0]
    return OutOfMemory(
        f"Out of memory at data.batch_size={data.batch_size} ({reason}).{saved} {advice}; for long unrolls set "
        "unroll.checkpointing=true. `--check` estimates what a run needs. If another program took the memory: --resume."
    )


def _cluster() -> list[SLURMEnvironment]:
    """Under SLURM, Lightning's environment without its own answer to signals, which saves in the middle of a step."""
    return [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []


def _is_launched_rank() -> bool:
    """Whether this process is a further rank that Lightning, torchrun or SLURM started for a run under way."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))


def check_trainer(trainer: dict[str, Any]) -> None:
    """Refuse what Lightning would accept and then train nothing, for ever, or with hundreds of processes."""
    for name in POSITIVE_TRAINER_ARGUMENTS:
        least = 1e-9 if name.startswith(("limit_", "val_")) else 1
        value = trainer.get(name)
        unlimited = name.startswith("max_") and value == -1
        if isinstance(value, int | float) and value < least and not unlimited:
            raise ConfigError(f"trainer.{name}={value} leaves nothing to do. Set it to at least 1.")
    if trainer.get("max_epochs") == -1 or (trainer.get("max_epochs") is None and trainer.get("max_steps", -1) == -1):
        raise ConfigError("trainer.max_epochs=-1 never ends, and the rate's schedule needs an end. Give a number.")
    if (every := trainer.get("check_val_every_n_epoch", 1)) > (epochs := trainer.get("max_epochs", every)):
        raise ConfigError(
            f"trainer.check_val_every_n_epoch={every} is more than trainer.max_epochs={epochs}: no checkpoint would be "
            "chosen. Lower it."
        )
    for name in ("overfit_batches", "fast_dev_run"):
        if trainer.get(name):
            raise ConfigError(
                f"trainer.{name}={trainer[name]} swaps data and skips checkpoints, so no surrogate could be made. "
                "Set a small data.train and trainer.max_epochs instead."
            )
    devices, cores = trainer.get("devices", "auto"), available_cores()
    on_cpu = trainer.get("accelerator", "auto") == "cpu" or not torch.cuda.is_available()
    if on_cpu and str(devices).isdecimal() and int(devices) > cores:
        raise ConfigError(
            f"trainer.devices={devices} would start as many CPU processes; this machine has {cores} cores."
        )


def _trainer(**arguments: Any) -> L.Trainer:
    """Lightning's Trainer, its complaints as messages of ours."""
    try:
        return L.Trainer(**arguments)
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as problem:
        reason = str(problem).splitlines()[0]
        culprits = [k for k, v in arguments.items() if isinstance(v, str) and len(v) > 1 and v in reason]
        named = f"trainer.{culprits[0]}={arguments[culprits[0]]}" if culprits else "trainer"
        raise ConfigError(f"{named}: {reason}") from None


def _check_place(run_dir: Path) -> None:
    """Refuse a run directory that is none, or where nothing may be written."""
    try:
        if run_dir.exists() and not run_dir.is_dir():
            raise RunError(f"run_dir={run_dir} is a file. Choose another run_dir.")
        ancestor = next(p for p in [run_dir, *run_dir.absolute().parents] if p.exists())
    except OSError as problem:
        raise RunError(f"run_dir={run_dir} cannot be used ({problem.strerror}). Choose another run_dir.") from None
    if not ancestor.is_dir():
        raise RunError(f"run_dir={run_dir}: {ancestor} is a file, not a folder. Choose another run_dir.")
    if not os.access(ancestor, os.W_OK):
        raise RunError(f"run_dir={run_dir}: no permission to write to {ancestor.absolute()}. Choose another run_dir.")


def _check_run_dir(run_dir: Path, config: dict[str, Any], resume: bool) -> None:
    """Refuse to overwrite a run, or to continue what is not one, or another one."""
    occupied = any(path.name != LOCK for path in run_dir.iterdir())
    if occupied and not resume:
        raise RunError(
            f"{run_dir} already holds a run, and runs are never overwritten. Add --resume to continue it, or choose "
            f"another place with run_dir=..."
        )
    if resume and not occupied:
        raise RunError(f"There is no run in {run_dir} to resume. Leave out --resume to start one.")
    if resume:
        try:
            before = read_yaml(run_dir / "config.yaml")
        except ConfigError as problem:
            raise RunError(f"{run_dir} is not a run that can be resumed: {problem}") from None
        if not all(isinstance(before.get(k), dict) for k in (*FIXED_SECTIONS, "trainer")):
            raise RunError(f"{run_dir} is not a run that can be resumed: its config.yaml lacks sections.")
        then, now = (
            {k: c[k] for k in FIXED_SECTIONS}
            | {"trainer": {k: c["trainer"].get(k) for k in FIXED_TRAINER_ARGUMENTS}, "": {"seed": c.get("seed")}}
            for c in (before, config)
        )
        changed = [
            f"{section}.{key}".lstrip(".") + f" was {then[section].get(key)!r}, is {value!r}"
            for section, values in now.items()
            for key, value in values.items()
            if then[section].get(key) != value
        ]
        if changed:
            raise RunError(
                f"{run_dir} was trained with other settings: {'; '.join(changed)}. Repeat the original command."
            )


def _prepare(run_dir: Path, config: dict[str, Any], facts: dict[str, Any]) -> None:
    """Keep what the run is, and what each of its sessions ran on."""
    if not (run_dir / "config.yaml").exists():
        write_text(run_dir / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    history = run_dir / "environment.json"
    before = read_json(history, RunError).get("sessions") if history.exists() else []
    if not isinstance(before, list) or not all(isinstance(session, dict) for session in before):
        raise RunError(f"{history} is damaged: it lists no sessions. Move it elsewhere and repeat the command.")
    if before and before[-1].get("data") != facts["data"]:
        raise RunError(
            f"{run_dir} was trained on data of the key {before[-1].get('data')}, which opkit {before[-1].get('opkit')} "
            f"made; those of this opkit ({facts['opkit']}) are {facts['data']}. Start the run again in another run_dir."
        )
    write_json(history, {"sessions": [*before, facts]})


def _can_compile(wanted: bool | str, steps: int) -> bool:
    compiler = shutil.which(os.environ.get("CXX", "")) or shutil.which("g++") or shutil.which("clang++")
    if wanted == "auto":
        return steps >= COMPILE_STEPS and compiler is not None
    if wanted and compiler is None and not torch.cuda.is_available():
        raise ConfigError("compile=true needs a C++ compiler (g++ or clang++). Install one, or set compile=false.")
    return bool(wanted)


def keep_freed_memory() -> None:
    """Tell glibc to keep large freed blocks: a step frees and takes the same hundreds of megabytes again, and page
    faults on fresh ones cost as much as a tenth of the step. Does nothing with another C library."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)
    except (OSError, AttributeError):
        pass


def _quiet() -> None:
    """Silence what Lightning and torch.compile say about themselves; what a user must know is said by opkit."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=r".*(does not have many workers|isinstance\(treespec).*")
    warnings.filterwarnings("ignore", message="Torchinductor does not support code generation for complex")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\..*")

"""What a run would be, before it costs anything: shapes, one step on two solved samples, gradients, time and memory."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace

import lightning as L
import torch
from torch import Tensor

from opkit.datamodule import strides
from opkit.errors import ConfigError
from opkit.files import human_bytes
from opkit.generate import available_cores
from opkit.models import count_parameters
from opkit.stepping import stepped, time_step, unrolled, window
from opkit.store import Dataset, data_root, pair, trajectories
from opkit.task import SupervisedTask
from opkit.training import Run, check_trainer, untrained

SOLVED = 2
"""Samples that are solved to try a run on."""


def check(run: Run) -> Iterator[str]:
    """Try a run for one step, on the device it would use; yields what was found. Writes nothing.

    Raises:
        ConfigError: It would train nothing.
    """
    pde, data = run.pde, run.data
    check_trainer(run.trainer)
    spec = stepped(pde.spec, run.stepping, pde.times)
    spans = unrolled(run.stepping, run.unroll, pde.times)
    run.model.check(spec)
    time_step(pde.times)
    strides(pde, data)
    on_gpu = torch.cuda.is_available() and run.trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    device = torch.device("cuda" if on_gpu else "cpu")

    began = time.monotonic()
    labels = pde.label(SOLVED, data.seed, 0, "cpu", 1)
    each = (time.monotonic() - began) / SOLVED
    made = Dataset(pde, "train", data.seed, data_root())
    missing = sum(b - a for a, b in made.missing(data.train))
    cores = run.workers or available_cores()
    room = human_bytes(made.estimate(missing))
    waiting = f", about {_duration(missing * each / cores)} with {cores} worker{'s' if cores > 1 else ''} and {room}"
    if data.mode == "online":
        yield f"data       {data.train} training samples, solved while it trains: {each:.3g} s each, {cores} at a time"
    else:
        yield f"data       {data.train} training samples, {missing} still to be made{waiting if missing else ''}"

    stored = {k: v.float() for k, v in (labels.fields | labels.scalars).items()}
    if pde.times is None:
        inputs, targets = pair(pde, stored)
        items = data.train
    else:
        frames, constants = trajectories(pde, stored)
        count = frames.shape[1] - spans.history - spans.bundle + 1
        rows, start = torch.arange(SOLVED).repeat_interleave(count), torch.arange(count).repeat(SOLVED)
        inputs, targets = window(frames, constants, rows, start, spans)
        items = data.train * count
    L.seed_everything(run.seed, verbose=False)
    surrogate = untrained(run, spec, lambda: [(inputs, targets)])
    nodes, devices = int(run.trainer.get("num_nodes", 1)), str(run.trainer.get("devices", 1))
    world = nodes * (int(devices) if devices.isdecimal() else torch.cuda.device_count() if on_gpu else 1)
    batch = min(data.batch_size, items)
    part = -(-batch // world)
    shapes = [f"({', '.join(['b', str(len(c)), *map(str, spec.grid.shape)])})" for c in (spec.inputs, spec.outputs)]
    yield (
        f"network    {run.model.name}: {', '.join(spec.inputs)} {shapes[0]} -> {', '.join(spec.outputs)} {shapes[1]}, "
        f"{count_parameters(surrogate.model):,} parameters"
    )

    task = SupervisedTask(
        surrogate.model.to(device).train(), spec, run.optim, batch, False, run.seed, run.stepping,
        replace(run.unroll, growth=0.0), run.loss, pde,
    )  # fmt: skip
    accumulated = int(run.trainer.get("accumulate_grad_batches", 1))
    optimizer = task.optimizer(accumulated)
    chosen = torch.arange(part) % len(inputs)
    samples = inputs[chosen].to(device), targets[chosen].to(device)
    kept = _kept(task, samples)
    losses, seconds = [], math.inf
    before = [p.detach().clone() for p in task.parameters()]
    for _ in range(3):
        began = time.monotonic()
        optimizer.zero_grad()
        loss = task.training_step(samples, 0)
        loss.backward()
        losses.append(float(loss.detach()))
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in task.parameters() if p.grad is not None]))
        optimizer.step()
        seconds = min(seconds, time.monotonic() - began)
        if not math.isfinite(losses[-1]) or not math.isfinite(norm):
            raise ConfigError(
                f"the loss of step {len(losses)} is {losses[-1]} and its gradient's norm {norm}: this run would train "
                f"nothing. Lower optim.lr (now {run.optim.lr}) or look at loss.terms and the data."
            )
    idle = [n for n, p in task.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    if norm == 0 or all(torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True)):
        raise ConfigError(
            f"the gradient's norm is {norm} and optim.lr={run.optim.lr}: no weight moves, this run would train nothing."
        )
    per_epoch = -(-items // batch)
    epochs = int(run.trainer.get("max_epochs") or 0)
    if data.mode == "online":
        per_epoch = items * data.reuse // batch // max(1, epochs)
    steps = int(run.trainer["max_steps"]) if run.trainer.get("max_steps", -1) > 0 else epochs * per_epoch
    over = f" on each of {world} devices" if world > 1 else ""
    yield (
        f"step       {seconds:.3g} s for {part} samples{over}, without torch.compile; {steps} steps ({per_epoch} an "
        f"epoch): about {_duration(steps * seconds)}"
    )
    weights = sum(p.numel() * p.element_size() for p in task.parameters())
    states = sum(v.numel() * v.element_size() for s in optimizer.state.values() for v in s.values() if _is_tensor(v))
    total = f"{human_bytes(2 * weights + states + kept)} a device"
    if on_gpu:
        total += f" (peak {human_bytes(torch.cuda.max_memory_allocated())} of {_gpu_memory()})"
    yield (
        f"memory     about {total}: weights and gradients {human_bytes(2 * weights)}, optimiser {human_bytes(states)}, "
        f"kept for gradients {human_bytes(kept)}"
    )
    without = f"none at {len(idle)} parameters ({', '.join(idle[:5])})" if idle else "at every parameter"
    yield f"gradient   norm {norm:.3g}, {without}"
    yield f"loss       {losses[0]:.4g} at first, {losses[-1]:.4g} after two steps on the same samples"


def _kept(task: SupervisedTask, samples: tuple[Tensor, Tensor]) -> int:
    """Bytes that one step keeps for its gradients, beside the weights; storages that tensors share count once."""
    sizes: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in task.parameters()}

    def note(values: Tensor) -> Tensor:
        storage = values.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return values

    with torch.autograd.graph.saved_tensors_hooks(note, lambda values: values):
        loss = task.training_step(samples, 0)
        total = sum(sizes.values())
    loss.backward()
    return total


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _gpu_memory() -> str:
    return human_bytes(torch.cuda.get_device_properties(0).total_memory)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

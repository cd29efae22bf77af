"""A trained surrogate: physical fields in, physical fields out, and the bundle that carries it.

    surrogate = opkit.load("runs/fno-darcy")
    u = surrogate(a)

A bundle is a directory without pickles:

    model.safetensors     weights and normaliser
    config.json           model name and arguments, channels, versions, hash of the weights
    physics.json          equation, parameters, grid, boundary, time step, units, how the data were made
    metrics.json          errors with confidence intervals
    README.md             model card

Loading runs no code from it: the model's name is looked up among the installed ones, and every key and shape is checked
before a weight is used. Needs neither Lightning nor wandb.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

import opkit
from opkit.errors import BundleError
from opkit.files import foreign, read_json, sha256, whole_file, whole_folder, write_json, write_text
from opkit.grid import Grid, Spec
from opkit.models import Operator, count_parameters
from opkit.models.activations import is_loaded
from opkit.normalize import Normalizer
from opkit.pdes import PDE
from opkit.registry import Architecture, names
from opkit.settings import Data, Stepping
from opkit.stepping import advance, time_step
from opkit.store import Dataset

FORMAT = 1
ONE_STEP = Stepping()
FILES = ("model.safetensors", "config.json", "physics.json", "metrics.json", "README.md")


class PhysicalOperator(nn.Module):
    """An operator between its normalisers: the differentiable map in physical units that is trained and saved.

    Args:
        operator: The network.
        input_normalizer: Of its input channels.
        output_normalizer: Of what it predicts.
        residual: First and last + 1 input channel of the last frame given, if the network predicts the change from it.
    """

    def __init__(
        self,
        operator: Operator,
        input_normalizer: Normalizer,
        output_normalizer: Normalizer,
        residual: tuple[int, int] | None = None,
    ):
        super().__init__()
        self.operator, self.input_normalizer, self.output_normalizer = operator, input_normalizer, output_normalizer
        self.residual = residual

    def forward(self, values: Tensor) -> Tensor:
        return self.operator.constrain(self.operator.on_its_grid(values, self._on_its_grid))

    def _on_its_grid(self, values: Tensor) -> Tensor:
        outputs = self.output_normalizer.inverse(self.operator(self.input_normalizer(values)))
        if self.residual is not None:
            last = values[:, self.residual[0] : self.residual[1]]
            outputs = outputs + last.repeat(1, outputs.shape[1] // last.shape[1], *(1 for _ in last.shape[2:]))
        return self.operator.constrain(outputs)


def residual_channels(spec: Spec, stepping: Stepping) -> tuple[int, int] | None:
    """The input channels of the last frame given, where the network predicts the change from it; else None."""
    channels = len(spec.outputs) // stepping.bundle
    last = stepping.history * channels
    return (last - channels, last) if stepping.target == "residual" else None


class Surrogate:
    """A trained model to call from a simulation.

    Args:
        model: The map in physical units; put into eval mode.
        architecture: Name and arguments that rebuild it.
        spec: Channels and training grid.
        physics: Content of physics.json.
        metrics: Content of metrics.json.
        stepping: How a call advances an evolution equation.
    """

    def __init__(
        self,
        model: PhysicalOperator,
        architecture: Architecture,
        spec: Spec,
        physics: dict[str, Any],
        metrics: dict[str, Any] | None = None,
        stepping: Stepping = ONE_STEP,
    ):
        self.model, self.stepping = model.eval(), stepping
        self.architecture, self.spec, self.physics, self.metrics = architecture, spec, physics, metrics or {}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move to a device, in place."""
        self.model.to(device)
        return self

    def __repr__(self) -> str:
        channels = f"{', '.join(self.spec.inputs)} -> {', '.join(self.spec.outputs)}"
        return f"Surrogate({self.architecture.name}, {self.physics.get('pde', '?')}: {channels}, on {self.device})"

    def __call__(self, values: Any) -> Any:
        """Apply to one field or a batch of them, in physical units.

        Args:
            values: `(b, c, *x)` or `(c, *x)`, floating point, numpy or torch, on any grid the model allows. A torch
                tensor that requires grad is differentiated through; anything else runs without gradients.

        Returns:
            `(b, c_out, *x)` or `(c_out, *x)`: the same kind, dtype and device as the input. The network itself computes
            in float32.

        Raises:
            TypeError: Not an array of real floating-point numbers.
            ValueError: Wrong channels or number of axes, or values that are not finite.
        """
        tensor, batched = self._check(values)
        outputs = self._apply(tensor if batched else tensor[None])
        outputs = outputs if batched else outputs[0]
        return outputs.numpy() if isinstance(values, np.ndarray) else outputs

    def rollout(self, initial: Any, steps: int) -> Any:
        """Apply the surrogate to its own output `steps` times.

        Args:
            initial: State `(b, c, *x)` or `(c, *x)` at the start, followed by the channels of parameters drawn per
                sample, if the equation has any; these stay as they are. A surrogate with a history takes that many
                states, oldest first, all as channels, as `spec.inputs` lists them.
            steps: Time steps of physics.json's `time_step` each; at least 1.

        Returns:
            The frames after the initial one, `(b, steps, c, *x)` or `(steps, c, *x)`. A trajectory that blows up is
            continued: its later frames are not finite.

        Raises:
            TypeError: The equation is steady, so there is nothing to step.
            ValueError: As for a call, or steps < 1.
        """
        frames = self.frames(initial)
        if steps < 1:
            raise ValueError(f"rollout needs steps >= 1, got {steps}.")
        stack: Any = np.stack if isinstance(initial, np.ndarray) else torch.stack
        return stack(list(islice(frames, steps)), initial.ndim - self.spec.grid.ndim - 1)

    def frames(self, initial: Any) -> Iterator[Any]:
        """The frames of `rollout` one by one and without end: memory does not grow with their number.

        Args:
            initial: As of `rollout`.

        Returns:
            An iterator over `(b, c, *x)` or `(c, *x)`: the same kind, dtype and device as `initial`. One that requires
            grad is differentiated through, which keeps every step.

        Raises:
            TypeError: The equation is steady, so there is nothing to step.
            ValueError: As for a call.
        """
        if self.physics.get("time_step") is None:
            raise TypeError(
                f"This surrogate solves a steady equation ({self.physics.get('pde')}); it has no time to step. "
                "Call it as surrogate(a)."
            )
        tensor, batched = self._check(initial)
        history, bundle = self.stepping.history, self.stepping.bundle
        channels = len(self.spec.outputs) // bundle
        parts = advance(self._apply, tensor if batched else tensor[None], history * channels)
        frames = (frame if batched else frame[0] for part in parts for frame in part.split(channels, 1))
        return (frame.numpy() for frame in frames) if isinstance(initial, np.ndarray) else frames

    def _apply(self, inputs: Tensor) -> Tensor:
        parameter = next(self.model.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and inputs.requires_grad):
            return self.model(inputs.to(parameter.device, parameter.dtype)).to(inputs.device, inputs.dtype)

    def _check(self, values: Any) -> tuple[Tensor, bool]:
        if isinstance(values, np.ndarray):
            if values.dtype.kind != "f" or values.dtype.itemsize > 8:
                raise TypeError(
                    f"The surrogate takes real floating-point numbers, got a numpy array of {values.dtype}."
                )
            tensor = torch.from_numpy(np.ascontiguousarray(values, values.dtype.newbyteorder("=")))
        elif isinstance(values, Tensor):
            tensor = values
        else:
            raise TypeError(f"The surrogate takes a numpy array or a torch tensor, got a {type(values).__name__}.")
        if not tensor.is_floating_point():
            raise TypeError(f"The surrogate takes real floating-point numbers, got a tensor of {tensor.dtype}.")
        channels, ndim = len(self.spec.inputs), self.spec.grid.ndim
        axes = ", ".join("xyz"[:ndim])
        wanted = (
            f"(batch, {channels}, {axes}) or ({channels}, {axes}), the channels being {', '.join(self.spec.inputs)}"
        )
        if tensor.ndim not in (ndim + 1, ndim + 2):
            raise ValueError(f"The surrogate expects an array of shape {wanted}; got {tuple(tensor.shape)}.")
        if tensor.shape[-ndim - 1] != channels:
            raise ValueError(
                f"The surrogate expects {channels} channel(s), shape {wanted}; got {tuple(tensor.shape)} with "
                f"{tensor.shape[-ndim - 1]}."
            )
        if 0 in tensor.shape[-ndim:] or not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise ValueError(
                f"The surrogate's input must be finite; {bad} of its {tensor.numel()} values are NaN or infinite."
            )
        return tensor, tensor.ndim == ndim + 2

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the bundle to a directory, whole or not at all; a bundle that was there is replaced.

        Raises:
            BundleError: Something else is there.
        """
        from safetensors.torch import save as serialize

        path = Path(path)
        is_bundle = all((path / name).is_file() for name in ("config.json", "model.safetensors"))
        others = [] if is_bundle else foreign(path, frozenset())
        if path.is_file() or others:
            found = "is a file" if path.is_file() else f"holds {others[0]} and is no bundle"
            raise BundleError(f"{path} {found}; it would be replaced. Give a folder that is empty or not there.")
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.model.state_dict().items()}
        with whole_folder(path) as folder:
            with whole_file(folder / "model.safetensors") as weights:
                weights.write_bytes(serialize(tensors, metadata={"format": "pt"}))
            grid = self.spec.grid
            config = {
                "format_version": FORMAT,
                "opkit_version": opkit.__version__,
                "torch_version": torch.__version__.split("+")[0],
                "model": self.architecture.name,
                "arguments": self.architecture.arguments,
                "inputs": list(self.spec.inputs),
                "outputs": list(self.spec.outputs),
                "grid": asdict(grid),
                "boundary": self.spec.boundary,
                "stepping": asdict(self.stepping),
                "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
                "parameters": count_parameters(self.model),
                "weights_sha256": sha256(folder / "model.safetensors"),
            }
            write_json(folder / "config.json", config)
            write_json(folder / "physics.json", self.physics)
            write_json(folder / "metrics.json", self.metrics)
            write_text(folder / "README.md", model_card(config, self.physics, self.metrics))
        return path


def physics(pde: PDE, data: Data) -> dict[str, Any]:
    """Content of a bundle's physics.json: the problem, and how to make its data again."""
    train_set = Dataset(pde, "train", data.seed, Path())
    return {
        "pde": pde.equation,
        "formula": pde.formula,
        "parameters": train_set.config["parameters"],
        "grid": {"shape": list(pde.grid.shape), "location": pde.grid.location, "length": list(pde.grid.lengths)},
        "boundary": pde.boundary,
        "time_step": time_step(pde.times),
        "units": "dimensionless",
        "input_distribution": pde.input_law,
        "data": {
            "generator": f"opkit {opkit.__version__}",
            "seed": data.seed,
            "key": train_set.key,
            "mode": data.mode,
            "train": data.train,
            "val": data.val,
            "test": data.test,
            "test_fine": data.test_fine,
        },
    }


def record_metrics(bundle: Path, metrics: dict[str, Any]) -> None:
    """Put newly measured errors into a bundle: metrics.json and the model card."""
    fail = _problem(bundle)
    write_json(bundle / "metrics.json", metrics)
    card = model_card(read_json(bundle / "config.json", fail), read_json(bundle / "physics.json", fail), metrics)
    write_text(bundle / "README.md", card)


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu", revision: str | None = None) -> Surrogate:
    """Load a trained surrogate.

    Args:
        path: A run directory, a bundle directory, or "owner/name" of a hub repository (needs `pip install
            opkit[hub]`).
        device: Where to put it.
        revision: Branch, tag or commit of a hub repository.

    Raises:
        BundleError: Something is missing, damaged or foreign; the message names the file.
    """
    folder = find_bundle(path, revision)
    fail = _problem(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise fail(f"{name} is missing")
    config = read_json(folder / "config.json", fail)
    physics = read_json(folder / "physics.json", fail)
    metrics = read_json(folder / "metrics.json", fail)
    if config.get("format_version") != FORMAT:
        raise fail(
            f"config.json has format_version {config.get('format_version')!r}, this opkit ({opkit.__version__}) reads "
            f"{FORMAT}; upgrade opkit, or save the bundle again with it"
        )
    if config.get("model") not in names("model"):
        raise fail(f"config.json names the model {config.get('model')!r}; installed are {', '.join(names('model'))}")
    try:
        grid = config["grid"]
        spec = Spec(
            tuple(config["inputs"]),
            tuple(config["outputs"]),
            Grid(tuple(grid["shape"]), grid["location"], _hashable(grid["length"])),
            config.get("boundary", "open"),
        )
        architecture = Architecture(config["model"], config["arguments"])
        unknown = [v for v in architecture.arguments.values() if isinstance(v, str) and not is_loaded(v)]
        if unknown:
            raise fail(
                f"it needs {unknown[0]}, which is not imported; a bundle may not import code. Import it first, if you "
                "trust it"
            )
        stepping = Stepping(**config.get("stepping", {}))
        with torch.device("meta"):
            operator = architecture.build(spec)
    except BundleError:
        raise
    except (KeyError, TypeError, ValueError) as problem:
        raise fail(f"config.json does not describe a model ({problem!r})") from None
    tensors = _read_weights(folder / "model.safetensors", config.get("weights_sha256"), fail)
    given, predicted = (
        Normalizer(torch.zeros(len(channels)), torch.ones(len(channels))) for channels in (spec.inputs, spec.outputs)
    )
    model = PhysicalOperator(operator, given, predicted, residual_channels(spec, stepping))
    _check_weights(model.state_dict(), tensors, fail)
    # Copies: a tensor read in place may start at any byte, and matrix products then round differently.
    model.load_state_dict({name: value.clone() for name, value in tensors.items()}, assign=True)
    return Surrogate(model.to(device), architecture, spec, physics, metrics, stepping)


def find_bundle(path: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The bundle's directory, given a run directory, the bundle itself, or a hub repository."""
    folder = Path(path)
    if (folder / "surrogate").is_dir():
        return folder / "surrogate"
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BundleError(
                f"{folder} is neither a finished run (no surrogate/ in it) nor a bundle (no config.json). "
                "Give the directory that `opkit train` made, or finish the run with --resume."
            )
        return folder
    if folder.exists() or str(path).count("/") != 1 or str(path).startswith((".", "/", "~")):
        raise BundleError(f"There is no directory {folder}. Give a run directory, a bundle, or a hub id owner/name.")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise BundleError(
            f"There is no directory {folder}. To load {str(path)!r} from a hub, install opkit[hub]."
        ) from None
    try:
        allowed = ["*.json", "*.safetensors", "*.md", "LICENSE"]
        return Path(snapshot_download(str(path), revision=revision, allow_patterns=allowed))
    except Exception as problem:
        raise BundleError(
            f"There is no directory {folder}, and the hub repository {str(path)!r} cannot be had ({problem})."
        ) from None


def _problem(folder: Path) -> Any:
    return lambda why: BundleError(f"The bundle {folder} cannot be loaded: {why}.")


def _hashable(length: Any) -> Any:
    return tuple(length) if isinstance(length, list) else length


def _read_weights(path: Path, digest: str | None, fail: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if sha256(path) != digest:
        raise fail("model.safetensors is not the file this bundle was saved with (its hash differs from config.json)")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as problem:
        raise fail(f"model.safetensors cannot be read ({problem})") from None


def _check_weights(expected: dict[str, Tensor], given: dict[str, Tensor], fail: Any) -> None:
    for name in sorted(expected.keys() | given.keys()):
        if name not in given:
            raise fail(f"model.safetensors lacks {name}")
        if name not in expected:
            raise fail(f"model.safetensors has {name}, which the model described by config.json does not")
        if given[name].shape != expected[name].shape:
            raise fail(
                f"{name} in model.safetensors has shape {tuple(given[name].shape)}, the model needs "
                f"{tuple(expected[name].shape)}"
            )
        if not given[name].is_floating_point() or not torch.isfinite(given[name]).all():
            raise fail(f"{name} in model.safetensors has values that are not finite real numbers")


ON_CARD = ("rel_h1", "max_error", "rel_l2_step", "correlation_time", "valid_time", "divergence_time")
"""Metrics of the surrogate that its card shows, besides everyone's rel_l2; metrics.json has them all."""


def model_card(config: dict[str, Any], physics: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The bundle's README: what it is for, how good it was measured to be, how to call it."""
    grid = " x ".join(map(str, config["grid"]["shape"]))
    rows = [
        f"| `{m['name']}`{_horizon(m)} | {m['model']} | {m['resolution']} | {m['value']:.4g} | {_interval(m)} "
        f"| {m['n']} |"
        for m in metrics.get("metrics", [])
        if m["value"] is not None and (m["name"] == "rel_l2" or (m["model"] == "surrogate" and m["name"] in ON_CARD))
    ]
    table = "\n".join(
        ["| metric | model | grid | value | 95% interval | samples |", "|---|---|---|---|---|---|", *rows]
    )
    verdicts = "\n".join(f"- {v['text']}" for v in metrics.get("verdicts", []))
    step = ""
    if physics.get("time_step") is not None:
        frames = config.get("stepping", {}).get("bundle", 1)
        ahead = f"One call gives the next {frames} frames," if frames > 1 else "One call advances by"
        ahead += f" {physics['time_step']:g} time units" + (" apart" if frames > 1 else "")
        step = f"\n{ahead}; `surrogate.rollout(state, steps=10)` goes on.\n"
    shape = "(batch, " + str(len(config["inputs"])) + ", " + ", ".join("xyz"[: len(config["grid"]["shape"])]) + ")"
    return f"""---
library_name: opkit
tags: [opkit, physics, neural-operator, pde, "pde:{physics["pde"]}", "model:{config["model"]}"]
metrics: [rel_l2, rel_h1, max_error]
---

# {config["model"]} for {physics["pde"]}

Learned map {", ".join(config["inputs"])} -> {", ".join(config["outputs"])} for {physics["formula"]}.
{config["parameters"]} parameters, trained on a grid of {grid} points ({config["grid"]["location"]} grid).

```python
import opkit

surrogate = opkit.load("path/to/this/directory")
{config["outputs"][0]} = surrogate({config["inputs"][0]})  # physical units, shape {shape}
```
{step}
## Measured errors

{verdicts or "Not evaluated yet."}

{table if rows else ""}

Means over samples of a test split that was used for nothing else; intervals are BCa bootstraps over samples.

## Meant for

Inputs drawn as the training data were:

```json
{json.dumps(physics["parameters"], indent=2)}
```

Other coefficients, forcings or boundary conditions are outside what was measured.
"""


def _horizon(metric: dict[str, Any]) -> str:
    if metric["horizon"] is None:
        return ""
    if "censored" in metric:
        at_least = ", at least" if metric["censored"] else ""
        return f", {metric['unit']}{at_least}, of {metric['horizon']} steps"
    return f", step {metric['horizon']}" if metric["name"].endswith("_step") else f", steps 1 to {metric['horizon']}"


def _interval(metric: dict[str, Any]) -> str:
    if metric["ci_low"] is None:
        return "-"
    return f"{metric['ci_low']:.4g} to {metric['ci_high']:.4g}"

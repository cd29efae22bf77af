"""Record what an original implementation computes, for the parity tests: weights, inputs, output and gradients as data.

    python scripts/make_fixtures.py MODULE DIRECTORY

MODULE is one of benchmarks/originals/, DIRECTORY a checkout of the repository it names. Every case is built in float64
with all its parameters drawn at random, also those the original starts at zero or one, and written to
tests/fixtures/MODULE/CASE.safetensors: tensors `weights.*`, `inputs.*`, `output`, `cotangent`, and `gradients.*`, those
of sum(output * cotangent) by weights and inputs; metadata with the source and its constructor arguments.
None of the original's code is kept.
"""

import importlib
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]


def randomise(model: nn.Module) -> None:
    """Draw every parameter from a normal law that keeps signals of order one."""
    for parameter in model.parameters():
        real = torch.view_as_real(parameter.data) if parameter.is_complex() else parameter.data
        fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
        real.copy_(torch.randn_like(real) / fan**0.5)


def main(module: str, directory: Path) -> None:
    originals = importlib.import_module(f"benchmarks.originals.{module}")
    folder = ROOT / "tests" / "fixtures" / module
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.safetensors"):
        stale.unlink()
    for number, (case, (source, config, make_inputs)) in enumerate(originals.CASES.items()):
        torch.manual_seed(number)
        model = originals.build(directory, source, config).double().eval()
        randomise(model)
        inputs: dict[str, Tensor] = {k: v.double().requires_grad_() for k, v in make_inputs().items()}
        output = originals.run(model, source, config, inputs)
        cotangent = torch.randn_like(output)
        named = {k: p for k, p in model.named_parameters() if p.requires_grad}
        everything = {**{f"inputs.{k}": v for k, v in inputs.items()}, **{f"weights.{k}": p for k, p in named.items()}}
        found = torch.autograd.grad((output * cotangent).sum(), list(everything.values()), allow_unused=True)
        weights = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
        tensors = {f"weights.{k}": v for k, v in weights.items()}
        tensors |= {f"inputs.{k}": v for k, v in inputs.items()}
        tensors |= {"output": output, "cotangent": cotangent}
        for name, gradient in zip(everything, found, strict=True):
            if gradient is not None:
                tensors[f"gradients.{name}"] = gradient
        path = folder / f"{case}.safetensors"
        meta = {"source": source, "config": json.dumps(config), "commit": originals.COMMIT}
        save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, path, meta)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB, output {output.std().item():.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1], Path(sys.argv[2]))

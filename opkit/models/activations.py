"""Activation functions by name, with those that carry parameters of their own.

Every use in a model is a module of its own, so a learnable activation has parameters per layer. They are kept out of
weight decay, which would pull a slope towards zero as if it were a weight.

    swish      x sigmoid(beta x), beta learned               Ramachandran, Zoph, Le 2017 (arXiv 1710.05941)
    snake      x + sin^2(alpha x) / alpha, alpha learned     Ziyin, Hartwig, Ueda 2020 (arXiv 2006.08195)
    smelu      quadratic between -beta and beta, else ReLU   Shamir, Lin, Coviello 2020 (arXiv 2010.09931)
    rational   P(x) / Q(x) of degrees 3 and 2, all learned   Boulle, Nakatsukasa, Townsend 2020 (arXiv 2004.01902)
    sine       sin x                                         Sitzmann et al. 2020 (arXiv 2006.09661)

The others are those of `torch.nn`. A dotted name is an importable class: `torch.nn.Hardswish`, `mypackage.Mine`.
"""

import difflib
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


class Sine(nn.Module):
    """sin x."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Swish(nn.Module):
    """x sigmoid(beta x); beta is learned and starts at 1, where it is SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha, written as x + (1 - cos 2 alpha x) / (2 alpha); alpha is learned and starts at 1.

    As alpha tends to 0 it tends to x; the quotient is taken as alpha x^2 sinc^2 so that it stays finite there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * (x * torch.sinc(self.alpha * x / torch.pi)).square()


class SmeLU(nn.Module):
    """Smooth ReLU: 0 below -beta, x above beta, (x + beta)^2 / (4 beta) between; beta = 1."""

    beta = 1.0

    def forward(self, x: Tensor) -> Tensor:
        inner = (x.clamp(-self.beta, self.beta) + self.beta).square() / (4 * self.beta)
        return inner + (x - self.beta).clamp_min(0)


class Rational(nn.Module):
    """P(x) / Q(x) of degrees 3 and 2, coefficients learned, starting at the best approximation of ReLU on [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.numerator = nn.Parameter(torch.tensor([0.0218, 0.5, 1.5957, 1.1915]))
        self.denominator = nn.Parameter(torch.tensor([1.0, 0.0, 2.383]))

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.numerator, self.denominator
        return (p[0] + x * (p[1] + x * (p[2] + x * p[3]))) / (q[0] + x * (q[1] + x * q[2]))


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU, "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "prelu": nn.PReLU, "elu": nn.ELU, "silu": nn.SiLU,
    "swish": Swish, "mish": nn.Mish, "tanh": nn.Tanh, "softplus": nn.Softplus, "sine": Sine, "snake": Snake,
    "smelu": SmeLU, "rational": Rational, "identity": nn.Identity,
}  # fmt: skip
"""Names accepted wherever a model takes an activation."""


def activation(name: str, argument: str = "activation") -> nn.Module:
    """A new activation module.

    Args:
        name: A key of `ACTIVATIONS`, or the dotted path of an `nn.Module` subclass whose constructor needs no arguments
            and which maps a tensor to one of the same shape, each entry by itself.
        argument: What a refusal calls it.

    Raises:
        ValueError: Nothing of that name; the message lists what there is.
    """
    if name in ACTIVATIONS:
        made = ACTIVATIONS[name]()
    elif "." in name:
        made = _imported(name, argument)
    else:
        near = difflib.get_close_matches(name, ACTIVATIONS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{argument}={name!r} is not known; there are: {', '.join(ACTIVATIONS)}, or the dotted path of an "
            f"nn.Module, such as torch.nn.Hardswish.{hint}"
        )
    for parameter in made.parameters():
        parameter.no_weight_decay = True  # type: ignore[attr-defined]
    return made


def _imported(path: str, argument: str) -> nn.Module:
    module, _, attribute = path.rpartition(".")
    given, remedy = (
        f"{argument}={path!r}",
        f"There are: {', '.join(ACTIVATIONS)}, or a class such as torch.nn.Hardswish.",
    )
    if not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(f"{given} is no dotted path of a class. {remedy}")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError as problem:
        raise ValueError(f"{given} cannot be imported ({problem}). {remedy}") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"{given} is not an nn.Module class. {remedy}")
    try:
        with torch.device("cpu"):
            made = found()
            if any(isinstance(p, nn.UninitializedParameter) for p in made.parameters()):
                raise TypeError("its parameters depend on its first input")
            probe = torch.linspace(-1, 1, 24).view(2, 3, 4)
            other = probe.clone()
            other[0, 0, 0] = 2.0
            was = made.training
            out, changed = made.eval()(probe), made(other)
            made.train(was)
    except Exception as problem:
        raise ValueError(f"{given} cannot be used as f(x) of any tensor ({problem}). {remedy}") from None
    if out.shape != probe.shape:
        raise ValueError(f"{given} changes the shape of its input. {remedy}")
    if not torch.allclose(out.flatten()[1:], changed.flatten()[1:], rtol=0, atol=0, equal_nan=True):
        raise ValueError(f"{given} is no function of each number by itself: it mixes points or channels. {remedy}")
    return made


def is_loaded(name: str) -> bool:
    """Whether `activation(name)` would import nothing new: a bundle may name only what is here already."""
    return "." not in name or name.startswith("torch.nn.") or name.rpartition(".")[0] in sys.modules


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: activations' own parameters apart, without weight decay."""

    def chosen(exempt: bool) -> Iterator[nn.Parameter]:
        return (p for p in module.parameters() if getattr(p, "no_weight_decay", False) == exempt)

    groups = ((list(chosen(False)), weight_decay), (list(chosen(True)), 0.0))
    return [{"params": parameters, "weight_decay": decay} for parameters, decay in groups if parameters]

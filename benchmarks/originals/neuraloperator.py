"""neuraloperator's FNO, release 2.0.0 as installed from PyPI, for recording parity fixtures.

    python scripts/make_fixtures.py neuraloperator .

Two things are mended while it is built and called: its casts to single precision, without which float64 fixtures would
be right to seven digits, and the second of two frequency shifts, which on odd grids must undo the first. The cases have
`factorization="ComplexDense"`: the usual dense weights, stored as real pairs, as safetensors has no complex128.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

REPOSITORY = "https://github.com/neuraloperator/neuraloperator"
COMMIT = "2.0.0"
SOURCE = "neuraloperator.FNO"


class _Torch:
    """The torch module as its spectral convolution shall see it."""

    def __init__(self) -> None:
        shifts = itertools.cycle([torch.fft.fftshift, torch.fft.ifftshift])
        self.fft = SimpleNamespace(**vars(torch.fft))
        self.fft.fftshift = lambda *args, **kwargs: next(shifts)(*args, **kwargs)
        self.cfloat = torch.complex128

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextmanager
def exact() -> Iterator[None]:
    """Double precision throughout, frequencies shifted back by as much as forth."""
    from neuralop.layers import spectral_convolution

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.object(spectral_convolution, "torch", _Torch()):
            yield
    finally:
        torch.set_default_dtype(default)


def build(directory: Path, source: str, config: dict) -> nn.Module:
    with exact():
        return build_released(config)


def build_released(config: dict) -> nn.Module:
    """In single precision, as the package does it."""
    from neuralop.models import FNO

    tuples = {k: tuple(v) if isinstance(v, list) and k.endswith("n_modes") else v for k, v in config.items()}
    if isinstance(name := config.get("non_linearity"), str):
        tuples["non_linearity"] = getattr(nn.functional, name)
    return FNO(**tuples).eval()


def run(model: nn.Module, source: str, config: dict, inputs: dict[str, Tensor]) -> Tensor:
    with exact():
        return model(inputs["u"])


def call(model: nn.Module, source: str, inputs: dict[str, Tensor]) -> Tensor:
    return model(inputs["u"])


def _case(*shape: int, n_modes: list[int], **config: Any) -> tuple[str, dict, Callable[[], dict[str, Tensor]]]:
    made = dict(n_modes=n_modes, in_channels=2, out_channels=1, hidden_channels=4, n_layers=2) | config
    made = dict(factorization="ComplexDense") | made
    return SOURCE, made, lambda: {"u": 5 * torch.randn(2, made["in_channels"], *shape)}


CASES = {
    "defaults": _case(14, 12, n_modes=[6, 4], n_layers=3),
    "plain": _case(
        12, 10, n_modes=[6, 4], use_channel_mlp=False, lifting_channel_ratio=0, projection_channel_ratio=4,
        non_linearity="relu",
    ),
    "one_layer": _case(10, 8, n_modes=[4, 6], n_layers=1, positional_embedding=None, out_channels=3),
    "line_odd": _case(17, n_modes=[8], in_channels=1, non_linearity="gelu"),
    "odd_by_even": _case(11, 10, n_modes=[6, 4]),
    "odd_by_odd": _case(9, 11, n_modes=[5, 7], non_linearity="silu"),
    "volume": _case(7, 6, 5, n_modes=[4, 3, 2], n_layers=1),
    "coarser_than_its_modes": _case(6, 6, n_modes=[8, 6], positional_embedding=None),
    "group_norm": _case(9, 10, n_modes=[4, 4], norm="group_norm"),
    "instance_norm": _case(9, 10, n_modes=[4, 4], norm="instance_norm", fno_skip="soft-gating"),
    "domain_padding": _case(10, 8, n_modes=[4, 4], domain_padding=0.2),
    "domain_padding_by_axis": _case(9, 8, n_modes=[4, 4], domain_padding=[0.25, 0.0]),
    "identity_skips": _case(8, 7, n_modes=[4, 4], fno_skip="identity", channel_mlp_skip="identity"),
    "linear_skip": _case(8, 7, n_modes=[4, 4], channel_mlp_skip="linear", channel_mlp_expansion=2.0),
    "no_skips": _case(8, 7, n_modes=[4, 4], fno_skip=None, channel_mlp_skip=None, n_layers=1),
    "preactivation": _case(8, 7, n_modes=[4, 4], preactivation=True, norm="group_norm", stabilizer="tanh"),
}  # fmt: skip


def released(model: nn.Module, source: str, config: dict, inputs: dict[str, Tensor]) -> Tensor:
    """As the package does it, wrong shift of odd grids included: for timing."""
    return model(inputs["u"])


PAPER = {
    "fno": (
        SOURCE,
        dict(
            n_modes=[24, 22], in_channels=1, out_channels=1, hidden_channels=32, n_layers=4, lifting_channel_ratio=0,
            projection_channel_ratio=4, use_channel_mlp=False,
        ),
        lambda: {"u": torch.randn(20, 1, 85, 85)},
        2.5,
    ),
}  # fmt: skip

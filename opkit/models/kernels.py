"""Operations of PyTorch by faster ways to the same result. CPU only; elsewhere, and on export, they are PyTorch's own.

- Linear layers in float32: PyTorch leaves matrix products to MKL, which uses AVX-512 on Intel's processors alone, and
  convolutions to oneDNN, which uses it on AMD's as well. A linear layer is a convolution of 1 x 1 over a line of points
  whose channels lie side by side, and takes half the time there; neither side is copied.
- Interpolation: the code that torch.compile generates for its gradient takes several times as long as PyTorch's.

A compiled graph calls them as they are, through operators of its own: the compiler would copy a convolution's inputs
into other layouts.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

WIDE_CONVOLUTIONS = (
    torch.backends.mkldnn.is_available()
    and torch.backends.mkl.is_available()
    and torch.backends.cpu.get_cpu_capability() == "AVX512"
)
"""Whether convolutions may use wider instructions than matrix products."""

CONVOLVE_FROM = 2**23
"""Multiplications from which a linear layer is faster as a convolution, see benchmarks/linear.py."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`."""
    if (
        not WIDE_CONVOLUTIONS
        or x.device.type != "cpu"
        or x.dtype != torch.float32
        or torch.is_autocast_enabled("cpu")
        or torch.compiler.is_exporting()  # the program has no size to choose by
        or x.numel() * len(weight) < CONVOLVE_FROM
    ):
        return F.linear(x, weight, bias)
    return torch.ops.opkit.linear(x, weight, bias) if torch.compiler.is_compiling() else _linear(x, weight, bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = F.conv2d(_line(x), weight[..., None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


def _line(x: Tensor) -> Tensor:
    """Points `(.., c)` as an image `(1, c, 1, n)`, the same memory."""
    return x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)


# There are many linear layers: without the checks that `torch.library.custom_op` makes at every call.
torch.library.define("opkit::linear", "(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
torch.library.define("opkit::linear_gradients", "(Tensor out, Tensor x, Tensor weight) -> (Tensor, Tensor)")


@torch.library.impl("opkit::linear", "cpu")
def _linear_operator(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _linear(x, weight, bias).contiguous()


@torch.library.register_fake("opkit::linear")
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


@torch.library.impl("opkit::linear_gradients", "cpu")
def _linear_gradients(out: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of x and weight, given that of the output."""
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        _line(out), _line(x), weight[..., None, None], [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1,
        [True, True, False],
    )  # fmt: skip
    return of_x.permute(0, 2, 3, 1).reshape(x.shape).contiguous(), of_weight.reshape(weight.shape).contiguous()


@torch.library.register_fake("opkit::linear_gradients")
def _(out: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _remember_linear(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.bias = inputs[2] is not None


def _differentiate_linear(ctx: Any, out: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    of_x, of_weight = torch.ops.opkit.linear_gradients(out, *ctx.saved_tensors)
    # The compiler takes the sum together with what comes before; the convolution would read `out` once more.
    return of_x, of_weight, out.reshape(-1, out.shape[-1]).sum(0) if ctx.bias else None


torch.library.register_autograd("opkit::linear", _differentiate_linear, setup_context=_remember_linear)


def _remember_gradients(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_gradients(ctx: Any, of_x: Tensor, of_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For second derivatives: out W and out^T x are linear in each of the three."""
    out, x, weight = ctx.saved_tensors
    other = torch.ops.opkit.linear(of_x, weight, None) + torch.ops.opkit.linear(x, of_weight, None)
    return other, *torch.ops.opkit.linear_gradients(out, of_x, of_weight)


torch.library.register_autograd("opkit::linear_gradients", _differentiate_gradients, setup_context=_remember_gradients)


def interpolate(u: Tensor, shape: list[int], align_corners: bool) -> Tensor:
    """`torch.nn.functional.interpolate` of fields `(b, c, h, w)`, bilinear."""
    if u.device.type == "cpu" and torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return _interpolate_operator(u, shape, align_corners)
    return _interpolate(u, shape, align_corners)


def _interpolate(u: Tensor, shape: list[int], align_corners: bool) -> Tensor:
    return F.interpolate(u, shape, mode="bilinear", align_corners=align_corners)


@torch.library.custom_op("opkit::interpolate", mutates_args=(), tags=(torch.Tag.flexible_layout,))
def _interpolate_operator(u: Tensor, shape: list[int], align_corners: bool) -> Tensor:
    return _interpolate(u, shape, align_corners).contiguous()


@_interpolate_operator.register_fake
def _(u: Tensor, shape: list[int], align_corners: bool) -> Tensor:
    return u.new_empty(*u.shape[:2], *shape)


@torch.library.custom_op("opkit::interpolate_gradient", mutates_args=(), tags=(torch.Tag.flexible_layout,))
def _interpolate_gradient(out: Tensor, size: list[int], align_corners: bool) -> Tensor:
    shape = list(out.shape[2:])
    return torch.ops.aten.upsample_bilinear2d_backward(out, shape, size, align_corners, None, None).contiguous()


@_interpolate_gradient.register_fake
def _(out: Tensor, size: list[int], align_corners: bool) -> Tensor:
    return out.new_empty(size)


def _remember_interpolate(ctx: Any, inputs: tuple[Tensor, list[int], bool], output: Tensor) -> None:
    ctx.size, ctx.align_corners = list(inputs[0].shape), inputs[2]


def _differentiate_interpolate(ctx: Any, out: Tensor) -> tuple[Tensor, None, None]:
    return _interpolate_gradient(out, ctx.size, ctx.align_corners), None, None


_interpolate_operator.register_autograd(_differentiate_interpolate, setup_context=_remember_interpolate)

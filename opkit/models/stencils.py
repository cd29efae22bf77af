"""Convolutions on fields with walls or none: what stencils see beyond the last point, and the memory they are fast in.

Fields are `(b, c, h, w)`; an axis of one point makes 1-D a case of 2-D.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from opkit.grid import Boundary, Location
from opkit.models.kernels import interpolate

Padding = Literal["auto", "zeros", "reflect", "replicate", "circular"]


def padding_of(boundary: Boundary, location: Location) -> Padding:
    """What a field is beyond its walls: itself again where it is periodic, its mirror image where its slope vanishes
    there ("reflect" about the last node, "replicate" about the last cell's face), else zero."""
    if "periodic" in (location, boundary):
        return "circular"
    if boundary == "neumann":
        return "replicate" if location == "cell" else "reflect"
    return "zeros"


class Convolution(nn.Conv2d):
    """A stencil of three points per axis, `(b, i, h, w)` to `(b, o, h, w)`; stride 2 leaves (n + 1) // 2 of n points.

    Args:
        given: i.
        wanted: o.
        ndim: Number of axes; if 1, `h` is one point and left alone.
        beyond: What it sees beyond the walls: "zeros", "reflect", "replicate" or "circular".
        stride: Steps between the points it is applied at, the first point being one of them.
    """

    def __init__(self, given: int, wanted: int, ndim: int, beyond: Padding, stride: int = 1):
        zeros = per_axis(int(beyond == "zeros"), ndim, 0)
        super().__init__(given, wanted, per_axis(3, ndim), per_axis(stride, ndim), zeros)
        self.beyond, self.ends = beyond, per_axis(1, ndim, 0)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(extend(input, self.ends, self.beyond))


class Wrap(torch.autograd.Function):
    """Periodic padding of `(b, c, h, w)` by one point, on the axes marked by 1 of `(h, w)`.

    As a function of its own because its gradient by automatic differentiation, of slices, costs as much as a
    convolution.
    """

    @staticmethod
    def forward(u: Tensor, axes: tuple[int, int]) -> Tensor:
        for axis in (2, 3):
            if axes[axis - 2]:
                u = torch.cat([u.narrow(axis, u.shape[axis] - 1, 1), u, u.narrow(axis, 0, 1)], axis)
        return u

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[int, int]], output: Tensor) -> None:
        ctx.axes = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        for axis in (3, 2):
            if ctx.axes[axis - 2]:
                n, skipped = gradient.shape[axis] - 2, (0, 0) * (3 - axis)
                first = F.pad(gradient.narrow(axis, n + 1, 1), (*skipped, 0, n - 1))
                last = F.pad(gradient.narrow(axis, 0, 1), (*skipped, n - 1, 0))
                gradient = gradient.narrow(axis, 1, n) + first + last
        return gradient, None


def extend(u: Tensor, axes: tuple[int, int], mode: str) -> Tensor:
    """One more point at both ends of the chosen axes of `(b, c, h, w)`; none where it would be zero."""
    if mode == "zeros" or not any(axes):
        return u
    if mode == "circular":
        return Wrap.apply(u, axes)
    if mode == "replicate":  # by slices: inductor has the gradient of PyTorch's own in other memory than it is
        for axis in (2, 3):
            if axes[axis - 2]:
                u = torch.cat([u.narrow(axis, 0, 1), u, u.narrow(axis, u.shape[axis] - 1, 1)], axis)
        return u
    return F.pad(u, (axes[1], axes[1], axes[0], axes[0]), mode)


def resize(u: Tensor, shape: Sequence[int], location: Location) -> Tensor:
    """Bilinear interpolation of `(b, c, h, w)` between grids of one kind; to the same shape, the same values."""
    if location == "periodic":  # a grid with both ends in, the last point being the first
        u = F.pad(u, (0, 1, 0, 1), mode="circular")
        closed = [n + 1 for n in shape]
        return interpolate(u, closed, align_corners=True)[..., :-1, :-1]
    return interpolate(u, list(shape), align_corners=location == "node")


def channels_last(u: Tensor) -> Tensor:
    """The same `(b, c, h, w)` in channels-last memory.

    With one channel only the strides of its axis tell which it is, and these inductor cannot follow on dynamic sizes:
    compiled, a single channel stays as it is, and what is made of it is put in order.
    """
    if u.shape[1] > 1 or torch.compiler.is_compiling():
        return u.contiguous(memory_format=torch.channels_last)
    return u[:, 0].contiguous().unsqueeze(-1).movedim(-1, 1)


def per_axis(values: int | Sequence[int], ndim: int, unit: int = 1) -> tuple[int, int]:
    """A number for each axis, or one for all, as two: in 1-D the first axis is of one point, and gets `unit`."""
    values = (values,) * ndim if isinstance(values, int) else tuple(values)
    first, second = (unit, *values) if ndim == 1 else values
    return first, second

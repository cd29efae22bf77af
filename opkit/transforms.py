"""Discrete sine transforms of fields that vanish on both walls, given at n interior nodes or at n cell centres.

    DST-I     y_k = sum_{j=1..n}   x_j sin(pi j k / (n + 1))      k = 1..n     nodes
    DST-II    y_k = sum_{j=0..n-1} x_j sin(pi (j + 1/2) k / n)    k = 1..n     cells

DST-I is its own inverse up to the factor 2 / (n + 1) per axis, and diagonalises the second difference with zero
boundary values. Reference: Strang, "The discrete cosine transform", SIAM Review 41 (1999).
"""

import math

import torch
from torch import Tensor, fft, movedim
from torch.nn.functional import pad


def dst1(x: Tensor, axes: int = 1) -> Tensor:
    """DST-I over the last `axes` axes: minus the imaginary part of the real FFT, zero-padded to length 2 (n + 1)."""
    for _ in range(axes):
        n = x.shape[-1]
        x = fft.rfft(pad(x, (1, n + 1))).imag[..., 1 : n + 1].neg()
        x = movedim(x, -1, -axes)  # brings the next axis last; after `axes` turns all are back in place
    return x


def dst2(x: Tensor, axes: int = 1) -> Tensor:
    """DST-II over the last `axes` axes: the real FFT, zero-padded to length 2 n, turned by half a point."""
    for _ in range(axes):
        n = x.shape[-1]
        k = torch.arange(1, n + 1, dtype=x.dtype, device=x.device)
        spectrum = fft.rfft(x, n=2 * n)[..., 1:]
        angle = math.pi / (2 * n) * k
        x = spectrum.real * torch.sin(angle) - spectrum.imag * torch.cos(angle)
        x = movedim(x, -1, -axes)
    return x


def dst3(x: Tensor, axes: int = 1) -> Tensor:
    """DST-III over the last `axes` axes, y_j = sum_{k=1..n} x_k sin(pi (j + 1/2) k / n): the transpose of `dst2`."""
    for _ in range(axes):
        n = x.shape[-1]
        angle = math.pi / (2 * n) * torch.arange(1, n + 1, dtype=x.dtype, device=x.device)
        spectrum = torch.complex(x * torch.sin(angle), -x * torch.cos(angle))
        spectrum[..., :-1] /= 2  # the others stand for a pair of conjugates
        x = fft.irfft(pad(spectrum, (1, 0)), n=2 * n, norm="forward")[..., :n]
        x = movedim(x, -1, -axes)
    return x

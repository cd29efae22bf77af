"""Discrete sine transform DST-I, y_k = sum_{j=1..n} x_j sin(pi j k / (n + 1)), k = 1..n.

The transform of fields that vanish on both walls, given at the n interior nodes. It is its own inverse up to the
factor 2 / (n + 1) per axis, and diagonalises the second difference with zero boundary values. Reference: Strang, "The
discrete cosine transform", SIAM Review 41 (1999).
"""

from torch import Tensor, fft, movedim
from torch.nn.functional import pad


def dst1(x: Tensor, axes: int = 1) -> Tensor:
    """DST-I over the last `axes` axes: minus the imaginary part of the real FFT, zero-padded to length 2 (n + 1)."""
    for _ in range(axes):
        n = x.shape[-1]
        x = fft.rfft(pad(x, (1, n + 1))).imag[..., 1 : n + 1].neg()
        x = movedim(x, -1, -axes)  # brings the next axis last; after `axes` turns all are back in place
    return x

"""Discrete sine transform DST-I, y_k = sum_{j=1..n} x_j sin(pi j k / (n + 1)), k = 1..n.

The transform of fields that vanish on both walls, given at the n interior nodes. It is its own inverse up to the
factor 2 / (n + 1) per axis, and diagonalises the second difference with zero boundary values. Reference: Strang, "The
discrete cosine transform", SIAM Review 41 (1999).
"""

from torch import Tensor, fft, movedim


def dst1(x: Tensor, axes: int = 1) -> Tensor:
    """DST-I over the last `axes` axes, through the real FFT of the odd extension (length 2 (n + 1) per axis)."""
    for _ in range(axes):
        n = x.shape[-1]
        odd = x.new_zeros((*x.shape[:-1], 2 * (n + 1)))
        odd[..., 1 : n + 1] = x
        odd[..., n + 2 :] = x.flip(-1).neg_()
        x = fft.rfft(odd).imag[..., 1 : n + 1] * -0.5
        x = movedim(x, -1, -axes)  # brings the next axis last; after `axes` turns all are back in place
    return x

import math

import torch
from scipy.fft import dst

from opkit.transforms import dst1, dst2, dst3


def test_dst1_equals_its_sum_and_scipy():
    x = torch.randn(3, 7, dtype=torch.float64)
    j = torch.arange(1, 8, dtype=torch.float64)
    matrix = torch.sin(math.pi * torch.outer(j, j) / 8)
    torch.testing.assert_close(dst1(x), x @ matrix)
    torch.testing.assert_close(dst1(x), torch.from_numpy(dst(x.numpy(), type=1)) / 2)


def test_two_axes_keep_their_order():
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    j, k = (torch.arange(1, n + 1, dtype=torch.float64) for n in (4, 6))
    expected = torch.einsum(
        "bjk,jm,kn->bmn", x, torch.sin(math.pi * torch.outer(j, j) / 5), torch.sin(math.pi * torch.outer(k, k) / 7)
    )
    torch.testing.assert_close(dst1(x, 2), expected)


def test_it_is_its_own_inverse():
    x = torch.randn(11, 84, dtype=torch.float64)
    torch.testing.assert_close(dst1(dst1(x)) * 2 / 85, x)


def test_dst2_equals_scipy_on_one_and_two_axes():
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    torch.testing.assert_close(dst2(x), torch.from_numpy(dst(x.numpy(), type=2)) / 2)
    both = dst(dst(x.numpy(), type=2, axis=-1), type=2, axis=-2) / 4
    torch.testing.assert_close(dst2(x, 2), torch.from_numpy(both))


def test_dst3_is_the_transpose_of_dst2_on_one_and_two_axes():
    x = torch.randn(3, 7, 6, dtype=torch.float64)
    last = x.clone()
    last[..., -1] *= 2  # scipy halves the last term
    torch.testing.assert_close(dst3(x), torch.from_numpy(dst(last.numpy(), type=3)) / 2)
    y = torch.randn(3, 7, 6, dtype=torch.float64)
    torch.testing.assert_close((dst3(x, 2) * y).sum(), (x * dst2(y, 2)).sum())

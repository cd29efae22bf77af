import pytest
import torch

from opkit.normalize import Normalizer


def test_statistics_are_per_channel_over_samples_and_space():
    values = torch.randn(50, 2, 8, 8) * torch.tensor([3.0, 0.01]).view(1, 2, 1, 1) + torch.tensor([5.0, -1.0]).view(
        1, 2, 1, 1
    )
    normalizer = Normalizer.fit([values])
    out = normalizer(values)
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    assert (out.std((0, 2, 3)) - 1).abs().max() < 1e-3
    torch.testing.assert_close(normalizer.inverse(out), values)


def test_the_same_statistics_serve_every_grid():
    normalizer = Normalizer.fit([torch.randn(4, 1, 8, 8)])
    assert normalizer(torch.randn(2, 1, 31, 5)).shape == (2, 1, 31, 5)
    assert normalizer.mean.shape == (1,)


def test_a_constant_channel_is_only_centred():
    out = Normalizer.fit([torch.full((3, 1, 4), 7.0)])(torch.full((3, 1, 4), 7.0))
    assert (out == 0).all()


def test_statistics_are_part_of_the_state():
    assert set(Normalizer.fit([torch.randn(3, 1, 4)]).state_dict()) == {"mean", "std"}


def test_impossible_statistics_are_refused():
    with pytest.raises(ValueError, match="positive std"):
        Normalizer(torch.zeros(1), torch.zeros(1))


def test_batches_of_any_size_give_the_statistics_of_the_whole():
    values = torch.randn(50, 2, 8, dtype=torch.float64) * 3 + 1e4
    whole, parts = Normalizer.fit([values]), Normalizer.fit(values.split([1, 30, 19]))
    torch.testing.assert_close(parts.std, values.std((0, 2), correction=0).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-6, atol=0)

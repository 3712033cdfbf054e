"""Noise on embeddings: its size, by hand, and when there is none."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from fettle.train.neftune import EmbeddingNoise, example_lengths

WIDTH = 4096
# Two examples of 3 and 1 tokens with 2 of padding, and one of 6.
POSITIONS = torch.tensor([[0, 1, 2, 0, 0, 1], [0, 1, 2, 3, 4, 5]])


def noisy(alpha: float, train: bool = True) -> torch.Tensor:
    """[2, 6, WIDTH]: what is added to embeddings of zeros."""
    table = torch.nn.Embedding(1, WIDTH)
    table.weight.data.zero_()
    noise = EmbeddingNoise(alpha)
    noise.attach(SimpleNamespace(get_input_embeddings=lambda: table))
    noise.expect(POSITIONS)
    return table.train(train)(torch.zeros_like(POSITIONS)).detach()


def test_every_token_knows_how_long_its_own_example_is():
    assert example_lengths(POSITIONS).tolist() == [[3, 3, 3, 1, 2, 2], [6] * 6]


def test_the_noise_is_uniform_within_alpha_over_the_root_of_length_and_width():
    largest = noisy(5.0).abs().amax(dim=2)
    mean = noisy(5.0).abs().mean(dim=2)
    for (row, column), length in [((0, 0), 3), ((0, 3), 1), ((1, 5), 6)]:
        bound = 5.0 / math.sqrt(length * WIDTH)
        assert 0.99 * bound < largest[row, column] <= bound
        assert mean[row, column] == pytest.approx(bound / 2, rel=0.05)


def test_a_packed_example_has_the_noise_of_one_alone():
    torch.manual_seed(0)
    assert noisy(5.0)[0, 0].abs().max() == pytest.approx(5 / math.sqrt(3 * WIDTH), rel=0.01)


def test_nothing_is_added_while_measuring():
    assert not noisy(5.0, train=False).any()


def test_the_same_seed_gives_the_same_noise():
    torch.manual_seed(1)
    first = noisy(5.0)
    torch.manual_seed(1)
    assert torch.equal(noisy(5.0), first)

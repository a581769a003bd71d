"""MixUp against a loop, and its coefficient against the distribution it claims."""

import pytest
import torch
from scipy.stats import kstest

from flowertune.data.mix import draw_coefficient, draw_partner, mix, soft_targets


def test_mix_equals_a_naive_loop():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(7, 3, 4, 5, generator=generator)
    targets = soft_targets(torch.tensor([0, 1, 2, 3, 3, 1, 0]), 4)
    partner = torch.tensor([3, 1, 0, 6, 5, 4, 2])
    before = images.clone(), targets.clone()
    mixed, mixed_targets = mix(images, targets, partner, 0.3)
    for i in range(7):
        j = int(partner[i])
        torch.testing.assert_close(mixed[i], 0.3 * images[i] + 0.7 * images[j])
        torch.testing.assert_close(mixed_targets[i], 0.3 * targets[i] + 0.7 * targets[j])
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(7))
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])


def test_a_batch_of_one_is_left_as_it_is():
    images, targets = torch.randn(1, 3, 4, 4), soft_targets(torch.tensor([2]), 3)
    mixed, mixed_targets = mix(images, targets, torch.tensor([0]), 0.37)
    assert torch.equal(mixed, images)
    assert torch.equal(mixed_targets, targets)


def test_the_partners_are_a_random_permutation():
    """Every place is equally likely: neither the batch reversed nor shifted."""
    partners = torch.stack([draw_partner(8, 42, 0, step) for step in range(4000)])
    assert (partners.sort(1).values == torch.arange(8)).all()
    frequency = torch.stack([(partners == place).float().mean(0) for place in range(8)])
    assert (frequency - 1 / 8).abs().max() < 0.025


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_the_coefficient_follows_its_beta_distribution(alpha):
    drawn = [draw_coefficient(alpha, 42, 0, step) for step in range(2000)]
    assert kstest(drawn, "beta", args=(alpha, alpha)).pvalue > 1e-3


def test_a_tiny_alpha_gives_a_coefficient():
    drawn = [draw_coefficient(1e-6, 42, 0, step) for step in range(200)]
    assert all(0 <= value <= 1 for value in drawn)
    assert 50 < sum(drawn) < 150

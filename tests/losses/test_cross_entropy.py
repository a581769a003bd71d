"""Soft-target cross-entropy against its definition and torch's own."""

import pytest
import torch
import torch.nn.functional as F

from flowertune.losses.cross_entropy import soft_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_hot_targets_give_the_ordinary_cross_entropy(smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(9, 6, generator=generator)
    labels = torch.randint(6, (9,), generator=generator)
    loss = soft_cross_entropy(logits, F.one_hot(labels, 6).float(), smoothing)
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_soft_targets_follow_the_definition(smoothing):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 4, generator=generator)
    targets = torch.rand(5, 4, generator=generator).softmax(1)
    total = 0.0
    for row, target in zip(logits.double(), targets.double(), strict=True):
        log_sum = row.exp().sum().log()
        for value, share in zip(row, target, strict=True):
            total += float(((1 - smoothing) * share + smoothing / 4) * (log_sum - value))
    assert float(soft_cross_entropy(logits, targets, smoothing)) == pytest.approx(
        total / 5, rel=1e-5
    )


def test_half_precision_logits_are_computed_in_float32():
    logits = torch.tensor([[12.0, 0.0, -3.0], [1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    targets = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]])
    loss = soft_cross_entropy(logits, targets, 0.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), targets))

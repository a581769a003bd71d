"""The focal loss against its definition, and at extreme probabilities."""

import math

import pytest
import torch
import torch.nn.functional as F

from flowertune.losses.cross_entropy import soft_cross_entropy
from flowertune.losses.focal import focal


def soft_focal_loss(logits, targets, gamma, smoothing):
    embedding = torch.empty(len(logits), 3)
    terms = focal(embedding, logits, targets, gamma=gamma, label_smoothing=smoothing)
    assert terms.keys() == {"loss"}
    return terms["loss"]


def case(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(7, 5, generator=generator)
    return logits, torch.rand(7, 5, generator=generator).softmax(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_it_follows_the_definition(gamma, smoothing):
    """Each class of each image counts by its share of the (smoothed) target."""
    logits, targets = case(0)
    total = 0.0
    for row, target in zip(logits.tolist(), targets.tolist(), strict=True):
        denominator = sum(math.exp(value) for value in row)
        for value, share in zip(row, target, strict=True):
            p = math.exp(value) / denominator
            share = (1 - smoothing) * share + smoothing / 5
            total -= share * (1 - p) ** gamma * math.log(p)
    assert float(soft_focal_loss(logits, targets, gamma, smoothing)) == pytest.approx(
        total / 7, rel=1e-5
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gamma_0_is_cross_entropy_with_its_gradient(smoothing):
    for targets in (case(1)[1], F.one_hot(torch.arange(7) % 5, 5).float()):
        logits = case(1)[0].requires_grad_()
        focal = soft_focal_loss(logits, targets, 0.0, smoothing)
        expected = soft_cross_entropy(logits, targets, smoothing)
        torch.testing.assert_close(focal, expected)
        torch.testing.assert_close(
            *(torch.autograd.grad(loss, logits) for loss in (focal, expected))
        )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_a_confident_image_has_a_finite_gradient(gamma):
    """p rounds to 1 if correct, and to 0 if incorrect, where the loss grows like the logits."""
    logits = torch.tensor([[200.0, 0.0, 0.0], [20.0, 0.0, 0.0]], requires_grad=True)
    right, wrong = (F.one_hot(torch.tensor([label] * 2), 3).float() for label in (0, 1))
    loss = soft_focal_loss(logits, right, gamma, 0.0)
    assert loss < 1e-8
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-8
    loss = soft_focal_loss(logits, wrong, gamma, 0.0)
    torch.testing.assert_close(loss, torch.tensor(110.0))
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_half_precision_logits_are_computed_in_float32():
    logits, targets = case(2)
    half = logits.bfloat16()
    loss = soft_focal_loss(half, targets, 2.0, 0.0)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, soft_focal_loss(half.float(), targets, 2.0, 0.0))

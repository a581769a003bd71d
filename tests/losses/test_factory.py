"""The losses and terms that the training loop minimizes and logs."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from flowertune.config.groups import SCHEMAS
from flowertune.config.loss import CrossEntropyConfig, FocalConfig, TripletCrossEntropyConfig
from flowertune.losses.cross_entropy import soft_cross_entropy
from flowertune.losses.factory import LOSSES, build_criterion, weigh_classes
from flowertune.losses.focal import focal
from flowertune.losses.triplet import batch_hard_triplet_loss

LABELS = torch.tensor([0, 2, 2, 0, 1, 1])
SIZES = torch.tensor([2, 3, 1])  # training images per class


@pytest.fixture
def outputs():
    generator = torch.Generator().manual_seed(0)
    embedding = torch.randn(6, 5, generator=generator, requires_grad=True)
    logits = torch.randn(6, 3, generator=generator, requires_grad=True)
    return embedding, logits, torch.nn.functional.one_hot(LABELS).float()


def test_triplet_cross_entropy_is_the_weighted_sum_of_its_terms(outputs):
    embedding, logits, targets = outputs
    mining = {"margin": 0.5, "distance": "cosine", "normalize": True, "reduction": "nonzero_mean"}
    settings = TripletCrossEntropyConfig(label_smoothing=0.1, weight=0.3, **mining)
    terms = build_criterion(settings, SIZES)(*outputs)
    triplet, active = batch_hard_triplet_loss(embedding, LABELS, **mining)
    expected = {"ce": soft_cross_entropy(logits, targets, 0.1), "triplet": triplet}
    expected["loss"] = expected["ce"] + 0.3 * triplet
    expected["active_triplets"] = active
    torch.testing.assert_close(terms, expected, rtol=0, atol=0)
    terms["loss"].backward()
    assert embedding.grad.any()
    assert logits.grad.any()


def test_other_losses_have_no_terms(outputs):
    cases = [
        (CrossEntropyConfig(label_smoothing=0.1), soft_cross_entropy(*outputs[1:], 0.1)),
        (
            FocalConfig(gamma=3.0, label_smoothing=0.1),
            focal(*outputs, gamma=3.0, label_smoothing=0.1, class_weights=None)["loss"],
        ),
    ]
    for settings, expected in cases:
        terms = build_criterion(settings, SIZES)(*outputs)
        assert terms.keys() == {"loss"}
        assert torch.equal(terms["loss"], expected)


class NoConstants(TorchDispatchMode):
    """Rejects tensors made from host values, which a CUDA graph cannot copy."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten.lift_fresh.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_makes_no_tensor_from_host_values(outputs, name):
    settings = SCHEMAS["loss"][name](
        label_smoothing=0.1, class_weights="balanced", logit_adjustment=1.0
    )
    criterion = build_criterion(settings, SIZES)
    with NoConstants():
        assert criterion(*outputs)["loss"].isfinite()


def test_class_weights_are_those_of_scikit_learn_and_torch(outputs):
    _, logits, targets = outputs
    # compute_class_weight("balanced", classes=[0, 1, 2], y=[0, 0, 1, 1, 1, 2])
    balanced = torch.tensor([1.0, 2 / 3, 2.0])
    torch.testing.assert_close(weigh_classes("balanced", SIZES), balanced)
    torch.testing.assert_close(weigh_classes(0.5, SIZES), balanced.sqrt())
    assert weigh_classes("none", SIZES) is None
    for smoothing in (0.0, 0.2):
        settings = CrossEntropyConfig(label_smoothing=smoothing, class_weights="balanced")
        loss = build_criterion(settings, SIZES)(*outputs)["loss"]
        expected = F.cross_entropy(logits, LABELS, balanced, label_smoothing=smoothing)
        torch.testing.assert_close(loss, expected)
        focal_settings = FocalConfig(gamma=0.0, label_smoothing=smoothing, class_weights="balanced")
        torch.testing.assert_close(
            build_criterion(focal_settings, SIZES)(*outputs)["loss"], expected
        )
    soft = (targets + targets.roll(1, 0)) / 2  # as MixUp makes them
    loss = build_criterion(CrossEntropyConfig(class_weights="balanced"), SIZES)(
        outputs[0], logits, soft
    )["loss"]
    terms = -(soft * balanced * logits.log_softmax(1)).sum()
    torch.testing.assert_close(loss, terms / (soft * balanced).sum())


def test_logit_adjustment_adds_log_frequencies_in_the_loss_alone(outputs):
    embedding, logits, _ = outputs
    adjusted = logits + 1.5 * torch.tensor([2 / 6, 3 / 6, 1 / 6]).log()
    for settings in (CrossEntropyConfig(), FocalConfig(), TripletCrossEntropyConfig()):
        plain = build_criterion(settings, SIZES)(embedding, adjusted, outputs[2])
        settings.logit_adjustment = 1.5
        terms = build_criterion(settings, SIZES)(*outputs)
        torch.testing.assert_close(terms["loss"], plain["loss"])

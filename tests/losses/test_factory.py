"""The losses and terms that the training loop minimizes and logs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from flowertune.config.groups import SCHEMAS
from flowertune.config.loss import CrossEntropyConfig, FocalConfig, TripletCrossEntropyConfig
from flowertune.losses.cross_entropy import soft_cross_entropy
from flowertune.losses.factory import LOSSES, build_criterion
from flowertune.losses.focal import focal
from flowertune.losses.triplet import batch_hard_triplet_loss

LABELS = torch.tensor([0, 2, 2, 0, 1, 1])


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
    terms = build_criterion(settings)(*outputs)
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
            focal(*outputs, gamma=3.0, label_smoothing=0.1)["loss"],
        ),
    ]
    for settings, expected in cases:
        terms = build_criterion(settings)(*outputs)
        assert terms.keys() == {"loss"}
        assert torch.equal(terms["loss"], expected)


class NoConstants(TorchDispatchMode):
    """Rejects tensors made from host values, which a CUDA graph cannot copy."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten.lift_fresh.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_makes_no_tensor_from_host_values(outputs, name):
    criterion = build_criterion(SCHEMAS["loss"][name](label_smoothing=0.1))
    with NoConstants():
        assert criterion(*outputs)["loss"].isfinite()

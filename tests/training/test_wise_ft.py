import pytest
import torch

from flowertune.config.model import LoraConfig
from flowertune.models.adapters.lora import LORA
from flowertune.models.adapters.tower_parameters import FULL
from flowertune.models.classifier import Classifier
from flowertune.models.heads import HeadInputs, LinearHead
from flowertune.training.wise_ft import choose_scale, interpolate


@pytest.fixture
def lora(small):
    """A classifier with LoRA, its initial state, and a state as after training."""
    LORA.attach(LoraConfig(rank=2, alpha=4.0, targets=["q", "mlp"]), small, seed=1)
    inputs = HeadInputs(small.embedding_dim, 5, 1.0, 1, None, None, None)
    classifier = Classifier(small, LinearHead(inputs, standardize=False), LORA)
    initial = classifier.trainable_state()
    generator = torch.Generator().manual_seed(2)
    trained = {n: 0.2 * torch.randn(t.shape, generator=generator) for n, t in initial.items()}
    trained |= {n: initial[n] for n in ("head.mean", "head.std")}
    return classifier, initial, trained


def update(classifier):
    """LoRA's update of one layer, and the head's weight."""
    layer = classifier.visual.transformer.resblocks[1].attn.q_proj
    return layer.get_delta_weight("default").clone(), classifier.head.linear.weight.clone()


@torch.no_grad()
def test_the_update_grows_in_a_straight_line_and_the_head_stays_trained(lora):
    classifier, initial, trained = lora
    classifier.load_trainable_state(trained)
    full, head = update(classifier)
    for scale in (0.0, 0.25, 1.0, 1.5):
        classifier.load_trainable_state(interpolate(LORA, initial, trained, scale))
        scaled, its_head = update(classifier)
        torch.testing.assert_close(scaled, scale * full)
        assert torch.equal(its_head, head)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({1.0: 0.5, 0.75: 0.7, 0.5: 0.7, 0.25: 0.6}, 0.75),  # of equals, the nearest to 1
        ({1.0: 0.7, 0.75: 0.7, 0.5: 0.6, 0.25: 0.1}, 1.0),
        ({1.0: 0.1, 0.75: 0.2, 0.5: 0.3, 0.25: 0.4}, 0.25),
    ],
)
def test_the_scale_of_the_highest_score_is_chosen(lora, scores, expected):
    classifier, initial, trained = lora
    name = next(name for name in trained if "lora_B" in name)

    def score():
        state = classifier.trainable_state()[name]
        return scores[round(float((state / trained[name]).mean()), 2)]

    scale, state = choose_scale(classifier, initial, trained, [0.25, 0.5, 0.75], score)
    assert scale == expected
    torch.testing.assert_close(state[name], expected * trained[name])


def test_a_tower_that_was_trained_whole_goes_from_initial_to_trained():
    initial = {"visual.conv1.weight": torch.zeros(2), "head.linear.bias": torch.zeros(2)}
    trained = {"visual.conv1.weight": torch.ones(2), "head.linear.bias": torch.ones(2)}
    half = interpolate(FULL, initial, trained, 0.5)
    assert torch.equal(half["visual.conv1.weight"], torch.full((2,), 0.5))
    assert torch.equal(half["head.linear.bias"], torch.ones(2))

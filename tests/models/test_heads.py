import pytest
import torch
import torch.nn.functional as F

from flowertune.errors import TrainingError
from flowertune.models.heads import CosineHead, HeadInputs, LinearHead, text_head


@pytest.fixture
def embedding():
    return 3 + 0.2 * torch.randn(50, 8, generator=torch.Generator().manual_seed(0))


def inputs(train_features=None, class_vectors=None, linear_start=None, seed=42):
    return HeadInputs(8, 5, 100.0, seed, train_features, class_vectors, linear_start)


def plain_head(seed=42):
    return LinearHead(inputs(seed=seed), standardize=False)


def test_linear_head_standardizes_by_the_training_features(embedding):
    head = LinearHead(inputs(embedding), standardize=True)
    standard = (embedding - embedding.mean(0)) / embedding.std(0, correction=0)
    torch.testing.assert_close(head(embedding), head.linear(standard))
    assert [name for name, _ in head.named_parameters()] == ["linear.weight", "linear.bias"]
    assert {"mean", "std"} <= head.state_dict().keys()


def test_linear_head_without_statistics_is_a_linear_layer(embedding):
    head = plain_head()
    assert torch.equal(head(embedding), head.linear(embedding))


def test_a_constant_dimension_gives_finite_logits(embedding):
    embedding[:, 3] = 1.0
    head = LinearHead(inputs(embedding), standardize=True)
    embedding[:, 3] += 1e-6
    assert head(embedding).abs().max() < 10


def test_constant_features_are_an_error():
    with pytest.raises(TrainingError, match="all training images look the same"):
        LinearHead(inputs(torch.ones(3, 8)), standardize=True)


def test_cosine_head_is_scale_times_cosine(embedding):
    head = CosineHead(inputs(), scale=20.0, learn_scale=True)
    expected = 20 * F.cosine_similarity(embedding[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(embedding), expected)
    torch.testing.assert_close(head(7 * embedding), expected)


@pytest.mark.parametrize("learn_scale", [True, False])
def test_the_scale_is_learned_only_with_learn_scale(embedding, learn_scale):
    head = CosineHead(inputs(), scale=20.0, learn_scale=learn_scale)
    head(embedding).square().sum().backward()
    assert (head.log_scale.grad is not None) is learn_scale


def test_text_head_starts_as_zero_shot_classification(embedding):
    vectors = torch.randn(5, 8)
    head = text_head(inputs(class_vectors=vectors), learn_scale=False)
    expected = 100 * F.normalize(embedding, dim=1) @ F.normalize(vectors, dim=1).T
    torch.testing.assert_close(head(embedding), expected)


def heads(seed):
    return plain_head(seed), CosineHead(inputs(seed=seed), scale=1.0, learn_scale=False)


def test_initial_weights_depend_only_on_the_seed():
    for one, same, other in zip(heads(1), heads(1), heads(2), strict=True):
        weight, repeated, different = (next(head.parameters()) for head in (one, same, other))
        assert torch.equal(weight, repeated)
        assert not torch.equal(weight, different)


def test_logits_are_float32_under_autocast(embedding):
    for head in heads(1):
        expected = head(embedding.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            logits = head(embedding.bfloat16())
        assert logits.dtype == torch.float32
        assert torch.equal(logits, expected)


def test_a_head_that_starts_from_a_probe_equals_it(embedding):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(5, 8, generator=generator).double()
    bias = torch.randn(5, generator=generator).double()
    mean, std = torch.full((8,), 2.5).double(), torch.linspace(0.1, 0.4, 8).double()
    expected = ((embedding.double() - mean) / std) @ weight.T + bias
    for standardize in (False, True):
        started = inputs(embedding, linear_start=(weight, bias, mean, std))
        head = LinearHead(started, standardize=standardize)
        torch.testing.assert_close(head(embedding), expected.float(), atol=1e-4, rtol=1e-4)
        assert all(parameter.requires_grad for parameter in head.parameters())


@pytest.mark.parametrize("kind", ["linear", "plain", "cosine"])
def test_every_head_has_a_linear_form(embedding, kind):
    if kind == "cosine":
        head = CosineHead(inputs(), scale=30.0, learn_scale=True)
        with torch.no_grad():
            head.weight.mul_(torch.arange(1, 6)[:, None])  # any lengths, as after training
    else:
        head = LinearHead(inputs(embedding), standardize=kind == "linear")
    one = head.as_linear()
    assert one.normalizes == (kind == "cosine")
    given = F.normalize(embedding, dim=1) if one.normalizes else embedding
    torch.testing.assert_close(
        given @ one.weight.T + one.bias, head(embedding), atol=1e-4, rtol=1e-5
    )

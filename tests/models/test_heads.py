import pytest
import torch
import torch.nn.functional as F

from flowertune.models.heads import CosineHead, HeadInputs, LinearHead, text_head


@pytest.fixture
def embedding():
    return 3 + 0.2 * torch.randn(50, 8, generator=torch.Generator().manual_seed(0))


def test_linear_head_standardizes_by_the_given_statistics(embedding):
    head = LinearHead(8, 5, embedding.mean(0), embedding.std(0), seed=42)
    standard = (embedding - embedding.mean(0)) / embedding.std(0)
    torch.testing.assert_close(head(embedding), head.linear(standard))
    assert [name for name, _ in head.named_parameters()] == ["linear.weight", "linear.bias"]
    assert {"mean", "std"} <= head.state_dict().keys()


def test_linear_head_without_statistics_is_a_linear_layer(embedding):
    head = LinearHead(8, 5, None, None, seed=42)
    assert torch.equal(head(embedding), head.linear(embedding))


def test_a_dimension_that_never_varies_does_not_blow_up(embedding):
    embedding[:, 3] = 1.0
    head = LinearHead(8, 5, embedding.mean(0), embedding.std(0), seed=42)
    embedding[:, 3] += 1e-6
    assert head(embedding).abs().max() < 10


@pytest.mark.parametrize("std", [torch.zeros(8), torch.full((8,), torch.nan), torch.ones(7)])
def test_statistics_that_are_none_are_an_error(std):
    with pytest.raises(ValueError, match="std"):
        LinearHead(8, 5, torch.zeros(8), std, seed=42)


def test_cosine_head_is_scale_times_cosine(embedding):
    head = CosineHead(8, 5, 20.0, learn_scale=True, seed=42)
    expected = 20 * F.cosine_similarity(embedding[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(embedding), expected)
    torch.testing.assert_close(head(7 * embedding), expected)


@pytest.mark.parametrize("learn_scale", [True, False])
def test_the_scale_is_learnt_only_where_asked(embedding, learn_scale):
    head = CosineHead(8, 5, 20.0, learn_scale=learn_scale, seed=42)
    head(embedding).square().sum().backward()
    assert (head.log_scale.grad is not None) is learn_scale


def test_text_head_starts_as_zero_shot_classification(embedding):
    vectors = torch.randn(5, 8)
    head = text_head(HeadInputs(8, 5, 100.0, 42, None, vectors, None), learn_scale=False)
    expected = 100 * F.normalize(embedding, dim=1) @ F.normalize(vectors, dim=1).T
    torch.testing.assert_close(head(embedding), expected)


def heads(seed):
    return LinearHead(8, 5, None, None, seed=seed), CosineHead(8, 5, 1.0, False, seed=seed)


def test_initial_weights_come_from_the_seed_alone():
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


def test_a_head_that_starts_from_a_probe_is_that_probe(embedding):
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(5, 8, generator=generator).double()
    bias = torch.randn(5, generator=generator).double()
    mean, std = torch.full((8,), 2.5).double(), torch.linspace(0.1, 0.4, 8).double()
    expected = ((embedding.double() - mean) / std) @ weight.T + bias
    for statistics in ((None, None), (embedding.mean(0), embedding.std(0))):
        head = LinearHead(8, 5, *statistics, seed=42)
        head.start_from(weight, bias, mean, std)
        torch.testing.assert_close(head(embedding), expected.float(), atol=1e-4, rtol=1e-4)
        assert all(parameter.requires_grad for parameter in head.parameters())


@pytest.mark.parametrize("kind", ["linear", "plain", "cosine"])
def test_every_head_is_one_matrix_and_one_vector(embedding, kind):
    statistics = (embedding.mean(0), embedding.std(0)) if kind == "linear" else (None, None)
    if kind == "cosine":
        head = CosineHead(8, 5, 30.0, True, seed=42)
        with torch.no_grad():
            head.weight.mul_(torch.arange(1, 6)[:, None])  # as training leaves it: of any length
    else:
        head = LinearHead(8, 5, *statistics, seed=42)
    one = head.as_linear()
    assert one.normalizes == (kind == "cosine")
    given = F.normalize(embedding, dim=1) if one.normalizes else embedding
    torch.testing.assert_close(
        given @ one.weight.T + one.bias, head(embedding), atol=1e-4, rtol=1e-5
    )

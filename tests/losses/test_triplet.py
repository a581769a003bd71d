"""The triplet loss against a loop over all triplets and against pytorch-metric-learning."""

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer

from flowertune.losses.triplet import batch_hard_triplet_loss

SETTINGS = [
    {"distance": distance, "normalize": normalize, "margin": margin, "reduction": reduction}
    for distance, normalize, margin, reduction in itertools.product(
        ["euclidean", "squared_euclidean", "cosine"],
        [False, True],
        [0.2, "soft"],
        ["mean", "nonzero_mean"],
    )
]
PLAIN = {"distance": "euclidean", "normalize": False, "margin": 1.0, "reduction": "mean"}


def named(settings):
    return "-".join(map(str, settings.values()))


def batch(labels, scale=1.0, seed=0):
    """Embeddings that depend on the class to a degree, so that all kinds of triplets occur."""
    labels = torch.tensor(labels)
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(int(labels.max()) + 1, 6, generator=generator)
    noise = torch.randn(len(labels), 6, generator=generator)
    return (scale * (1.5 * centers[labels] + noise)).requires_grad_(), labels


def naive(embedding, labels, distance, normalize, margin, reduction):
    """The triplet with the largest loss per anchor, from a loop over all, in float64."""
    points = embedding.double()
    if normalize:
        points = torch.stack([point / point.norm() for point in points])

    def apart(i, j):
        if distance == "cosine":
            return 1 - points[i] @ points[j] / (points[i].norm() * points[j].norm())
        length = (points[i] - points[j]).norm()
        return length**2 if distance == "squared_euclidean" else length

    costs, active, everyone = [], 0, range(len(labels))
    for a in everyone:
        gaps = [
            apart(a, p) - apart(a, n)
            for p in everyone
            if p != a and labels[p] == labels[a]
            for n in everyone
            if labels[n] != labels[a]
        ]
        if not gaps:
            continue
        hardest = max(gaps, key=lambda gap: gap.item())
        if margin == "soft":
            costs.append((1 + hardest.exp()).log())
            active += hardest.item() > 0
        else:
            costs.append((hardest + margin).clamp_min(0))
            active += hardest.item() + margin > 0
    counted = [cost for cost in costs if reduction == "mean" or cost.item() > 0]
    return sum(counted) / len(counted), active / len(costs)


@pytest.mark.parametrize("settings", SETTINGS, ids=named)
def test_the_loss_is_the_mean_over_the_hardest_triplets(settings):
    # 3 is the only one of its class: a negative for others, but not an anchor
    embedding, labels = batch([0, 1, 2, 0, 3, 1, 2, 2, 0, 1])
    loss, active = batch_hard_triplet_loss(embedding, labels, **settings)
    expected, expected_active = naive(embedding, labels, **settings)
    assert 0 < expected_active < 1
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert active.item() == pytest.approx(expected_active)
    (gradient,) = torch.autograd.grad(loss, embedding)
    (expected_gradient,) = torch.autograd.grad(expected, embedding)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def theirs(embedding, labels, distance, normalize, margin, reduction):
    if distance == "cosine":
        measure = CosineSimilarity()
    else:
        power = 2 if distance == "squared_euclidean" else 1
        measure = LpDistance(normalize_embeddings=normalize, power=power)
    soft = margin == "soft"
    loss = TripletMarginLoss(
        margin=0.0 if soft else margin,
        smooth_loss=soft,
        distance=measure,
        reducer=MeanReducer() if reduction == "mean" else AvgNonZeroReducer(),
    )
    return loss(embedding, labels, BatchHardMiner(distance=measure)(embedding, labels))


@pytest.mark.parametrize("settings", SETTINGS, ids=named)
@pytest.mark.parametrize("seed", range(3))
def test_it_agrees_with_pytorch_metric_learning(settings, seed):
    embedding, labels = batch([0, 0, 1, 1, 2, 2, 2, 3] * 2, seed=seed)
    loss, _ = batch_hard_triplet_loss(embedding, labels, **settings)
    expected = theirs(embedding, labels, **settings)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss, embedding)
    (expected_gradient,) = torch.autograd.grad(expected, embedding)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=named)
@pytest.mark.parametrize("labels", [[1] * 6, [0, 1, 2, 3, 4, 5], [2]])
def test_a_batch_without_triplets_has_loss_0(settings, labels):
    embedding, labels = batch(labels)
    loss, active = batch_hard_triplet_loss(embedding, labels, **settings)
    assert loss.item() == active.item() == theirs(embedding, labels, **settings).item() == 0
    assert not torch.autograd.grad(loss, embedding)[0].any()


@pytest.mark.parametrize("settings", SETTINGS, ids=named)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_embeddings_cost_the_margin_with_finite_gradients(settings, value):
    embedding = torch.full((6, 4), value, requires_grad=True)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    loss, active = batch_hard_triplet_loss(embedding, labels, **settings)
    soft = settings["margin"] == "soft"
    assert loss.item() == pytest.approx(math.log(2) if soft else settings["margin"])
    assert active.item() == (0 if soft else 1)
    assert torch.autograd.grad(loss, embedding)[0].isfinite().all()


def test_satisfied_triplets_have_loss_0():
    labels = torch.tensor([0, 0, 1, 1])
    embedding = F.one_hot(labels).float().mul(10).requires_grad_()
    for reduction in ("mean", "nonzero_mean"):
        loss, active = batch_hard_triplet_loss(
            embedding, labels, **{**PLAIN, "reduction": reduction}
        )
        assert loss.item() == active.item() == 0
        assert not torch.autograd.grad(loss, embedding)[0].any()


@pytest.mark.parametrize("normalize", [False, True])
def test_close_embeddings_far_from_the_origin_are_distinguished(normalize):
    """CLIP's form a narrow cone, where |a|^2 + |b|^2 - 2ab in float32 is noise."""
    spread, labels = batch([0, 0, 0, 1, 1, 1, 2, 2], scale=1e-3)
    embedding = (20 + spread).detach()
    settings = {**PLAIN, "normalize": normalize, "margin": 1e-4}
    loss, _ = batch_hard_triplet_loss(embedding, labels, **settings)
    expected, _ = naive(embedding, labels, **settings)
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_distances_are_in_float32_under_autocast_too(distance, dtype):
    embedding, labels = batch([0, 0, 1, 1, 2, 2])
    embedding, settings = embedding.detach().to(dtype), {**PLAIN, "distance": distance}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, active = batch_hard_triplet_loss(embedding, labels, **settings)
    assert loss.dtype == active.dtype == torch.float32
    expected, _ = batch_hard_triplet_loss(embedding.float(), labels, **settings)
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("settings", SETTINGS, ids=named)
def test_shapes_do_not_depend_on_values(settings):
    """torch.vmap rejects shapes that depend on values, which would wait for the device."""
    cases = [batch(labels) for labels in ([0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 2, 3])]
    embeddings, labels = (torch.stack(values) for values in zip(*cases, strict=True))
    at_once = torch.vmap(partial(batch_hard_triplet_loss, **settings))(embeddings, labels)
    one_by_one = [batch_hard_triplet_loss(*case, **settings) for case in cases]
    for values, singles in zip(at_once, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(values, torch.stack(singles))

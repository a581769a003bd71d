"""Triplet loss with batch-hard mining, added to the cross-entropy."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from flowertune.losses.cross_entropy import soft_cross_entropy

Distance = Literal["euclidean", "squared_euclidean", "cosine"]
Reduction = Literal["mean", "nonzero_mean"]

EPS = 1e-12  # added under the square root, whose slope at 0 is infinite


def triplet_cross_entropy(
    embedding: Float[Tensor, "b e"],
    logits: Float[Tensor, "b c"],
    targets: Float[Tensor, "b c"],
    *,
    label_smoothing: float,
    margin: float | Literal["soft"],
    weight: float,
    distance: Distance,
    normalize: bool,
    reduction: Reduction,
    class_weights: Float[Tensor, "c"] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """Return loss = ce + weight * triplet, its terms and the active share; one-hot targets."""
    ce = soft_cross_entropy(logits, targets, label_smoothing, class_weights)
    triplet, active = batch_hard_triplet_loss(
        embedding, targets.argmax(1), margin, distance, normalize, reduction
    )
    return {"loss": ce + weight * triplet, "ce": ce, "triplet": triplet, "active_triplets": active}


def batch_hard_triplet_loss(
    embedding: Float[Tensor, "b e"],
    labels: Int64[Tensor, "b"],
    margin: float | Literal["soft"],
    distance: Distance,
    normalize: bool,
    reduction: Reduction,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return the mean triplet loss and the share of active triplets, both float32 scalars.

    Each anchor a is paired with its farthest positive p and its nearest negative n in the batch.
    Its loss is max(0, d(a, p) - d(a, n) + margin), or log(1 + exp(d(a, p) - d(a, n))) with margin
    "soft". A triplet is active if d(a, p) + margin > d(a, n), with margin 0 for "soft".
    `normalize` scales embeddings to unit length first; distance "cosine", 1 - cos, always does.
    Reduction "mean" averages over the anchors that have a positive and a negative, "nonzero_mean"
    over those of them whose loss is not 0. Without such anchors, both results are 0.
    The embedding may have any float type; the loss is computed in float32.

    Hermans et al., In Defense of the Triplet Loss, 2017, https://arxiv.org/abs/1703.07737
    """
    points = embedding.float()  # stays so under autocast, which lowers only matrix products
    if normalize or distance == "cosine":
        points = F.normalize(points, dim=1)
    positive, negative, is_anchor = mine_batch_hard(points, labels)
    measure = _DISTANCES[distance]
    gap = measure(points - points[positive]) - measure(points - points[negative])
    if isinstance(margin, str):
        costs, active = F.softplus(gap), gap > 0
    else:
        costs = F.relu(gap + margin)
        active = costs > 0
    counted = is_anchor & (costs > 0) if reduction == "nonzero_mean" else is_anchor
    loss = (costs * is_anchor).sum() / counted.sum().clamp_min(1)
    return loss, (active & is_anchor).sum() / is_anchor.sum().clamp_min(1)


@torch.no_grad()
def mine_batch_hard(
    points: Float[Tensor, "b e"], labels: Int64[Tensor, "b"]
) -> tuple[Int64[Tensor, "b"], Int64[Tensor, "b"], Bool[Tensor, "b"]]:
    """Find the farthest point of the same label and the nearest of another label for each point.

    Returns their indices and whether both exist; the index of a missing point is meaningless. All
    shapes depend on B alone, so the host never waits for the device.
    """
    # Not |a|^2 + |b|^2 - 2ab, which cancels: CLIP's embeddings lie in a narrow cone far from the
    # origin.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    same_label = labels[:, None] == labels
    not_self = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    is_positive, is_negative = same_label & not_self, ~same_label
    farthest = distances.masked_fill(~is_positive, -torch.inf).argmax(1)
    nearest = distances.masked_fill(~is_negative, torch.inf).argmin(1)
    return farthest, nearest, is_positive.any(1) & is_negative.any(1)


# From differences (B, E). All grow with the Euclidean distance, so one mining serves them all.
_DISTANCES: dict[Distance, Callable[[Tensor], Tensor]] = {
    "euclidean": lambda difference: (difference.square().sum(1) + EPS).sqrt(),
    "squared_euclidean": lambda difference: difference.square().sum(1),
    "cosine": lambda difference: difference.square().sum(1) / 2,  # 1 - cos of unit vectors
}

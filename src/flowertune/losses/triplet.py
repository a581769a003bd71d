"""The triplet loss with batch-hard mining."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from flowertune.losses.cross_entropy import soft_cross_entropy

Distance = Literal["euclidean", "squared_euclidean", "cosine"]
Reduction = Literal["mean", "nonzero_mean"]

EPS = 1e-12  # under the root, whose slope at 0 is infinite


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
) -> dict[str, Float[Tensor, ""]]:
    """Compute "ce" + weight * "triplet", and the share "active_triplets"; targets: one-hot."""
    ce = soft_cross_entropy(logits, targets, label_smoothing)
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
    """Pair each anchor with its farthest positive and nearest negative -> loss, active share.

    The embedding may be of any float type, and is computed in float32. An anchor a with positive p
    and negative n costs max(0, d(a, p) - d(a, n) + margin), or with margin "soft" log(1 +
    exp(d(a, p) - d(a, n))). `normalize` puts the embedding on the unit sphere first; "cosine",
    1 - cos, always does. "mean" is over the anchors that have a positive and a negative in the
    batch, "nonzero_mean" over those of them whose cost is not 0. A triplet is active where d(a,
    p) + margin > d(a, n), without margin for "soft". Both results are float32 scalars, and 0
    where no anchor has both.

    Hermans et al., In Defense of the Triplet Loss, 2017, https://arxiv.org/abs/1703.07737
    """
    points = embedding.float()  # autocast leaves it so: it lowers matrix products, and none is here
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
    """For each point, find the farthest of its label and the nearest of another.

    Returns both and whether both exist; where one does not, its index means nothing. The shapes
    depend on B alone, so that nothing waits for the device.
    """
    # Differences, not |a|^2 + |b|^2 - 2ab: CLIP's embeddings lie in a narrow cone far from the
    # origin, where that cancels.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    same_label = labels[:, None] == labels
    not_self = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    is_positive, is_negative = same_label & not_self, ~same_label
    farthest = distances.masked_fill(~is_positive, -torch.inf).argmax(1)
    nearest = distances.masked_fill(~is_negative, torch.inf).argmin(1)
    return farthest, nearest, is_positive.any(1) & is_negative.any(1)


# Of differences (B, E); all grow with the Euclidean distance, so one mining serves them all.
_DISTANCES: dict[Distance, Callable[[Tensor], Tensor]] = {
    "euclidean": lambda difference: (difference.square().sum(1) + EPS).sqrt(),
    "squared_euclidean": lambda difference: difference.square().sum(1),
    "cosine": lambda difference: difference.square().sum(1) / 2,  # of unit vectors: 1 - cos
}

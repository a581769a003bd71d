"""What training minimises, and what of it is logged apart: named terms, each a mean over a batch.

Each function takes the embedding (B, E), the logits (B, C) and the targets (B, C), each row of
them a distribution, and gives float32 scalars; "loss" is the one that is minimised.
"""

from typing import Literal

from torch import Tensor

from flowertune.losses.cross_entropy import soft_cross_entropy
from flowertune.losses.triplet import Distance, Reduction, batch_hard_triplet_loss

Terms = dict[str, Tensor]


def cross_entropy(
    embedding: Tensor, logits: Tensor, targets: Tensor, *, label_smoothing: float
) -> Terms:
    """Cross-entropy alone."""
    return {"loss": soft_cross_entropy(logits, targets, label_smoothing)}


def triplet_cross_entropy(
    embedding: Tensor,
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float,
    margin: float | Literal["soft"],
    weight: float,
    distance: Distance,
    normalize: bool,
    reduction: Reduction,
) -> Terms:
    """ "ce" + weight * "triplet", and "active_triplets", a share. The targets must be one-hot."""
    ce = soft_cross_entropy(logits, targets, label_smoothing)
    triplet, active = batch_hard_triplet_loss(
        embedding, targets.argmax(1), margin, distance, normalize, reduction
    )
    return {"loss": ce + weight * triplet, "ce": ce, "triplet": triplet, "active_triplets": active}

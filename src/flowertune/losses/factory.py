"""Build a loss from its config."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor

from flowertune.config.loss import LossConfig, TripletCrossEntropyConfig
from flowertune.errors import UsageError
from flowertune.losses.cross_entropy import soft_cross_entropy
from flowertune.losses.triplet import Distance, Reduction, batch_hard_triplet_loss

Terms = dict[str, Tensor]


def cross_entropy(
    embedding: Tensor, logits: Tensor, targets: Tensor, *, label_smoothing: float
) -> Terms:
    """Compute the cross-entropy alone."""
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
    """Compute "ce" + weight * "triplet", and the share "active_triplets"; targets: one-hot."""
    ce = soft_cross_entropy(logits, targets, label_smoothing)
    triplet, active = batch_hard_triplet_loss(
        embedding, targets.argmax(1), margin, distance, normalize, reduction
    )
    return {"loss": ce + weight * triplet, "ce": ce, "triplet": triplet, "active_triplets": active}


Criterion = Callable[[Tensor, Tensor, Tensor], Terms]


def check_loss(settings: LossConfig, labels: Sequence[int]) -> None:
    """Refuse training images (their labels) on which a loss is undefined."""
    triplets = isinstance(settings, TripletCrossEntropyConfig)
    if triplets and len(set(labels)) == len(labels):
        raise UsageError(
            "loss=triplet_ce: takes two photos of a class, and there is one training photo in "
            "each; take loss=ce"
        )


def build_criterion(settings: LossConfig) -> Criterion:
    """Build the criterion that `training.loop.fit` minimizes."""
    return _CRITERIA[settings.name](settings)


def _cross_entropy(loss: Any) -> Criterion:
    return partial(cross_entropy, label_smoothing=loss.label_smoothing)


def _triplet_cross_entropy(loss: Any) -> Criterion:
    return partial(
        triplet_cross_entropy,
        label_smoothing=loss.label_smoothing,
        margin=loss.margin,
        weight=loss.weight,
        distance=loss.distance,
        normalize=loss.normalize,
        reduction=loss.reduction,
    )


_CRITERIA: dict[str, Callable[[Any], Criterion]] = {
    "ce": _cross_entropy,
    "triplet_ce": _triplet_cross_entropy,
}

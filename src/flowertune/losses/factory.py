"""Build the loss that a config names."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor

from flowertune.config.loss import ClassBatches, LossConfig
from flowertune.config.plugins import bind
from flowertune.errors import UsageError
from flowertune.losses.cross_entropy import cross_entropy
from flowertune.losses.focal import focal
from flowertune.losses.triplet import triplet_cross_entropy

# (embedding, logits, targets) -> "loss" and its terms
Criterion = Callable[
    [Float[Tensor, "b e"], Float[Tensor, "b c"], Float[Tensor, "b c"]], dict[str, Float[Tensor, ""]]
]

# By option name; keyword-only parameters are keys of the option's config.
LOSSES: dict[str, Callable[..., Any]] = {
    "ce": cross_entropy,
    "focal": focal,
    "triplet_ce": triplet_cross_entropy,
}


def build_criterion(settings: LossConfig, class_sizes: Int64[Tensor, "c"]) -> Criterion:
    """Build the criterion that `training.loop.train` minimizes.

    class_sizes: training images per class, on the device of the logits.
    """
    values = dict(vars(settings))
    if "class_weights" in values:
        values["class_weights"] = weigh_classes(values["class_weights"], class_sizes)
    criterion: Criterion = bind("loss", settings.name, LOSSES, SimpleNamespace(**values))
    factor = values.get("logit_adjustment", 0.0)
    if factor == 0:
        return criterion
    adjustment = factor * (class_sizes / class_sizes.sum()).log()
    return lambda embedding, logits, targets: criterion(embedding, logits + adjustment, targets)


def weigh_classes(
    weights: float | str, class_sizes: Int64[Tensor, "c"]
) -> Float[Tensor, "c"] | None:
    """Return n / (C n_c) for "balanced", its power for a number, None for "none".

    The same as scikit-learn's compute_class_weight("balanced").
    """
    if weights == "none":
        return None
    balanced = class_sizes.sum() / (len(class_sizes) * class_sizes)
    return balanced if isinstance(weights, str) else balanced**weights


def check_loss(settings: LossConfig, labels: Sequence[int]) -> None:
    """Raise UsageError if the loss is undefined for training images with these labels."""
    if isinstance(settings, ClassBatches) and len(set(labels)) == len(labels):
        raise UsageError(
            f"loss={settings.name}: needs two training images of a class, but every class has "
            "one; use loss=ce"
        )

"""Build the loss that a config names."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Float
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


def build_criterion(settings: LossConfig) -> Criterion:
    """Build the criterion that `training.loop.train` minimizes."""
    return bind("loss", settings.name, LOSSES, settings)


def check_loss(settings: LossConfig, labels: Sequence[int]) -> None:
    """Raise UsageError if the loss is undefined for training images with these labels."""
    if isinstance(settings, ClassBatches) and len(set(labels)) == len(labels):
        raise UsageError(
            f"loss={settings.name}: needs two training images of a class, but every class has "
            "one; use loss=ce"
        )

"""Build a loss from its config, picked by its literal name."""

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

# embedding, logits and targets to "loss" and its terms
Criterion = Callable[
    [Float[Tensor, "b e"], Float[Tensor, "b c"], Float[Tensor, "b c"]], dict[str, Float[Tensor, ""]]
]

# By the option's name; keyword-only parameters are keys of its config.
LOSSES: dict[str, Callable[..., Any]] = {
    "ce": cross_entropy,
    "focal": focal,
    "triplet_ce": triplet_cross_entropy,
}


def build_criterion(settings: LossConfig) -> Criterion:
    """Build the criterion that `training.loop.train` minimizes."""
    return bind("loss", settings.name, LOSSES, settings)


def check_loss(settings: LossConfig, labels: Sequence[int]) -> None:
    """Refuse training images (their labels) on which a loss is undefined."""
    if isinstance(settings, ClassBatches) and len(set(labels)) == len(labels):
        raise UsageError(
            f"loss={settings.name}: takes two photos of a class, and there is one training photo "
            "in each; take loss=ce"
        )

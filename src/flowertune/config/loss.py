"""Configs of the losses."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flowertune.config.fields import MISSING, config_field, option


@dataclass
class LossConfig:
    """Training loss."""

    name: str = config_field(MISSING, "loss")


@runtime_checkable
class ClassBatches(Protocol):
    """Keys by which a loss asks for batches of P classes with K unmixed images each."""

    samples_per_class: int
    classes_per_batch: int | None


@dataclass
class CrossEntropyConfig(LossConfig):
    """Cross-entropy, with soft targets where images are mixed."""

    name: str = option("ce")
    label_smoothing: float = config_field(
        0.0, "share of the target spread evenly", at_least=0, below=1
    )


@dataclass
class TripletCrossEntropyConfig(CrossEntropyConfig):
    """Cross-entropy plus a batch-hard triplet loss (Hermans et al. 2017) on the embedding."""

    name: str = option("triplet_ce")
    weight: float = config_field(0.3, "factor of the triplet term", above=0)
    margin: float | int | str = config_field(
        1.0, "how much nearer a positive must be than a negative", above=0, choices=("soft",)
    )
    distance: str = config_field(
        "euclidean", "between embeddings", choices=("euclidean", "squared_euclidean", "cosine")
    )
    normalize: bool = config_field(False, "embeddings of unit length first; cosine always does")
    reduction: str = config_field(
        "mean",
        "over all anchors with positive and negative, or those whose cost is not 0",
        choices=("mean", "nonzero_mean"),
    )
    samples_per_class: int = config_field(4, "K: photos of a class in a batch", at_least=2)
    classes_per_batch: int | None = config_field(
        None, "P; null: as many as trainer.batch_size has room for", at_least=2
    )


@dataclass
class FocalConfig(CrossEntropyConfig):
    """Cross-entropy that counts an image less the surer its class is (Lin et al. 2017)."""

    name: str = option("focal")
    gamma: float = config_field(2.0, "how much less; 0: cross-entropy", at_least=0)

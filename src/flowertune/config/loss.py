"""Configs of the losses."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flowertune.config.fields import MISSING, config_field, option


@dataclass
class LossConfig:
    """Training loss."""

    name: str = config_field(MISSING, "name of the loss")


@runtime_checkable
class ClassBatches(Protocol):
    """Keys of a loss that needs batches of P classes with K unmixed images each."""

    samples_per_class: int
    classes_per_batch: int | None


@dataclass
class CrossEntropyConfig(LossConfig):
    """Cross-entropy, with soft targets for mixed images."""

    name: str = option("ce")
    label_smoothing: float = config_field(
        0.0, "fraction of the target spread evenly over all classes", at_least=0, below=1
    )
    class_weights: float | int | str = config_field(
        "none",
        "weights for classes of different sizes; balanced: n / (C n_c); a number: its power",
        choices=("none", "balanced"),
        above=0,
    )
    logit_adjustment: float = config_field(
        0.0, "factor of log class frequencies added to logits in the loss (Menon 2021)", at_least=0
    )


@dataclass
class TripletCrossEntropyConfig(CrossEntropyConfig):
    """Cross-entropy plus a batch-hard triplet loss (Hermans et al. 2017) on the embedding."""

    name: str = option("triplet_ce")
    weight: float = config_field(0.3, "weight of the triplet term", above=0)
    margin: float | int | str = config_field(
        1.0, "triplet margin; soft: softplus instead of a hinge", above=0, choices=("soft",)
    )
    distance: str = config_field(
        "euclidean", "embedding distance", choices=("euclidean", "squared_euclidean", "cosine")
    )
    normalize: bool = config_field(False, "scale embeddings to unit length; cosine always does")
    reduction: str = config_field(
        "mean",
        "mean: over anchors with a positive and a negative; nonzero_mean: those with a loss > 0",
        choices=("mean", "nonzero_mean"),
    )
    samples_per_class: int = config_field(4, "K: images per class in a batch", at_least=2)
    classes_per_batch: int | None = config_field(
        None, "P: classes per batch; null: as many as fit in trainer.batch_size", at_least=2
    )


@dataclass
class FocalConfig(CrossEntropyConfig):
    """Cross-entropy that gives confident predictions less weight (Lin et al. 2017)."""

    name: str = option("focal")
    gamma: float = config_field(2.0, "focusing parameter; 0 gives cross-entropy", at_least=0)

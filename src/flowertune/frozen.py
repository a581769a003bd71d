"""The frozen features that a run rests on: of which splits, and all that decides their bits."""

import hashlib

from flowertune.baselines.features import FeatureKey
from flowertune.config.head import LinearHeadConfig
from flowertune.config.schema import Config, needs_probe
from flowertune.data.cache.dataset import CachedSplit
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import FROZEN
from flowertune.runtime.device import Compute


def wanted(config: Config, splits: list[str]) -> list[str]:
    """The splits whose frozen features something rests on."""
    if config.baselines or config.model.name in FROZEN:
        return splits
    if needs_probe(config):
        return [name for name in splits if name != "test"]
    standardize = isinstance(config.head, LinearHeadConfig) and config.head.standardize
    return ["train"] if standardize else []


def key(backbone: Backbone, split: CachedSplit, compute: Compute, batch_size: int) -> FeatureKey:
    """What their cache knows them by."""
    return FeatureKey(
        weights_sha256=backbone.weights_sha256,
        activation=backbone.activation,
        split_fingerprint=hashlib.sha256("".join(split.sha256).encode()).hexdigest(),
        preprocessing=str(backbone.preprocessing.to_dict()),
        precision=compute.precision,
        device=compute.device_name,
        batch_size=batch_size,
    )

"""Build backbone, adapter, head and classifier from a config, each picked by its literal name."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from flowertune.config.backbone import BackboneConfig
from flowertune.config.head import CosineHeadConfig, HeadConfig, LinearHeadConfig, TextHeadConfig
from flowertune.config.model import ModelConfig
from flowertune.config.schema import Config, head_from_probe
from flowertune.models import backbone as backbones
from flowertune.models.adapters.registry import find_adapter
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import Classifier
from flowertune.models.heads import CosineHead, LinearHead, TextHead


def load_backbone(settings: BackboneConfig, seed: int) -> Backbone:
    """Load the frozen backbone with its weights, or with random ones (of `seed`) if asked for."""
    if settings.weights == "random":
        return backbones.load_random(settings.name, seed, text=settings.text)
    return _BACKBONES[settings.source](settings)


_BACKBONES: dict[str, Callable[[BackboneConfig], Backbone]] = {
    "open_clip": lambda b: backbones.load_pretrained(b.name, b.tag, text=b.text),
    "builtin": lambda b: backbones.load_tiny(text=b.text),
    "directory": lambda b: backbones.load_directory(str(b.path), text=b.text, tag=b.tag),
}


def check_adapter(settings: ModelConfig, backbone: Backbone) -> None:
    """Refuse an adapter that this backbone does not support, before any work."""
    find_adapter(settings).count(settings, backbone)


def build_classifier(
    config: Config,
    backbone: Backbone,
    classes: int,
    train_features: Tensor | None,
    class_vectors: Tensor | None,
    linear_start: Sequence[Tensor] | None,
) -> Classifier:
    """Build backbone, adapter and head as one module, with initial weights drawn on the CPU.

    train_features (N, E): frozen, for a head that standardizes. class_vectors (C, E): from
    prompts, for a text head. linear_start: weight, bias, mean and std of a linear probe, for a
    linear head that is one, or starts as one.
    """
    head = _head(config.head, backbone, classes, train_features, class_vectors, config.seed)
    if head_from_probe(config):
        assert isinstance(head, LinearHead)
        assert linear_start is not None
        head.start_from(*linear_start)
    adapter = find_adapter(config.model)
    prompts = adapter.attach(config.model, backbone, config.seed)
    return Classifier(backbone, head, adapter, prompts)


def _head(
    settings: HeadConfig,
    backbone: Backbone,
    classes: int,
    train_features: Tensor | None,
    class_vectors: Tensor | None,
    seed: int,
) -> nn.Module:
    width = backbone.embedding_dim
    if isinstance(settings, LinearHeadConfig):
        if not settings.standardize:
            return LinearHead(width, classes, None, None, seed=seed)
        assert train_features is not None
        return LinearHead(width, classes, *_mean_and_std(train_features), seed=seed)
    if isinstance(settings, CosineHeadConfig):
        return CosineHead(width, classes, settings.scale, settings.learn_scale, seed=seed)
    assert isinstance(settings, TextHeadConfig)
    assert class_vectors is not None
    return TextHead(class_vectors, backbone.logit_scale, settings.learn_scale)


def _mean_and_std(features: Tensor) -> tuple[Tensor, Tensor]:
    std, mean = torch.std_mean(features.double(), dim=0, correction=0)
    return mean.float(), std.float()

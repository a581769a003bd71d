"""Build backbone, adapter, head and classifier from a config, each picked by its literal name."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from flowertune.config.backbone import BackboneConfig
from flowertune.config.head import HeadConfig
from flowertune.config.model import ModelConfig
from flowertune.config.plugins import bind
from flowertune.config.schema import Config, head_from_probe
from flowertune.models import backbone as backbones
from flowertune.models.adapters.registry import find_adapter
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import Classifier
from flowertune.models.heads import HEADS, Head, HeadInputs


def load_backbone(settings: BackboneConfig, seed: int) -> Backbone:
    """Load the frozen backbone with its weights, or with random ones (of `seed`) if asked for."""
    if settings.weights == "random":
        return backbones.load_random(settings.name, seed, text=settings.text)
    return _BACKBONES[settings.source](settings)


_BACKBONES: dict[str, Callable[[BackboneConfig], Backbone]] = {
    "open_clip": lambda b: backbones.load_pretrained(b.name, b.tag, text=b.text),
    "builtin": lambda b: backbones.load_directory(backbones.TINY, b.text, tag="builtin"),
    "directory": lambda b: backbones.load_directory(str(b.path), b.text, tag=b.tag),
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
    inputs = HeadInputs(
        backbone.embedding_dim, classes, backbone.logit_scale, config.seed,
        train_features, class_vectors, linear_start if head_from_probe(config) else None,
    )  # fmt: skip
    head = bind("head", config.head.name, HEADS, config.head)(inputs)
    adapter = find_adapter(config.model)
    prompts = adapter.attach(config.model, backbone, config.seed)
    return Classifier(backbone, head, adapter, prompts)


def load_head(
    settings: HeadConfig, backbone: Backbone, classes: int, state: Mapping[str, Tensor]
) -> Head:
    """Build a trained head from its state dict. Raises RuntimeError where they do not fit."""
    width = backbone.embedding_dim
    # of the right shapes; what they make is replaced
    features, vectors = torch.eye(2, width), torch.ones(classes, width)
    inputs = HeadInputs(width, classes, 1.0, 0, features, vectors, None)
    head: Head = bind("head", settings.name, HEADS, settings)(inputs)
    head.load_state_dict(dict(state))
    return head

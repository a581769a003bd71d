"""Build the backbone, adapter, head and classifier that a config names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from flowertune.config.backbone import BackboneConfig
from flowertune.config.head import HeadConfig
from flowertune.config.model import ModelConfig
from flowertune.config.plugins import bind
from flowertune.config.schema import Config, head_from_probe
from flowertune.data.image import RESIZE_MODES
from flowertune.models import backbone as backbones
from flowertune.models.adapters.registry import find_adapter
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import Classifier
from flowertune.models.heads import HEADS, Head, HeadInputs


def load_backbone(settings: BackboneConfig, seed: int, resize: str | None) -> Backbone:
    """Load the frozen backbone; with `weights` "random", draw its weights from `seed`.

    `resize` (a key of RESIZE_MODES) replaces its way to resize images for evaluation.
    """
    if settings.weights == "random":
        backbone = backbones.load_random(settings.name, seed, text=settings.text)
    else:
        backbone = _BACKBONES[settings.source](settings)
    if resize is None:
        return backbone
    preprocessing = replace(backbone.preprocessing, resize_mode=RESIZE_MODES[resize])
    return replace(backbone, preprocessing=preprocessing)


_BACKBONES: dict[str, Callable[[BackboneConfig], Backbone]] = {
    "open_clip": lambda b: backbones.load_pretrained(b.name, b.tag, text=b.text),
    "builtin": lambda b: backbones.load_directory(backbones.TINY, b.text, tag="builtin"),
    "directory": lambda b: backbones.load_directory(str(b.path), b.text, tag=b.tag),
}


def check_adapter(settings: ModelConfig, backbone: Backbone) -> None:
    """Raise UsageError if the backbone does not support the adapter."""
    find_adapter(settings).count(settings, backbone)


def build_classifier(
    config: Config,
    backbone: Backbone,
    classes: int,
    train_features: Tensor | None,
    class_vectors: Tensor | None,
    linear_start: Sequence[Tensor] | None,
) -> Classifier:
    """Build a classifier with weights drawn on the CPU; the last arguments go to `HeadInputs`."""
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
    """Build a trained head from its state dict; raises RuntimeError if it does not fit."""
    width = backbone.embedding_dim
    # placeholders of the right shapes: the state dict replaces what is computed from them
    features, vectors = torch.eye(2, width), torch.ones(classes, width)
    inputs = HeadInputs(width, classes, 1.0, 0, features, vectors, None)
    head: Head = bind("head", settings.name, HEADS, settings)(inputs)
    head.load_state_dict(dict(state))
    return head

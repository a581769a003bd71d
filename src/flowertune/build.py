"""From config to pieces. What to build is picked by a literal name in a small dict of builders.

A config file can therefore never name arbitrary Python, and the pieces take plain values.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flowertune.baselines import probe_solvers
from flowertune.baselines.linear_probe import WEIGHT_DECAYS, LinearProbe
from flowertune.config.backbone import BackboneConfig
from flowertune.config.head import CosineHeadConfig, HeadConfig, LinearHeadConfig, TextHeadConfig
from flowertune.config.loss import LossConfig, TripletCrossEntropyConfig
from flowertune.config.model import LoraConfig, ModelConfig, VptConfig
from flowertune.config.probe import ProbeConfig
from flowertune.config.schema import Config, needs_probe
from flowertune.errors import Refused
from flowertune.losses import criteria
from flowertune.models import backbone as backbones
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import Classifier
from flowertune.models.head import CosineHead, LinearHead, TextHead
from flowertune.models.lora import adapted_layers, add_lora
from flowertune.models.vpt import make_prompts, prompted_blocks

Criterion = Callable[[Tensor, Tensor, Tensor], criteria.Terms]


def load_backbone(settings: BackboneConfig, seed: int) -> Backbone:
    """The frozen backbone with its weights; with random ones (of `seed`) where asked for."""
    if settings.weights == "random":
        return backbones.load_random(settings.name, seed, text=settings.text)
    return _BACKBONES[settings.source](settings)


_BACKBONES: dict[str, Callable[[BackboneConfig], Backbone]] = {
    "open_clip": lambda b: backbones.load_pretrained(b.name, b.tag, text=b.text),
    "builtin": lambda b: backbones.load_tiny(text=b.text),
    "directory": lambda b: backbones.load_directory(str(b.path), text=b.text, tag=b.tag),
}


def check_adapter(settings: ModelConfig, backbone: Backbone) -> None:
    """Refuses an adapter that this backbone cannot take, before anything is started."""
    if isinstance(settings, LoraConfig):
        adapted_layers(backbone, settings.layers)
    elif isinstance(settings, VptConfig):
        prompted_blocks(backbone, settings.depth)


def build_classifier(
    config: Config,
    backbone: Backbone,
    classes: int,
    train_features: Tensor | None,
    class_vectors: Tensor | None,
    probe: LinearProbe | None,
) -> Classifier:
    """Backbone, adapter and head as one module, on the CPU's initial draws.

    train_features (N, E): frozen, for a head that standardises. class_vectors (C, E): from
    prompts, for a text head. probe: for a linear head that is one, or starts as one.
    """
    head = _head(config.head, backbone, classes, train_features, class_vectors, config.seed)
    if needs_probe(config):
        assert isinstance(head, LinearHead)
        assert probe is not None
        head.start_from(probe.weight, probe.bias, probe.mean, probe.std)
    if isinstance(config.model, LoraConfig):
        add_lora(
            backbone,
            rank=config.model.rank,
            alpha=config.model.alpha,
            rank_stabilized=config.model.rank_stabilized,
            dropout=config.model.dropout,
            targets=config.model.targets,
            layers=config.model.layers,
            seed=config.seed,
        )
    prompts = None
    if isinstance(config.model, VptConfig):
        prompts = make_prompts(
            backbone,
            num_prompts=config.model.num_prompts,
            depth=config.model.depth,
            shared=config.model.shared,
            dropout=config.model.dropout,
            init=config.model.init,  # type: ignore[arg-type]  # its choices are checked
            position=config.model.position,  # type: ignore[arg-type]
            before_ln_pre=config.model.before_ln_pre,
            seed=config.seed,
        )
    return Classifier(backbone, head, config.model.name, prompts)  # type: ignore[arg-type]


def probe_recipe(settings: ProbeConfig, seed: int) -> tuple[Sequence[float], probe_solvers.Solver]:
    """The linear probe's weight decays to choose from, and its solver."""
    decays = WEIGHT_DECAYS if settings.weight_decay is None else (settings.weight_decay,)
    if settings.solver == "lbfgs":
        return decays, probe_solvers.lbfgs
    return decays, probe_solvers.adamw(settings.epochs, settings.lr, settings.batch_size, seed)


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
        return LinearHead(width, classes, *_statistics(train_features), seed=seed)
    if isinstance(settings, CosineHeadConfig):
        return CosineHead(width, classes, settings.scale, settings.learn_scale, seed=seed)
    assert isinstance(settings, TextHeadConfig)
    assert class_vectors is not None
    return TextHead(class_vectors, backbone.logit_scale, settings.learn_scale)


def _statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    std, mean = torch.std_mean(features.double(), dim=0, correction=0)
    return mean.float(), std.float()


def check_loss(settings: LossConfig, labels: Sequence[int]) -> None:
    """Refuses training photos (their labels) that a loss can do nothing with."""
    triplets = isinstance(settings, TripletCrossEntropyConfig)
    if triplets and len(set(labels)) == len(labels):
        raise Refused(
            "loss=triplet_ce: takes two photos of a class, and there is one training photo in "
            "each; take loss=ce"
        )


def build_criterion(settings: LossConfig) -> Criterion:
    """What `training.loop.fit` minimises."""
    return _CRITERIA[settings.name](settings)


def _cross_entropy(loss: Any) -> Criterion:
    return partial(criteria.cross_entropy, label_smoothing=loss.label_smoothing)


def _triplet_cross_entropy(loss: Any) -> Criterion:
    return partial(
        criteria.triplet_cross_entropy,
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

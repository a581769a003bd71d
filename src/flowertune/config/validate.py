"""Validate a config: the range of each value, and their combination."""

import os
from collections.abc import Iterator
from glob import iglob
from typing import Any

from flowertune.config.augmentation import BasicAugmentationConfig, MixingConfig
from flowertune.config.fields import format_value, validate
from flowertune.config.head import TextHeadConfig
from flowertune.config.loss import ClassBatches, CrossEntropyConfig
from flowertune.config.plugins import bind, find, plugins
from flowertune.config.schema import Config, head_from_probe
from flowertune.errors import UsageError

_FLOWERS102 = ("jpg", "102flowers.tgz", "imagelabels.mat", "setid.mat")


def check(config: Config) -> None:
    """Raise UsageError for the first invalid value or combination."""
    problem = validate(config) or next(_bad_combinations(config), None)
    if problem is not None:
        raise UsageError(problem)
    for group, name in plugins():
        settings: Any = config.probe if group == "solver" else getattr(config, group)
        if name == (settings.solver if group == "solver" else settings.name):
            # refuse a broken plug-in now; an adapter gets its config as a whole
            find(group, name, {}) if group == "model" else bind(group, name, {}, settings)


def _bad_combinations(config: Config) -> Iterator[str]:
    backbone, augmentation, trainer = config.backbone, config.augmentation, config.trainer
    if config.data.protocol == "trainval":
        yield from _trainval_problems(config)
    if backbone.source == "directory" and not backbone.path:
        yield "backbone.path: missing; set backbone.path=DIR to an open_clip directory"
    if backbone.source != "directory" and backbone.path is not None:
        path = format_value(backbone.path)
        yield f"backbone.path={path}: only used with backbone=local; add backbone=local"
    root = getattr(config.data, "root", None)
    if root == "":
        yield "data.root: empty; set data.root=DIR"
    if config.data.name == "flowers102" and root is not None and _has_class_folders(root):
        yield f"data.root={format_value(root)}: holds class folders; did you mean data=folder?"
    if isinstance(config.head, TextHeadConfig) and not backbone.text:
        yield "head=text: needs a text encoder, but backbone.text=false"
    limit = f"must be at most trainer.epochs={trainer.epochs}"
    if trainer.warmup_epochs > trainer.epochs:
        yield f"trainer.warmup_epochs={trainer.warmup_epochs:g}: {limit}"
    if not config.model.trains_backbone:
        yield from _frozen_problems(config)
    if isinstance(augmentation, MixingConfig) and augmentation.mix_off_epochs > trainer.epochs:
        yield f"augmentation.mix_off_epochs={augmentation.mix_off_epochs}: {limit}"
    if violation := config.model.violation():
        yield violation
    if isinstance(augmentation, BasicAugmentationConfig):
        for name in ("scale", "ratio"):
            span = getattr(augmentation, name)
            if len(span) != 2 or span[0] > span[1]:
                yield f"augmentation.{name}={format_value(span)}: must be [min,max] with min <= max"
    if isinstance(config.loss, ClassBatches):
        if config.data.balanced:
            yield f"data.balanced=true: loss={config.loss.name} already draws classes evenly"
        if isinstance(augmentation, MixingConfig):
            yield (
                f"loss={config.loss.name}: needs unmixed images, but "
                f"augmentation={augmentation.name} mixes them; use augmentation=basic"
            )
        classes, samples = config.loss.classes_per_batch or 2, config.loss.samples_per_class
        if classes * samples > trainer.batch_size:
            yield (
                f"trainer.batch_size={trainer.batch_size}: must be at least {classes * samples}, "
                f"for {classes} classes (loss.classes_per_batch) with {samples} images each "
                "(loss.samples_per_class)"
            )


def _has_class_folders(root: str) -> bool:
    """Whether images lie in CLASS/ or train/CLASS/, without any file of Flowers-102."""
    root = os.path.expanduser(root)
    if any(os.path.exists(os.path.join(root, name)) for name in _FLOWERS102):
        return False
    names = (name for pattern in ("*/*.*", "*/*/*.*") for name in iglob(pattern, root_dir=root))
    return any(name.lower().endswith((".jpg", ".jpeg", ".png", ".webp")) for name in names)


def _frozen_problems(config: Config) -> Iterator[str]:
    method, trainer = config.model.name, config.trainer
    head = "linear" if config.model.is_probe else "text"
    if (config.head.name, config.augmentation.name, config.loss.name) != (head, "none", "ce"):
        yield (
            f"model={method}: needs head={head}, augmentation=none and loss=ce; "
            f"method={method} sets them"
        )
    assert isinstance(config.loss, CrossEntropyConfig)
    unused = {
        "head.from_probe=true": getattr(config.head, "from_probe", False),
        f"trainer.adapter_scales={format_value(trainer.adapter_scales)}": trainer.adapter_scales,
        f"trainer.ema={format_value(trainer.ema)}": trainer.ema is not None,
        f"loss.label_smoothing={config.loss.label_smoothing:g}": config.loss.label_smoothing,
        "head.standardize=false": not getattr(config.head, "standardize", True),
        "head.learn_scale=true": getattr(config.head, "learn_scale", False),
    }
    for text, is_set in unused.items():
        if is_set:
            yield f"{text}: not supported with model={method}"


def _trainval_problems(config: Config) -> Iterator[str]:
    fixes = []
    if config.probe.weight_decay is None:
        if head_from_probe(config):
            fixes.append("probe.weight_decay=NUMBER")
        elif config.baselines:
            fixes.append("probe.weight_decay=NUMBER (or baselines=false)")
    if config.trainer.patience is not None:
        fixes.append("trainer.patience=null")
    if config.trainer.adapter_scales:
        fixes.append("trainer.adapter_scales=[]")
    if fixes:
        yield f"data.protocol=trainval: has no val to select the best epoch; set {', '.join(fixes)}"

"""Validate a config: each value's range, and the combination of values."""

from collections.abc import Iterator
from typing import Any

from flowertune.config.augmentation import BasicAugmentationConfig, MixingConfig
from flowertune.config.fields import format_value, validate
from flowertune.config.head import TextHeadConfig
from flowertune.config.loss import ClassBatches, CrossEntropyConfig
from flowertune.config.plugins import bind, find, plugins
from flowertune.config.schema import Config, head_from_probe
from flowertune.errors import UsageError


def check(config: Config) -> None:
    """Raise UsageError for the first value out of its range, else for a bad combination."""
    problem = validate(config) or next(_bad_combinations(config), None)
    if problem is not None:
        raise UsageError(problem)
    for group, name in plugins():
        settings: Any = config.probe if group == "solver" else getattr(config, group)
        if name == (settings.solver if group == "solver" else settings.name):
            # a broken one is refused here; an adapter takes its config whole
            find(group, name, {}) if group == "model" else bind(group, name, {}, settings)


def _bad_combinations(config: Config) -> Iterator[str]:
    backbone, augmentation, trainer = config.backbone, config.augmentation, config.trainer
    if config.data.protocol == "trainval":
        yield from _trainval_problems(config)
    if backbone.source == "directory" and not backbone.path:
        yield "backbone.path: missing; give an open_clip directory (backbone.path=DIR)"
    if backbone.source != "directory" and backbone.path is not None:
        path = format_value(backbone.path)
        yield f"backbone.path={path}: is read with backbone=local alone; add that"
    if getattr(config.data, "root", None) == "":
        yield "data.root: empty; give a folder (data.root=DIR)"
    if isinstance(config.head, TextHeadConfig) and not backbone.text:
        yield "head=text: needs a text tower that means something; backbone.text is false"
    limit = f"at most trainer.epochs, which is {trainer.epochs}"
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
                yield f"augmentation.{name}={format_value(span)}: must be [least,most]"
    if isinstance(config.loss, ClassBatches):
        if isinstance(augmentation, MixingConfig):
            yield (
                f"loss={config.loss.name}: needs photos of one class each, and "
                f"augmentation={augmentation.name} mixes them; take augmentation=basic"
            )
        classes, samples = config.loss.classes_per_batch or 2, config.loss.samples_per_class
        if classes * samples > trainer.batch_size:
            yield (
                f"trainer.batch_size={trainer.batch_size}: {classes} classes "
                f"(loss.classes_per_batch) of {samples} photos (loss.samples_per_class) need "
                f"{classes * samples}"
            )


def _frozen_problems(config: Config) -> Iterator[str]:
    method = config.model.name
    head = "linear" if config.model.is_probe else "text"
    if (config.head.name, config.augmentation.name, config.loss.name) != (head, "none", "ce"):
        yield (
            f"model={method}: needs head={head}, augmentation=none and loss=ce, "
            f"which method={method} sets"
        )
    if getattr(config.head, "from_probe", False):
        yield f"head.from_probe=true: model={method} is a probe already"
    if config.trainer.adapter_scales:
        yield f"trainer.adapter_scales: model={method} has no adapter to scale"
    if config.trainer.ema is not None:
        yield f"trainer.ema={config.trainer.ema:g}: model={method} takes no steps; leave it out"
    assert isinstance(config.loss, CrossEntropyConfig)
    unused = {
        f"loss.label_smoothing={config.loss.label_smoothing:g}": config.loss.label_smoothing,
        "head.standardize=false": not getattr(config.head, "standardize", True),
        "head.learn_scale=true": getattr(config.head, "learn_scale", False),
    }
    for text, is_set in unused.items():
        if is_set:
            yield f"{text}: model={method} has no use for it; leave it out"


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
        yield f"data.protocol=trainval: has no val to choose or to stop by; give {', '.join(fixes)}"

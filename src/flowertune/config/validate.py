"""Validate a config: each value's range, and the combination of values."""

from typing import Any

from flowertune.config.augmentation import BasicAugmentationConfig, MixingConfig
from flowertune.config.fields import format_value, validate
from flowertune.config.head import LinearHeadConfig, TextHeadConfig
from flowertune.config.loss import ClassBatches, CrossEntropyConfig
from flowertune.config.plugins import bind, find, plugins
from flowertune.config.schema import Config, head_from_probe
from flowertune.errors import UsageError


def check(config: Config) -> None:
    """Check every value against its range, then the combination of values.

    Raises:
        UsageError: with the key, its value and what is allowed.
    """
    violation = validate(config)
    if violation is not None:
        raise UsageError(violation)
    _check_combination(config)
    for group, name in plugins():
        settings: Any = config.probe if group == "solver" else getattr(config, group)
        if name == (settings.solver if group == "solver" else settings.name):
            # a broken one is refused here; an adapter takes its config whole
            find(group, name, {}) if group == "model" else bind(group, name, {}, settings)


def _check_combination(config: Config) -> None:
    if config.data.protocol == "trainval":
        _check_trainval(config)
    if config.backbone.source == "directory" and not config.backbone.path:
        raise UsageError("backbone.path: missing; give an open_clip directory (backbone.path=DIR)")
    if config.backbone.source != "directory" and config.backbone.path is not None:
        raise UsageError(
            f"backbone.path={format_value(config.backbone.path)}: "
            "is read with backbone=local alone; add that"
        )
    if getattr(config.data, "root", None) == "":
        raise UsageError("data.root: empty; give a folder (data.root=DIR)")
    if isinstance(config.head, TextHeadConfig) and not config.backbone.text:
        raise UsageError(
            "head=text: needs a text tower that means something; backbone.text is false"
        )
    if config.trainer.warmup_epochs > config.trainer.epochs:
        raise UsageError(
            f"trainer.warmup_epochs={config.trainer.warmup_epochs:g}: "
            f"at most trainer.epochs, which is {config.trainer.epochs}"
        )
    if not config.model.trains_backbone:
        _check_frozen(config)
    if isinstance(config.augmentation, MixingConfig):
        off = config.augmentation.mix_off_epochs
        if off > config.trainer.epochs:
            raise UsageError(
                f"augmentation.mix_off_epochs={off}: "
                f"at most trainer.epochs, which is {config.trainer.epochs}"
            )
    if violation := config.model.violation():
        raise UsageError(violation)
    if isinstance(config.augmentation, BasicAugmentationConfig):
        for name in ("scale", "ratio"):
            span = getattr(config.augmentation, name)
            if len(span) != 2 or span[0] > span[1]:
                raise UsageError(f"augmentation.{name}={format_value(span)}: must be [least,most]")
    if isinstance(config.loss, ClassBatches):
        _check_class_batches(config, config.loss)


def _check_class_batches(config: Config, loss: ClassBatches) -> None:
    if isinstance(config.augmentation, MixingConfig):
        raise UsageError(
            f"loss={config.loss.name}: needs photos of one class each, and "
            f"augmentation={config.augmentation.name} mixes them; take augmentation=basic"
        )
    classes, samples = loss.classes_per_batch or 2, loss.samples_per_class
    if classes * samples > config.trainer.batch_size:
        raise UsageError(
            f"trainer.batch_size={config.trainer.batch_size}: {classes} classes "
            f"(loss.classes_per_batch) of {samples} photos (loss.samples_per_class) need "
            f"{classes * samples}"
        )


def _check_frozen(config: Config) -> None:
    """Check a model with a frozen backbone: it has one head and no augmentation."""
    method = config.model.name
    head = "linear" if config.model.is_probe else "text"
    if (config.head.name, config.augmentation.name, config.loss.name) != (head, "none", "ce"):
        raise UsageError(
            f"model={method}: needs head={head}, augmentation=none and loss=ce, "
            f"which method={method} sets"
        )
    if isinstance(config.head, LinearHeadConfig) and config.head.from_probe:
        raise UsageError(f"head.from_probe=true: model={method} is a probe already")
    if config.trainer.adapter_scales:
        raise UsageError(f"trainer.adapter_scales: model={method} has no adapter to scale")
    if config.trainer.ema is not None:
        raise UsageError(
            f"trainer.ema={config.trainer.ema:g}: model={method} takes no steps; leave it out"
        )
    assert isinstance(config.loss, CrossEntropyConfig)
    unused = {
        f"loss.label_smoothing={config.loss.label_smoothing:g}": config.loss.label_smoothing,
        "head.standardize=false": not getattr(config.head, "standardize", True),
        "head.learn_scale=true": getattr(config.head, "learn_scale", False),
    }
    for text, is_set in unused.items():
        if is_set:
            raise UsageError(f"{text}: model={method} has no use for it; leave it out")


def _check_trainval(config: Config) -> None:
    """Check protocol trainval: without val, nothing may be selected on it."""
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
        raise UsageError(
            f"data.protocol=trainval: has no val to choose or to stop by; give {', '.join(fixes)}"
        )

"""Configs of the training augmentations."""

from dataclasses import dataclass

from flowertune.config.fields import MISSING, config_field, option


@dataclass
class AugmentationConfig:
    """Random changes of a training image, drawn anew each time it is loaded."""

    name: str = config_field(MISSING, "augmentation")


def reads_train_pixels(settings: AugmentationConfig) -> bool:
    """Whether training reads images larger than evaluation's, to crop from."""
    return settings.name != "none"


@dataclass
class NoAugmentationConfig(AugmentationConfig):
    """No augmentation: the evaluation pixels."""

    name: str = option("none")


@dataclass
class BasicAugmentationConfig(AugmentationConfig):
    """Random resized crop, horizontal flip, color jitter."""

    name: str = option("basic")
    scale: list[float] = config_field(
        [0.35, 1.0], "least and most area of a crop", above=0, at_most=1
    )
    ratio: list[float] = config_field(
        [0.75, 4 / 3], "least and most width : height of a crop", above=0
    )
    interpolation: str = config_field("bicubic", "of the crop", choices=("bicubic", "bilinear"))
    flip: float = config_field(0.5, "probability of a horizontal flip", at_least=0, at_most=1)
    brightness: float = config_field(0.0, "factor from 1 - x to 1 + x", at_least=0, at_most=1)
    contrast: float = config_field(0.0, "factor from 1 - x to 1 + x", at_least=0, at_most=1)
    saturation: float = config_field(0.0, "factor from 1 - x to 1 + x", at_least=0, at_most=1)


@dataclass
class MixingConfig(BasicAugmentationConfig):
    """Basic, then images mixed in pairs: one coefficient per batch, random partners."""

    mix_off_epochs: int = config_field(0, "so many epochs at the end do not mix", at_least=0)


@dataclass
class MixUpConfig(MixingConfig):
    """Blended pairs of images (Zhang et al. 2018)."""

    name: str = option("mixup")
    alpha: float = config_field(0.2, "the coefficient is drawn from Beta(alpha, alpha)", above=0)


@dataclass
class CutMixConfig(MixingConfig):
    """A box of one image pasted into another (Yun et al. 2019): one box per batch."""

    name: str = option("cutmix")
    alpha: float = config_field(1.0, "the coefficient is drawn from Beta(alpha, alpha)", above=0)

"""Configs of training augmentation."""

from dataclasses import dataclass

from flowertune.config.fields import MISSING, config_field, option

_JITTER = "jitter x: multiply by a random factor in [1 - x, 1 + x]; 0 disables it"
_MIXING = "parameter of Beta(alpha, alpha), from which the mixing coefficient is drawn"


@dataclass
class AugmentationConfig:
    """Random augmentation of training images, redrawn on every load."""

    name: str = config_field(MISSING, "name of the augmentation")


def reads_train_pixels(settings: AugmentationConfig) -> bool:
    """Whether training crops from images larger than those of evaluation."""
    return settings.name != "none"


@dataclass
class NoAugmentationConfig(AugmentationConfig):
    """No augmentation: training uses the evaluation pixels."""

    name: str = option("none")


@dataclass
class BasicAugmentationConfig(AugmentationConfig):
    """Random resized crop, horizontal flip, color jitter."""

    name: str = option("basic")
    scale: list[float] = config_field(
        [0.35, 1.0], "[min,max] crop area as a fraction of the image", above=0, at_most=1
    )
    ratio: list[float] = config_field(
        [0.75, 4 / 3], "[min,max] width / height of the crop", above=0
    )
    interpolation: str = config_field(
        "bicubic", "interpolation for resizing the crop", choices=("bicubic", "bilinear")
    )
    flip: float = config_field(0.5, "probability of a horizontal flip", at_least=0, at_most=1)
    brightness: float = config_field(0.0, f"brightness {_JITTER}", at_least=0, at_most=1)
    contrast: float = config_field(0.0, f"contrast {_JITTER}", at_least=0, at_most=1)
    saturation: float = config_field(0.0, f"saturation {_JITTER}", at_least=0, at_most=1)


@dataclass
class MixingConfig(BasicAugmentationConfig):
    """Basic augmentation, then mixing of random image pairs with one coefficient per batch."""

    mix_off_epochs: int = config_field(0, "number of final epochs without mixing", at_least=0)


@dataclass
class MixUpConfig(MixingConfig):
    """Blends of two images (Zhang et al. 2018)."""

    name: str = option("mixup")
    alpha: float = config_field(0.2, _MIXING, above=0)


@dataclass
class CutMixConfig(MixingConfig):
    """A box of one image pasted into another, one box per batch (Yun et al. 2019)."""

    name: str = option("cutmix")
    alpha: float = config_field(1.0, _MIXING, above=0)

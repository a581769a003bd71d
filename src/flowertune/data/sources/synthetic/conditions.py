"""Conditions of photographing, which differ between pretraining and the downstream task."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """Photo conditions. Ranges are (least, most); light and colors are factors on [0, 1]."""

    size: float  # factor on the flowers' radius: how near the camera is
    spread: float  # how far a plant's colors are from the named ones
    strangers: float  # probability of another plant's flower at the edge
    hidden: float  # probability of a leaf in front
    brightness: tuple[float, float]
    cast: tuple[float, float, float]  # the light's color
    blur: tuple[int, int]  # index into the blurs; the upper one is excluded
    noise: tuple[float, float]  # standard deviation


# The downstream task: in the wild, towards the evening, in low warm light and with more in front.
# This gap is what is left to learn for adapters: without it the tiny CLIP's frozen features would
# be nearly as good as they can become.
EVENING = Conditions(
    size=1.0,
    spread=0.07,
    strangers=0.3,
    hidden=0.5,
    brightness=(0.35, 0.8),
    cast=(1.14, 0.92, 0.65),
    blur=(0, 12),
    noise=(0.005, 0.03),
)

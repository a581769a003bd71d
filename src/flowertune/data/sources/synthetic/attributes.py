"""Attributes of a drawn flower, their values, and how they are sampled."""

from dataclasses import dataclass

import numpy as np

PETALS = {3: "three", 4: "four", 5: "five", 6: "six", 8: "eight", 12: "twelve"}
SHAPES = ("round", "oval", "pointed", "notched", "narrow", "frilled")
COLORS = ("white", "yellow", "orange", "red", "pink", "purple", "blue")
PATTERNS = ("plain", "rimmed", "spotted", "striped", "throat")
CENTERS = ("disc", "ring", "stamens")
CENTER_SIZES = ("small", "large")
CENTER_COLORS = ("yellow", "brown", "green", "white", "black")
GROWTHS = ("alone", "pair", "cluster", "spike")

VALUES: dict[str, tuple[object, ...]] = {
    "petals": tuple(PETALS),
    "shape": SHAPES,
    "color": COLORS,
    "pattern": PATTERNS,
    "second_color": (None, *COLORS),
    "center": CENTERS,
    "center_size": CENTER_SIZES,
    "center_color": CENTER_COLORS,
    "growth": GROWTHS,
}


@dataclass(frozen=True)
class Attributes:
    """Attributes that a species fixes. `second_color` is None for plain petals, and only then."""

    petals: int
    shape: str
    color: str
    pattern: str
    second_color: str | None
    center: str
    center_size: str
    center_color: str
    growth: str

    @property
    def main(self) -> tuple[int, str, str, str, str, str]:
        """Attributes that tell species apart at sight. Pretraining leaves these combinations out.

        Coarser than the whole on purpose: a flower that differs from a species only in its second
        color or in the kind and size of its center counts as that species and is left out too.
        """
        looks = (self.petals, self.shape, self.color, self.pattern)
        return (*looks, self.center_color, self.growth)


def _pick(values: tuple[str, ...], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def sample_attributes(
    rng: np.random.Generator, held_out: frozenset[tuple[int, str, str, str, str, str]]
) -> Attributes:
    """Sample attributes uniformly, except for the `main` combinations in `held_out`."""
    while True:
        color = _pick(COLORS, rng)
        pattern = _pick(PATTERNS, rng)
        other_colors = tuple(other for other in COLORS if other != color)
        attributes = Attributes(
            petals=tuple(PETALS)[int(rng.integers(len(PETALS)))],
            shape=_pick(SHAPES, rng),
            color=color,
            pattern=pattern,
            second_color=None if pattern == "plain" else _pick(other_colors, rng),
            center=_pick(CENTERS, rng),
            center_size=_pick(CENTER_SIZES, rng),
            center_color=_pick(CENTER_COLORS, rng),
            growth=_pick(GROWTHS, rng),
        )
        if attributes.main not in held_out:
            return attributes

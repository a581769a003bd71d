"""Attributes of a drawn flower, their values, and how they are sampled."""

from dataclasses import dataclass
from typing import Any

import numpy as np

PETALS = {3: "three", 4: "four", 5: "five", 6: "six", 8: "eight", 12: "twelve"}
COLORS = ("white", "yellow", "orange", "red", "pink", "purple", "blue")

VALUES: dict[str, tuple[Any, ...]] = {
    "petals": tuple(PETALS),
    "shape": ("round", "oval", "pointed", "notched", "narrow", "frilled"),
    "color": COLORS,
    "pattern": ("plain", "rimmed", "spotted", "striped", "throat"),
    "second_color": (None, *COLORS),
    "center": ("disc", "ring", "stamens"),
    "center_size": ("small", "large"),
    "center_color": ("yellow", "brown", "green", "white", "black"),
    "growth": ("alone", "pair", "cluster", "spike"),
}
Looks = tuple[int, str, str, str, str, str]


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
    def main(self) -> Looks:
        """Attributes that tell species apart at sight. Pretraining leaves these combinations out.

        Coarser than the whole on purpose: a flower that differs from a species only in its second
        color or in the kind and size of its center counts as that species and is left out too.
        """
        looks = (self.petals, self.shape, self.color, self.pattern)
        return (*looks, self.center_color, self.growth)


def _pick(values: tuple[Any, ...], rng: np.random.Generator) -> Any:
    return values[int(rng.integers(len(values)))]


def sample_attributes(rng: np.random.Generator, held_out: frozenset[Looks]) -> Attributes:
    """Sample attributes uniformly, except for the `main` combinations in `held_out`."""
    while True:
        color = _pick(COLORS, rng)
        pattern = _pick(VALUES["pattern"], rng)
        other_colors = tuple(other for other in COLORS if other != color)
        attributes = Attributes(
            petals=_pick(VALUES["petals"], rng),
            shape=_pick(VALUES["shape"], rng),
            color=color,
            pattern=pattern,
            second_color=None if pattern == "plain" else _pick(other_colors, rng),
            center=_pick(VALUES["center"], rng),
            center_size=_pick(VALUES["center_size"], rng),
            center_color=_pick(VALUES["center_color"], rng),
            growth=_pick(VALUES["growth"], rng),
        )
        if attributes.main not in held_out:
            return attributes

"""What a drawn flower can look like: the attributes, their values, and how they are drawn."""

from dataclasses import astuple, dataclass

import numpy as np

PETALS = {3: "three", 4: "four", 5: "five", 6: "six", 8: "eight", 12: "twelve"}
SHAPES = ("round", "oval", "pointed", "notched", "narrow", "frilled")
COLOURS = ("white", "yellow", "orange", "red", "pink", "purple", "blue")
PATTERNS = ("plain", "rimmed", "spotted", "striped", "throat")
CENTRES = ("disc", "ring", "stamens")
CENTRE_SIZES = ("small", "large")
CENTRE_COLOURS = ("yellow", "brown", "green", "white", "black")
GROWTHS = ("alone", "pair", "cluster", "spike")

VALUES: dict[str, tuple[object, ...]] = {
    "petals": tuple(PETALS),
    "shape": SHAPES,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "second_colour": (None, *COLOURS),
    "centre": CENTRES,
    "centre_size": CENTRE_SIZES,
    "centre_colour": CENTRE_COLOURS,
    "growth": GROWTHS,
}


@dataclass(frozen=True)
class Attributes:
    """Everything that a species fixes. `second_colour` is None for plain petals, and only then."""

    petals: int
    shape: str
    colour: str
    pattern: str
    second_colour: str | None
    centre: str
    centre_size: str
    centre_colour: str
    growth: str

    @property
    def main(self) -> tuple[int, str, str, str, str, str]:
        """What tells species apart at a glance. Pretraining leaves these combinations out.

        Coarser than the whole on purpose: a flower that differs from a species only in its second
        colour or in the kind and size of its centre counts as that species and is left out too.
        """
        return (
            self.petals,
            self.shape,
            self.colour,
            self.pattern,
            self.centre_colour,
            self.growth,
        )

    def codes(self) -> tuple[int, ...]:
        """The index of each value in VALUES, in that order."""
        return tuple(
            values.index(value)
            for values, value in zip(VALUES.values(), astuple(self), strict=True)
        )


def _pick(values: tuple[str, ...], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def sample_attributes(
    rng: np.random.Generator, held_out: frozenset[tuple[int, str, str, str, str, str]]
) -> Attributes:
    """Attributes drawn uniformly, except that no `main` combination in `held_out` comes out."""
    while True:
        colour = _pick(COLOURS, rng)
        pattern = _pick(PATTERNS, rng)
        others = tuple(other for other in COLOURS if other != colour)
        drawn = Attributes(
            petals=tuple(PETALS)[int(rng.integers(len(PETALS)))],
            shape=_pick(SHAPES, rng),
            colour=colour,
            pattern=pattern,
            second_colour=None if pattern == "plain" else _pick(others, rng),
            centre=_pick(CENTRES, rng),
            centre_size=_pick(CENTRE_SIZES, rng),
            centre_colour=_pick(CENTRE_COLOURS, rng),
            growth=_pick(GROWTHS, rng),
        )
        if drawn.main not in held_out:
            return drawn

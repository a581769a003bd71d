"""Attributes of a flower, sentences about them, and the species: five families of four.

Within a family a species differs from the next in one or two attributes, so that a model has to
look at petals and centers and not at color alone. The names are invented.
"""

from collections.abc import Sequence
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
# The fields of Attributes that each part of a caption states.
PARTS = {
    "color": ("color",),
    "petals": ("petals",),
    "shape": ("shape",),
    "pattern": ("pattern", "second_color"),
    "center": ("center", "center_size", "center_color"),
    "growth": ("growth",),
}

_CENTER_WORDS = {"disc": "a {} {} centre", "ring": "a {} {} ring", "stamens": "{} {} stamens"}
_GROWTH_WORDS = {
    "alone": "growing alone",
    "pair": "growing in a pair",
    "cluster": "growing in a cluster",
    "spike": "growing on a spike",
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


def sample_attributes(rng: np.random.Generator, held_out: frozenset[Looks]) -> Attributes:
    """Sample attributes uniformly, except for the `main` combinations in `held_out`."""

    def pick(values: Sequence[Any]) -> Any:
        return values[int(rng.integers(len(values)))]

    while True:
        looks = {key: pick(VALUES[key]) for key in ("color", "pattern", "petals", "shape")}
        others = [color for color in COLORS if color != looks["color"]]
        second_color = None if looks["pattern"] == "plain" else pick(others)
        center = {key: pick(VALUES[key]) for key in ("center", "center_size", "center_color")}
        growth = pick(VALUES["growth"])
        attributes = Attributes(second_color=second_color, growth=growth, **looks, **center)
        if attributes.main not in held_out:
            return attributes


def _with_article(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def sentence(attributes: Attributes, parts: frozenset[str]) -> str:
    """Write a sentence that states `parts` (keys of PARTS) of a flower and nothing else."""
    flower = f"{attributes.color} flower" if "color" in parts else "flower"
    petals = []
    if "petals" in parts:
        petals.append(PETALS[attributes.petals])
    if "pattern" in parts and attributes.pattern == "plain":
        petals.append("plain")
    if "shape" in parts:
        petals.append(attributes.shape)
    colored = "pattern" in parts and attributes.pattern in ("rimmed", "spotted", "striped")
    details = []
    if petals or colored:
        phrase = " ".join([*petals, "petals"])
        if colored:
            phrase += f" {attributes.pattern} with {attributes.second_color}"
        details.append(phrase)
    if "pattern" in parts and attributes.pattern == "throat":
        details.append(_with_article(f"{attributes.second_color} throat"))
    if "center" in parts:
        phrase = _CENTER_WORDS[attributes.center]
        details.append(phrase.format(attributes.center_size, attributes.center_color))
    text = _with_article(flower)
    if details:
        joined = [", ".join(details[:-1]), details[-1]] if details[1:] else details
        text += " with " + " and ".join(joined)
    if "growth" in parts:
        text += ", " + _GROWTH_WORDS[attributes.growth]
    return text


def description(attributes: Attributes) -> str:
    """Describe every attribute in one line, in the words of the captions."""
    return sentence(attributes, frozenset(PARTS))


# name: the fields of Attributes in their order; "-" is None
_TABLE = """
# Stars: pink, alone; count, shape and rim differ.
dawn star:   5  pointed pink   plain   -      disc    small yellow alone
dusk star:   6  pointed pink   plain   -      disc    small yellow alone
frost star:  5  pointed pink   rimmed  white  disc    small yellow alone
dawn cup:    5  round   pink   plain   -      disc    small yellow alone
# Daisies: many petals around a large disc; colors of petals and disc differ.
moon daisy:  12 narrow  white  plain   -      disc    large yellow alone
ember daisy: 12 narrow  white  plain   -      disc    large brown  alone
sun daisy:   12 narrow  yellow plain   -      disc    large brown  alone
honey daisy: 8  oval    yellow plain   -      disc    large brown  alone
# Lilies: orange and red, in pairs; spots, stripes and throats differ.
tiger lily:  6  pointed orange spotted red    stamens large brown  pair
flame lily:  6  pointed orange striped red    stamens large brown  pair
ruby lily:   6  pointed red    throat  yellow stamens large brown  pair
coral lily:  6  oval    red    throat  yellow stamens large green  pair
# Phloxes: blue and purple clusters; count, notch and throat differ.
sky phlox:   5  round   blue   throat  white  ring    small yellow cluster
night phlox: 5  round   purple throat  white  ring    small yellow cluster
heart phlox: 5  notched purple plain   -      ring    small white  cluster
cross phlox: 4  notched purple plain   -      ring    small white  cluster
# Bells: white, blue and purple spikes; count, frill and rim differ.
snow bell:   3  frilled white  rimmed  purple disc    small green  spike
ink bell:    3  frilled purple rimmed  white  disc    small green  spike
lake bell:   4  oval    blue   plain   -      disc    small white  spike
mist bell:   4  oval    blue   striped white  disc    small white  spike
"""


def _read(row: str) -> tuple[str, Attributes]:
    name, _, values = row.partition(":")
    petals, shape, color, pattern, second_color, *rest = values.split()
    second = None if second_color == "-" else second_color
    return name, Attributes(int(petals), shape, color, pattern, second, *rest)


SPECIES = dict(_read(row) for row in _TABLE.strip().split("\n") if not row.startswith("#"))
HELD_OUT = frozenset(attributes.main for attributes in SPECIES.values())

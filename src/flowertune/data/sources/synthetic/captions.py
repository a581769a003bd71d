"""Sentences about a flower's attributes."""

from flowertune.data.sources.synthetic.species import PETALS, Attributes

# The fields of Attributes that each part of a caption states.
PARTS = {
    "color": ("color",),
    "petals": ("petals",),
    "shape": ("shape",),
    "pattern": ("pattern", "second_color"),
    "center": ("center", "center_size", "center_color"),
    "growth": ("growth",),
}

_PATTERN_WORDS = {"rimmed": "rimmed with", "spotted": "spotted with", "striped": "striped with"}
_CENTER_WORDS = {"disc": "a {} {} centre", "ring": "a {} {} ring", "stamens": "{} {} stamens"}
_GROWTH_WORDS = {
    "alone": "growing alone",
    "pair": "growing in a pair",
    "cluster": "growing in a cluster",
    "spike": "growing on a spike",
}


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
    colored = "pattern" in parts and attributes.pattern in _PATTERN_WORDS
    details = []
    if petals or colored:
        phrase = " ".join([*petals, "petals"])
        if colored:
            phrase += f" {_PATTERN_WORDS[attributes.pattern]} {attributes.second_color}"
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

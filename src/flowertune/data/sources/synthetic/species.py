"""The species of the downstream task: five families of four, each a neighbor of the others.

Within a family a species differs from the next in one or two attributes, so that a model has to
look at petals and centers and not at color alone. The names are invented.
"""

from flowertune.data.sources.synthetic.attributes import Attributes

SPECIES: dict[str, Attributes] = {
    # Stars: pink, alone; count, shape and rim differ.
    "dawn star": Attributes(
        5, "pointed", "pink", "plain", None, "disc", "small", "yellow", "alone"
    ),
    "dusk star": Attributes(
        6, "pointed", "pink", "plain", None, "disc", "small", "yellow", "alone"
    ),
    "frost star": Attributes(
        5, "pointed", "pink", "rimmed", "white", "disc", "small", "yellow", "alone"
    ),
    "dawn cup": Attributes(5, "round", "pink", "plain", None, "disc", "small", "yellow", "alone"),
    # Daisies: many petals around a large disc; colors of petals and disc differ.
    "moon daisy": Attributes(
        12, "narrow", "white", "plain", None, "disc", "large", "yellow", "alone"
    ),
    "ember daisy": Attributes(
        12, "narrow", "white", "plain", None, "disc", "large", "brown", "alone"
    ),
    "sun daisy": Attributes(
        12, "narrow", "yellow", "plain", None, "disc", "large", "brown", "alone"
    ),
    "honey daisy": Attributes(
        8, "oval", "yellow", "plain", None, "disc", "large", "brown", "alone"
    ),
    # Lilies: orange and red, in pairs; spots, stripes and throats differ.
    "tiger lily": Attributes(
        6, "pointed", "orange", "spotted", "red", "stamens", "large", "brown", "pair"
    ),
    "flame lily": Attributes(
        6, "pointed", "orange", "striped", "red", "stamens", "large", "brown", "pair"
    ),
    "ruby lily": Attributes(
        6, "pointed", "red", "throat", "yellow", "stamens", "large", "brown", "pair"
    ),
    "coral lily": Attributes(
        6, "oval", "red", "throat", "yellow", "stamens", "large", "green", "pair"
    ),
    # Phloxes: blue and purple clusters; count, notch and throat differ.
    "sky phlox": Attributes(
        5, "round", "blue", "throat", "white", "ring", "small", "yellow", "cluster"
    ),
    "night phlox": Attributes(
        5, "round", "purple", "throat", "white", "ring", "small", "yellow", "cluster"
    ),
    "heart phlox": Attributes(
        5, "notched", "purple", "plain", None, "ring", "small", "white", "cluster"
    ),
    "cross phlox": Attributes(
        4, "notched", "purple", "plain", None, "ring", "small", "white", "cluster"
    ),
    # Bells: white, blue and purple spikes; count, frill and rim differ.
    "snow bell": Attributes(
        3, "frilled", "white", "rimmed", "purple", "disc", "small", "green", "spike"
    ),
    "ink bell": Attributes(
        3, "frilled", "purple", "rimmed", "white", "disc", "small", "green", "spike"
    ),
    "lake bell": Attributes(4, "oval", "blue", "plain", None, "disc", "small", "white", "spike"),
    "mist bell": Attributes(
        4, "oval", "blue", "striped", "white", "disc", "small", "white", "spike"
    ),
}

HELD_OUT = frozenset(attributes.main for attributes in SPECIES.values())

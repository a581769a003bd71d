"""The species of the downstream task: five families of four, each a neighbor of the others.

Within a family a species differs from the next in one or two attributes, so that a model has to
look at petals and centers and not at color alone. The names are invented.
"""

from flowertune.data.sources.synthetic.attributes import Attributes

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

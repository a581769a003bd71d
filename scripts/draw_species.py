"""Draw a contact sheet of the synthetic species, and say how many pictures a second are drawn.

python scripts/draw_species.py --output docs/species.png
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image

from flowertune.data.sources.synthetic.dataset import picture
from flowertune.data.sources.synthetic.scene import EVENING, draw_picture
from flowertune.data.sources.synthetic.species import SPECIES, sample_attributes

GAP = 2  # pixels between pictures


def contact_sheet(seed: int, pictures: int, columns: int) -> Image.Image:
    """`pictures` of each species side by side, `columns` species a row."""
    strips = []
    for name in SPECIES:
        drawn = [picture(seed, "train", name, number) for number in range(pictures)]
        padded = [np.pad(each, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for each in drawn]
        strips.append(np.concatenate(padded, axis=1))
    rows = [
        np.concatenate(strips[first : first + columns], axis=1)
        for first in range(0, len(strips), columns)
    ]
    return Image.fromarray(np.concatenate(rows, axis=0))


def pictures_per_second(count: int) -> float:
    """Pictures of random attributes drawn in one second of CPU time by this process."""
    rng = np.random.default_rng(0)
    shown = [sample_attributes(rng, frozenset()) for _ in range(count)]
    start = time.process_time()
    for attributes in shown:
        draw_picture(attributes, EVENING, rng)
    return count / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the PNG file to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=3, help="of each species")
    parser.add_argument("--columns", type=int, default=4, help="species a row")
    parser.add_argument("--count", type=int, default=1000, help="pictures to time; 0: none")
    arguments = parser.parse_args()
    sheet = contact_sheet(arguments.seed, arguments.pictures, arguments.columns)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256).save(arguments.output, optimize=True)  # a third of the size in full color
    print(f"{arguments.output}: {sheet.width} x {sheet.height}", list(SPECIES))
    if arguments.count:
        speed = pictures_per_second(arguments.count)
        print(f"{speed:.0f} pictures of 64 x 64 a second of CPU time")


if __name__ == "__main__":
    main()

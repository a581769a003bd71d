"""Measure how many modified copies `flowertune data check` finds, and list the duplicates.

    python benchmarks/near_duplicates.py PHOTOS      # a minute for 1,000 images

Modifies every image below PHOTOS in several ways, and prints for each way the share of copies that
are found to duplicate their originals. Then it lists the duplicates among the originals, to check
by eye.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from flowertune.data.cache.decode import parallel_map
from flowertune.data.image import decode_image, image_bytes
from flowertune.data.quality.near_duplicates import PerceptualHash, find_duplicates, perceptual_hash

Copy = Callable[[Image.Image], Image.Image]


def resized(width: float, height: float) -> Copy:
    """Resize by these factors."""
    return lambda image: image.resize((round(image.width * width), round(image.height * height)))


def recompressed(quality: int) -> Copy:
    """Compress as JPEG of this quality."""

    def copy(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return decode_image(file.getvalue())

    return copy


def cropped(share: float, left: float) -> Copy:
    """Crop `share` of each side, of which the share `left` is cut at the left and the top."""

    def copy(image: Image.Image) -> Image.Image:
        width, height = image.size
        x, y = round(width * share * left), round(height * share * left)
        return image.crop((x, y, x + round(width * (1 - share)), y + round(height * (1 - share))))

    return copy


def mirrored(image: Image.Image) -> Image.Image:
    """Flip left and right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


COPIES: dict[str, Sequence[Copy]] = {
    "half as large": [resized(0.5, 0.5)],
    "twice as large": [resized(2, 2)],
    "squashed to half its width": [resized(0.5, 1)],
    "JPEG of quality 50": [recompressed(50)],
    "JPEG of quality 20": [recompressed(20)],
    "brighter by a fifth": [lambda image: ImageEnhance.Brightness(image).enhance(1.2)],
    "mirrored": [mirrored],
    "3% cropped around the middle": [cropped(0.03, 0.5)],
    "the same, half as large, quality 50, mirrored": [
        cropped(0.03, 0.5), resized(0.5, 0.5), recompressed(50), mirrored,
    ],
    "3% cropped from one corner": [cropped(0.03, 0)],
    "6% cropped around the middle": [cropped(0.06, 0.5)],
    "10% cropped around the middle": [cropped(0.1, 0.5)],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    folder = parser.parse_args().photos
    paths = sorted(path for path in folder.rglob("*") if path.is_file())

    def spectra(path: Path) -> list[PerceptualHash]:
        """Hashes of the image and of each copy."""
        pictures = [photo := decode_image(image_bytes(path))]
        for steps in COPIES.values():
            image = photo
            for step in steps:
                image = step(image)
            pictures.append(image)
        return [perceptual_hash(picture) for picture in pictures]

    originals, *copies = zip(*parallel_map(spectra, paths), strict=True)
    for name, of_copies in zip(COPIES, copies, strict=True):
        groups = find_duplicates([*originals, *of_copies], lambda *_: None)
        found = groups[: len(paths)] == groups[len(paths) :]
        print(f"{name:<45} {found.mean():7.2%}")

    groups = find_duplicates(originals, lambda *_: None)
    for group in np.unique(groups):
        members = (groups == group).nonzero()[0]
        if len(members) > 1:
            print("duplicates:", *(paths[place].relative_to(folder) for place in members))


if __name__ == "__main__":
    main()

"""Read the images of a finished run from their original place, without downloading."""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowertune.config.data import DataConfig
from flowertune.data.cache.decode import parallel_map, quiet_pil
from flowertune.data.cache_dir import cache_root
from flowertune.data.factory import image_root
from flowertune.data.image import (
    Preprocessing,
    UnreadableImageError,
    decode_image,
    eval_pixels,
    image_bytes,
)
from flowertune.runs.directory import RunImage


def run_image_root(data: DataConfig) -> Path:
    """Root folder of the paths in a run's photos.csv; it may no longer exist."""
    return image_root(data, cache_root())


def read_unchanged(
    images: Sequence[RunImage], root: Path, preprocessing: Preprocessing
) -> Generator[NDArray[np.uint8] | UnreadableImageError, None, None]:
    """Yield the pixels (3, H, W) of each image, or an error if it is missing or has changed."""

    def decode(image: RunImage) -> NDArray[np.uint8] | UnreadableImageError:
        try:
            data = image_bytes(root / image.path)
            if hashlib.sha256(data).hexdigest() != image.sha256:
                return UnreadableImageError("the image has changed since the run")
            return eval_pixels(decode_image(data), preprocessing)
        except UnreadableImageError as error:
            return error

    with quiet_pil(), closing(parallel_map(decode, images)) as decoded:
        yield from decoded

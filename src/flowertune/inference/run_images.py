"""The photos that a finished run had, read again from where they lay: nothing is fetched."""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowertune.config.data import DataConfig
from flowertune.data.cache.decode import in_order, quiet_pil
from flowertune.data.cache_dir import cache_root
from flowertune.data.factory import photo_root
from flowertune.data.image import NotAPhoto, Preprocessing, eval_pixels, photo_bytes, read_photo
from flowertune.runs.directory import PhotoOfRun


def root_of(data: DataConfig) -> Path:
    """What the paths in a run's photos.csv begin at, whether or not it is still there."""
    return photo_root(data, cache_root())


def as_they_were(
    photos: Sequence[PhotoOfRun], root: Path, preprocessing: Preprocessing
) -> Generator[NDArray[np.uint8] | NotAPhoto, None, None]:
    """Evaluation pixels (3, H, W) of each, in order, or why there are none.

    There are none where a photo is gone, or is another picture than the run had.
    """

    def decoded(photo: PhotoOfRun) -> NDArray[np.uint8] | NotAPhoto:
        try:
            data = photo_bytes(root / photo.path)
            if hashlib.sha256(data).hexdigest() != photo.sha256:
                return NotAPhoto("another picture than the run had")
            return eval_pixels(read_photo(data), preprocessing)
        except NotAPhoto as reason:
            return reason

    with quiet_pil(), closing(in_order(decoded, photos)) as found:
        yield from found

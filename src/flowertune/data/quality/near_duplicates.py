"""Find duplicate images: resized, recompressed, slightly cropped or mirrored.

A perceptual hash (pHash: the signs of the lowest frequencies of the cosine transform; Zauner,
Implementation and Benchmarking of Perceptual Image Hash Functions, 2010) finds candidates. The
correlation of the next higher frequencies, which the hash does not use, decides.

Measured on copies of the 1,020 images of Oxford Flowers-17 (`benchmarks/near_duplicates.py`): finds
all copies that were halved or doubled in size, squashed to half their width, saved as JPEG of
quality 50 or 20, mirrored, or cropped by 3% around the center, and all with four of these changes;
99.7% if made brighter by a fifth, 98% if cropped by 3% from one corner or by 6% around the
center, 49% at 10%. Among the 519,690 pairs of originals it reports 40, all of which show the same
image: no false alarm. Among small, noisy drawings a pair in millions may be a false alarm.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowertune.data.dataset import Progress

SIDE = 32  # pixels; side of the reduced image that is transformed
HASH_SIDE = 8  # frequencies per direction whose signs are the hash, without the mean: 63 bits
GRAY_SIDE = 16  # frequencies per direction that are kept of the brightness
COLOR_SIDE = 4  # and of the colors

MAX_HAMMING_DISTANCE = 12  # bits; two unrelated images differ in 32, std 4
MIN_CORRELATION = 0.5
# Root mean square over the image, in levels of 255. The same shape in another color is another
# image: a shirt that is sold in two colors.
MAX_COLOR_DISTANCE = 12.0
# Norm of an image's detail, in levels. Images of Flowers-17 have 230 or more; with less than this
# an image is a plain surface, and noise would be compared with noise.
MIN_DETAIL = 20.0

BLOCK = 2048  # images; a block's products stay in the CPU cache

# Mirroring an image flips the sign of its odd horizontal frequencies.
MIRROR_SIGNS = np.where(np.arange(GRAY_SIDE) % 2, -1, 1).astype(np.float32)

Floats = NDArray[np.float32]


class PerceptualHash(NamedTuple):
    """Lowest frequencies of an image squashed to a square (DCT-II, orthonormal).

    `gray` (16, 16) is the brightness, `color` (2, 4, 4) the blue and red differences (YCbCr); rows
    are vertical frequencies, columns are horizontal ones.
    """

    gray: Floats
    color: Floats


class _HashTable(NamedTuple):
    """Hashes of N images: (N, 63) of 1 and -1, (N, 256) of unit length, (N, 32)."""

    hashes: Floats
    details: Floats
    colors: Floats

    def part(self, indices: slice | NDArray[np.intp]) -> "_HashTable":
        return _HashTable(*(array[indices] for array in self))


def perceptual_hash(image: Image.Image) -> PerceptualHash:
    """Hash an RGB image of any size."""
    # takes 0.1 s to import, and only this command needs it
    from scipy.fft import dctn

    small = image.resize((SIDE, SIDE), Image.Resampling.BOX).convert("YCbCr")
    planes = np.asarray(small, dtype=np.float32).transpose(2, 0, 1)
    frequencies = dctn(planes, axes=(1, 2), norm="ortho").astype(np.float32)
    return PerceptualHash(
        frequencies[0, :GRAY_SIDE, :GRAY_SIDE].copy(),
        frequencies[1:, :COLOR_SIDE, :COLOR_SIDE].copy(),
    )


def find_duplicates(hashes: Sequence[PerceptualHash], progress: Progress) -> NDArray[np.int32]:
    """Group N images by content: (N,) group numbers, the same for duplicates.

    Two images are duplicates if their hashes differ in few bits, their detail correlates and their
    colors are close, either directly or with one of them mirrored; so are two duplicates of a third
    image. All pairs are compared by matrix products: 50,000 images take seconds, and memory grows
    only with N.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(hashes)
    groups = np.arange(count, dtype=np.int32)
    gray = np.stack([image_hash.gray for image_hash in hashes])
    color = np.stack([image_hash.color for image_hash in hashes])
    table = _hash_table(gray, color)
    mirrored = _hash_table(gray * MIRROR_SIGNS, color * MIRROR_SIGNS[:COLOR_SIDE])
    blocks = [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]
    for done, rows in enumerate(blocks, start=1):
        for columns in blocks[done - 1 :]:
            for other in (table, mirrored):
                first, second = _find_matches(table.part(rows), other.part(columns))
                if len(first) > 0:
                    # the groups so far, as edges from each image to the first of its group
                    _, members, group = np.unique(groups, return_index=True, return_inverse=True)
                    starts = np.concatenate([np.arange(count), first + rows.start])
                    ends = np.concatenate([members[group], second + columns.start])
                    edges = coo_array((np.ones(len(ends), bool), (starts, ends)), (count, count))
                    _, groups = connected_components(edges, directed=False)
        progress("comparing images", min(done * BLOCK, count), count)
    return groups


def _hash_table(gray: Floats, color: Floats) -> _HashTable:
    """Build the table from gray (N, 16, 16) and color (N, 2, 4, 4)."""
    count = len(gray)
    lowest = gray[:, :HASH_SIDE, :HASH_SIDE].reshape(count, -1)[:, 1:]
    higher = gray.copy()
    higher[:, :HASH_SIDE, :HASH_SIDE] = 0
    higher = higher.reshape(count, -1)
    lengths = np.linalg.norm(higher, axis=1, keepdims=True)
    return _HashTable(
        hashes=np.where(lowest > 0, 1, -1).astype(np.float32),
        details=higher / np.maximum(lengths, MIN_DETAIL),
        colors=color.reshape(count, -1) / np.float32(SIDE),
    )


def _find_matches(a: _HashTable, b: _HashTable) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices in `a` and in `b` of each pair of duplicates."""
    # the product of two hashes is 63 minus twice the number of differing bits
    candidates = a.hashes @ b.hashes.T >= a.hashes.shape[1] - 2 * MAX_HAMMING_DISTANCE
    # the rest is computed for candidates only: usually few, at most one block
    first, second = candidates.any(axis=1).nonzero()[0], candidates.any(axis=0).nonzero()[0]
    a, b = a.part(first), b.part(second)
    matches = candidates[np.ix_(first, second)]
    matches &= a.details @ b.details.T >= MIN_CORRELATION
    # Euclidean distances, accurate to 0.01
    squares = (a.colors**2).sum(axis=1)[:, None] + (b.colors**2).sum(axis=1)
    squares -= 2 * a.colors @ b.colors.T
    matches &= np.sqrt(np.maximum(squares, 0)) <= MAX_COLOR_DISTANCE
    rows, columns = matches.nonzero()
    return first[rows], second[columns]

"""Find duplicate images: resized, recompressed, cropped a little, or mirrored.

A perceptual hash (pHash: the signs of the lowest frequencies of the cosine transform; Zauner,
Implementation and Benchmarking of Perceptual Image Hash Functions, 2010) finds candidates, and the
correlation of the next higher frequencies, of which the hash knows nothing, decides.

Photos of Oxford Flowers-17 were copied in several ways. All 1,020 copies are found that were halved
or doubled in size, squashed to half their width, saved as JPEG of quality 50 or 20, mirrored, or
cropped by 3 % around the middle, and all where four of these were done at once; 99.7 % where the
photo was made brighter by a fifth, 98 % where 3 % were cropped from one corner or 6 % around the
middle, 49 % at 10 %. Of the photos themselves 40 pairs among 519,690 are reported, and each shows
the same picture to the eye: there was no false alarm (`benchmarks/near_duplicates.py`). Of drawings
that are small and noisy, a pair among millions may be one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowertune.data.dataset import Progress

SIDE = 32  # pixels, of the small picture that is transformed
HASH_SIDE = 8  # frequencies in each direction whose signs are the hash, without the mean: 63 bits
GRAY_SIDE = 16  # frequencies in each direction that are kept of the brightness
COLOR_SIDE = 4

MAX_HAMMING_DISTANCE = 12  # bits; two unrelated photos differ in 32, give or take 4
MIN_CORRELATION = 0.5
# Levels of 255, root mean square over the picture. A form alone is not the same picture: a shirt
# that is sold in two colors.
MAX_COLOR_DISTANCE = 12.0
# Levels, of the detail all together. A photo of Flowers-17 has 230 or more; what has less than
# this is a plain surface, where noise would be compared with noise.
MIN_DETAIL = 20.0

BLOCK = 2048  # photos; a block's products stay in the processor's cache

# A mirrored picture has the odd horizontal frequencies with the other sign.
MIRROR_SIGNS = np.where(np.arange(GRAY_SIDE) % 2, -1, 1).astype(np.float32)

Floats = NDArray[np.float32]


class PerceptualHash(NamedTuple):
    """Lowest frequencies of an image that was squashed to a square (DCT-II, orthonormal).

    `gray` (16, 16) is its brightness, `color` (2, 4, 4) its blue and red differences (YCbCr); rows
    are vertical frequencies, columns horizontal ones.
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
    # a tenth of a second to import, which only this command should take
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

    Two pictures are the same where their hashes differ in few bits, their detail correlates and
    their colors are close, as they are or one of them mirrored; so are those that a third one
    joins. All pairs are compared, by matrix products: 50,000 pictures take seconds, and the memory
    grows with N alone.
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
                    # the groups so far, as edges from each picture to the first of its group
                    _, members, group = np.unique(groups, return_index=True, return_inverse=True)
                    starts = np.concatenate([np.arange(count), first + rows.start])
                    ends = np.concatenate([members[group], second + columns.start])
                    edges = coo_array((np.ones(len(ends), bool), (starts, ends)), (count, count))
                    _, groups = connected_components(edges, directed=False)
        progress("comparing photos", min(done * BLOCK, count), count)
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
    # a product of two hashes is 63 less twice the bits that differ
    candidates = a.hashes @ b.hashes.T >= a.hashes.shape[1] - 2 * MAX_HAMMING_DISTANCE
    # the rest for the few that are candidates, and for no more than a block where all are
    first, second = candidates.any(axis=1).nonzero()[0], candidates.any(axis=0).nonzero()[0]
    a, b = a.part(first), b.part(second)
    matches = candidates[np.ix_(first, second)]
    matches &= a.details @ b.details.T >= MIN_CORRELATION
    # Euclidean distances, to a hundredth
    squares = (a.colors**2).sum(axis=1)[:, None] + (b.colors**2).sum(axis=1)
    squares -= 2 * a.colors @ b.colors.T
    matches &= np.sqrt(np.maximum(squares, 0)) <= MAX_COLOR_DISTANCE
    rows, columns = matches.nonzero()
    return first[rows], second[columns]

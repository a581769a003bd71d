"""Photos that show the same picture: resized, recompressed, cropped a little, or mirrored.

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

from flowertune.data.cache.decode import Progress

SIDE = 32  # pixels, of the small picture that is transformed
HASHED = 8  # frequencies in each direction whose signs are the hash, without the mean: 63 bits
KEPT = 16  # frequencies in each direction that are kept of the brightness
KEPT_OF_COLOR = 4

LARGEST_DISTANCE = 12  # bits; two unrelated photos differ in 32, give or take 4
LEAST_CORRELATION = 0.5
# Levels of 255, root mean square over the picture. A form alone is not the same picture: a shirt
# that is sold in two colors.
LARGEST_COLOR_DISTANCE = 12.0
# Levels, of the detail all together. A photo of Flowers-17 has 230 or more; what has less than
# this is a plain surface, where noise would be compared with noise.
LEAST_DETAIL = 20.0

BLOCK = 2048  # photos; a block's products stay in the processor's cache

# A mirrored picture has the odd horizontal frequencies with the other sign.
MIRROR = np.where(np.arange(KEPT) % 2, -1, 1).astype(np.float32)

Floats = NDArray[np.float32]


class PerceptualHash(NamedTuple):
    """The lowest frequencies of a picture that was squashed to a square (DCT-II, orthonormal).

    `gray` (16, 16) is its brightness, `color` (2, 4, 4) its blue and red differences (YCbCr); rows
    are vertical frequencies, columns horizontal ones.
    """

    gray: Floats
    color: Floats


class _HashTable(NamedTuple):
    """What is compared of N pictures: (N, 63) of 1 and -1, (N, 256) of unit length, (N, 32)."""

    hashes: Floats
    details: Floats
    colors: Floats

    def part(self, places: slice | NDArray[np.intp]) -> "_HashTable":
        return _HashTable(*(each[places] for each in self))


def perceptual_hash(image: Image.Image) -> PerceptualHash:
    """Of an RGB picture of any size."""
    # a tenth of a second to import, which only this command should take
    from scipy.fft import dctn

    small = image.resize((SIDE, SIDE), Image.Resampling.BOX).convert("YCbCr")
    planes = np.asarray(small, dtype=np.float32).transpose(2, 0, 1)
    frequencies = dctn(planes, axes=(1, 2), norm="ortho").astype(np.float32)
    return PerceptualHash(
        frequencies[0, :KEPT, :KEPT].copy(),
        frequencies[1:, :KEPT_OF_COLOR, :KEPT_OF_COLOR].copy(),
    )


def find_duplicates(spectra: Sequence[PerceptualHash], progress: Progress) -> NDArray[np.int32]:
    """For each of N pictures the number (N,) of its group: same number, same picture.

    Two pictures are the same where their hashes differ in few bits, their detail correlates and
    their colors are close, as they are or one of them mirrored; so are those that a third one
    joins. All pairs are compared, by matrix products: 50,000 pictures take seconds, and the memory
    grows with N alone.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(spectra)
    groups = np.arange(count, dtype=np.int32)
    gray = np.stack([each.gray for each in spectra])
    color = np.stack([each.color for each in spectra])
    pictures = _hash_table(gray, color)
    mirrored = _hash_table(gray * MIRROR, color * MIRROR[:KEPT_OF_COLOR])
    blocks = [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]
    for done, rows in enumerate(blocks, start=1):
        for columns in blocks[done - 1 :]:
            for others in (pictures, mirrored):
                first, second = _alike(pictures.part(rows), others.part(columns))
                if len(first) > 0:
                    # the groups so far, as edges from each picture to the first of its group
                    starts = np.concatenate([np.arange(count), first + rows.start])
                    ends = np.concatenate([_first_of(groups), second + columns.start])
                    edges = coo_array((np.ones(len(ends), bool), (starts, ends)), (count, count))
                    _, groups = connected_components(edges, directed=False)
        progress("comparing photos", min(done * BLOCK, count), count)
    return groups


def _hash_table(gray: Floats, color: Floats) -> _HashTable:
    """From (N, 16, 16) and (N, 2, 4, 4)."""
    count = len(gray)
    lowest = gray[:, :HASHED, :HASHED].reshape(count, -1)[:, 1:]
    higher = gray.copy()
    higher[:, :HASHED, :HASHED] = 0
    higher = higher.reshape(count, -1)
    lengths = np.linalg.norm(higher, axis=1, keepdims=True)
    return _HashTable(
        hashes=np.where(lowest > 0, 1, -1).astype(np.float32),
        details=higher / np.maximum(lengths, LEAST_DETAIL),
        colors=color.reshape(count, -1) / np.float32(SIDE),
    )


def _alike(some: _HashTable, others: _HashTable) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Which of the one are the same picture as which of the other."""
    # a product of two hashes is 63 less twice the bits that differ
    near = some.hashes @ others.hashes.T >= some.hashes.shape[1] - 2 * LARGEST_DISTANCE
    # the rest for the few that are candidates, and for no more than a block where all are
    first, second = near.any(axis=1).nonzero()[0], near.any(axis=0).nonzero()[0]
    some, others = some.part(first), others.part(second)
    same = near[np.ix_(first, second)]
    same &= some.details @ others.details.T >= LEAST_CORRELATION
    same &= _distances(some.colors, others.colors) <= LARGEST_COLOR_DISTANCE
    rows, columns = same.nonzero()
    return first[rows], second[columns]


def _distances(some: Floats, others: Floats) -> Floats:
    """(n, m) Euclidean distances of the rows of (n, d) and (m, d), to a hundredth."""
    squares = (some**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * some @ others.T
    distances: Floats = np.sqrt(np.maximum(squares, 0))
    return distances


def _first_of(groups: NDArray[np.int32]) -> NDArray[np.intp]:
    """(N,): the place of the first member of each one's group."""
    _, first, inverse = np.unique(groups, return_index=True, return_inverse=True)
    return first[inverse]

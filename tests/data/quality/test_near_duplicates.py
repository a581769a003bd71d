"""Duplicate detection, compared with a loop over all pairs."""

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from flowertune.data.quality import near_duplicates
from flowertune.data.quality.near_duplicates import PerceptualHash, find_duplicates, perceptual_hash

Copy = Callable[[Image.Image], Image.Image]
Photo = Callable[[int], Image.Image]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(io.BytesIO(file.getvalue()))


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share / 2), round(image.height * share / 2)
    return image.crop((x, y, image.width - x, image.height - y))


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


COPIES: dict[str, Copy] = {
    "smaller": lambda image: image.resize((70, 60)),
    "recompressed": lambda image: jpeg(image, 50),
    "cropped": lambda image: cropped(image, 0.03),
    "mirrored": mirrored,
    "all of it": lambda image: jpeg(mirrored(cropped(image, 0.03)).resize((90, 60)), 50),
}


def grouped(*pictures: Image.Image) -> list[int]:
    return find_duplicates([perceptual_hash(each) for each in pictures], lambda *_: None).tolist()


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_a_duplicate_of_its_original_only(copy: Copy, photo: Photo) -> None:
    originals = [photo(seed) for seed in range(30)]
    groups = grouped(*originals, *map(copy, originals))
    assert groups[:30] == groups[30:]
    assert len(set(groups)) == 30


def test_the_same_shape_in_another_color_is_no_duplicate(photo: Photo) -> None:
    y, cb, cr = photo(0).convert("YCbCr").split()
    redder = cr.point(lambda value: value + 30)
    other = Image.merge("YCbCr", (y, cb, redder)).convert("RGB")
    first, second, again = grouped(photo(0), other, jpeg(photo(0), 80))
    assert first == again != second


def test_plain_surfaces_are_not_compared_by_their_noise() -> None:
    """The same noise on all images, like a camera's noise or JPEG blocks."""
    noise = np.random.default_rng(0).integers(0, 2, (64, 64, 3))
    walls = [Image.fromarray((noise + level).astype(np.uint8)) for level in (100, 104, 108)]
    assert len(set(grouped(*walls))) == 3


def test_the_frequencies_are_those_of_the_cosine_transform(photo: Photo) -> None:
    image = photo(3).resize((32, 32))
    gray = np.asarray(image.convert("YCbCr"), dtype=float)[..., 0]
    waves = [
        [math.sqrt((1 if k == 0 else 2) / 32) * math.cos(math.pi * k * (2 * n + 1) / 64)
         for n in range(32)] for k in range(16)
    ]  # fmt: skip
    assert np.allclose(
        perceptual_hash(image).gray, np.array(waves) @ gray @ np.array(waves).T, atol=1e-2
    )


def alike(one: PerceptualHash, other: PerceptualHash) -> bool:
    """The definition, computed element by element."""
    places = [(i, j) for i in range(16) for j in range(16)]
    low = [p for p in places if max(p) < 8 and p != (0, 0)]
    high = [p for p in places if max(p) >= 8]
    bits = sum((one.gray[p] > 0) != (other.gray[p] > 0) for p in low)
    a, b = (np.array([each.gray[p] for p in high]) for each in (one, other))
    color = math.sqrt(((one.color - other.color) ** 2).sum() / 32**2)
    return bits <= 12 and a @ b >= 0.5 * np.linalg.norm(a) * np.linalg.norm(b) and color <= 12


def flipped(one: PerceptualHash) -> PerceptualHash:
    """From the definition: cos(k (pi - x)) = (-1)^k cos(k x)."""
    gray, color = one.gray.copy(), one.color.copy()
    gray[:, 1::2] *= -1
    color[..., 1::2] *= -1
    return PerceptualHash(gray, color)


def test_the_search_finds_what_a_loop_over_all_pairs_finds(
    photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blocks that split groups, copies near the limits, and chains of copies."""
    monkeypatch.setattr(near_duplicates, "BLOCK", 7)
    shares = (0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
    pictures = [cropped(photo(seed), share) for share in shares for seed in range(6)]
    pictures[10:14] = map(mirrored, pictures[10:14])
    spectra = [perceptual_hash(each) for each in pictures]
    expected = list(range(len(spectra)))
    pairs = 0
    for i, one in enumerate(spectra):
        for j in range(i):
            if alike(one, spectra[j]) or alike(one, flipped(spectra[j])):
                pairs += 1
                expected = [expected[j] if each == expected[i] else each for each in expected]
    groups = find_duplicates(spectra, lambda *_: None).tolist()
    assert 12 < pairs < 150
    places = range(len(spectra))
    assert [[groups[i] == groups[j] for i in places] for j in places] == [
        [expected[i] == expected[j] for i in places] for j in places
    ]

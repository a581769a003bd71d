"""Twelve small photos, and their cache."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowertune.data.cache import decode
from flowertune.data.cache.dataset import CachedDataset, cache_dataset
from flowertune.data.dataset import ImageDataset, Split
from flowertune.data.image import Preprocessing, decode_image

SMALL = Preprocessing((32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "squash", 0)
SIZES = [(60, 40), (40, 60), (20, 90), (50, 50), (10, 12)]


def write_photos(root: Path) -> None:
    """Two classes; five photos each in train, one each in val; no two alike."""
    rng = np.random.default_rng(0)
    for split, sizes in [("train", SIZES), ("val", [(45, 30)])]:
        for name in ("daisy", "rose"):
            (root / split / name).mkdir(parents=True)
            for number, (width, height) in enumerate(sizes):
                pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")


def dataset(root: Path) -> ImageDataset:
    """What the folder source would list."""
    names = ("daisy", "rose")
    splits = {}
    for split in ("train", "val"):
        files = [(p, i) for i, name in enumerate(names) for p in (root / split / name).iterdir()]
        files.sort()
        splits[split] = Split(tuple(p for p, _ in files), tuple(label for _, label in files))
    return ImageDataset(root, "train on train", names, None, splits)


def cache_of(
    root: Path, folder: Path, *, train_form: bool = True, bad_files: str = "stop", progress=None
) -> CachedDataset:
    return cache_dataset(
        dataset(root),
        SMALL,
        train_form=train_form,
        folder=folder,
        bad_files=bad_files,
        progress=progress or (lambda *_: None),
    )


def _assert_same_pixels(a: CachedDataset, b: CachedDataset) -> None:
    for name, split in a.splits.items():
        other = b.splits[name]
        assert np.array_equal(split.eval_pixels, other.eval_pixels)
        assert split.sha256 == other.sha256
        if split.train_pixels is not None:
            assert np.array_equal(split.train_pixels, other.train_pixels)
            assert np.array_equal(split.train_sizes, other.train_sizes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture(scope="session")
def preprocessing() -> Preprocessing:
    """That of the cache which `cached` makes."""
    return SMALL


@pytest.fixture(scope="session")
def listed() -> Callable[[Path], ImageDataset]:
    """`listed(root)`: the photos as the folder source lists them."""
    return dataset


@pytest.fixture(scope="session")
def cached() -> Callable[..., CachedDataset]:
    """`cached(root, folder, train_form=True, bad_files="stop", progress=None)`."""
    return cache_of


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """One entry for every photo that is decoded."""
    calls: list[int] = []

    def counting(data: bytes) -> Image.Image:
        calls.append(len(data))
        return decode_image(data)

    monkeypatch.setattr(decode, "decode_image", counting)
    return calls


@pytest.fixture(scope="session")
def assert_same_pixels() -> Callable[[CachedDataset, CachedDataset], None]:
    return _assert_same_pixels

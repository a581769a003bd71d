"""Damaged files of the photo cache: what is read is what was stored, or nothing, and made anew."""

import io
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flowertune.data.cache import decode
from flowertune.data.cache.dataset import CachedDataset, cache_dataset
from flowertune.data.cache.store import CachedSplit
from flowertune.data.dataset import ImageDataset, Split
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.image import Preprocessing, UnreadableImageError
from flowertune.errors import FlowertuneError, TrainingError

SMALL = Preprocessing((32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "squash", 0)
FILES = ("eval.u8", "train.u8", "meta.json")

Damage = Callable[[Path, Path, np.random.Generator], None]


def cut(file: Path, other: Path, rng: np.random.Generator) -> None:
    os.truncate(file, int(rng.integers(file.stat().st_size)))


def flip(file: Path, other: Path, rng: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    for place in rng.integers(0, len(data), rng.integers(1, 9)):
        data[place] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)


def zero(file: Path, other: Path, rng: np.random.Generator) -> None:
    """Blocks that never reached the disk; the length did."""
    data = bytearray(file.read_bytes())
    place = int(rng.integers(len(data)))
    block = min(4096, len(data) - place)
    data[place : place + block] = bytes(block)
    file.write_bytes(data)


def swap(file: Path, other: Path, rng: np.random.Generator) -> None:
    """For another store's of the same name, or of the same length."""
    shutil.copy(other if other.exists() else file.with_name("eval.u8"), file)


def lose(file: Path, other: Path, rng: np.random.Generator) -> None:
    file.unlink()


def empty(file: Path, other: Path, rng: np.random.Generator) -> None:
    os.truncate(file, 0)


DAMAGES: list[Damage] = [cut, flip, flip, zero, swap, lose, empty]
OF_META = [cut, zero, swap, lose, empty]  # it has no checksum: it is written at once, or not


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageDataset, Path]:
    """24 photos for training and 8 for val, and the folder of their cache."""
    folder, rng = tmp_path_factory.mktemp("cache-files"), np.random.default_rng(0)
    splits = {}
    for split, count in (("train", 24), ("val", 8)):
        paths = [folder / "photos" / split / "rose" / f"{number}.jpg" for number in range(count)]
        paths[0].parent.mkdir(parents=True)
        for path in paths:
            width, height = rng.integers(20, 80, 2)
            file = io.BytesIO()
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(file, "JPEG")
            path.write_bytes(file.getvalue())
        splits[split] = Split(tuple(paths), (0,) * count)
    dataset = ImageDataset(folder / "photos", "", ("rose",), None, splits)
    opened(dataset, folder / "cache")
    return dataset, folder / "cache"


def opened(dataset: ImageDataset, folder: Path) -> CachedDataset:
    return cache_dataset(
        dataset, SMALL, train_form=True, folder=folder, bad_files="stop",
        progress=lambda *_: None,
    )  # fmt: skip


def read(split: CachedSplit, order: Sequence[int], *, resident: bool) -> list[np.ndarray]:
    """Every row of both forms, as a training and as a validation get them."""
    forms = [split.eval_pixels] + ([] if split.train_pixels is None else [split.train_pixels])
    found = []
    for form in forms:
        store = DevicePixels(form, torch.device("cpu"), resident=resident)
        gather = store.batches if form is split.eval_pixels else store.views
        rows: dict[int, np.ndarray] = {}
        wanted = list(torch.tensor(order).split(5))
        for indices, batch in zip(wanted, gather(wanted), strict=True):
            rows |= {row: photo.numpy() for row, photo in zip(indices.tolist(), batch, strict=True)}
        found.append(np.stack([rows[row] for row in range(len(form))]))
    return found


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.faults)])
@pytest.mark.parametrize("name", FILES)
def test_what_is_read_is_what_was_stored(name, rounds, photos, tmp_path, no_hang):
    dataset, folder = photos
    whole = opened(dataset, folder)
    expected = {
        split: read(each, range(len(each.split)), resident=True)
        for split, each in whole.splits.items()
    }
    rng = np.random.default_rng(FILES.index(name))
    damages = OF_META if name == "meta.json" else DAMAGES
    for number in range(rounds * len(damages)):
        damage = damages[number % len(damages)]
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        stores = {split: copy / "pixels" / each.key for split, each in whole.splits.items()}
        damage(stores["train"] / name, stores["val"] / name, rng)
        for start in range(2):  # the damage itself, and what was made of it
            with no_hang():
                again = opened(dataset, copy)
                assert again.fingerprint == whole.fingerprint
                for split, each in again.splits.items():
                    assert np.array_equal(each.train_sizes, whole.splits[split].train_sizes)
                    order = rng.permutation(len(each.split)).tolist()
                    try:
                        pixels = read(each, order, resident=number % 2 == 0)
                    except TrainingError:
                        if start == 1:
                            raise
                        break
                    for one, other in zip(pixels, expected[split], strict=True):
                        assert np.array_equal(one, other), damage.__name__


@pytest.mark.parametrize("rounds", [1, pytest.param(5, marks=pytest.mark.faults)])
@pytest.mark.parametrize("name", FILES[:2])
def test_without_the_photos_it_is_what_was_stored_or_one_line(
    name, rounds, photos, tmp_path, monkeypatch, no_hang
):
    """They cannot be read any more, though the system lists them as they were."""

    def unreadable(path: Path) -> bytes:
        raise UnreadableImageError("cannot be read: Input/output error")

    dataset, folder = photos
    whole = opened(dataset, folder)
    expected = read(whole.splits["train"], range(24), resident=True)
    monkeypatch.setattr(decode, "image_bytes", unreadable)
    rng = np.random.default_rng(FILES.index(name))
    said: list[str] = []
    for number in range(rounds * len(DAMAGES)):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        stores = {split: copy / "pixels" / each.key for split, each in whole.splits.items()}
        DAMAGES[number % len(DAMAGES)](stores["train"] / name, stores["val"] / name, rng)
        with no_hang():
            try:
                try:
                    pixels = read(opened(dataset, copy).splits["train"], range(24), resident=True)
                except TrainingError:  # the damage is seen, and the next start makes it anew
                    pixels = read(opened(dataset, copy).splits["train"], range(24), resident=True)
            except FlowertuneError as error:
                said.append(str(error))
                continue
        for one, other in zip(pixels, expected, strict=True):
            assert np.array_equal(one, other)
    assert len(said) > 3 * rounds
    assert all("cannot be read: Input/output error" in message for message in said)

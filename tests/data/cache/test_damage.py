"""A cache with damaged files: the damage is noticed before use, and the cache rebuilt."""

import errno
import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from flowertune.data.device_pixels import DevicePixels
from flowertune.errors import TrainingError, UsageError

CPU = torch.device("cpu")


def flip(file: Path, place: int) -> None:
    """Change a byte in place, like a disk error: the file may be mapped."""
    with file.open("r+b") as opened:
        opened.seek(place)
        (byte,) = opened.read(1)
        opened.seek(place)
        opened.write(bytes([byte ^ 1]))


def shorten(store: Path, other: Path) -> None:
    """Write a new file: truncating a mapped one would kill the process."""
    data = (store / "eval.u8").read_bytes()
    (store / "eval.u8").unlink()
    (store / "eval.u8").write_bytes(data[:100])


def lose_a_form(store: Path, other: Path) -> None:
    (store / "train.u8").unlink()


def cut_the_index(store: Path, other: Path) -> None:
    os.truncate(store / "meta.json", 400)


def lose_part_of_the_index(store: Path, other: Path) -> None:
    """Remove a field, as in an earlier version's meta.json."""
    (store / "meta.json").write_text(json.dumps({"description": "", "key": store.name}))


def take_anothers_index(store: Path, other: Path) -> None:
    """Use the meta.json of a store of the same images, so that all file sizes match."""
    shutil.copy(other / "meta.json", store / "meta.json")


@pytest.fixture
def photos(root, tmp_path, cached):
    """The undamaged cache of the images."""
    return cached(root, tmp_path / "cache")


def store_of(folder: Path, photos) -> Path:
    return folder / "pixels" / photos.splits["train"].key


@pytest.mark.parametrize(
    "damage",
    [shorten, lose_a_form, cut_the_index, lose_part_of_the_index, take_anothers_index],
    ids=lambda d: d.__name__,
)
def test_a_damaged_store_is_reported_and_rebuilt(
    damage, photos, root, tmp_path, cached, decoded, assert_same_pixels
):
    whole = {name: np.array(split.eval_pixels) for name, split in photos.splits.items()}
    without_form = cached(root, tmp_path / "cache", train_form=False)
    decoded.clear()
    damage(*(store_of(tmp_path / "cache", each) for each in (photos, without_form)))
    said: list[str] = []
    again = cached(root, tmp_path / "cache", progress=lambda text, *_: said.append(text))
    assert said[0].startswith("train: rebuilding the image cache (")
    assert len(decoded) == 10  # train, and not val
    for name, pixels in whole.items():
        assert np.array_equal(again.splits[name].eval_pixels, pixels)
    assert_same_pixels(again, cached(root, tmp_path / "other"))


def test_a_damaged_store_that_cannot_be_rebuilt_is_refused(photos, root, tmp_path, cached):
    store = store_of(tmp_path / "cache", photos)
    shorten(store, store)
    lock = store.with_name(f"{store.name}.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()  # cannot be opened, like on a read-only disk
    with pytest.raises(
        UsageError, match=r"cannot rebuild the image cache .* \(.*\): .*CACHE"
    ) as refused:
        cached(root, tmp_path / "cache")
    assert "\n" not in str(refused.value)
    assert str(store) in str(refused.value)


def test_an_image_that_becomes_readable_is_used_again(
    root, tmp_path, cached, monkeypatch, assert_same_pixels
):
    """Fixing a file's permissions changes neither its size nor its time."""
    read_bytes, locked = Path.read_bytes, root / "train" / "rose" / "1.jpg"

    def unreadable(path):
        if path == locked:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", unreadable)
        for _ in range(2):
            without = cached(root, tmp_path / "cache", bad_files="skip")
            assert without.bad == ((locked, "cannot be read: Permission denied"),)
    photos = cached(root, tmp_path / "cache")
    assert_same_pixels(photos, cached(root, tmp_path / "other"))
    assert len(photos.splits["train"].split) == 10


@pytest.mark.parametrize("how", ["resident", "streamed", "in part"])
@pytest.mark.parametrize("form", ["eval", "train"])
def test_a_damaged_row_gives_a_one_line_error_and_the_next_start_rebuilds_the_store(
    form, how, photos, root, tmp_path, cached, decoded, assert_same_pixels
):
    expected = np.array(getattr(photos.splits["train"], f"{form}_pixels"))
    directory = store_of(tmp_path / "cache", photos)
    flip(directory / f"{form}.u8", 7 * expected[0].nbytes + 20)
    again = cached(root, tmp_path / "cache").splits["train"]
    assert decoded == []
    store = DevicePixels(getattr(again, f"{form}_pixels"), CPU, resident=how != "streamed")

    def read(*rows: int) -> list[np.ndarray]:
        gather = store.views if how == "in part" else store.batches
        (batch,) = gather([torch.tensor(rows)])
        return [photo.numpy() for photo in batch]

    for photo, row in zip(read(0, 1), (0, 1), strict=True):
        assert np.array_equal(photo, expected[row])
    for _ in range(2):
        with pytest.raises(TrainingError, match="stored pixels are damaged; run again") as failed:
            read(2, 7, 9)
    assert "\n" not in str(failed.value)
    assert str(directory / f"{form}.u8") in str(failed.value)
    assert decoded == []
    mended = cached(root, tmp_path / "cache")
    assert len(decoded) == 10  # train, and not val
    assert_same_pixels(mended, cached(root, tmp_path / "other"))


@pytest.mark.parametrize("resident", [True, False])
def test_no_row_is_verified_twice(resident, photos, monkeypatch):
    rows, looked = photos.splits["train"].eval_pixels, []
    crc32 = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda data: looked.append(bytes(data)) or crc32(data))
    store = DevicePixels(rows, CPU, resident=resident)
    for _ in store.batches([torch.tensor([3, 1, 3]), torch.tensor([1, 2]), torch.tensor([3])]):
        pass
    assert looked == [rows.array[row].tobytes() for row in (3, 1, 2)]


def test_all_pixels_are_verified_before_they_move_to_another_device(photos, root, tmp_path, cached):
    """Uses torch's "meta" device, which has shapes but no memory."""
    flip(store_of(tmp_path / "cache", photos) / "eval.u8", 9 * 3 * 32 * 32)
    rows = cached(root, tmp_path / "cache").splits["train"].eval_pixels
    with pytest.raises(TrainingError, match="stored pixels are damaged"):
        DevicePixels(rows, torch.device("meta"), resident=True)


def test_a_damaged_store_that_cannot_be_marked_is_named_for_deletion(
    photos, root, tmp_path, cached, monkeypatch
):
    """Simulates a read-only disk, because root may write everywhere else."""

    def forbidden(path, missing_ok=False):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store = store_of(tmp_path / "cache", photos)
    flip(store / "eval.u8", 7 * 3 * 32 * 32)
    train = cached(root, tmp_path / "cache").splits["train"]
    monkeypatch.setattr(Path, "unlink", forbidden)
    with pytest.raises(TrainingError, match=f"delete {store} and run again"):
        train.eval_pixels.verify([6, 7])

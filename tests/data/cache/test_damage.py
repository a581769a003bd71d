"""A cache whose files were damaged after they were written: seen before use, and made anew."""

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
    """In place, as a disk does it: the file may be mapped."""
    with file.open("r+b") as opened:
        opened.seek(place)
        (byte,) = opened.read(1)
        opened.seek(place)
        opened.write(bytes([byte ^ 1]))


def shorten(store: Path, other: Path) -> None:
    """A new file: to cut one that is mapped ends the process."""
    data = (store / "eval.u8").read_bytes()
    (store / "eval.u8").unlink()
    (store / "eval.u8").write_bytes(data[:100])


def lose_a_form(store: Path, other: Path) -> None:
    (store / "train.u8").unlink()


def cut_the_index(store: Path, other: Path) -> None:
    os.truncate(store / "meta.json", 400)


def lose_part_of_the_index(store: Path, other: Path) -> None:
    """What an earlier version would write."""
    (store / "meta.json").write_text(json.dumps({"description": "", "key": store.name}))


def take_anothers_index(store: Path, other: Path) -> None:
    """Of a store of the same photos, so that no length tells."""
    shutil.copy(other / "meta.json", store / "meta.json")


@pytest.fixture
def photos(root, tmp_path, cached):
    """The photos' cache as it was written."""
    return cached(root, tmp_path / "cache")


def store_of(folder: Path, photos) -> Path:
    return folder / "pixels" / photos.splits["train"].key


@pytest.mark.parametrize(
    "damage",
    [shorten, lose_a_form, cut_the_index, lose_part_of_the_index, take_anothers_index],
    ids=lambda d: d.__name__,
)
def test_a_damaged_store_is_said_and_made_anew(
    damage, photos, root, tmp_path, cached, decoded, assert_same_pixels
):
    whole = {name: np.array(split.eval_pixels) for name, split in photos.splits.items()}
    without_form = cached(root, tmp_path / "cache", train_form=False)
    decoded.clear()
    damage(*(store_of(tmp_path / "cache", each) for each in (photos, without_form)))
    said: list[str] = []
    again = cached(root, tmp_path / "cache", progress=lambda text, *_: said.append(text))
    assert said[0].startswith("train: the cache has to be made anew (")
    assert len(decoded) == 10  # train, and not val
    for name, pixels in whole.items():
        assert np.array_equal(again.splits[name].eval_pixels, pixels)
    assert_same_pixels(again, cached(root, tmp_path / "other"))


def test_a_damaged_store_that_cannot_be_made_anew_is_refused(photos, root, tmp_path, cached):
    store = store_of(tmp_path / "cache", photos)
    shorten(store, store)
    lock = store.with_name(f"{store.name}.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()  # no more to be opened than on a disk for reading only
    with pytest.raises(
        UsageError, match=r"made anew \(.*\) and cannot be written.*CACHE"
    ) as refused:
        cached(root, tmp_path / "cache")
    assert "\n" not in str(refused.value)
    assert str(store) in str(refused.value)


def test_a_photo_that_can_be_read_again_comes_back(
    root, tmp_path, cached, monkeypatch, assert_same_pixels
):
    """To mend a file's permissions changes neither its length nor its time."""
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
def test_a_damaged_row_ends_in_one_line_and_the_next_start_makes_the_store_anew(
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
        with pytest.raises(TrainingError, match="stored pixels are damaged; start again") as failed:
            read(2, 7, 9)
    assert "\n" not in str(failed.value)
    assert str(directory / f"{form}.u8") in str(failed.value)
    assert decoded == []
    mended = cached(root, tmp_path / "cache")
    assert len(decoded) == 10  # train, and not val
    assert_same_pixels(mended, cached(root, tmp_path / "other"))


@pytest.mark.parametrize("resident", [True, False])
def test_no_row_is_looked_at_twice(resident, photos, monkeypatch):
    rows, looked = photos.splits["train"].eval_pixels, []
    crc32 = zlib.crc32
    monkeypatch.setattr(zlib, "crc32", lambda data: looked.append(bytes(data)) or crc32(data))
    store = DevicePixels(rows, CPU, resident=resident)
    for _ in store.batches([torch.tensor([3, 1, 3]), torch.tensor([1, 2]), torch.tensor([3])]):
        pass
    assert looked == [rows.array[row].tobytes() for row in (3, 1, 2)]


def test_pixels_that_go_to_another_device_are_all_looked_at_before(photos, root, tmp_path, cached):
    """On torch's "meta" device, which has shapes and no memory."""
    flip(store_of(tmp_path / "cache", photos) / "eval.u8", 9 * 3 * 32 * 32)
    rows = cached(root, tmp_path / "cache").splits["train"].eval_pixels
    with pytest.raises(TrainingError, match="stored pixels are damaged"):
        DevicePixels(rows, torch.device("meta"), resident=True)


def test_a_damaged_store_that_cannot_be_given_up_is_to_be_removed(
    photos, root, tmp_path, cached, monkeypatch
):
    """As on a disk for reading only; root may write everywhere else."""

    def forbidden(path, missing_ok=False):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    store = store_of(tmp_path / "cache", photos)
    flip(store / "eval.u8", 7 * 3 * 32 * 32)
    train = cached(root, tmp_path / "cache").splits["train"]
    monkeypatch.setattr(Path, "unlink", forbidden)
    with pytest.raises(TrainingError, match=f"remove {store} and start again"):
        train.eval_pixels.verify([6, 7])

"""The cache as users see it: fast the second time, complete or absent, with bad files listed."""

import os
import shutil
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from PIL import Image
from platformdirs.macos import MacOS
from platformdirs.unix import Unix

from flowertune.data.cache.listing import delete, list_entries
from flowertune.data.cache_dir import cache_root
from flowertune.data.image import decode_image, eval_pixels, train_pixels
from flowertune.errors import UsageError


def test_rows_are_the_pixels_of_the_listed_photos(root, tmp_path, cached, listed, preprocessing):
    photos = cached(root, tmp_path / "cache")
    train, val = photos.splits["train"], photos.splits["val"]
    assert train.split == listed(root).splits["train"]
    # The shorter side is round(32 * 256 / 224) = 37: 60 x 40 gives 56 x 37, 40 x 60 gives 37 x 56.
    assert train.train_pixels.array.shape == (10, 3, 56, 56)
    for row, path in enumerate(train.split.paths):
        image = decode_image(path.read_bytes())
        assert np.array_equal(train.eval_pixels[row], eval_pixels(image, preprocessing))
        expected = train_pixels(image, preprocessing)
        height, width = train.train_sizes[row]
        assert expected.shape == (3, height, width)
        assert np.array_equal(train.train_pixels[row, :, :height, :width], expected)
        assert train.train_pixels[row].sum(dtype=int) == expected.sum(dtype=int)  # the rest is zero
    assert val.train_pixels is None
    assert val.train_sizes is None
    assert photos.bad == ()


def test_a_second_start_gives_the_same_without_decoding(
    root, tmp_path, decoded, cached, assert_same_pixels
):
    first = cached(root, tmp_path / "cache")
    assert len(decoded) == 12
    progress: list[str] = []
    second = cached(root, tmp_path / "cache", progress=lambda text, *_: progress.append(text))
    assert len(decoded) == 12
    assert progress == []
    assert_same_pixels(first, second)
    assert first.fingerprint == second.fingerprint


def test_progress_counts_every_photo(root, tmp_path, cached):
    seen: list[tuple[str, int, int]] = []
    cached(root, tmp_path / "cache", progress=lambda *report: seen.append(report))
    assert [done for text, done, _ in seen if text == "train: decoding images"] == list(range(11))
    assert seen[-1] == ("val: decoding images", 2, 2)


def test_a_changed_photo_is_decoded_again(root, tmp_path, decoded, cached, assert_same_pixels):
    before = cached(root, tmp_path / "cache")
    photo = root / "train" / "rose" / "3.jpg"
    status = photo.stat()
    Image.new("RGB", (50, 50), "red").save(photo)
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))  # another size, the same time
    after = cached(root, tmp_path / "cache")
    assert len(decoded) == 12 + 10  # train again, val not
    assert after.fingerprint != before.fingerprint
    os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # the same size, another time
    assert_same_pixels(cached(root, tmp_path / "cache"), after)
    assert len(decoded) == 12 + 10 + 10


def test_another_preprocessing_or_form_has_its_own_pixels(root, tmp_path, cached):
    with_form = cached(root, tmp_path / "cache")
    without = cached(root, tmp_path / "cache", train_form=False)
    assert without.splits["train"].train_pixels is None
    assert without.splits["train"].key != with_form.splits["train"].key
    assert without.splits["val"].key == with_form.splits["val"].key
    assert np.array_equal(
        without.splits["train"].eval_pixels, with_form.splits["train"].eval_pixels
    )


def test_the_fingerprint_depends_on_the_images_not_their_location(root, tmp_path, cached):
    shutil.copytree(root, tmp_path / "elsewhere" / "copy")
    here = cached(root, tmp_path / "cache")
    there = cached(tmp_path / "elsewhere" / "copy", tmp_path / "cache")
    assert here.fingerprint == there.fingerprint
    (tmp_path / "elsewhere/copy/val/rose/0.jpg").rename(tmp_path / "elsewhere/copy/val/rose/1.jpg")
    renamed = cached(tmp_path / "elsewhere" / "copy", tmp_path / "cache")
    assert renamed.fingerprint != here.fingerprint


def spoil(root: Path) -> None:
    (root / "train" / "daisy" / "notes.txt").write_text("not a picture")
    cut = root / "train" / "rose" / "1.jpg"
    cut.write_bytes(cut.read_bytes()[:-600])
    (root / "train" / "rose" / "empty.jpg").touch()
    (root / "val" / "daisy" / "folder.jpg").mkdir()


@pytest.mark.parametrize("start", ["cold", "warm"])
def test_bad_files_of_all_splits_are_refused_in_one_list(root, tmp_path, start, cached):
    spoil(root)
    if start == "warm":
        cached(root, tmp_path / "cache", bad_files="skip")
    with pytest.raises(UsageError) as refused:
        cached(root, tmp_path / "cache")
    first, *names, last = str(refused.value).split("\n")
    assert first.startswith(f"4 of 15 files in {root}")
    assert [line.strip().split(": ")[0] for line in names] == [
        "train/daisy/notes.txt",
        "train/rose/1.jpg",
        "train/rose/empty.jpg",
        "val/daisy/folder.jpg",
    ]
    reasons = [line.split(": ")[1] for line in names]
    expected = ["not an image", "truncated", "empty file", "a folder, not a file"]
    assert reasons == expected
    assert "data.bad_files=skip" in last


@pytest.mark.skipif(os.name != "posix", reason="Windows forbids such names")
def test_a_bad_file_is_one_line_whatever_it_is_called(root, tmp_path, cached):
    (root / "train" / "rose" / "a\r\nb\x1b[2J.jpg").touch()
    with pytest.raises(UsageError) as refused:
        cached(root, tmp_path / "cache")
    _, line, _ = str(refused.value).split("\n")
    assert line == r"  train/rose/a\r\nb\x1b[2J.jpg: empty file"


def test_skipping_leaves_out_the_bad_files_and_nothing_else(root, tmp_path, cached):
    good = cached(root, tmp_path / "cache").splits["train"]
    spoil(root)
    photos = cached(root, tmp_path / "cache", bad_files="skip")
    assert [path.name for path, _ in photos.bad] == [
        "notes.txt",
        "1.jpg",
        "empty.jpg",
        "folder.jpg",
    ]
    train = photos.splits["train"]
    assert photos.dataset.splits["train"] == train.split
    assert len(train.split) == len(train.eval_pixels) == len(train.train_pixels) == 9
    assert train.split.labels == (0,) * 5 + (1,) * 4
    rows = [row for row in range(10) if row != 6]  # train/rose/1.jpg was there
    assert np.array_equal(train.eval_pixels, good.eval_pixels[rows])
    assert train.sha256 == tuple(good.sha256[row] for row in rows)


def test_skipping_a_classs_last_photo_of_a_split_is_refused(root, tmp_path, cached):
    (root / "val" / "rose" / "0.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UsageError, match=r"no readable image of 'rose'(.|\n)*val/rose/0\.jpg"):
        cached(root, tmp_path / "cache", bad_files="skip")


def test_a_cache_folder_that_cannot_be_created_is_refused_with_a_remedy(root, tmp_path, cached):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="FLOWERTUNE_CACHE"):
        cached(root, tmp_path / "file")


def test_too_little_space_for_all_splits_is_reported_before_decoding(
    root, tmp_path, monkeypatch, decoded, cached
):
    train, val = 10 * 3 * (32 * 32 + 56 * 56), 2 * 3 * 32 * 32

    def free(size: int) -> None:
        disk = shutil._ntuple_diskusage(10**9, 10**9 - size, size)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)

    free(train + val - 1)
    with pytest.raises(
        UsageError, match=r"needs 130.9 kB, but only 130.9 kB are free.*FLOWERTUNE_CACHE"
    ):
        cached(root, tmp_path / "cache")
    assert decoded == []
    free(train + val)
    cached(root, tmp_path / "cache")


def test_the_cache_root_is_the_users_choice_or_the_platforms(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWERTUNE_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("FLOWERTUNE_CACHE")
    monkeypatch.setattr(platformdirs, "PlatformDirs", Unix)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "flowertune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "flowertune"
    monkeypatch.setattr(platformdirs, "PlatformDirs", MacOS)
    assert cache_root() == tmp_path / "Library" / "Caches" / "flowertune"


@pytest.mark.skipif(os.name != "posix", reason="Windows finds the folder otherwise")
def test_a_user_without_a_home_folder_gets_a_remedy(monkeypatch):
    """Like a container that runs with an arbitrary user ID."""
    for name in ("FLOWERTUNE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    with pytest.raises(UsageError, match=r"no home folder .*FLOWERTUNE_CACHE"):
        cache_root()


def test_pixels_deleted_while_the_next_split_is_decoded_stay_readable(
    root, tmp_path, cached, assert_same_pixels
):
    whole = cached(root, tmp_path / "whole")

    def clear(description, done, total):
        if description.startswith("val: decoding"):  # like `flowertune data cache clear` elsewhere
            for kept in list_entries(tmp_path / "cleared"):
                delete(kept)

    photos = cached(root, tmp_path / "cleared", progress=clear)
    assert_same_pixels(whole, photos)

"""The cache as a user meets it: fast the second time, whole or absent, honest about bad files."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowertune.data import decoding
from flowertune.data.cache import CachedPhotos, cache_photos
from flowertune.data.cache_folder import cache_root
from flowertune.data.photos import PhotoSet, Split
from flowertune.data.pixels import Preprocessing, eval_pixels, read_photo, train_pixels
from flowertune.errors import Refused

SRC = Path(__file__).parents[2] / "src"
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


def listed(root: Path) -> PhotoSet:
    """What the folder source would list."""
    names = ("daisy", "rose")
    splits = {}
    for split in ("train", "val"):
        files = [(p, i) for i, name in enumerate(names) for p in (root / split / name).iterdir()]
        files.sort()
        splits[split] = Split(tuple(p for p, _ in files), tuple(label for _, label in files))
    return PhotoSet("photos", root, "train on train", names, None, splits)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_photos(tmp_path / "photos")
    return tmp_path / "photos"


def cached(
    root: Path, folder: Path, *, train_form: bool = True, bad_files: str = "stop", progress=None
) -> CachedPhotos:
    return cache_photos(
        listed(root),
        SMALL,
        train_form=train_form,
        folder=folder,
        bad_files=bad_files,
        progress=progress or (lambda *_: None),
    )


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """One entry for every photo that is decoded."""
    calls: list[int] = []

    def counting(data: bytes) -> Image.Image:
        calls.append(len(data))
        return read_photo(data)

    monkeypatch.setattr(decoding, "read_photo", counting)
    return calls


def assert_same_pixels(a: CachedPhotos, b: CachedPhotos) -> None:
    for name, split in a.splits.items():
        other = b.splits[name]
        assert np.array_equal(split.eval_pixels, other.eval_pixels)
        assert split.sha256 == other.sha256
        if split.train_pixels is not None:
            assert np.array_equal(split.train_pixels, other.train_pixels)
            assert np.array_equal(split.train_sizes, other.train_sizes)


def test_rows_are_the_pixels_of_the_listed_photos(root, tmp_path):
    photos = cached(root, tmp_path / "cache")
    train, val = photos.splits["train"], photos.splits["val"]
    assert train.split == listed(root).splits["train"]
    # The shorter side is round(32 * 256 / 224) = 37: 60 x 40 gives 56 x 37, 40 x 60 gives 37 x 56.
    assert train.train_pixels.shape == (10, 3, 56, 56)
    for row, path in enumerate(train.split.paths):
        image = read_photo(path.read_bytes())
        assert np.array_equal(train.eval_pixels[row], eval_pixels(image, SMALL))
        expected = train_pixels(image, SMALL)
        height, width = train.train_sizes[row]
        assert expected.shape == (3, height, width)
        assert np.array_equal(train.train_pixels[row, :, :height, :width], expected)
        assert train.train_pixels[row].sum(dtype=int) == expected.sum(dtype=int)  # the rest is zero
    assert val.train_pixels is None
    assert val.train_sizes is None
    assert photos.bad == ()


def test_a_second_start_gives_the_same_without_decoding(root, tmp_path, decoded):
    first = cached(root, tmp_path / "cache")
    assert len(decoded) == 12
    progress: list[str] = []
    second = cached(root, tmp_path / "cache", progress=lambda text, *_: progress.append(text))
    assert len(decoded) == 12
    assert progress == []
    assert_same_pixels(first, second)
    assert first.fingerprint == second.fingerprint


def test_a_warm_cache_needs_no_open_clip(root, tmp_path):
    cached(root, tmp_path / "cache")
    code = "run(); print('open_clip' in sys.modules)"
    assert output_of(root, tmp_path / "cache", code).strip() == "False"


def test_progress_counts_every_photo(root, tmp_path):
    seen: list[tuple[str, int, int]] = []
    cached(root, tmp_path / "cache", progress=lambda *report: seen.append(report))
    assert [done for text, done, _ in seen if text == "train: decoding photos"] == list(range(11))
    assert seen[-1] == ("val: decoding photos", 2, 2)


def test_a_changed_photo_is_decoded_again(root, tmp_path, decoded):
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


def test_another_preprocessing_or_form_has_its_own_pixels(root, tmp_path):
    with_form = cached(root, tmp_path / "cache")
    without = cached(root, tmp_path / "cache", train_form=False)
    assert without.splits["train"].train_pixels is None
    assert without.splits["train"].key != with_form.splits["train"].key
    assert without.splits["val"].key == with_form.splits["val"].key
    assert np.array_equal(
        without.splits["train"].eval_pixels, with_form.splits["train"].eval_pixels
    )


def test_the_fingerprint_follows_the_photos_not_their_place(root, tmp_path):
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
def test_bad_files_of_all_splits_are_refused_in_one_list(root, tmp_path, start):
    spoil(root)
    if start == "warm":
        cached(root, tmp_path / "cache", bad_files="skip")
    with pytest.raises(Refused) as refused:
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
    expected = ["not an image", "cut short (truncated)", "an empty file", "a folder, not a file"]
    assert reasons == expected
    assert "data.bad_files=skip" in last


def test_skipping_leaves_out_the_bad_files_and_nothing_else(root, tmp_path):
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
    assert photos.photo_set.splits["train"] == train.split
    assert len(train.split) == len(train.eval_pixels) == len(train.train_pixels) == 9
    assert train.split.labels == (0,) * 5 + (1,) * 4
    rows = [row for row in range(10) if row != 6]  # train/rose/1.jpg was there
    assert np.array_equal(train.eval_pixels, good.eval_pixels[rows])
    assert train.sha256 == tuple(good.sha256[row] for row in rows)


def test_skipping_a_classs_last_photo_of_a_split_is_refused(root, tmp_path):
    (root / "val" / "rose" / "0.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(Refused, match=r"val has no photo left of 'rose'(.|\n)*val/rose/0\.jpg"):
        cached(root, tmp_path / "cache", bad_files="skip")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_the_process_at_once_and_leaves_no_half_cache(root, tmp_path):
    builder = start_builder(root, tmp_path / "cache", seconds=60)
    wait_for(builder, "train: decoding photos 3")
    started = time.monotonic()
    builder.send_signal(signal.SIGINT)
    builder.wait(timeout=20)
    assert time.monotonic() - started < 5
    assert not list((tmp_path / "cache" / "pixels").glob("*.building"))


def test_a_damaged_cache_is_named(root, tmp_path):
    key = cached(root, tmp_path / "cache").splits["train"].key
    with (tmp_path / "cache" / "pixels" / key / "eval.u8").open("r+b") as file:
        file.truncate(100)
    with pytest.raises(Refused, match=rf"{key} is damaged .*delete it"):
        cached(root, tmp_path / "cache")


def test_a_cache_folder_that_cannot_be_made_is_refused_with_the_way_out(root, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="FLOWERTUNE_CACHE"):
        cached(root, tmp_path / "file")


def test_too_little_space_is_said_before_decoding(root, tmp_path, monkeypatch, decoded):
    full = shutil._ntuple_diskusage(10**9, 10**9, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(Refused, match=r"needs .* GB .*FLOWERTUNE_CACHE"):
        cached(root, tmp_path / "cache")
    assert decoded == []


def test_a_disk_that_fills_up_is_told_and_leaves_nothing(root, tmp_path):
    """With a limit on the size of a file, which fails like a full disk does: in write()."""
    pytest.importorskip("resource", reason="this platform has no limits on file sizes")
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    run()
except Refused as refused:
    print(refused)
"""
    output = output_of(root, tmp_path / "cache", WITHOUT_OPEN_CLIP + code)
    assert "cannot write the photo cache" in output
    assert not list((tmp_path / "cache" / "pixels").glob("*.building"))


BUILDER = """
import sys, time
from pathlib import Path
sys.path[:0] = [{src!r}, {tests!r}]
from test_cache import cached
from flowertune.data import stored_pixels, pixels
from flowertune.errors import Refused

def run(progress=None):
    return cached(Path({root!r}), Path({folder!r}), progress=progress)
"""

# What "squash" is, without the seconds that it takes to import open_clip.
WITHOUT_OPEN_CLIP = """
def resize(image):
    return image.resize((32, 32), pixels.Image.Resampling.BICUBIC)
pixels.eval_transform = stored_pixels.eval_transform = lambda preprocessing: resize
"""


def builder_command(root: Path, folder: Path, code: str) -> list[str]:
    here = str(Path(__file__).parent)
    prepared = BUILDER.format(src=str(SRC), tests=here, root=str(root), folder=str(folder))
    return [sys.executable, "-c", prepared + code]


def output_of(root: Path, folder: Path, code: str) -> str:
    command = builder_command(root, folder, code)
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=120
    ).stdout


# A process whose parents were started in the background inherits that Ctrl-C is ignored.
LISTENING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
"""

SLOW = """
def progress(text, done, total):
    print(text, done, flush=True)
    if text == "train: decoding photos" and done == 3:
        time.sleep({seconds})
run(progress)
"""


def wait_for(process: subprocess.Popen, line: str) -> None:
    for output in process.stdout:
        if output.strip() == line:
            return
    raise AssertionError(f"the builder ended without saying {line!r}")


def start_builder(root: Path, folder: Path, seconds: float) -> subprocess.Popen:
    code = LISTENING + WITHOUT_OPEN_CLIP + SLOW.format(seconds=seconds)
    command = builder_command(root, folder, code)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_builder_killed_in_the_middle_blocks_nobody(root, tmp_path, decoded):
    builder = start_builder(root, tmp_path / "cache", seconds=60)
    wait_for(builder, "train: decoding photos 3")
    builder.kill()
    builder.wait()
    pixels = tmp_path / "cache" / "pixels"
    assert [path for path in pixels.iterdir() if path.suffix == ".building"]

    started = time.monotonic()
    photos = cached(root, tmp_path / "cache")
    assert time.monotonic() - started < 20
    assert len(decoded) == 12
    assert not list(pixels.glob("*.building"))
    assert_same_pixels(photos, cached(root, tmp_path / "other"))


def test_what_a_killed_builder_left_goes_even_if_its_photos_changed(root, tmp_path):
    builder = start_builder(root, tmp_path / "cache", seconds=60)
    wait_for(builder, "train: decoding photos 3")
    builder.kill()
    builder.wait()
    (root / "train" / "rose" / "0.jpg").unlink()
    cached(root, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "pixels").glob("*.building"))


def test_of_two_processes_one_builds_and_the_other_waits_and_says_so(root, tmp_path, decoded):
    builder = start_builder(root, tmp_path / "cache", seconds=3)
    wait_for(builder, "train: decoding photos 3")
    said: list[str] = []

    def progress(text: str, done: int, total: int) -> None:
        said.append(text)

    photos = cached(root, tmp_path / "cache", progress=progress)
    builder.communicate(timeout=60)
    assert builder.returncode == 0
    assert said[0] == "train: waiting for another process that decodes them"
    assert len(decoded) <= 2  # val alone, if this process came to it first
    assert_same_pixels(photos, cached(root, tmp_path / "other"))


def test_the_cache_root_is_the_users_choice_or_the_platforms(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWERTUNE_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"
    monkeypatch.delenv("FLOWERTUNE_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "flowertune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "flowertune"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_root() == tmp_path / "Library" / "Caches" / "flowertune"

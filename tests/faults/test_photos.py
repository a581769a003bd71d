"""Damaged photo files: each is read as PIL reads it, or is in the list with a reason."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from flowertune.data.cache.dataset import CachedDataset, cache_dataset
from flowertune.data.cache.decode import quiet_pil
from flowertune.data.dataset import ImageDataset, Split
from flowertune.data.image import FORMATS, Preprocessing, train_pixels

SMALL = Preprocessing((32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "squash", 0)
ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
SAVED = {
    "JPEG": [{}, {"progressive": True}, {"orientation": 6}],
    "PNG": [{}, {"orientation": 6}],
    "WEBP": [{}, {"lossless": True}],
    "GIF": [{}],
    "BMP": [{}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "jpeg"}, {"orientation": 6}],
}

WORDS = ["rose", "薔薇", "गुलाब", "ورد", "r\"o, s'e"]  # in names

Damage = Callable[[bytes, str, np.random.Generator], bytes]


def whole(kind: str, rng: np.random.Generator) -> bytes:
    """A photo of 90 x 60 with smooth and with busy parts, saved in one of the ways."""
    options = dict(SAVED[kind][rng.integers(len(SAVED[kind]))])
    pixels = np.linspace(0, 255, 60 * 90 * 3).reshape(60, 90, 3).astype(np.uint8)
    pixels[20:40] = rng.integers(0, 256, (20, 90, 3))
    orientation = options.pop("orientation", None)
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def cut(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(1, len(data))]


def cut_in_header(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(1, 64)]


def flip(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    flipped = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 9)):
        flipped[place] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def flip_in_header(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    return flip(data[:64], kind, rng) + data[64:]


def overwrite(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A block of the disk that holds something else."""
    block = int(rng.integers(16, 512))
    place = int(rng.integers(0, len(data) - 16))
    fill = [bytes(block), b"\xff" * block, rng.bytes(block)][rng.integers(3)]
    return (data[:place] + fill + data[place + block :])[: len(data)]


def lose_block(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(0, len(data) - 16))
    return data[:place] + data[place + int(rng.integers(1, 512)) :]


def append(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    return data + [rng.bytes(300), bytes(300), data][rng.integers(3)]


def continue_as_another(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    other = whole(sorted(SAVED)[rng.integers(len(SAVED))], rng)
    half = int(rng.integers(1, min(len(data), len(other))))
    return data[:half] + other[half:]


def lie(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """A header that states another size: more, less, a side of none, 30,000 x 30,000."""
    sizes = [(30_000, 30_000), (2_000, 2_000), (90, 61), (91, 60), (45, 30), (1, 9_000), (0, 60)]
    width, height = sizes[rng.integers(len(sizes))]
    lying = bytearray(data)
    if kind == "JPEG":
        start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        struct.pack_into(">HH", lying, start + 5, height, width)
    elif kind == "PNG":
        struct.pack_into(">II", lying, 16, width, height)
        struct.pack_into(">I", lying, 29, zlib.crc32(bytes(lying[12:29])))
    elif kind == "WEBP":
        struct.pack_into("<HH", lying, 26, width & 0x3FFF, height & 0x3FFF)
    elif kind == "GIF":
        struct.pack_into("<HH", lying, 6, width, height)
    elif kind == "BMP":
        struct.pack_into("<ii", lying, 18, width, height)
    else:
        (directory,) = struct.unpack_from("<I", data, 4)
        for entry in range(directory + 2, len(data) - 12, 12):
            (tag,) = struct.unpack_from("<H", data, entry)
            if tag in (256, 257):
                side = width if tag == 256 else height
                struct.pack_into("<HHII", lying, entry, tag, 4, 1, side)
    return bytes(lying)


def empty(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    return b""


def zeros(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    return bytes(len(data))


def nothing(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Whole, for the sake of its wrong ending."""
    return data


DAMAGES: list[Damage] = [
    cut, cut, cut_in_header, flip, flip, flip_in_header, overwrite, overwrite, lose_block, append,
    continue_as_another, lie, lie, empty, zeros, nothing,
]  # fmt: skip


def by_pil(path: Path) -> Image.Image | None:
    """The upright RGB picture as PIL by itself gives it; None where it gives none."""
    try:
        with Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS) as image:
            image.load()
            try:
                upright = ImageOps.exif_transpose(image)
            except Exception:  # of damaged EXIF, which is not the picture
                upright = image
            return upright.convert("RGB")
    except Exception:  # PIL raises nearly anything on damaged files
        return None


def write_damaged(folder: Path, kind: str, rounds: int) -> list[Path]:
    """`rounds` times 16 files, every fourth with another format's ending."""
    rng = np.random.default_rng([rounds, sorted(SAVED).index(kind)])
    paths = []
    for number in range(rounds * len(DAMAGES)):
        damage = DAMAGES[number % len(DAMAGES)]
        named = sorted(ENDINGS)[rng.integers(6)] if number % 4 == 3 else kind
        path = folder / f"{number:04d} {WORDS[number % 5]} {damage.__name__}.{ENDINGS[named]}"
        path.write_bytes(damage(whole(kind, rng), kind, rng))
        paths.append(path)
    return paths


def photos_of(paths: tuple[Path, ...], folder: Path) -> CachedDataset:
    splits = {"train": Split(paths, (0,) * len(paths))}
    return cache_dataset(
        ImageDataset(folder / "photos", "", ("rose",), None, splits),
        SMALL,
        train_form=True,
        folder=folder / "cache",
        bad_files="skip",
        progress=lambda *_: None,
    )


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=pytest.mark.faults)])
@pytest.mark.parametrize("kind", SAVED)
def test_a_damaged_photo_is_read_as_pil_reads_it_or_is_named(kind, rounds, tmp_path, no_hang):
    folder = tmp_path / "photos" / "rose"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    (folder / "whole").write_bytes(whole(kind, rng))
    paths = (folder / "whole", *write_damaged(folder, kind, rounds))
    with no_hang():
        photos = photos_of(paths, tmp_path)
    train = photos.splits["train"]
    bad = dict(photos.bad)
    assert len(train.split.paths) + len(bad) == len(paths)
    with quiet_pil():
        for row, path in enumerate(train.split.paths):
            expected = by_pil(path)
            assert expected is not None, path.name
            resized = np.asarray(expected.resize((32, 32), Image.Resampling.BICUBIC))
            assert np.array_equal(train.eval_pixels[row], resized.transpose(2, 0, 1)), path.name
            form = train_pixels(expected, SMALL)
            height, width = train.train_sizes[row]
            assert np.array_equal(train.train_pixels[row, :, :height, :width], form), path.name
        for path, reason in bad.items():
            assert reason.isprintable(), path.name
            assert 0 < len(reason) < 120, path.name
            assert by_pil(path) is None, f"{path.name}: {reason}"
    # neither everything nor nothing is refused
    assert len(bad) > len(paths) / 4
    assert len(train.split.paths) > len(paths) / 8


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path, no_hang):
    folder = tmp_path / "photos" / "rose"
    folder.mkdir(parents=True)
    (folder / "whole").write_bytes(whole("PNG", np.random.default_rng(0)))
    (folder / "folder.jpg").mkdir()
    (folder / "round.jpg").symlink_to("round.jpg")
    (folder / "lost.jpg").symlink_to("nowhere.jpg")
    expected = {"folder.jpg", "round.jpg", "lost.jpg", "gone.jpg"}
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.jpg")
        expected.add("pipe.jpg")
    names = ("whole", *sorted(expected))
    with no_hang():
        photos = photos_of(tuple(folder / name for name in names), tmp_path)
    assert {path.name for path, _ in photos.bad} == expected

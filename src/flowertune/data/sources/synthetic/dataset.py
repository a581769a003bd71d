"""The built-in synthetic flowers: drawn once into a folder, then listed like other images."""

import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowertune import files
from flowertune.data.cache_dir import MOVE_HINT, check_space
from flowertune.data.dataset import ImageDataset, Split
from flowertune.data.download import Progress
from flowertune.data.sources.synthetic.captions import description
from flowertune.data.sources.synthetic.conditions import EVENING
from flowertune.data.sources.synthetic.scene import DRAWING_VERSION, draw_picture
from flowertune.data.sources.synthetic.species import SPECIES
from flowertune.errors import UsageError
from flowertune.files import format_bytes, lock

NAME = "synthetic"
CHECKSUMS = "crc32.json"
PICTURE_BYTES = 12_288  # of a disk, in whole blocks; no picture takes more


def list_images(
    root: Path,
    *,
    train_per_class: int,
    val_per_class: int,
    test_per_class: int,
    seed: int,
    progress: Progress,
) -> ImageDataset:
    """Draw the flowers below `root` that are not there yet or are damaged, and list them.

    The pictures are 64 x 64 PNG files, `root/<key>/<split>/<species>/0000.png`; the key stands for
    the drawing's version, the counts and the seed. They appear all at once or not at all, and two
    processes may ask for them at the same time. A picture depends on (seed, split, species,
    number) alone: asking for more of them does not change the first ones. `progress(description,
    done, total)` counts pictures.

    Raises:
        UsageError: the folder cannot be written, or lacks the space.
    """
    counts = _counts(train_per_class, val_per_class, test_per_class)
    pictures = {
        f"{split}/{species}/{number:04d}.png": (label, split, species, number)
        for split, count in counts.items()
        for label, species in enumerate(SPECIES)
        for number in range(count)
    }
    folder = root / _key(counts, seed)

    def report_waiting() -> None:
        progress("waiting for another process that draws the flowers", 0, None)

    def draw(name: str) -> bytes:
        _, split, species, number = pictures[name]
        return _encode_png(picture(seed, split, species, number))

    try:
        if _find_damaged(folder, pictures):
            root.mkdir(parents=True, exist_ok=True)
            with lock(root / f"{folder.name}.lock", report_waiting):
                damaged = _find_damaged(folder, pictures)
                if len(damaged) == len(pictures):
                    _draw_all(folder, damaged, draw, progress)
                elif damaged:
                    _redraw(folder, damaged, draw, progress)
    except OSError as error:
        reason = error.strerror or error
        needed = format_bytes(PICTURE_BYTES * len(pictures))
        raise UsageError(
            f"cannot draw the flowers in {root}, {needed} of them: {reason}; {MOVE_HINT}"
        ) from error
    splits: dict[str, list[tuple[Path, int]]] = {split: [] for split in counts}
    for name, (label, split, _, _) in pictures.items():
        splits[split].append((folder / name, label))
    return ImageDataset(
        name=NAME,
        root=folder,
        protocol=f"synthetic flowers: {len(SPECIES)} species, train {train_per_class}, "
        f"val {val_per_class}, test {test_per_class} a species, data.seed={seed}",
        class_names=tuple(SPECIES),
        descriptions=tuple(description(attributes) for attributes in SPECIES.values()),
        splits={
            split: Split(tuple(path for path, _ in listed), tuple(label for _, label in listed))
            for split, listed in splits.items()
        },
    )


def dataset_folder(
    root: Path, *, train_per_class: int, val_per_class: int, test_per_class: int, seed: int
) -> Path:
    """Return the folder into which `list_images` draws the pictures."""
    return root / _key(_counts(train_per_class, val_per_class, test_per_class), seed)


def _counts(train: int, val: int, test: int) -> dict[str, int]:
    counts = {"train": train, "val": val, "test": test}
    return {split: count for split, count in counts.items() if count}


def picture(seed: int, split: str, species: str, number: int) -> npt.NDArray[np.uint8]:
    """Draw one picture (64, 64, 3) uint8; a pure function of its arguments."""
    text = f"{seed}/{split}/{species}/{number}".encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    return draw_picture(SPECIES[species], EVENING, rng)


def _key(counts: dict[str, int], seed: int) -> str:
    text = repr((DRAWING_VERSION, EVENING, sorted(counts.items()), seed, sorted(SPECIES.items())))
    # as the fields were spelled when the first flowers were drawn, which are still found
    text = text.replace("color", "colour").replace("center", "centre")
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _find_damaged(folder: Path, names: Collection[str]) -> list[str]:
    """List the pictures whose checksums are wrong; all where the checksums are lost.

    PIL would not see it everywhere: it leaves a PNG's own checksums of its pixels unread.
    """
    try:
        crc32 = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return list(names)
    return [name for name in names if _crc32_or_none(folder / name) != crc32.get(name)]


def _crc32_or_none(path: Path) -> int | None:
    try:
        return zlib.crc32(path.read_bytes())
    except OSError:
        return None


def _draw_all(
    folder: Path, names: Sequence[str], draw: Callable[[str], bytes], progress: Progress
) -> None:
    """Draw into a partial folder and rename it: `folder` is complete or absent.

    Called under the lock, so a partial folder that is there already is what a killed process left.
    """
    check_space("drawing the flowers", PICTURE_BYTES * len(names), folder.parent)
    partial = folder.with_suffix(".part")
    shutil.rmtree(partial, ignore_errors=True)
    crc32 = {}
    try:
        for done, name in enumerate(names, start=1):
            content = draw(name)
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_bytes(content)
            crc32[name] = zlib.crc32(content)
            progress("drawing flowers", done, len(names))
        files.write_json(partial / CHECKSUMS, crc32)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already when all went well


def _redraw(
    folder: Path, names: Sequence[str], draw: Callable[[str], bytes], progress: Progress
) -> None:
    """Redraw damaged pictures in place, with their checksums, which may be the damaged part."""
    crc32 = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    for done, name in enumerate(names, start=1):
        content = draw(name)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(folder / name, content)
        crc32[name] = zlib.crc32(content)
        progress("drawing damaged flowers anew", done, len(names))
    files.write_json(folder / CHECKSUMS, crc32)

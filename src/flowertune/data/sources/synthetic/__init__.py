"""The built-in synthetic flowers: drawn once into a folder, then listed like any other photos."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image

from flowertune.data.cache_folder import MOVE_HINT
from flowertune.data.download import Progress
from flowertune.data.photos import PhotoSet, Split
from flowertune.data.sources.synthetic.captions import description
from flowertune.data.sources.synthetic.conditions import EVENING
from flowertune.data.sources.synthetic.scene import DRAWING_VERSION, draw_picture
from flowertune.data.sources.synthetic.species import SPECIES
from flowertune.errors import Refused

NAME = "synthetic"


def photo_set(
    root: Path,
    *,
    train_per_class: int,
    val_per_class: int,
    test_per_class: int,
    seed: int,
    progress: Progress,
) -> PhotoSet:
    """Draw the flowers below `root` if they are not there yet, and list them.

    The pictures are 64 x 64 PNG files, `root/<key>/<split>/<species>/0000.png`; the key stands for
    the drawing's version, the counts and the seed. They appear all at once or not at all, and two
    processes may ask for them at the same time. A picture depends on (seed, split, species,
    number) alone: asking for more of them does not change the first ones. `progress(description,
    done, total)` counts pictures.

    Raises:
        Refused: the folder cannot be written.
    """
    counts = {"train": train_per_class, "val": val_per_class, "test": test_per_class}
    counts = {split: count for split, count in counts.items() if count}
    folder = root / _key(counts, seed)
    try:
        if not folder.is_dir():
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root / f"{folder.name}.lock"):
                if not folder.is_dir():
                    _draw_all(folder, counts, seed, progress)
    except OSError as error:
        reason = error.strerror or error
        raise Refused(f"cannot draw the flowers in {root}: {reason}; {MOVE_HINT}") from error
    splits = {}
    for split, count in counts.items():
        files = [
            (folder / split / name / f"{number:04d}.png", label)
            for label, name in enumerate(SPECIES)
            for number in range(count)
        ]
        splits[split] = Split(tuple(path for path, _ in files), tuple(label for _, label in files))
    return PhotoSet(
        name=NAME,
        root=folder,
        protocol=f"synthetic flowers: {len(SPECIES)} species, train {train_per_class}, "
        f"val {val_per_class}, test {test_per_class} a species, data.seed={seed}",
        class_names=tuple(SPECIES),
        descriptions=tuple(description(attributes) for attributes in SPECIES.values()),
        splits=splits,
    )


def picture(seed: int, split: str, species: str, number: int) -> npt.NDArray[np.uint8]:
    """One picture (64, 64, 3) uint8; a pure function of its arguments."""
    text = f"{seed}/{split}/{species}/{number}".encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    return draw_picture(SPECIES[species], EVENING, rng)


def _key(counts: dict[str, int], seed: int) -> str:
    text = repr((DRAWING_VERSION, EVENING, sorted(counts.items()), seed, sorted(SPECIES.items())))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _draw_all(folder: Path, counts: dict[str, int], seed: int, progress: Progress) -> None:
    """Into a folder beside, which then takes its name: `folder` is complete or absent.

    Called under the lock, so a folder beside that is there already is what a killed process left.
    """
    aside = folder.with_suffix(".part")
    shutil.rmtree(aside, ignore_errors=True)
    total, done = sum(counts.values()) * len(SPECIES), 0
    try:
        for split, count in counts.items():
            for species in SPECIES:
                place = aside / split / species
                place.mkdir(parents=True)
                for number in range(count):
                    pixels = picture(seed, split, species, number)
                    Image.fromarray(pixels).save(place / f"{number:04d}.png", compress_level=1)
                    done += 1
                    progress("drawing flowers", done, total)
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # gone already when all went well

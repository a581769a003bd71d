"""Generate the built-in synthetic flowers once into a folder, and list them like other images."""

import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from flowertune.data import cache_dir
from flowertune.data.dataset import ImageDataset, Progress, Split
from flowertune.data.sources.synthetic.scene import DRAWING_VERSION, EVENING, draw_picture
from flowertune.data.sources.synthetic.species import SPECIES, description
from flowertune.errors import UsageError
from flowertune.files import format_bytes, lock

Pictures = Mapping[str, tuple[str, str, int]]  # file name -> split, species, number
PICTURE_BYTES = 12_288  # most bytes of an image on disk, in whole blocks


def list_images(
    root: Path, *, counts: Mapping[str, int], seed: int, progress: Progress
) -> ImageDataset:
    """Generate the flowers below `root` if they are missing or damaged, and list them.

    `counts` has the number of images per species in train, val and test. The images are 64 x 64 PNG
    files, `root/<key>/<split>/<species>/0000.png`. They appear all at once or not at all, and
    several processes may call this at the same time. An image depends only on (seed, split,
    species, number): larger counts do not change the first ones.

    Raises UsageError if the folder cannot be written or lacks space.
    """
    folder = dataset_folder(root, counts=counts, seed=seed)
    pictures = {
        f"{split}/{species}/{number:04d}.png": (split, species, number)
        for split, count in counts.items()
        for species in SPECIES
        for number in range(count)
    }
    waiting = partial(progress, "waiting for another process to generate the flowers", 0, None)
    try:
        if not _is_intact(folder, pictures):
            root.mkdir(parents=True, exist_ok=True)
            with lock(folder.with_suffix(cache_dir.LOCK), waiting):
                if not _is_intact(folder, pictures):
                    _draw(folder, pictures, seed, progress)
    except OSError as error:
        reason = error.strerror or error
        needed = format_bytes(PICTURE_BYTES * len(pictures))
        raise UsageError(
            f"cannot write the synthetic flowers ({needed}) in {root}: {reason};"
            f" {cache_dir.MOVE_HINT}"
        ) from error
    return ImageDataset(
        root=folder,
        protocol=f"synthetic flowers: {len(SPECIES)} species, "
        f"{', '.join(f'{split} {count}' for split, count in counts.items())} per species, "
        f"data.seed={seed}",
        class_names=tuple(SPECIES),
        descriptions=tuple(description(attributes) for attributes in SPECIES.values()),
        splits={
            split: Split(
                paths=tuple(folder / name for name, drawn in pictures.items() if drawn[0] == split),
                labels=tuple(label for label in range(len(SPECIES)) for _ in range(count)),
            )
            for split, count in counts.items()
            if count
        },
    )


def dataset_folder(root: Path, *, counts: Mapping[str, int], seed: int) -> Path:
    """Return the folder into which `list_images` writes the images."""
    drawn = sorted((split, count) for split, count in counts.items() if count)
    text = repr((DRAWING_VERSION, EVENING, drawn, seed, sorted(SPECIES.items())))
    # the fields' original spelling, so that flowers from an older cache are still found
    text = text.replace("color", "colour").replace("center", "centre")
    return root / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def picture(seed: int, split: str, species: str, number: int) -> npt.NDArray[np.uint8]:
    """Generate one image (64, 64, 3) uint8; a pure function of its arguments."""
    text = f"{seed}/{split}/{species}/{number}".encode()
    digest = hashlib.blake2b(text, digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(digest, "big"))
    return draw_picture(SPECIES[species], EVENING, rng)


def _is_intact(folder: Path, names: Iterable[str]) -> bool:
    # by our own checksums, because PIL ignores those of a PNG's pixels
    try:
        crc32 = cache_dir.read_meta(folder)["crc32"]
        return all(zlib.crc32((folder / name).read_bytes()) == crc32[name] for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _draw(folder: Path, pictures: Pictures, seed: int, progress: Progress) -> None:
    cache_dir.check_space("the synthetic data", PICTURE_BYTES * len(pictures), folder.parent)
    crc32 = {}
    with cache_dir.build_entry(folder) as incomplete:
        for done, (name, drawn) in enumerate(pictures.items(), start=1):
            png = io.BytesIO()
            Image.fromarray(picture(seed, *drawn)).save(png, "PNG", compress_level=1)
            (incomplete / name).parent.mkdir(parents=True, exist_ok=True)
            (incomplete / name).write_bytes(png.getvalue())
            crc32[name] = zlib.crc32(png.getvalue())
            progress("generating flowers", done, len(pictures))
        counts = Counter(split for split, _, _ in pictures.values())
        sizes = ", ".join(f"{split} {count:,}" for split, count in counts.items())
        cache_dir.write_meta(incomplete, sizes, crc32=crc32)

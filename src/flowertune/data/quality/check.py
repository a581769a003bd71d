"""Check a dataset for unreadable files, small or uneven classes, and duplicate images."""

import hashlib
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from flowertune.data.cache.decode import parallel_map, quiet_pil
from flowertune.data.dataset import ImageDataset, Progress
from flowertune.data.image import UnreadableImageError, decode_image, image_bytes, readable_formats
from flowertune.data.quality.near_duplicates import PerceptualHash, find_duplicates, perceptual_hash
from flowertune.data.sources.layout import fold

# Minimum images per class: enough to learn from in train, and any to measure on.
MIN_IMAGES = {"train": 5, "val": 1, "test": 1}
DARK = 0.25  # of the range of 12 or 16 bits: scaled by it, such an image is nearly black
MAX_IMBALANCE = 10  # largest class of train relative to the smallest


@dataclass(frozen=True)
class NamedImage:
    """An image file of a split; `name` is its path relative to the root, with slashes."""

    split: str
    name: str
    class_name: str


@dataclass(frozen=True)
class DuplicateGroup:
    """Two or more images with the same content; `identical` if the files are the same."""

    photos: tuple[NamedImage, ...]
    identical: bool

    @property
    def place(self) -> str:
        """The most harmful case: "two_classes", else "two_splits", else "repeated" in a split."""
        if len({image.class_name for image in self.photos}) > 1:
            return "two_classes"
        return "two_splits" if len({image.split for image in self.photos}) > 1 else "repeated"


@dataclass(frozen=True)
class Findings:
    """Findings of a check, worst first.

    Each group of duplicates is listed once: in `two_classes`, where a label must be wrong, else in
    `two_splits`, where training images are measured on, else in `repeated`. `few` is (split, class,
    readable images), `uneven` the smallest and the largest class of train with their image counts,
    `endings` the true format of files whose extension names another. `layout` says what keeps the
    folders or the table from being trained on, and `twins` lists classes whose names differ only in
    case, spaces or Unicode form. `dark` lists grayscale scans with the share of their depth's range
    that they use, if it is under DARK.
    """

    layout: tuple[str, ...]
    twins: tuple[tuple[str, ...], ...]
    two_classes: tuple[DuplicateGroup, ...]
    two_splits: tuple[DuplicateGroup, ...]
    unreadable: tuple[tuple[NamedImage, str], ...]
    few: tuple[tuple[str, str, int], ...]
    repeated: tuple[DuplicateGroup, ...]
    uneven: tuple[tuple[str, int], ...]
    endings: tuple[tuple[NamedImage, str], ...]
    dark: tuple[tuple[NamedImage, float], ...]

    def __len__(self) -> int:
        groups = (
            self.layout, self.twins, self.two_classes, self.two_splits, self.unreadable, self.few,
            self.repeated, self.endings, self.dark,
        )  # fmt: skip
        return sum(map(len, groups)) + bool(self.uneven)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "findings": len(self),
            "layout": list(self.layout),
            "twins": list(map(list, self.twins)),
            **{
                key: [asdict(group) for group in getattr(self, key)]
                for key in ("two_classes", "two_splits", "repeated")
            },
            "unreadable": [asdict(image) | {"reason": reason} for image, reason in self.unreadable],
            "few": [{"split": split, "class_name": c, "photos": n} for split, c, n in self.few],
            "uneven": [{"class_name": name, "photos": n} for name, n in self.uneven],
            "endings": [asdict(image) | {"format": name} for image, name in self.endings],
            "dark": [asdict(image) | {"range": share} for image, share in self.dark],
        }


class _ImageFacts(NamedTuple):
    sha256: str
    format: str
    perceptual_hash: PerceptualHash
    dark: float | None


def check(dataset: ImageDataset, progress: Progress, problems: Sequence[str] = ()) -> Findings:
    """Decode every image once, and compare all pairs; `problems` go into `layout`."""
    class_names = dataset.class_names
    images = [
        (path, NamedImage(split, path.relative_to(dataset.root).as_posix(), class_names[label]))
        for split, listed in dataset.splits.items()
        for path, label in zip(listed.paths, listed.labels, strict=True)
    ]
    readable: list[tuple[NamedImage, _ImageFacts]] = []
    unreadable: list[tuple[NamedImage, str]] = []
    with quiet_pil(), closing(parallel_map(_image_facts, [path for path, _ in images])) as results:
        for done, ((_, image), facts) in enumerate(zip(images, results, strict=True), start=1):
            if isinstance(facts, UnreadableImageError):
                unreadable.append((image, str(facts)))
            else:
                readable.append((image, facts))
            progress("decoding images", done, len(images))

    groups: dict[str, list[DuplicateGroup]] = defaultdict(list)
    for group in _duplicates(readable, progress):
        groups[group.place].append(group)
    counts = Counter((image.split, image.class_name) for image, _ in readable)
    sizes = [(name, counts["train", name]) for name in class_names]
    none = ("", 0)
    smallest = min(sizes, key=itemgetter(1), default=none)
    largest = max(sizes, key=itemgetter(1), default=none)
    folded = defaultdict(list)
    for name in class_names:
        folded[fold(name)].append(name)
    is_uneven = largest[1] >= MAX_IMBALANCE * max(smallest[1], 1)
    return Findings(
        layout=tuple(problems),
        twins=tuple(tuple(names) for names in folded.values() if len(names) > 1),
        two_classes=tuple(groups["two_classes"]),
        two_splits=tuple(groups["two_splits"]),
        unreadable=tuple(unreadable),
        few=tuple(
            (split, name, counts[split, name])
            for split in dataset.splits
            for name in class_names
            if counts[split, name] < MIN_IMAGES.get(split, 1)
        ),
        repeated=tuple(groups["repeated"]),
        uneven=(smallest, largest) if is_uneven else (),
        endings=tuple(
            (image, facts.format) for image, facts in readable if _is_misnamed(image, facts.format)
        ),
        dark=tuple((image, facts.dark) for image, facts in readable if facts.dark is not None),
    )


def _image_facts(path: Path) -> _ImageFacts | UnreadableImageError:
    try:
        data = image_bytes(path)
        image = decode_image(data)
    except UnreadableImageError as error:
        return error
    with Image.open(io.BytesIO(data), formats=readable_formats()) as header:
        # MPO is a JPEG with more images after the first, as phones write it; count it as JPEG
        name = "JPEG" if header.format == "MPO" else str(header.format)
        is_deep = header.mode[0] in "IF"
    brightest = float(np.asarray(image).max()) / 255
    dark = brightest if is_deep and brightest < DARK else None
    return _ImageFacts(hashlib.sha256(data).hexdigest(), name, perceptual_hash(image), dark)


def _duplicates(
    readable: list[tuple[NamedImage, _ImageFacts]], progress: Progress
) -> list[DuplicateGroup]:
    """Group duplicates: two or more images per group, in the order of their first images."""
    contents: dict[str, list[NamedImage]] = defaultdict(list)
    hashes: dict[str, PerceptualHash] = {}
    for image, facts in readable:
        contents[facts.sha256].append(image)
        hashes[facts.sha256] = facts.perceptual_hash
    if not contents:
        return []
    numbers = find_duplicates(list(hashes.values()), progress)
    groups: dict[int, list[list[NamedImage]]] = defaultdict(list)
    for number, copies in zip(numbers.tolist(), contents.values(), strict=True):
        groups[number].append(copies)
    return [
        DuplicateGroup(tuple(itertools.chain(*group)), identical=len(group) == 1)
        for group in groups.values()
        if sum(map(len, group)) > 1
    ]


def _is_misnamed(image: NamedImage, true_format: str) -> bool:
    """Whether the file extension names another format; an unknown extension names none."""
    ending = Path(image.name).suffix.lower()
    named = Image.registered_extensions().get(ending, true_format)
    return named != true_format and not (named == "MPO" and true_format == "JPEG")

"""What is wrong with a person's photos: files, classes, and the same picture more than once."""

import hashlib
import io
from collections import Counter, defaultdict
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from flowertune.data.cache.decode import Progress, in_order, quiet_pil
from flowertune.data.dataset import ImageDataset
from flowertune.data.image import UnreadableImageError, decode_image, image_bytes, readable_formats
from flowertune.data.quality.near_duplicates import PerceptualHash, find_duplicates, perceptual_hash

# Photos of a class: with fewer in train there is little to learn from, with none to measure on.
FEW = {"train": 5, "val": 1, "test": 1}
UNEVEN = 10  # times as many photos as the smallest class of train


@dataclass(frozen=True)
class NamedImage:
    """A file below the root, with slashes; what it should show, and in which split it is."""

    split: str
    name: str
    class_name: str


@dataclass(frozen=True)
class DuplicateGroup:
    """Two photos or more that show the same picture; `identical` where the files are the same."""

    photos: tuple[NamedImage, ...]
    identical: bool


@dataclass(frozen=True)
class Findings:
    """Everything that was found, the worst first.

    A group of photos with the same picture stands in one place: `two_classes` where a label must
    be wrong, else `two_splits` where a split measures what another trained, else `repeated`.
    `few` is (split, class, photos that decode), `uneven` the smallest and the largest class of
    train with their photos, `endings` the true format of files whose ending names another.
    """

    two_classes: tuple[DuplicateGroup, ...]
    two_splits: tuple[DuplicateGroup, ...]
    unreadable: tuple[tuple[NamedImage, str], ...]
    few: tuple[tuple[str, str, int], ...]
    repeated: tuple[DuplicateGroup, ...]
    uneven: tuple[tuple[str, int], ...]
    endings: tuple[tuple[NamedImage, str], ...]

    def __len__(self) -> int:
        groups = (self.two_classes, self.two_splits, self.unreadable, self.few, self.repeated)
        return sum(map(len, groups)) + len(self.endings) + bool(self.uneven)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "findings": len(self),
            **{
                key: [asdict(each) for each in getattr(self, key)]
                for key in ("two_classes", "two_splits", "repeated")
            },
            "unreadable": [asdict(photo) | {"reason": why} for photo, why in self.unreadable],
            "few": [{"split": split, "class_name": c, "photos": n} for split, c, n in self.few],
            "uneven": [{"class_name": name, "photos": n} for name, n in self.uneven],
            "endings": [asdict(photo) | {"format": name} for photo, name in self.endings],
        }


@dataclass(frozen=True)
class _ImageFacts:
    """What one reading of a file gives."""

    sha256: str
    format: str
    perceptual_hash: PerceptualHash


def check(dataset: ImageDataset, progress: Progress) -> Findings:
    """Read and decode every photo once, and compare all with all.

    Needs no backbone and changes nothing. `progress(description, done, total)` counts photos.
    """
    photos = [
        (path, NamedImage(split, _name(dataset, path), dataset.class_names[label]))
        for split, listed in dataset.splits.items()
        for path, label in zip(listed.paths, listed.labels, strict=True)
    ]
    readable: list[tuple[NamedImage, _ImageFacts]] = []
    unreadable: list[tuple[NamedImage, str]] = []
    with quiet_pil(), closing(in_order(_image_facts, [path for path, _ in photos])) as looks:
        for done, ((_, photo), look) in enumerate(zip(photos, looks, strict=True), start=1):
            if isinstance(look, UnreadableImageError):
                unreadable.append((photo, str(look)))
            else:
                readable.append((photo, look))
            progress("decoding photos", done, len(photos))

    same = _duplicates(readable, progress)
    labels = [len({photo.class_name for photo in each.photos}) for each in same]
    splits = [len({photo.split for photo in each.photos}) for each in same]
    found = list(zip(same, labels, splits, strict=True))
    counts = {
        split: Counter(photo.class_name for photo, _ in readable if photo.split == split)
        for split in dataset.splits
    }
    return Findings(
        two_classes=tuple(each for each, classes, _ in found if classes > 1),
        two_splits=tuple(each for each, classes, n in found if classes == 1 and n > 1),
        unreadable=tuple(unreadable),
        few=tuple(
            (split, name, counts[split][name])
            for split in dataset.splits
            for name in dataset.class_names
            if counts[split][name] < FEW[split]
        ),
        repeated=tuple(each for each, classes, n in found if classes == n == 1),
        uneven=_uneven([(name, counts["train"][name]) for name in dataset.class_names]),
        endings=tuple(
            (photo, look.format) for photo, look in readable if _names_another(photo, look.format)
        ),
    )


def _name(dataset: ImageDataset, path: Path) -> str:
    return path.relative_to(dataset.root).as_posix()


def _image_facts(path: Path) -> _ImageFacts | UnreadableImageError:
    try:
        data = image_bytes(path)
        image = decode_image(data)
    except UnreadableImageError as reason:
        return reason
    with Image.open(io.BytesIO(data), formats=readable_formats()) as header:
        # a JPEG with more pictures behind the first, as phones make them, is a JPEG to anyone
        name = "JPEG" if header.format == "MPO" else str(header.format)
    return _ImageFacts(hashlib.sha256(data).hexdigest(), name, perceptual_hash(image))


def _duplicates(
    readable: list[tuple[NamedImage, _ImageFacts]], progress: Progress
) -> list[DuplicateGroup]:
    """Groups of two photos or more, in the order of their first ones."""
    contents: dict[str, list[NamedImage]] = defaultdict(list)
    spectra: dict[str, PerceptualHash] = {}
    for photo, look in readable:
        contents[look.sha256].append(photo)
        spectra[look.sha256] = look.perceptual_hash
    if not contents:
        return []
    numbers = find_duplicates(list(spectra.values()), progress)
    groups: dict[int, list[list[NamedImage]]] = defaultdict(list)
    for number, alike in zip(numbers.tolist(), contents.values(), strict=True):
        groups[number].append(alike)
    return [
        DuplicateGroup(
            tuple(photo for alike in group for photo in alike), identical=len(group) == 1
        )
        for group in groups.values()
        if sum(map(len, group)) > 1
    ]


def _uneven(classes: list[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    """The smallest and the largest, where the one has many times the photos of the other."""
    smallest = min(classes, key=lambda each: each[1])
    largest = max(classes, key=lambda each: each[1])
    return (smallest, largest) if largest[1] >= UNEVEN * max(smallest[1], 1) else ()


def _names_another(photo: NamedImage, true_format: str) -> bool:
    """Whether its ending is that of another format; an ending that says nothing is no lie."""
    ending = Path(photo.name).suffix.lower()
    named = Image.registered_extensions().get(ending, true_format)
    return named != true_format and not (named == "MPO" and true_format == "JPEG")

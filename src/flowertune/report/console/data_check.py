"""What `flowertune data check` says."""

import itertools
from collections.abc import Callable, Iterable

from flowertune.data.quality.check import MIN_IMAGES, DuplicateGroup, Findings, NamedImage
from flowertune.errors import printable
from flowertune.report.console.run import ConsoleReporter

SHOWN = 10  # findings of a kind; --json has all


def show(console: ConsoleReporter, findings: Findings) -> None:
    """A heading for each kind of finding, the worst first, and some lines under it."""
    uneven = [f"{name}: {count:,} photos" for name, count in findings.uneven]
    sections = {
        "The same picture in two classes: a label may be wrong": _pictures(
            findings.two_classes, lambda photo: photo.class_name
        ),
        "The same picture in two splits: results look better than they are": _pictures(
            findings.two_splits, lambda photo: photo.split
        ),
        "Files that give no picture": [
            [f"{photo.name}: {reason}"] for photo, reason in findings.unreadable
        ],
        f"Few photos: under {MIN_IMAGES['train']} of a class in train, or none in another split": [
            [f"{name}: {count:,} in {split}"] for split, name, count in findings.few
        ],
        "The same picture more than once in a split": _pictures(
            findings.repeated, lambda photo: photo.split
        ),
        "Classes of very different sizes in train": [uneven] if uneven else [],
        "Endings that name another format (harmless here)": [
            [f"{photo.name}: {true_format}"] for photo, true_format in findings.endings
        ],
    }
    for heading, found in sections.items():
        if found:
            console.say("")
            console.say(f"{heading}: {len(found):,}")
            for line in itertools.chain.from_iterable(found[:SHOWN]):
                console.say(f"  {printable(line)}")
            if len(found) > SHOWN:
                console.say(f"  and {len(found) - SHOWN:,} more; --json lists all")
    if findings.two_classes or findings.two_splits or findings.repeated:
        console.say("")
        console.say("= the same file   ~ resized, recompressed, cropped a little or mirrored")
    if not len(findings):
        console.say("nothing found")


def _pictures(
    groups: Iterable[DuplicateGroup], place: Callable[[NamedImage], str]
) -> list[list[str]]:
    """Each group's photos one below the other, with what sets them apart."""
    found = []
    for group in groups:
        sign = "=" if group.identical else "~"
        first, *others = (_placed(photo.name, place(photo)) for photo in group.photos)
        found.append([f"{sign} {first}", *(f"  {other}" for other in others)])
    return found


def _placed(name: str, place: str) -> str:
    """A split or class is said where the folders do not say it."""
    return name if place in name.split("/") else f"{name}  ({place})"

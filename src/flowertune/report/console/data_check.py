"""Print the output of `flowertune data check`."""

import itertools
from collections.abc import Callable, Iterable

from flowertune.data.quality.check import MIN_IMAGES, DuplicateGroup, Findings, NamedImage
from flowertune.errors import printable
from flowertune.report.console.run import ConsoleReporter

SHOWN = 10  # findings of a kind; --json has all


def show(console: ConsoleReporter, findings: Findings) -> None:
    """Print the findings by kind, the worst first."""
    uneven = [f"{name}: {n:,} photos" for name, n in findings.uneven]
    sections = {
        "The same picture in two classes: a label may be wrong": _group_lines(
            findings.two_classes, lambda image: image.class_name
        ),
        "The same picture in two splits: results look better than they are": _group_lines(
            findings.two_splits, lambda image: image.split
        ),
        "Files that give no picture": [
            [f"{image.name}: {reason}"] for image, reason in findings.unreadable
        ],
        f"Few photos: under {MIN_IMAGES['train']} of a class in train, or none in another split": [
            [f"{name}: {n:,} in {split}"] for split, name, n in findings.few
        ],
        "The same picture more than once in a split": _group_lines(
            findings.repeated, lambda image: image.split
        ),
        "Classes of very different sizes in train": [uneven] if uneven else [],
        "Endings that name another format (harmless here)": [
            [f"{image.name}: {true_format}"] for image, true_format in findings.endings
        ],
    }
    for heading, entries in sections.items():
        if entries:
            console.say("")
            console.say(f"{heading}: {len(entries):,}")
            for line in itertools.chain.from_iterable(entries[:SHOWN]):
                console.say(f"  {printable(line)}")
            if len(entries) > SHOWN:
                console.say(f"  and {len(entries) - SHOWN:,} more; --json lists all")
    if findings.two_classes or findings.two_splits or findings.repeated:
        console.say("")
        console.say("= the same file   ~ resized, recompressed, cropped a little or mirrored")
    if not len(findings):
        console.say("nothing found")


def _group_lines(
    groups: Iterable[DuplicateGroup], locate: Callable[[NamedImage], str]
) -> list[list[str]]:
    """List each group's images below each other, with a split or class not in their names."""
    result = []
    for group in groups:
        names = [
            image.name + ("" if locate(image) in image.name.split("/") else f"  ({locate(image)})")
            for image in group.photos
        ]
        signs = itertools.chain("=" if group.identical else "~", itertools.repeat(" "))
        result.append([f"{sign} {name}" for sign, name in zip(signs, names, strict=False)])
    return result

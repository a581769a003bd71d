"""Print the output of `flowertune data check`."""

import itertools
from collections.abc import Callable, Iterable

from flowertune.data.quality.check import MIN_IMAGES, DuplicateGroup, Findings, NamedImage
from flowertune.errors import printable
from flowertune.report.console.run import ConsoleReporter

SHOWN = 10  # findings per kind; --json has all


def show(console: ConsoleReporter, findings: Findings) -> None:
    """Print the findings by kind, worst first."""
    uneven = [f"{name}: {n:,} images" for name, n in findings.uneven]
    sections = {
        "Cannot be trained on": [[problem] for problem in findings.layout],
        "Class names that differ only in case, spaces or accents (merge the folders)": [
            [", ".join(names)] for names in findings.twins
        ],
        "Same image in two classes (a label may be wrong)": _group_lines(
            findings.two_classes, lambda image: image.class_name
        ),
        "Same image in two splits (makes results look too good)": _group_lines(
            findings.two_splits, lambda image: image.split
        ),
        "Unreadable images": [[f"{image.name}: {reason}"] for image, reason in findings.unreadable],
        f"Few images (under {MIN_IMAGES['train']} per class in train, or none in another split)": [
            [f"{name}: {n:,} in {split}"] for split, name, n in findings.few
        ],
        "Same image more than once in a split": _group_lines(
            findings.repeated, lambda image: image.split
        ),
        "Classes of very different sizes in train": [uneven] if uneven else [],
        "Extensions that do not match the format (harmless here)": [
            [f"{image.name}: {true_format}"] for image, true_format in findings.endings
        ],
    }
    sections["Scans that use little of their depth (nearly black: rescale their values)"] = [
        [f"{image.name}: {share:.0%} of the range"] for image, share in findings.dark
    ]
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
        console.say("= identical file   ~ resized, recompressed, slightly cropped or mirrored")
    if not len(findings):
        console.say("no problems found")


def _group_lines(
    groups: Iterable[DuplicateGroup], locate: Callable[[NamedImage], str]
) -> list[list[str]]:
    """List the images of each group, with split or class if not part of their path."""
    result = []
    for group in groups:
        lines: list[str] = []
        for image in group.photos:
            place, sign = locate(image), " " if lines else "=" if group.identical else "~"
            suffix = "" if place in image.name.split("/") else f"  ({place})"
            lines.append(f"{sign} {image.name}{suffix}")
        result.append(lines)
    return result

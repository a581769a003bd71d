"""A dataset of image files with their labels in a table: CSV, TSV or text with another separator.

Columns are found by their usual names or named by keys. Paths start from the table's folder or from
`data.root`. A file may also be named without its folder or its ending, if only one file below that
folder fits.
"""

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowertune.data.dataset import ImageDataset
from flowertune.data.sources.folder import split_of
from flowertune.data.sources.layout import (
    Layout,
    arrange,
    arrange_for_evaluation,
    refusal,
)
from flowertune.data.sources.walk import may_be_image, walk_files
from flowertune.files import expand_user

# Usual names of columns, the best first; compared in lower case, without spaces and underscores.
IMAGE_COLUMNS = (
    "image", "file", "filename", "path", "filepath", "imagepath", "imagefile", "imagename",
    "imgpath", "img", "imgname", "imagefilename", "imageid", "photo", "photoid", "id",
)  # fmt: skip
LABEL_COLUMNS = (
    "label", "class", "classname", "labelname", "species", "scientificname", "category", "target",
    "breed", "labels", "classid", "labelid", "y",
)  # fmt: skip
SPLIT_COLUMNS = ("split", "subset", "set", "partition")
GROUP_COLUMNS = ("group", "groupid")
ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # by byte order mark; else UTF-8


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; None: found by their usual names."""

    image: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None


@dataclass
class _Rows:
    """Accepted rows, and for each reason the numbers of refused ones."""

    label_of: dict[Path, str] = field(default_factory=dict)
    split_of: dict[Path, str] = field(default_factory=dict)
    groups: dict[Path, str] = field(default_factory=dict)
    refused: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))


def list_images(
    path: Path,
    *,
    root: Path | None,
    columns: Columns,
    skip: bool,
    seed: int,
    min_images: int | None = None,
    names: Path | None = None,
    problems: list[str] | None = None,
) -> ImageDataset:
    """List the images of a table for training (`layout.arrange`).

    `skip` leaves out rows that cannot be used, with a note. Raises UsageError for a table that
    cannot be read, for such rows otherwise, and like `arrange`.
    """
    layout = _read(path, root, columns, skip, problems)
    return arrange(layout, seed=seed, min_images=min_images, names=names)


def list_evaluation_images(
    path: Path, *, root: Path | None, columns: Columns, skip: bool, names: Path | None = None
) -> ImageDataset:
    """List every image of a table with its class; raises UsageError like `list_images`."""
    return arrange_for_evaluation(_read(path, root, columns, skip), names=names)


def image_root(path: Path, root: Path | None) -> Path:
    """Return the folder that the table's paths start from."""
    return expand_user(path.parent if root is None else root).absolute()


def _read(
    path: Path, root: Path | None, columns: Columns, skip: bool, problems: list[str] | None = None
) -> Layout:
    path = expand_user(path).absolute()
    base = image_root(path, root)
    if not base.is_dir():
        raise refusal(f"data.root: {base} does not exist")
    notes: list[str] = []
    header, lines = _parse(path, notes)
    found = _find_columns(path, header, columns)
    if columns.split is None and "split" in found:
        words = {row[found["split"]] for _, row in lines if len(row) > found["split"]}
        if not any(map(split_of, words)):
            column = header[found.pop("split")]
            notes.append(f"column {column} of {path.name} does not name splits; not read")
    rows = _check_rows(lines, found, base)
    layout = Layout(base, f"table {path.name}", {}, notes, problems=problems)
    if rows.refused:
        summary = "; ".join(f"{why}: {_numbers(n)}" for why, n in rows.refused.items())
        count = sum(map(len, rows.refused.values()))
        if not skip:
            layout.refuse(
                f"{path}: {count:,} of {len(lines):,} rows cannot be used: {summary}. Correct them,"
                " or leave them out with data.bad_files=skip"
            )
        else:
            notes.append(f"left out {count:,} rows: {summary}")
    names = {use: header[index] for use, index in found.items()}
    notes.append(f"columns of {path.name}: " + ", ".join(f"{n} ({u})" for u, n in names.items()))
    if "group" in found:
        layout.groups = rows.groups
    splits = _name_splits(rows.split_of.values())
    for image in sorted(rows.label_of):
        split = splits[rows.split_of[image]] if "split" in found else "all"
        classes = layout.splits.setdefault(split, {})
        classes.setdefault(rows.label_of[image], []).append(image)
    layout.splits = {
        split: dict(sorted(classes.items())) for split, classes in layout.splits.items()
    }
    return layout


def _parse(path: Path, notes: list[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and the rows with their numbers in the file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise refusal(f"data.path: {path} does not exist") from None
    except OSError as error:
        raise refusal(f"data.path: cannot read {path}: {error.strerror or error}") from error
    try:
        text = data.decode(ENCODINGS.get(data[:2], "utf-8-sig"))
    except UnicodeDecodeError:
        if b"\0" in data:
            raise refusal(f"data.path: {path} is not a text file; export it as CSV") from None
        text = data.decode("cp1252", errors="replace")
        notes.append(f"{path.name} is not UTF-8; read as Windows-1252")
    first = text.lstrip("\r\n").partition("\n")[0]
    delimiter = max("\t;,|", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [
            (number, [cell.strip() for cell in row])
            for number, row in enumerate(reader, start=1)
            if any(row)
        ]
    except csv.Error as error:
        raise refusal(f"data.path: {path}, line {reader.line_num}: {error}") from error
    if len(lines) < 2:
        raise refusal(f"data.path: {path} has no rows; expected a header and a row per image")
    return lines[0][1], lines[1:]


def _find_columns(path: Path, header: Sequence[str], columns: Columns) -> dict[str, int]:
    """Map "image" and "label", and "split" and "group" if there are any, to column indices."""
    plain = [re.sub(r"[\W_]", "", name.lower()) for name in header]
    usual = {
        "image": IMAGE_COLUMNS,
        "label": LABEL_COLUMNS,
        "split": SPLIT_COLUMNS,
        "group": GROUP_COLUMNS,
    }
    found = {}
    for use, candidates in usual.items():
        key = "data.group" if use == "group" else f"data.{use}_column"
        name = getattr(columns, use)
        if name is not None:
            if name not in header:
                raise refusal(f"{key}={name}: {path} has no such column, but {', '.join(header)}")
            found[use] = header.index(name)
        elif known := [each for each in candidates if each in plain]:
            found[use] = plain.index(known[0])
        elif use in ("image", "label"):
            raise refusal(
                f"{path}: no column of {use}s found among {', '.join(header)}; name it with"
                f" {key}=NAME"
            )
    if found["image"] == found["label"]:
        raise refusal(f"{path}: images and labels are the same column, {header[found['image']]}")
    return found


def _check_rows(
    lines: Sequence[tuple[int, list[str]]], columns: Mapping[str, int], base: Path
) -> _Rows:
    rows, finder = _Rows(), _Finder(base)
    number_of: dict[Path, int] = {}
    for number, row in lines:
        if max(columns.values()) >= len(row):
            rows.refused["too few columns"].append(number)
            continue
        cells = {use: row[index] for use, index in columns.items()}
        image = finder.find(cells["image"])
        if isinstance(image, str):
            rows.refused[image].append(number)
        elif not cells["label"]:
            rows.refused["no label"].append(number)
        elif re.fullmatch(r"[\[{(].*[,;].*[\])}]", cells["label"]):
            rows.refused["several labels (one class per image is supported)"].append(number)
        elif image in rows.label_of and rows.label_of[image] != cells["label"]:
            why = f"the label differs from that of the same image in row {number_of[image]}"
            rows.refused[why].append(number)
        elif "split" in cells and split_of(cells["split"]) is None:
            rows.refused[f"unknown split {cells['split']!r}"].append(number)
        elif rows.split_of.get(image, cells.get("split", "")) != cells.get("split", ""):
            rows.refused[f"the image is in another split in row {number_of[image]}"].append(number)
        elif rows.groups.get(image, group := _group(cells, image, base)) != group:
            rows.refused[f"the image is in another group in row {number_of[image]}"].append(number)
        else:
            number_of[image] = number
            rows.label_of[image] = cells["label"]
            rows.split_of[image] = cells.get("split", "")
            rows.groups[image] = group
    return rows


def _group(cells: Mapping[str, str], image: Path, base: Path) -> str:
    """Return the group of an image; without one, it is a group of its own."""
    return cells.get("group") or image.relative_to(base).as_posix()


class _Finder:
    """Finds the files that a table names, below a folder."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._below: dict[str, list[Path]] = {}  # by name and by name without ending

    def find(self, name: str) -> Path | str:
        """Return the file that `name` means, or the reason why there is none."""
        if not name:
            return "no image"
        for written in (name, name.replace("\\", "/")):
            path = self.base / written
            if os.path.isfile(path):  # unlike Path.is_file, also of names that are too long
                inside = path.is_relative_to(self.base) and ".." not in Path(written).parts
                return path if inside else f"not below {self.base}; set data.root"
        if not self._below:
            for path in walk_files(self.base, lambda folder, reason: None):
                self._below.setdefault(path.name, []).append(path)
                if path.suffix and may_be_image(path):
                    self._below.setdefault(path.stem, []).append(path)
        parts = Path(name.replace("\\", "/")).parts
        fitting = [
            path
            for path in self._below.get(parts[-1], ())
            if path.parts[-len(parts) : -1] == parts[:-1]
        ]
        if len(fitting) == 1:
            return fitting[0]
        return "several files fit" if fitting else f"no such file below {self.base}"


def _name_splits(words: Iterable[str]) -> dict[str, str]:
    """Map the words of the split column to splits; "eval" is val unless another word is."""
    splits = {word: split_of(word) or "" for word in set(words)}
    other = "test" if "val" in splits.values() else "val"
    return {word: other if split == "eval" else split for word, split in splits.items()}


def _numbers(numbers: Sequence[int]) -> str:
    """List row numbers, with runs of them as ranges; the first ten ranges if there are more."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = ranges[:10]
    more = len(numbers) - sum(b - a + 1 for a, b in shown)
    texts = [f"{a}" if a == b else f"{a}-{b}" for a, b in shown]
    text = ("rows " if len(numbers) > 1 else "row ") + ", ".join(texts)
    return f"{text} and {more:,} more" if more else text

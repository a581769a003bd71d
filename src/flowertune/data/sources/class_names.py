"""Names for classes whose folders or labels are numbers or codes, from a file."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from flowertune.errors import UsageError, printable
from flowertune.files import expand_user

NUMBERED = re.compile(r"\d+([ ._-].*)?")


def rename_classes(classes: Sequence[str], path: Path) -> tuple[str, ...]:
    """Return the name of each class, as the file at `path` gives it.

    JSON: {"class": "name"} or a list of names in the order of the classes. CSV or TSV: a class and
    its name per row. Other text: a class and its name per line, or only the names in the order of
    the classes. Classes that the file does not mention keep their names.

    Raises UsageError if the file cannot be read or does not fit the classes.
    """
    path = expand_user(path)
    try:
        content = path.read_text(encoding="utf-8-sig")
        names = _parse(content, path.suffix.lower(), classes)
    except FileNotFoundError:
        raise UsageError(f"data.names: {printable(path)} does not exist") from None
    except (OSError, ValueError) as error:  # also of its encoding
        raise UsageError(f"data.names: cannot read {printable(path)}: {error}") from error
    if not names.keys() & set(classes):
        raise UsageError(
            f"data.names: {printable(path)} names none of the classes"
            f" ({printable(', '.join(classes[:5]))}), but {printable(', '.join(list(names)[:5]))}"
        )
    renamed = tuple(names.get(name, name) for name in classes)
    if doubled := sorted({name for name in renamed if renamed.count(name) > 1}):
        raise UsageError(
            f"data.names: {printable(path)} gives several classes the name {printable(doubled[0])}"
        )
    return renamed


def _parse(content: str, suffix: str, classes: Sequence[str]) -> Mapping[str, str]:
    if suffix == ".json":
        value = json.loads(content)
        if isinstance(value, dict) and all(isinstance(name, str) for name in value.values()):
            return {_same(key, classes): name.strip() for key, name in value.items()}
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ValueError('expected {"class": "name"} or a list of names')
        lines = value
    elif suffix in (".csv", ".tsv"):
        delimiter = "\t" if suffix == ".tsv" else max(",;\t", key=content.count)
        rows = [row for row in csv.reader(content.splitlines(), delimiter=delimiter) if row]
        if wrong := next((n for n, row in enumerate(rows, 1) if len(row) < 2), None):
            raise ValueError(f"row {wrong}: expected a class and its name")
        return {_same(row[0].strip(), classes): row[1].strip() for row in rows}
    else:
        lines = [line for line in content.splitlines() if line.strip()]
        pairs = [line.split(maxsplit=1) for line in lines]
        if all(len(pair) == 2 and _same(pair[0], classes) in classes for pair in pairs):
            return {_same(name, classes): text.strip() for name, text in pairs}
    if len(lines) != len(classes):
        raise ValueError(f"{len(lines):,} names for {len(classes):,} classes")
    return dict(zip(classes, map(str.strip, lines), strict=True))


def _same(key: str, classes: Sequence[str]) -> str:
    """Return the class that the key means; 7 and 007 are the same number."""
    if key in classes or not key.isdecimal():
        return key
    return next((c for c in classes if c.isdecimal() and int(c) == int(key)), key)


def numbered_note(class_names: Sequence[str], template: str) -> str | None:
    """Explain what zero-shot is asked if most class names are or begin with numbers."""
    numbered = [name for name in class_names if NUMBERED.fullmatch(name)]
    if 2 * len(numbered) <= len(class_names):
        return None
    return printable(
        f"class names are numbers: zero-shot is asked for '{template.format(name=numbered[0])}';"
        " give names with data.names=FILE"
    )

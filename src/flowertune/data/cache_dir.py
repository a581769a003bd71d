"""Locate the cache folder; build, describe and mark its entries.

An entry is the folder `<root>/<kind>/<key>`, either complete or absent, with a lock file next to
it. Its meta.json holds a description and the facts that its reader needs. An incomplete entry has
the suffix `.building`.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import Timeout
from platformdirs import user_cache_path

from flowertune.errors import UsageError
from flowertune.files import expand_user, format_bytes, lock, new_folder, write_text

MOVE_HINT = "set the environment variable FLOWERTUNE_CACHE to another folder"
META, BUILDING, LOCK = "meta.json", ".building", ".lock"


def cache_root() -> Path:
    """Return FLOWERTUNE_CACHE, or `flowertune` in the platform's cache folder of the user.

    Raises UsageError if the user has no home folder.
    """
    if override := os.environ.get("FLOWERTUNE_CACHE"):
        return expand_user(override).absolute()
    try:
        # without a home folder the path still starts with "~"
        return user_cache_path("flowertune", appauthor=False, opinion=False).expanduser()
    except RuntimeError as error:
        raise UsageError(f"no home folder found for the cache; {MOVE_HINT}") from error


@contextlib.contextmanager
def build_entry(entry: Path) -> Iterator[Path]:
    """Create a folder for the body to fill; it appears at `entry` if the body succeeds.

    Call it under the entry's lock. First deletes an existing (damaged) entry, and what killed
    builders left of the entries next to it.
    """
    for leftover in entry.parent.glob(f"*{BUILDING}"):
        if leftover.stem == entry.name:
            shutil.rmtree(leftover)
        else:
            with contextlib.suppress(Timeout), lock(leftover.with_suffix(LOCK)):
                shutil.rmtree(leftover, ignore_errors=True)
    if entry.exists():
        shutil.rmtree(entry)
    with new_folder(entry, entry.with_suffix(BUILDING)) as folder:
        yield folder


def write_meta(entry: Path, description: str, **facts: Any) -> None:
    """Write an entry's meta.json: a one-line description, and `facts` for its reader."""
    write_text(entry / META, json.dumps({"description": description, **facts}))


def read_meta(entry: Path) -> dict[str, Any]:
    """Read an entry's meta.json. Raises OSError, or ValueError if it is damaged."""
    meta = json.loads((entry / META).read_text(encoding="utf-8"))
    if not isinstance(meta, dict) or not isinstance(meta.get("description"), str):
        raise ValueError(f"{META} is damaged")
    return meta


def check_space(name: str, needed: int, folder: Path) -> None:
    """Raise UsageError if `name` needs more bytes than are free in `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(
            f"{folder}: {name} needs {format_bytes(needed)}, but only {format_bytes(free)} are "
            f"free; {MOVE_HINT}"
        )


def touch(path: Path) -> None:
    """Mark a file or folder of the cache as just used, for `flowertune data cache`.

    Errors are ignored, so that a read-only cache can be used.
    """
    with contextlib.suppress(OSError):
        os.utime(path)

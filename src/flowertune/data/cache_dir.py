"""The cache folder: where it is, and its entries, each a folder that is whole or absent.

Entries lie at `<root>/<kind>/<key>`, with the lock of who builds one beside it. Each has a
meta.json, which describes it to people and holds what its reader needs. A half made one has the
suffix `.building`.
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
from flowertune.files import format_bytes, lock, new_folder, write_text

MOVE_HINT = "the environment variable FLOWERTUNE_CACHE names another place"
META, BUILDING, LOCK = "meta.json", ".building", ".lock"


def cache_root() -> Path:
    """Return FLOWERTUNE_CACHE, or `flowertune` in the user's cache folder of this platform.

    Raises UsageError where the user has no home folder for it to be in.
    """
    if override := os.environ.get("FLOWERTUNE_CACHE"):
        return Path(override).expanduser().absolute()
    try:
        # "~" is left in the path where there is no home folder
        return user_cache_path("flowertune", appauthor=False, opinion=False).expanduser()
    except RuntimeError as error:
        raise UsageError(f"there is no home folder for the cache; {MOVE_HINT}") from error


@contextlib.contextmanager
def build_entry(entry: Path) -> Iterator[Path]:
    """Create a folder for the body to fill; it appears at `entry` if the body succeeds.

    Called under the entry's lock. A damaged one that is there is removed before, and so is what
    killed builders left of any entry beside it.
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
    """Write an entry's meta.json: one line for people, and `facts` for its reader."""
    write_text(entry / META, json.dumps({"description": description, **facts}))


def read_meta(entry: Path) -> dict[str, Any]:
    """Read an entry's meta.json. Raises OSError, or ValueError where it is damaged."""
    meta = json.loads((entry / META).read_text(encoding="utf-8"))
    if not isinstance(meta, dict) or not isinstance(meta.get("description"), str):
        raise ValueError(f"{META} is damaged")
    return meta


def check_space(name: str, needed: int, folder: Path) -> None:
    """Raise UsageError if `name` takes more bytes than are free in `folder`."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(
            f"{name} takes {format_bytes(needed)} in {folder}, where {format_bytes(free)} are "
            f"free; {MOVE_HINT}"
        )


def touch(path: Path) -> None:
    """Mark a file or folder of the cache as just used, for `flowertune data cache`.

    What lies in a cache that this user may only read is used all the same.
    """
    with contextlib.suppress(OSError):
        os.utime(path)

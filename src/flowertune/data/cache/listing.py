"""List the entries of the cache folder with size and last use, and delete them.

Only names that flowertune creates are listed and deleted. The empty `.lock` files stay: deleting
one while a process waits for it would let two processes build at the same time.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from flowertune.data.cache_dir import BUILDING, LOCK, META, read_meta
from flowertune.files import bytes_in, lock

INCOMPLETE = "incomplete, or being built now"
KEY = re.compile(rf"[0-9a-f]{{16,32}}({re.escape(BUILDING)})?")
# how the entries of a folder are called in the list; otherwise the folder's own name
KINDS = {"pixels": "images", "synthetic": "synthetic flowers", "flowers102": "download"}


@dataclass(frozen=True)
class CacheEntry:
    """A cache entry's files and folders; `last_used` is a Unix time, `lock` is held to build it."""

    kind: str
    description: str
    paths: tuple[Path, ...]
    bytes: int
    last_used: float
    lock: Path


def list_entries(root: Path) -> list[CacheEntry]:
    """List the cache folder, least recently used first. Raises OSError if it cannot be read."""
    entries = []
    for folder in filter(Path.is_dir, _entries(root)):
        if (folder / META).is_file():  # one entry, in a folder that may hold the user's files
            names = _read_meta(folder).get("names", [])
            paths = [path for path in _entries(folder) if path.name in names]
            entries.append(_describe(folder, folder, [*paths, folder / META], folder / LOCK))
            continue
        for path in filter(Path.is_dir, _entries(folder)):
            if KEY.fullmatch(path.name):
                entries.append(_describe(folder, path, [path], path.with_suffix(LOCK)))
    return sorted(entries, key=lambda entry: entry.last_used)


def delete(entry: CacheEntry) -> str | None:
    """Delete an entry; return None, or the reason why it cannot be deleted now."""
    try:
        with lock(entry.lock):
            for path in entry.paths:
                if not path.is_dir():
                    path.unlink(missing_ok=True)
                    continue
                # renamed first, so that a half deleted entry never counts as complete
                incomplete = path.with_suffix(BUILDING)
                if path != incomplete:
                    shutil.rmtree(incomplete, ignore_errors=True)
                    path.rename(incomplete)
                shutil.rmtree(incomplete)
    except Timeout:
        return "another process is building it"
    except OSError as error:
        return f"cannot be deleted: {error.strerror or error}"
    return None


def _entries(folder: Path) -> list[Path]:
    """List a folder's entries if it exists, without links, as flowertune creates none."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in entries if not path.is_symlink()]


def _describe(folder: Path, entry: Path, paths: Sequence[Path], lock: Path) -> CacheEntry:
    return CacheEntry(
        kind=KINDS.get(folder.name, folder.name),
        description=INCOMPLETE if entry.suffix == BUILDING else _read_meta(entry)["description"],
        paths=tuple(paths),
        bytes=sum(map(bytes_in, paths)),
        last_used=entry.stat().st_mtime,
        lock=lock,
    )


def _read_meta(entry: Path) -> dict[str, Any]:
    try:
        return read_meta(entry)
    except (OSError, ValueError):
        return {"description": "damaged"}

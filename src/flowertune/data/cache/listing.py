"""What lies in the cache folder: how large it is, when it was last used, and how it goes.

Only names that flowertune gives are listed, so only such are removed. The empty `.lock` files stay:
taken from under a process that waits for one, it would let two build at the same time.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from flowertune.data.sources import flowers102
from flowertune.files import bytes_in

HALF_MADE = "half made, or being made now"


@dataclass(frozen=True)
class CacheEntry:
    """Something that is kept between runs.

    `pieces` are the files and folders it consists of. A folder is first renamed to `aside`, the
    name that its next builder takes for a leftover, so that a half removed one is never taken for
    a whole one. `lock` is held by who builds it. `last_used` is in seconds since 1970.
    """

    kind: str
    of: str
    pieces: tuple[Path, ...]
    bytes: int
    last_used: float
    lock: Path
    aside: Path | None


def list_entries(root: Path) -> list[CacheEntry]:
    """What the cache folder holds, longest unused first. Raises OSError: it cannot be read."""
    found = [*_stores(root), *_features(root), *_drawn_flowers(root), *_downloads(root)]
    return sorted(found, key=lambda each: each.last_used)


def delete(kept: CacheEntry) -> str | None:
    """Removes it; where that cannot be done now, leaves it and returns the reason."""
    try:
        with FileLock(kept.lock, timeout=0):
            for piece in kept.pieces:
                if not piece.is_dir():
                    piece.unlink(missing_ok=True)
                    continue
                assert kept.aside is not None
                if piece != kept.aside:
                    shutil.rmtree(kept.aside, ignore_errors=True)
                    piece.rename(kept.aside)
                shutil.rmtree(kept.aside)
    except Timeout:
        return "another process is building it"
    except OSError as error:
        return f"cannot be removed: {error.strerror or error}"
    return None


def _named(folder: Path, pattern: str) -> Iterator[tuple[Path, str]]:
    """What lies in a folder under a name of this pattern, and the first group of the match.

    Links are not ours: flowertune makes none.
    """
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            match = re.fullmatch(pattern, path.name)
            if match and not path.is_symlink():
                yield path, match[1]


def _stores(root: Path) -> Iterator[CacheEntry]:
    folder = root / "pixels"
    for path, key in _named(folder, r"([0-9a-f]{32})(?:\.building)?"):
        half = path.suffix == ".building"
        yield CacheEntry(
            kind="photos",
            of=HALF_MADE if half else _photos_of(path / "index.json"),
            pieces=(path,),
            bytes=bytes_in(path),
            last_used=path.stat().st_mtime,
            lock=folder / f"{key}.lock",
            aside=folder / f"{key}.building",
        )


def _photos_of(index_file: Path) -> str:
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
        photos = f"{len(index['kept']):,} photos"
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"
    if "folder" not in index:
        return f"{photos}, by an earlier version"
    return f"{index['split']} of {index['folder']}: {photos}"


def _features(root: Path) -> Iterator[CacheEntry]:
    for path, _ in _named(root / "features", r"([0-9a-f]{32})\.safetensors"):
        yield CacheEntry(
            kind="features",
            of=_features_of(path),
            pieces=(path,),
            bytes=bytes_in(path),
            last_used=path.stat().st_mtime,
            lock=path.with_suffix(".lock"),
            aside=None,
        )


def _features_of(path: Path) -> str:
    try:
        with safe_open(path, framework="np") as file:
            photos, width = file.get_slice("features").get_shape()
            key = json.loads(file.metadata()["key"])
            made_by = f"{key['precision']} on {key['device']}"
            return f"{photos:,} x {width}, {made_by}, weights {key['weights_sha256'][:8]}"
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return "damaged"


def _drawn_flowers(root: Path) -> Iterator[CacheEntry]:
    folder = root / "synthetic"
    for path, key in _named(folder, r"([0-9a-f]{16})(?:\.part)?"):
        splits = sorted(each for each in path.iterdir() if each.is_dir())
        counts = [f"{each.name} {_count(each):,}" for each in splits]
        yield CacheEntry(
            kind="drawn flowers",
            of=HALF_MADE if path.suffix == ".part" else ", ".join(counts),
            pieces=(path,),
            bytes=bytes_in(path),
            last_used=path.stat().st_mtime,
            lock=folder / f"{key}.lock",
            aside=folder / f"{key}.part",
        )


def _count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _downloads(root: Path) -> Iterator[CacheEntry]:
    folder = root / "flowers102"
    published = (flowers102.ARCHIVE, flowers102.LABELS, flowers102.SPLIT_IDS)
    names = (flowers102.PHOTOS, flowers102.ASIDE, *published, *(f".{n}.part" for n in published))
    pieces = tuple(
        folder / name
        for name in names
        if (folder / name).exists() and not (folder / name).is_symlink()
    )
    if pieces:
        yield CacheEntry(
            kind="download",
            of="Flowers-102, as published",
            pieces=pieces,
            bytes=sum(map(bytes_in, pieces)),
            last_used=folder.stat().st_mtime,
            lock=folder / flowers102.LOCK,
            aside=folder / flowers102.ASIDE,
        )

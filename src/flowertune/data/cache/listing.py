"""List the entries of the cache folder, with size and last use, and delete them.

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

INCOMPLETE = "half made, or being made now"


@dataclass(frozen=True)
class CacheEntry:
    """An entry of the cache folder.

    `paths` are the files and folders it consists of. A folder is first renamed to `trash`, the
    name that its next builder takes for a leftover, so that a half removed one is never taken for
    a whole one. `lock` is held by who builds it. `last_used` is in seconds since 1970.
    """

    kind: str
    description: str
    paths: tuple[Path, ...]
    bytes: int
    last_used: float
    lock: Path
    trash: Path | None


def list_entries(root: Path) -> list[CacheEntry]:
    """List the cache folder, longest unused first. Raises OSError where it cannot be read."""
    entries = [*_pixels(root), *_features(root), *_synthetic(root), *_downloads(root)]
    return sorted(entries, key=lambda entry: entry.last_used)


def delete(entry: CacheEntry) -> str | None:
    """Delete an entry; return None, or the reason why it cannot be deleted now."""
    try:
        with FileLock(entry.lock, timeout=0):
            for path in entry.paths:
                if not path.is_dir():
                    path.unlink(missing_ok=True)
                    continue
                assert entry.trash is not None
                if path != entry.trash:
                    shutil.rmtree(entry.trash, ignore_errors=True)
                    path.rename(entry.trash)
                shutil.rmtree(entry.trash)
    except Timeout:
        return "another process is building it"
    except OSError as error:
        return f"cannot be removed: {error.strerror or error}"
    return None


def _match_paths(folder: Path, pattern: str) -> Iterator[tuple[Path, str]]:
    """Yield the paths in a folder whose names match, and the first group of the match.

    Links are not ours: flowertune makes none.
    """
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            match = re.fullmatch(pattern, path.name)
            if match and not path.is_symlink():
                yield path, match[1]


def _pixels(root: Path) -> Iterator[CacheEntry]:
    folder = root / "pixels"
    for path, key in _match_paths(folder, r"([0-9a-f]{32})(?:\.building)?"):
        is_incomplete = path.suffix == ".building"
        yield CacheEntry(
            kind="photos",
            description=INCOMPLETE if is_incomplete else _describe_pixels(path / "index.json"),
            paths=(path,),
            bytes=bytes_in(path),
            last_used=path.stat().st_mtime,
            lock=folder / f"{key}.lock",
            trash=folder / f"{key}.building",
        )


def _describe_pixels(index_file: Path) -> str:
    try:
        index = json.loads(index_file.read_text(encoding="utf-8"))
        count = f"{len(index['kept']):,} photos"
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"
    if "folder" not in index:
        return f"{count}, by an earlier version"
    return f"{index['split']} of {index['folder']}: {count}"


def _features(root: Path) -> Iterator[CacheEntry]:
    for path, _ in _match_paths(root / "features", r"([0-9a-f]{32})\.safetensors"):
        yield CacheEntry(
            kind="features",
            description=_describe_features(path),
            paths=(path,),
            bytes=bytes_in(path),
            last_used=path.stat().st_mtime,
            lock=path.with_suffix(".lock"),
            trash=None,
        )


def _describe_features(path: Path) -> str:
    try:
        with safe_open(path, framework="np") as file:
            n_images, width = file.get_slice("features").get_shape()
            key = json.loads(file.metadata()["key"])
            compute = f"{key['precision']} on {key['device']}"
            return f"{n_images:,} x {width}, {compute}, weights {key['weights_sha256'][:8]}"
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return "damaged"


def _synthetic(root: Path) -> Iterator[CacheEntry]:
    folder = root / "synthetic"
    for path, key in _match_paths(folder, r"([0-9a-f]{16})(?:\.part)?"):
        splits = sorted(split for split in path.iterdir() if split.is_dir())
        counts = [f"{split.name} {_count_files(split):,}" for split in splits]
        yield CacheEntry(
            kind="drawn flowers",
            description=INCOMPLETE if path.suffix == ".part" else ", ".join(counts),
            paths=(path,),
            bytes=bytes_in(path),
            last_used=path.stat().st_mtime,
            lock=folder / f"{key}.lock",
            trash=folder / f"{key}.part",
        )


def _count_files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def _downloads(root: Path) -> Iterator[CacheEntry]:
    folder = root / "flowers102"
    published = (flowers102.ARCHIVE, flowers102.LABELS, flowers102.SPLIT_IDS)
    names = (flowers102.IMAGES, flowers102.PARTIAL, *published, *(f".{n}.part" for n in published))
    paths = tuple(
        folder / name
        for name in names
        if (folder / name).exists() and not (folder / name).is_symlink()
    )
    if paths:
        yield CacheEntry(
            kind="download",
            description="Flowers-102, as published",
            paths=paths,
            bytes=sum(map(bytes_in, paths)),
            last_used=folder.stat().st_mtime,
            lock=folder / flowers102.LOCK,
            trash=folder / flowers102.PARTIAL,
        )

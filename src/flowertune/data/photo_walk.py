"""The photos below a folder, one after the other: as many as there are, and none opened."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from flowertune.data.sources.folder import is_dropped


def photos_below(folder: Path, unlisted: Callable[[Path, str], None]) -> Iterator[Path]:
    """Every file below `folder`, a folder's own before those of its folders, by name.

    Links are followed, though into no folder twice. Left out is what operating systems drop
    (`is_dropped`); whether a file is a photo is seen when it is decoded. `unlisted(folder, reason)`
    is told of a folder that cannot be listed. Memory is that of the names in the folders that are
    open at once.
    """
    yield from _below(folder, unlisted, set())


def _below(
    folder: Path, unlisted: Callable[[Path, str], None], seen: set[tuple[int, int]]
) -> Iterator[Path]:
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        names = sorted(name for name in os.listdir(folder) if not is_dropped(name))
    except OSError as error:
        unlisted(folder, f"cannot be listed: {error.strerror or error}")
        return
    folders = []
    for name in names:
        path = folder / name
        if os.path.isdir(path):
            folders.append(path)
        else:
            yield path
    for inner in folders:
        yield from _below(inner, unlisted, seen)

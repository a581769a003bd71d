"""The cache folder of decoded images, frozen features and drawn flowers."""

import contextlib
import os
import shutil
from pathlib import Path

from platformdirs import user_cache_path

from flowertune.errors import UsageError
from flowertune.files import format_bytes

MOVE_HINT = "the environment variable FLOWERTUNE_CACHE names another place"


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

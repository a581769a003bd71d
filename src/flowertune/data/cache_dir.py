"""The cache folder of decoded images, frozen features and drawn flowers."""

import contextlib
import os
import shutil
import sys
from pathlib import Path

from flowertune.errors import UsageError
from flowertune.files import format_bytes

MOVE_HINT = "the environment variable FLOWERTUNE_CACHE names another place"


def cache_root() -> Path:
    """Return FLOWERTUNE_CACHE, or `flowertune` in the user's cache folder of this platform."""
    if override := os.environ.get("FLOWERTUNE_CACHE"):
        return Path(override).expanduser().absolute()
    if sys.platform == "win32":
        local_app_data = os.environ.get("LOCALAPPDATA")
        parent = Path(local_app_data) if local_app_data else Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    else:
        xdg = os.environ.get("XDG_CACHE_HOME")
        parent = Path(xdg) if xdg else Path.home() / ".cache"
    return parent / "flowertune"


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

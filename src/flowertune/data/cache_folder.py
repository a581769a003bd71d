"""Where decoded photos, frozen features and drawn flowers are kept between runs."""

import os
import sys
from pathlib import Path

MOVE_HINT = "the environment variable FLOWERTUNE_CACHE names another place"


def cache_root() -> Path:
    """FLOWERTUNE_CACHE, or `flowertune` in the user's cache folder of this platform."""
    if named := os.environ.get("FLOWERTUNE_CACHE"):
        return Path(named).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        parent = Path(local) if local else Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    else:
        xdg = os.environ.get("XDG_CACHE_HOME")
        parent = Path(xdg) if xdg else Path.home() / ".cache"
    return parent / "flowertune"

"""Where the YAML files are."""

from pathlib import Path


def conf_dir() -> Path:
    """conf/: inside an installed package, or at the top of a checkout (editable install)."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"

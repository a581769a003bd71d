"""What a run records about where it was made."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from flowertune import __version__

PACKAGES = (
    "torch", "torchvision", "open_clip_torch", "peft", "torchmetrics", "numpy", "pillow",
    "hydra-core", "omegaconf", "safetensors", "scipy",
)  # fmt: skip


def describe(**parts: Any) -> dict[str, Any]:
    """Versions, platform and git commit, and the parts that the caller knows."""
    return {
        "flowertune": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        **parts,
    }


def _git_commit() -> str | None:
    """The commit of the checkout that this code runs from; None for an installed package."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():
        return None
    git = ["git", "-C", str(top)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changes else "")

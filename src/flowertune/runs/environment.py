"""Record the environment of a run."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from flowertune import __version__
from flowertune.data.cache.dataset import CachedDataset
from flowertune.models.backbone import Backbone
from flowertune.runs.directory import FORMAT
from flowertune.runtime.device import Compute

PACKAGES = (
    "torch", "torchvision", "open_clip_torch", "peft", "torchmetrics", "numpy", "pillow",
    "hydra-core", "omegaconf", "safetensors", "scipy",
)  # fmt: skip


def describe(compute: Compute, backbone: Backbone, cached: CachedDataset) -> dict[str, Any]:
    """Collect versions, platform, git commit, device, and hashes of weights and images."""
    return {
        "format": FORMAT,
        "flowertune": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "device": compute.device_name,
        "precision": compute.precision,
        "cpu_threads": compute.threads,
        **backbone.facts(),
        "data_root": str(cached.dataset.root),
        "data_fingerprint": cached.fingerprint,
        "cache_keys": {name: split.key for name, split in cached.splits.items()},
        "left_out": [[str(path), reason] for path, reason in cached.bad],
    }


def _git_commit() -> str | None:
    """Git commit of the checkout that contains this code; None for an installed package."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
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

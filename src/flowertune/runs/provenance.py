"""Record what a run rests on, and compare that with what is there now.

The facts are in environment.json, the settings in config.yaml, the images' hashes in photos.csv.
"""

import json
import platform
import subprocess
from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flowertune import __version__, files
from flowertune.config import saved
from flowertune.config.groups import RESULT_NEUTRAL_KEYS
from flowertune.data.dataset import ImageDataset, Progress
from flowertune.errors import UsageError, printable
from flowertune.runs.directory import FORMAT, Run
from flowertune.runs.finished import FinishedRun

if TYPE_CHECKING:  # they take torch along, which a comparison of finished runs does not need
    from flowertune.data.cache.dataset import CachedDataset
    from flowertune.models.backbone import Backbone
    from flowertune.runtime.device import Compute

BACKBONE = ("backbone", "tag", "weights_sha256", "activation", "preprocessing")
TASK = (*BACKBONE, "data_fingerprint")  # with another one there is nothing to resume
MACHINE = ("flowertune", "git_commit", "python", "packages", "device", "precision", "cpu_threads")
PACKAGES = (
    "torch", "torchvision", "open_clip_torch", "peft", "torchmetrics", "numpy", "pillow",
    "hydra-core", "omegaconf", "safetensors", "scipy",
)  # fmt: skip
_Name = TypeVar("_Name", bound=Hashable)


def describe(compute: "Compute", backbone: "Backbone", cached: "CachedDataset") -> dict[str, Any]:
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
    words = ("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes")
    command = ["git", "-C", str(root), *words]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def changed_facts(
    recorded: Mapping[_Name, Any], current: Mapping[_Name, Any], names: Iterable[_Name]
) -> list[_Name]:
    """Which of the facts differ between a run's record and now."""
    # a record came through JSON, whose lists may be tuples here
    now = {name: json.loads(json.dumps(current.get(name))) for name in names}
    return [name for name, value in now.items() if recorded.get(name) != value]


def check_config(run: Run, config: Mapping[str, Any]) -> None:
    """Raise UsageError if the run had another config than this one, given as plain values."""
    with run.reading("config.yaml") as path:
        recorded = saved.read_flat(path)
    current = dict(saved.flatten(config))
    names = sorted(recorded.keys() | current.keys())
    relevant = [name for name in names if not name.startswith(RESULT_NEUTRAL_KEYS)]
    if changed := changed_facts(recorded, current, relevant):
        raise UsageError(
            f"{run.path}: is a run with another config ({', '.join(changed)}); "
            "choose another run.name, or run.resume=restart to replace it"
        )


def check_backbone(run: FinishedRun, backbone: "Backbone") -> None:
    """Raise UsageError if the backbone differs from that of a finished run."""
    if changed := changed_facts(run.environment, backbone.facts(), BACKBONE):
        raise UsageError(
            f"{run.path}: is finished, but the backbone has changed since "
            f"({', '.join(changed)}); choose another run.name"
        )


def check_images(run: FinishedRun, dataset: ImageDataset, progress: Progress) -> None:
    """Raise UsageError if images were added, removed or changed since a finished run.

    Every file is read: a folder that took another's place does not show in its files' times.
    """
    recorded = {
        (split, image.path): image.sha256
        for split, images in run.images.items()
        for image in images
    }
    paths = {
        (name, path.relative_to(dataset.root).as_posix()): path
        for name, split in dataset.splits.items()
        for path in split.paths
    }
    with run.run.reading("environment.json"):
        left_out = {Path(path) for path, _ in run.environment.get("left_out", ())}
    current = {}
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(_sha256_or_reason, paths.values())
        for done, (entry, sha256) in enumerate(zip(paths, hashes, strict=True), start=1):
            progress("comparing photos", done, len(paths))
            if entry in recorded or paths[entry] not in left_out:
                current[entry] = sha256
    if changed := changed_facts(recorded, current, sorted(recorded.keys() | current.keys())):
        first = printable(changed[0][1])
        more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        raise UsageError(
            f"{run.path}: is finished, but the photos have changed since ({first}{more}: came, "
            "went or is another); choose another run.name, and if one was replaced with its size "
            "and time kept, flowertune data cache clear first"
        )


def _sha256_or_reason(path: Path) -> str:
    """SHA-256 of a file, or why it cannot be read, which is nobody's hash."""
    try:
        return files.sha256_of(path)
    except OSError as error:
        return str(error)

"""Command line and output that all benchmarks share."""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from peers import child
from peers.work import MODELS, cores

ROOT = Path(__file__).resolve().parents[2]


def run(
    name: str,
    options: argparse.ArgumentParser,
    benchmark: Callable[[argparse.Namespace, Path, Path], None],
    worker: Callable[[str, str, str], int],
) -> int:
    """Run a benchmark and return its exit code: 2 without images, 1 if one of its processes failed.

    `benchmark(options, photos, scratch)` measures and prints, with a temporary folder; `worker` is
    called in the processes that `child.measure` starts.
    """
    if sys.argv[1:2] == ["--worker"]:
        return worker(*sys.argv[2:])
    asked = options.parse_args()
    photos = asked.photos.expanduser().resolve()
    if problem := missing_splits(photos):
        print(f"{name}: {problem}", file=sys.stderr)
        return 2
    try:
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as scratch:
            benchmark(asked, photos, Path(scratch))
    except child.ChildError as failure:
        print(f"{name}: {failure}", file=sys.stderr)
        return 1
    return 0


def parser(description: str | None, model: str, batch_size: int) -> argparse.ArgumentParser:
    """Make a parser with --model, --photos, --batch-size, --device, --rounds and --json."""
    shared = Path(os.environ.get("FLOWERTUNE_SHARED", ROOT.parent / "shared"))
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", default=model, choices=MODELS)
    made.add_argument("--photos", type=Path, default=shared / "data/flowers17",
                      help="train/ and val/ with class folders")  # fmt: skip
    made.add_argument("--batch-size", type=at_least_one, default=batch_size)
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    made.add_argument("--rounds", type=at_least_one, default=3, help="runs per setting")
    made.add_argument("--json", type=Path, help="file for all measurements")
    return made


def at_least_one(text: str) -> int:
    """Parse an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def missing_splits(photos: Path) -> str | None:
    """Error message if the folder lacks train/ or val/, otherwise None."""
    if all((photos / split).is_dir() for split in ("train", "val")):
        return None
    return (
        f"{photos}: has no train/ and val/; name a folder that has them with --photos DIR, or the"
        " parent of data/flowers17 with FLOWERTUNE_SHARED"
    )


def write_json(path: Path, facts: dict[str, Any], packages: Iterable[str]) -> None:
    """Write facts, machine and versions of packages (None: not installed)."""
    about = {
        "machine": {"platform": platform.platform(), "cores": cores()},
        "packages": {name: _version(name) for name in packages},
    }
    path.write_text(json.dumps({**about, **facts}, indent=2) + "\n", encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

"""How the benchmarks begin and end, what they ask for and say of the machine: all alike."""

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
    """A benchmark's exit code: 2 without photos, 1 where a process of its own failed.

    `benchmark(options, photos, scratch)` measures and prints, with a folder for what it leaves;
    `worker` is called in the processes that `child.measure` starts.
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
    """One that knows --model, --photos, --batch-size, --device, --rounds and --json."""
    shared = Path(os.environ.get("FLOWERTUNE_SHARED", ROOT.parent / "shared"))
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--model", default=model, choices=MODELS)
    made.add_argument("--photos", type=Path, default=shared / "data/flowers17",
                      help="train/ and val/ with class folders")  # fmt: skip
    made.add_argument("--batch-size", type=at_least_one, default=batch_size)
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    made.add_argument("--rounds", type=at_least_one, default=3, help="runs of each")
    made.add_argument("--json", type=Path, help="a file for everything that was measured")
    return made


def at_least_one(text: str) -> int:
    """An option's number, refused below 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def missing_splits(photos: Path) -> str | None:
    """What is wrong with a folder that lacks train/ or val/, and what to do; None if nothing is."""
    if all((photos / split).is_dir() for split in ("train", "val")):
        return None
    return (
        f"{photos} holds no train/ and val/: --photos DIR names such a folder,"
        " FLOWERTUNE_SHARED the one with data/flowers17"
    )


def write_json(path: Path, facts: dict[str, Any], packages: Iterable[str]) -> None:
    """`facts` beside the machine and the versions of `packages` (None: not installed)."""
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

"""What the benchmarks ask for on their command lines, and say of the machine, alike."""

import argparse
import json
import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from peers.work import MODELS, cores

ROOT = Path(__file__).resolve().parents[2]


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

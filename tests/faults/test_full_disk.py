"""A disk that is full: the last good state stands, and one line says what was needed where.

A limit of the size of files stands for the disk: writing beyond it fails as writing to a full disk
does, in the middle of a file.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a limit of the size of files")

LIMITED = """
import resource, sys
from flowertune import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(cli.main(sys.argv[2:]))
"""


def limited(folder: Path, limit: int, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *words],
        cwd=folder,
        env={**os.environ, "FLOWERTUNE_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(".")]


def test_a_checkpoint_or_cache_that_does_not_fit(
    live: Any, results: Any, whole: Any, tmp_path: Path, small: tuple[str, ...]
) -> None:
    words = ("train", *small, "method=mixup")

    # the cache: nothing starts, nothing is left
    process = limited(tmp_path, 400_000, *words)
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.splitlines()
    assert re.search(r"cannot write the image cache of \w+ \(\S+ MB\) in .*: File too", line)
    assert not (tmp_path / "runs").exists()
    assert not list((tmp_path / "cache" / "pixels").glob("*.building"))

    # the third checkpoint of a run: the earlier ones are kept
    assert live(tmp_path, ["method=mixup"], "step", 4)[0] == -9
    process = limited(tmp_path, 500_000, *words)
    assert process.returncode == 1, process.stderr
    (line,) = process.stderr.splitlines()
    assert re.search(
        r"runs/r/checkpoints/last/epoch-\d+-step-\d+: File too large: .* needed, .* free; "
        r"free some space and run the same command again", line
    )  # fmt: skip
    state = json.loads((tmp_path / "runs/r/status.json").read_text())
    assert state["state"] == "failed"
    assert "File too large" in state["why"]
    assert hidden(tmp_path / "runs") == [".locks"]

    exit_code, output = live(tmp_path, ["method=mixup"])
    assert exit_code == 0, output
    assert results(tmp_path) == whole("mixup")

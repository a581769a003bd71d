"""A run in a process of its own, and what it took: seconds and memory."""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from peers.work import Work

# What flowertune sets for itself: idle threads of OpenMP soon leave the cores to a DataLoader.
SPIN_COUNT = "10000"
LOOK_EVERY = 0.5  # seconds between two looks at the memory
# What forked processes share counts once in pss; rss counts it in each of them.
MEMORY = "pss" if hasattr(psutil.Process().memory_full_info(), "pss") else "rss"


class ChildFailed(Exception):
    """A run ended with another exit code than 0; the text is the end of what it said."""


def measure(script: Path, name: str, work: Work, scratch: Path) -> dict[str, Any]:
    """What `script --worker name` says of its training, with the whole process's numbers.

    Raises ChildFailed.
    """
    command = [sys.executable, str(script), "--worker", name, json.dumps(asdict(work))]
    environment = {"GOMP_SPINCOUNT": SPIN_COUNT, **os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(dir=scratch) as folder, tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, folder], stdout=said, stderr=subprocess.STDOUT, env=environment
        )
        peak = 0
        while True:
            try:
                process.wait(LOOK_EVERY)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, _memory(process.pid))
        seconds = time.perf_counter() - began
        said.seek(0)
        lines = said.read().splitlines()
    if process.returncode:
        raise ChildFailed(f"{name} ended with {process.returncode}: " + "\n".join(lines[-15:]))
    # a library may say something at the very end
    result = next(line for line in reversed(lines) if line.startswith("{"))
    return {
        "name": name,
        **json.loads(result),
        "process_seconds": seconds,
        "memory_bytes": peak,
    }


def _memory(pid: int) -> int:
    """Bytes of a process and all that it started."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # it ended between two looks
                total += getattr(process.memory_full_info(), MEMORY)
    return total

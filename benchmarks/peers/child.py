"""Run a measurement in a new process, with its seconds and memory."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

# as flowertune sets for itself: idle OpenMP threads soon leave the cores to a DataLoader
SPIN_COUNT = "10000"
LOOK_EVERY = 2.0  # seconds between readings of the memory, each of which walks all pages
# pss counts the memory that forked processes share once, rss once per process
MEMORY = "pss" if hasattr(psutil.Process().memory_full_info(), "pss") else "rss"

Name = TypeVar("Name")


class ChildError(Exception):
    """A run ended with a nonzero exit code; the text is the end of its output."""


def in_turn(names: Sequence[Name], rounds: int) -> Iterator[tuple[int, Name]]:
    """Yield round (from 1) and name: each name once per round, starting with another each time."""
    for number in range(rounds):
        start = number % len(names)
        for name in (*names[start:], *names[:start]):
            yield number + 1, name


def measure(
    script: Path, name: str, work: Mapping[str, Any], scratch: Path, look: bool = True
) -> dict[str, Any]:
    """Run `script --worker name` on `work`; return its result with seconds and memory.

    `look=False` skips the memory: reading pss walks all mapped pages, so it gets slower with their
    number. Raises ChildError.
    """
    command = [sys.executable, str(script), "--worker", name, json.dumps(work)]
    environment = {"GOMP_SPINCOUNT": SPIN_COUNT, **os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(dir=scratch) as folder, tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, folder], stdout=said, stderr=subprocess.STDOUT, env=environment
        )
        peak = 0
        while True:
            try:
                process.wait(LOOK_EVERY if look else None)
                break
            except subprocess.TimeoutExpired:
                peak = max(peak, _memory(process.pid))
        seconds = time.perf_counter() - began
        said.seek(0)
        lines = said.read().splitlines()
    if process.returncode:
        raise ChildError(f"{name} exited with {process.returncode}: " + "\n".join(lines[-15:]))
    # libraries may print something after it
    result = next(line for line in reversed(lines) if line.startswith("{"))
    memory = {"memory_bytes": peak} if look else {}
    return {"name": name, **json.loads(result), "process_seconds": seconds, **memory}


def _memory(pid: int) -> int:
    """Bytes of a process and its children."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # it has ended
                total += getattr(process.memory_full_info(), MEMORY)
    return total

"""A run in a process of its own, and what it took: seconds and memory."""

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

# What flowertune sets for itself: idle threads of OpenMP soon leave the cores to a DataLoader.
SPIN_COUNT = "10000"
LOOK_EVERY = 2.0  # seconds between two looks at the memory, each of which walks through its pages
# What forked processes share counts once in pss; rss counts it in each of them.
MEMORY = "pss" if hasattr(psutil.Process().memory_full_info(), "pss") else "rss"

Name = TypeVar("Name")


class ChildError(Exception):
    """A run ended with another exit code than 0; the text is the end of what it said."""


def in_turn(names: Sequence[Name], rounds: int) -> Iterator[tuple[int, Name]]:
    """Round (from 1) and name: each name once a round, and each round begins with another one."""
    for number in range(rounds):
        start = number % len(names)
        for name in (*names[start:], *names[:start]):
            yield number + 1, name


def measure(
    script: Path, name: str, work: Mapping[str, Any], scratch: Path, look: bool = True
) -> dict[str, Any]:
    """What `script --worker name` says of its `work`, with the whole process's numbers.

    Without `look` nobody looks at its memory from outside: a look at pss walks through all pages
    that are mapped, and takes the longer the more they are. Raises ChildError.
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
        raise ChildError(f"{name} ended with {process.returncode}: " + "\n".join(lines[-15:]))
    # a library may say something at the very end
    result = next(line for line in reversed(lines) if line.startswith("{"))
    memory = {"memory_bytes": peak} if look else {}
    return {"name": name, **json.loads(result), "process_seconds": seconds, **memory}


def _memory(pid: int) -> int:
    """Bytes of a process and all that it started."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # it ended between two looks
                total += getattr(process.memory_full_info(), MEMORY)
    return total

"""Freed memory is reused, measured by the kernel's page faults."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

# glibc's initial threshold, fixed: by default it adapts to what was freed before
FIRST_THRESHOLD = {"MALLOC_MMAP_THRESHOLD_": "131072"}

# like a training step: some blocks of 8 MB, all freed at its end
STEPS = """
import resource, sys
import torch
from flowertune.runtime import memory
if sys.argv[1] == "kept":
    assert memory.keep_freed()
def faults_of_a_step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.zeros(2**21) for _ in range(16)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults_of_a_step() for _ in range(4)][-1])
"""

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc supports it")
@pytest.mark.skipif(
    HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(),
    reason="huge pages cause few page faults",
)
def test_later_steps_request_no_new_pages():
    counts = {}
    for how in ("kept", "given back"):
        command = [sys.executable, "-c", STEPS, how]
        said = subprocess.run(
            command, capture_output=True, check=True, env=os.environ | FIRST_THRESHOLD
        ).stdout
        counts[how] = int(said)
    assert counts["kept"] * 10 < counts["given back"]

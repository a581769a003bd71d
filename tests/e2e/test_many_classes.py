"""Memory with many classes must not grow with their square."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES, IMAGES, GIB = 2000, 5, 2**30
COMMANDS = (
    ("train", "method=lora", "backbone=tiny", "data=folder", "data.root=set", "trainer.epochs=1",
     "run.name=a"),
    ("evaluate", "runs/a"),
    ("report", "runs/a"),
    ("predict", "runs/a", "set/c0001"),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss differs")
def test_two_thousand_classes_take_less_than_3_gib(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    rng = np.random.default_rng(0)
    for number in range(CLASSES):
        folder = tmp_path / "set" / f"c{number:04}"
        folder.mkdir(parents=True)
        base = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1)
        for image in range(IMAGES):
            noise = rng.normal(0, 20, base.shape)
            pixels = np.clip(base + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{image}.jpg")
    for words in COMMANDS:
        process = subprocess.Popen(
            [sys.executable, "-m", "flowertune", *words], cwd=tmp_path, env=environment,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, words
        assert usage.ru_maxrss * 1024 < 3 * GIB, words

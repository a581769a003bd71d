"""How `flowertune train` ends when it does not go well: what it says, and what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file


def status_of(run: Path) -> Any:
    return json.loads((run / "status.json").read_text())


@pytest.mark.parametrize(
    "words",
    [
        ("trainer.epochs=2",),
        # in the only step, and without a validation that would meet it
        ("data.protocol=trainval", "baselines=false", "trainer.epochs=1", "trainer.batch_size=100"),
    ],
)
def test_a_loss_that_explodes_fails_the_run_and_says_so(
    words: tuple[str, ...], small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    rates = ("optimizer.lr=3.4e38", "optimizer.head_lr=1e38")
    process = flowertune("train", *small, *words, *rates, "run.name=r", cwd=tmp_path)
    assert process.returncode == 1
    status = status_of(tmp_path / "runs/r")
    assert status["state"] == "failed"
    assert "is not finite" in status["why"]
    assert status["why"] in process.stderr
    assert "Traceback" not in process.stderr


def test_a_termination_signal_leaves_a_run_that_says_so(
    small: tuple[str, ...], environment: dict[str, str], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "flowertune", "train", *small, "trainer.epochs=10000", "run.name=r"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = tmp_path / "runs" / "r" / "metrics.jsonl"
    while not metrics.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "interrupted by SIGTERM" in errors
    assert "Traceback" not in errors
    assert status_of(tmp_path / "runs/r")["state"] == "interrupted"
    load_file(tmp_path / "runs/r/checkpoints/best/model.safetensors")


def test_a_run_that_nobody_reads_is_interrupted_and_can_go_on(
    small: tuple[str, ...], environment: dict[str, str], tmp_path: Path
) -> None:
    command = f"{sys.executable} -m flowertune train {' '.join(small)} run.name=r"
    process = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{command} | head -n 1"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 1
    assert process.stderr == ""
    status = status_of(tmp_path / "runs/r")
    assert (status["state"], status["why"]) == (
        "interrupted", "its output was closed",
    )  # fmt: skip
    subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=True)
    assert status_of(tmp_path / "runs/r")["state"] == "finished"


def test_help_that_nobody_reads_ends_quietly(environment: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        [sys.executable, "-m", "flowertune", "--help"],
        stdout=writer, stderr=subprocess.PIPE, env=environment, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (process.returncode, process.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("augmentation=mixup", "needs unmixed images, but augmentation=mixup"),
        ("data.shots=1", "every class has one; use loss=ce"),
    ],
)
def test_triplets_of_mixed_or_of_single_photos_are_refused(
    word: str, why: str, small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    process = flowertune("train", "method=triplet", *small, word, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert why in process.stderr
    assert not (tmp_path / "runs").exists()


def test_what_this_backbone_cannot_take_is_refused_before_a_run_exists(
    small: tuple[str, ...], flowertune: Any, tmp_path: Path
) -> None:
    for words, message in (
        (("model.layers=[99]",), "model.layers=[99]: tiny has no layer 99; use 0 to 3"),
        (("method=vpt", "model.depth=99"), "model.depth=99: tiny has 4 blocks; use 1 to 4"),
    ):
        process = flowertune("train", *small, *words, cwd=tmp_path)
        assert process.returncode == 2
        assert message in process.stderr
        assert process.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()

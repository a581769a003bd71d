"""The command line as a user runs it: a process of its own, a folder of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Flowertune = Callable[..., "subprocess.CompletedProcess[str]"]

# Small enough for seconds, whole in everything else.
SMALL = (
    "experiment=quickstart",
    "trainer.epochs=2",
    "trainer.batch_size=16",
    "data.train_per_class=3",
    "data.val_per_class=2",
    "data.test_per_class=3",
    "run.report=false",
)


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """What makes a run small: the words behind `flowertune train`."""
    return SMALL


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all of these tests, as a user has one."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "FLOWERTUNE_CACHE": str(cache)}


@pytest.fixture(scope="session")
def flowertune(environment: dict[str, str]) -> Flowertune:
    """`flowertune(*words, cwd=...)` -> the finished process."""

    def run(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "flowertune", *words],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def trained(flowertune: Flowertune, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished small run: method=mixup."""
    folder = tmp_path_factory.mktemp("trained")
    words = ("train", "method=mixup", *SMALL[:-1], "run.name=first")  # with its report
    process = flowertune(*words, cwd=folder)
    assert process.returncode == 0, process.stderr
    return folder / "runs" / "first"


def _same_training(first: Path, second: Path) -> None:
    for name in (
        "checkpoints/best/model.safetensors",
        "adapter/adapter_model.safetensors",
        "adapter/head.safetensors",
        "metrics.jsonl",
        "predictions-test.csv",
    ):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.fixture(scope="session")
def same_training() -> Callable[[Path, Path], None]:
    """`same_training(run, other)` asserts the same weights and the same metrics, bit for bit."""
    return _same_training

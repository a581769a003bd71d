"""The command line as a user runs it: a process of its own, a folder of its own."""

import multiprocessing
import os
import runpy
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
def flowertune(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Flowertune:
    """`flowertune(*words, cwd=...)` -> the finished process, forked from one that is started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flowertune.commands.train", "flowertune.config.compose"])
    outputs = tuple(tmp_path_factory.mktemp("outputs") / name for name in ("stdout", "stderr"))

    def run(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
        for path in outputs:
            path.unlink(missing_ok=True)
        call = {"CALL": (words, cwd, environment, outputs)}
        script = str(Path(__file__).with_name("run_in_fork.py"))
        process = context.Process(target=runpy.run_path, args=(script, call))
        process.start()
        process.join()
        assert process.exitcode is not None
        said = [path.read_text(encoding="utf-8") for path in outputs]
        return subprocess.CompletedProcess(list(words), process.exitcode, *said)

    return run


@pytest.fixture(scope="session")
def trained(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished small run: method=mixup, started as a user does."""
    folder = tmp_path_factory.mktemp("trained")
    words = ("train", "method=mixup", *SMALL[:-1], "run.name=first")  # with its report
    subprocess.run(
        [sys.executable, "-m", "flowertune", *words], cwd=folder, env=environment, check=True
    )
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

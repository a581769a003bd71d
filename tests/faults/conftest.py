"""Trainings that kill themselves, their expected results, and a limit for hanging tests."""

import faulthandler
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

PATIENCE_S = 60
KILL_WORKER = Path(__file__).with_name("kill_worker.py")
# a training of seconds that uses every kind of state that could be lost
SMALL = (
    "experiment=quickstart", "trainer.epochs=3", "trainer.ema=0.9", "model.dropout=0.2",
    "trainer.eval_batch_size=16", "data.train_per_class=4", "data.val_per_class=2",
    "data.test_per_class=1", "run.name=r",
    "run.report=false",
)  # fmt: skip


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Arguments of these trainings, without the method."""
    return SMALL


Lived = tuple[int, str]
Live = Callable[..., Lived]


@contextmanager
def _no_hang() -> Iterator[None]:
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def no_hang() -> Callable[[], AbstractContextManager[None]]:
    """`with no_hang():` ends a hanging process and prints the stacks of all threads."""
    return _no_hang


def _start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "FLOWERTUNE_CACHE": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="session")
def start() -> Callable[..., "subprocess.Popen[str]"]:
    """`start(folder, *words)`: a training in the background, with its output in one pipe."""
    return lambda folder, *words: _start(folder, "-m", "flowertune", "train", *SMALL, *words)


def _live(
    folder: Path, words: Sequence[str], kind: str = "never", at: int = 1, by: str = "SIGKILL"
) -> Lived:
    process = _start(folder, str(KILL_WORKER), by, kind, str(at), "train", *SMALL, *words)
    output, _ = process.communicate(timeout=300)
    assert "Traceback" not in output, output
    return process.returncode, output


@pytest.fixture(scope="session")
def live() -> Live:
    """`live(folder, words, kind, at, by)`: a training in a process of its own and a cache beside,
    which gets the signal `by` at the moment `kind`, `at` (see kill_worker.py). Exit code
    and output."""
    return _live


@pytest.fixture(scope="session")
def results() -> Callable[[Path], dict[str, bytes]]:
    """`results(folder)`: all files of its run that must not depend on interruptions."""

    def results(folder: Path) -> dict[str, bytes]:
        run = folder / "runs" / "r"
        files = [run / "metrics.jsonl", run / "photos.csv", *run.glob("predictions-*.csv")]
        files += [*(run / "adapter").iterdir(), *(run / "checkpoints").rglob("*.safetensors")]
        return {str(path.relative_to(run)): path.read_bytes() for path in files}

    return results


@pytest.fixture(scope="session")
def whole(
    live: Live, results: Callable[[Path], dict[str, bytes]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], dict[str, bytes]]:  # fmt: skip
    """`whole(method)`: the files of an uninterrupted run."""
    found: dict[str, dict[str, bytes]] = {}

    def whole(method: str) -> dict[str, bytes]:
        if method not in found:
            folder = tmp_path_factory.mktemp("whole")
            assert live(folder, [f"method={method}"])[0] == 0
            found[method] = results(folder)
        return found[method]

    return whole

"""The workers of a stopped or killed joblib sweep save and exit."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.name != "posix", reason="POSIX signals"),
]

START_S = 240  # until both jobs train on a busy machine
END_S = 10


@pytest.fixture
def words(small: tuple[str, ...]) -> list[str]:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs flowertune[sweep]")
    given = [word for word in small if not word.startswith(("run.name", "trainer.epochs"))]
    return [
        "-m", *given, "method=lora", "seed=1,2", "trainer.epochs=5", "baselines=false",
        "trainer.checkpoint_minutes=null", "hydra/launcher=joblib", "hydra.launcher.n_jobs=4",
    ]  # fmt: skip


def start(folder: Path, words: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "flowertune", "train", *words],
        cwd=folder,
        env={**os.environ, "FLOWERTUNE_CACHE": str(folder / "cache")},
        stdout=(folder / "output").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def until(holds: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def begun(folder: Path) -> list[Path]:
    """Runs that are training."""
    lines = {path.parent: path.read_text() for path in (folder / "runs").glob("*/metrics.jsonl")}
    return sorted(run for run, text in lines.items() if text.count("\n") > 2)


def children(process: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    return [pid for pid, parent in pairs if parent == process]


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def status(run: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((run / "status.json").read_text())
    return found


def states(folder: Path) -> list[str]:
    records = sorted((folder / "runs" / "sweeps").glob("*/jobs/*.json"))
    return [json.loads(path.read_text())["state"] for path in records]


@pytest.mark.parametrize(
    ("by", "send", "expected"),
    [
        (signal.SIGKILL, os.kill, -9),
        (signal.SIGTERM, os.kill, 143),
        (signal.SIGINT, os.killpg, 130),  # a terminal's Ctrl-C also reaches the workers
    ],
    ids=["killed", "terminated", "Ctrl-C"],
)
def test_the_workers_save_and_end_and_the_same_command_goes_on(
    words: list[str],
    tmp_path: Path,
    by: signal.Signals,
    send: Callable[[int, int], None],
    expected: int,
) -> None:
    sweep = start(tmp_path, words)
    until(lambda: len(begun(tmp_path)) == 2 or sweep.poll() is not None, START_S)
    workers = children(sweep.pid)
    assert len(workers) >= 2, (tmp_path / "output").read_text()
    send(sweep.pid, by)
    assert sweep.wait(timeout=START_S) == expected
    until(lambda: not any(map(is_alive, workers)), END_S)
    runs = begun(tmp_path)
    assert [status(run)["state"] for run in runs] == ["interrupted"] * 2
    assert states(tmp_path) == ["interrupted"] * 2
    for run in runs:
        assert any((run / "checkpoints" / "last").iterdir())

    sweep = start(tmp_path, words)
    assert sweep.wait(timeout=START_S) == 0, (tmp_path / "output").read_text()
    assert states(tmp_path) == ["finished"] * 2
    assert [status(run)["state"] for run in runs] == ["finished"] * 2
    logs = list((tmp_path / "runs" / "sweeps").glob("*/jobs/*.log"))
    assert ["continuing the training" in path.read_text() for path in logs] == [True, True]


def test_the_same_command_waits_for_the_workers_of_a_sweep_that_was_killed(
    words: list[str], tmp_path: Path
) -> None:
    sweep = start(tmp_path, words)
    until(lambda: len(begun(tmp_path)) == 2 or sweep.poll() is not None, START_S)
    sweep.kill()
    sweep.wait()
    sweep = start(tmp_path, words)
    assert sweep.wait(timeout=START_S) == 0, (tmp_path / "output").read_text()
    assert states(tmp_path) == ["finished"] * 2

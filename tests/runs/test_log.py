"""Status and log of runs that did not finish."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from flowertune.commands import compose
from flowertune.errors import FlowertuneError, Interrupted, TrainingError, UsageError
from flowertune.runs import log as run_log
from flowertune.runs.directory import Run
from flowertune.signals import install_handlers

MEMORY = "out of memory on cpu: lower trainer.batch_size=32 and raise trainer.accumulation=1"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.write_status("running")
    return run


@contextmanager
def recorded(run: Run, out_of_memory: str) -> Iterator[None]:
    with run_log.log_to_file(run), run_log.log_failures(run, out_of_memory):
        yield


def status(run: Run) -> dict[str, "str | None"]:
    found: dict[str, str | None] = json.loads((run.path / "status.json").read_text())
    return found


def test_a_body_that_succeeds_changes_nothing(run: Run) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    loggers = list(logging.getLogger().handlers)
    with recorded(run, MEMORY):
        pass
    assert status(run) == {"state": "running", "why": None}
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert logging.getLogger().handlers == loggers


def test_an_unexpected_error_is_one_line_for_the_user_and_a_traceback_in_the_log(run: Run) -> None:
    with pytest.raises(TrainingError) as failure, recorded(run, MEMORY):
        raise ValueError("something odd\nwith details on\nmore lines")
    assert str(failure.value) == f"ValueError: something odd (see {run.log})"
    assert status(run) == {"state": "failed", "why": "ValueError: something odd"}
    log = run.log.read_text()
    assert "Traceback (most recent call last)" in log
    assert "test_log.py" in log
    assert "with details on" in log


def test_an_error_without_a_message_is_shown_by_its_type(run: Run) -> None:
    with pytest.raises(TrainingError, match=r"AssertionError \(see"), recorded(run, MEMORY):
        raise AssertionError
    assert status(run)["why"] == "AssertionError"


@pytest.mark.parametrize(
    "error", [TrainingError("loss is not finite"), UsageError("no such thing")]
)
def test_errors_for_the_user_are_raised_unchanged(run: Run, error: FlowertuneError) -> None:
    with pytest.raises(type(error)) as failure, recorded(run, MEMORY):
        raise error
    assert failure.value is error
    assert status(run) == {"state": "failed", "why": str(error)}


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
def test_out_of_memory_gives_the_message_with_the_remedy(run: Run, error: Exception) -> None:
    with pytest.raises(TrainingError) as failure, recorded(run, MEMORY):
        raise error
    assert str(failure.value) == MEMORY
    assert status(run) == {"state": "failed", "why": MEMORY}
    assert type(error).__name__ in run.log.read_text()


def test_a_real_lack_of_memory_is_recognized(run: Run) -> None:
    with pytest.raises(TrainingError) as failure, recorded(run, MEMORY):
        torch.empty(2**60, dtype=torch.uint8)
    assert str(failure.value) == MEMORY


def test_all_warnings_are_logged_and_only_flowertunes_are_printed(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with recorded(run, MEMORY):
        warnings.warn("a library is unhappy", UserWarning, stacklevel=1)
        logging.getLogger("some.library").warning("a library mutters")
        logging.getLogger("flowertune.data").warning("a photo is strange")
        logging.getLogger("flowertune.data").debug("a detail")
    log, screen = run.log.read_text(), capsys.readouterr().err
    for text in ("a library is unhappy", "a library mutters", "a photo is strange", "a detail"):
        assert text in log
    assert screen == "a photo is strange\n"
    logging.getLogger("flowertune.data").warning("afterwards")
    assert "afterwards" not in run.log.read_text()


def test_the_log_of_a_later_job_in_the_same_process_is_complete(run: Run) -> None:
    for _ in range(2):  # Hydra configures logging for each job
        assert compose.run(["experiment=quickstart"], lambda config: 0) == 0
    with pytest.raises(TrainingError), recorded(run, MEMORY):  # noqa: PT012  # both are logged
        warnings.warn("a library is unhappy", UserWarning, stacklevel=1)
        raise ValueError("odd")
    assert "a library is unhappy" in run.log.read_text()
    assert "Traceback" in run.log.read_text()


def test_a_full_disk_is_reported_with_its_reason(
    run: Run, fill_disk: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full, a file on a disk that is always full")
    run.log.symlink_to("/dev/full")
    fill_disk()
    with pytest.raises(TrainingError, match="No space left on device"), recorded(run, MEMORY):
        run.write_lines("metrics.jsonl", [{"step": 1}])
    screen = capsys.readouterr().err
    assert "Traceback" not in screen
    assert f"{run.log} cannot be written" in screen
    assert "status.json is not up to date: No space left on device" in screen
    assert {path.name for path in run.path.iterdir()} == {"status.json", "run.log"}


def test_outside_the_main_thread_it_works_without_signals(run: Run) -> None:
    seen: list[str] = []

    def work() -> None:
        try:
            with recorded(run, MEMORY):
                raise ValueError("odd")
        except TrainingError as failure:
            seen.append(str(failure))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [f"ValueError: odd (see {run.log})"]
    assert status(run)["state"] == "failed"


def test_a_second_signal_does_not_hide_the_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Run.write_status

    def impatient(self: Run, state: str, why: str | None = None) -> None:
        signal.raise_signal(signal.SIGINT)
        write(self, state, why)

    monkeypatch.setattr(Run, "write_status", impatient)
    with pytest.raises(Interrupted) as interruption, install_handlers(), recorded(run, MEMORY):
        signal.raise_signal(signal.SIGTERM)
    assert interruption.value.exit_code == 143
    assert status(run) == {"state": "interrupted", "why": "interrupted by SIGTERM"}


SCRIPT = """
import sys, time
from pathlib import Path
from flowertune.errors import Interrupted
from flowertune.runs.log import log_failures
from flowertune.runs.directory import Run
from flowertune.signals import install_handlers

run = Run(Path(sys.argv[1]))
try:
    with install_handlers(), log_failures(run, "memory"):
        print("ready", flush=True)
        for _ in range(600):
            time.sleep(0.1)
except Interrupted as interruption:
    sys.exit(interruption.exit_code)
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(
    ("sent", "exit_code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)],
    ids=["TERM", "INT", "USR1"],
)
def test_a_real_signal_sets_the_state_to_interrupted(
    run: Run, sent: signal.Signals, exit_code: int
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(run.path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    sent_at = time.monotonic()
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert "Traceback" not in errors
    assert time.monotonic() - sent_at < 30  # the body would sleep for a minute
    assert status(run) == {"state": "interrupted", "why": f"interrupted by {sent.name}"}

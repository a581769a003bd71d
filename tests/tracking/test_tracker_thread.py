"""A tracker that dies, hangs or exits costs one line, and the run nothing."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from flowertune.config.logger import TensorBoardConfig
from flowertune.errors import Interrupted, TrainingError
from flowertune.runs.directory import Metrics, Run
from flowertune.tracking import tracker as tracking
from flowertune.tracking.tracker import Tracker, Tracking

LINES: list[Metrics] = [{"step": step, "split": "train", "loss": 1 / step} for step in range(1, 6)]
Open = Callable[..., Any]


class Remembering:
    """Keeps what it got; `at` one of its calls, counted from the start, it does `what`."""

    def __init__(self, at: int | None = None, what: Callable[[], object] = lambda: None) -> None:
        self.at, self.what, self.calls = at, what, 0
        self.lines: list[Metrics] = []
        self.got: list[Any] = []
        self.location = "there"

    def begin(self, *_: Any) -> Tracker:
        self._call()
        return self

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        self._call()
        self.lines += lines

    def log_results(self, results: Mapping[str, Any]) -> None:
        self._call()
        self.got.append(results)

    def close(self, state: str) -> None:
        self._call()
        self.got.append(state)

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.what()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: list[str]) -> Open:
    """`with opened(tracker) as tracking:` is a run that goes to this tracker."""

    @contextmanager
    def opened(tracker: Remembering) -> Iterator[Tracking]:
        monkeypatch.setitem(tracking.TRACKERS, "tensorboard", tracker.begin)
        with Tracking(TensorBoardConfig(), Run(tmp_path), {}, said.append) as handed:
            yield handed

    return opened


def train(handed: Tracking) -> None:
    for known in (2, 2, 4, 5):
        handed.log_metrics(LINES[:known])
    handed.log_results({"top1": 0.5})


def test_it_gets_every_line_once_then_the_results_and_the_end(
    opened: Open, said: list[str]
) -> None:
    tracker = Remembering()
    with opened(tracker) as handed:
        train(handed)
    assert tracker.lines == LINES
    assert tracker.got == [{"top1": 0.5}, "finished"]
    assert said == ["logger=tensorboard: there"]


def die() -> None:
    raise ConnectionError("https://me:secret@example.org:1: no route")


def leave() -> None:
    raise SystemExit(1)


@pytest.mark.parametrize("at", [1, 3, 5, 6], ids=["start", "third call", "results", "close"])
@pytest.mark.parametrize(
    ("what", "why"),
    [(die, ": https://example.org:1: no route"), (leave, "SystemExit: 1")],
)
def test_dead_at_any_call_it_is_one_line_and_left_aside(
    at: int, what: Callable[[], None], why: str, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tracker = Remembering(at, what)
    with opened(tracker) as handed:
        train(handed)
    (warning,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert warning.getMessage().startswith("logger=tensorboard is left aside: ")
    assert warning.getMessage().endswith(why)
    assert "secret" not in caplog.text
    assert tracker.calls == at


@pytest.mark.parametrize("at", [1, 2, 6], ids=["start", "first lines", "close"])
def test_a_hanging_one_holds_up_neither_the_training_nor_the_end(
    at: int, opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "TIMEOUTS_S", {"finished": 0.05})
    answer = threading.Event()
    with opened(Remembering(at, lambda: answer.wait(60))) as handed:
        train(handed)
    assert not answer.is_set()
    answer.set()
    (warning,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "it was not done 0.05 s after the run" in warning.getMessage()


@pytest.mark.parametrize(
    ("error", "state"),
    [(TrainingError("no"), "failed"), (Interrupted(signal.SIGTERM), "interrupted")],
)
def test_it_hears_how_a_run_ended_too_soon(error: BaseException, state: str, opened: Open) -> None:
    tracker = Remembering()

    def run() -> None:
        with opened(tracker) as handed:
            handed.log_metrics(LINES)
            raise error

    with pytest.raises(type(error)):
        run()
    assert tracker.lines == LINES
    assert tracker.got == [state]


def test_with_its_results_it_is_finished_whatever_interrupts_its_page(opened: Open) -> None:
    tracker = Remembering()

    def run() -> None:
        with opened(tracker) as handed:
            train(handed)
            raise Interrupted(signal.SIGINT)

    with pytest.raises(Interrupted):
        run()
    assert tracker.got == [{"top1": 0.5}, "finished"]

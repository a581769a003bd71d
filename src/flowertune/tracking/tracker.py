"""Send the numbers of a run to an experiment tracker, on a thread of its own."""

import importlib.util
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol
from urllib.parse import urlsplit

from flowertune.config.logger import LoggerConfig, MlflowConfig, WandbConfig
from flowertune.errors import Interrupted, UsageError, with_type
from flowertune.runs.directory import Metrics, Run
from flowertune.tracking.mlflow import Mlflow
from flowertune.tracking.tensorboard import TensorBoard
from flowertune.tracking.wandb import Wandb, check_login


class Tracker(Protocol):
    """One run at a tracker. What it does may raise anything, and take any time.

    `place`: where a person finds the run there. A run that was stopped and goes on gives its
    tracker all lines once more, and the tracker leaves out those that it has.
    """

    place: str

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        """Takes the next lines of metrics.jsonl."""

    def log_results(self, results: Mapping[str, Any]) -> None:
        """Takes what results.json has."""

    def close(self, state: str) -> None:
        """Sends what is left; `state`: finished, failed or interrupted."""


_TRACKERS: dict[str, Callable[[Any, Run, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
}


def check(settings: LoggerConfig) -> None:
    """Whether a run can be tracked so, as far as that shows beforehand.

    Raises:
        UsageError: the package is not installed, wandb would ask who you are, or config.yaml would
            keep a password.
    """
    if settings.name == "none":
        return
    found = importlib.util.find_spec(settings.name)
    if found is None or found.origin is None:  # wandb's own folder of files is no package
        raise UsageError(
            f"logger={settings.name}: is not installed; pip install 'flowertune[{settings.name}]'"
        )
    if isinstance(settings, WandbConfig):
        check_login(settings.mode)
    if isinstance(settings, MlflowConfig) and urlsplit(settings.uri or "").password:
        raise UsageError(
            "logger.uri: holds a password, and config.yaml would keep it; give the address as "
            "MLFLOW_TRACKING_URI"
        )


def start(settings: LoggerConfig, run: Run, config: Mapping[str, Any]) -> Tracker:
    """The run at its tracker, new or found again, with its whole `config` as plain values."""
    return _TRACKERS[settings.name](settings, run, config)


log = logging.getLogger(__name__)

# Seconds that a tracker has for what is left to send; whoever interrupts wants an end soon.
PATIENCE_S = {"finished": 60.0, "failed": 60.0, "interrupted": 10.0}
SOON_S = 2.0  # a wait that is longer is told of


class Tracking:
    """Hands a run to its tracker, which `start` gives in the other thread; None: to nobody.

    `say` gets the place where a person finds the run there.
    """

    def __init__(
        self, name: str, start: Callable[[], Tracker] | None, say: Callable[[str], None]
    ) -> None:
        self._name = name
        self._say = say
        self._calls: SimpleQueue[Callable[[Tracker], None] | None] = SimpleQueue()
        self._given = 0  # lines
        self._has_results = False
        self._place: str | None = None
        self._fault: str | None = None
        self._thread: Thread | None = None
        if start is not None:
            # where it hangs, the process ends without it
            self._thread = Thread(target=self._work, args=(start,), daemon=True)
            self._thread.start()

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        """Takes all lines of metrics.jsonl so far, and hands on those that are new."""
        new, self._given = list(lines[self._given :]), len(lines)
        if new:
            self._hand_on(lambda tracker: tracker.log_metrics(new))

    def log_results(self, results: Mapping[str, Any]) -> None:
        """Takes the content of results.json."""
        self._has_results = True
        self._hand_on(lambda tracker: tracker.log_results(results))

    def close(self, state: str) -> None:
        """Waits until all is handed on, for so long that it cannot be a hang.

        A run with its results is finished, whatever came afterwards.
        """
        told = "finished" if self._has_results else state
        self._hand_on(lambda tracker: tracker.close(told))
        if self._thread is None:
            return
        self._calls.put(None)
        patience = PATIENCE_S[state]
        self._thread.join(min(SOON_S, patience))
        if self._thread.is_alive():
            self._say(f"logger={self._name}: waiting for it, {patience:g} s at most")
            self._thread.join(max(0, patience - SOON_S))
        if self._thread.is_alive():
            self._fault = f"it was not done {patience:g} s after the run"
        self._tell()

    def _hand_on(self, call: Callable[[Tracker], None]) -> None:
        self._tell()
        if self._thread is not None:
            self._calls.put(call)

    def _tell(self) -> None:
        """What the other thread has to say; the terminal is this one's."""
        place, self._place = self._place, None
        if place is not None:
            self._say(f"logger={self._name}: {place}")
        if self._fault is not None:
            log.warning("logger=%s is left aside: %s", self._name, self._fault)
            self._thread = self._fault = None

    def _work(self, start: Callable[[], Tracker]) -> None:
        try:
            tracker = start()
            self._place = tracker.place
            while (call := self._calls.get()) is not None:
                call(tracker)
        except BaseException as error:  # whatever a tracker does, SystemExit too
            log.debug("logger=%s\n%s", self._name, _without_names(traceback.format_exc()))
            self._fault = _without_names(with_type(error))


def _without_names(text: str) -> str:
    """Without what an address has of a user and a password; run.log is handed around."""
    return re.sub(r"://[^/\s]*@", "://", text)


@contextmanager
def track_run(
    settings: LoggerConfig, run: Run, config: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[Tracking]:
    """While it is open the run goes to the tracker that `settings` choose; then it is closed there.

    However the body ends, the tracker hears of it: finished, failed or interrupted.
    """
    start = None if settings.name == "none" else lambda: start(settings, run, config)
    tracking = Tracking(settings.name, start, say)
    state = "failed"
    try:
        yield tracking
        state = "finished"
    except Interrupted:
        state = "interrupted"
        raise
    finally:
        tracking.close(state)

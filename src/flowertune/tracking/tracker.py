"""Send the numbers of a run to an experiment tracker, on a thread of its own."""

import importlib.util
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
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

    location: str

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
    spec = importlib.util.find_spec(settings.name)
    if spec is None or spec.origin is None:  # wandb's own folder of files is no package
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
TIMEOUTS_S = {"finished": 60.0, "failed": 60.0, "interrupted": 10.0}
QUIET_WAIT_S = 2.0  # a wait that is longer is told of


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
        self._n_lines = 0
        self._has_results = False
        self._location: str | None = None
        self._error: str | None = None
        self._thread: Thread | None = None
        if start is not None:
            # where it hangs, the process ends without it
            self._thread = Thread(target=self._run_tracker, args=(start,), daemon=True)
            self._thread.start()

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        """Takes all lines of metrics.jsonl so far, and hands on those that are new."""
        new, self._n_lines = list(lines[self._n_lines :]), len(lines)
        if new:
            self._enqueue(lambda tracker: tracker.log_metrics(new))

    def log_results(self, results: Mapping[str, Any]) -> None:
        """Takes the content of results.json."""
        self._has_results = True
        self._enqueue(lambda tracker: tracker.log_results(results))

    def close(self, state: str) -> None:
        """Waits until all is handed on, for so long that it cannot be a hang.

        A run with its results is finished, whatever came afterwards.
        """
        final_state = "finished" if self._has_results else state
        self._enqueue(lambda tracker: tracker.close(final_state))
        if self._thread is None:
            return
        self._calls.put(None)
        timeout = TIMEOUTS_S[state]
        self._thread.join(min(QUIET_WAIT_S, timeout))
        if self._thread.is_alive():
            self._say(f"logger={self._name}: waiting for it, {timeout:g} s at most")
            self._thread.join(max(0, timeout - QUIET_WAIT_S))
        if self._thread.is_alive():
            self._error = f"it was not done {timeout:g} s after the run"
        self._report()

    def _enqueue(self, call: Callable[[Tracker], None]) -> None:
        self._report()
        if self._thread is not None:
            self._calls.put(call)

    def _report(self) -> None:
        """What the other thread has to say; the terminal is this one's."""
        location, self._location = self._location, None
        if location is not None:
            self._say(f"logger={self._name}: {location}")
        if self._error is not None:
            log.warning("logger=%s is left aside: %s", self._name, self._error)
            self._thread = self._error = None

    def _run_tracker(self, start: Callable[[], Tracker]) -> None:
        try:
            tracker = start()
            self._location = tracker.location
            while (call := self._calls.get()) is not None:
                call(tracker)
        except BaseException as error:  # whatever a tracker does, SystemExit too
            log.debug("logger=%s\n%s", self._name, _redact_credentials(traceback.format_exc()))
            self._error = _redact_credentials(with_type(error))


def _redact_credentials(text: str) -> str:
    """Without what an address has of a user and a password; run.log is handed around."""
    return re.sub(r"://[^/\s]*@", "://", text)


@contextmanager
def track_run(
    settings: LoggerConfig, run: Run, config: Mapping[str, Any], say: Callable[[str], None]
) -> Iterator[Tracking]:
    """While it is open the run goes to the tracker that `settings` choose; then it is closed there.

    However the body ends, the tracker hears of it: finished, failed or interrupted.
    """
    start_tracker = None if settings.name == "none" else partial(start, settings, run, config)
    tracking = Tracking(settings.name, start_tracker, say)
    state = "failed"
    try:
        yield tracking
        state = "finished"
    except Interrupted:
        state = "interrupted"
        raise
    finally:
        tracking.close(state)

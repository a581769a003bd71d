"""Send the numbers of a run to an experiment tracker, on a thread of its own."""

import importlib.util
import logging
import re
import traceback
from collections.abc import Callable, Mapping, Sequence
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

log = logging.getLogger(__name__)
# Seconds that a tracker has for what is left to send; whoever interrupts wants an end soon.
TIMEOUTS_S = {"finished": 60.0, "failed": 60.0, "interrupted": 10.0}
QUIET_WAIT_S = 2.0  # a wait that is longer is told of


class Tracker(Protocol):
    """Run at an experiment tracker. Methods may raise anything and take any time.

    `location`: where a person finds the run there. A run that was stopped and goes on gives its
    tracker all lines once more, and the tracker leaves out those that it has.
    """

    location: str

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        """Log the next lines of metrics.jsonl."""

    def log_results(self, results: Mapping[str, Any]) -> None:
        """Log the content of results.json."""

    def close(self, state: str) -> None:
        """Send what is left; `state`: finished, failed or interrupted."""


TRACKERS: dict[str, Callable[[Any, Run, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
}


def check(settings: LoggerConfig) -> None:
    """Check before training that the tracker can be used.

    Raises UsageError where the package is not installed, wandb would ask who you are, or
    config.yaml would keep a password.
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


class Tracking:
    """Forward a run to its tracker, on another thread, while the body of a `with` runs.

    However the body ends, the tracker hears of it. `say` gets the place where a person finds the
    run there.
    """

    def __init__(
        self,
        settings: LoggerConfig,
        run: Run,
        config: Mapping[str, Any],
        say: Callable[[str], None],
    ) -> None:
        self._name = settings.name
        self._say = say
        self._calls: SimpleQueue[Callable[[Tracker], None] | None] = SimpleQueue()
        self._n_lines = 0
        self._has_results = False
        self._location: str | None = None
        self._error: str | None = None
        self._thread: Thread | None = None
        if settings.name != "none":
            start = partial(TRACKERS[settings.name], settings, run, config)
            # where it hangs, the process ends without it
            self._thread = Thread(target=self._run_tracker, args=(start,), daemon=True)

    def __enter__(self) -> "Tracking":
        if self._thread is not None:
            self._thread.start()
        return self

    def log_metrics(self, lines: Sequence[Metrics]) -> None:
        """Log the new ones among all lines of metrics.jsonl so far."""
        new, self._n_lines = list(lines[self._n_lines :]), len(lines)
        if new:
            self._enqueue(lambda tracker: tracker.log_metrics(new))

    def log_results(self, results: Mapping[str, Any]) -> None:
        """Log the content of results.json."""
        self._has_results = True
        self._enqueue(lambda tracker: tracker.log_results(results))

    def __exit__(self, kind: Any, error: BaseException | None, where: Any) -> None:
        """Wait until everything is sent, up to a timeout."""
        state = "finished" if error is None else "failed"
        if isinstance(error, Interrupted):
            state = "interrupted"
        # with its results a run is finished, whatever came afterwards
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
        """Print messages of the tracker thread from this one, which owns the terminal."""
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
    """Remove user and password from URLs, since run.log is shared."""
    return re.sub(r"://[^/\s]*@", "://", text)

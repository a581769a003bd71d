"""Stop cleanly on SIGINT, SIGTERM, SIGUSR1 or SIGHUP."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from flowertune.errors import Interrupted

WARNING = getattr(signal, "SIGUSR1", None)  # Slurm sends it before its SIGTERM; Windows has none
FINISHING = "finishing this step and saving; press Ctrl-C again to stop now"


def write(text: str) -> None:
    """Write a line to stderr. Safe in signal handlers; `print` may be interrupted mid-line."""
    # if stderr was closed, 2 may be another file; OSError: Ctrl-C has ended the tee of `2>&1 | tee`
    if sys.stderr is not None:
        with suppress(OSError):
            os.write(2, f"{text}\n".encode())


class StopRequest:
    """Request to stop by SIGINT, SIGTERM, SIGUSR1 (Slurm's warning) or SIGHUP.

    A signal raises Interrupted at once. While `deferred` is open, the first signal is only
    recorded, for `check` to raise at the next safe point; a second one raises at once (`forced`),
    unless it is SIGUSR1, which is only a warning.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.forced = False
        self._deferred = False
        self._stopping = False
        self._say: Callable[[str], None] = write
        self._pid = os.getpid()

    def check(self) -> None:
        """Raise Interrupted if a signal has arrived."""
        if self.received is not None:
            raise Interrupted(self.received)

    @contextmanager
    def deferred(self, say: Callable[[str], None] = write) -> Iterator[None]:
        """Defer signals in the body, which must call `check` or read `received` often enough.

        The signal handler calls `say` with a message at the first signal.
        """
        self._deferred, self._say = True, say
        try:
            yield
        finally:
            self._deferred = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked child has nothing to save
            os._exit(128 + number)
        first = self.received is None
        warning = number == WARNING
        is_second, self._stopping = self._stopping and not warning, self._stopping or not warning
        received = signal.Signals(number)
        if first or is_second:
            self.received = received
        if self._deferred and not is_second:
            if first:
                self._say(FINISHING)
        elif first or not warning:
            self.forced = True
            raise Interrupted(received)


@contextmanager
def install_handlers() -> Iterator[StopRequest]:
    """Handle signals in the body with the yielded StopRequest, in the main thread only."""
    stop_request = StopRequest()
    with on_signals(stop_request.handle):
        yield stop_request


@contextmanager
def on_signals(
    action: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    """Handle signals in the body with `action`; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watched = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGUSR1"):  # Windows has neither
        watched.append(signal.SIGUSR1)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        watched.append(signal.SIGHUP)  # ignored under nohup
    previous = {number: signal.signal(number, action) for number in watched}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

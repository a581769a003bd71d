"""The end that a signal asks for, at a moment that loses nothing."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from flowertune.errors import Interrupted

FINISHING = "the step is finished and saved first; once more ends it at once"


def write(text: str) -> None:
    """A line on stderr. print is not for a signal's handler: it may be in the middle of a line."""
    os.write(2, f"{text}\n".encode())


class Stop:
    """What SIGINT, SIGTERM, SIGUSR1 (Slurm's warning) and SIGHUP ask for.

    A signal raises Interrupted where the process is. While `deferred` is open the first one only
    notes it, and `check` raises it at the next place where nothing is half done; a second one ends
    the process's work at once (`hurried`).
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.hurried = False
        self._deferred = False
        self._say: Callable[[str], None] = write
        self._pid = os.getpid()

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.received is not None:
            raise Interrupted(self.received)

    @contextmanager
    def deferred(self, say: Callable[[str], None] = write) -> Iterator[None]:
        """While it is open, whoever works here asks `check` or `received` often enough.

        `say` tells a person of the first signal, from its handler.
        """
        self._deferred, self._say = True, say
        try:
            yield
        finally:
            self._deferred = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of all these signals."""
        if os.getpid() != self._pid:  # a child that was forked: it has nothing to save
            os._exit(128 + number)
        first, self.received = self.received is None, signal.Signals(number)
        if self._deferred and first:
            self._say(FINISHING)
            return
        self.hurried = True
        raise Interrupted(self.received)


@contextmanager
def listening() -> Iterator[Stop]:
    """While it is open, the signals go to the Stop that it gives; in the main thread alone."""
    stop = Stop()
    with on_signals(stop.handle):
        yield stop


@contextmanager
def on_signals(
    action: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    """What the signals do in the main thread; Python lets no other handle them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watched = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGUSR1"):  # Windows has neither
        watched.append(signal.SIGUSR1)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        watched.append(signal.SIGHUP)  # ignored under nohup
    before = {number: signal.signal(number, action) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

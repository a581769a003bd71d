"""The end that a signal asks for, at a moment that loses nothing."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from flowertune.errors import Interrupted

FINISHING = b"what is begun is finished and saved first; once more ends it at once\n"


class Stop:
    """What SIGINT, SIGTERM, SIGUSR1 (Slurm's warning) and SIGHUP ask for.

    A signal raises Interrupted where the process is. While `deferred` is open the first one only
    notes it, and `check` raises it at the next place where nothing is half done; a second one
    ends the process's work at once (`hurried`), unless it is SIGUSR1, a warning.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.hurried = False
        self._deferred = False
        self._pass_on: Callable[[], None] | None = None
        self._pid = os.getpid()

    def check(self) -> None:
        """Raises Interrupted if a signal has come."""
        if self.received is not None:
            raise Interrupted(self.received)

    @contextmanager
    def deferred(self, pass_on: Callable[[], None] | None = None) -> Iterator[None]:
        """While it is open, whoever works here asks `check` or `received` often enough.

        The first signal calls `pass_on`, too, for other processes.
        """
        self._deferred, self._pass_on = True, pass_on
        try:
            yield
        finally:
            self._deferred = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of all these signals."""
        if os.getpid() != self._pid:  # a child that was forked: it has nothing to save
            os._exit(128 + number)
        first = self.received is None
        if not first and number == getattr(signal, "SIGUSR1", None):
            return
        self.received = signal.Signals(number)
        if self._deferred and first:
            with suppress(OSError):  # `2>&1 | tee`, whose tee the same Ctrl-C has ended
                os.write(2, FINISHING)  # print is not for handlers: it may be in a line's middle
            if self._pass_on is not None:
                self._pass_on()
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

"""Jobs of a sweep in processes of their own, and how they hear that the sweep is to end.

A launcher that loses one of its processes kills the others. So each is told, saves, and comes back
as if its job were done; the jobs that still wait see the sign and are not begun.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flowertune.signals import install_handlers, relay_signal, write


@dataclass(frozen=True)
class WorkerProcesses:
    """What the sweep and the processes of its jobs leave for each other in its jobs' folder."""

    folder: Path

    def _sent(self) -> signal.Signals | None:
        """By what the jobs were asked to end, if they were."""
        signs = sorted(self.folder.glob("ending.*"))
        return signal.Signals[signs[0].suffix[1:]] if signs else None

    @contextmanager
    def told(self) -> Iterator[None]:
        """In the sweep's process: the first signal is passed on, and the body goes on.

        Raises Interrupted after it. A second signal raises it at once.
        """

        def tell(text: str) -> None:
            write(text)
            assert stop.received is not None
            self.end(stop.received)

        with install_handlers() as stop, stop.deferred(tell):
            try:
                yield
            finally:
                stop.check()

    def end(self, received: signal.Signals) -> None:
        """No further job is begun, and those at work here hear of it, and of what was received."""
        with suppress(OSError):  # a full disk: those at work hear of it all the same
            (self.folder / f"ending.{received.name}").touch()
        for file in self.folder.glob("*.pid"):
            with suppress(OSError, ValueError):  # it has just ended, or begins and sees the sign
                host, pid = file.read_text().split()
                if host == socket.gethostname():
                    os.kill(int(pid), signal.SIGUSR1)

    @contextmanager
    def running(self, number: int) -> Iterator[bool]:
        """In a process of job `number`: whether it may begin. Signals raise Interrupted."""
        for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
            if hasattr(signal, name):  # between two jobs the launcher needs it alive
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        file = self.folder / f"{number}.pid"
        with install_handlers(), relay_signal(self._sent):
            file.write_text(f"{socket.gethostname()} {os.getpid()}")
            try:
                yield self._sent() is None
            finally:
                file.unlink(missing_ok=True)

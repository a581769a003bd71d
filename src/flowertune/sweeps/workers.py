"""Worker processes of a sweep's jobs, and the signal that stops them.

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
    """Marker and pid files by which a sweep and its worker processes communicate."""

    folder: Path

    def _stop_signal(self) -> signal.Signals | None:
        """Signal by which the jobs were asked to stop, if any."""
        markers = sorted(self.folder.glob("ending.*"))
        return signal.Signals[markers[0].suffix[1:]] if markers else None

    @contextmanager
    def relay_signals(self) -> Iterator[None]:
        """Pass the first signal on to the workers, while the body goes on in the sweep's process.

        Raises Interrupted after it. A second signal raises it at once.
        """

        def relay(text: str) -> None:
            write(text)
            assert request.received is not None
            self.stop(request.received)

        with install_handlers() as request, request.deferred(relay):
            try:
                yield
            finally:
                request.check()

    def stop(self, received: signal.Signals) -> None:
        """Start no further job, and signal the running ones on this machine."""
        with suppress(OSError):  # a full disk: those at work hear of it all the same
            (self.folder / f"ending.{received.name}").touch()
        for file in self.folder.glob("*.pid"):
            with suppress(OSError, ValueError):  # it has just ended, or begins and sees the sign
                host, pid = file.read_text().split()
                if host == socket.gethostname():
                    os.kill(int(pid), signal.SIGUSR1)

    @contextmanager
    def register(self, number: int) -> Iterator[bool]:
        """Register job `number`'s process; yield if it may start. Signals raise Interrupted."""
        for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
            if hasattr(signal, name):  # between two jobs the launcher needs it alive
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        file = self.folder / f"{number}.pid"
        with install_handlers(), relay_signal(self._stop_signal):
            file.write_text(f"{socket.gethostname()} {os.getpid()}")
            try:
                yield self._stop_signal() is None
            finally:
                file.unlink(missing_ok=True)

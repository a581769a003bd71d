"""Worker processes of a sweep's jobs: how they end with the sweep.

A launcher that loses one of its processes kills the others. So the sweep signals each, which saves
and comes back as if its job were done; the jobs that still wait see the sign and are not begun. A
worker whose sweep was killed notices, saves and ends by itself.
"""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from flowertune.errors import EXIT_FAILED
from flowertune.signals import WARNING, install_handlers, write

INTERVAL_S = 1  # between two looks at whether the sweep's process is still there
PATIENCE_S = 10  # that the workers of a killed sweep have for saving

STOP = "stop"  # the sign that no further job is to begin
_job_lock = threading.Lock()  # held while this process has a job


@contextmanager
def stop_together(folder: Path) -> Iterator[None]:
    """Pass the first signal on to the workers, while the body goes on in the sweep's process.

    Raises Interrupted after it. A second signal raises it at once.
    """

    def stop(text: str) -> None:
        write(text)
        with suppress(OSError):  # a full disk: those at work hear of it all the same
            (folder / STOP).touch()
        if WARNING is not None:  # in a terminal they have had a Ctrl-C too: it hurries nobody
            _signal_all(folder, WARNING)

    with install_handlers() as request, request.deferred(stop):
        try:
            yield
        finally:
            request.check()


def wait_for_orphans(folder: Path) -> None:
    """Wait until the workers of a sweep that was killed have saved."""
    deadline = time.monotonic() + PATIENCE_S
    while WARNING is not None and _signal_all(folder, 0) and time.monotonic() < deadline:
        time.sleep(0.1)


def _signal_all(folder: Path, number: int) -> int:
    """Signal all workers on this machine that have a job; 0 only counts them. -> their number."""
    count = 0
    for file in folder.glob("*.pid"):
        with suppress(OSError, ValueError):  # it has just ended, or begins and sees the sign
            host, pid = file.read_text().split()
            if host == socket.gethostname():
                os.kill(int(pid), number)
                count += 1
    return count


@contextmanager
def keep_process() -> Iterator[None]:
    """Keep this worker process alive until the body is done; it ends soon after its parent."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):  # between two jobs the launcher needs it alive
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _start_watching()
    with _job_lock:
        yield


@contextmanager
def register(folder: Path, number: int) -> Iterator[bool]:
    """Register the process of job `number`; yield whether it may start. A signal interrupts it."""
    file = folder / f"{number}.pid"
    with install_handlers():
        file.write_text(f"{socket.gethostname()} {os.getpid()}")
        try:
            yield not ((folder / STOP).exists() or _is_orphan())
        finally:
            file.unlink(missing_ok=True)


@cache
def _start_watching() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process after its parent; a job that it has is told, and saved first."""
    while not _is_orphan():
        time.sleep(INTERVAL_S)
    os.kill(os.getpid(), WARNING or signal.SIGTERM)
    with _job_lock:
        os._exit(EXIT_FAILED)


def _is_orphan() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and os.getppid() != parent.pid

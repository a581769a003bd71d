"""Stop the worker processes of a sweep together with it.

A launcher that loses a worker kills the others. So the sweep signals each worker, which saves and
returns as if its job were done; jobs that still wait find the STOP file and do not start. A worker
whose sweep was killed notices it, saves and exits.
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

INTERVAL_S = 1  # between two checks that the sweep's process is alive
PATIENCE_S = 10  # time for the workers of a killed sweep to save

STOP = "stop"  # file that keeps further jobs from starting
_job_lock = threading.Lock()  # held while this process runs a job


@contextmanager
def stop_together(folder: Path) -> Iterator[None]:
    """Pass the first signal on to the workers, and raise Interrupted after the body.

    A second signal raises it at once.
    """

    def stop(text: str) -> None:
        write(text)
        with suppress(OSError):  # a full disk: workers with a job are still signaled
            (folder / STOP).touch()
        if WARNING is not None:  # no second signal after a terminal's Ctrl-C
            _signal_all(folder, WARNING)

    with install_handlers() as request, request.deferred(stop):
        try:
            yield
        finally:
            request.check()


def wait_for_orphans(folder: Path) -> None:
    """Wait for the workers of a killed sweep to save, at most PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while WARNING is not None and _signal_all(folder, 0) and time.monotonic() < deadline:
        time.sleep(0.1)


def _signal_all(folder: Path, number: int) -> int:
    """Signal (0: only count) all workers with a job on this machine. -> their number."""
    count = 0
    for file in folder.glob("*.pid"):
        with suppress(OSError, ValueError):  # has just ended, or starts and finds STOP
            host, pid = file.read_text().split()
            if host == socket.gethostname():
                os.kill(int(pid), number)
                count += 1
    return count


@contextmanager
def keep_process() -> Iterator[None]:
    """Keep this worker alive until the body is done; afterwards it ends with its parent."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):  # the launcher needs it alive between jobs
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    _start_watching()
    with _job_lock:
        yield


@contextmanager
def register(folder: Path, number: int) -> Iterator[bool]:
    """Register the process of job `number` for signals, and yield whether the job may start."""
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
    """End this process after its parent; let its job save first."""
    while not _is_orphan():
        time.sleep(INTERVAL_S)
    os.kill(os.getpid(), WARNING or signal.SIGTERM)
    with _job_lock:
        os._exit(EXIT_FAILED)


def _is_orphan() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and os.getppid() != parent.pid

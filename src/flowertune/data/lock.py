"""Of several processes that want the same files made, one makes them and the others wait."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from flowertune.errors import Refused
from flowertune.files import NO_LOCKS


@contextmanager
def held(lock: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file; it falls with the process, however that ends.

    `waiting()` is called before the wait for another process that has it. Raises Refused where the
    file system has no locks.
    """
    file = FileLock(lock)
    try:
        file.acquire(timeout=0)
    except NotImplementedError as error:
        raise Refused(f"{lock}: {NO_LOCKS}") from error
    except Timeout:
        waiting()
        file.acquire()
    try:
        yield
    finally:
        file.release()

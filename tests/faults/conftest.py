"""A limit for what hangs."""

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

PATIENCE_S = 60


@contextmanager
def _no_hang() -> Iterator[None]:
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def no_hang() -> Callable[[], AbstractContextManager[None]]:
    """`with no_hang():` ends the process, with the stacks of all threads, instead of waiting."""
    return _no_hang

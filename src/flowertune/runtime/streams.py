"""Let work go on when nobody reads stdout or stderr any more, or their disk is full."""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

# `| head` has seen enough, or the terminal is closed: nobody would miss what comes now
NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF)


class _ResilientStream(io.FileIO):
    """A descriptor for writing that discards all output after the first error.

    `ended` is whether there was one, and `lost` that error, unless nobody was there to read.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.lost: OSError | None = None
        self.ended = False

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # a pipe that does not block is full
                select.select([], [self], [])
            return written
        except OSError as error:
            if error.errno not in NOBODY_READS:
                self.lost = error
            self.ended = True
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self.fileno())  # for whatever else writes there
            os.close(devnull)
            return memoryview(data).nbytes


def is_writable(stream: Any) -> bool:
    """Whether output to a stream still goes anywhere: to ask before more work is done for it."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return not (isinstance(raw, _ResilientStream) and raw.ended)


@contextmanager
def resilient_output() -> Iterator[list[OSError]]:
    """Make writing to stdout and stderr raise nothing inside (Windows: as ever).

    The list holds, once it is closed, why anything was lost that somebody would have read.
    Streams that are no descriptor's (a notebook's, a test's) are left as they are.
    """
    lost: list[OSError] = []
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if type(stream) is io.TextIOWrapper:
                stack.enter_context(_replace_stream(name, stream, lost))
        yield lost


@contextmanager
def _replace_stream(name: str, stream: io.TextIOWrapper, lost: list[OSError]) -> Iterator[None]:
    stream.reconfigure(errors="backslashreplace")  # any class name on any terminal
    if os.name != "posix":
        yield
        return
    stream.flush()
    output = _ResilientStream(stream.fileno())
    text = io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
    setattr(sys, name, text)
    try:
        yield
    finally:
        setattr(sys, name, stream)
        text.flush()
        if output.lost is not None:
            lost.append(output.lost)

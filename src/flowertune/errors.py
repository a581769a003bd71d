"""Errors that the user can act on, and helpers that format their messages."""

import re
import signal
from pathlib import Path

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT

# Characters in names that would break or reverse a line of output, or control the terminal.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class FlowertuneError(Exception):
    """Error that the user can act on; its message is shown without a traceback."""

    exit_code = EXIT_FAILED


class UsageError(FlowertuneError):
    """Refused before anything started: invalid config, unreadable images, missing weights."""

    exit_code = EXIT_REFUSED


class TrainingError(FlowertuneError):
    """Failure of a started run, such as a non-finite loss."""


class ExportError(FlowertuneError):
    """Failed export or upload."""


class Interrupted(KeyboardInterrupt):
    """Stop requested by a signal; the exit code is 128 + its number, as in shells.

    Not an Exception: no handler mistakes it for a failure, and it also ends a sweep.
    """

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(f"interrupted by {received.name}")
        self.received = received
        # SIGUSR1 is Slurm's early warning of a SIGTERM
        warned = received is getattr(signal, "SIGUSR1", None)
        self.exit_code = 128 + (signal.SIGTERM if warned else received)

    def __reduce__(self) -> tuple[type, tuple[signal.Signals]]:
        return Interrupted, (self.received,)  # pickled when raised in a worker process


def first_line(error: BaseException) -> str:
    """First line of the error's message, or its type name if empty."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def with_type(error: BaseException) -> str:
    """Type name and first line of the message, for internal errors."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


def one_line(error: BaseException) -> str:
    """Whole message on one line, truncated to 300 characters; the type name if empty."""
    message = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return message if len(message) <= 300 else message[:297] + "..."


def printable(name: str | Path) -> str:
    """Escape control characters in a file or class name: `\\n`, `\\x1b`."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], str(name))

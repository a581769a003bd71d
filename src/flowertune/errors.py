"""Errors meant for people: one line on what is wrong, where, and what to do."""

import re
import signal
from pathlib import Path

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REFUSED = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT

# What a name may hold and a line may not: it would break or turn it, or take over the terminal.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class FlowertuneError(Exception):
    """Error that the user can act on; its message is shown without a traceback."""

    exit_code = EXIT_FAILED


class UsageError(FlowertuneError):
    """Nothing was started: invalid config, missing folder, bad photos, no weights."""

    exit_code = EXIT_REFUSED


class TrainingError(FlowertuneError):
    """A started run failed: non-finite loss, out of memory."""


class ExportError(FlowertuneError):
    """An export failed, or could not be pushed."""


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end; the exit code is 128 + its number, as in shells.

    Not an Exception, so that it also ends a multirun and nothing on the way takes it for a failure.
    """

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(f"interrupted by {received.name}")
        self.received = received
        # Slurm's warning is a SIGTERM that comes early
        warned = received is getattr(signal, "SIGUSR1", None)
        self.exit_code = 128 + (signal.SIGTERM if warned else received)

    def __reduce__(self) -> tuple[type, tuple[signal.Signals]]:
        return Interrupted, (self.received,)  # what a sweep's job raises may cross processes


def first_line(error: BaseException) -> str:
    """First line of the error's message, or its type name if empty."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def with_type(error: BaseException) -> str:
    """Type name and first line of the message, for internal errors."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


def one_line(error: BaseException) -> str:
    """Whole message on one line, truncated; the type name if empty."""
    message = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return message if len(message) <= 300 else message[:297] + "..."


def printable(name: str | Path) -> str:
    """Escape control characters in a file or class name: `\\n`, `\\x1b`."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], str(name))

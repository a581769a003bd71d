"""Record how a run ends: status, reason, and a log with the traceback."""

import logging
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from flowertune.errors import FlowertuneError, Interrupted, TrainingError, with_type
from flowertune.files import NO_ROOM
from flowertune.runs.directory import Run
from flowertune.runtime.memory import is_out_of_memory
from flowertune.signals import on_signals

log = logging.getLogger(__name__)

UNREAD = "its output was closed"


@contextmanager
def log_failures(run: Run, out_of_memory: str) -> Iterator[None]:
    """Keep status.json up to date while the body runs; use inside `log_to_file`.

    `out_of_memory` is the message if the device runs out of memory. Other exceptions that are not
    FlowertuneErrors become a TrainingError that names the log with the traceback.
    """
    try:
        yield
    except (FlowertuneError, Interrupted) as error:
        state = "interrupted" if isinstance(error, Interrupted) else "failed"
        _write_status(run, state, str(error))
        raise
    except BrokenPipeError:
        _write_status(run, "interrupted", UNREAD)
        raise
    except Exception as error:
        message, hint = with_type(error), f" (see {run.log})"
        if is_out_of_memory(error):
            message, hint = out_of_memory, ""
        elif isinstance(error, OSError) and error.errno in NO_ROOM:
            where = f"{error.filename}: " if error.filename else ""
            message = f"{where}{error.strerror}; free some space and run the same command again"
            hint = ""
        log.debug("%s\n%s", message, traceback.format_exc())
        _write_status(run, "failed", message)
        raise TrainingError(message + hint) from error
    except BaseException as error:  # such as the SystemExit that rich makes of a BrokenPipeError
        is_unread = isinstance(error.__context__, BrokenPipeError)
        state, why = ("interrupted", UNREAD) if is_unread else ("failed", with_type(error))
        _write_status(run, state, why)
        raise


def _write_status(run: Run, state: str, why: str) -> None:
    with on_signals(signal.SIG_IGN):
        try:
            run.write_status(state, why)
        except OSError as error:
            log.warning("%s is not up to date: %s", run.path / "status.json", error.strerror)


class _LogFileHandler(logging.FileHandler):
    """File handler that prints write errors on one line."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        print(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # the rest did not fit; already reported
            super().close()


class _ScreenHandler(logging.StreamHandler):
    """Stream handler that writes to the current sys.stderr, which a live display replaces."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


@contextmanager
def log_to_file(run: Run) -> Iterator[None]:
    """Log to run.log, with the warnings of libraries; print only flowertune's own warnings."""
    file = _LogFileHandler(run.log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    screen = _ScreenHandler()
    screen.setLevel(logging.WARNING)
    screen.addFilter(logging.Filter("flowertune"))
    logger, root = logging.getLogger("flowertune"), logging.getLogger()
    logger.setLevel(logging.DEBUG)
    # Hydra's job_logging=disabled hides warnings and disables existing loggers
    level = root.level
    root.setLevel(logging.WARNING)
    for other in root.manager.loggerDict.values():
        if isinstance(other, logging.Logger):
            other.disabled = False
    root.addHandler(file)
    root.addHandler(screen)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(screen)
        root.removeHandler(file)
        file.close()

"""Record how a run ends: its status, the reason, and a log with the traceback."""

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

UNREAD = "nobody reads its output any more"


@contextmanager
def log_failures(run: Run, out_of_memory: str) -> Iterator[None]:
    """Keep status.json up to date while the body runs; use inside `log_to_file`.

    `out_of_memory` is what a person reads when the device has no more. Anything else that is not
    meant for people becomes a TrainingError that names the log; the traceback is there.
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
            message = f"{where}{error.strerror}; make room, and the same command goes on"
            hint = ""
        log.debug("%s\n%s", message, traceback.format_exc())
        _write_status(run, "failed", message)
        raise TrainingError(message + hint) from error
    except BaseException as error:  # SystemExit, say, as rich makes of a BrokenPipeError
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
    """File handler that reports write errors on one line instead of raising them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        print(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # the rest that did not fit, which was said by then
            super().close()


class _ScreenHandler(logging.StreamHandler):
    """Stream handler that follows changes of sys.stderr, such as a live view's."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


@contextmanager
def log_to_file(run: Run) -> Iterator[None]:
    """Log our messages and Python's warnings to run.log; show only our warnings on screen."""
    file = _LogFileHandler(run.log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    screen = _ScreenHandler()
    screen.setLevel(logging.WARNING)
    screen.addFilter(logging.Filter("flowertune"))
    logger, root = logging.getLogger("flowertune"), logging.getLogger()
    logger.setLevel(logging.DEBUG)
    # Hydra's job_logging=disabled hides warnings, and disables the loggers that a job finds.
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

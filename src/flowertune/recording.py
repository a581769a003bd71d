"""Whatever becomes of a run, its directory says so: status, reason, a log with the traceback."""

import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import torch

from flowertune.errors import FlowertuneError, Interrupted, TrainingFailed, with_type
from flowertune.runs import Run

log = logging.getLogger(__name__)

MORE_MEMORY = (
    "data.residency=stream keeps the photos out of a GPU's memory, and trainer.compile=never what "
    "its recorded steps hold"
)
OUT_OF_MEMORY = (
    "out of memory on {device}: lower trainer.batch_size={batch_size} and raise "
    "trainer.accumulation={accumulation} by the same factor, which with loss=ce "
    "gives the same steps; outside of training it is trainer.eval_batch_size that counts; "
    + MORE_MEMORY
)


@contextmanager
def recorded(run: Run, out_of_memory: str) -> Iterator[None]:
    """Keeps status.json and run.log true while the body runs.

    A termination signal ends the body like Ctrl-C does. `out_of_memory` is what a person reads
    when the device has no more. Anything else that is not meant for people becomes a
    TrainingFailed that names the log; the traceback is there.

    Raises:
        FlowertuneError: what happened, in one line.
        Interrupted: after SIGINT, SIGTERM or SIGHUP.
    """
    with _logging_to(run), _on_signals(_interrupt):
        try:
            yield
        except Interrupted as interruption:
            _write_status(run, "interrupted", str(interruption))
            raise
        except FlowertuneError as error:
            _write_status(run, "failed", str(error))
            raise
        except Exception as error:
            why = out_of_memory if is_out_of_memory(error) else with_type(error)
            log.debug("%s\n%s", why, traceback.format_exc())
            _write_status(run, "failed", why)
            raise TrainingFailed(
                why if why == out_of_memory else f"{why} (see {run.log})"
            ) from error
        except BaseException as error:  # SystemExit, say, from a library
            _write_status(run, "failed", with_type(error))
            raise


def _write_status(run: Run, state: str, why: str) -> None:
    """What ended the run must not be hidden: not by a second signal, not by a full disk."""
    with _on_signals(signal.SIG_IGN):
        try:
            run.write_status(state, why)
        except OSError as error:
            log.warning("%s is not up to date: %s", run.path / "status.json", error.strerror)


class _LogFile(logging.FileHandler):
    """A log that cannot be written is worth a line, and no more: the run has its own troubles."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's name
        print(f"{self.baseFilename} cannot be written: {sys.exc_info()[1]}", file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # the rest that did not fit, which was said by then
            super().close()


@contextmanager
def _logging_to(run: Run) -> Iterator[None]:
    """run.log gets everything of ours and Python's warnings; people see our warnings alone."""
    file = _LogFile(run.log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    screen.addFilter(logging.Filter("flowertune"))
    ours, root = logging.getLogger("flowertune"), logging.getLogger()
    ours.setLevel(logging.DEBUG)
    # Hydra's job_logging=disabled hides warnings, and disables the loggers that a job finds.
    level = root.level
    root.setLevel(logging.WARNING)
    for logger in root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False
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


@contextmanager
def _on_signals(
    action: Callable[[int, FrameType | None], None] | signal.Handlers,
) -> Iterator[None]:
    """What SIGINT, SIGTERM and SIGHUP do in the main thread; Python lets no other handle them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watched = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    if hang_up is not None and signal.getsignal(hang_up) is not signal.SIG_IGN:  # as under nohup
        watched.append(hang_up)
    before = {number: signal.signal(number, action) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(signal.Signals(number))


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device, or the machine, had no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()  # MPS and the CPU's allocator raise a plain RuntimeError
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )

"""Whatever becomes of a run, its directory says so: status, reason, a log with the traceback."""

import logging
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from flowertune.errors import FlowertuneError, Interrupted, TrainingFailed
from flowertune.runs import Run

log = logging.getLogger(__name__)

OUT_OF_MEMORY = (
    "out of memory on {device}: lower trainer.batch_size={batch_size} and raise "
    "trainer.accumulation={accumulation} by the same factor, which gives the same steps"
)


@contextmanager
def recorded(run: Run, out_of_memory: str) -> Iterator[None]:
    """Keeps status.json and run.log true while the body runs.

    A termination signal ends the body like Ctrl-C does. `out_of_memory` is what a person reads
    when the device has no more. Anything else that is not meant for people becomes a
    TrainingFailed that names the log; the traceback is there.

    Raises:
        FlowertuneError: what happened, in one line.
        Interrupted: after SIGINT or SIGTERM.
    """
    with _logging_to(run), _signals_as_exceptions():
        try:
            yield
        except Interrupted as interruption:
            run.write_status("interrupted", str(interruption))
            raise
        except FlowertuneError as error:
            run.write_status("failed", str(error))
            raise
        except Exception as error:
            why = out_of_memory if _is_out_of_memory(error) else _one_line(error)
            log.debug("%s\n%s", why, traceback.format_exc())
            run.write_status("failed", why)
            raise TrainingFailed(
                why if why == out_of_memory else f"{why} (see {run.log})"
            ) from error


@contextmanager
def _logging_to(run: Run) -> Iterator[None]:
    """run.log gets everything of ours and Python's warnings; people see our warnings alone."""
    file = logging.FileHandler(run.log, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    screen.addFilter(logging.Filter("flowertune"))
    ours, root = logging.getLogger("flowertune"), logging.getLogger()
    ours.setLevel(logging.DEBUG)
    root.addHandler(file)
    root.addHandler(screen)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(screen)
        root.removeHandler(file)
        file.close()


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """SIGINT and SIGTERM raise Interrupted in the main thread; Python lets no other handle them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number))

    watched = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()  # MPS and the CPU's allocator raise a plain RuntimeError
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text
    )


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

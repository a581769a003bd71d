"""A sweep: many jobs, one directory, and tables of their results.

    runs/sweeps/<name>/     the name is made from what was typed, as a run's is
      sweep.csv             a row a job
      summary.csv           a row a setting: mean and standard deviation over seeds; best first
      jobs/<number>.json    a job: its run, its words, its state and why
      jobs/<number>.log     what it printed, where it ran in a process of its own
      multirun.yaml         what Hydra went by

A reproduction is one in runs/reproduce/<name>/, with tables of its own: report/reproduction.py.
The runs lie beside it, where they would lie without the sweep. A launcher may start a job in
another process or on another machine: all that is known of it passes through its file.
"""

import gc
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Protocol

from flowertune import files
from flowertune.analysis.settings import Job, seconds_left
from flowertune.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_REFUSED,
    FlowertuneError,
    UsageError,
    with_type,
)
from flowertune.report import sweep as report
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs.directory import not_writable_message
from flowertune.runs.resume import lock_run
from flowertune.sweeps import workers

_STATES = {EXIT_DONE: "finished", EXIT_REFUSED: "refused"}  # of a job; of any other code: failed


class Tables(Protocol):
    """Tables of the jobs, in the directory of the sweep: report/sweep.py, report/reproduction.py

    They are written after each job, and shown at the end.
    """

    def write(self, folder: Path, jobs: Sequence[Job], swept: Sequence[str]) -> None: ...

    def show(
        self, console: ConsoleReporter, folder: Path, jobs: Sequence[Job], swept: Sequence[str]
    ) -> None: ...


@dataclass(frozen=True)
class Sweep:
    """Checked jobs of a sweep, and its directory.

    swept: the keys of several values. planned: the jobs, unless a sweeper decides them as it goes.
    batch: the overrides of each; None where Hydra's sweeper expands them. total: jobs, if known.
    """

    path: Path
    swept: tuple[str, ...]
    planned: Sequence[Job]
    batch: Sequence[Sequence[str]] | None
    total: int | None
    tables: Tables
    uses_processes: bool  # whether its jobs have processes of their own
    console: str  # the mode of what people see
    pid: int = field(default_factory=os.getpid)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Lock the sweep while the body runs its jobs, then write the tables.

        However the body ends, the tables hold what there is.

        Raises UsageError where another process has the sweep, or the directory cannot be made.
        """
        with lock_run(self.path):
            workers.wait_for_orphans(self.folder)
            try:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir(parents=True)
                for job in self.planned:
                    self._write(job)
            except OSError as error:
                raise UsageError(not_writable_message(self.path, error)) from error
            try:
                with workers.stop_together(self.folder) if self.uses_processes else nullcontext():
                    yield
            finally:
                self._close(sys.exc_info()[1])

    def run_job(self, job: Job, action: Callable[[], int]) -> float | None:
        """Run one job and record its outcome. -> top-1 on val, for a search.

        None for a job that did not finish or has no val. Only an interruption is raised, and ends
        the sweep; in a process of its own it ends that job.
        """
        title = f"job {job.number}" + (f" of {self.total}" if self.total else "")
        console = ConsoleReporter(mode=self.console)
        in_worker = os.getpid() != self.pid
        with workers.keep_process() if in_worker else nullcontext():
            register = workers.register(self.folder, job.number) if in_worker else nullcontext(True)
            log = _redirect(self.folder / f"{job.number}.log") if in_worker else nullcontext()
            try:
                with register as may_start:
                    if not may_start:
                        return None
                    console.say(f"{title}: {report.label(job, self.swept)}")
                    self._write(replace(job, state="running"))
                    with log:
                        job = _finish(job, action)
            except KeyboardInterrupt as interruption:
                self._write(_interrupted(job, interruption))
                if in_worker:
                    return None
                raise
            self._write(job)
            jobs = self.jobs()
            self.tables.write(self.path, jobs, self.swept)
            gc.collect()  # a job's tensors that lie in circles: the next one has all of the memory
            results = job.results()
            top1 = None if results is None else results["splits"].get("val", {}).get("top1")
            if results is None:
                print(f"{title}: {job.state}: {job.why}", file=sys.stderr)
            elif in_worker:
                val = "" if top1 is None else f", val top-1 {top1:.2%}"
                console.say(f"{title}: finished{val}")
            if remaining := seconds_left(jobs):
                console.say(f"about {report.format_duration(remaining)} of training left")
            return top1

    def has_started(self) -> bool:
        return any(job.state != "not started" for job in self.jobs())

    def exit_code(self) -> int:
        """0: all jobs are done; 2: all were refused; 1: anything else."""
        states = {job.state for job in self.jobs()}
        return next((code for code, state in _STATES.items() if states == {state}), EXIT_FAILED)

    def jobs(self) -> list[Job]:
        """List all known jobs, in order."""
        texts = [path.read_text(encoding="utf-8") for path in self.folder.glob("[0-9]*.json")]
        return sorted((Job(**json.loads(text)) for text in texts), key=attrgetter("number"))

    @property
    def folder(self) -> Path:
        """Folder of the jobs' records."""
        return self.path / "jobs"

    def _write(self, job: Job) -> None:
        files.write_json(self.folder / f"{job.number}.json", asdict(job))

    def _close(self, error: BaseException | None) -> None:
        """Write the final states and tables; remove a sweep whose jobs never started."""
        if not self.has_started():
            shutil.rmtree(self.folder)
            with suppress(OSError):  # tables of an earlier time are there
                self.path.rmdir()
            return
        for job in self.jobs():
            if isinstance(error, KeyboardInterrupt) and job.state in ("running", "interrupted"):
                self._write(_interrupted(job, error))
            elif job.state == "running":  # the launcher came back without it
                self._write(replace(job, state="failed", why="its process ended"))
        jobs = self.jobs()
        self.tables.write(self.path, jobs, self.swept)
        self.tables.show(ConsoleReporter(mode=self.console), self.path, jobs, self.swept)


@contextmanager
def _redirect(path: Path) -> Iterator[None]:
    log = path.open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
    with log, redirect_stdout(log), redirect_stderr(log):
        yield


def _interrupted(job: Job, interruption: KeyboardInterrupt) -> Job:
    return replace(job, state="interrupted", why=str(interruption) or None)


def _finish(job: Job, action: Callable[[], int]) -> Job:
    try:
        exit_code = action()
        why = None if exit_code == EXIT_DONE else f"exit code {exit_code}"
    except FlowertuneError as error:
        exit_code, why = error.exit_code, str(error)
    except BrokenPipeError:  # nobody reads what the jobs print
        raise
    except Exception as error:  # a fault of ours: the others go on, and it is not hidden
        traceback.print_exc()
        exit_code, why = EXIT_FAILED, with_type(error)
    return replace(job, state=_STATES.get(exit_code, "failed"), why=why)

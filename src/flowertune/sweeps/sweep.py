"""A sweep: many jobs, one directory, and tables of their results.

    runs/sweeps/<name>/     named after the typed overrides, like a run
      sweep.csv             one row per job
      summary.csv           one row per setting: mean and std over seeds, best first
      jobs/<number>.json    run, overrides, state and reason of a job
      jobs/<number>.log     output of a job that ran in a worker process
      multirun.yaml         Hydra's config of the sweep

A reproduction is a sweep in runs/reproduce/<name>/ with the tables of report/reproduction.py.
Each run has the directory that it has without the sweep. A launcher may start a job in another
process or on another machine, so a job reports its state through its file.
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

_STATES = {EXIT_DONE: "finished", EXIT_REFUSED: "refused"}  # of a job; other codes: failed


class Tables(Protocol):
    """Tables of a sweep, written after each job and shown at the end: report/sweep.py."""

    def write(self, folder: Path, jobs: Sequence[Job], swept: Sequence[str]) -> None: ...

    def show(
        self, console: ConsoleReporter, folder: Path, jobs: Sequence[Job], swept: Sequence[str]
    ) -> None: ...


@dataclass(frozen=True)
class Sweep:
    """Checked jobs of a sweep, and its directory.

    swept: keys with several values. planned: the jobs; empty if a sweeper chooses them.
    batch: the overrides of each; None if Hydra's sweeper expands them. total: jobs, if known.
    """

    path: Path
    swept: tuple[str, ...]
    planned: Sequence[Job]
    batch: Sequence[Sequence[str]] | None
    total: int | None
    tables: Tables
    uses_processes: bool  # whether jobs run in worker processes
    console: str  # run.console
    pid: int = field(default_factory=os.getpid)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Lock the sweep in the body, then write the tables, even after an error.

        Raises UsageError if the sweep is in use, or its directory cannot be created.
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
        """Run one job and record its outcome. -> top-1 on val; None if unfinished or without val.

        Raises only interruptions, which end the sweep; in a worker process they end the job.
        """
        in_worker = os.getpid() != self.pid
        with workers.keep_process() if in_worker else nullcontext():
            return self._run_job(job, action, in_worker)

    def _run_job(self, job: Job, action: Callable[[], int], in_worker: bool) -> float | None:
        title = f"job {job.number}" + (f" of {self.total}" if self.total else "")
        console = ConsoleReporter(mode=self.console)
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
        gc.collect()  # frees tensors in reference cycles before the next job
        results = job.results()
        top1 = None if results is None else results["splits"].get("val", {}).get("top1")
        if results is None:
            print(f"{title}: {job.state}: {job.why}", file=sys.stderr)
        elif in_worker:
            console.say(f"{title}: finished" + ("" if top1 is None else f", val top-1 {top1:.2%}"))
        if remaining := seconds_left(jobs):
            console.say(f"training time left: {report.format_duration(remaining)}")
        return top1

    def has_started(self) -> bool:
        return any(job.state != "not started" for job in self.jobs())

    def exit_code(self) -> int:
        """0 if all jobs are finished, 2 if all were refused, else 1."""
        states = {job.state for job in self.jobs()}
        return next((code for code, state in _STATES.items() if states == {state}), EXIT_FAILED)

    def jobs(self) -> list[Job]:
        """Read the records of all jobs, sorted by number."""
        texts = [path.read_text(encoding="utf-8") for path in self.folder.glob("[0-9]*.json")]
        return sorted((Job(**json.loads(text)) for text in texts), key=attrgetter("number"))

    @property
    def folder(self) -> Path:
        """Folder of the jobs' records."""
        return self.path / "jobs"

    def _write(self, job: Job) -> None:
        files.write_json(self.folder / f"{job.number}.json", asdict(job))

    def _close(self, error: BaseException | None) -> None:
        """Write the final states and tables; remove a sweep of which no job started."""
        if not self.has_started():
            shutil.rmtree(self.folder)
            with suppress(OSError):  # not empty: tables of an earlier sweep
                self.path.rmdir()
            return
        for job in self.jobs():
            if isinstance(error, KeyboardInterrupt) and job.state in ("running", "interrupted"):
                self._write(_interrupted(job, error))
            elif job.state == "running":  # the launcher lost it
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
    except BrokenPipeError:  # stdout is closed
        raise
    except Exception as error:  # a bug: show it, and run the other jobs
        traceback.print_exc()
        exit_code, why = EXIT_FAILED, with_type(error)
    return replace(job, state=_STATES.get(exit_code, "failed"), why=why)

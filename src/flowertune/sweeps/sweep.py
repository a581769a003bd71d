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
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

from flowertune import files
from flowertune.analysis.settings import (
    Job,
    accuracies,
    group_settings,
    job_rows,
    seconds_left,
    setting_rows,
)
from flowertune.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_REFUSED,
    FlowertuneError,
    Interrupted,
    UsageError,
    with_type,
)
from flowertune.report.console import sweep as report
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs.directory import not_writable_message, to_csv
from flowertune.runs.resume import lock_run
from flowertune.sweeps.workers import WorkerProcesses


def check_distinct_runs(jobs: Sequence[Job]) -> None:
    """Refuse jobs that would share a run directory, or that spread over several roots."""
    seen: dict[str, Job] = {}
    for job in jobs:
        if Path(job.run).parent != Path(jobs[0].run).parent:
            raise UsageError("run.root: must be the same for all jobs of a sweep")
        other = seen.setdefault(job.run, job)
        if other is not job:
            raise UsageError(
                f"jobs {other.number} and {job.number} of the sweep are the same run, {job.run}: "
                "give each value once, and no run.name"
            )


class Tables(Protocol):
    """Tables of the jobs, in the directory of the sweep."""

    def write(self, folder: Path, jobs: Sequence[Job]) -> None:
        """Write the tables, after each job."""

    def show(self, console: ConsoleReporter, folder: Path, jobs: Sequence[Job]) -> None:
        """Print the results at the end."""


@dataclass(frozen=True)
class SweepTables:
    """Tables of a sweep: sweep.csv and summary.csv."""

    swept: tuple[str, ...]

    def write(self, folder: Path, jobs: Sequence[Job]) -> None:
        files.write_text(folder / "sweep.csv", to_csv(*job_rows(jobs, self.swept)))
        groups = group_settings(jobs, self.swept)
        files.write_text(folder / "summary.csv", to_csv(*setting_rows(groups, self.swept)))

    def show(self, console: ConsoleReporter, folder: Path, jobs: Sequence[Job]) -> None:
        report.show(console, folder, jobs, self.swept)


@dataclass(frozen=True)
class Sweep:
    """Directory of one sweep. `swept`: the keys of several values; `total`: jobs, if known."""

    path: Path
    swept: tuple[str, ...]
    total: int | None
    tables: Tables
    uses_processes: bool  # whether its jobs have processes of their own
    console: str  # the mode of what people see
    pid: int = field(default_factory=os.getpid)

    @contextmanager
    def open(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Lock the sweep while the body runs its jobs, then write the tables.

        `jobs`: those known beforehand. However the body ends, the tables hold what there is.

        Raises:
            UsageError: another process has the sweep, or the directory cannot be made.
        """
        with lock_run(self.path):
            try:
                shutil.rmtree(self.path / "jobs", ignore_errors=True)
                (self.path / "jobs").mkdir(parents=True)
                for job in jobs:
                    self._write(job)
            except OSError as error:
                raise UsageError(not_writable_message(self.path, error)) from error
            final_state = "failed"  # the launcher came back without them: their process died
            try:
                with self.workers.relay_signals() if self.uses_processes else nullcontext():
                    yield
            except KeyboardInterrupt:
                final_state = "interrupted"
                raise
            finally:
                self._close(final_state)

    def run_job(self, job: Job, action: Callable[[], int]) -> float | None:
        """Run one job and record its outcome. -> top-1 on val, for a search.

        None for a job that did not finish or has no val. Only an interruption is raised, and ends
        the sweep; in a process of its own it ends it by a sign that the other jobs see.
        """
        in_worker = os.getpid() != self.pid
        title, console = self._title(job), ConsoleReporter(mode=self.console)
        try:
            with self._start(job, in_worker) as may_start:
                if not may_start:
                    return None
                state, why = _outcome(action)
        except KeyboardInterrupt as interruption:
            self._write(replace(job, state="interrupted", why=str(interruption) or None))
            if not in_worker:
                raise
            sig = interruption.received if isinstance(interruption, Interrupted) else signal.SIGINT
            self.workers.stop(sig)
            return None
        job = replace(job, state=state, why=why)
        self._write(job)
        jobs = self.jobs()
        self.tables.write(self.path, jobs)
        gc.collect()  # a job's tensors that lie in circles: the next one has all of the memory
        results = job.results()
        top1 = None if results is None else accuracies(results).get("val_top1")
        if results is None:
            print(f"{title}: {state}: {why}", file=sys.stderr)
        elif in_worker:
            console.say(f"{title}: finished" + ("" if top1 is None else f", val top-1 {top1:.2%}"))
        if remaining := seconds_left(jobs):
            console.say(f"about {report.format_duration(remaining)} of training left")
        return top1

    def has_started(self) -> bool:
        """Whether any job has started."""
        return any(job.state != "not started" for job in self.jobs())

    def exit_code(self) -> int:
        """0: all jobs are done; 2: all were refused; 1: anything else."""
        states = {job.state for job in self.jobs()}
        if states == {"finished"}:
            return EXIT_DONE
        return EXIT_REFUSED if states == {"refused"} else EXIT_FAILED

    def jobs(self) -> list[Job]:
        """List all known jobs, in order."""
        records = [json.loads(path.read_text(encoding="utf-8")) for path in self._job_files()]
        return sorted((Job(**record) for record in records), key=lambda job: job.number)

    def _job_files(self) -> Iterator[Path]:
        return (self.path / "jobs").glob("[0-9]*.json")

    def _write(self, job: Job) -> None:
        files.write_json(self.path / "jobs" / f"{job.number}.json", asdict(job))

    def _close(self, final_state: str) -> None:
        """Write the final states and tables; remove a sweep whose jobs never started."""
        if not self.has_started():
            shutil.rmtree(self.path / "jobs")
            with suppress(OSError):  # tables of an earlier time are there
                self.path.rmdir()
            return
        for job in self.jobs():
            if job.state == "running":
                self._write(replace(job, state=final_state, why="its process ended"))
        jobs = self.jobs()
        self.tables.write(self.path, jobs)
        self.tables.show(ConsoleReporter(mode=self.console), self.path, jobs)

    @property
    def workers(self) -> WorkerProcesses:
        """Processes of the jobs, if they have their own."""
        return WorkerProcesses(self.path / "jobs")

    @contextmanager
    def _start(self, job: Job, in_worker: bool) -> Iterator[bool]:
        """Announce the job, if it may start. In a worker process, it prints to its own log."""
        if not in_worker:
            self._announce(job)
            yield True
            return
        with self.workers.register(job.number) as may_start:
            if not may_start:
                yield False
                return
            self._announce(job)
            path = self.path / "jobs" / f"{job.number}.log"
            log = path.open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
            with log, redirect_stdout(log), redirect_stderr(log):
                yield True

    def _announce(self, job: Job) -> None:
        console = ConsoleReporter(mode=self.console)
        console.say(f"{self._title(job)}: {report.label(job, self.swept)}")
        self._write(replace(job, state="running"))

    def _title(self, job: Job) -> str:
        return f"job {job.number}" + (f" of {self.total}" if self.total else "")


def _outcome(action: Callable[[], int]) -> tuple[str, str | None]:
    """Run the action. -> the job's final state, and why."""
    try:
        exit_code = action()
    except UsageError as refusal:
        return "refused", str(refusal)
    except FlowertuneError as error:
        return "failed", str(error)
    except BrokenPipeError:  # nobody reads what the jobs print
        raise
    except Exception as error:  # a fault of ours: the others go on, and it is not hidden
        traceback.print_exc()
        return "failed", with_type(error)
    if exit_code == EXIT_DONE:
        return "finished", None
    return "refused" if exit_code == EXIT_REFUSED else "failed", f"exit code {exit_code}"

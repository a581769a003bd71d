"""Decide whether a run directory is new, finished, resumable or in use."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from flowertune.errors import UsageError
from flowertune.files import lock
from flowertune.runs import provenance
from flowertune.runs.directory import LOCKS, Run, damaged_message, not_writable_message

SWEEPS = "sweeps"  # beside the runs
REPRODUCTIONS = "reproduce"  # beside them, too
_STATE_TEXTS = {
    "finished": "is finished",
    "failed": "failed before",
    "interrupted": "was interrupted before",
    "running": "was left by a process that died",
}


@dataclass(frozen=True)
class PreviousRun:
    """State of an earlier run, with the `checkpoint` to resume from, if any.

    `notes` are lines for a person: damaged checkpoints, another machine.
    """

    description: str
    checkpoint: Path | None
    notes: tuple[str, ...]


def find_run(
    root: Path, name: str, config: Mapping[str, Any], resume: str = "auto"
) -> tuple[Run, bool]:
    """Find the run of that name, and whether it is finished with this very config.

    One that failed, was interrupted or died is there for `open_run` to go on with or to replace;
    with `resume` "restart" a finished one is, too, whatever its config.

    Raises UsageError where another process is at it, it had another config, it is no run, or
    `resume` is "never" and it is one.
    """
    if not name.strip(". ") or Path(name).name != name:
        raise UsageError(f"run.name={name}: must be the name of one directory")
    if name in (SWEEPS, REPRODUCTIONS):
        raise UsageError(f"run.name={name}: is where the tables of many runs lie; choose another")
    path = root.expanduser() / name
    try:
        # of a link, what it leads to is the run: two names of one directory are one run
        run = Run(path.resolve() if path.is_symlink() else path)
        if run.path.is_symlink():  # Python 3.13 resolves links in a circle to one of them
            raise RuntimeError
        if not run.path.exists():
            return run, False
    except OSError as error:
        raise UsageError(not_writable_message(path, error)) from error
    except RuntimeError as error:
        raise UsageError(f"{path}: the directory cannot be made (links in a circle)") from error
    state, _ = _check_resumable(run, config, resume)
    is_finished = state == "finished" and resume != "restart"
    if not is_finished and _locks(run.path).exists():
        with lock_run(run.path):
            pass
    return run, is_finished


@contextmanager
def open_run(
    run: Run, config: Mapping[str, Any], environment: Mapping[str, Any], resume: str = "auto"
) -> Iterator[PreviousRun | None]:
    """Create the run directory or resume it, and lock it while the body runs.

    A run that left a checkpoint keeps its directory. What another left is kept until the new
    directory is there, and then gone. Yields what had become of that run, or None.

    Raises UsageError where another process is at it or was faster, it cannot be made, or the photos
    or the backbone have changed since it was left.
    """
    with lock_run(run.path):
        replaced = _locks(run.path) / f"{run.path.name}.replaced"
        previous = None
        try:
            if replaced.exists():  # by a process that was killed just below
                if run.path.exists():
                    shutil.rmtree(replaced)
                else:
                    replaced.rename(run.path)
            if run.path.exists():
                previous = _resume(run, config, environment, resume)
                if previous.checkpoint is None:
                    run.path.rename(replaced)
        except OSError as error:
            prefix = "" if error.filename is None else f"{error.filename}: "
            message = f"{run.path}: cannot be used ({prefix}{error.strerror or error})"
            raise UsageError(message) from error
        if previous is None or previous.checkpoint is None:
            try:
                run.create(config, environment)
            except BaseException:  # Ctrl-C too
                if replaced.exists() and not run.path.exists():
                    replaced.rename(run.path)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
        yield previous


@contextmanager
def lock_run(path: Path) -> Iterator[None]:
    """Lock the run directory while the body runs or until the process ends.

    Raises UsageError where another process has it, or nothing can be written there.
    """
    with ExitStack() as stack:
        try:
            _locks(path).mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(_locks(path) / f"{path.name}.lock", subject=path))
        except Timeout:
            raise UsageError(f"{path}: another process is at work on it") from None
        except OSError as error:
            raise UsageError(not_writable_message(path, error)) from error
        yield


def _locks(path: Path) -> Path:
    return path.parent / LOCKS  # a lock must outlast what it guards


def _resume(
    run: Run, config: Mapping[str, Any], environment: Mapping[str, Any], resume: str
) -> PreviousRun:
    state, why = _check_resumable(run, config, resume)
    if state == "finished" and resume != "restart":
        raise UsageError(f"{run.path}: another process has finished it in the meantime")
    text = _STATE_TEXTS.get(state, "has no readable status.json") + (f" ({why})" if why else "")
    if resume == "restart":
        return PreviousRun(text, None, ())
    checkpoint, problems = run.newest_checkpoint()
    notes = [f"{path} is passed over: {problem}" for path, problem in problems.items()]
    if checkpoint is not None:
        recorded = run.environment()
        if changed := provenance.changed_facts(recorded, environment, provenance.TASK):
            raise UsageError(
                f"{run.path}: cannot go on, as {', '.join(changed)} changed since; choose another "
                "run.name, or run.resume=restart to replace it"
            )
        changes = provenance.changed_facts(recorded, environment, provenance.MACHINE)
        run.mark_resumed({name: environment[name] for name in changes}, problems)
        if changes:
            others = ", another ".join(changes)
            notes.append(f"it had another {others}: its bits may differ from those of one run")
    return PreviousRun(text, checkpoint, tuple(notes))


def _check_resumable(run: Run, config: Mapping[str, Any], resume: str) -> tuple[str, str | None]:
    """Read the status of a run that this config and `resume` may continue, else UsageError."""
    state, why = run.status()
    of_run = (run.path / "config.yaml", run.path / "environment.json")
    if state not in _STATE_TEXTS and not all(path.is_file() for path in of_run):
        raise UsageError(
            f"{run.path}: exists and is not a finished run; choose another run.name or remove it"
        )
    if resume == "restart":
        return state, why
    if state not in _STATE_TEXTS:
        raise UsageError(damaged_message(run.path, "status.json"))
    if resume == "never":
        raise UsageError(
            f"{run.path}: {_STATE_TEXTS[state]}, and run.resume=never; choose another run.name, or "
            "run.resume=auto or restart"
        )
    run.check_version(", or choose another run.name")
    provenance.check_config(run, config)
    return state, why

"""Decide whether a run directory is new, finished, resumable or in use."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from flowertune.errors import UsageError
from flowertune.files import expand_user, lock
from flowertune.runs import provenance
from flowertune.runs.directory import LOCKS, Run, damaged_message, not_writable_message

SWEEPS, REPRODUCTIONS = "sweeps", "reproduce"  # folders beside the runs
_STATE_TEXTS = {
    "finished": "is finished",
    "failed": "failed before",
    "interrupted": "was stopped before",
    "running": "was left unfinished when its process died",
}


@dataclass(frozen=True)
class PreviousRun:
    """State of an earlier run, the checkpoint to resume from, if any, and warnings (`notes`)."""

    description: str
    checkpoint: Path | None
    notes: tuple[str, ...]


def find_run(
    root: Path, name: str, config: Mapping[str, Any], resume: str = "auto"
) -> tuple[Run, bool]:
    """Find the run of that name, and whether it is finished with the same config.

    An unfinished run is left for `open_run` to resume or replace; so is a finished run if `resume`
    is "restart", whatever its config.

    Raises UsageError if another process holds the run, it has another config, the directory is not
    a run, or `resume` is "never" and the run exists.
    """
    if not name.strip(". ") or Path(name).name != name:
        raise UsageError(f"run.name={name}: must be the name of one directory")
    if name in (SWEEPS, REPRODUCTIONS):
        raise UsageError(f"run.name={name}: is reserved for tables of sweeps; choose another")
    path = expand_user(root) / name
    try:
        # a link is the run that it points to: two names of a directory are one run
        run = Run(path.resolve() if path.is_symlink() else path)
        if run.path.is_symlink():  # Python 3.13 resolves circular links to one of them
            raise RuntimeError
        if not run.path.exists():
            return run, False
    except OSError as error:
        raise UsageError(not_writable_message(path, error)) from error
    except RuntimeError as error:
        raise UsageError(f"{path}: cannot be created (circular links)") from error
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
    """Create or resume the run directory and lock it in the body. Yields the previous run, if any.

    A run with a checkpoint keeps its directory; one without is deleted once the new one exists.

    Raises UsageError if another process holds or has finished the run, the directory cannot be
    created, or the images or the backbone have changed since the run started.
    """
    with lock_run(run.path):
        replaced = _locks(run.path) / f"{run.path.name}.replaced"
        previous = None
        try:
            if replaced.exists():  # by a process killed in the lines below
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
    """Lock the run directory in the body. Raises UsageError if it is in use or not writable."""
    with ExitStack() as stack:
        try:
            _locks(path).mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(_locks(path) / f"{path.name}.lock", subject=path))
        except Timeout:
            raise UsageError(f"{path}: in use by another process") from None
        except OSError as error:
            raise UsageError(not_writable_message(path, error)) from error
        yield


def _locks(path: Path) -> Path:
    return path.parent / LOCKS  # outside the run, as a lock must outlast it


def _resume(
    run: Run, config: Mapping[str, Any], environment: Mapping[str, Any], resume: str
) -> PreviousRun:
    state, why = _check_resumable(run, config, resume)
    if state == "finished" and resume != "restart":
        raise UsageError(f"{run.path}: was finished by another process in the meantime")
    text = _STATE_TEXTS.get(state, "has no readable status.json") + (f" ({why})" if why else "")
    if resume == "restart":
        return PreviousRun(text, None, ())
    checkpoint, problems = run.newest_checkpoint()
    notes = [f"{path}: skipped ({problem})" for path, problem in problems.items()]
    if checkpoint is not None:
        recorded = run.environment()
        if changed := provenance.changed_facts(recorded, environment, provenance.TASK):
            raise UsageError(
                f"{run.path}: cannot be resumed, as {', '.join(changed)} changed; choose another "
                "run.name, or run.resume=restart to replace it"
            )
        names = provenance.changed_facts(recorded, environment, provenance.MACHINE)
        run.mark_resumed({name: environment[name] for name in names}, problems)
        details = [
            name if name == "packages" else f"{name} ({recorded.get(name)} -> {environment[name]})"
            for name in names
        ]
        if details:
            facts = ", ".join(details)
            notes.append(f"{facts} changed since the start; results may differ in the last digits")
    return PreviousRun(text, checkpoint, tuple(notes))


def _check_resumable(run: Run, config: Mapping[str, Any], resume: str) -> tuple[str, str | None]:
    """Read the status of a run; raise UsageError if config or `resume` do not allow its use."""
    state, why = run.status()
    of_run = (run.path / "config.yaml", run.path / "environment.json")
    if state not in _STATE_TEXTS and not all(path.is_file() for path in of_run):
        raise UsageError(
            f"{run.path}: exists but is not a run; remove it or choose another run.name"
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

"""Whose a run directory is: free, finished, left over from an end too soon, or in work."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flowertune import config_file
from flowertune.config import NO_RESULT
from flowertune.errors import Refused
from flowertune.runs import BESIDE, Run, cannot_be_made, taken

SWEEPS = "sweeps"  # beside the runs
_LEFT_OVER = {
    "failed": "failed before",
    "interrupted": "was interrupted before",
    "running": "was left by a process that died",
}


def claim(root: Path, name: str, config: Mapping[str, Any]) -> tuple[Run, bool]:
    """The run of that name and whether it is finished already, with this very config.

    One that failed, was interrupted or died is there for `begun` to replace.

    Raises:
        Refused: another process is at it, it had another config, or it is no run.
    """
    if not name.strip(". ") or Path(name).name != name:
        raise Refused(f"run.name={name}: must be the name of one directory")
    if name == SWEEPS:
        raise Refused(f"run.name={name}: is where sweeps lie; choose another")
    run = Run(root.expanduser() / name)
    try:
        if not run.path.exists():
            return run, False
    except OSError as error:
        raise Refused(cannot_be_made(run.path, error)) from error
    if run.status()[0] == "finished":
        _check_config(run, config)
        return run, True
    _check_left_over(run, config)
    if _locks(run.path).exists():
        with locked(run.path):
            pass
    return run, False


@contextmanager
def begun(
    run: Run, config: Mapping[str, Any], environment: Mapping[str, Any]
) -> Iterator[str | None]:
    """Makes the directory of a claimed run; while it is open nobody else has it.

    What an unfinished run left is kept until the new directory is there, and then gone: nothing
    could go on from it. Yields what had become of that run, or None.

    Raises:
        Refused: another process is at it or was faster, or it cannot be made.
    """
    with locked(run.path):
        before = None
        replaced = _locks(run.path) / f"{run.path.name}.replaced"
        try:
            if replaced.exists():  # by a process that was killed just below
                shutil.rmtree(replaced)
            if run.path.exists():
                before = _check_left_over(run, config)
                run.path.rename(replaced)
        except OSError as error:
            raise Refused(cannot_be_made(run.path, error)) from error
        try:
            run.create(config, environment)
        except Refused:
            if replaced.exists():
                replaced.rename(run.path)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
        yield before


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While it is open nobody else has the directory `path`; it ends with the process, too.

    Raises:
        Refused: another process has it, or nothing can be written there.
    """
    lock = FileLock(_locks(path) / f"{path.name}.lock")
    try:
        _locks(path).mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise Refused(f"{path}: another process is at work on it") from None
    except OSError as error:
        raise Refused(cannot_be_made(path, error)) from error
    try:
        yield
    finally:
        lock.release()


def _locks(path: Path) -> Path:
    return path.parent / BESIDE  # a lock must outlast what it guards


def _check_left_over(run: Run, config: Mapping[str, Any]) -> str:
    """What became of it, in words."""
    state, why = run.status()
    if state == "finished":
        raise Refused(f"{run.path}: another process has finished it in the meantime")
    if state not in _LEFT_OVER:
        raise Refused(taken(run.path))
    _check_config(run, config)
    return _LEFT_OVER[state] + (f" ({why})" if why else "")


def _check_config(run: Run, config: Mapping[str, Any]) -> None:
    try:
        before = config_file.read(run.path / "config.yaml")
    except (OSError, ValueError):
        raise Refused(taken(run.path)) from None
    differing = _differing_keys(before, config)
    if differing:
        raise Refused(
            f"{run.path}: is a run with another config ({', '.join(differing)}); "
            "choose another run.name or remove the directory"
        )


def _differing_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    # A key that is younger than the run had its default, as that is what was done without it.
    old = dict(_flat(config_file.schema_values(before))) | dict(_flat(before))
    new = dict(_flat(now))
    keys = sorted(old.keys() | new.keys())
    return [key for key in keys if not key.startswith(NO_RESULT) and old.get(key) != new.get(key)]


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

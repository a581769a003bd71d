"""Decide whether a run directory is new, finished, resumable or in use."""

import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout

from flowertune import files
from flowertune.config import saved
from flowertune.config.groups import RESULT_NEUTRAL_KEYS
from flowertune.data.dataset import ImageDataset
from flowertune.data.download import Progress
from flowertune.errors import UsageError, printable
from flowertune.files import lock
from flowertune.runs.directory import (
    FORMAT,
    LOCKS,
    Run,
    damaged_message,
    exists_message,
    not_writable_message,
)

SWEEPS = "sweeps"  # beside the runs
REPRODUCTIONS = "reproduce"  # beside them, too
_STATE_TEXTS = {
    "finished": "is finished",
    "failed": "failed before",
    "interrupted": "was interrupted before",
    "running": "was left by a process that died",
}

TASK = ("backbone", "tag", "weights_sha256", "activation", "preprocessing", "data_fingerprint")
MACHINE = ("flowertune", "git_commit", "python", "packages", "device", "precision", "cpu_threads")


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

    Raises:
        UsageError: another process is at it, it had another config, it is no run, or `resume` is
            "never" and it is one.
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
    is_finished = run.status()[0] == "finished" and resume != "restart"
    _check_resumable(run, config, resume)
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

    Raises:
        UsageError: another process is at it or was faster, it cannot be made, or the photos or the
            backbone have changed since it was left.
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

    Raises:
        UsageError: another process has it, or nothing can be written there.
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
    """Check what an earlier run left and prepare it for resuming from a checkpoint."""
    state, why = run.status()
    if state == "finished" and resume != "restart":
        raise UsageError(f"{run.path}: another process has finished it in the meantime")
    _check_resumable(run, config, resume)
    text = _STATE_TEXTS.get(state, "has no readable status.json") + (f" ({why})" if why else "")
    if resume == "restart":
        return PreviousRun(text, None, ())
    checkpoint, problems = run.newest_checkpoint()
    skipped = [f"{path} is passed over: {problem}" for path, problem in problems.items()]
    if checkpoint is None:
        return PreviousRun(text, None, tuple(skipped))
    changes = differences(run, environment)
    run.mark_resumed(changes, problems)
    notes = (
        [f"it had another {', another '.join(changes)}: its bits may differ from those of one run"]
        if changes
        else []
    )
    return PreviousRun(text, checkpoint, (*skipped, *notes))


def _check_resumable(run: Run, config: Mapping[str, Any], resume: str) -> None:
    """Raise UsageError unless `run` is one that this config and `resume` may continue."""
    state, _ = run.status()
    if state not in _STATE_TEXTS and not run.looks_like_run():
        raise UsageError(exists_message(run.path))
    if resume == "restart":
        return
    if state not in _STATE_TEXTS:
        raise UsageError(damaged_message(run.path, "status.json"))
    if resume == "never":
        raise UsageError(
            f"{run.path}: {_STATE_TEXTS[state]}, and run.resume=never; choose another run.name, or "
            "run.resume=auto or restart"
        )
    check_version(run, ", or choose another run.name")
    _check_config(run, config)


def _check_config(run: Run, config: Mapping[str, Any]) -> None:
    try:
        previous = saved.read_values(run.path / "config.yaml")
    except (OSError, ValueError):
        raise UsageError(damaged_message(run.path, "config.yaml")) from None
    keys = _differing_keys(previous, config)
    if keys:
        raise UsageError(
            f"{run.path}: is a run with another config ({', '.join(keys)}); "
            "choose another run.name, or run.resume=restart to replace it"
        )


def _differing_keys(previous: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    old, new = saved.flatten_with_defaults(previous), dict(saved.flatten(current))
    keys = sorted(old.keys() | new.keys())
    relevant = (key for key in keys if not key.startswith(RESULT_NEUTRAL_KEYS))
    return [key for key in relevant if old.get(key) != new.get(key)]


def check_version(run: Run, otherwise: str = "") -> None:
    """Raise UsageError if a newer flowertune wrote the run.

    `otherwise`: what else a person may do than use that one, as the sentence goes on.
    """
    environment = run.environment()
    version = environment.get("format", 0)  # the first ones had none
    if not isinstance(version, int):
        raise UsageError(damaged_message(run.path, "environment.json"))
    if version > FORMAT:
        raise UsageError(
            f"{run.path}: was made by flowertune {environment.get('flowertune')}, which is newer "
            f"than this one; use that{otherwise}"
        )


def differences(run: Run, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of the environment since an unfinished run started, which may change bits.

    Versions, device, threads, with the present ones. Raises UsageError where it cannot go on, as
    the photos or the backbone are others.
    """
    previous, current = run.environment(), json.loads(json.dumps(environment))
    changed = [name for name in TASK if previous.get(name) != current[name]]
    if changed:
        raise UsageError(
            f"{run.path}: cannot go on, as {', '.join(changed)} changed since; choose another "
            "run.name, or run.resume=restart to replace it"
        )
    return {name: current[name] for name in MACHINE if previous.get(name) != current[name]}


def changed_facts(run: Run, facts: Mapping[str, Any]) -> list[str]:
    """Names of the backbone's facts that differ from those of a finished run."""
    previous = run.environment()
    current = json.loads(json.dumps(facts))  # whose lists were tuples
    return [name for name, value in current.items() if previous.get(name) != value]


def check_backbone(run: Run, facts: Mapping[str, Any]) -> None:
    """Raise UsageError if the backbone differs from that of a finished run."""
    changed = changed_facts(run, facts)
    if changed:
        raise UsageError(
            f"{run.path}: is finished, but the backbone has changed since "
            f"({', '.join(changed)}); choose another run.name"
        )


def check_images(run: Run, dataset: ImageDataset, progress: Progress) -> None:
    """Raise UsageError if images were added, removed or changed since a finished run.

    Every file is read: a folder that took another's place does not show in its files' times.
    """
    previous = {(image.split, image.path): image.sha256 for image in run.images()}
    current = {
        (name, path.relative_to(dataset.root).as_posix()): path
        for name, split in dataset.splits.items()
        for path in split.paths
    }
    left_out = {path for _, path in current.keys() - previous} & _left_out(run, dataset.root)
    changed = {entry for entry in previous.keys() ^ current.keys() if entry[1] not in left_out}
    entries = [entry for entry in previous if entry in current]
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(_sha256_or_none, (current[entry] for entry in entries))
        for done, (entry, sha256) in enumerate(zip(entries, hashes, strict=True), start=1):
            progress("comparing photos", done, len(entries))
            if sha256 != previous[entry]:
                changed.add(entry)
    if changed:
        first = printable(min(changed)[1])
        more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        raise UsageError(
            f"{run.path}: is finished, but the photos have changed since ({first}{more}: came, "
            "went or is another); choose another run.name, and if one was replaced with its size "
            "and time kept, flowertune data cache clear first"
        )


def _left_out(run: Run, root: Path) -> set[str]:
    left_out = run.environment().get("left_out", [])
    try:
        paths = [Path(path) for path, _ in left_out]
    except (TypeError, ValueError) as error:
        raise UsageError(damaged_message(run.path, "environment.json")) from error
    return {path.relative_to(root).as_posix() for path in paths if path.is_relative_to(root)}


def _sha256_or_none(path: Path) -> str | None:
    """SHA-256 of a file; None if it cannot be read."""
    try:
        return files.sha256_of(path)
    except OSError:
        return None

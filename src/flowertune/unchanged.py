"""Whether what a run rests on is still what it was: photos, backbone, machine, flowertune."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flowertune import files
from flowertune.data.dataset import PhotoSet
from flowertune.errors import Refused, printable
from flowertune.runs import FORMAT, Run, damaged

Progress = Callable[[str, int, int | None], None]

TASK = ("backbone", "tag", "weights_sha256", "activation", "preprocessing", "data_fingerprint")
MACHINE = ("flowertune", "git_commit", "python", "packages", "device", "precision", "cpu_threads")


def check_version(run: Run, otherwise: str = "") -> None:
    """Refuses what a newer flowertune has written, which this one might misread.

    `otherwise`: what else a person may do than use that one, as the sentence goes on.
    """
    environment = run.environment()
    version = environment.get("format", 0)  # the first ones had none
    if not isinstance(version, int):
        raise Refused(damaged(run.path, "environment.json"))
    if version > FORMAT:
        raise Refused(
            f"{run.path}: was made by flowertune {environment.get('flowertune')}, which is newer "
            f"than this one; use that{otherwise}"
        )


def differences(run: Run, environment: Mapping[str, Any]) -> dict[str, Any]:
    """What is another than when an unfinished run was begun, and may cost equal bits.

    Versions, device, threads, with the present ones. Raises Refused where it cannot go on, as the
    photos or the backbone are others.
    """
    before, now = run.environment(), json.loads(json.dumps(environment))
    changed = [name for name in TASK if before.get(name) != now[name]]
    if changed:
        raise Refused(
            f"{run.path}: cannot go on, as {', '.join(changed)} changed since; choose another "
            "run.name, or run.resume=restart to replace it"
        )
    return {name: now[name] for name in MACHINE if before.get(name) != now[name]}


def changed_facts(run: Run, facts: Mapping[str, Any]) -> list[str]:
    """Which of the backbone's facts are not what a finished run has."""
    before = run.environment()
    now = json.loads(json.dumps(facts))  # whose lists were tuples
    return [name for name, fact in now.items() if before.get(name) != fact]


def check_backbone(run: Run, facts: Mapping[str, Any]) -> None:
    """Refuses where one of the backbone's facts is not what a finished run has."""
    changed = changed_facts(run, facts)
    if changed:
        raise Refused(
            f"{run.path}: is finished, but the backbone has changed since "
            f"({', '.join(changed)}); choose another run.name"
        )


def check_photos(run: Run, photo_set: PhotoSet, progress: Progress) -> None:
    """Refuses where photos came, went or changed since a finished run: its result is not theirs.

    Every file is read: a folder that took another's place does not show in its files' times.
    """
    before = {(photo.split, photo.path): photo.sha256 for photo in run.photos()}
    now = {
        (name, path.relative_to(photo_set.root).as_posix()): path
        for name, split in photo_set.splits.items()
        for path in split.paths
    }
    left_out = {path for _, path in now.keys() - before} & _left_out(run, photo_set.root)
    changed = {entry for entry in before.keys() ^ now.keys() if entry[1] not in left_out}
    kept = [entry for entry in before if entry in now]
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(_sha256_or_none, (now[entry] for entry in kept))
        for done, (entry, sha256) in enumerate(zip(kept, hashes, strict=True), start=1):
            progress("comparing photos", done, len(kept))
            if sha256 != before[entry]:
                changed.add(entry)
    if changed:
        first = printable(min(changed)[1])
        others = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        raise Refused(
            f"{run.path}: is finished, but the photos have changed since ({first}{others}: came, "
            "went or is another); choose another run.name, and if one was replaced with its size "
            "and time kept, flowertune data cache clear first"
        )


def _left_out(run: Run, root: Path) -> set[str]:
    left_out = run.environment().get("left_out", [])
    try:
        paths = [Path(path) for path, _ in left_out]
    except (TypeError, ValueError) as error:
        raise Refused(damaged(run.path, "environment.json")) from error
    return {path.relative_to(root).as_posix() for path in paths if path.is_relative_to(root)}


def _sha256_or_none(path: Path) -> str | None:
    """None for what cannot be read any more: a link to nowhere, a folder in a photo's place."""
    try:
        return files.sha256_of(path)
    except OSError:
        return None

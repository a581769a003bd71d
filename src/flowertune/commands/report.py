"""`flowertune report`: a finished run as a page; several beside each other, in the console too."""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from flowertune import files
from flowertune.analysis.compare import best_first, compare_runs
from flowertune.commands.arguments import ArgumentParser
from flowertune.errors import EXIT_DONE, UsageError
from flowertune.report import comparison
from flowertune.report.console.run import ConsoleReporter
from flowertune.report.html import comparison as comparison_page
from flowertune.report.html import run as run_page
from flowertune.runs.finished import read_finished_run

_T = TypeVar("_T")


def execute(words: Sequence[str]) -> int:
    """Makes the page of a run, or of several; a sweep's or a reproduction's directory stands for
    its runs.

    Raises:
        UsageError: words that are not understood, what is no finished run, or a place where nothing
            can be written.
    """
    asked = _parse(words)
    paths = [run for path in asked.runs for run in _runs_of(path)]
    if not paths:
        raise UsageError(f"{asked.runs[0]}: has no finished run yet")
    console = ConsoleReporter()
    if len(paths) == 1:
        place = asked.output or paths[0]
        for line in _written(place, lambda: run_page.write(paths[0], asked.output)):
            console.say(line)
        return EXIT_DONE
    found = [best_first(group) for group in compare_runs(map(read_finished_run, paths))]
    page = comparison_page.page("Runs beside each other", found)
    output = asked.output or Path("report.html")
    _written(output, lambda: files.write_text(output, page))
    comparison.show(console, found)
    console.say(str(output))
    return EXIT_DONE


def _written(place: Path, write: Callable[[], _T]) -> _T:
    try:
        return write()
    except OSError as error:
        why = f"{place}: cannot be written ({error.strerror})"
        raise UsageError(f"{why}; --output FILE chooses another place") from error


def _runs_of(path: Path) -> list[Path]:
    """The run itself; of a sweep those that it finished."""
    if not (path / "jobs").is_dir():
        return [path]
    finished = []
    for job in (path / "jobs").glob("[0-9]*.json"):
        try:
            known = json.loads(job.read_text(encoding="utf-8"))
            number, name, state = known["number"], Path(known["run"]).name, known["state"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{job}: is damaged; give the runs in place of {path}") from error
        if state == "finished":
            finished.append((number, path.absolute().parents[1] / name))
    return [run for _, run in sorted(finished)]


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--output", type=Path, metavar="FILE")
    return parser.parse_intermixed_args(words)

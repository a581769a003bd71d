"""`flowertune report`: finished runs beside each other, in the console and as a page."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from flowertune import files
from flowertune.compared import best_first, groups, read
from flowertune.errors import EXIT_DONE, Refused
from flowertune.report import comparison, comparison_page
from flowertune.report.console import RunConsole
from flowertune.runs import damaged


def execute(words: Sequence[str]) -> int:
    """Compares two or more runs; a sweep's or a reproduction's directory stands for its runs.

    Raises:
        Refused: words that are not understood, what is no finished run, fewer than two runs, or a
            place where nothing can be written.
    """
    asked = _parse(words)
    paths = [run for path in asked.runs for run in _runs_of(path)]
    if len(paths) < 2:
        raise Refused("give two or more runs, or the directory of a sweep that has some finished")
    found = [best_first(group) for group in groups(map(read, paths))]
    page = comparison_page.page("Runs beside each other", found)
    try:
        files.write_text(asked.output, page)
    except OSError as error:
        raise Refused(f"--output {asked.output}: cannot be written ({error.strerror})") from error
    console = RunConsole()
    comparison.show(console, found)
    console.say(str(asked.output))
    return EXIT_DONE


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
            raise Refused(damaged(path, f"jobs/{job.name}")) from error
        if state == "finished":
            finished.append((number, path.absolute().parents[1] / name))
    return [run for _, run in sorted(finished)]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--output", type=Path, metavar="FILE", default=Path("report.html"))
    return parser.parse_intermixed_args(words)

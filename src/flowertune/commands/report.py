"""`flowertune report`: write an HTML report of a finished run, or compare several."""

import json
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowertune import files
from flowertune.analysis.compare import compare_runs
from flowertune.errors import EXIT_DONE, UsageError
from flowertune.report import comparison
from flowertune.report.console.run import ConsoleReporter
from flowertune.report.html import comparison as comparison_page
from flowertune.report.html import run as run_page
from flowertune.runs.finished import read_finished_run


def execute(args: Namespace) -> int:
    """Write the page of a run, or of several.

    The directory of a sweep or of a reproduction stands for its runs.

    Raises:
        UsageError: no finished run, or a file that cannot be written.
    """
    paths = [run for path in args.runs for run in _list_runs(path)]
    if not paths:
        raise UsageError(f"{args.runs[0]}: has no finished run yet")
    console = ConsoleReporter()
    if len(paths) == 1:
        with _explain_unwritable(args.output or paths[0]):
            lines = run_page.write(paths[0], args.output)
        for line in lines:
            console.say(line)
        return EXIT_DONE
    groups = [group.best_first() for group in compare_runs(map(read_finished_run, paths))]
    page = comparison_page.page("Runs beside each other", groups)
    output = args.output or Path("report.html")
    with _explain_unwritable(output):
        files.write_text(output, page)
    comparison.show(console, groups)
    console.say(str(output))
    return EXIT_DONE


@contextmanager
def _explain_unwritable(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{output}: cannot be written ({error.strerror})"
        raise UsageError(f"{reason}; --output FILE chooses another place") from error


def _list_runs(path: Path) -> list[Path]:
    if not (path / "jobs").is_dir():
        return [path]
    finished = []
    for job_file in (path / "jobs").glob("[0-9]*.json"):
        try:
            fields = json.loads(job_file.read_text(encoding="utf-8"))
            number, name, state = fields["number"], Path(fields["run"]).name, fields["state"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{job_file}: is damaged; give the runs in place of {path}") from error
        if state == "finished":
            finished.append((number, path.absolute().parents[1] / name))
    return [run for _, run in sorted(finished)]

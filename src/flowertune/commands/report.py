"""`flowertune report`: write an HTML report of a finished run, or compare several."""

import json
from argparse import Namespace
from pathlib import Path

from flowertune import files
from flowertune.analysis.compare import compare_runs
from flowertune.analysis.settings import Job
from flowertune.errors import EXIT_DONE, UsageError
from flowertune.report import comparison
from flowertune.report.console.run import ConsoleReporter
from flowertune.report.html import comparison as comparison_page
from flowertune.report.html import run as run_page
from flowertune.runs.finished import read_finished_run


def execute(args: Namespace) -> int:
    """Write the page of a run, or of several; a sweep or reproduction stands for its runs."""
    paths = [run for path in args.runs for run in _list_runs(path)]
    if not paths:
        raise UsageError(f"{args.runs[0]}: has no finished run yet")
    console, output, groups = ConsoleReporter(), args.output, []
    if len(paths) > 1:
        output = output or Path("report.html")
        groups = [group.best_first() for group in compare_runs(map(read_finished_run, paths))]
    try:
        if groups:
            lines = [str(output)]
            files.write_text(output, comparison_page.page("Runs beside each other", groups))
        else:
            lines = run_page.write(paths[0], output)
    except OSError as error:
        reason = f"{output or paths[0]}: cannot be written ({error.strerror})"
        raise UsageError(f"{reason}; --output FILE chooses another place") from error
    if groups:
        comparison.show(console, groups)
    for line in lines:
        console.say(line)
    return EXIT_DONE


def _list_runs(path: Path) -> list[Path]:
    if not (path / "jobs").is_dir():
        return [path]
    jobs = []
    for job_file in (path / "jobs").glob("[0-9]*.json"):
        try:
            jobs.append(Job(**json.loads(job_file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{job_file}: is damaged; give the runs in place of {path}") from error
    finished = sorted((job.number, job.run) for job in jobs if job.state == "finished")
    return [path.absolute().parents[1] / Path(run).name for _, run in finished]

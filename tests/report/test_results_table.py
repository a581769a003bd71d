"""All tables of results have the same rows and columns."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from flowertune.analysis.settings import METRICS, Job, group_settings, setting_rows
from flowertune.export import model_card
from flowertune.report import reproduction, sweep
from flowertune.report.console.run import ConsoleReporter
from flowertune.report.html import run as run_page
from flowertune.runs.directory import Run
from flowertune.tracking import metric_names


@pytest.fixture
def job(leave_run: Callable[..., Path], tmp_path: Path) -> Job:
    run = leave_run(tmp_path, "method=triplet", "experiment=quickstart")
    return Job(1, str(run), "triplet", 42, {"method": "triplet", "seed": "42"}, "finished")


def tables(job: Job) -> dict[str, str]:
    """The text of each table that shows the results of a run."""
    run = Path(job.run)
    results: dict[str, Any] = Run(run).results()
    out = io.StringIO()
    console = ConsoleReporter(Console(file=out, width=200, color_system=None, soft_wrap=True))
    shown = {}

    def said() -> str:
        text = out.getvalue()
        out.seek(0)
        out.truncate()
        return " ".join(re.sub(r"[\n│]", " ", text).split())

    console.results(results, str(run))
    shown["console"] = said()
    swept = ("method", "seed")
    sweep.show(console, run.parent, [job], swept)
    shown["sweep"] = said()
    reproduction.write(run.parent, [job], swept)
    reproduction.show(console, run.parent, [job], swept)
    shown["comparison"] = said()
    for name in ("reproduce.md", "reproduce.csv", "reproduce.html"):
        shown[name] = (run.parent / name).read_text()
    run_page.write(run, run.parent / "page.html")
    shown["page"] = (run.parent / "page.html").read_text()
    shown["summary"] = str(setting_rows(group_settings([job], ("method",)), ("method",)))
    shown["card"] = model_card._table(results)
    shown["tracker"] = metric_names.markdown(results)
    return shown


def test_an_entry_of_metrics_is_a_column_of_every_table(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tables(job)
    monkeypatch.setitem(METRICS, "ece", "calibration error")
    for name, text in tables(job).items():
        title = "test_ece" if name in ("reproduce.csv", "summary") else "calibration error"
        if name in ("console", "sweep", "comparison"):
            title = "calibration"  # its two words are on two lines
        assert text.count(title) > before[name].count(title), name


def test_the_baselines_come_first_then_the_method(job: Job) -> None:
    for name, text in tables(job).items():
        if name not in ("sweep", "reproduce.csv", "summary"):  # their rows are settings
            table = text[text.index("test") :] if name != "page" else text
            assert table.index("linear probe") < table.rindex("triplet"), name

"""Render one run as a page."""

import json
from pathlib import Path
from typing import Any

from flowertune import files
from flowertune.analysis.published import DESCRIPTION, published_top1
from flowertune.analysis.results_table import result_rows, without_repeats
from flowertune.analysis.settings import protocol_text
from flowertune.metrics import EVALUATED_SPLITS
from flowertune.report.figures import run as run_figures
from flowertune.report.figures.curves import curves
from flowertune.report.html import page
from flowertune.report.results_table import percent, single_run_table
from flowertune.runs.finished import FinishedRun, read_finished_run


def write(path: Path, output: Path | None = None) -> list[str]:
    """Write the page of a run. Returns lines to print: what is missing, and the page's path.

    `output`: file of the page; None for report.html in the run directory, together with its
    figures as PNG and SVG in figures/. Raises UsageError if `path` is not a finished run or one of
    its files is damaged.
    """
    run = read_finished_run(path)
    results, data = run.results, run.report_data
    predictions = run.predictions(run.reported_split)
    accuracies = run_figures.class_accuracies(predictions)
    sizes = {name: n for name, _, n in accuracies}
    confused = run_figures.confused_pairs(predictions)
    curve_figures = curves(run)
    figures = [
        run_figures.confusion(predictions),
        run_figures.per_class(accuracies),
        run_figures.calibration(predictions),
    ]
    missing: list[str] = []
    images: dict[str, Any] = {}
    if isinstance(data, str):
        missing = [data]
    else:
        images = data.images
        figures.append(run_figures.embedding_map(data, predictions))
    published = published_top1(results["method"], run.reported_split, run.values)
    html = page.render(
        "run.html.jinja",
        run.path.name,
        run=run,
        protocol=protocol_text(results),
        tables=_tables(run),
        reference=[] if published is None else [f"{DESCRIPTION}, seed 42"],
        missing=missing,
        images=images,
        predictions=predictions,
        pairs=[[label, other, f"{n} of {sizes[label]}"] for label, other, n in confused],
        classes=[[name, percent(right / n), f"{right} of {n}"] for name, right, n in accuracies],
        environment=json.dumps(run.environment, indent=2, ensure_ascii=False),
        curves=curve_figures,
        figures={figure.name: figure for figure in figures},
    )
    files.write_text(output or path / "report.html", html)
    if output is None:
        (path / "figures").mkdir(exist_ok=True)
        for figure in (*curve_figures, *figures):
            figure.save(path / "figures")
    return [*missing, str(output or path / "report.html")]


def _tables(run: FinishedRun) -> list[tuple[Any, ...]]:
    results, tables = run.results, []
    for split in reversed(EVALUATED_SPLITS):
        rows = without_repeats(result_rows(results, split))
        if not rows:
            continue
        header, lines = single_run_table(rows)
        header += ["top-5", "trainable parameters"]
        for row, line in zip(rows, lines, strict=True):
            line += [percent(row.estimate("top5").mean), f"{row.trainable_parameters:,}"]
        top1 = published_top1(results["method"], split, run.values)
        if top1 is not None:
            lines.append(["reference", percent(top1), *[""] * (len(header) - 2)])
        n_images = results["splits"][split]["n"]
        tables.append((header, lines, f"{split}, {n_images:,} images; accuracies in %"))
    return tables

"""Render one run as a page: results, curves, mistakes."""

import json
from pathlib import Path
from typing import Any

from flowertune import files
from flowertune.analysis.compare import BASELINE_NAMES, METRICS
from flowertune.analysis.published import DESCRIPTION, published_top1
from flowertune.report.comparison import percent
from flowertune.report.figures import run as run_figures
from flowertune.report.figures.curves import curves
from flowertune.report.figures.style import Figure
from flowertune.report.html.gallery import augmented_images, gallery
from flowertune.report.html.page import (
    Section,
    bullets,
    document,
    enlargeable,
    escape,
    figure,
    paragraph,
    table,
    toggle,
)
from flowertune.runs.finished import FinishedRun, read_finished_run

PAIRS_SHOWN = 15


def write(path: Path, output: Path | None = None) -> list[str]:
    """Write the page of the run at `path`. Returns lines to print: missing data, the page's path.

    `output`: where the page goes; None for report.html in the run, and then each figure also goes
    to figures/ there, as PNG and SVG.

    Raises:
        UsageError: `path` is no finished run, or a file of it is missing or damaged.
        OSError: something cannot be written.
    """
    run = read_finished_run(path)
    sections, drawings = _sections(run)
    target = output or path / "report.html"
    files.write_text(target, document(run.path.name, _lead(run), sections))
    if output is None:
        (path / "figures").mkdir(exist_ok=True)
        for drawing in drawings:
            drawing.save(path / "figures")
    missing = [run.report_data] if isinstance(run.report_data, str) else []
    return [*missing, str(target)]


def _lead(run: FinishedRun) -> str:
    results = run.results
    metrics = results["splits"][run.reported_split]
    low, high = metrics["top1_interval"]
    return (
        f"<p><strong>{escape(results['method'])}: {percent(metrics['top1'])} % top-1 on "
        f"{run.reported_split}</strong> [{percent(low)} to {percent(high)}], "
        f"{metrics['n']:,} photos</p>\n"
        + paragraph(f"{results['backbone']} {results['tag']}; {results['protocol']}")
    )


def _sections(run: FinishedRun) -> tuple[list[Section], list[Figure]]:
    curve_drawings = curves(run)
    confusion = run_figures.confusion(run.reported_predictions)
    accuracies = run_figures.class_accuracies(run.reported_predictions)
    per_class = run_figures.per_class(accuracies)
    calibration = run_figures.calibration(run.reported_predictions)
    drawings = [*curve_drawings, confusion, per_class, calibration]

    sections = [Section("result", "Result", _result(run))]
    if curve_drawings:
        sections.append(Section("curves", "Curves", "".join(map(_render, curve_drawings))))
    if isinstance(run.report_data, str):
        sections.append(Section("photos", "Photos", paragraph(run.report_data, "note")))
    else:
        sections += _photos(run, run.report_data.images)
    sections.append(Section("confusion", "What is taken for what", _confusion(run, confusion)))
    rows = [[name, percent(correct / n), f"{correct} of {n}"] for name, correct, n in accuracies]
    all_classes = table(["class", "right, %", "photos"], rows, "lowest first", [1, 2])
    body = _render(per_class) + toggle(f"All {len(rows)} classes", all_classes)
    sections.append(Section("classes", "Classes", body))
    ece = percent(run.results["splits"][run.reported_split]["ece"])
    body = _render(calibration) + paragraph(f"Expected calibration error: {ece} points.")
    sections.append(Section("calibration", "Calibration", body))
    if not isinstance(run.report_data, str):
        embedding_map = run_figures.embedding_map(run.report_data, run.reported_predictions)
        drawings.append(embedding_map)
        sections.append(Section("map", "Embeddings", _render(embedding_map)))
    sections.append(Section("settings", "Settings", _settings(run)))
    return sections, drawings


def _render(drawing: Figure) -> str:
    return figure(drawing.themed_svg, drawing.caption, drawing.alternative)


def _result(run: FinishedRun) -> str:
    results, values = run.results, run.values
    header = ["", *METRICS.values()]
    header.insert(2, "95 % interval")
    body, published = "", False
    for split in ("test", "val"):
        if split not in results["splits"]:
            continue
        keys = [key for key in BASELINE_NAMES if key != results["model"]]
        lines = [(BASELINE_NAMES[key], results["baselines"].get(key)) for key in keys]
        rows = []
        for name, model in [*lines, (results["method"], results)]:
            if model is not None:
                metrics = model["splits"][split]
                interval = " to ".join(map(percent, metrics["top1_interval"]))
                rows.append([
                    name, percent(metrics["top1"]), interval, percent(metrics["mean_per_class"]),
                    percent(metrics["top5"]), f"{model['trainable_parameters']:,}",
                ])  # fmt: skip
        top1 = published_top1(results["method"], split, values)
        if top1 is not None:
            published = True
            rows.append(["reference", percent(top1), "", "", "", ""])
        n = results["splits"][split]["n"]
        body += table(
            [*header, "top-5", "trained parameters"], rows,
            f"{split}, {n:,} photos; in per cent", range(1, 6),
        )  # fmt: skip
    notes = [
        "95 % Wilson intervals: the sampling error of the photos; the spread over seeds comes on "
        "top",
        *results["notes"],
        f"{DESCRIPTION}, seed 42" if published else DESCRIPTION,
    ]
    return body + bullets(notes, "note")


def _confusion(run: FinishedRun, drawing: Figure) -> str:
    pairs = run_figures.confused_pairs(run.reported_predictions)
    if not pairs:
        return paragraph(f"All photos of {run.reported_split} were taken for what they are.")
    counts = {name: n for name, _, n in run_figures.class_accuracies(run.reported_predictions)}
    rows = [[label, predicted, f"{n} of {counts[label]}"] for label, predicted, n in pairs]
    header = ["is", "taken for", "photos"]
    tables = table(header, rows[:PAIRS_SHOWN], "the pairs that are confused most", [2])
    if len(rows) > PAIRS_SHOWN:
        tables += toggle(f"All {len(rows):,} pairs", table(header, rows, "all pairs", [2]))
    return tables + enlargeable("matrix", _render(drawing))


def _photos(run: FinishedRun, images: dict[str, Any]) -> list[Section]:
    sections = []
    for key, title, text in (
        ("mistakes", "Surest mistakes", "The photos of {} that it is surest about and wrong."),
        ("unsure", "Least sure hits", "The photos of {} that it is right about and least sure."),
    ):
        if images[key]:
            suffix = " Each opens: the five likeliest classes, and the nearest training photo."
            body = paragraph(text.format(run.reported_split) + suffix)
            body += gallery(key, images[key], run.reported_predictions)
            sections.append(Section(key, title, body))
    if images["augmented"]:
        text = "Training photos as they are, and as training meets them"
        mixing = run.results["augmentation"]
        suffix = f", {mixing} among these photos" if mixing in ("mixup", "cutmix") else ""
        body = paragraph(f"{text}{suffix}.") + augmented_images(images["augmented"])
        sections.append(Section("augmentation", "Augmentation", body))
    return sections


def _settings(run: FinishedRun) -> str:
    results = run.results
    best, epochs = results["best_epoch"], results["epochs_run"]
    epoch_kept = f"the last of {epochs}" if best is None else f"{best} of {epochs}"
    rows = [
        ["model, head", f"{results['model']}, {results['head']}"],
        ["augmentation, loss", f"{results['augmentation']}, {results['loss']}"],
        ["seed", str(results["seed"])],
        ["epoch kept", epoch_kept if epochs else "no epochs: on frozen features"],
        ["seconds of training and validation", f"{results['seconds']:,.1f}"],
        ["device, precision", f"{results['device']}, {results['precision']}"],
        ["weights (SHA-256)", results["weights_sha256"]],
        ["photos (SHA-256)", results["data_fingerprint"]],
    ]
    config = _text(run.config_text)
    environment = _text(json.dumps(run.environment, indent=2, ensure_ascii=False))
    return (
        table(["", ""], rows, "the run", ())
        + toggle("config.yaml", config)
        + toggle("environment.json", environment)
    )


def _text(text: str) -> str:
    return f'<pre class="scroll" tabindex="0">{escape(text)}</pre>\n'

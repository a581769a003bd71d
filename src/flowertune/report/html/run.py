"""One run as a page: what it reached, how it came to it, what it gets wrong."""

import json
from pathlib import Path
from typing import Any

from flowertune import files
from flowertune.analysis import published as reference
from flowertune.analysis.compare import BASELINE_NAMES, METRICS
from flowertune.report.comparison import percent
from flowertune.report.figures import run as run_figures
from flowertune.report.figures.curves import curves
from flowertune.report.figures.style import Drawing
from flowertune.report.html.gallery import augmented, gallery
from flowertune.report.html.page import (
    Section,
    bullets,
    document,
    enlargeable,
    escaped,
    figure,
    folded,
    paragraph,
    table,
)
from flowertune.runs.report_data import ReportedRun, read_report

PAIRS_SHOWN = 15


def write(path: Path, output: Path | None = None) -> list[str]:
    """Writes the page of the run at `path`. -> what is to be said: what it lacks, its place.

    `output`: where the page goes; None for report.html in the run, and then each figure also goes
    to figures/ there, as PNG and SVG.

    Raises:
        UsageError: `path` is no finished run, or a file of it is missing or damaged.
        OSError: something cannot be written.
    """
    run = read_report(path)
    sections, drawings = _sections(run)
    place = output or path / "report.html"
    files.write_text(place, document(run.path.name, _lead(run), sections))
    if output is None:
        (path / "figures").mkdir(exist_ok=True)
        for drawing in drawings:
            drawing.save(path / "figures")
    lacks = [run.keepsakes] if isinstance(run.keepsakes, str) else []
    return [*lacks, str(place)]


def _lead(run: ReportedRun) -> str:
    results = run.results
    measured = results["splits"][run.reported_split]
    low, high = measured["top1_interval"]
    return (
        f"<p><strong>{escaped(results['method'])}: {percent(measured['top1'])} % top-1 on "
        f"{run.reported_split}</strong> [{percent(low)} to {percent(high)}], "
        f"{measured['n']:,} photos</p>\n"
        + paragraph(f"{results['backbone']} {results['tag']}; {results['protocol']}")
    )


def _sections(run: ReportedRun) -> tuple[list[Section], list[Drawing]]:
    course = curves(run)
    confusion = run_figures.confusion(run.predictions)
    accuracies = run_figures.class_accuracies(run.predictions)
    per_class = run_figures.per_class(accuracies)
    calibration = run_figures.calibration(run.predictions)
    drawings = [*course, confusion, per_class, calibration]

    found = [Section("result", "Result", _result(run))]
    if course:
        found.append(Section("curves", "Curves", "".join(map(_drawn, course))))
    if isinstance(run.keepsakes, str):
        found.append(Section("photos", "Photos", paragraph(run.keepsakes, "note")))
    else:
        found += _photos(run, run.keepsakes.photos)
    found.append(Section("confusion", "What is taken for what", _confusion(run, confusion)))
    rows = [[name, percent(hits / n), f"{hits} of {n}"] for name, hits, n in accuracies]
    all_classes = table(["class", "right, %", "photos"], rows, "lowest first", [1, 2])
    body = _drawn(per_class) + folded(f"All {len(rows)} classes", all_classes)
    found.append(Section("classes", "Classes", body))
    ece = percent(run.results["splits"][run.reported_split]["ece"])
    body = _drawn(calibration) + paragraph(f"Expected calibration error: {ece} points.")
    found.append(Section("calibration", "Calibration", body))
    if not isinstance(run.keepsakes, str):
        mapped = run_figures.embedding_map(run.keepsakes.embeddings, run.predictions)
        drawings.append(mapped)
        found.append(Section("map", "Embeddings", _drawn(mapped)))
    found.append(Section("settings", "Settings", _settings(run)))
    return found, drawings


def _drawn(drawing: Drawing) -> str:
    return figure(drawing.themed_svg, drawing.caption, drawing.alternative)


def _result(run: ReportedRun) -> str:
    results, values = run.results, run.finished.values
    header = ["", *METRICS.values()]
    header.insert(2, "95 % interval")
    body, published = "", False
    for split in ("test", "val"):
        if split not in results["splits"]:
            continue
        others = [key for key in BASELINE_NAMES if key != results["model"]]
        lines = [(BASELINE_NAMES[key], results["baselines"].get(key)) for key in others]
        rows = []
        for name, each in [*lines, (results["method"], results)]:
            if each is not None:
                measured = each["splits"][split]
                interval = " to ".join(map(percent, measured["top1_interval"]))
                rows.append([
                    name, percent(measured["top1"]), interval, percent(measured["mean_per_class"]),
                    percent(measured["top5"]), f"{each['trainable_parameters']:,}",
                ])  # fmt: skip
        top1 = reference.published(results["method"], split, values)
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
        f"{reference.IN_WORDS}, seed 42" if published else reference.IN_WORDS,
    ]
    return body + bullets(notes, "note")


def _confusion(run: ReportedRun, drawing: Drawing) -> str:
    pairs = run_figures.confused_pairs(run.predictions)
    if not pairs:
        return paragraph(f"All photos of {run.reported_split} were taken for what they are.")
    counts = {name: n for name, _, n in run_figures.class_accuracies(run.predictions)}
    rows = [[label, answer, f"{n} of {counts[label]}"] for label, answer, n in pairs]
    header = ["is", "taken for", "photos"]
    shown = table(header, rows[:PAIRS_SHOWN], "the pairs that are confused most", [2])
    if len(rows) > PAIRS_SHOWN:
        shown += folded(f"All {len(rows):,} pairs", table(header, rows, "all pairs", [2]))
    return shown + enlargeable("matrix", _drawn(drawing))


def _photos(run: ReportedRun, photos: dict[str, Any]) -> list[Section]:
    found = []
    for key, title, said in (
        ("mistakes", "Surest mistakes", "The photos of {} that it is surest about and wrong."),
        ("unsure", "Least sure hits", "The photos of {} that it is right about and least sure."),
    ):
        if photos[key]:
            more = " Each opens: the five likeliest classes, and the nearest training photo."
            body = paragraph(said.format(run.reported_split) + more)
            body += gallery(key, photos[key], run.predictions)
            found.append(Section(key, title, body))
    if photos["augmented"]:
        said = "Training photos as they are, and as training meets them"
        kind = run.results["augmentation"]
        mixed = f", {kind} among these photos" if kind in ("mixup", "cutmix") else ""
        body = paragraph(f"{said}{mixed}.") + augmented(photos["augmented"])
        found.append(Section("augmentation", "Augmentation", body))
    return found


def _settings(run: ReportedRun) -> str:
    results = run.results
    best, epochs = results["best_epoch"], results["epochs_run"]
    kept = f"the last of {epochs}" if best is None else f"{best} of {epochs}"
    rows = [
        ["model, head", f"{results['model']}, {results['head']}"],
        ["augmentation, loss", f"{results['augmentation']}, {results['loss']}"],
        ["seed", str(results["seed"])],
        ["epoch kept", kept if epochs else "no epochs: on frozen features"],
        ["seconds of training and validation", f"{results['seconds']:,.1f}"],
        ["device, precision", f"{results['device']}, {results['precision']}"],
        ["weights (SHA-256)", results["weights_sha256"]],
        ["photos (SHA-256)", results["data_fingerprint"]],
    ]
    config = _text(run.config_text)
    environment = _text(json.dumps(run.environment, indent=2, ensure_ascii=False))
    return (
        table(["", ""], rows, "the run", ())
        + folded("config.yaml", config)
        + folded("environment.json", environment)
    )


def _text(text: str) -> str:
    return f'<pre class="scroll" tabindex="0">{escaped(text)}</pre>\n'

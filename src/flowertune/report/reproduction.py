"""Tabulate a reproduction: the results of every method beside the published numbers.

reproduce.md, reproduce.csv     after each job
reproduce.html                  at the end
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from flowertune import files
from flowertune.analysis.compare import METRICS, SPLITS, Comparison, Setting, compare_runs
from flowertune.analysis.published import DESCRIPTION, TOP1, applies, published_top1
from flowertune.analysis.settings import Job
from flowertune.analysis.statistics import (
    Difference,
    difference_from_published,
    sampling_error,
    t_half_width,
)
from flowertune.report.comparison import (
    NOT_COMPARABLE,
    lines,
    markdown,
    notes,
    pair_table,
    pairs_note,
    pairs_of_best,
    percent,
    show,
    signed,
    split_table,
)
from flowertune.report.console.run import ConsoleReporter
from flowertune.report.console.sweep import label
from flowertune.report.html import comparison
from flowertune.runs.directory import to_csv
from flowertune.runs.finished import read_finished_run

TITLE = "What every method reaches"


@dataclass(frozen=True)
class ReproductionTables:
    """Tables of a reproduction, made from its jobs."""

    def write(self, folder: Path, jobs: Sequence[Job]) -> None:
        groups = _groups(jobs)
        files.write_text(folder / "reproduce.md", _document(groups, jobs))
        files.write_text(folder / "reproduce.csv", to_csv(*_csv(groups)))

    def show(self, console: ConsoleReporter, folder: Path, jobs: Sequence[Job]) -> None:
        groups = _groups(jobs)
        console.say(f"\nreproduce: {_progress_text(jobs)}")
        show(console, groups)
        for line in (*_reference_lines(groups), *_unfinished(jobs)):
            console.say(line)
        page = comparison.page(
            TITLE, groups, reference_table, reference_notes,
            [_progress_text(jobs), *_unfinished(jobs)],
        )  # fmt: skip
        files.write_text(folder / "reproduce.html", page)
        console.say(f"{folder / 'reproduce.md'}, reproduce.csv, reproduce.html")


def _groups(jobs: Sequence[Job]) -> list[Comparison]:
    """Group finished runs by method, in the order listed."""
    finished = [job for job in jobs if job.state == "finished"]
    methods = list(dict.fromkeys(job.method for job in jobs))
    finished.sort(key=lambda job: methods.index(job.method))
    return compare_runs(read_finished_run(Path(job.run)) for job in finished)


def compare_to_reference(row: Setting, split: str) -> tuple[float, Difference] | None:
    """Published top-1 and our difference from it; None if there is none to compare."""
    first = row.runs[0]
    published = published_top1(row.method, split, first.values)
    if published is None:
        return None
    n = first.results["splits"][split]["n"]
    return published, difference_from_published(row.over_seeds(split, "top1"), n, published)


def reference_table(group: Comparison, split: str) -> tuple[list[str], list[list[str]]]:
    """Extend `split_table` by the reference's columns, empty where it has no number."""
    header, rows = split_table(group, split)
    header = [*header, "reference top-1", "ours minus it", "95 % interval", "holds 0"]
    for line, cells in zip(lines(group), rows, strict=True):
        compared = None if line.row is None else compare_to_reference(line.row, split)
        if compared is None:
            cells += [""] * 4
            continue
        published, difference = compared
        cells += [
            percent(published), signed(difference.value),
            f"{signed(difference.low)} to {signed(difference.high)}",
            "yes" if difference.includes_zero else "no",
        ]  # fmt: skip
    return header, rows


def reference_notes(group: Comparison) -> list[str]:
    """Notes on whether the reference applies, how it is compared, and the gap of VPT."""
    if not applies(group.rows[0].runs[0].values):
        return [f"{DESCRIPTION}: its columns are empty here", *_gap(group)]
    return [
        "reference: notebooks with ViT-B/32 openai, seed 42, one run; the interval of the "
        "difference has our spread over seeds and the reference's own sampling error in it, and "
        "not the spread over its seeds, which nobody knows",
        *_gap(group),
    ]


def _gap(group: Comparison) -> list[str]:
    """Compare our val-test gap of VPT with the reference's 5.65 points, which is unusual."""
    for row in group.rows:
        if row.method == "vpt" and row.splits == list(SPLITS):
            val, test = (row.over_seeds(split, "top1") for split in SPLITS)
            gaps = [val_top1 - test_top1 for val_top1, test_top1 in zip(val, test, strict=True)]
            line = f"vpt, val minus test: {signed(mean(gaps))}"
            if len(gaps) > 1:
                line += f" ± {percent(stdev(gaps))}, 95 % ± {percent(t_half_width(gaps))}"
            if applies(row.runs[0].values):
                published = TOP1["vpt"]
                half = sum(
                    sampling_error(published[split], group.n_images(split)) ** 2 for split in SPLITS
                )
                gap = signed(published["val"] - published["test"])
                line += f"; the reference's is {gap}, 95 % ± {percent(half**0.5)} by sampling alone"
            return [line]
    return []


def _reference_lines(groups: Sequence[Comparison]) -> list[str]:
    """Describe each published number beside ours, for the console."""
    result = []
    for group in groups:
        for row in group.rows:
            for split in row.splits:
                compared = compare_to_reference(row, split)
                if compared is not None:
                    published, difference = compared
                    verdict = "within" if difference.includes_zero else "outside"
                    result.append(
                        f"{row.label} on {split}: reference {percent(published)}, ours "
                        f"{signed(difference.value)} [{signed(difference.low)}, "
                        f"{signed(difference.high)}]: {verdict} what chance explains"
                    )
        result += reference_notes(group)
    return result


def _progress_text(jobs: Sequence[Job]) -> str:
    n_finished = sum(job.state == "finished" for job in jobs)
    return f"{n_finished} of {len(jobs)} runs finished"


def _unfinished(jobs: Sequence[Job]) -> list[str]:
    return [
        f"job {job.number} ({label(job, ('method', 'seed'))}): {job.state}"
        + (f": {job.why}" if job.why else "")
        for job in jobs
        if job.state != "finished"
    ]


def _document(groups: Sequence[Comparison], jobs: Sequence[Job]) -> str:
    parts = [f"# {TITLE}\n", f"{_progress_text(jobs)}; accuracies in per cent.\n"]
    if len(groups) > 1:
        parts.append(f"{NOT_COMPARABLE.capitalize()}.\n")
    for group in groups:
        parts.append(f"## {group.protocol_text}\n")
        for split in reversed(group.splits):
            parts.append(f"### {split}, {group.n_images(split):,} photos\n")
            parts.append(markdown(*reference_table(group, split)))
        parts.append("".join(f"- {note}\n" for note in (*notes(group), *reference_notes(group))))
        pairs = pairs_of_best(group)
        if pairs:
            parts.append(f"### The best on val against the others, on {group.reported_split}\n")
            parts.append(markdown(*pair_table(pairs)))
            parts.append(f"{pairs_note(group)}\n")
    unfinished = _unfinished(jobs)
    if unfinished:
        parts.append("## Not finished\n")
        parts.append("".join(f"- {line}\n" for line in unfinished))
    return "\n".join(parts)


def _csv(groups: Sequence[Comparison]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows, one per method; accuracies in [0, 1]."""
    header = ["method", "seeds", "seed_matters", "trainable_parameters", "minutes"]
    for split in SPLITS:
        header.append(f"{split}_photos")
        for metric in METRICS:
            header += [f"{split}_{metric}_{name}" for name in ("mean", "std", "low", "high")]
        difference = [f"difference_{name}" for name in ("", "low", "high")]
        header += [f"{split}_{name}".rstrip("_") for name in ("reference", *difference)]
        header.append(f"{split}_interval_holds_reference")
    rows = []
    for group in groups:
        for row in group.rows:
            seeds = " ".join(str(run.results["seed"]) for run in row.runs)
            cells: list[Any] = [row.label, seeds, row.runs[0].depends_on_seed]
            cells += [row.trainable_parameters, row.minutes]
            for split in SPLITS:
                cells += _csv_cells(group, row, split)
            rows.append([*cells, *(row.runs[0].results[name] for name in _FACTS)])
    return [*header, *_FACTS], rows


_FACTS = ("backbone", "tag", "protocol", "device", "precision")


def _csv_cells(group: Comparison, row: Setting, split: str) -> list[Any]:
    if split not in row.splits:
        return [None] * (1 + 4 * len(METRICS) + 5)
    cells: list[Any] = [group.n_images(split)]
    for metric in METRICS:
        estimate = row.estimate(split, metric)
        cells += [estimate.mean, estimate.std, *(estimate.interval or (None, None))]
    compared = compare_to_reference(row, split)
    if compared is None:
        return [*cells, *[None] * 5]
    published, difference = compared
    values = [difference.value, difference.low, difference.high]
    return [*cells, published, *values, difference.includes_zero]

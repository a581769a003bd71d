"""Name the metrics of a run for trackers, and tabulate its results."""

from collections.abc import Mapping
from typing import Any

from flowertune.analysis.results_table import result_rows
from flowertune.analysis.settings import METRICS, TOP1, protocol_text
from flowertune.runs.directory import Metrics


def line_metrics(line: Metrics) -> dict[str, float]:
    """Metrics of a line of metrics.jsonl by name, such as val/top1."""
    return {
        f"{line['split']}/{name}": value
        for name, value in line.items()
        if name not in ("step", "split") and value is not None
    }


def result_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of results.json by name, such as final/linear_probe/test/top1."""
    parts = {"final": results["splits"]} | {
        f"final/{name}": each["splits"] for name, each in results["baselines"].items() if each
    }
    metrics = {
        f"{part}/{split}/{name}": value
        for part, splits in parts.items()
        for split, split_metrics in splits.items()
        for name, value in split_metrics.items()
        if isinstance(value, (int, float))
    }
    totals = ("trainable_parameters", "epochs_run", "best_epoch", "seconds")
    return metrics | {
        f"final/{name}": results[name] for name in totals if results[name] is not None
    }


def results_table(results: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of the final table: per split, baselines and method, as fractions."""
    header = ["split", ""]
    for metric, title in METRICS.items():
        header += [title, "from", "to"] if metric == TOP1 else [title]
    lines = []
    for split in results["splits"]:
        for row in result_rows(results, split):
            line: list[Any] = [split, row.name]
            for metric in METRICS:
                estimate = row.estimate(metric)
                line += [estimate.mean, *(estimate.interval or ())]
            lines.append([*line, row.trainable_parameters])
    return [*header, "trainable parameters"], lines


def markdown(results: Mapping[str, Any]) -> str:
    """Format the final table as Markdown, below the protocol."""
    header, rows = results_table(results)
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    return f"{protocol_text(results)}\n\n{table}"

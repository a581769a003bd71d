"""Name a run's metrics for a tracker, and format them as a table."""

from collections.abc import Iterator, Mapping
from typing import Any

from flowertune.analysis.compare import BASELINE_NAMES
from flowertune.runs.directory import Metrics

COLUMNS = ("split", "", "top-1", "from", "to", "mean per class", "trained parameters")


def line_metrics(line: Metrics) -> dict[str, float]:
    """Metrics of a line of metrics.jsonl by name: val/top1."""
    return {
        f"{line['split']}/{name}": value
        for name, value in line.items()
        if name not in ("step", "split") and value is not None
    }


def result_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of results.json by name: final/linear_probe/test/top1."""
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
    for name in ("trainable_parameters", "epochs_run", "best_epoch", "seconds"):
        if results[name] is not None:
            metrics[f"final/{name}"] = results[name]
    return metrics


def table_rows(results: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the final table (see COLUMNS): for each split, baselines and method."""
    baselines = [(name, results["baselines"].get(key)) for key, name in BASELINE_NAMES.items()]
    for split in results["splits"]:
        for name, model in [*baselines, (results["method"], results)]:
            if model is not None and split in model["splits"]:
                metrics = model["splits"][split]
                yield (
                    split, name, metrics["top1"], *metrics["top1_interval"],
                    metrics["mean_per_class"], model["trainable_parameters"],
                )  # fmt: skip


def markdown(results: Mapping[str, Any]) -> str:
    """Format the final table as Markdown, below the protocol."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *table_rows(results)]
    table = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    return f"{results['backbone']} {results['tag']}; {results['protocol']}\n\n{table}"

"""Rows of every table of results: first the baselines, then the methods. Columns: METRICS."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flowertune.analysis.settings import BASELINE_NAMES, Setting
from flowertune.analysis.statistics import Estimate, estimate


@dataclass(frozen=True)
class Row:
    """Row of a split's table. `metrics`: one mapping per seed; `setting`: None for a baseline."""

    name: str
    model: str
    metrics: Sequence[Mapping[str, Any]]
    trainable_parameters: int
    setting: Setting | None

    def estimate(self, metric: str) -> Estimate:
        """Estimate a metric over the seeds."""
        return estimate(self.metrics, metric)


def result_rows(results: Mapping[str, Any], split: str) -> list[Row]:
    """Rows of one run."""
    return table_rows([Setting({"method": results["method"]}, [results])], split)


def table_rows(settings: Sequence[Setting], split: str) -> list[Row]:
    """Rows of comparable settings. Baselines that differ between settings each get a row."""
    rows = []
    for key, name in BASELINE_NAMES.items():
        pairs = [(each, each.results[0]["baselines"].get(key)) for each in settings]
        distinct = {json.dumps(each): (first, each) for first, each in reversed(pairs) if each}
        for setting, baseline in reversed(distinct.values()):
            if split in baseline["splits"]:
                title = name if len(distinct) == 1 else f"{name} for {setting.label}"
                metrics, n_parameters = baseline["splits"][split], baseline["trainable_parameters"]
                rows.append(Row(title, key, [metrics], n_parameters, None))
    for setting in settings:
        if metrics := setting.metrics(split):
            model, n_parameters = setting.results[0]["model"], setting.trainable_parameters
            rows.append(Row(setting.label, model, metrics, n_parameters, setting))
    return rows


def without_repeats(rows: Sequence[Row]) -> list[Row]:
    """Leave out baselines that are also among the settings."""
    models = {row.model for row in rows if row.setting is not None}
    return [row for row in rows if row.setting is not None or row.model not in models]

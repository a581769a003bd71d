"""Compare finished runs: group them, find the keys that differ, estimate accuracies.

A row is a setting with its runs, which differ by their seed alone; a group holds the rows of one
backbone, one protocol and the same photos. Accuracies are fractions in [0, 1].
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import mean, stdev
from typing import Any

from flowertune.analysis.settings import SettingStats, comparability_key, setting_stats
from flowertune.analysis.statistics import PairedTest, mcnemar, t_interval
from flowertune.config.fields import format_value
from flowertune.config.groups import RESULT_NEUTRAL_KEYS
from flowertune.errors import UsageError
from flowertune.runs.directory import damaged_message
from flowertune.runs.finished import FinishedRun

SPLITS = ("val", "test")
METRICS = {"top1": "top-1", "mean_per_class": "mean per class"}

BASELINE_NAMES = {"zeroshot": "zero-shot", "linear_probe": "linear probe"}


@dataclass(frozen=True)
class Estimate:
    """An accuracy of a setting. `std` (n - 1 in the denominator) is None for a single run.

    The interval is of 95 %: of runs over seeds Student's t; of a single one Wilson's for its top-1,
    and None for its mean per class.
    """

    mean: float
    std: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Setting:
    """Runs of the same setting, sorted by seed."""

    stats: SettingStats
    runs: tuple[FinishedRun, ...]

    @property
    def method(self) -> str:
        """Name of the preset."""
        return self.stats.values["method"]

    @property
    def label(self) -> str:
        """Method, and the values that distinguish the setting within its group."""
        others = [f"{key}={value}" for key, value in self.stats.values.items() if key != "method"]
        return " ".join([self.method, *others])

    @property
    def seeds_label(self) -> str:
        """Number of seeds, for display."""
        if not self.runs[0].depends_on_seed:
            return "1, any seed"
        return f"{len(self.runs)} seed" + ("s" if len(self.runs) > 1 else "")

    @property
    def splits(self) -> list[str]:
        """Evaluated splits, without train."""
        return [split for split in SPLITS if split in self.runs[0].results["splits"]]

    @property
    def trainable_parameters(self) -> int:
        n_parameters: int = self.runs[0].results["trainable_parameters"]
        return n_parameters

    @property
    def minutes(self) -> float:
        """Mean minutes of training and validation per run."""
        seconds: list[float] = [run.results["seconds"] for run in self.runs]
        return mean(seconds) / 60

    def over_seeds(self, split: str, metric: str) -> list[float]:
        """Values of a metric, one per run; a single one if the seed does not matter."""
        values = [run.results["splits"][split][metric] for run in self.runs]
        return values if self.runs[0].depends_on_seed else values[:1]

    def estimate(self, split: str, metric: str) -> Estimate:
        values = self.over_seeds(split, metric)
        if len(values) > 1:
            return Estimate(mean(values), stdev(values), t_interval(values))
        low_high = self.runs[0].results["splits"][split]["top1_interval"]
        return Estimate(values[0], None, tuple(low_high) if metric == "top1" else None)


@dataclass(frozen=True)
class Comparison:
    """Settings whose numbers are comparable. `keys` distinguish them, `method` first."""

    keys: tuple[str, ...]
    rows: tuple[Setting, ...]

    @property
    def splits(self) -> list[str]:
        return self.rows[0].splits

    @property
    def reported_split(self) -> str:
        """Split on which the settings are compared image by image."""
        return self.splits[-1]

    def n_images(self, split: str) -> int:
        """Number of images of a split."""
        n: int = self.rows[0].runs[0].results["splits"][split]["n"]
        return n

    @property
    def protocol_text(self) -> str:
        """Backbone, weights and dataset, for display."""
        first = self.rows[0].runs[0].results
        return f"{first['backbone']} {first['tag']}; {first['protocol']}"

    @cached_property
    def pairs(self) -> "list[PairComparison]":
        """Pairwise comparisons of all settings on `reported_split`."""
        correct = {
            run.run.path: {p.path: p.is_correct for p in run.predictions(self.reported_split)}
            for row in self.rows
            for run in (row.runs if row.runs[0].depends_on_seed else row.runs[:1])
        }
        pairs = []
        for first, second in combinations(self.rows, 2):
            tests = {}
            for seed, run, other in _compare_pair(first, second):
                ours, theirs = correct[run.run.path], correct[other.run.path]
                if ours.keys() != theirs.keys():
                    raise UsageError(
                        damaged_message(other.run.path, f"predictions-{self.reported_split}.csv")
                    )
                tests[seed] = mcnemar(list(ours.values()), [theirs[path] for path in ours])
            if tests:
                pairs.append(PairComparison(first, second, tests))
        return pairs


@dataclass(frozen=True)
class PairComparison:
    """Two settings on the same images: McNemar's test for each common seed."""

    first: Setting
    second: Setting
    tests: dict[int, PairedTest]

    @property
    def difference(self) -> float:
        """Mean accuracy of the second minus that of the first over the common seeds."""
        return mean(test.difference.value for test in self.tests.values())


def _compare_pair(
    first: Setting, second: Setting
) -> Iterator[tuple[int, FinishedRun, FinishedRun]]:
    """Yield pairs of runs with the same seed; a run without seed pairs with every run."""
    for run in first.runs if first.runs[0].depends_on_seed else first.runs[:1]:
        for other in second.runs if second.runs[0].depends_on_seed else second.runs[:1]:
            seeds = {each.results["seed"] for each in (run, other) if each.depends_on_seed}
            if len(seeds) < 2:
                yield next(iter(seeds), run.results["seed"]), run, other


def compare_runs(runs: Iterable[FinishedRun]) -> list[Comparison]:
    """Group comparable runs by setting, in the order given.

    Raises:
        UsageError: two runs are the same training.
    """
    comparable: dict[tuple[Any, ...], list[FinishedRun]] = {}
    for run in runs:
        comparable.setdefault(comparability_key(run.results), []).append(run)
    return [_group_by_setting(group) for group in comparable.values()]


def best_first(group: Comparison) -> Comparison:
    """Sort settings by mean top-1 on val; keep the order without a val split."""
    if "val" not in group.splits:
        return group
    rows = sorted(group.rows, key=lambda row: -row.stats.mean["val_top1"])
    return Comparison(group.keys, tuple(rows))


def _group_by_setting(runs: Sequence[FinishedRun]) -> Comparison:
    keys = ("method", *_swept_keys(runs))
    settings: dict[tuple[str, ...], dict[int, FinishedRun]] = {}  # by values, then by seed
    for run in runs:
        by_seed = settings.setdefault(tuple(repr(run.values.get(key)) for key in keys), {})
        duplicate = by_seed.setdefault(run.results["seed"], run)
        if duplicate is not run:
            raise UsageError(
                f"{duplicate.run.path} and {run.run.path}: are the same training; give one"
            )
    rows = []
    for by_seed in settings.values():
        seed_runs = tuple(by_seed[seed] for seed in sorted(by_seed))
        results = [run.results for run in seed_runs]
        values = [format_value(seed_runs[0].values.get(key)) for key in keys]
        rows.append(Setting(setting_stats(keys, values, len(seed_runs), results), seed_runs))
    return Comparison(keys, tuple(rows))


def _swept_keys(runs: Sequence[FinishedRun]) -> list[str]:
    """Keys that differ among the runs of one method."""
    by_method: dict[str, list[FinishedRun]] = {}
    for run in runs:
        by_method.setdefault(run.results["method"], []).append(run)
    return list(dict.fromkeys(key for group in by_method.values() for key in differing_keys(group)))


def differing_keys(runs: Sequence[FinishedRun]) -> list[str]:
    """Keys whose values differ between runs, except the seed and neutral keys."""
    keys = dict.fromkeys(key for run in runs for key in run.values)
    ignored = ("seed", *RESULT_NEUTRAL_KEYS)
    return [
        key
        for key in keys
        if not key.startswith(ignored) and len({repr(run.values.get(key)) for run in runs}) > 1
    ]

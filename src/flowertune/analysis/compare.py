"""Compare finished runs: group them, find the keys that differ, test pairs of settings.

A comparison holds settings with the same backbone, protocol and images. The runs of a setting
differ only by seed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise, product
from statistics import mean

from flowertune.analysis.results_table import Row, table_rows, without_repeats
from flowertune.analysis.settings import Setting, best_first, comparability_key, group_by
from flowertune.analysis.statistics import PairedTest, mcnemar
from flowertune.config.fields import format_value
from flowertune.config.groups import RESULT_NEUTRAL_KEYS
from flowertune.errors import UsageError
from flowertune.runs.directory import damaged_message
from flowertune.runs.finished import FinishedRun


@dataclass(frozen=True)
class Comparison:
    """Comparable settings."""

    settings: Sequence[Setting]

    @property
    def keys(self) -> list[str]:
        """Keys whose values differ between the settings, `method` first."""
        return list(self.settings[0].values)

    @property
    def runs(self) -> list[FinishedRun]:
        return [run for setting in self.settings for run in setting.runs]

    @property
    def splits(self) -> list[str]:
        return self.settings[0].splits

    @property
    def reported_split(self) -> str:
        """Split on which the settings are compared image by image."""
        return self.settings[0].reported_split

    def n_images(self, split: str) -> int:
        return int(self.settings[0].results[0]["splits"][split]["n"])

    def rows(self, split: str) -> list[Row]:
        return without_repeats(table_rows(self.settings, split))

    def best_first(self) -> "Comparison":
        """Sort the settings by mean top-1 on val, if it was measured."""
        return Comparison(best_first(self.settings))

    @cached_property
    def pairs(self) -> "list[PairComparison]":
        """Pairwise comparisons of all settings on `reported_split`."""
        split = self.reported_split
        correct = {
            run.path: {p.path: p.is_correct for p in run.predictions(split)}
            for setting in self.settings
            for run in setting.seed_runs
        }
        pairs = []
        for first, second in combinations(self.settings, 2):
            tests = {}
            for run, other in product(first.seed_runs, second.seed_runs):
                seeds = {each.results["seed"] for each in (run, other) if each.depends_on_seed}
                if len(seeds) > 1:  # runs that do not depend on the seed pair with every run
                    continue
                ours, theirs = correct[run.path], correct[other.path]
                if ours.keys() != theirs.keys():
                    raise UsageError(damaged_message(other.path, f"predictions-{split}.csv"))
                seed = next(iter(seeds), run.results["seed"])
                tests[seed] = mcnemar(list(ours.values()), [theirs[path] for path in ours])
            if tests:
                pairs.append(PairComparison(first, second, tests))
        return pairs


@dataclass(frozen=True)
class PairComparison:
    """McNemar's test of two settings on the same images, for each common seed."""

    first: Setting
    second: Setting
    tests: dict[int, PairedTest]

    @property
    def difference(self) -> float:
        """Mean accuracy of the second minus the first over the common seeds."""
        return mean(test.difference.value for test in self.tests.values())


def compare_runs(runs: Iterable[FinishedRun]) -> list[Comparison]:
    """Group comparable runs by setting. Raises UsageError if two are the same training."""
    groups = group_by(runs, lambda run: comparability_key(run.results))
    return [Comparison(_settings(group)) for group in groups]


def _settings(runs: Sequence[FinishedRun]) -> list[Setting]:
    by_method = group_by(runs, lambda run: run.results["method"])
    keys = ["method", *dict.fromkeys(key for group in by_method for key in differing_keys(group))]
    settings = []
    for group in group_by(runs, lambda run: tuple(repr(run.values.get(key)) for key in keys)):
        group.sort(key=lambda run: run.results["seed"])
        for run, other in pairwise(group):
            if run.results["seed"] == other.results["seed"]:
                raise UsageError(f"{run.path}, {other.path}: same training; give only one")
        values = {key: format_value(group[0].values.get(key)) for key in keys}
        results = [run.results for run in group]
        settings.append(Setting(values, results, len(group), tuple(group)))
    return settings


def differing_keys(runs: Sequence[FinishedRun]) -> list[str]:
    """Keys whose values differ between runs, except the seed and keys without effect."""
    ignored = ("seed", *RESULT_NEUTRAL_KEYS)
    return [
        key
        for key in dict.fromkeys(key for run in runs for key in run.values)
        if not key.startswith(ignored) and len({repr(run.values.get(key)) for run in runs}) > 1
    ]

"""Aggregate finished runs over seeds, and tabulate the jobs of a sweep. Accuracies in [0, 1]."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, product
from operator import itemgetter
from pathlib import Path
from statistics import mean
from typing import Any, TypeVar

from flowertune.analysis.statistics import Estimate, estimate
from flowertune.config.model import model_config
from flowertune.metrics import EVALUATED_SPLITS, reported_split
from flowertune.runs.directory import Run
from flowertune.runs.finished import FinishedRun

TOP1 = "top1"  # has an interval even for one run
METRICS = {TOP1: "top-1", "mean_per_class": "mean per class"}  # columns of every table
BASELINE_NAMES = {"zeroshot": "zero-shot", "linear_probe": "linear probe"}
_FACTS = [
    "trainable_parameters", "best_epoch", "epochs_run", "seconds", "backbone", "tag", "protocol",
]  # fmt: skip

T = TypeVar("T")

# facts that comparable results share
comparability_key = itemgetter("backbone", "tag", "weights_sha256", "protocol", "data_fingerprint")


@dataclass(frozen=True)
class Job:
    """Job of a sweep. `words`: key -> value as typed; `state`: see sweeps/sweep.py."""

    number: int
    run: str
    method: str
    seed: int
    words: dict[str, str]
    state: str = "not started"
    why: str | None = None

    def results(self) -> dict[str, Any] | None:
        """Read results.json of its run; None unless finished."""
        return Run(Path(self.run)).results() if self.state == "finished" else None


@dataclass(frozen=True)
class Setting:
    """Results that differ only by seed, on the same backbone and images.

    `values`: key -> value, as text. `n_jobs`: number of jobs, finished or not. `runs`: the runs of
    the results, sorted by seed; empty in a sweep, whose tables need no config.
    """

    values: dict[str, str]
    results: Sequence[Mapping[str, Any]]
    n_jobs: int = 1
    runs: tuple[FinishedRun, ...] = ()

    @property
    def method(self) -> str:
        return self.values["method"]

    @property
    def label(self) -> str:
        """Method, and the values in which the setting differs from others of its group."""
        others = [f"{key}={value}" for key, value in self.values.items() if key != "method"]
        return " ".join([self.method, *others])

    @property
    def seed_runs(self) -> tuple[FinishedRun, ...]:
        """Its runs; only the first if the seed has no effect."""
        return tuple(run for run in self.runs if run is self.runs[0] or run.depends_on_seed)

    @property
    def splits(self) -> list[str]:
        """Measured splits, without train."""
        return [split for split in EVALUATED_SPLITS if split in self.results[0]["splits"]]

    @property
    def reported_split(self) -> str:
        """Split on which the setting is compared with others."""
        return reported_split(self.splits)

    @property
    def trainable_parameters(self) -> int:
        return int(self.results[0]["trainable_parameters"])

    @property
    def seconds(self) -> float:
        """Mean seconds of training and validation per run."""
        return float(mean(results["seconds"] for results in self.results))

    @property
    def minutes(self) -> float:
        return self.seconds / 60

    @property
    def is_below_probe(self) -> bool:
        """Whether its mean top-1 is below its linear probe's on the reported split."""
        if not any(model_config(each["model"]).trains_backbone for each in self.results):
            return False
        probe = self.metrics(self.reported_split, "linear_probe")
        top1 = self.estimate(self.reported_split, "top1").mean
        return bool(probe) and top1 < estimate(probe, "top1").mean

    def metrics(self, split: str, baseline: str | None = None) -> list[Mapping[str, Any]]:
        """Metrics of the runs or their `baseline`, one mapping per seed; [] if one is missing."""
        results = [run.results for run in self.seed_runs] or self.results
        metrics = [split_metrics(each, split, baseline) for each in results]
        return [each for each in metrics if each is not None] if None not in metrics else []

    def estimate(self, split: str, metric: str) -> Estimate:
        """Estimate a metric of a measured split."""
        return estimate(self.metrics(split), metric)


def split_metrics(
    results: Mapping[str, Any], split: str, baseline: str | None = None
) -> Mapping[str, Any] | None:
    """Metrics of a split, or of its baseline, in results.json; None if not measured."""
    model = results if baseline is None else results["baselines"].get(baseline)
    return None if model is None else model["splits"].get(split)


def protocol_text(results: Mapping[str, Any]) -> str:
    """Backbone, weights and dataset, for display."""
    return f"{results['backbone']} {results['tag']}; {results['protocol']}"


def group_by(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Group items with equal keys, keeping their order."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def best_first(settings: Sequence[Setting]) -> list[Setting]:
    """Sort by mean top-1 on val; keep the order without val, as test must not select."""
    if "val" not in settings[0].splits:
        return list(settings)
    return sorted(settings, key=lambda setting: -setting.estimate("val", "top1").mean)


def group_settings(jobs: Sequence[Job], swept: Sequence[str]) -> list[list[Setting]]:
    """Group the finished jobs by backbone and protocol, then by setting, best first."""
    planned = [(_values(job, swept), job.results()) for job in jobs]
    finished = [(values, results) for values, results in planned if results is not None]
    groups = []
    for group in group_by(finished, lambda pair: comparability_key(pair[1])):
        settings = []
        for pairs in group_by(group, lambda pair: tuple(pair[0].values())):
            values = pairs[0][0]
            n_jobs = sum(each == values for each, _ in planned)
            settings.append(Setting(values, [results for _, results in pairs], n_jobs))
        groups.append(best_first(settings))
    return groups


def seconds_left(jobs: Sequence[Job]) -> float:
    """Estimate the seconds left from runs of the same method, else from all runs; 0 if unknown."""
    trained: defaultdict[str, list[float]] = defaultdict(list)
    for results in filter(None, (job.results() for job in jobs)):
        if results["epochs_run"]:
            trained[results["method"]].append(results["seconds"])
    of_all = list(chain.from_iterable(trained.values())) or [0.0]
    return sum(
        mean(trained.get(job.method, of_all))
        for job in jobs
        if job.state == "not started" and Run(Path(job.run)).status()[0] != "finished"
    )


def job_rows(jobs: Sequence[Job], swept: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of sweep.csv."""
    header = ["job", "run", "seed", *_keys(swept), "state", "why", *_measures(), *_FACTS, "notes"]
    rows = []
    for job in jobs:
        results = job.results()
        row = [job.number, job.run, job.seed, *_values(job, swept).values(), job.state, job.why]
        for baseline, split, metric in _measures().values():
            metrics = results and split_metrics(results, split, baseline)
            row.append(metrics[metric] if metrics else None)
        facts = results or {}
        rows.append([*row, *map(facts.get, _FACTS), "; ".join(facts.get("notes", ()))])
    return header, rows


def setting_rows(
    groups: Sequence[Sequence[Setting]], swept: Sequence[str]
) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of summary.csv."""
    columns = [f"{name}_{statistic}" for name in _measures() for statistic in ("mean", "std")]
    header = [*_keys(swept), "jobs", "finished", "seeds", *columns, "below_linear_probe"]
    header += ["trainable_parameters", "seconds_mean", "backbone", "tag", "protocol"]
    rows = []
    for setting in (each for group in groups for each in group):
        first = setting.results[0]
        seeds = " ".join(str(results["seed"]) for results in setting.results)
        row = [*setting.values.values(), setting.n_jobs, len(setting.results), seeds]
        for baseline, split, metric in _measures().values():
            metrics = setting.metrics(split, baseline)
            over_seeds = estimate(metrics, metric) if metrics else None
            row += [over_seeds and over_seeds.mean, over_seeds and over_seeds.std]
        row += [setting.is_below_probe, setting.trainable_parameters, setting.seconds]
        rows.append([*row, first["backbone"], first["tag"], first["protocol"]])
    return header, rows


def _measures() -> dict[str, tuple[str | None, str, str]]:
    """Column of the CSVs -> baseline or None, split, metric."""
    measures = product((None, *sorted(BASELINE_NAMES)), EVALUATED_SPLITS, METRICS)
    return {"_".join(filter(None, measure)): measure for measure in measures}


def _keys(swept: Sequence[str]) -> list[str]:
    return ["method", *(key for key in swept if key not in ("method", "seed"))]


def _values(job: Job, swept: Sequence[str]) -> dict[str, str]:
    return {key: job.method if key == "method" else job.words[key] for key in _keys(swept)}

"""Tabulate a sweep: one row per job, and one row per setting over its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from flowertune.config.model import model_config
from flowertune.runs.directory import Run

_MODELS = ("", "linear_probe_", "zeroshot_")
MEASURES = [
    f"{model}{split}_{metric}"
    for model in _MODELS
    for split in ("val", "test")
    for metric in ("top1", "mean_per_class")
]
_FACTS = [
    "trainable_parameters", "best_epoch", "epochs_run", "seconds", "backbone", "tag", "protocol",
]  # fmt: skip


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
        """Read results.json of its run; None unless it is finished."""
        return Run(Path(self.run)).results() if self.state == "finished" else None


@dataclass(frozen=True)
class SettingStats:
    """Results of the jobs that differ only by seed, on the same backbone and images.

    `values`: column -> value as typed. `mean` and `std` (n - 1 in the denominator; absent
    for one seed) are over the finished runs, accuracies in [0, 1]. `results`: of those runs.
    """

    values: dict[str, str]
    jobs: int
    results: list[dict[str, Any]]
    mean: dict[str, float]
    std: dict[str, float]

    @property
    def reported_split(self) -> str:
        """Split on which the setting is compared with its baselines."""
        return "test" if "test_top1" in self.mean else "val"

    @property
    def is_below_probe(self) -> bool:
        """Whether its mean is below its linear probe's, on test if there is one."""
        if not any(model_config(each["model"]).trains_backbone for each in self.results):
            return False
        measure = f"{self.reported_split}_top1"
        probe = self.mean.get(f"linear_probe_{measure}")
        return probe is not None and self.mean[measure] < probe


def accuracies(results: dict[str, Any]) -> dict[str, float]:
    """Accuracies of one results.json by the names in MEASURES, if measured."""
    models = {"": results, **{f"{name}_": each for name, each in results["baselines"].items()}}
    return {
        f"{prefix}{split}_{metric}": model["splits"][split][metric]
        for prefix, model in models.items()
        if model is not None
        for split in ("val", "test")
        if split in model["splits"]
        for metric in ("top1", "mean_per_class")
    }


def seconds_left(jobs: Sequence[Job]) -> float:
    """Estimate the seconds of training and validation left; 0 if unknown.

    By what the method's finished runs took, or where it has none, all trainings.
    """
    durations: dict[str, list[float]] = {}
    for results in filter(None, (job.results() for job in jobs)):
        if results["epochs_run"]:
            durations.setdefault(results["method"], []).append(results["seconds"])
    all_durations = [seconds for times in durations.values() for seconds in times]
    return sum(
        mean(durations.get(job.method, all_durations) or [0.0])
        for job in jobs
        if job.state == "not started" and Run(Path(job.run)).status()[0] != "finished"
    )


def job_rows(jobs: Sequence[Job], swept: Sequence[str]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of sweep.csv."""
    columns = [*MEASURES, *_FACTS]
    header = ["job", "run", "seed", *_keys(swept), "state", "why", *columns, "notes"]
    rows = []
    for job in jobs:
        results = job.results()
        values = {} if results is None else {**results, **accuracies(results)}
        row = [job.number, job.run, job.seed, *_values(job, _keys(swept)), job.state, job.why]
        notes = "; ".join(values.get("notes", ()))
        rows.append([*row, *(values.get(name) for name in columns), notes])
    return header, rows


def group_settings(jobs: Sequence[Job], swept: Sequence[str]) -> list[list[SettingStats]]:
    """Group comparable settings: one backbone, one protocol. Best mean top-1 on val first.

    Where the protocol has no val, nothing may select: they stand as they were typed.
    """
    keys = _keys(swept)
    comparable: dict[tuple[Any, ...], dict[tuple[str, ...], list[dict[str, Any]]]] = {}
    for job in jobs:
        results = job.results()
        if results is not None:
            group = comparable.setdefault(comparability_key(results), {})
            group.setdefault(_values(job, keys), []).append(results)
    planned = [_values(job, keys) for job in jobs]
    groups = []
    for group in comparable.values():
        rows = [setting_stats(keys, v, planned.count(v), results) for v, results in group.items()]
        if "val_top1" in rows[0].mean:
            rows.sort(key=lambda setting: -setting.mean["val_top1"])
        groups.append(rows)
    return groups


def setting_rows(
    groups: Sequence[Sequence[SettingStats]], swept: Sequence[str]
) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of summary.csv."""
    std_columns = [f"{name}_{statistic}" for name in MEASURES for statistic in ("mean", "std")]
    header = [*_keys(swept), "jobs", "finished", "seeds", *std_columns, "below_linear_probe"]
    header += ["trainable_parameters", "seconds_mean", "backbone", "tag", "protocol"]
    rows = []
    for setting in (each for group in groups for each in group):
        first = setting.results[0]
        seeds = " ".join(str(results["seed"]) for results in setting.results)
        row = [*setting.values.values(), setting.jobs, len(setting.results), seeds]
        for name in MEASURES:
            row += [setting.mean.get(name), setting.std.get(name)]
        row += [setting.is_below_probe, first["trainable_parameters"]]
        row += [mean(results["seconds"] for results in setting.results)]
        rows.append([*row, first["backbone"], first["tag"], first["protocol"]])
    return header, rows


def _keys(swept: Sequence[str]) -> list[str]:
    """Keys that distinguish settings."""
    return ["method", *(key for key in swept if key not in ("method", "seed"))]


def _values(job: Job, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(job.method if key == "method" else job.words[key] for key in keys)


def comparability_key(results: dict[str, Any]) -> tuple[Any, ...]:
    """Facts that must be equal for two results to be comparable."""
    names = ("backbone", "tag", "weights_sha256", "protocol", "data_fingerprint")
    return tuple(results[name] for name in names)


def setting_stats(
    keys: Sequence[str], values: Sequence[str], jobs: int, results: list[dict[str, Any]]
) -> SettingStats:
    """Aggregate the results of one setting over its seeds."""
    rows = [accuracies(run) for run in results]
    columns = {
        name: [row[name] for row in rows] for name in MEASURES if all(name in row for row in rows)
    }
    return SettingStats(
        values=dict(zip(keys, values, strict=True)),
        jobs=jobs,
        results=results,
        mean={name: mean(values) for name, values in columns.items()},
        std={name: stdev(values) for name, values in columns.items() if len(values) > 1},
    )

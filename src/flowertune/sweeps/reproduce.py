"""A reproduction: every method with every seed, run as the jobs of a sweep."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from flowertune.analysis.settings import Job
from flowertune.config.compose import typed_overrides
from flowertune.config.fields import format_value
from flowertune.config.messages import translate_errors
from flowertune.config.run import run_name
from flowertune.config.schema import Config
from flowertune.errors import EXIT_DONE, UsageError
from flowertune.report.reproduction import ReproductionTables
from flowertune.runs.finished import read_finished_run, seed_matters
from flowertune.runs.resume import REPRODUCTIONS
from flowertune.sweeps.launch import (
    compose_jobs,
    expand_jobs,
    hydra_overrides,
    is_search,
    parse_overrides,
    run_jobs,
    uses_processes,
)
from flowertune.sweeps.sweep import Sweep, check_distinct_runs

METHODS = (
    "zeroshot", "linear_probe", "lora", "mixup", "triplet", "vpt", "vpt_deep", "best",
)  # fmt: skip
SEEDS = (42, 43, 44)
_SWEPT_KEYS = ("method", "seed")  # the keys that may have several values


def run_reproduction(
    composer: Hydra,
    node: DictConfig,
    name: str,
    task_overrides: Sequence[str],
    execute: Callable[[Config], int],
) -> int:
    """Train all methods with all seeds that `task_overrides` allow. -> exit code.

    Of a method to which the seed does not matter, the first seed is enough.

    Raises:
        UsageError: a job's config is wrong, another key has several values, or another process
            is at this reproduction.
    """
    with translate_errors():
        parsed = parse_overrides(composer, typed_overrides(node))
        _check(node, parsed)
        batch, jobs = _plan_jobs(composer, node)
        sweep = Sweep(
            path=Path(node.run.root).expanduser() / REPRODUCTIONS / _directory_name(node, parsed),
            swept=_SWEPT_KEYS,
            total=len(jobs),
            tables=ReproductionTables(),
            uses_processes=uses_processes(node),
            console=node.run.console,
        )

    def launch(job: Callable[[DictConfig], float | None]) -> None:
        overrides = [*task_overrides, *hydra_overrides(sweep)]
        master = composer.compose_config(
            name, overrides, RunMode.MULTIRUN, validate_sweep_overrides=False
        )
        launcher = Plugins.instance().instantiate_launcher(
            HydraContext(config_loader=composer.config_loader, callbacks=Callbacks(master)),
            job,
            master,
        )
        for job_return in launcher.launch(batch, initial_job_idx=0):
            _ = job_return.return_value  # raises what a launcher kept to itself

    def execute_and_check(config: Config) -> int:
        """Execute a job and read its run: damage since then fails this job, not all tables."""
        exit_code = execute(config)
        if exit_code == EXIT_DONE:
            assert config.run.name is not None
            finished_run = read_finished_run(Path(config.run.root).expanduser() / config.run.name)
            finished_run.predictions(finished_run.reported_split)
        return exit_code

    return run_jobs(sweep, jobs, execute_and_check, launch)


def _check(node: DictConfig, parsed: Sequence[Override]) -> None:
    if is_search(node):
        raise UsageError("hydra/sweeper: has no use for one; methods and seeds decide the jobs")
    if node.hydra.mode == RunMode.MULTIRUN:
        raise UsageError(
            "hydra.mode=MULTIRUN: no sweeps here, by an experiment either; methods and seeds decide"
            " the jobs"
        )
    for override in parsed:
        if override.is_sweep_override() and override.get_key_element() not in _SWEPT_KEYS:
            raise UsageError(
                f"{format_value(override.input_line)}: several values, which only method and seed "
                "may have here; flowertune train -m makes a run of each"
            )


def _plan_jobs(composer: Hydra, node: DictConfig) -> tuple[list[list[str]], list[Job]]:
    """Plan the jobs seed by seed, so that a table of all methods is soon there."""
    # without a text tower that means something there is no zero-shot, unless it is asked for
    methods = [name for name in METHODS if node.backbone.text or name != "zeroshot"]
    defaults = [f"seed={','.join(map(str, SEEDS))}", f"method={','.join(methods)}"]
    candidates = expand_jobs(parse_overrides(composer, [*defaults, *typed_overrides(node)]))
    batch, jobs, methods_seen = [], [], set()
    for job_overrides, (job, config) in zip(
        candidates, compose_jobs(composer, node, candidates), strict=True
    ):
        if seed_matters(config.model.name, config.probe.solver) or job.method not in methods_seen:
            batch.append(job_overrides)
            jobs.append(replace(job, number=len(batch)))
            methods_seen.add(job.method)
    check_distinct_runs(jobs)
    return batch, jobs


def _directory_name(node: DictConfig, parsed: Sequence[Override]) -> str:
    """Derive the directory's name from the overrides, as a run's."""
    (method,) = [o for o in parsed if o.get_key_element() == "method"] or (None,)
    values = [] if method is None else [text for (text,) in expand_jobs([method])]
    methods = [text.removeprefix("method=") for text in values]
    return run_name("_".join([node.data.name, *methods]), node.hydra.overrides.task)

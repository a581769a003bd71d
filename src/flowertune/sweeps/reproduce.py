"""Plan a reproduction: every method with every seed, as the jobs of a sweep."""

from collections.abc import Sequence
from dataclasses import replace

from hydra._internal.hydra import Hydra
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from flowertune.config.compose import typed_overrides
from flowertune.config.fields import format_value
from flowertune.config.schema import Config
from flowertune.errors import EXIT_DONE, UsageError
from flowertune.files import expand_user
from flowertune.report import reproduction
from flowertune.runs.finished import read_finished_run, seed_matters
from flowertune.runs.resume import REPRODUCTIONS
from flowertune.sweeps.launch import (
    Execute,
    compose_jobs,
    create_sweep,
    is_search,
    parse_overrides,
)
from flowertune.sweeps.sweep import Sweep

METHODS = (
    "zeroshot", "linear_probe", "lora", "mixup", "triplet", "vpt", "vpt_deep", "best",
)  # fmt: skip
SEEDS = (42, 43, 44)
_SWEPT_KEYS = ("method", "seed")  # keys that may have several values


def plan_reproduction(composer: Hydra, node: DictConfig) -> Sweep:
    """Plan the jobs of all chosen methods with all chosen seeds.

    Methods whose result does not depend on the seed run once. Jobs are sorted by seed, so that a
    table of all methods is available early. Raises UsageError if a job's config is invalid, or if
    another key has several values.
    """
    typed = parse_overrides(composer, typed_overrides(node))
    _check(node, typed)
    # zero-shot needs a text encoder
    methods = [name for name in METHODS if node.backbone.text or name != "zeroshot"]
    defaults = [f"seed={','.join(map(str, SEEDS))}", f"method={','.join(methods)}"]
    candidates = parse_overrides(composer, [*defaults, *typed_overrides(node)])
    batch, jobs = [], []
    seen: dict[str, None] = {}
    for job, config, job_overrides in compose_jobs(composer, node, candidates):
        if seed_matters(config.model.name, config.probe.solver) or job.method not in seen:
            batch.append(job_overrides)
            jobs.append(replace(job, number=len(batch)))
            seen[job.method] = None
    chosen = seen if any(each.get_key_element() == "method" for each in typed) else ()
    title = "_".join([node.data.name, *chosen])
    return create_sweep(node, REPRODUCTIONS, title, reproduction, _SWEPT_KEYS, jobs, batch)


def check_run(execute: Execute) -> Execute:
    """Read each run after `execute`, so that damage fails its job instead of all tables later."""

    def execute_and_check(config: Config) -> int:
        exit_code = execute(config)
        if exit_code == EXIT_DONE:
            assert config.run.name is not None
            finished_run = read_finished_run(expand_user(config.run.root) / config.run.name)
            finished_run.predictions(finished_run.reported_split)
        return exit_code

    return execute_and_check


def _check(node: DictConfig, parsed: Sequence[Override]) -> None:
    if is_search(node):
        raise UsageError("hydra/sweeper: not supported here; methods and seeds define the jobs")
    if node.hydra.mode == RunMode.MULTIRUN:
        raise UsageError(
            "hydra.mode=MULTIRUN: no sweeps here, not even by an experiment; methods and seeds "
            "define the jobs"
        )
    for override in parsed:
        if override.is_sweep_override() and override.get_key_element() not in _SWEPT_KEYS:
            raise UsageError(
                f"{format_value(override.input_line)}: only method and seed may have several "
                "values here; use flowertune train -m"
            )

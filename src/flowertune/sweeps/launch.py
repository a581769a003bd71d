"""Compose and check all jobs of a sweep before the first starts, and launch them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_launcher import BasicLauncherConf
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from flowertune.analysis.settings import Job
from flowertune.config import overrides
from flowertune.config.compose import to_config, typed_overrides
from flowertune.config.logger import MlflowConfig, WandbConfig
from flowertune.config.messages import translate_composition_errors, translate_errors
from flowertune.config.run import run_name
from flowertune.config.schema import Config
from flowertune.errors import EXIT_FAILED, UsageError, first_line
from flowertune.files import expand_user
from flowertune.report import sweep as sweep_tables
from flowertune.runs.resume import SWEEPS
from flowertune.sweeps.sweep import Sweep, Tables

Execute = Callable[[Config], int]


def plan_sweep(composer: Hydra, node: DictConfig) -> Sweep:
    """Compose and check all jobs of a sweep. Raises UsageError if one is invalid or repeated."""
    # the order of Hydra's sweepers: hydra.sweeper.params, then the typed overrides
    params = OmegaConf.select(node, "hydra.sweeper.params") or {}
    param_overrides = [f"{key}={value}" for key, value in params.items()]
    parsed = parse_overrides(composer, [*param_overrides, *typed_overrides(node)])
    jobs: list[Job] = []
    if is_search(node):
        direction = OmegaConf.select(node, "hydra.sweeper.direction")
        if direction is not None and str(direction).rpartition(".")[2] != "maximize":
            raise UsageError(
                "hydra.sweeper.direction: must be maximize; the objective is top-1 on val"
            )
        if to_config(node).data.protocol == "trainval":
            raise UsageError("data.protocol=trainval: has no val split, which a search needs")
    else:
        jobs = [job for job, _, _ in compose_jobs(composer, node, parsed)]
    keys = tuple(o.get_key_element().lstrip("+") for o in parsed if o.is_sweep_override())
    methods = {job.method: None for job in jobs} or {node.method: None}
    return create_sweep(node, SWEEPS, "_".join(methods), sweep_tables, keys, jobs)


def create_sweep(
    node: DictConfig,
    parent: str,
    title: str,
    tables: Tables,
    swept: tuple[str, ...],
    jobs: Sequence[Job],
    batch: Sequence[Sequence[str]] | None = None,
) -> Sweep:
    """Create a sweep in `parent`. Raises UsageError if jobs are the same run or differ in root."""
    seen: dict[str, Job] = {}
    for job in jobs:
        if Path(job.run).parent != Path(jobs[0].run).parent:
            raise UsageError("run.root: must be the same for all jobs of a sweep")
        other = seen.setdefault(job.run, job)
        if other is not job:
            raise UsageError(
                f"jobs {other.number} and {job.number} of the sweep have the same run, {job.run}; "
                "give each value only once, and do not set run.name"
            )
    return Sweep(
        path=expand_user(node.run.root) / parent / run_name(title, node.hydra.overrides.task),
        swept=swept,
        planned=jobs,
        batch=batch,
        total=len(jobs) or OmegaConf.select(node, "hydra.sweeper.n_trials"),
        tables=tables,
        uses_processes=node.hydra.launcher._target_ != BasicLauncherConf._target_,
        console=node.run.console,
    )


def run_sweep(sweep: Sweep, composer: Hydra, node: DictConfig, execute: Execute) -> int:
    """Run all jobs of a sweep. -> exit code. Raises UsageError if its directory is in use."""

    # a launcher may call it in another process or on another machine
    def run_job(job_node: DictConfig) -> float | None:
        job = _create_job(job_node)
        return sweep.run_job(job, lambda: execute(_set_group(to_config(job_node), sweep)))

    with sweep.open():
        try:
            with translate_errors():
                _launch(sweep, composer, node, run_job)
        except Exception as error:  # of the launcher or sweeper; jobs record their own
            if not sweep.has_started():
                raise
            print(f"the sweep ended early: {first_line(error)}", file=sys.stderr)
            return EXIT_FAILED
    return sweep.exit_code()


def _launch(
    sweep: Sweep, composer: Hydra, node: DictConfig, run_job: Callable[[DictConfig], float | None]
) -> None:
    typed: Any = OmegaConf.to_container(node.hydra.overrides, resolve=False)
    folder = str(sweep.path).replace('"', '\\"')
    words = [*typed["hydra"], *typed["task"], "hydra.mode=MULTIRUN", f'hydra.sweep.dir="{folder}"']
    n_jobs = OmegaConf.select(node, "hydra.launcher.n_jobs")
    if sweep.total and n_jobs is not None:
        import joblib  # installed with the launcher that has this key

        if joblib.effective_n_jobs(n_jobs) > sweep.total:
            words.append(f"hydra.launcher.n_jobs={sweep.total}")  # no idle workers
    name = node.hydra.job.config_name
    if sweep.batch is None:
        composer.multirun(name, run_job, words)
        return
    master = composer.compose_config(name, words, RunMode.MULTIRUN, validate_sweep_overrides=False)
    context = HydraContext(config_loader=composer.config_loader, callbacks=Callbacks(master))
    launcher = Plugins.instance().instantiate_launcher(context, run_job, master)
    for job_return in launcher.launch(sweep.batch, initial_job_idx=0):
        _ = job_return.return_value  # raises the job's exception, if any


def _set_group(config: Config, sweep: Sweep) -> Config:
    logger = config.logger
    if isinstance(logger, WandbConfig | MlflowConfig) and logger.group is None:
        logger.group = sweep.path.name
    return config


def parse_overrides(composer: Hydra, arguments: Sequence[str]) -> list[Override]:
    """Parse the overrides; the last one of each key counts."""
    parser = OverridesParser.create(config_loader=composer.config_loader)
    parsed = parser.parse_overrides(list(arguments))
    return list({override.get_key_element(): override for override in parsed}.values())


def is_search(node: DictConfig) -> bool:
    """Whether a sweeper chooses the jobs one after the other."""
    return bool(node.hydra.sweeper._target_ != BasicSweeperConf._target_)


def compose_jobs(
    composer: Hydra, node: DictConfig, parsed: list[Override]
) -> Iterator[tuple[Job, Config, list[str]]]:
    """Yield job, checked config and overrides of every combination of the values."""
    overrides.check_number_of_jobs(parsed)
    (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    for index, job_overrides in enumerate(batch):
        with translate_composition_errors(job_overrides):
            job_node = composer.config_loader.load_sweep_config(node, job_overrides)
        with open_dict(job_node.hydra.job):
            job_node.hydra.job.id = job_node.hydra.job.num = index
        HydraConfig.instance().set_config(job_node)
        config = to_config(job_node)
        yield _create_job(job_node), config, job_overrides


def _create_job(node: DictConfig) -> Job:
    hydra = HydraConfig.get()
    task = list(hydra.overrides.task)
    name = node.run.name or run_name(node.method, task)
    return Job(
        number=hydra.job.num + 1,
        run=str(expand_user(node.run.root) / name),
        method=node.method,
        seed=node.seed,
        words=dict(text.lstrip("+").split("=", maxsplit=1) for text in task if "=" in text),
    )

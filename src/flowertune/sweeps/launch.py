"""A sweep's jobs, all composed and checked before the first starts, and handed to a launcher."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hydra._internal.core_plugins.basic_launcher import BasicLauncherConf
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from flowertune.analysis.settings import Job
from flowertune.config import overrides
from flowertune.config.compose import to_config, to_named_config, typed_words, without_hydra
from flowertune.config.logger import MlflowConfig, WandbConfig
from flowertune.config.messages import composing, in_one_line
from flowertune.config.run import run_name
from flowertune.config.schema import Config
from flowertune.errors import EXIT_FAILED, UsageError, first_line
from flowertune.runs.resume import SWEEPS
from flowertune.sweeps.sweep import Sweep, SweepTables, check_apart


def run_sweep(
    composer: Hydra,
    node: DictConfig,
    name: str,
    words: Sequence[str],
    execute: Callable[[Config], int],
) -> int:
    """Has all jobs of the sweep done that `node` is the master config of. -> exit code.

    Raises:
        UsageError: a job's config is wrong, two are the same run, or the sweep's directory is in
            use.
    """
    with in_one_line():
        # what a sweeper goes by: hydra.sweeper.params, then the typed words
        params = OmegaConf.select(node, "hydra.sweeper.params") or {}
        assigned = [f"{key}={value}" for key, value in params.items()]
        swept = sweep_overrides(composer, [*assigned, *typed_words(node)])
        jobs = _planned(composer, node, swept)
        sweep = _sweep(node, swept, jobs)

    def launch(job: Callable[[DictConfig], float | None]) -> None:
        composer.multirun(name, job, [*words, *sweep_words(sweep)])

    return perform_all(sweep, jobs, execute, launch)


def perform_all(
    sweep: Sweep,
    jobs: list[Job],
    execute: Callable[[Config], int],
    launch: Callable[[Callable[[DictConfig], float | None]], None],
) -> int:
    """Has `launch` call the function it gets with each job's node. -> exit code."""

    def job(node: DictConfig) -> float | None:
        """Called in this process, or by a launcher in another one or on another machine."""
        this = _job(node, HydraConfig.get().job.num + 1)
        return sweep.perform(this, lambda: execute(_grouped(to_named_config(node), sweep)))

    with sweep.held(jobs):
        try:
            with in_one_line():
                launch(job)
        except Exception as error:  # the launcher's or the sweeper's: jobs keep their own
            if not sweep.has_begun():
                raise
            print(f"the sweep ended early: {first_line(error)}", file=sys.stderr)
            return EXIT_FAILED
    return sweep.exit_code()


def _grouped(config: Config, sweep: Sweep) -> Config:
    """Trackers show a sweep's jobs together, unless the config has another group for them."""
    logger = config.logger
    if isinstance(logger, WandbConfig | MlflowConfig) and logger.group is None:
        logger.group = sweep.path.name
    return config


def sweep_words(sweep: Sweep) -> list[str]:
    """What Hydra must know of it, as it would be typed."""
    folder = str(sweep.path).replace('"', '\\"')
    return ["hydra.mode=MULTIRUN", f'hydra.sweep.dir="{folder}"']


def sweep_overrides(composer: Hydra, words: Sequence[str]) -> list[Override]:
    """The words, read; of those for the same key the last one."""
    parser = OverridesParser.create(config_loader=composer.config_loader)
    parsed = parser.parse_overrides(list(words))
    return list({override.get_key_element(): override for override in parsed}.values())


def _planned(composer: Hydra, node: DictConfig, swept: list[Override]) -> list[Job]:
    """All jobs, each composed and checked; none where a sweeper decides them as it goes."""
    if is_search(node):
        _check_search(node)
        return []
    jobs = [job for job, _ in composed_jobs(composer, node, batch_of(swept))]
    check_apart(jobs)
    return jobs


def is_search(node: DictConfig) -> bool:
    """Whether a sweeper decides the jobs as it goes."""
    return bool(node.hydra.sweeper._target_ != BasicSweeperConf._target_)


def is_beside(node: DictConfig) -> bool:
    """Whether a launcher starts the jobs in processes of their own."""
    return bool(node.hydra.launcher._target_ != BasicLauncherConf._target_)


def batch_of(swept: list[Override]) -> list[list[str]]:
    """Every combination of the values, each as the words of a job."""
    overrides.check_number_of_jobs(swept)
    (batch,) = BasicSweeper.split_arguments(swept, max_batch_size=None)
    return batch


def composed_jobs(
    composer: Hydra, node: DictConfig, batch: Sequence[Sequence[str]]
) -> Iterator[tuple[Job, Config]]:
    """Each job with its checked config, in order."""
    for index, words in enumerate(batch):
        with composing(words):
            each = composer.config_loader.load_sweep_config(node, list(words))
        with open_dict(each.hydra.job):
            each.hydra.job.id = each.hydra.job.num = index
        HydraConfig.instance().set_config(each)
        config = to_named_config(without_hydra(each))
        yield _job(each, index + 1), config


def _check_search(node: DictConfig) -> None:
    direction = OmegaConf.select(node, "hydra.sweeper.direction")
    if direction is not None and str(direction).rpartition(".")[2] != "maximize":
        raise UsageError(
            "hydra.sweeper.direction: must be maximize; a job's value is its top-1 on val"
        )
    if to_config(without_hydra(node)).data.protocol == "trainval":
        raise UsageError("data.protocol=trainval: has no val for a search to go by")


def _sweep(node: DictConfig, swept: list[Override], jobs: list[Job]) -> Sweep:
    methods = {job.method: None for job in jobs} or {node.method: None}
    name = run_name("_".join(methods), node.hydra.overrides.task)
    keys = tuple(o.get_key_element().lstrip("+") for o in swept if o.is_sweep_override())
    return Sweep(
        path=Path(node.run.root).expanduser() / SWEEPS / name,
        swept=keys,
        total=len(jobs) or OmegaConf.select(node, "hydra.sweeper.n_trials"),
        tables=SweepTables(keys),
        beside=is_beside(node),
        console=node.run.console,
    )


def _job(node: DictConfig, number: int) -> Job:
    words = list(HydraConfig.get().overrides.task)
    name = node.run.name or run_name(node.method, words)
    return Job(
        number=number,
        run=str(Path(node.run.root).expanduser() / name),
        method=node.method,
        seed=node.seed,
        words=dict(word.lstrip("+").split("=", maxsplit=1) for word in words if "=" in word),
    )

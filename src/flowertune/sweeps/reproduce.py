"""A reproduction: every method with every seed, composed, checked and done as a sweep's jobs."""

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
from flowertune.config.compose import typed_words
from flowertune.config.fields import format_value
from flowertune.config.messages import in_one_line
from flowertune.config.run import run_name
from flowertune.config.schema import Config
from flowertune.errors import EXIT_DONE, UsageError
from flowertune.report.reproduction import ReproductionTables
from flowertune.runs.finished import read_finished_run, seed_matters
from flowertune.runs.resume import REPRODUCTIONS
from flowertune.sweeps.launch import (
    batch_of,
    composed_jobs,
    is_beside,
    is_search,
    perform_all,
    sweep_overrides,
    sweep_words,
)
from flowertune.sweeps.sweep import Sweep, check_apart

METHODS = (
    "zeroshot", "linear_probe", "lora", "mixup", "triplet", "vpt", "vpt_deep", "best",
)  # fmt: skip
SEEDS = (42, 43, 44)
_SEVERAL = ("method", "seed")  # the keys that may have several values


def run_reproduction(
    composer: Hydra,
    node: DictConfig,
    name: str,
    words: Sequence[str],
    execute: Callable[[Config], int],
) -> int:
    """Has all methods trained with all seeds that `words` leave of them. -> exit code.

    Of a method to which the seed does not matter, the first seed is enough.

    Raises:
        UsageError: a job's config is wrong, another key has several values, or another process is
            at
            this reproduction.
    """
    with in_one_line():
        typed = sweep_overrides(composer, typed_words(node))
        _check(node, typed)
        batch, jobs = _planned(composer, node)
        sweep = Sweep(
            path=Path(node.run.root).expanduser() / REPRODUCTIONS / _name(node, typed),
            swept=_SEVERAL,
            total=len(jobs),
            tables=ReproductionTables(),
            beside=is_beside(node),
            console=node.run.console,
        )

    def launch(job: Callable[[DictConfig], float | None]) -> None:
        more = [*words, *sweep_words(sweep)]
        master = composer.compose_config(
            name, more, RunMode.MULTIRUN, validate_sweep_overrides=False
        )
        launcher = Plugins.instance().instantiate_launcher(
            HydraContext(config_loader=composer.config_loader, callbacks=Callbacks(master)),
            job,
            master,
        )
        for done in launcher.launch(batch, initial_job_idx=0):
            _ = done.return_value  # raises what a launcher kept to itself

    def trained(config: Config) -> int:
        """What was damaged since it finished fails alone, and not the tables of all."""
        exit_code = execute(config)
        if exit_code == EXIT_DONE:
            assert config.run.name is not None
            one = read_finished_run(Path(config.run.root).expanduser() / config.run.name)
            one.predictions(one.reported_split)
        return exit_code

    return perform_all(sweep, jobs, trained, launch)


def _check(node: DictConfig, typed: Sequence[Override]) -> None:
    if is_search(node):
        raise UsageError("hydra/sweeper: has no use for one; methods and seeds decide the jobs")
    if node.hydra.mode == RunMode.MULTIRUN:
        raise UsageError(
            "hydra.mode=MULTIRUN: no sweeps here, by an experiment either; methods and seeds decide"
            " the jobs"
        )
    for override in typed:
        if override.is_sweep_override() and override.get_key_element() not in _SEVERAL:
            raise UsageError(
                f"{format_value(override.input_line)}: several values, which only method and seed "
                "may have here; flowertune train -m makes a run of each"
            )


def _planned(composer: Hydra, node: DictConfig) -> tuple[list[list[str]], list[Job]]:
    """The words of each job, and the jobs. Seed by seed, so that a table of all methods is soon."""
    # without a text tower that means something there is no zero-shot, unless it is asked for
    methods = [name for name in METHODS if node.backbone.text or name != "zeroshot"]
    ours = [f"seed={','.join(map(str, SEEDS))}", f"method={','.join(methods)}"]
    everything = batch_of(sweep_overrides(composer, [*ours, *typed_words(node)]))
    batch, jobs, done = [], [], set()
    for words, (job, config) in zip(
        everything, composed_jobs(composer, node, everything), strict=True
    ):
        if seed_matters(config.model.name, config.probe.solver) or job.method not in done:
            batch.append(words)
            jobs.append(replace(job, number=len(batch)))
            done.add(job.method)
    check_apart(jobs)
    return batch, jobs


def _name(node: DictConfig, typed: Sequence[Override]) -> str:
    """Of the reproduction's directory, made from what was typed, as a run's is."""
    (chosen,) = [each for each in typed if each.get_key_element() == "method"] or (None,)
    words = [] if chosen is None else [word for (word,) in batch_of([chosen])]
    methods = [word.removeprefix("method=") for word in words]
    return run_name("_".join([node.data.name, *methods]), node.hydra.overrides.task)

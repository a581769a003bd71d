"""From the words on the command line to checked Configs, by Hydra; one job, or a sweep of them.

Hydra composes, this module hands each job to a function as plain dataclasses.
"""

import contextlib
import copy
import io
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hydra
from hydra import version
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from flowertune.claims import SWEEPS
from flowertune.conf_dir import conf_dir
from flowertune.config import SCHEMAS, Config
from flowertune.config_checks import check
from flowertune.errors import EXIT_DONE, EXIT_FAILED, Refused, first_line
from flowertune.refusals import in_one_line
from flowertune.runs import run_name
from flowertune.sweep_table import Job
from flowertune.sweeps import Sweep, check_apart

Execute = Callable[[Config], int]


def run(arguments: Sequence[str], execute: Execute, *, sweeps: bool = True) -> int:
    """Composes a config and calls `execute` with it, in a sweep with each of several.

    It is a sweep with -m, or where a YAML file sets hydra.mode to MULTIRUN. Its configs are all
    composed and checked before the first job starts; without `sweeps` it is refused. Returns the
    job's exit code; of a sweep 0 where all jobs were done, 2 where all were refused, else 1.

    Raises:
        Refused: for a config that does not compose or a value out of its range.
    """
    options = _parse(arguments)
    if options.experimental_rerun:
        raise Refused("--experimental-rerun: is not supported; --config-path RUN runs again")
    if (options.package or options.resolve) and not options.cfg:
        raise Refused("--package and --resolve go with --cfg")
    if options.cfg or options.info or options.shell_completion or options.hydra_help:
        _show(arguments, options.overrides)
        return EXIT_DONE
    with _composer(options) as composer:
        name, words = options.config_name or "config", options.overrides
        with in_one_line():
            node = composer.compose_config(
                name, words, RunMode.MULTIRUN, validate_sweep_overrides=False
            )
        if options.multirun or node.hydra.mode == RunMode.MULTIRUN:
            if not sweeps:
                raise Refused("no sweeps here, by -m or by an experiment: give each key one value")
            return _run_sweep(composer, node, name, words, execute)
        return _run_one(composer, name, words, execute)


def _parse(arguments: Sequence[str]) -> Namespace:
    """Hydra's own parser wants all words side by side; people type -m anywhere."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return get_args_parser().parse_intermixed_args(list(arguments))
    except SystemExit:
        raise Refused(complaint.getvalue().strip().rpartition("error: ")[2]) from None


def _show(arguments: Sequence[str], words: Sequence[str]) -> None:
    """--cfg, --info and completion: Hydra answers, nothing is run."""
    options = list(arguments)
    for word in words:
        options.remove(word)
    _register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing a traceback
    typed = sys.argv
    sys.argv = [typed[0], *words, *options]
    show = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    try:
        with in_one_line():
            show(lambda node: None)()
    finally:
        sys.argv = typed


@contextlib.contextmanager
def _composer(options: Namespace) -> Iterator[Hydra]:
    """What hydra.main makes of our conf/, or of --config-path, and a --config-dir."""
    _register()
    version.setbase("1.3")
    folder = Path(options.config_path or conf_dir()).absolute()
    search_path = create_automatic_config_search_path(None, None, str(folder))
    if options.config_dir is not None:
        more = Path(options.config_dir).absolute()
        if not more.is_dir():
            raise Refused(f"--config-dir {options.config_dir}: there is no such folder")
        search_path.prepend("command-line", f"file://{more}", SearchPathQuery(provider="schema"))
    try:
        yield Hydra.create_main_hydra2("flowertune", search_path)
    finally:
        GlobalHydra.instance().clear()


def _run_one(composer: Hydra, name: str, words: Sequence[str], execute: Execute) -> int:
    exit_codes: list[int] = []
    failures: list[Exception] = []

    def job(node: DictConfig) -> None:
        try:
            exit_codes.append(execute(_to_named_config(node)))
        except Exception as failure:  # kept: what a job raises is not for in_one_line
            failures.append(failure)

    with in_one_line():
        composer.run(name, job, [*words, "hydra.mode=RUN"])
    if failures:
        raise failures[0]
    return exit_codes[0]


def _run_sweep(
    composer: Hydra, node: DictConfig, name: str, words: Sequence[str], execute: Execute
) -> int:
    with in_one_line():
        overrides = _sweep_overrides(composer, node)
        jobs = _planned(composer, node, overrides)
    sweep = _sweep(node, overrides, jobs)

    def job(node: DictConfig) -> float | None:
        """Called in this process, or by a launcher in another one or on another machine."""
        this = _job(node, HydraConfig.get().job.num + 1)
        return sweep.perform(this, lambda: execute(_to_named_config(node)))

    folder = str(sweep.path).replace('"', '\\"')
    more = ["hydra.mode=MULTIRUN", f'hydra.sweep.dir="{folder}"']
    with sweep.held(jobs):
        try:
            with in_one_line():
                composer.multirun(name, job, [*words, *more])
        except Exception as error:  # the launcher's or the sweeper's: jobs keep their own
            if not sweep.has_begun():
                raise
            print(f"the sweep ended early: {first_line(error)}", file=sys.stderr)
            return EXIT_FAILED
    return sweep.exit_code()


def _sweep_overrides(composer: Hydra, node: DictConfig) -> list[Override]:
    """What a sweeper goes by: hydra.sweeper.params, then the typed words; the later wins."""
    params = OmegaConf.select(node, "hydra.sweeper.params") or {}
    words = [f"{key}={value}" for key, value in params.items()]
    parser = OverridesParser.create(config_loader=composer.config_loader)
    overrides = parser.parse_overrides([*words, *node.hydra.overrides.task])
    return list({override.get_key_element(): override for override in overrides}.values())


def _planned(composer: Hydra, node: DictConfig, overrides: list[Override]) -> list[Job]:
    """All jobs, each composed and checked; none where a sweeper decides them as it goes."""
    if node.hydra.sweeper._target_ != BasicSweeperConf._target_:
        _check_search(node)
        return []
    jobs = []
    (batch,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    for index, words in enumerate(batch):
        each = composer.config_loader.load_sweep_config(node, list(words))
        with open_dict(each.hydra.job):
            each.hydra.job.id = each.hydra.job.num = index
        HydraConfig.instance().set_config(each)
        _to_named_config(_without_hydra(each))
        jobs.append(_job(each, index + 1))
    check_apart(jobs)
    return jobs


def _check_search(node: DictConfig) -> None:
    direction = OmegaConf.select(node, "hydra.sweeper.direction")
    if direction is not None and str(direction).rpartition(".")[2] != "maximize":
        raise Refused(
            "hydra.sweeper.direction: must be maximize; a job's value is its top-1 on val"
        )
    if to_config(_without_hydra(node)).data.protocol == "trainval":
        raise Refused("data.protocol=trainval: has no val for a search to go by")


def _sweep(node: DictConfig, overrides: list[Override], jobs: list[Job]) -> Sweep:
    methods = {job.method: None for job in jobs} or {node.method: None}
    name = run_name("_".join(methods), node.hydra.overrides.task)
    return Sweep(
        path=Path(node.run.root).expanduser() / SWEEPS / name,
        swept=tuple(o.get_key_element().lstrip("+") for o in overrides if o.is_sweep_override()),
        total=len(jobs) or OmegaConf.select(node, "hydra.sweeper.n_trials"),
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


def _without_hydra(node: DictConfig) -> DictConfig:
    ours = copy.deepcopy(node)
    with read_write(ours), open_dict(ours):
        del ours["hydra"]
    return ours


def _to_named_config(node: DictConfig) -> Config:
    config = to_config(node)
    if config.run.name is None:
        config.run.name = run_name(config.method, HydraConfig.get().overrides.task)
    return config


def to_config(node: DictConfig) -> Config:
    """The composed node as checked dataclasses.

    Raises:
        Refused: for a key without a value or a value out of its range.
    """
    with in_one_line():
        config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    check(config)
    _make_absolute(config)
    return config


def _make_absolute(config: Config) -> None:
    """What a run records must hold from any directory, so paths are anchored where they enter."""
    for holder, name in ((config.data, "root"), (config.backbone, "path")):
        path = getattr(holder, name, None)
        if path is not None:
            setattr(holder, name, str(Path(path).expanduser().absolute()))


def _register() -> None:
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for group, options in SCHEMAS.items():
        for name, schema in options.items():
            store.store(group=f"schema/{group}", name=name, node=schema)

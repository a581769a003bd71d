"""From the words on the command line to checked Configs, by Hydra; one job, or a sweep of them.

Hydra composes, this module hands each job to a function as plain dataclasses.
"""

import contextlib
import io
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hydra
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import configure_log
from hydra.types import RunMode
from omegaconf import DictConfig

from flowertune.composed import to_named_config, without_hydra
from flowertune.config import overrides, yaml_source
from flowertune.config.fields import on_one_line
from flowertune.config.groups import SCHEMAS, conf_dir
from flowertune.config.messages import composing, in_one_line
from flowertune.config.schema import Config
from flowertune.errors import EXIT_DONE, Refused
from flowertune.reproduction_composition import run_reproduction
from flowertune.sweep_composition import run_sweep

Execute = Callable[[Config], int]


def run(
    arguments: Sequence[str], execute: Execute, *, sweeps: bool = True, reproduces: bool = False
) -> int:
    """Composes a config and calls `execute` with it, in a sweep with each of several.

    It is a sweep with -m, or where a YAML file sets hydra.mode to MULTIRUN. Its configs are all
    composed and checked before the first job starts; without `sweeps` it is refused. With
    `reproduces` the jobs are a reproduction's. Returns the job's exit code; of several 0 where all
    jobs were done, 2 where all were refused, else 1.

    Raises:
        Refused: for a config that does not compose or a value out of its range.
    """
    options = _parse(arguments)
    if options.experimental_rerun:
        raise Refused("--experimental-rerun: is not supported; --config-path RUN runs again")
    if (options.package or options.resolve) and not options.cfg:
        raise Refused("--package and --resolve go with --cfg")
    if options.info or options.shell_completion or options.hydra_help:
        _show(arguments, options.overrides)
        return EXIT_DONE
    with _composer(options) as composer:
        name, words = options.config_name or "config", options.overrides
        with composing(words):
            typed = overrides.check(words, composer.config_loader)
            if options.cfg:
                overrides.check_one_job(typed)
                return _print_config(composer, name, options)
            node = composer.compose_config(
                name, words, RunMode.MULTIRUN, validate_sweep_overrides=False
            )
            is_sweep = options.multirun or node.hydra.mode == RunMode.MULTIRUN
            overrides.check_hydra(node.hydra)
        if reproduces:
            return run_reproduction(composer, node, name, words, execute)
        if not is_sweep:
            overrides.check_one_job(typed)
            return execute(_one_config(node))
        if not sweeps:
            raise Refused("no sweeps here, by -m or by an experiment: give each key one value")
        return run_sweep(composer, node, name, words, execute)


def _parse(arguments: Sequence[str]) -> Namespace:
    """Hydra's own parser wants all words side by side; people type -m anywhere."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return get_args_parser().parse_intermixed_args(list(arguments))
    except SystemExit:
        raise Refused(complaint.getvalue().strip().rpartition("error: ")[2]) from None


def _print_config(composer: Hydra, name: str, options: Namespace) -> int:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            composer.show_cfg(
                name, options.overrides, options.cfg, options.package, options.resolve
            )
    except SystemExit:
        raise Refused(f"--package {options.package}: the config has no such part") from None
    return EXIT_DONE


def _show(arguments: Sequence[str], words: Sequence[str]) -> None:
    """--info and completion: Hydra answers, nothing is run."""
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
    folders = [conf_dir()]
    if options.config_path is not None:
        folders = [_folder("--config-path", options.config_path)]
    search_path = create_automatic_config_search_path(None, None, str(folders[0]))
    if options.config_dir is not None:
        more = _folder("--config-dir", options.config_dir)
        search_path.prepend("command-line", f"file://{more}", SearchPathQuery(provider="schema"))
        folders.append(more)
    name = f"{(options.config_name or 'config').removesuffix('.yaml')}.yaml"
    if not any((folder / name).is_file() for folder in folders):
        raise Refused(f"{on_one_line(str(folders[-1] / name))}: there is no such config")
    try:
        yield Hydra.create_main_hydra2("flowertune", search_path)
    finally:
        GlobalHydra.instance().clear()


def _folder(option: str, path: str) -> Path:
    folder = Path(path).absolute()
    if not path or not folder.is_dir():
        raise Refused(f"{option} {on_one_line(path)}: is no folder")
    return folder


def _one_config(node: DictConfig) -> Config:
    """Of the one job that is no sweep's. Hydra's own run would compose it once more."""
    configure_log(node.hydra.job_logging)
    logging.getLogger("flowertune").setLevel(logging.WARNING)  # which that has just quietened
    HydraConfig.instance().set_config(node)
    return to_named_config(without_hydra(node))


def _register() -> None:
    yaml_source.register()
    store = ConfigStore.instance()
    store.store(group="schema", name="config", node=Config)
    for group, options in SCHEMAS.items():
        for name, schema in options.items():
            store.store(group=f"schema/{group}", name=name, node=schema)

"""Compose the config of one job from the command line, by Hydra, as checked dataclasses."""

import contextlib
import copy
import io
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
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
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from flowertune.config import yaml_source
from flowertune.config.fields import escape_unprintable
from flowertune.config.groups import SCHEMAS, conf_dir
from flowertune.config.messages import composing, in_one_line
from flowertune.config.run import run_name
from flowertune.config.schema import Config
from flowertune.config.validate import check
from flowertune.errors import EXIT_DONE, UsageError


def to_config(node: DictConfig) -> Config:
    """The composed node as checked dataclasses.

    Raises:
        UsageError: for a key without a value or a value out of its range.
    """
    with composing():
        config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    check(config)
    _make_absolute(config)
    return config


def to_named_config(node: DictConfig) -> Config:
    config = to_config(node)
    if config.run.name is None:
        config.run.name = run_name(config.method, HydraConfig.get().overrides.task)
    return config


def typed_words(node: DictConfig) -> list[str]:
    """As they were typed: what a ${...} in one stands for is found when the config is composed."""
    words = OmegaConf.to_container(node.hydra.overrides.task, resolve=False)
    assert isinstance(words, list)
    return [str(word) for word in words]


def without_hydra(node: DictConfig) -> DictConfig:
    ours = copy.deepcopy(node)
    with read_write(ours), open_dict(ours):
        del ours["hydra"]
    return ours


def _make_absolute(config: Config) -> None:
    """What a run records must hold from any directory, so paths are anchored where they enter."""
    for holder, name in ((config.data, "root"), (config.backbone, "path")):
        path = getattr(holder, name, None)
        if path is not None:
            setattr(holder, name, str(Path(path).expanduser().absolute()))


def parse_arguments(arguments: Sequence[str]) -> Namespace:
    """Hydra's own parser wants all words side by side; people type -m anywhere."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return get_args_parser().parse_intermixed_args(list(arguments))
    except SystemExit:
        raise UsageError(complaint.getvalue().strip().rpartition("error: ")[2]) from None


def print_config(composer: Hydra, name: str, options: Namespace) -> int:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            composer.show_cfg(
                name, options.overrides, options.cfg, options.package, options.resolve
            )
    except SystemExit:
        raise UsageError(f"--package {options.package}: the config has no such part") from None
    return EXIT_DONE


def show_info(arguments: Sequence[str], words: Sequence[str]) -> None:
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
def open_composer(options: Namespace) -> Iterator[Hydra]:
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
        raise UsageError(f"{escape_unprintable(str(folders[-1] / name))}: there is no such config")
    try:
        yield Hydra.create_main_hydra2("flowertune", search_path)
    finally:
        GlobalHydra.instance().clear()


def _folder(option: str, path: str) -> Path:
    folder = Path(path).absolute()
    if not path or not folder.is_dir():
        raise UsageError(f"{option} {escape_unprintable(path)}: is no folder")
    return folder


def compose_one(node: DictConfig) -> Config:
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

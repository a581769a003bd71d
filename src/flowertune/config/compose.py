"""Compose configs from the command line with Hydra, as validated dataclasses."""

import contextlib
import copy
import io
import itertools
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_automatic_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from flowertune.config import overrides, yaml_source
from flowertune.config.fields import escape_unprintable, format_value
from flowertune.config.groups import SCHEMAS, conf_dir
from flowertune.config.keys import full_keys
from flowertune.config.messages import translate_composition_errors, translate_errors
from flowertune.config.plugins import schemas
from flowertune.config.run import run_name
from flowertune.config.schema import Config
from flowertune.config.validate import check
from flowertune.errors import UsageError
from flowertune.files import expand_user


def to_config(node: DictConfig) -> Config:
    """Convert a job's node to validated dataclasses, with the default run name if none is given.

    Raises UsageError for a missing or invalid value.
    """
    node = copy.deepcopy(node)
    with read_write(node), open_dict(node):
        node.pop("hydra", None)
    with translate_composition_errors():
        config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    check(config)
    # absolute, so that a saved config is valid from any directory
    paths = [(config.data, name) for name in ("root", "path", "names")]
    for section, name in (*paths, (config.backbone, "path")):
        path = getattr(section, name, None)
        if path is not None:
            setattr(section, name, str(expand_user(path).absolute()))
    if config.run.name is None:
        config.run.name = run_name(config.method, HydraConfig.get().overrides.task)
    return config


def typed_overrides(node: DictConfig) -> list[str]:
    """List the overrides as typed, with each ${...} unresolved."""
    typed = OmegaConf.to_container(node.hydra.overrides.task, resolve=False)
    assert isinstance(typed, list)
    return [str(override) for override in typed]


def parse_arguments(arguments: Sequence[str]) -> Namespace:
    """Parse with Hydra's parser, with -m and other flags anywhere."""
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            return get_args_parser().parse_intermixed_args(list(arguments))
    except SystemExit:
        message = stderr.getvalue().strip().rpartition("error: ")[2]
        unknown = message.removeprefix("unrecognized arguments: ").partition(" ")[0]
        option, _, value = unknown.partition("=")
        value = value or dict(itertools.pairwise(arguments)).get(option, "VALUE")
        if keys := full_keys(option.lstrip("-").replace("-", "_")):  # --method mixup
            written = " or ".join(f"{key}={format_value(value)}" for key in keys)
            message = f"{option}: unknown option; write {written}"
        raise UsageError(message) from None


def print_config(composer: Hydra, name: str, options: Namespace) -> None:
    """Print the composed config (--cfg)."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            composer.show_cfg(
                name, options.overrides, options.cfg, options.package, options.resolve
            )
    except SystemExit:
        raise UsageError(f"--package {options.package}: unknown part of the config") from None


def show_info(composer: Hydra, name: str, options: Namespace) -> None:
    """Let Hydra answer --info, --hydra-help and shell completion."""
    with translate_errors():
        if options.hydra_help:
            composer.hydra_help(name, get_args_parser(), options)
        elif options.shell_completion:
            composer.shell_completion(name, options.overrides)
        else:
            composer.show_info(options.info, name, options.overrides)


@contextlib.contextmanager
def open_composer(options: Namespace) -> Iterator[Hydra]:
    """Set up Hydra like hydra.main, with conf/ or --config-path, and --config-dir."""
    _register_schemas()
    version.setbase("1.3")
    folders = [conf_dir()]
    if options.config_path is not None:
        folders = [_existing_folder("--config-path", options.config_path)]
    search_path = create_automatic_config_search_path(None, None, str(folders[0]))
    if options.config_dir is not None:
        extra = _existing_folder("--config-dir", options.config_dir)
        search_path.prepend("command-line", f"file://{extra}", SearchPathQuery(provider="schema"))
        folders.append(extra)
    name = f"{(options.config_name or 'config').removesuffix('.yaml')}.yaml"
    if not any((folder / name).is_file() for folder in folders):
        raise UsageError(f"{escape_unprintable(str(folders[-1] / name))}: does not exist")
    try:
        yield Hydra.create_main_hydra2("flowertune", search_path)
    finally:
        GlobalHydra.instance().clear()


def _existing_folder(option: str, path: str) -> Path:
    folder = Path(path).absolute()
    if not path or not folder.is_dir():
        raise UsageError(f"{option} {escape_unprintable(path)}: is not a directory")
    return folder


def _register_schemas() -> None:
    yaml_source.register()
    store = ConfigStore.instance()
    store.store(group="hydra", name="config", node=overrides.HYDRA, provider="hydra")
    store.store(group="schema", name="config", node=Config)
    for group, options in schemas().items():
        for name, schema in options.items():
            store.store(group=f"schema/{group}", name=name, node=schema)
            if name not in SCHEMAS[group]:  # a plug-in has no YAML file
                store.store(group=group, name=name, node=schema)

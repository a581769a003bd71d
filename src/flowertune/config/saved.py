"""Write and read a run's config.yaml, in a form that Hydra composes again.

`flowertune train --config-path "$(realpath runs/NAME)" run.name=AGAIN` repeats the run NAME, and
takes further overrides, which are checked as ever. Hydra wants that path absolute.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flowertune.config.fields import validate
from flowertune.config.groups import SCHEMAS
from flowertune.config.plugins import check_installed, schemas
from flowertune.config.probe import ProbeConfig
from flowertune.config.run import RunConfig
from flowertune.config.schema import Config

_HEADER = """\
# Everything this run was set to. To run it again:
#   flowertune train --config-path "$(realpath THIS_FOLDER)" run.name=AGAIN
"""
_HYDRA_KEYS = ("defaults", "hydra")  # older files have the second, too


def to_yaml(config: Mapping[str, Any]) -> str:
    """Render a whole config, given as plain values, as the text of config.yaml."""
    from omegaconf import OmegaConf

    # the schemas of the values, so that a repeated run checks types and ranges
    groups = [f"schema/{group}/{_option_name(group, config[group])}@{group}" for group in SCHEMAS]
    defaults = ["schema/config@_global_", *groups, "_self_"]
    node = {"defaults": defaults, **_escape_interpolations(config)}
    return _HEADER + OmegaConf.to_yaml(OmegaConf.create(node))


def read_values(path: Path) -> dict[str, Any]:
    """Read the config as plain values, as `to_yaml` got it.

    Raises OSError, or ValueError for a file that is no such config.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    try:
        plain = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path}: is not a config") from error
    if not isinstance(plain, dict) or not plain:
        raise ValueError(f"{path}: is not a config")
    return {str(key): value for key, value in plain.items() if key not in _HYDRA_KEYS}


def read_config(path: Path) -> Config:
    """Read the config as dataclasses.

    A key that is younger than the file has its default. Raises OSError, ValueError for a file
    that is no such config, or has values that no run can have, or UsageError for an option of a
    plug-in that is not installed.
    """
    values = read_values(path)
    chosen: dict[str, Any] = {**_chosen_schemas(values), "probe": ProbeConfig, "run": RunConfig}
    try:
        groups = {name: schema(**values.get(name, {})) for name, schema in chosen.items()}
        config = Config(**{**values, **groups})
    except TypeError as error:
        raise ValueError(f"{path}: is not a config") from error
    check_installed("solver", config.probe.solver)
    if violation := validate(config):
        raise ValueError(f"{path}: {violation}")
    return config


def _escape_interpolations(value: Any) -> Any:
    """Escape each ${, so that OmegaConf reads it literally."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, list):
        return [_escape_interpolations(element) for element in value]
    if isinstance(value, Mapping):
        return {key: _escape_interpolations(element) for key, element in value.items()}
    return value


def read_flat(path: Path) -> dict[str, Any]:
    """Read the config as values by full key. A key that is younger than the file has its default.

    Raises OSError, or ValueError for a file that is no such config.
    """
    values = read_values(path)
    groups = {group: schema() for group, schema in _chosen_schemas(values).items()}
    # as that is what was done without the key
    return dict(flatten(asdict(Config(**groups)))) | dict(flatten(values))


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value of a config with its full key, such as trainer.epochs."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _chosen_schemas(config: Mapping[str, Any]) -> dict[str, type]:
    return {
        group: options[_option_name(group, config[group])]
        for group, options in schemas().items()
        if isinstance(config.get(group), Mapping)
    }


def _option_name(group: str, values: Mapping[str, Any]) -> str:
    name, options = values.get("name"), schemas()[group]
    check_installed(group, name)
    # the others are groups of one schema
    return name if isinstance(name, str) and name in options else next(iter(options))

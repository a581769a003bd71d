"""Write and read a run's config.yaml, in a form that Hydra can compose again.

`flowertune train --config-path "$(realpath runs/NAME)" run.name=AGAIN` repeats the run NAME, with
further overrides if given. Hydra needs an absolute path.
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
# Complete config of this run. To run it again:
#   flowertune train --config-path "$(realpath THIS_FOLDER)" run.name=AGAIN
"""
_HYDRA_KEYS = ("defaults", "hydra")  # older files have both


def to_yaml(config: Mapping[str, Any]) -> str:
    """Render a config, given as plain values, as config.yaml."""
    from omegaconf import OmegaConf

    # with the schemas, so that a repeated run checks types and ranges
    groups = [f"schema/{group}/{_option_name(group, config[group])}@{group}" for group in SCHEMAS]
    defaults = ["schema/config@_global_", *groups, "_self_"]
    node = {"defaults": defaults, **_escape_interpolations(config)}
    return _HEADER + OmegaConf.to_yaml(OmegaConf.create(node))


def read_values(path: Path) -> dict[str, Any]:
    """Read the config as plain values, the inverse of `to_yaml`.

    Raises OSError, or ValueError if the file is not a config.
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
    """Read the config as dataclasses; keys that are missing in an older file have their defaults.

    Raises OSError, ValueError for an invalid config, or UsageError for a missing plug-in.
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
    """Escape ${, so that OmegaConf reads it literally."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, list):
        return [_escape_interpolations(element) for element in value]
    if isinstance(value, Mapping):
        return {key: _escape_interpolations(element) for key, element in value.items()}
    return value


def read_flat(path: Path) -> dict[str, Any]:
    """Read the config as values by full key; keys that are missing in an older file have defaults.

    Raises OSError, or ValueError if the file is not a config.
    """
    values = read_values(path)
    groups = {group: schema() for group, schema in _chosen_schemas(values).items()}
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
    # trainer and backbone have a single schema
    return name if isinstance(name, str) and name in options else next(iter(options))

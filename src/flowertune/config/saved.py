"""config.yaml of a run: everything that was set, in a form that Hydra composes again.

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
from flowertune.config.probe import ProbeConfig
from flowertune.config.run import RunConfig
from flowertune.config.schema import Config

_HEADER = """\
# Everything this run was set to. To run it again:
#   flowertune train --config-path "$(realpath THIS_FOLDER)" run.name=AGAIN
"""
# As in conf/config.yaml, whose place this file takes: Hydra leaves nothing of its own.
HYDRA = {
    "output_subdir": None,
    "run": {"dir": "."},
    "sweep": {"subdir": "."},
    "job": {"name": "flowertune", "chdir": False},
}
_NOT_OURS = ("defaults", "hydra")


def to_yaml(config: Mapping[str, Any]) -> str:
    """The text of config.yaml for a whole config as plain values."""
    from omegaconf import OmegaConf

    node = {"defaults": _defaults(config), "hydra": HYDRA, **_literal(config)}
    return _HEADER + OmegaConf.to_yaml(OmegaConf.create(node))


def read_values(path: Path) -> dict[str, Any]:
    """The config as plain values, as `to_yaml` got it.

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
    return {str(key): value for key, value in plain.items() if key not in _NOT_OURS}


def read_config(path: Path) -> Config:
    """The same as the dataclasses that everything else sees.

    A key that is younger than the file has its default. Raises OSError, or ValueError for a file
    that is no such config, or has values that no run can have.
    """
    values = read_values(path)
    parts: dict[str, Any] = {
        group: options[_option(group, values[group])]
        for group, options in SCHEMAS.items()
        if isinstance(values.get(group), Mapping)
    }
    parts |= {"probe": ProbeConfig, "run": RunConfig}
    try:
        made = {name: part(**values.get(name, {})) for name, part in parts.items()}
        config = Config(**{**values, **made})
    except TypeError as error:
        raise ValueError(f"{path}: is not a config") from error
    if violation := validate(config):
        raise ValueError(f"{path}: {violation}")
    return config


def _literal(value: Any) -> Any:
    """With each ${ so that OmegaConf reads it as it stands, and looks for nothing of that name."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, list):
        return [_literal(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _literal(each) for key, each in value.items()}
    return value


def flat_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Its values by their whole keys. A key that is younger than the file has its default."""
    # as that is what was done without it
    return dict(flat(schema_values(config))) | dict(flat(config))


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of a config with its whole key: trainer.epochs."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def schema_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the schema itself has for each key under the options that a config chose."""
    chosen = {
        group: options[_option(group, config[group])]()
        for group, options in SCHEMAS.items()
        if isinstance(config.get(group), Mapping)
    }
    return asdict(Config(**chosen))


def _option(group: str, values: Mapping[str, Any]) -> str:
    name, options = values.get("name"), SCHEMAS[group]
    # the others are groups of one schema
    return name if isinstance(name, str) and name in options else next(iter(options))


def _defaults(config: Mapping[str, Any]) -> list[Any]:
    """The schemas that the values rest on, so that types and ranges hold when it is run again."""
    chosen = [f"schema/{group}/{_option(group, config[group])}@{group}" for group in SCHEMAS]
    quiet = [{f"override hydra/{name}": "disabled"} for name in ("job_logging", "hydra_logging")]
    return ["schema/config@_global_", *chosen, "_self_", *quiet]

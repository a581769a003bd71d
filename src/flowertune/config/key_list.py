"""List every config key with its default, type, range and meaning, for help and docs."""

from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, fields
from typing import Any

from flowertune.config.fields import MISSING, describe_type, format_value
from flowertune.config.plugins import schemas
from flowertune.config.probe import ProbeConfig
from flowertune.config.run import RunConfig
from flowertune.config.schema import Config


@dataclass(frozen=True)
class Key:
    """A key as help and docs show it.

    name: the full key. group: the part before the dot, empty for a key of the whole config.
    default: as typed, empty for a key that must be given. type: with its range. options: those of
    the group that have the key, empty where all have it.
    """

    name: str
    group: str
    default: str
    type: str
    meaning: str
    options: tuple[str, ...]


def list_keys() -> list[Key]:
    """List the keys of all groups, in the order of the config."""
    keys = [*_of("", Config), *_of("probe", ProbeConfig), *_of("run", RunConfig)]
    for group, options in schemas().items():
        owners: dict[Key, list[str]] = {}
        for option, schema in options.items():
            for key in _of(group, schema):
                owners.setdefault(key, []).append(option)
        for key, names in owners.items():
            own = () if len(names) == len(options) else tuple(names)
            keys.append(Key(key.name, group, key.default, key.type, key.meaning, own))
    return keys


def _of(group: str, schema: type) -> Iterator[Key]:
    for field in fields(schema):
        if not field.metadata or (field.name == "name" and field.metadata["choices"]):
            continue
        make = field.default_factory
        default = field.default if make is NO_DEFAULT else make()
        yield Key(
            name=f"{group}.{field.name}" if group else field.name,
            group=group,
            default="" if default == MISSING else format_value(_rounded(default)),
            type=describe_type(field),
            meaning=field.metadata["meaning"],
            options=(),
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return f"{value:.4g}" if isinstance(value, float) else value

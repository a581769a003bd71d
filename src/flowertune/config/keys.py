"""Look up config keys in the schemas, and say what a wrong key or value should be."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import Field, fields, is_dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowertune.config.fields import describe_type, format_value
from flowertune.config.plugins import schemas
from flowertune.config.schema import Config
from flowertune.errors import UsageError


def check_typed(key: str, values: Sequence[Any], text: str) -> None:
    """Check that an option of the key's group has the key, and takes values of this type.

    Whether it is the option that was chosen, and whether a value is in its range, shows when the
    config is composed. `text` is the override as it was typed; a sweep's values are not known yet.

    Raises:
        UsageError: no option of the group has it.
    """
    parent, _, name = key.rpartition(".")
    candidates = [each for each in _candidates(parent) if name in declared(each)]
    if not candidates:
        whole = find_declaration(parent) if parent else None
        if whole is not None and not is_dataclass(whole.type):
            requirement = describe_type(whole)
            raise UsageError(f"{text}: {parent} is set as a whole; it must be {requirement}")
        if not _candidates(parent):
            check_typed(parent, [], text)
        known = {name for each in _candidates(parent) for name in declared(each)}
        raise UsageError(unknown_key_message(key, known))
    for value in values:
        if isinstance(value, dict) and is_dataclass(declared(candidates[0])[name].type):
            for child, each in value.items():
                child_key = f"{key}.{child}"
                check_typed(child_key, [each], f"{child_key}={format_value(each)}")
        elif not any(_takes(schema, name, value) for schema in candidates):
            raise UsageError(f"{text}: must be {describe_type(declared(candidates[0])[name])}")


def find_declaration(key: str) -> "Field[Any] | None":
    """Find the declaration of a full key in the first option of its group that has it."""
    parent, _, name = key.rpartition(".")
    return next((each[name] for each in map(declared, _candidates(parent)) if name in each), None)


def unknown_key_message(key: str, known: Iterable[str]) -> str:
    """Say that there is no such key, which ones there are, and which one may be meant."""
    parent, _, name = key.rpartition(".")
    missing = f"{format_value(key)}: there is no such key"
    owners = _options_with(parent, name)
    if owners:
        hint = f"; it goes with {' or '.join(f'{parent}={option}' for option in owners)}"
    elif elsewhere := _full_keys(name):
        return f"{missing}; did you mean {' or '.join(elsewhere)}?"
    else:
        hint = suggest(name, known)
    keys = ", ".join(sorted(known))
    listing = f"; {format_value(parent) if parent else 'the config'} has {keys}" if keys else ""
    return f"{missing}{listing}{hint}"


def suggest(name: str, candidates: Iterable[str]) -> str:
    """Ask for the candidate whose spelling is closest to the name; empty if none is close."""
    matches = difflib.get_close_matches(name, candidates, n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def declared(schema: Any) -> "dict[str, Field[Any]]":
    """List the keys of a schema by name; none of what is no dataclass."""
    return {each.name: each for each in fields(schema)} if is_dataclass(schema) else {}


def _candidates(group: str) -> list[Any]:
    if not group:
        return [Config]
    options = schemas().get(group)
    if options is not None:
        return list(options.values())
    section = declared(Config).get(group)
    return [] if section is None else [section.type]


def _options_with(group: str, name: str) -> list[str]:
    options = schemas().get(group, {})
    return [option for option, schema in options.items() if name in declared(schema)]


def _full_keys(name: str) -> list[str]:
    """List the full keys that end with the name, but for the literal names of options."""
    return [
        f"{group}.{name}"
        for group in declared(Config)
        if any(
            name in keys and len(keys[name].metadata["choices"] or ()) != 1
            for keys in map(declared, _candidates(group))
        )
    ]


def _takes(schema: Any, name: str, value: Any) -> bool:
    try:
        OmegaConf.update(OmegaConf.structured(schema), name, value)
    except OmegaConfBaseException:
        return False
    return True

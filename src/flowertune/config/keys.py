"""Look up config keys in the schemas, and suggest corrections of wrong ones."""

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
    """Raise UsageError if no option of the key's group has the key and accepts the values' types.

    Composing then checks that the chosen option has it, and the range of the value. `text` is the
    override as typed; `values` is empty in a sweep.
    """
    parent, _, name = key.rpartition(".")
    candidates = [each for each in _candidates(parent) if name in declared(each)]
    if not candidates:
        whole = find_declaration(parent) if parent else None
        if whole is not None and not is_dataclass(whole.type):
            requirement = describe_type(whole)
            raise UsageError(f"{text}: set {parent} as a whole; it must be {requirement}")
        if not _candidates(parent):
            check_typed(parent, [], text)
        known = {name for each in _candidates(parent) for name in settable(each)}
        raise UsageError(unknown_key_message(key, known))
    for value in values:
        if isinstance(value, dict) and is_dataclass(declared(candidates[0])[name].type):
            for child, each in value.items():
                if not isinstance(child, str):
                    raise UsageError(f"{text}: a key must be a name")
                child_key = f"{key}.{child}"
                check_typed(child_key, [each], f"{child_key}={format_value(each)}")
        elif not any(_takes(schema, name, value) for schema in candidates):
            requirements = [describe_type(declared(each)[name]) for each in candidates]
            raise UsageError(f"{text}: must be {max(requirements, key=len)}")


def find_declaration(key: str) -> "Field[Any] | None":
    """Find the declaration of a full key in the first option of its group that has it."""
    parent, _, name = key.rpartition(".")
    return next((each[name] for each in map(declared, _candidates(parent)) if name in each), None)


def unknown_key_message(key: str, known: Iterable[str]) -> str:
    """Name the unknown key, the keys that exist, and a likely correction."""
    parent, _, name = key.rpartition(".")
    missing = f"{format_value(key)}: unknown key"
    options = schemas().get(parent, {}).items()
    owners = [f"{parent}={option}" for option, schema in options if name in declared(schema)]
    if owners:
        hint = f"; available with {' or '.join(owners)}"
    elif elsewhere := full_keys(name):
        return f"{missing}; did you mean {' or '.join(elsewhere)}?"
    else:
        hint = suggest(name, known)
    keys = ", ".join(sorted(known))
    listing = f"; {format_value(parent) if parent else 'the config'} has {keys}" if keys else ""
    return f"{missing}{listing}{hint}"


def suggest(name: str, candidates: Iterable[str]) -> str:
    """Suggest the candidate with the closest spelling; empty if none is close."""
    name = name.lower().replace("-", "_").replace("/", "")
    candidates = list(candidates)
    matches = difflib.get_close_matches(name, candidates, n=1)
    matches += [each for each in candidates if name and name in each.split("_")]
    return f"; did you mean {matches[0]}?" if matches else ""


def declared(schema: Any) -> "dict[str, Field[Any]]":
    """List the keys of a schema by name; empty if it is not a dataclass."""
    return {each.name: each for each in fields(schema)} if is_dataclass(schema) else {}


def settable(schema: Any) -> list[str]:
    """List the keys of a schema without the fixed name of an option."""
    keys = declared(schema).items()
    return [name for name, each in keys if len(each.metadata.get("choices") or ()) != 1]


def _candidates(group: str) -> list[Any]:
    if not group:
        return [Config]
    options = schemas().get(group)
    if options is not None:
        return list(options.values())
    section = declared(Config).get(group)
    return [] if section is None else [section.type]


def full_keys(name: str) -> list[str]:
    """List the full keys that are or end with the name, except the fixed names of options."""
    return [name] * (find_declaration(name) is not None) or [
        f"{group}.{name}"
        for group in declared(Config)
        if any(name in settable(each) for each in _candidates(group))
    ]


def _takes(schema: Any, name: str, value: Any) -> bool:
    try:
        OmegaConf.update(OmegaConf.structured(schema), name, value)
    except OmegaConfBaseException:
        return False
    return True

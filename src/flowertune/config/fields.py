"""Declare config keys with default, meaning and range, and validate their values."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, field, fields, is_dataclass
from operator import ge, gt, le, lt
from types import UnionType
from typing import Any, Union, get_args, get_origin

MISSING: Any = "???"  # same as omegaconf.MISSING, without the import
LARGEST = 2**31 - 1  # largest whole number; torch and numpy raise obscure errors beyond it
_MAX_CHARS = 80  # longest value in a message
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
_BOUNDS = (("above", gt), ("at_least", ge), ("below", lt), ("at_most", le))
_LIST_NAMES = {int: "a list of whole numbers", float: "a list of numbers", str: "a list of strings"}


def config_field(
    default: Any,
    meaning: str,
    *,
    choices: Sequence[str] | None = None,
    above: float | None = None,
    below: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """Declare a config key with its meaning and range; each element of a list is checked.

    `choices` restrict strings, the bounds restrict numbers; a key may have both.
    """
    bounds = {"above": above, "below": below, "at_least": at_least, "at_most": at_most}
    metadata = {"meaning": meaning, "choices": choices, **bounds}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def option(name: str) -> Any:
    """Declare the fixed name by which builders recognize this option."""
    return config_field(name, "name of this option; fixed", choices=(name,))


def validate(config: Any) -> str | None:
    """Report the first invalid value as "key=value: requirement"; None if all are valid."""
    for path, declaration, value in _walk(config, ""):
        if declaration is None:
            return f"{path}: unknown key"
        if not _has_type(declaration.type, value):  # OmegaConf does not check nested lists
            return f"{path}={format_value(value)}: must be {describe_type(declaration)}"
        for element in value if isinstance(value, list) else [value]:
            requirement = _unmet_requirement(declaration, element)
            if requirement is not None:
                return f"{path}={format_value(value)}: must be {requirement}"
    return None


def _walk(node: Any, prefix: str) -> Iterator[tuple[str, "Field[Any] | None", Any]]:
    """Yield each key with declaration and value; the declaration of an unknown key is None."""
    for name in vars(node).keys() - {declaration.name for declaration in fields(node)}:
        yield f"{prefix}{name}", None, getattr(node, name)
    for declaration in fields(node):
        value = getattr(node, declaration.name)
        # in Python 3.10 list[str] is an instance of type, but isinstance(value, list[str]) fails
        part = declaration.type
        if isinstance(part, type) and is_dataclass(part) and isinstance(value, part):
            yield from _walk(value, f"{prefix}{declaration.name}.")
        else:
            yield f"{prefix}{declaration.name}", declaration, value


def _has_type(annotation: Any, value: Any) -> bool:
    if get_origin(annotation) is list:
        (element,) = get_args(annotation)
        return isinstance(value, list) and all(_has_type(element, each) for each in value)
    options = get_args(annotation)
    return any(_has_type(each, value) for each in options) if options else type(value) is annotation


def _unmet_requirement(declaration: "Field[Any]", value: Any) -> str | None:
    limits = declaration.metadata
    if isinstance(value, str):
        if not is_text(value):
            return "UTF-8 text without NUL"
        in_range = limits["choices"] is None or value in limits["choices"]
        return None if in_range else describe_range(declaration)
    if value is None or isinstance(value, bool):
        return None
    if not math.isfinite(value):
        return ", ".join(filter(None, ("a finite number", describe_range(declaration))))
    if not all(holds(value, limits[key]) for key, holds in _BOUNDS if limits[key] is not None):
        return describe_range(declaration)
    return f"at most {LARGEST:,}" if isinstance(value, int) and value > LARGEST else None


def is_text(value: str) -> bool:
    """Whether the string fits into config.yaml and into a path."""
    return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)


def describe_range(declaration: "Field[Any]") -> str:
    """Describe the range of a key in English; empty if it has none."""
    limits = declaration.metadata
    choices = limits["choices"] or ()
    prefix = "one of " if len(choices) > 1 else ""
    bounds = [
        f"{key.replace('_', ' ')} {limits[key]:g}" for key, _ in _BOUNDS if limits[key] is not None
    ]
    return " or ".join(filter(None, (" and ".join(bounds), prefix + ", ".join(choices))))


def describe_type(declaration: "Field[Any]") -> str:
    """Describe the type and range of a key in English."""
    if is_dataclass(declaration.type):
        return f"keys with values, like {declaration.name}.{fields(declaration.type)[0].name}=..."
    is_union = get_origin(declaration.type) in (UnionType, Union)
    options = get_args(declaration.type) if is_union else (declaration.type,)
    element_types = [get_args(option)[0] for option in options if get_origin(option) is list]
    names = [_LIST_NAMES[element] for element in element_types] or [
        text for option, text in _TYPE_NAMES.items() if option in options
    ]
    if float in options and int in options:
        names.remove(_TYPE_NAMES[int])
    if not names:  # a key of Hydra
        return ""
    limits = describe_range(declaration) if declaration.metadata else ""
    if declaration.metadata.get("choices") and str in options:
        names.remove(_TYPE_NAMES[str])  # the range lists the choices
    parts = [" or ".join(names), f"each {limits}" if element_types and limits else limits]
    return ", ".join(filter(None, [*parts, "or null" if type(None) in options else ""]))


def format_value(value: Any) -> str:
    """Format a value like on the command line, truncated if long."""
    text = escape_unprintable(_to_text(value))
    return text if len(text) <= _MAX_CHARS else f"{text[: _MAX_CHARS - 3]}..."


def escape_unprintable(text: str) -> str:
    """Escape unprintable characters, including line ends, like Python."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _to_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_to_text(k)}:{_to_text(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(_to_text, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)

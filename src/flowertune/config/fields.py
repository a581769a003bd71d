"""One config key: its default, its meaning, its range; and the check of a value against it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, field, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

MISSING: Any = "???"  # omegaconf's own mark, spelled out so that the schema imports nothing
LARGEST = 2**31 - 1  # of a whole number; beyond it, torch and numpy fail in their own words
_SHOWN = 80  # characters of a value that a message has room for
_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_LISTS = {int: "a list of whole numbers", float: "a list of numbers", str: "a list of texts"}


def config_field(
    default: Any,
    meaning: str,
    *,
    choices: tuple[str, ...] | None = None,
    above: float | None = None,
    below: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A config key with its meaning and its range; lists are checked element by element.

    `choices` are the words it may be, the bounds are for numbers; a key may take both.
    """
    metadata = {
        "meaning": meaning,
        "choices": choices,
        "above": above,
        "below": below,
        "at_least": at_least,
        "at_most": at_most,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def option(name: str) -> Any:
    """The literal name by which a builder recognizes this option; not for typing."""
    return config_field(name, "which option of the group this is", choices=(name,))


def validate(config: Any) -> str | None:
    """The first value out of its range: "key=value: what is allowed"; None where all is well."""
    for path, declared, value in _walk(config, ""):
        if declared is None:
            return f"{path}: there is no such key"
        if not _has_type(declared.type, value):  # OmegaConf looks into no list in a list
            return f"{path}={format_value(value)}: must be {describe_type(declared)}"
        for each in value if isinstance(value, list) else [value]:
            allowed = _allowed(declared, each)
            if allowed is not None:
                return f"{path}={format_value(value)}: must be {allowed}"
    return None


def _walk(node: Any, prefix: str) -> Iterator[tuple[str, "Field[Any] | None", Any]]:
    """Every key with its declaration; None for one that was added and is declared nowhere."""
    for name in vars(node).keys() - {declared.name for declared in fields(node)}:
        yield f"{prefix}{name}", None, getattr(node, name)
    for declared in fields(node):
        value = getattr(node, declared.name)
        # Python 3.10 takes list[str] for a type, and then isinstance fails on it
        part = declared.type
        if isinstance(part, type) and is_dataclass(part) and isinstance(value, part):
            yield from _walk(value, f"{prefix}{declared.name}.")
        else:
            yield f"{prefix}{declared.name}", declared, value


def _has_type(annotation: Any, value: Any) -> bool:
    if get_origin(annotation) is list:
        (element,) = get_args(annotation)
        return isinstance(value, list) and all(_has_type(element, each) for each in value)
    options = get_args(annotation)
    return any(_has_type(each, value) for each in options) if options else type(value) is annotation


def _allowed(declared: "Field[Any]", value: Any) -> str | None:
    """What a value of the right type must be instead; None where it is."""
    rules = declared.metadata
    if isinstance(value, str):
        if not is_text(value):
            return "text in UTF-8, without NUL"
        return (
            None
            if rules["choices"] is None or value in rules["choices"]
            else describe_range(declared)
        )
    if value is None or isinstance(value, bool):
        return None
    if not math.isfinite(value):
        return ", ".join(filter(None, ("a finite number", describe_range(declared))))
    within = (
        (rules["above"] is None or value > rules["above"])
        and (rules["below"] is None or value < rules["below"])
        and (rules["at_least"] is None or value >= rules["at_least"])
        and (rules["at_most"] is None or value <= rules["at_most"])
    )
    if not within:
        return describe_range(declared)
    return f"at most {LARGEST:,}" if isinstance(value, int) and value > LARGEST else None


def is_text(value: str) -> bool:
    """Whether config.yaml can hold it, and a path be made of it."""
    return "\0" not in value and not any("\ud800" <= each <= "\udfff" for each in value)


def describe_range(declared: "Field[Any]") -> str:
    """What a key's value may be, in words; empty where its type says all."""
    rules = declared.metadata
    choices = rules["choices"] or ()
    several = "one of " if len(choices) > 1 else ""
    words = {"above": "above", "at_least": "at least", "below": "below", "at_most": "at most"}
    bounds = [f"{word} {rules[name]:g}" for name, word in words.items() if rules[name] is not None]
    return " or ".join(filter(None, (" and ".join(bounds), several + ", ".join(choices))))


def describe_type(declared: "Field[Any]") -> str:
    """The type of a key's value, in words, with its range."""
    if is_dataclass(declared.type):
        return f"keys with values, as in {declared.name}.{fields(declared.type)[0].name}=..."
    is_union = get_origin(declared.type) in (UnionType, Union)
    options = get_args(declared.type) if is_union else (declared.type,)
    lists = [get_args(each)[0] for each in options if get_origin(each) is list]
    words = [_LISTS[element] for element in lists] or [
        text for each, text in _KINDS.items() if each in options
    ]
    if float in options and int in options:
        words.remove(_KINDS[int])
    if not words:  # of Hydra's own keys
        return ""
    allowed = describe_range(declared) if declared.metadata else ""
    if declared.metadata.get("choices") and str in options:
        words.remove(_KINDS[str])  # the rule lists the words
    parts = [" or ".join(words), f"each {allowed}" if lists and allowed else allowed]
    return ", ".join(filter(None, [*parts, "or null" if type(None) in options else ""]))


def format_value(value: Any) -> str:
    """A value as one would type it, shortened where it is long."""
    text = escape_unprintable(_typed(value))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def escape_unprintable(text: str) -> str:
    """Text with what does not print, line ends too, as Python would write it."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _typed(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_typed(k)}:{_typed(v)}" for k, v in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(map(_typed, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)

"""One config key: its default, its meaning, its range; and the check of a value against it."""

import math
from collections.abc import Iterator
from dataclasses import Field, field, fields, is_dataclass
from typing import Any

MISSING: Any = "???"  # omegaconf's own mark, spelt out so that the schema imports nothing
LARGEST = 2**31 - 1  # of a whole number; beyond it, torch and numpy fail in their own words


def key(
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
    """The literal name by which a builder recognises this option; not for typing."""
    return key(name, "which option of the group this is", choices=(name,))


def first_violation(config: Any) -> str | None:
    """The first value out of its range: "key=value: what is allowed"; None where all is well."""
    for path, declared, value in _walk(config, ""):
        if declared is None:
            return f"{path}: there is no such key"
        values = value if isinstance(value, list) else [value]
        if not all(_allowed(declared, each) for each in values):
            return f"{path}={shown(value)}: must be {rule(declared) or 'a finite number'}"
        if any(isinstance(each, int) and each > LARGEST for each in values):
            return f"{path}={shown(value)}: must be at most {LARGEST:,}"
    return None


def _walk(node: Any, prefix: str) -> Iterator[tuple[str, "Field[Any] | None", Any]]:
    """Every key with its declaration; None for one that was added and is declared nowhere."""
    for name in vars(node).keys() - {declared.name for declared in fields(node)}:
        yield f"{prefix}{name}", None, getattr(node, name)
    for declared in fields(node):
        value = getattr(node, declared.name)
        if is_dataclass(value):
            yield from _walk(value, f"{prefix}{declared.name}.")
        elif declared.metadata:
            yield f"{prefix}{declared.name}", declared, value


def _allowed(declared: "Field[Any]", value: Any) -> bool:
    rules = declared.metadata
    if value is None:
        return True
    if isinstance(value, str):
        return rules["choices"] is None or value in rules["choices"]
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if isinstance(value, bool):
        return True
    return (
        (rules["above"] is None or value > rules["above"])
        and (rules["below"] is None or value < rules["below"])
        and (rules["at_least"] is None or value >= rules["at_least"])
        and (rules["at_most"] is None or value <= rules["at_most"])
    )


def rule(declared: "Field[Any]") -> str:
    """What a key's value may be, in words; empty where its type says all."""
    rules = declared.metadata
    choices = rules["choices"] or ()
    several = "one of " if len(choices) > 1 else ""
    words = {"above": "above", "at_least": "at least", "below": "below", "at_most": "at most"}
    bounds = [f"{word} {rules[name]:g}" for name, word in words.items() if rules[name] is not None]
    return " or ".join(filter(None, (" and ".join(bounds), several + ", ".join(choices))))


def shown(value: Any) -> str:
    """A value as one would type it."""
    return "[" + ",".join(map(str, value)) + "]" if isinstance(value, list) else str(value)

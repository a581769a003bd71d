"""What Hydra and OmegaConf refuse, in one line for a person."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields, is_dataclass
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    InterpolationValidationError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from flowertune.config.fields import describe_type, format_value
from flowertune.config.groups import SCHEMAS
from flowertune.config.schema import Config
from flowertune.errors import UsageError, first_line, with_type

_EXTRA = {"hydra/sweeper": "optuna", "hydra/launcher": "joblib"}  # come with flowertune[sweep]


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turns what Hydra and OmegaConf raise in the body into a UsageError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UsageError(explain(error)) from error


@contextmanager
def composing(words: Sequence[str] = ()) -> Iterator[None]:
    """The same for what does nothing but compose: whatever Hydra raises, it is for what it got."""
    try:
        with in_one_line():
            yield
    except UsageError:
        raise
    except Exception as error:
        typed = format_value(" ".join(words) or "the config")
        raise UsageError(
            f"{typed}: cannot be composed ({format_value(with_type(error))})"
        ) from error


def explain(error: BaseException) -> str:
    """One line for a person from what Hydra or OmegaConf raised."""
    chain = _chain(error)
    word, place = _typed_word(chain), next(filter(None, map(_place, chain)), "")
    for link in chain:
        if isinstance(link, UsageError):
            return str(link)
        if isinstance(link, MissingConfigException) and link.missing_cfg_file:
            group, _, name = str(link.missing_cfg_file).removeprefix("schema/").rpartition("/")
            return no_such_option(group, name, link.options or [])
        if isinstance(link, OverrideParseException):
            return unreadable(str(link.override))
        if isinstance(link, MissingMandatoryValue) and link.full_key:
            return f"{link.full_key}: missing; give it a value ({_whole(link.full_key)}=...)"
        if isinstance(link, OmegaConfBaseException) and link.full_key:
            return _wrong_key_or_value(link, word) + place
    if "does not support sweep type" in first_line(error):
        return "interval() and the like are for hydra/sweeper=optuna; without it, list the values"
    not_there = re.match(r"Could not override '([^']*)'", first_line(error))
    if not_there:
        return f"{not_there[1]}: no defaults list has it; +{not_there[1]}=OPTION adds it"
    if word:
        # the last only names the word
        return f"{format_value(word)}: {format_value(first_line(chain[-2]))}"
    lines = str(error).splitlines()
    return f"{format_value(lines[1] if place and lines[1:] else first_line(error))}{place}"


def unreadable(word: str) -> str:
    """Hydra's grammar gives meaning to ( ) [ ] { } , : in a value; quotes take it away."""
    key, _, value = word.partition("=")
    hint = f"; quote the value: '{format_value(key)}=\"{format_value(value)}\"'" if value else ""
    return f"{format_value(word)}: cannot be read as key=value{hint}"


def no_such_option(group: str, name: str, options: Iterable[str]) -> str:
    """Which options there are instead."""
    if not group:
        return f"{format_value(name)}: there is no such config"
    said = f"{group}={format_value(name)}"
    if _EXTRA.get(group) == name:
        return f"{said}: is not installed; pip install 'flowertune[sweep]'"
    there = sorted(options)
    listed = f"; there are {', '.join(there)}" if there else ""
    return f"{said}: there is no such {group}{listed}{_near(name, there)}"


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _chain(error: BaseException | None) -> list[BaseException]:
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links[::-1]


def _place(link: BaseException) -> str:
    """Which config file it was, where it was none of the typed words."""
    place = re.match(r"In '([^']+)': ", str(link))
    return f"; {place[1]}.yaml sets it" if place else ""


def _typed_word(chain: Sequence[BaseException]) -> str:
    """Which of the typed words it was; empty where it was none of them."""
    words = (re.fullmatch(r"Error merging override (.*)", str(link), re.S) for link in chain)
    return next((word[1] for word in words if word), "")


def _wrong_key_or_value(error: OmegaConfBaseException, word: str) -> str:
    key, reason = str(error.full_key), first_line(error)
    if isinstance(error, ConfigKeyError | ConfigAttributeError):  # an unknown key
        parent, _, last = key.rpartition(".")
        known = sorted(each.name for each in _fields_of(error.object_type))
        there = f"; {parent or 'the config'} has {', '.join(known)}" if known else ""
        with_it = [
            f"{parent}={option}"
            for option, schema in SCHEMAS.get(parent, {}).items()
            if last in {each.name for each in _fields_of(schema)}
        ]
        hint = f"; it goes with {' or '.join(with_it)}" if with_it else _near(last, known)
        return f"{format_value(key)}: there is no such key{there}{hint}"
    declared = _declared(error, key)
    allowed = declared and describe_type(declared)
    whole = _whole(key)
    typed_key, _, typed = word.lstrip("+").partition("=")
    if typed_key.startswith(f"{whole}."):
        rest = f"; it must be {allowed}" if allowed else ""
        return f"{format_value(word)}: {whole} is set as a whole{rest}"
    if isinstance(error, InterpolationResolutionError):
        typed = str(error.parent_node._get_node(error.key)._value())
        if not isinstance(error, InterpolationValidationError):
            why = re.sub(r"^\w+ raised while resolving interpolation: ", "", reason)
            return f"{key}={format_value(typed)}: cannot be resolved ({format_value(why)})"
    elif typed_key == whole:
        key = whole
    else:
        typed = format_value(error.value)
    if reason.startswith("Cannot merge"):
        reason = "is a list where keys with values belong, or the reverse"
    return f"{key}={format_value(typed)}: " + (
        f"must be {allowed}" if allowed else format_value(reason)
    )


def _fields_of(schema: Any) -> "tuple[Field[Any], ...]":
    return fields(schema) if schema is not None and is_dataclass(schema) else ()


def _whole(key: str) -> str:
    """The key of a list for the place of one of its elements."""
    return key.partition("[")[0]


def _declared(error: OmegaConfBaseException, key: str) -> "Field[Any] | None":
    """The key's declaration, where a schema of the config or of Hydra has it."""
    *groups, name = _whole(key).split(".")
    schemas = [error.object_type, *SCHEMAS.get("".join(groups[:1]), {}).values()]
    if not groups:
        schemas.append(Config)
    return next((each for one in schemas for each in _fields_of(one) if each.name == name), None)

"""Translate errors of Hydra and OmegaConf to one line for a person."""

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
from flowertune.config.plugins import schemas
from flowertune.config.schema import Config
from flowertune.errors import UsageError, first_line, with_type

_PLUGINS = {"hydra/sweeper": "optuna", "hydra/launcher": "joblib"}  # come with flowertune[sweep]


@contextmanager
def translate_errors() -> Iterator[None]:
    """Convert errors of Hydra and OmegaConf in the body to UsageError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UsageError(explain(error)) from error


@contextmanager
def translate_composition_errors(overrides: Sequence[str] = ()) -> Iterator[None]:
    """Convert any exception to UsageError in a body that does nothing but compose."""
    try:
        with translate_errors():
            yield
    except UsageError:
        raise
    except Exception as error:
        text = format_value(" ".join(overrides) or "the config")
        raise UsageError(
            f"{text}: cannot be composed ({format_value(with_type(error))})"
        ) from error


def explain(error: BaseException) -> str:
    """Describe an error of Hydra or OmegaConf in one line."""
    chain = _error_chain(error)
    override = _named_in(chain, r"Error merging override (.*)")
    file = _named_in(chain, r"In '([^']+)': ")
    file_hint = f"; {file}.yaml sets it" if file else ""
    for link in chain:
        if isinstance(link, UsageError):
            return str(link)
        if isinstance(link, MissingConfigException) and link.missing_cfg_file:
            group, _, name = str(link.missing_cfg_file).removeprefix("schema/").rpartition("/")
            return no_such_option_message(group, name, link.options or [])
        if isinstance(link, OverrideParseException):
            return unparsable_message(str(link.override))
        if isinstance(link, MissingMandatoryValue) and link.full_key:
            return f"{link.full_key}: missing; give it a value ({_base_key(link.full_key)}=...)"
        if isinstance(link, OmegaConfBaseException) and link.full_key:
            return _wrong_key_or_value_message(link, override) + file_hint
    if absent := _named_in([error], r"Could not override '([^']*)'"):
        return f"{absent}: no defaults list has it; +{absent}=OPTION adds it"
    if override:
        # the last only names the override
        return f"{format_value(override)}: {format_value(first_line(chain[-2]))}"
    lines = str(error).splitlines()
    return f"{format_value(lines[1] if file_hint and lines[1:] else first_line(error))}{file_hint}"


def unparsable_message(override: str) -> str:
    """Suggest quotes: Hydra's grammar gives meaning to ( ) [ ] { } , : in a value."""
    key, _, value = override.partition("=")
    hint = f"; quote the value: '{format_value(key)}=\"{format_value(value)}\"'" if value else ""
    return f"{format_value(override)}: cannot be read as key=value{hint}"


def no_such_option_message(group: str, name: str, options: Iterable[str]) -> str:
    """Name the missing option and list those that exist."""
    if not group:
        return f"{format_value(name)}: there is no such config"
    text = f"{group}={format_value(name)}"
    if _PLUGINS.get(group) == name:
        return f"{text}: is not installed; pip install 'flowertune[sweep]'"
    available = sorted(options)
    listing = f"; there are {', '.join(available)}" if available else ""
    return f"{text}: there is no such {group}{listing}{_suggest(name, available)}"


def _suggest(name: str, candidates: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, candidates, n=1)
    return f"; did you mean {matches[0]}?" if matches else ""


def _error_chain(error: BaseException | None) -> list[BaseException]:
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links[::-1]


def _named_in(chain: Sequence[BaseException], pattern: str) -> str:
    """Find the override, file or group that Hydra names in a message; empty if it names none."""
    matches = (re.match(pattern, str(link), re.S) for link in chain)
    return next((match[1] for match in matches if match), "")


def _wrong_key_or_value_message(error: OmegaConfBaseException, override: str) -> str:
    key, reason = str(error.full_key), first_line(error)
    if isinstance(error, ConfigKeyError | ConfigAttributeError):  # an unknown key
        parent, _, name = key.rpartition(".")
        known_keys = sorted(field.name for field in _fields(error.object_type))
        listing = f"; {parent or 'the config'} has {', '.join(known_keys)}" if known_keys else ""
        owners = [
            f"{parent}={option}"
            for option, schema in schemas().get(parent, {}).items()
            if name in {field.name for field in _fields(schema)}
        ]
        hint = f"; it goes with {' or '.join(owners)}" if owners else _suggest(name, known_keys)
        return f"{format_value(key)}: there is no such key{listing}{hint}"
    declaration = _find_declaration(error, key)
    requirement = declaration and describe_type(declaration)
    base_key = _base_key(key)
    override_key, _, value = override.lstrip("+").partition("=")
    if override_key.startswith(f"{base_key}."):
        hint = f"; it must be {requirement}" if requirement else ""
        return f"{format_value(override)}: {base_key} is set as a whole{hint}"
    if isinstance(error, InterpolationResolutionError):
        value = str(error.parent_node._get_node(error.key)._value())
        if not isinstance(error, InterpolationValidationError):
            cause = re.sub(r"^\w+ raised while resolving interpolation: ", "", reason)
            return f"{key}={format_value(value)}: cannot be resolved ({format_value(cause)})"
    elif override_key == base_key:
        key = base_key
    else:
        value = format_value(error.value)
    if reason.startswith("Cannot merge"):
        reason = "is a list where keys with values belong, or the reverse"
    return f"{key}={format_value(value)}: " + (
        f"must be {requirement}" if requirement else format_value(reason)
    )


def _fields(schema: Any) -> "tuple[Field[Any], ...]":
    return fields(schema) if schema is not None and is_dataclass(schema) else ()


def _base_key(key: str) -> str:
    return key.partition("[")[0]


def _find_declaration(error: OmegaConfBaseException, key: str) -> "Field[Any] | None":
    *groups, name = _base_key(key).split(".")
    known = [error.object_type, *schemas().get("".join(groups[:1]), {}).values()]
    if not groups:
        known.append(Config)
    return next((f for schema in known for f in _fields(schema) if f.name == name), None)

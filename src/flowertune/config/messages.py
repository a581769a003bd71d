"""Translate errors of Hydra and OmegaConf to one plain line."""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    InterpolationValidationError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from flowertune.config.fields import describe_type, escape_unprintable, format_value
from flowertune.config.keys import find_declaration, settable, suggest, unknown_key_message
from flowertune.errors import UsageError, first_line, with_type

_PLUGINS = {"hydra/sweeper": "optuna", "hydra/launcher": "joblib"}  # installed by flowertune[sweep]


@contextmanager
def translate_errors() -> Iterator[None]:
    """Convert errors of Hydra and OmegaConf in the body to UsageError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UsageError(explain(error)) from error


@contextmanager
def translate_composition_errors(overrides: Sequence[str] = ()) -> Iterator[None]:
    """Convert any exception to UsageError in a body that only composes."""
    try:
        with translate_errors():
            yield
    except UsageError:
        raise
    except Exception as error:
        text = format_value(" ".join(overrides) or "the config")
        reason = f"cannot be composed ({format_value(with_type(error))})"
        raise UsageError(f"{text}: {reason}") from error


def explain(error: BaseException) -> str:
    """Describe an error of Hydra or OmegaConf in one line.

    `overrides.check` has checked the overrides, so most errors are about values in files.
    """
    chain = _error_chain(error)
    matches = (re.match(r"In '([^']+)': ", str(link), re.S) for link in chain)
    file = next((match[1] for match in matches if match), "")
    file_hint = f"; set in {file}.yaml" if file else ""
    for link in chain:
        if isinstance(link, UsageError):
            return str(link)
        if isinstance(link, MissingConfigException) and link.missing_cfg_file:
            group, _, name = str(link.missing_cfg_file).removeprefix("schema/").rpartition("/")
            return no_such_option_message(group, name, link.options or [])
        if isinstance(link, OverrideParseException):
            return unparsable_message(str(link.override))
        if isinstance(link, MissingMandatoryValue) and link.full_key:
            return f"{link.full_key}: missing; set it: {link.full_key.partition('[')[0]}=..."
        if isinstance(link, OmegaConfBaseException) and link.full_key:
            return _wrong_key_or_value_message(link) + file_hint
    if isinstance(error, ConfigCompositionException) and not file:
        return escape_unprintable(" ".join(str(error).split()))
    lines = str(error).splitlines()
    return f"{format_value(lines[1] if file_hint and lines[1:] else first_line(error))}{file_hint}"


def unparsable_message(override: str) -> str:
    """Suggest quotes, as ( ) [ ] { } , : have a meaning in Hydra's grammar."""
    key, _, value = override.partition("=")
    quoted = shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")
    hint = f"; quote the value: {escape_unprintable(quoted)}" if value else ""
    return f"{format_value(override)}: expected key=value{hint}"


def no_such_option_message(group: str, name: str, options: Iterable[str]) -> str:
    """Name the unknown option, those that exist, and a likely correction."""
    if not group:
        return f"{format_value(name)}: unknown config"
    text = f"{group}={format_value(name)}"
    if _PLUGINS.get(group) == name:
        return f"{text}: is not installed; pip install 'flowertune[sweep]'"
    available = sorted(options)
    listing = f"; available: {', '.join(available)}" if available else ""
    hint = suggest(name, available) or (suggest_folder(name) if group == "data" else "")
    return f"{text}: unknown {group}{listing}{hint}"


def suggest_folder(name: str) -> str:
    """Suggest to train on the folder; empty if there is none."""
    is_folder = os.path.isdir(os.path.expanduser(name))
    typed = shlex.quote(f"data.root={format_value(name)}")
    return f"; did you mean data=folder {typed}?" if is_folder else ""


def _error_chain(error: BaseException | None) -> list[BaseException]:
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links[::-1]


def _wrong_key_or_value_message(error: OmegaConfBaseException) -> str:
    key, reason = str(error.full_key), first_line(error)
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return unknown_key_message(key, settable(error.object_type))
    value = format_value(error.value)
    if isinstance(error, InterpolationResolutionError):
        value = format_value(error.parent_node._get_node(error.key)._value())
        if not isinstance(error, InterpolationValidationError):
            cause = re.sub(r"^\w+ raised while resolving interpolation: ", "", reason)
            return f"{key}={value}: cannot be resolved ({format_value(cause)})"
    if reason.startswith("Cannot merge"):
        reason = "a list in place of keys with values, or the reverse"
    declaration = find_declaration(key.partition("[")[0])
    requirement = declaration and describe_type(declaration)
    return f"{key}={value}: {f'must be {requirement}' if requirement else format_value(reason)}"

"""Translate errors of Hydra and OmegaConf to one line for a person."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

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
from flowertune.config.keys import declared, find_declaration, suggest, unknown_key_message
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
    """Describe an error of Hydra or OmegaConf in one line.

    The overrides have been checked (`overrides.check`), so that most are about a file's values.
    """
    chain = _error_chain(error)
    matches = (re.match(r"In '([^']+)': ", str(link), re.S) for link in chain)
    file = next((match[1] for match in matches if match), "")
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
            return _wrong_key_or_value_message(link) + file_hint
    if isinstance(error, ConfigCompositionException) and not file:
        return escape_unprintable(" ".join(str(error).split()))
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
    return f"{text}: there is no such {group}{listing}{suggest(name, available)}"


def _error_chain(error: BaseException | None) -> list[BaseException]:
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links[::-1]


def _wrong_key_or_value_message(error: OmegaConfBaseException) -> str:
    key, reason = str(error.full_key), first_line(error)
    if isinstance(error, ConfigKeyError | ConfigAttributeError):
        return unknown_key_message(key, declared(error.object_type))
    value = format_value(error.value)
    if isinstance(error, InterpolationResolutionError):
        value = format_value(error.parent_node._get_node(error.key)._value())
        if not isinstance(error, InterpolationValidationError):
            cause = re.sub(r"^\w+ raised while resolving interpolation: ", "", reason)
            return f"{key}={value}: cannot be resolved ({format_value(cause)})"
    if reason.startswith("Cannot merge"):
        reason = "is a list where keys with values belong, or the reverse"
    declaration = find_declaration(_base_key(key))
    requirement = declaration and describe_type(declaration)
    return f"{key}={value}: {f'must be {requirement}' if requirement else format_value(reason)}"


def _base_key(key: str) -> str:
    return key.partition("[")[0]

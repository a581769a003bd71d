"""What Hydra and OmegaConf refuse, in one line for a person."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from flowertune.conf_dir import conf_dir
from flowertune.config import SCHEMAS
from flowertune.errors import Refused, first_line

_EXTRA = {"hydra/sweeper": "optuna", "hydra/launcher": "joblib"}  # come with flowertune[sweep]


@contextmanager
def in_one_line() -> Iterator[None]:
    """Turns what the body's config composition raises into a Refused."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise Refused(explain(error)) from error


def explain(error: BaseException) -> str:
    """One line for a person from what Hydra or OmegaConf raised."""
    for link in _chain(error):
        if isinstance(link, Refused):
            return str(link)
        if isinstance(link, MissingConfigException) and link.missing_cfg_file:
            return _no_such_option(link)
        if isinstance(link, OverrideParseException):
            word = str(link.override)
            return f"{word}: cannot be read as key=value{_quoting_hint(word)}"
        if isinstance(link, MissingMandatoryValue):
            return f"{link.full_key}: missing; give it a value ({link.full_key}=...)"
        if isinstance(link, OmegaConfBaseException) and link.full_key:
            return _wrong_key_or_value(link)
    several = re.match(r"Ambiguous value for argument '(.*)'$", first_line(error))
    if several:
        return f"{several[1]}: several values; -m makes a run of each, quotes make them one value"
    if "does not support sweep type" in first_line(error):
        return "interval() and the like are for hydra/sweeper=optuna; without it, list the values"
    if "Config group override must be a string" in first_line(error):
        return "null is no option of a config group"
    return first_line(error)


def _chain(error: BaseException | None) -> list[BaseException]:
    links: list[BaseException] = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or error.__context__
    return links[::-1]


def _no_such_option(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = sorted(error.options or [])
    if not group:
        return f"{name}: there is no such config"
    if "/" in group and not group.startswith("hydra/"):  # an option in a folder of its group
        group, _, folder = group.partition("/")
        name = f"{folder}/{name}"
        shipped = conf_dir() / group
        nested = {path.relative_to(shipped).with_suffix("") for path in shipped.rglob("*.yaml")}
        options = sorted({*options, *(option.as_posix() for option in nested)})
    if _EXTRA.get(group) == name:
        return f"{group}={name}: is not installed; pip install 'flowertune[sweep]'"
    near = difflib.get_close_matches(name, options, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{group}={name}: there is no such {group}; there are {', '.join(options)}{hint}"


def _wrong_key_or_value(error: OmegaConfBaseException) -> str:
    key = str(error.full_key)
    reason = first_line(error)
    if "not in" in reason:  # an unknown key
        parent, _, last = key.rpartition(".")
        known = _fields_of(error)
        near = difflib.get_close_matches(last, known, n=1)
        place = parent or "the config"
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{key}: there is no such key; {place} has {', '.join(known)}{hint}"
    value = re.match(
        r"Value '(.*)' of type '\w+' (?:could not be converted to|is incompatible with type hint)"
        r" '?([\w\[\], ]+)",
        reason,
    )
    if value:
        kinds = {
            "Integer": "a whole number",
            "Float": "a number",
            "Boolean": "true or false",
            "Union[int, str]": "a whole number or a word",
            "Union[float, int, str]": "a number or a word",
        }
        return f"{key}={value[1]}: must be {kinds.get(value[2], value[2])}"
    if "is not Optional" in reason:
        return f"{key}=null: must have a value"
    if "is not a ListConfig, list or tuple" in reason:
        return f"{key}: must be a list, such as {key}=[1,2]"
    return f"{key}: {reason}"


def _fields_of(error: OmegaConfBaseException) -> list[str]:
    schema = error.object_type
    declared = getattr(schema, "__dataclass_fields__", None)
    return sorted(declared) if declared else sorted(SCHEMAS)


def _quoting_hint(word: str) -> str:
    """Hydra's grammar gives meaning to ( ) [ ] { } , : in a value; quotes take it away."""
    key, _, value = word.partition("=")
    return f"; quote the value: '{key}=\"{value}\"'" if value else ""

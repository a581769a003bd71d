"""Check command-line overrides before Hydra composes them, for clear error messages.

Keys and types are checked against the schemas; ranges are checked after composing. Overrides that
Hydra would accept but interpret differently are refused too.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import reduce
from operator import getitem
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.conf import HydraConf, JobConf, RunDir, SweepDir
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser import types
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
)
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

from flowertune.config.fields import format_value, is_text
from flowertune.config.groups import SCHEMAS, conf_dir
from flowertune.config.keys import check_typed, find_declaration
from flowertune.config.messages import no_such_option_message, suggest_folder, unparsable_message
from flowertune.errors import UsageError

MAX_JOBS = 10_000  # all jobs of a sweep are composed before the first starts

# Replaces Hydra's default settings: flowertune creates the run and sweep directories itself. Config
# files may come from others, and Hydra calls whatever its callbacks, its logging and any
# `_target_` name, so only the settings in _SETTABLE may differ from these.
HYDRA = HydraConf(
    output_subdir=None,
    run=RunDir(dir="."),
    sweep=SweepDir(subdir="."),
    job=JobConf(name="flowertune", chdir=False),
)
_PARTS = {"output": None, "hydra_logging": "disabled", "job_logging": "disabled"}
HYDRA.defaults = [
    {name: _PARTS.get(name, part)} for each in HYDRA.defaults for name, part in each.items()
]
_SETTABLE = ("mode", "launcher", "sweeper")
_FIXED = (
    "callbacks", "hydra_logging", "job.chdir", "job.env_copy", "job.env_set", "job.name",
    "job_logging", "output_subdir", "run.dir", "searchpath", "sweep.subdir", "verbose",
)  # fmt: skip
_QUIET = {"version": 1, "root": {"level": "ERROR"}, "disable_existing_loggers": True}
_PLUGIN = re.compile(
    r"hydra\._internal\.core_plugins\.\w+\.\w+"
    r"|hydra_plugins\.\w+\.\w+\.\w+(Launcher|Sweeper)"
    r"|optuna\.samplers\.\w+Sampler"
)


def check(arguments: Sequence[str], loader: ConfigLoader) -> list[Override]:
    """Parse and check the overrides.

    Raises UsageError, or OverrideParseException if Hydra cannot parse an argument.
    """
    assert isinstance(loader, ConfigLoaderImpl)  # Hydra's only loader
    for argument, *following in (arguments[index:] for index in range(len(arguments))):
        if not is_text(argument):
            raise UsageError(f"{format_value(argument)}: is not UTF-8 text")
        if "=" not in argument and not argument.startswith("~"):
            raise UsageError(_bare_word_message(argument, following, loader.repository))
    overrides = OverridesParser.create().parse_overrides(list(arguments))
    for override in overrides:
        _check(override, loader.repository)
    return overrides


def quote_plain(arguments: Sequence[str], sweeps: bool) -> list[str]:
    """Quote values of text keys, such as paths, that Hydra's grammar would refuse or change.

    They are taken as typed, with all their characters. What Hydra means on purpose stays: quotes
    around the whole value, null, ${...} and, in a sweep, commas and functions such as choice().
    """
    return [_quote_plain(argument, sweeps) for argument in arguments]


def _quote_plain(argument: str, sweeps: bool) -> str:
    key, _, value = argument.partition("=")
    declaration = find_declaration(key) if "." in key else None  # method is an option, not a text
    if not value or value == "null" or "${" in value or declaration is None or not is_text(value):
        return argument
    if declaration.type not in (str, str | None) or declaration.metadata["choices"] is not None:
        return argument
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return argument
    try:
        override = OverridesParser.create().parse_overrides([argument])[0]
        plain = sweeps if override.is_sweep_override() else override.value() == value
    except OverrideParseException:
        plain = False
    return argument if plain else f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def _bare_word_message(word: str, following: list[str], repository: IConfigRepository) -> str:
    text, after = format_value(word), "".join(following[:2])
    if after.startswith("="):
        value = following[0][1:] or after[1:]
        return f"{text}: no spaces around =; write {text}={format_value(value)}"
    for group in ("method", *SCHEMAS, "experiment"):
        if word in _list_options(group, repository):
            return f"{text}: expected key=value; did you mean {group}={word}?"
    return f"{text}: expected key=value{suggest_folder(word) or ', for example method=mixup'}"


def _check(override: Override, repository: IConfigRepository) -> None:
    key, text = override.key_or_group, format_value(override.input_line)
    if not key:
        raise UsageError(unparsable_message(str(override.input_line)))
    if override.package is not None:
        raise UsageError(f"{text}: @ is only allowed in defaults lists; write key=value")
    names = re.split(r"[./]", key)
    if names[0] == "hydra" and (len(names) == 1 or names[1] not in _SETTABLE):
        raise UsageError(_not_settable_message(text))
    is_hydra, is_group = key.startswith("hydra"), repository.group_exists(key)
    if is_hydra and override.is_sweep_override():
        raise UsageError(f"{text}: must have a single value for the whole sweep")
    if override.is_delete():
        raise UsageError(f"{text}: deleting keys (~) is not supported; set another value")
    is_new = override.is_add() or override.is_force_add()
    if is_new and not is_hydra and (not is_group or (conf_dir() / key).is_dir()):
        raise UsageError(f"{text}: adding keys (+) is not supported; remove + to set a key")
    if key.startswith("schema"):  # where the dataclasses are registered
        raise UsageError(f"{text}: unknown key")
    if is_group:
        _check_options(override, repository)
    elif key == "method":
        raise UsageError(f"{text}: cannot be changed with --config-path; set its keys instead")
    elif not is_hydra:
        values = [] if override.is_sweep_override() else [override.value()]
        check_typed(key, values, text)


def _check_options(override: Override, repository: IConfigRepository) -> None:
    group, value = override.key_or_group, override.value()
    text = str(override.input_line).partition("=")[2]
    options = _list_options(group, repository)
    names: Iterable[object] = [value]
    if isinstance(value, dict):  # keys of the group, such as model={rank:4}
        if group in SCHEMAS:
            check_typed(group, [value], format_value(override.input_line))
        return
    if isinstance(value, list) and group == "experiment":
        names = value
    elif isinstance(value, ChoiceSweep):
        names = [name.text if isinstance(name, QuotedString) else name for name in value.list]
    elif isinstance(value, Glob):
        names = value.filter(options) or [text]
    for name in names:
        if name not in options:
            option = name if isinstance(name, str) else text
            raise UsageError(no_such_option_message(group, option, options))


def _list_options(group: str, repository: IConfigRepository) -> list[str]:
    """List a group's options, including those in folders, such as experiment=sweep/alpha."""
    names = repository.get_group_options(group, ObjectType.CONFIG)
    for folder in repository.get_group_options(group, ObjectType.GROUP):
        names += [f"{folder}/{name}" for name in _list_options(f"{group}/{folder}", repository)]
    return sorted(names)


def check_one_job(overrides: Iterable[Override]) -> None:
    """Raise UsageError for a key with several values."""
    for override in overrides:
        if override.is_sweep_override():
            hint = "; add -m for one run per value, or quote them as one value"
            declaration = find_declaration(override.key_or_group)
            decimal = re.fullmatch(r"[^=]+=(\d+),(\d+)", str(override.input_line))
            if decimal and declaration and "float" in str(declaration.type):
                hint += f"; did you mean {decimal[1]}.{decimal[2]}?"
            raise UsageError(f"{format_value(override.input_line)}: several values{hint}")


def check_number_of_jobs(overrides: Iterable[Override]) -> None:
    """Raise UsageError for no job or too many, before range(1,1000000000) is listed in memory."""
    sweeps = [override for override in overrides if override.is_sweep_override()]
    if math.prod(map(_count_values, sweeps)) > MAX_JOBS:
        text = format_value(" ".join(str(override.input_line) for override in sweeps))
        raise UsageError(f"{text}: more than {MAX_JOBS:,} jobs; list fewer values")


def _count_values(override: Override) -> float:
    value = override.value()
    number: float = 1
    if isinstance(value, ChoiceSweep):
        number = len(value.list)
    elif isinstance(value, RangeSweep):
        start, stop, step = (float(each or 0) for each in (value.start, value.stop, value.step))
        number = (stop - start) / step if step else 0
        number = math.ceil(number) if math.isfinite(number) else math.inf
    elif isinstance(value, Glob):
        names = override.config_loader.get_group_options(override.key_or_group)
        number = len(value.filter(names))
    elif isinstance(value, types.IntervalSweep):
        reason = "interval() and the like need hydra/sweeper=optuna; otherwise list the values"
        raise UsageError(f"{format_value(override.input_line)}: {reason}")
    if number < 1:
        raise UsageError(f"{format_value(override.input_line)}: contains no value")
    return number


def check_hydra(hydra: DictConfig) -> None:
    """Raise UsageError if a composed `hydra` setting is changed, or names code but no plug-in."""
    plain: Any = OmegaConf.to_container(hydra)
    fixed: Any = asdict(HYDRA) | {"hydra_logging": _QUIET, "job_logging": _QUIET}
    for path in _FIXED:
        value, expected = (reduce(getitem, path.split("."), node) for node in (plain, fixed))
        if value != expected:
            raise UsageError(_not_settable_message(f"hydra.{path}"))
    for name in ("launcher", "sweeper"):
        if not isinstance(plain[name], dict):
            raise UsageError(f"hydra.{name}={format_value(plain[name])}: must not be removed")
        for path, value in _leaves(f"hydra.{name}", plain[name]):
            last = path.rpartition(".")[2]
            if last == "_target_" and not _PLUGIN.fullmatch(str(value)):
                raise UsageError(f"{path}={format_value(value)}: must be a Hydra plugin")
            if last == "custom_search_space" and value is not None:
                raise UsageError(f"{path}={format_value(value)}: a config cannot name Python code")


def _not_settable_message(subject: str) -> str:
    allowed = ", ".join(f"hydra.{name}" for name in _SETTABLE)
    return f"{subject}: cannot be overridden; allowed: {allowed}"


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    children: Any = ()
    if isinstance(value, dict):
        children = ((f"{path}.{key}", child) for key, child in value.items())
    elif isinstance(value, list):
        children = ((f"{path}[{index}]", child) for index, child in enumerate(value))
    else:
        yield path, value
    for child_path, child in children:
        yield from _leaves(child_path, child)

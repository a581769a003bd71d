"""The words of the command line one by one: what can be no override is refused in our own words.

What a key's value must be shows when the config is composed. Here is what Hydra would take and do
something else with, or refuse without saying what to type instead.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Glob,
    Override,
    QuotedString,
    RangeSweep,
)
from omegaconf import DictConfig, OmegaConf

from flowertune.config.fields import format_value, is_text
from flowertune.config.groups import conf_dir
from flowertune.config.messages import no_such_option, unreadable
from flowertune.config.saved import HYDRA
from flowertune.errors import UsageError

MOST_JOBS = 10_000  # all of a sweep are composed before the first starts


def check(words: Sequence[str], loader: ConfigLoader) -> list[Override]:
    """The words, read.

    Raises:
        UsageError: a word is no override, or one that a run has no use for.
        OverrideParseException: for Hydra a word says nothing.
    """
    for word in words:
        if not is_text(word):
            raise UsageError(f"{format_value(word)}: is not text in UTF-8")
    overrides = OverridesParser.create().parse_overrides(list(words))
    assert isinstance(loader, ConfigLoaderImpl)  # Hydra's only one
    for override in overrides:
        _check(override, loader.repository)
    return overrides


def _check(override: Override, repository: IConfigRepository) -> None:
    key, word = override.key_or_group, str(override.input_line)
    if not key:
        raise UsageError(unreadable(word))
    if override.package is not None:
        raise UsageError(
            f"{format_value(word)}: has an @, which is for defaults lists; give key=value"
        )
    check_key(key, word)
    is_hydra, is_group = key.startswith("hydra"), repository.group_exists(key)
    if is_hydra and override.is_sweep_override():
        raise UsageError(f"{format_value(word)}: has one value for a whole sweep")
    if override.is_delete():
        raise UsageError(f"{format_value(word)}: nothing can be taken away; give it another value")
    is_new = override.is_add() or override.is_force_add()
    if is_new and not is_hydra and (not is_group or (conf_dir() / key).is_dir()):
        raise UsageError(
            f"{format_value(word)}: nothing can be added; without + it sets what is there"
        )
    if key.startswith("schema"):  # where the dataclasses are registered
        raise UsageError(f"{format_value(word)}: there is no such key")
    if is_group:
        _check_options(override, repository)
    elif key == "method":
        raise UsageError(
            f"{format_value(word)}: --config-path has chosen the method; set its keys instead"
        )


def _check_options(override: Override, repository: IConfigRepository) -> None:
    """Of a group one option is chosen; experiments add up, so that of them a list may be."""
    group, value = override.key_or_group, override.value()
    typed = str(override.input_line).partition("=")[2]
    options = _options_of(group, repository)
    chosen: Iterable[object] = [value]
    if isinstance(value, dict):  # keys of the group, as in model={rank:4}
        return
    if isinstance(value, list) and group == "experiment":
        chosen = value
    elif isinstance(value, ChoiceSweep):
        chosen = [each.text if isinstance(each, QuotedString) else each for each in value.list]
    elif isinstance(value, Glob):
        chosen = value.filter(options) or [typed]
    for each in chosen:
        if each not in options:
            name = each if isinstance(each, str) else typed
            raise UsageError(no_such_option(group, name, options))


def _options_of(group: str, repository: IConfigRepository) -> list[str]:
    """Those in folders of the group too, as experiment=sweep/alpha."""
    names = repository.get_group_options(group, ObjectType.CONFIG)
    for folder in repository.get_group_options(group, ObjectType.GROUP):
        names += [f"{folder}/{name}" for name in _options_of(f"{group}/{folder}", repository)]
    return sorted(names)


def check_one_job(overrides: Iterable[Override]) -> None:
    """What is no sweep has one value for each key.

    Raises:
        UsageError: a key has several values.
    """
    for override in overrides:
        if override.is_sweep_override():
            hint = "; -m makes a run of each, quotes make them one value"
            raise UsageError(f"{format_value(override.input_line)}: several values{hint}")


def check_number_of_jobs(overrides: Iterable[Override]) -> None:
    """Before they are counted out in memory: range(1,1000000000) is typed quickly.

    Raises:
        UsageError: a key has no value at all, or the sweep has more jobs than anybody waits for.
    """
    several = [each for each in overrides if each.is_sweep_override()]
    if math.prod(map(_number_of_values, several)) > MOST_JOBS:
        words = format_value(" ".join(str(override.input_line) for override in several))
        raise UsageError(f"{words}: more than {MOST_JOBS:,} jobs; list fewer values")


def _number_of_values(override: Override) -> float:
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
    if number < 1:
        raise UsageError(f"{format_value(override.input_line)}: there is no value in it")
    return number


# A config file may come from somebody else. Hydra would call what its callbacks, its logging and
# any `_target_` name, so these are its own plugins here, or what conf/config.yaml has.
_OPEN = ("mode", "launcher", "sweeper")
_QUIET = {"version": 1, "root": {"level": "ERROR"}, "disable_existing_loggers": True}
_CLOSED = {
    "callbacks": {},
    "hydra_logging": _QUIET,
    "job.env_copy": [],
    "job.env_set": {},
    "job_logging": _QUIET,
    "searchpath": [],
    "verbose": False,
}
_PLUGIN = re.compile(
    r"hydra\._internal\.core_plugins\.\w+\.\w+"
    r"|hydra_plugins\.\w+\.\w+\.\w+(Launcher|Sweeper)"
    r"|optuna\.samplers\.\w+Sampler"
)


def check_key(key: str, word: str) -> None:
    """Whether a typed word may be: nothing where it is not about hydra.

    Raises:
        UsageError: the typed word sets a key or a group of `hydra` that is not for setting.
    """
    names = re.split(r"[./]", key)
    if names[0] == "hydra" and names[1:2] not in [[name] for name in _OPEN]:
        raise UsageError(_closed(format_value(word)))


def check_hydra(hydra: DictConfig) -> None:
    """The settings that were composed, from whatever files.

    Raises:
        UsageError: a setting is not what it always is, or names code that is no plugin of Hydra's.
    """
    plain: Any = OmegaConf.to_container(hydra)
    for path, value in [*_leaves("", HYDRA), *_CLOSED.items()]:
        if _at(plain, path) != value:
            raise UsageError(_closed(f"hydra.{path}"))
    for name in ("launcher", "sweeper"):
        if not isinstance(plain[name], dict):
            raise UsageError(f"hydra.{name}={format_value(plain[name])}: cannot be left out")
        for path, value in _leaves(f"hydra.{name}", plain[name]):
            last = path.rpartition(".")[2]
            if last == "_target_" and not _PLUGIN.fullmatch(str(value)):
                raise UsageError(f"{path}={format_value(value)}: must be a plugin of Hydra's")
            if last == "custom_search_space" and value is not None:
                raise UsageError(f"{path}={format_value(value)}: a config cannot name Python code")


def _closed(what: str) -> str:
    return f"{what}: is not for setting; of hydra, only {', '.join(_OPEN)} are"


def _at(node: Any, path: str) -> Any:
    for name in path.split("."):
        node = node[name]
    return node


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Each value that is no container, with its path."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = ((f"{path}.{key}".lstrip("."), each) for key, each in value.items())
    elif isinstance(value, list):
        inner = ((f"{path}[{index}]", each) for index, each in enumerate(value))
    else:
        yield path, value
    for deeper, each in inner:
        yield from _leaves(deeper, each)

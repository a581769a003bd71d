"""Check the overrides of the command line one by one, with our own error messages.

A key and the type of its value are checked against the schemas; whether the value is in its range
shows when the config is composed. Refused is also what Hydra would take and do something else with.
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
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString, RangeSweep
from omegaconf import DictConfig, OmegaConf

from flowertune.config.fields import format_value, is_text
from flowertune.config.groups import conf_dir
from flowertune.config.keys import check_typed
from flowertune.config.messages import no_such_option_message, unparsable_message
from flowertune.errors import UsageError

MAX_JOBS = 10_000  # all of a sweep are composed before the first starts

# Hydra's own settings, in place of those that it comes with: the directories of runs and sweeps are
# flowertune's own, and Hydra makes none. A config file may come from somebody else, and Hydra would
# call what its callbacks, its logging and any `_target_` name, so all but _SETTABLE stay like this.
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

    Raises:
        UsageError: an argument is no override, or one that a run has no use for.
        OverrideParseException: Hydra cannot parse an argument.
    """
    for argument in arguments:
        if not is_text(argument):
            raise UsageError(f"{format_value(argument)}: is not text in UTF-8")
    overrides = OverridesParser.create().parse_overrides(list(arguments))
    assert isinstance(loader, ConfigLoaderImpl)  # Hydra's only one
    for override in overrides:
        _check(override, loader.repository)
    return overrides


def _check(override: Override, repository: IConfigRepository) -> None:
    key, text = override.key_or_group, format_value(override.input_line)
    if not key:
        raise UsageError(unparsable_message(str(override.input_line)))
    if override.package is not None:
        raise UsageError(f"{text}: has an @, which is for defaults lists; give key=value")
    names = re.split(r"[./]", key)
    if names[0] == "hydra" and (len(names) == 1 or names[1] not in _SETTABLE):
        raise UsageError(_not_settable_message(text))
    is_hydra, is_group = key.startswith("hydra"), repository.group_exists(key)
    if is_hydra and override.is_sweep_override():
        raise UsageError(f"{text}: has one value for a whole sweep")
    if override.is_delete():
        raise UsageError(f"{text}: nothing can be taken away; give it another value")
    is_new = override.is_add() or override.is_force_add()
    if is_new and not is_hydra and (not is_group or (conf_dir() / key).is_dir()):
        raise UsageError(f"{text}: nothing can be added; without + it sets what is there")
    if key.startswith("schema"):  # where the dataclasses are registered
        raise UsageError(f"{text}: there is no such key")
    if is_group:
        _check_options(override, repository)
    elif key == "method":
        raise UsageError(f"{text}: --config-path has chosen the method; set its keys instead")
    elif not is_hydra:
        values = [] if override.is_sweep_override() else [override.value()]
        check_typed(key, values, text)


def _check_options(override: Override, repository: IConfigRepository) -> None:
    group, value = override.key_or_group, override.value()
    text = str(override.input_line).partition("=")[2]
    options = _list_options(group, repository)
    names: Iterable[object] = [value]
    if isinstance(value, dict):  # keys of the group, as in model={rank:4}
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
    """List a group's options, also those in folders, as experiment=sweep/alpha."""
    names = repository.get_group_options(group, ObjectType.CONFIG)
    for folder in repository.get_group_options(group, ObjectType.GROUP):
        names += [f"{folder}/{name}" for name in _list_options(f"{group}/{folder}", repository)]
    return sorted(names)


def check_one_job(overrides: Iterable[Override]) -> None:
    """Raise UsageError for a key with several values, of which a job takes one."""
    for override in overrides:
        if override.is_sweep_override():
            hint = "; -m makes a run of each, quotes make them one value"
            raise UsageError(f"{format_value(override.input_line)}: several values{hint}")


def check_number_of_jobs(overrides: Iterable[Override]) -> None:
    """Limit the jobs before they are listed in memory: range(1,1000000000) is typed quickly.

    Raises:
        UsageError: a key has no value at all, or the sweep has more jobs than anybody waits for.
    """
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
        raise UsageError(
            f"{format_value(override.input_line)}: interval() and the like are for "
            "hydra/sweeper=optuna; without it, list the values"
        )
    if number < 1:
        raise UsageError(f"{format_value(override.input_line)}: there is no value in it")
    return number


def check_hydra(hydra: DictConfig) -> None:
    """Check the composed settings of `hydra`, from whatever files.

    Raises:
        UsageError: a setting is not what it always is, or names code that is no plugin of Hydra's.
    """
    plain: Any = OmegaConf.to_container(hydra)
    fixed: Any = asdict(HYDRA) | {"hydra_logging": _QUIET, "job_logging": _QUIET}
    for path in _FIXED:
        value, expected = (reduce(getitem, path.split("."), node) for node in (plain, fixed))
        if value != expected:
            raise UsageError(_not_settable_message(f"hydra.{path}"))
    for name in ("launcher", "sweeper"):
        if not isinstance(plain[name], dict):
            raise UsageError(f"hydra.{name}={format_value(plain[name])}: cannot be left out")
        for path, value in _leaves(f"hydra.{name}", plain[name]):
            last = path.rpartition(".")[2]
            if last == "_target_" and not _PLUGIN.fullmatch(str(value)):
                raise UsageError(f"{path}={format_value(value)}: must be a plugin of Hydra's")
            if last == "custom_search_space" and value is not None:
                raise UsageError(f"{path}={format_value(value)}: a config cannot name Python code")


def _not_settable_message(subject: str) -> str:
    return f"{subject}: is not for setting; of hydra, only {', '.join(_SETTABLE)} are"


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

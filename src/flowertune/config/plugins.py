"""Find the plug-ins of installed packages: entry points of the group `flowertune.plugins`.

docs/extending.md shows how to make one. A config names it by its literal name only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from pkgutil import resolve_name
from typing import Any

from flowertune.config.groups import SCHEMAS
from flowertune.config.head import HeadConfig
from flowertune.config.loss import LossConfig
from flowertune.config.model import ModelConfig
from flowertune.config.probe import SOLVERS
from flowertune.errors import UsageError, with_type

# What plug-ins may add, and what the config of each is derived from; a solver has probe's keys.
BASES: dict[str, type | None] = {
    "model": ModelConfig,
    "loss": LossConfig,
    "head": HeadConfig,
    "solver": None,
}


@dataclass(frozen=True)
class Plugin:
    """What an entry point names. Its own name is that of the option, or of the solver.

    implementation: "module:name", imported when a run uses it. options: the option's config.
    """

    group: str
    implementation: str
    options: type | None = None


@cache
def plugins() -> dict[tuple[str, str], tuple[Plugin, str]]:
    """Load all plug-ins: group and name -> the plug-in, and what to call it in a message.

    Raises:
        UsageError: one is broken.
    """
    found: dict[tuple[str, str], tuple[Plugin, str]] = {}
    for entry in entry_points(group="flowertune.plugins"):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        title = f"plug-in {entry.name} of {package}"
        try:
            plugin = entry.load()
        except Exception as error:  # whatever a module of somebody else's raises
            raise UsageError(f"{title}: cannot be imported ({with_type(error)})") from error
        problem = _find_problem(entry, plugin)
        if problem is None and (plugin.group, entry.name) in found:
            problem = f"{found[plugin.group, entry.name][1]} has this name, too"
        if problem is not None:
            raise UsageError(f"{title}: {problem}")
        found[plugin.group, entry.name] = plugin, title
    SOLVERS.extend(name for group, name in found if group == "solver")
    return found


def schemas() -> dict[str, dict[str, type]]:
    """`groups.SCHEMAS` with the options of plug-ins."""
    options = {group: dict(built_in) for group, built_in in SCHEMAS.items()}
    for (group, name), (plugin, _) in plugins().items():
        if plugin.options is not None:
            options[group][name] = plugin.options
    return options


def check_installed(group: str, name: object) -> None:
    """Raise UsageError where a saved config's option is of a plug-in that is not installed."""
    options = {**schemas(), "solver": SOLVERS}
    if group in BASES and isinstance(name, str) and name not in options[group]:
        raise UsageError(
            f"{_key(group)}={name}: is of a plug-in that is not installed here; install the "
            "package that it came with"
        )


def find(group: str, name: str, built_in: Mapping[str, Any]) -> Any:
    """Look up what a literal name stands for: one of flowertune's own, or a plug-in's.

    Raises:
        UsageError: the plug-in's cannot be imported.
    """
    if name in built_in:
        return built_in[name]
    plugin, title = plugins()[group, name]
    try:
        return resolve_name(plugin.implementation)
    except Exception as error:  # as above
        raise UsageError(
            f"{title}: {plugin.implementation} cannot be imported ({with_type(error)})"
        ) from error


def bind(
    group: str, name: str, built_in: Mapping[str, Callable[..., Any]], settings: Any
) -> Callable[..., Any]:
    """Find a function by its name, and give its keyword-only parameters their settings.

    Raises:
        UsageError: as `find`, or a parameter of the plug-in's is no key.
    """
    function = find(group, name, built_in)
    parameters = signature(function).parameters.values()
    keys = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    unknown = sorted(set(keys) - vars(settings).keys())
    if unknown:
        _, title = plugins()[group, name]
        raise UsageError(f"{title}: {_key(group)} has no key {', '.join(unknown)}")
    return partial(function, **{key: getattr(settings, key) for key in keys})


def _find_problem(entry: EntryPoint, plugin: Any) -> str | None:
    if not isinstance(plugin, Plugin):
        return f"{entry.value} is no flowertune.config.plugins.Plugin"
    if plugin.group not in BASES:
        return f"group={plugin.group}: must be one of {', '.join(BASES)}"
    if entry.name in {**SCHEMAS, "solver": SOLVERS}[plugin.group]:
        return f"flowertune has a {plugin.group} of this name itself"
    base = BASES[plugin.group]
    if base is None:
        return None if plugin.options is None else f"a {plugin.group} has no options of its own"
    options: Any = plugin.options
    if not (isinstance(options, type) and is_dataclass(options) and issubclass(options, base)):
        return f"its options are no dataclass that is derived from {base.__name__}"
    for key in fields(options):
        if not key.metadata or isinstance(key.type, str):
            return f"key {key.name} is not declared by config_field, with a type that is no text"
    if getattr(options, "name", None) != entry.name:
        return f"its options have no name: str = option({entry.name!r})"
    return None


def _key(group: str) -> str:
    return "probe.solver" if group == "solver" else group

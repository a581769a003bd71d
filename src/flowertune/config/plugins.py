"""Find plug-ins in installed packages: entry points of the group `flowertune.plugins`.

docs/extending.md shows how to write one. Configs refer to a plug-in only by its name.
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

# Groups that plug-ins may extend, and the base class of their configs; solvers use probe's keys.
BASES: dict[str, type | None] = {
    "model": ModelConfig,
    "loss": LossConfig,
    "head": HeadConfig,
    "solver": None,
}


@dataclass(frozen=True)
class Plugin:
    """Target of an entry point, whose name is that of the new option or solver.

    implementation: "module:name", imported when a run uses it. options: config class of the option.
    """

    group: str
    implementation: str
    options: type | None = None


@cache
def plugins() -> dict[tuple[str, str], tuple[Plugin, str]]:
    """Load all plug-ins: group and name -> plug-in, and its title for messages.

    Raises UsageError if one is broken.
    """
    found: dict[tuple[str, str], tuple[Plugin, str]] = {}
    for entry in entry_points(group="flowertune.plugins"):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        title = f"plug-in {entry.name} of {package}"
        try:
            plugin = entry.load()
        except Exception as error:  # third-party code may raise anything
            raise UsageError(f"{title}: cannot be imported ({with_type(error)})") from error
        problem = _find_problem(entry, plugin)
        if problem is None and (plugin.group, entry.name) in found:
            problem = f"{found[plugin.group, entry.name][1]} has the same name"
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
    """Raise UsageError if a saved option comes from a plug-in that is not installed."""
    options = {**schemas(), "solver": SOLVERS}
    if group in BASES and isinstance(name, str) and name not in options[group]:
        reason = "comes from a plug-in that is not installed; install its package"
        raise UsageError(f"{_key(group)}={name}: {reason}")


def find(group: str, name: str, built_in: Mapping[str, Any]) -> Any:
    """Look up a name among flowertune's own objects and those of plug-ins.

    Raises UsageError if a plug-in cannot be imported.
    """
    if name in built_in:
        return built_in[name]
    plugin, title = plugins()[group, name]
    try:
        return resolve_name(plugin.implementation)
    except Exception as error:  # as above
        reason = f"{plugin.implementation} cannot be imported ({with_type(error)})"
        raise UsageError(f"{title}: {reason}") from error


def bind(
    group: str, name: str, built_in: Mapping[str, Callable[..., Any]], settings: Any
) -> Callable[..., Any]:
    """Find a function by name, and bind its keyword-only parameters to settings of the same name.

    Raises UsageError like `find`, and for a parameter that is not a key.
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
        return f"{entry.value} is not a flowertune.config.plugins.Plugin"
    if plugin.group not in BASES:
        return f"group={plugin.group}: must be one of {', '.join(BASES)}"
    if entry.name in {**SCHEMAS, "solver": SOLVERS}[plugin.group]:
        return f"flowertune already has a {plugin.group} of this name"
    base = BASES[plugin.group]
    if base is None:
        return None if plugin.options is None else f"a {plugin.group} must not have options"
    options: Any = plugin.options
    if not (isinstance(options, type) and is_dataclass(options) and issubclass(options, base)):
        return f"its options must be a dataclass derived from {base.__name__}"
    for key in fields(options):
        if not key.metadata or isinstance(key.type, str):
            return f"key {key.name} must use config_field, with a type that is not a string"
    if getattr(options, "name", None) != entry.name:
        return f"its options must have name: str = option({entry.name!r})"
    return None


def _key(group: str) -> str:
    return "probe.solver" if group == "solver" else group

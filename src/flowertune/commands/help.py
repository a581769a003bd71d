"""Help texts of the program and of each command, with groups and keys. Imports nothing heavy."""

from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from flowertune import __version__
from flowertune.commands.registry import COMMANDS, FAMILIES, subcommands
from flowertune.config.fields import MISSING, describe_range
from flowertune.config.groups import SCHEMAS, conf_dir
from flowertune.config.probe import ProbeConfig
from flowertune.config.run import RunConfig
from flowertune.config.schema import Config

_SWEEP = """\
  -m                 a sweep: a run of every combination of key=a,b,c, and a table of them
                     (experiment=sweep/... are ready ones, and need no -m)"""


_OWN_YAML = """
  --cfg job          print the whole config instead of running it
  --config-dir DIR   add a folder of your own YAML files, laid out like conf/"""


def help_text(name: str) -> str:
    """Help text of a command, of a family of commands, or, without a name, of the program."""
    if name in COMMANDS:
        return _command_help(name)
    title = f"""\
flowertune {__version__}: adapts CLIP to fine-grained image classification from a few photos a class

usage: flowertune COMMAND [group=option ...] [key=value ...]"""
    if name:
        title = (
            f"usage: flowertune {name} {{{','.join(subcommands(name))}}} ...\n\n{FAMILIES[name]}"
        )
    summaries = [
        f"  {command:<16}  {each.summary}"
        for command, each in COMMANDS.items()
        if command.startswith(name)
    ]
    end = "flowertune COMMAND --help    what a command does, its options, keys and examples"
    if not name:
        end += """
flowertune --version
eval "$(flowertune -sc install=bash)"    completion in this shell (also zsh, fish)"""
    return "\n".join([title, "\ncommands:", *summaries, "", end])


def _command_help(name: str) -> str:
    """Describe a command: its usage, examples, flags and, if it composes, groups and keys."""
    command = COMMANDS[name]
    flags = [each for each in command.arguments if each.is_flag]
    usage = [f"[{flag.usage}]" for flag in flags] + ["[-m]"] * command.sweeps
    usage += [each.usage for each in command.arguments if not each.is_flag]
    if command.composes:
        usage.append("[group=option ...] [key=value ...]")
    width = max(map(len, command.examples))
    return "\n".join(
        [
            " ".join([f"usage: flowertune {name}", *usage]),
            f"\n{command.description}\n\nexamples:",
            *(f"  {line:<{width}}  {meaning}" for line, meaning in command.examples.items()),
            *([f"\n{_groups_and_keys()}", _OWN_YAML] if command.composes else [""] * bool(flags)),
            *(f"  {flag.usage:<18} {flag.meaning}" for flag in flags),
            *[_SWEEP] * command.sweeps,
        ]
    )


def _groups_and_keys() -> str:
    groups = [f"  {group:<13} {', '.join(options)}" for group, options in _groups().items()]
    return "\n".join(
        [
            "groups (group=option):",
            *groups,
            "\nkeys (key=value), with their defaults; a method or an option may set others:",
            _keys(),
        ]
    )


def _groups() -> dict[str, list[str]]:
    return {
        folder.name: sorted(_option_names(folder))
        for folder in sorted(conf_dir().iterdir())
        if folder.is_dir()
    }


def _option_names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")]


def _keys() -> str:
    rows = [*_rows(Config, ""), *_rows(ProbeConfig, "probe."), *_rows(RunConfig, "run.")]
    for group, options in SCHEMAS.items():
        owners: dict[tuple[str, str], list[str]] = {}  # the options of the group that have a row
        for option, schema in options.items():
            for row in _rows(schema, f"{group}."):
                owners.setdefault(row, []).append(option)
        rows += [
            (key, meaning if len(names) == len(options) else f"{meaning} ({', '.join(names)})")
            for (key, meaning), names in owners.items()
        ]
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"  {key:<{width}}  {meaning}" for key, meaning in rows)


def _rows(schema: type, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield each key=default with its meaning and range."""
    for field in fields(schema):
        is_option = field.name == "name" and field.metadata["choices"]
        if field.metadata and not is_option:
            limits = describe_range(field)
            meaning = field.metadata["meaning"] + (f": {limits}" if limits else "")
            yield f"{prefix}{field.name}={_default(field)}", meaning


def _default(field: "Field[Any]") -> str:
    if field.default_factory is not NO_DEFAULT:
        return f"[{','.join(map(_to_text, field.default_factory()))}]"
    return _to_text(field.default)


def _to_text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value == MISSING else str(value)

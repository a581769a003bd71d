"""Help texts of the program and of each command. Imports nothing heavy."""

from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from flowertune import __version__
from flowertune.commands.registry import COMMANDS, FAMILIES, subcommands
from flowertune.config.fields import MISSING, describe_range
from flowertune.config.groups import conf_dir
from flowertune.config.plugins import plugins, schemas
from flowertune.config.probe import ProbeConfig
from flowertune.config.run import RunConfig
from flowertune.config.schema import Config

_SWEEP = """
  -m                 a sweep: a run of every combination of key=a,b,c, and a table of them
                     (experiment=sweep/... are ready ones, and need no -m)"""


def program_help() -> str:
    """Help text of the program."""
    return f"""\
flowertune {__version__}: adapts CLIP to fine-grained image classification from a few photos a class

usage: flowertune COMMAND [group=option ...] [key=value ...]

commands:
{_summaries("")}

flowertune COMMAND --help    what a command does, its options, keys and examples
flowertune --version
eval "$(flowertune -sc install=bash)"    completion in this shell (also zsh, fish)"""


def family_help(family: str) -> str:
    """Help text of a family of commands."""
    return f"""\
usage: flowertune {family} {{{",".join(subcommands(family))}}} ...

{FAMILIES[family]}

commands:
{_summaries(family)}

flowertune COMMAND --help    what a command does, its options, keys and examples"""


def _summaries(family: str) -> str:
    summaries = {name: each.summary for name, each in COMMANDS.items() if name.startswith(family)}
    return "\n".join(f"  {name:<16}  {summary}" for name, summary in summaries.items())


def command_help(name: str) -> str:
    """Help text of a command: description, config groups, keys with range, examples."""
    command = COMMANDS[name]
    width = max(len(line) for line, _ in command.examples)
    examples = "\n".join(f"  {line:<{width}}  {comment}" for line, comment in command.examples)
    flags = "".join(f"\n  {flag:<18} {meaning}" for flag, meaning in command.flags.items())
    flags += _SWEEP if command.sweeps else ""
    options = "".join(f" [{flag}]" for flag in (*command.flags, *(["-m"] * command.sweeps)))
    arguments = " [group=option ...] [key=value ...]" if command.composes else command.operands
    head = f"""\
usage: flowertune {name}{options}{arguments}

{command.description}

examples:
{examples}"""
    if not command.composes:
        return f"{head}\n{flags}".rstrip()
    groups = "\n".join(
        f"  {group:<13} {', '.join(options)}" for group, options in _groups().items()
    )
    return f"""\
{head}

groups (group=option):
{groups}

keys (key=value), with their defaults; a method or an option may set others:
{_keys()}

  --cfg job          print the whole config instead of running it
  --config-dir DIR   add a folder of your own YAML files, laid out like conf/{flags}"""


def _groups() -> dict[str, list[str]]:
    return {
        folder.name: sorted(
            [*_option_names(folder), *(name for group, name in plugins() if group == folder.name)]
        )
        for folder in sorted(conf_dir().iterdir())
        if folder.is_dir()
    }


def _option_names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")]


def _keys() -> str:
    rows = [*_rows(Config, ""), *_rows(ProbeConfig, "probe."), *_rows(RunConfig, "run.")]
    for group, options in schemas().items():
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

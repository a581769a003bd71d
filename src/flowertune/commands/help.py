"""What `--help` prints: for the program, and for each command. Imports nothing heavy."""

from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from flowertune import __version__
from flowertune.commands.registry import COMMANDS, FAMILIES, next_words
from flowertune.config.fields import MISSING, describe_range
from flowertune.config.groups import SCHEMAS, conf_dir
from flowertune.config.probe import ProbeConfig
from flowertune.config.run import RunConfig
from flowertune.config.schema import Config

_SWEEP = """
  -m                 a sweep: a run of every combination of key=a,b,c, and a table of them
                     (experiment=sweep/... are ready ones, and need no -m)"""


def program_help() -> str:
    """The commands, and how to learn more."""
    return f"""\
flowertune {__version__}: adapts CLIP to fine-grained image classification from a few photos a class

usage: flowertune COMMAND [group=option ...] [key=value ...]

commands:
{_summaries("")}

flowertune COMMAND --help    what a command does, its options, keys and examples
flowertune --version
eval "$(flowertune -sc install=bash)"    completion in this shell (also zsh, fish)"""


def family_help(family: str) -> str:
    """The commands of a family, and how to learn more."""
    return f"""\
usage: flowertune {family} {{{",".join(next_words(family))}}} ...

{FAMILIES[family]}

commands:
{_summaries(family)}

flowertune COMMAND --help    what a command does, its options, keys and examples"""


def _summaries(family: str) -> str:
    named = {name: each.summary for name, each in COMMANDS.items() if name.startswith(family)}
    return "\n".join(f"  {name:<16}  {summary}" for name, summary in named.items())


def command_help(name: str) -> str:
    """What a command does, its config groups, every key with meaning and range, examples."""
    command = COMMANDS[name]
    width = max(len(line) for line, _ in command.examples)
    examples = "\n".join(f"  {line:<{width}}  {why}" for line, why in command.examples)
    more = "".join(f"\n  {flag:<18} {meaning}" for flag, meaning in command.flags.items())
    more += _SWEEP if command.sweeps else ""
    options = "".join(f" [{flag}]" for flag in (*command.flags, *(["-m"] * command.sweeps)))
    words = " [group=option ...] [key=value ...]" if command.composes else command.operands
    head = f"""\
usage: flowertune {name}{options}{words}

{command.description}

examples:
{examples}"""
    if not command.composes:
        return f"{head}\n{more}".rstrip()
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
  --config-dir DIR   add a folder of your own YAML files, laid out like conf/{more}"""


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
        having: dict[tuple[str, str], list[str]] = {}  # the options of the group that have a row
        for option, schema in options.items():
            for row in _rows(schema, f"{group}."):
                having.setdefault(row, []).append(option)
        rows += [
            (key, meaning if len(names) == len(options) else f"{meaning} ({', '.join(names)})")
            for (key, meaning), names in having.items()
        ]
    width = max(len(key) for key, _ in rows)
    return "\n".join(f"  {key:<{width}}  {meaning}" for key, meaning in rows)


def _rows(schema: type, prefix: str) -> Iterator[tuple[str, str]]:
    """key=default, and its meaning with its range."""
    for declared in fields(schema):
        is_option = declared.name == "name" and declared.metadata["choices"]
        if declared.metadata and not is_option:
            allowed = describe_range(declared)
            meaning = declared.metadata["meaning"] + (f": {allowed}" if allowed else "")
            yield f"{prefix}{declared.name}={_default(declared)}", meaning


def _default(declared: "Field[Any]") -> str:
    if declared.default_factory is not NO_DEFAULT:
        return f"[{','.join(map(_typed, declared.default_factory()))}]"
    return _typed(declared.default)


def _typed(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value == MISSING else str(value)

"""Help texts of the program and of each command. Imports nothing heavy."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from flowertune import __version__
from flowertune.commands.registry import COMMANDS, FAMILIES, subcommands
from flowertune.config.fields import MISSING, describe_range, format_value
from flowertune.config.groups import conf_dir
from flowertune.config.plugins import plugins, schemas
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
    command, sweeps = COMMANDS[name], COMMANDS[name].composes == "sweep"
    flags = [each for each in command.arguments if each.is_flag]
    usage = [f"usage: flowertune {name}", *(f"[{flag.usage}]" for flag in flags)]
    usage += ["[-m]"] * sweeps + [each.usage for each in command.arguments if not each.is_flag]
    width = max(len(line) for line, _ in command.examples)
    examples = [f"  {line:<{width}}  {meaning}" for line, meaning in command.examples]
    config = [""] * bool(flags)
    if command.composes:
        usage.append("[group=option ...] [key=value ...]")
        config = ["\ngroups (group=option):", *_groups()]
        config += ["\nkeys (key=value), with their defaults; a method or an option may set others:"]
        config += [*_keys(), _OWN_YAML]
    meanings = [f"  {flag.usage:<18} {flag.meaning}" for flag in flags] + [_SWEEP] * sweeps
    title = f"{' '.join(usage)}\n\n{command.description}\n\nexamples:"
    return "\n".join([title, *examples, *config, *meanings])


def _groups() -> Iterator[str]:
    for folder in sorted(path for path in conf_dir().iterdir() if path.is_dir()):
        names = [str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")]
        names += [name for group, name in plugins() if group == folder.name]
        yield f"  {folder.name:<13} {', '.join(sorted(names))}"


def _keys() -> list[str]:
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
    return [f"  {key:<{width}}  {meaning}" for key, meaning in rows]


def _rows(schema: type, prefix: str) -> Iterator[tuple[str, str]]:
    defaults = schema()
    for field in fields(schema):
        if not field.metadata or (field.name == "name" and field.metadata["choices"]):
            continue
        default = getattr(defaults, field.name)
        text = "" if default == MISSING else format_value(_rounded(default))
        meaning = ": ".join(filter(None, (field.metadata["meaning"], describe_range(field))))
        yield f"{prefix}{field.name}={text}", meaning


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return f"{value:.4g}" if isinstance(value, float) else value

"""Help texts of the program, of each command and of each config group. Imports nothing heavy."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from flowertune import __version__
from flowertune.commands.registry import COMMANDS, FAMILIES, subcommands
from flowertune.config.listing import list_keys, list_options
from flowertune.errors import UsageError

WIDTH = 80
_USAGE: Any = {"subsequent_indent": " " * 7, "break_on_hyphens": False}
# Common settings, each with the commands that do not use it.
_GROUPS = {
    (
        "method=NAME",
        "lora (default), mixup, triplet, vpt, linear_probe, ...",
    ): "data check, reproduce",
    ("data=folder", "your own images, in data.root=DIR"): "",
    ("backbone=NAME", "vit_b32_openai (default), tiny (built in), ..."): "data check",
}
_KEYS = {
    "seed": "data check, data prepare, reproduce",
    "data.shots": "data check",
    "data.balanced": "data check, data prepare",
    "trainer.epochs": "bench, data check, data prepare",
    "trainer.batch_size": "data check, data prepare",
    "trainer.device": "data check, data prepare",
    "optimizer.lr": "bench, data check, data prepare",
    "run.name": "bench, data check, data prepare, reproduce",
}
_SWEEP = [("-m", "run every combination of key=a,b,c and print a table")]
_CONFIG = [
    ("--cfg job", "print the config and exit"),
    ("--config-dir DIR", "add a folder of your own YAML files, laid out like conf/"),
]


def help_text(name: str, topic: str = "") -> str:
    """Help of a command, of a family of commands, or, without a name, of the program.

    A `topic` of a command that composes a config is a group of it, or "all".

    Raises:
        UsageError: the config has no such group.
    """
    if name not in COMMANDS:
        return "\n".join(_family_help(name))
    if topic and COMMANDS[name].composes:
        return "\n".join(_config_help(name, topic))
    return "\n".join(_command_help(name))


def _family_help(family: str) -> Iterator[str]:
    if family:
        yield f"{FAMILIES[family]}\n"
        yield f"Usage: flowertune {family} {{{','.join(subcommands(family))}}} ...\n"
    else:
        yield f"flowertune {__version__}: adapt CLIP to fine-grained image classification\n"
        yield "Usage: flowertune COMMAND [OPTION ...] [group=option ...] [key=value ...]\n"
        yield "Examples:"
        yield "  flowertune train experiment=quickstart method=mixup"
        yield "  flowertune train data=folder data.root=IMAGES"
        yield "  flowertune predict runs/NAME image.jpg\n"
    yield "Commands:"
    for name, command in COMMANDS.items():
        if name.startswith(family):
            yield f"  {name:<16}  {command.summary}"
    yield "\nRun `flowertune COMMAND --help` for the options of a command."
    if not family:
        yield "Run `flowertune train --help method` for the methods."
        yield 'Run `eval "$(flowertune -sc install=bash)"` for completion (or zsh, fish).'


def _command_help(name: str) -> Iterator[str]:
    command = COMMANDS[name]
    sweeps = command.composes == "sweep"
    flags = [each for each in command.arguments if each.is_flag]
    yield f"{textwrap.fill(command.description, WIDTH)}\n"
    usage = ["[OPTION ...]"] * bool(flags) + ["[-m]"] * sweeps
    usage += [each.usage for each in command.arguments if not each.is_flag]
    usage += ["[group=option ...] [key=value ...]"] * bool(command.composes)
    usage = textwrap.wrap(f"Usage: flowertune {name} {' '.join(usage)}", WIDTH, **_USAGE)
    yield from [*usage, ""]
    yield "Examples:"
    for line, meaning in command.examples:
        yield f"  # {meaning}"
        yield f"  {line}"
    options = [(flag.usage, flag.meaning) for flag in flags]
    options += _SWEEP * sweeps + _CONFIG * bool(command.composes)
    if options:
        yield "\nOptions:"
        yield from _table(options)
    if not command.composes:
        return
    yield "\nCommon settings:"
    rows = [row for row, unused in _GROUPS.items() if name not in unused]
    for key in list_keys():
        if name not in _KEYS.get(key.name, name):
            rows.append((f"{key.name}={key.default}", key.meaning))
    yield from _table(rows)
    groups = ", ".join(_group_names())
    yield f"\nRun `flowertune {name} --help GROUP` for all options and keys of a group:"
    yield textwrap.fill(groups, WIDTH, initial_indent="  ", subsequent_indent="  ")
    yield f"Run `flowertune {name} --help-all` for all groups."


def _config_help(name: str, topic: str) -> Iterator[str]:
    groups = _group_names()
    if topic not in ("all", *groups):
        from flowertune.config.keys import suggest  # with omegaconf, which help does not need

        available = ", ".join(groups)
        raise UsageError(
            f"--help {topic}: unknown group; available: {available}{suggest(topic, groups)}"
        )
    yield f"Usage: flowertune {name} [group=option ...] [key=value ...]"
    for group in groups if topic == "all" else [topic]:
        rows = []
        for option in list_options(group):
            when = f"\nWhen: {option.when}" if option.when else ""
            cost = f"\nCost: {option.cost}" if option.cost else ""
            rows.append((f"{group}={option.name}", f"{option.summary}{when}{cost}"))
        for key in list_keys():
            if (key.group or "method") == group and key.name != "method":
                only = f" (only {', '.join(key.options)})" if key.options else ""
                rows.append((f"{key.name}={key.default}", f"{key.meaning}{only}\n{key.type}"))
        yield ""
        yield from _table(rows)


def _group_names() -> list[str]:
    return ["method", "experiment", *dict.fromkeys(key.group for key in list_keys() if key.group)]


def _table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield labels with their texts beside them, or below a label that is too long."""
    column = min(max((len(label) for label, _ in rows), default=0) + 4, 32)
    for label, text in rows:
        lines = [line for part in text.split("\n") for line in textwrap.wrap(part, WIDTH - column)]
        if len(label) > column - 4:
            yield f"  {label}"
        else:
            yield f"  {label:<{column - 2}}{lines.pop(0)}"
        yield from (f"{'':{column}}{line}" for line in lines)

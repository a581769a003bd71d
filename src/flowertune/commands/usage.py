"""Help texts of the program and of each command. Imports nothing heavy."""

from flowertune import __version__
from flowertune.commands.registry import COMMANDS, FAMILIES, subcommands

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
    config = []
    if command.composes:
        from flowertune.commands.help import groups_and_keys

        config = [f"\n{groups_and_keys()}", _OWN_YAML]
    elif flags:
        config = [""]
    width = max(map(len, command.examples))
    return "\n".join(
        [
            " ".join([f"usage: flowertune {name}", *usage]),
            f"\n{command.description}\n\nexamples:",
            *(f"  {line:<{width}}  {meaning}" for line, meaning in command.examples.items()),
            *config,
            *(f"  {flag.usage:<18} {flag.meaning}" for flag in flags),
            *[_SWEEP] * command.sweeps,
        ]
    )

"""argv -> command. Imports nothing heavy, so that `--help` answers at once."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowertune import __version__
from flowertune.errors import (
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    FlowertuneError,
    Interrupted,
)


@dataclass(frozen=True)
class Command:
    """A command: what it does in one line and in some, and three examples of its use."""

    summary: str
    description: str
    examples: tuple[tuple[str, str], ...]


COMMANDS = {
    "train": Command(
        summary="train one model, or with -m several, and test it",
        description="""\
Trains a CLIP image encoder on photos sorted into classes and leaves a run directory with
the weights, the settings and the results. Zero-shot classification and a linear probe of
the same backbone stand beside the result. The default is method=lora on Flowers-102.""",
        examples=(
            ("flowertune train experiment=quickstart method=mixup", "no network, no photos needed"),
            ("flowertune train method=mixup data=folder data.root=PHOTOS", "your own photos"),
            (
                "flowertune train -m method=mixup augmentation.alpha=0.1,0.2,0.4 seed=42,43",
                "six runs",
            ),
        ),
    ),
}

COMPLETION = ("-sc", "--shell-completion", "--shell_completion")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (0 done, 1 failed, 2 refused, 130 interrupted)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        print(_program_help())
        return EXIT_REFUSED
    first, rest = words[0], words[1:]
    if first in ("-h", "--help"):
        print(_program_help())
        return EXIT_DONE
    if first == "--version":
        print(f"flowertune {__version__}")
        return EXIT_DONE
    if first in COMPLETION:
        return _complete(words)
    if first not in COMMANDS:
        return _unknown(first)
    if {"-h", "--help"} & set(rest):
        print(_command_help(first))
        return EXIT_DONE
    return _run(first, rest)


def _run(command: str, words: Sequence[str]) -> int:
    from flowertune import composition  # Hydra takes a third of a second: only where it is needed
    from flowertune.config import Config

    def execute(config: Config) -> int:
        """One job. A failure is reported here, so that a multirun goes on with the next."""
        try:
            module = importlib.import_module(f"flowertune.commands.{command}")
            exit_code: int = module.execute(config)
        except FlowertuneError as error:
            print(f"flowertune {command}: {error}", file=sys.stderr)
            return error.exit_code
        return exit_code

    try:
        return composition.run(words, execute)
    except FlowertuneError as error:
        print(f"flowertune {command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interruption:
        print(f"flowertune {command}: {interruption or 'interrupted'}", file=sys.stderr)
        return interruption.exit_code if isinstance(interruption, Interrupted) else EXIT_INTERRUPTED


def _unknown(word: str) -> int:
    near = difflib.get_close_matches(word, COMMANDS, n=1)
    if "=" in word or word.startswith("-"):
        hint = f"the command comes first, for example: flowertune train {word}"
    elif near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = f"the commands are: {', '.join(COMMANDS)}"
    print(f"flowertune: {word!r} is not a command; {hint}", file=sys.stderr)
    return EXIT_REFUSED


def _complete(words: Sequence[str]) -> int:
    """Hydra completes what follows the command; the command itself is completed here.

    The shell asks with the whole line in COMP_LINE; Hydra must see it without the command.
    """
    from flowertune import composition

    if any(word.startswith("query=") for word in words):
        typed = os.environ.get("COMP_LINE", "")
        program, _, after = typed.partition(" ")
        command, space, rest = after.lstrip().partition(" ")
        if not space:
            print("\n".join(name for name in COMMANDS if name.startswith(command)))
            return EXIT_DONE
        if command not in COMMANDS:
            return EXIT_DONE
        os.environ["COMP_LINE"] = f"{program} {rest.lstrip()}"
        os.environ["COMP_POINT"] = str(len(os.environ["COMP_LINE"]))
    return composition.run(words, lambda config: EXIT_DONE)


def _program_help() -> str:
    commands = "\n".join(f"  {name:<10} {each.summary}" for name, each in COMMANDS.items())
    return f"""\
flowertune {__version__}: adapts CLIP to fine-grained image classification from a few photos a class

usage: flowertune COMMAND [group=option ...] [key=value ...]

commands:
{commands}

flowertune COMMAND --help    what a command does, its options and examples
flowertune --version
eval "$(flowertune -sc install=bash)"    completion in this shell (also zsh, fish)"""


def _command_help(name: str) -> str:
    command = COMMANDS[name]
    width = max(len(line) for line, _ in command.examples)
    examples = "\n".join(f"  {line:<{width}}  {why}" for line, why in command.examples)
    groups = "\n".join(
        f"  {group:<13} {', '.join(options)}" for group, options in _config_groups().items()
    )
    return f"""\
usage: flowertune {name} [-m] [group=option ...] [key=value ...]

{command.description}

groups (group=option):
{groups}

keys (key=value), the ones people change most:
  seed=42  baselines=false  run.name=NAME  run.root=DIR
  trainer.epochs=10  trainer.batch_size=32  trainer.device=cuda  trainer.precision=bf16
  optimizer.lr=1e-3  optimizer.head_lr=5e-3  model.rank=8  augmentation.alpha=0.2
  data.root=DIR  data.shots=4  data.seed=0  backbone.path=DIR  backbone.text=false

  --cfg job          print the whole config instead of running it
  --config-dir DIR   add a folder of your own YAML files, laid out like conf/
  -m                 several runs: every combination of key=a,b,c

examples:
{examples}"""


def _config_groups() -> dict[str, list[str]]:
    from flowertune.conf_dir import conf_dir

    return {
        folder.name: sorted(_option_names(folder))
        for folder in sorted(conf_dir().iterdir())
        if folder.is_dir()
    }


def _option_names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml")]

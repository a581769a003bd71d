"""Write docs/reference/ from the config schema, the commands and the Python API's docstrings.

`python scripts/build_reference.py` rewrites the pages; tests/test_docs.py fails when they are
stale.
"""

import inspect
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import flowertune
from flowertune.commands.registry import COMMANDS
from flowertune.config.groups import SCHEMAS, conf_dir
from flowertune.config.key_list import Key, list_keys

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"
PUBLIC = ("load", "Predictor", "Prediction", "UnreadableImage", "UnreadableImageError")
PREDICTOR_METHODS = ("predict", "stream")  # the rest of it is for flowertune's own commands


def build_pages() -> dict[str, str]:
    """Render each page: file name -> Markdown."""
    return {
        "config.md": "\n".join(_config_page()),
        "commands.md": "\n".join(_commands_page()),
        "python.md": "\n".join(_python_page()),
    }


def _config_page() -> Iterator[str]:
    yield "# Config keys\n"
    yield (
        "Set a key with `key=value` and choose an option with `group=option`, for example "
        "`flowertune train data=folder trainer.epochs=20`. Methods and options change some of "
        "these defaults; `flowertune train method=mixup --cfg job` prints the config that a run "
        "gets.\n"
    )
    for group, keys in groupby(list_keys(), key=lambda key: key.group):
        yield f"## {group or 'Top level'}\n"
        options = _list_options(group)
        if options:
            yield f"Options: {', '.join(f'`{group}={option}`' for option in options)}.\n"
        yield "| key | default | type and range | meaning |"
        yield "|---|---|---|---|"
        yield from map(_key_row, keys)
        yield ""


def _list_options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")) if group else []


def _key_row(key: Key) -> str:
    default = f"`{key.default}`" if key.default else "required"
    only = ""
    if key.options and key.group in SCHEMAS:
        only = f" (only {', '.join(f'`{key.group}={option}`' for option in key.options)})"
    cells = (f"`{key.name}`", default, key.type, key.meaning + only)
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _commands_page() -> Iterator[str]:
    yield "# Commands\n"
    yield (
        "`flowertune COMMAND --help` prints the same on a terminal. Commands that compose a "
        "config also take `group=option` and `key=value` ([config keys](config.md)).\n"
    )
    for name, command in COMMANDS.items():
        yield f"## flowertune {name}\n"
        yield f"{command.description}\n"
        yield "```sh"
        width = max(map(len, command.examples))
        yield from (f"{line:<{width}}  # {note}" for line, note in command.examples.items())
        yield "```\n"
        flags = [each for each in command.arguments if each.is_flag]
        if flags:
            yield "| option | meaning |"
            yield "|---|---|"
            yield from (f"| `{flag.usage}` | {flag.meaning} |" for flag in flags)
            yield ""


def _python_page() -> Iterator[str]:
    yield "# Python API\n"
    yield "Everything here is imported from `flowertune`.\n"
    for name in PUBLIC:
        item = getattr(flowertune, name)
        if not inspect.isclass(item):
            yield from _entry(f"flowertune.{name}", item)
            continue
        yield f"## flowertune.{name}\n"
        yield f"{inspect.getdoc(item)}\n"
        for method in PREDICTOR_METHODS if name == "Predictor" else ():
            yield from _entry(f"{name}.{method}", getattr(item, method), level=3)


def _entry(title: str, function: object, level: int = 2) -> Iterator[str]:
    assert callable(function)
    yield f"{'#' * level} {title}\n"
    yield f"```python\n{title}{_signature(function)}\n```\n"
    yield f"{inspect.getdoc(function)}\n"


def _signature(function: object) -> str:
    """Format a signature without `self` and without the modules of its types."""
    assert callable(function)
    text = re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", str(inspect.signature(function)))
    return text.replace("(self, ", "(").replace("'", "")


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in build_pages().items():
        (FOLDER / name).write_text(f"{text.rstrip()}\n", encoding="utf-8")

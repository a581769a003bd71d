"""List the config's options and keys with their meaning, for help and docs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from flowertune.config.fields import MISSING, describe_type, format_value
from flowertune.config.groups import conf_dir
from flowertune.config.plugins import schemas
from flowertune.config.probe import ProbeConfig
from flowertune.config.run import RunConfig
from flowertune.config.schema import Config

# Methods from the baselines up; others follow by name.
_METHODS = ["zeroshot", "linear_probe", "lora", "mixup", "cutmix", "triplet", "best"]


@dataclass(frozen=True)
class Option:
    """Option of a group, as the first comment of its YAML file describes it.

    `when` (to use it) and `cost` are empty where the file does not say them; methods do.
    """

    name: str
    summary: str
    when: str = ""
    cost: str = ""


@dataclass(frozen=True)
class Key:
    """Config key. `default` is empty if it must be given; `type` includes the range.

    `options` are those options of the group that have the key, empty if all have it.
    """

    name: str
    group: str
    default: str
    type: str
    meaning: str
    options: tuple[str, ...] = ()


def list_options(group: str) -> list[Option]:
    """List the options of a group, with those of plug-ins."""
    folder = conf_dir() / group
    paths = {str(path.relative_to(folder).with_suffix("")): path for path in folder.rglob("*.yaml")}
    options = [read_option(name, path) for name, path in paths.items()]
    options += [
        Option(name, str(schema.__doc__).partition("\n")[0].rstrip("."))
        for name, schema in schemas().get(group, {}).items()
        if name not in paths and name != "default"
    ]
    order = {name: place for place, name in enumerate(_METHODS if group == "method" else ())}
    return sorted(options, key=lambda each: (order.get(each.name, len(order)), each.name))


def read_option(name: str, path: Path) -> Option:
    """Read the first comment of an option's YAML file.

    `# What: ...`, `# When: ...` and `# Cost: ...` are read as such, otherwise the first sentence.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = [line[2:] for line in lines if line.startswith("# ") and not line.startswith("# @")]
    found = dict(re.findall(r"^(What|When|Cost): (.+)$", "\n".join(comment), re.MULTILINE))
    sentence: str = re.split(r"\. |\.$", " ".join(comment), maxsplit=1)[0]
    return Option(name, found.get("What", sentence), found.get("When", ""), found.get("Cost", ""))


def list_keys() -> list[Key]:
    """List the keys of all groups, in the order of the config."""
    keys = [*_keys("", Config), *_keys("probe", ProbeConfig), *_keys("run", RunConfig)]
    for group, options in schemas().items():
        owners: dict[Key, list[str]] = {}
        for option, schema in options.items():
            for key in _keys(group, schema):
                owners.setdefault(key, []).append(option)
        for key, names in owners.items():
            some = () if len(names) == len(options) else tuple(names)
            keys.append(Key(key.name, group, key.default, key.type, key.meaning, some))
    return keys


def _keys(group: str, schema: type) -> Iterator[Key]:
    defaults = schema()
    for field in fields(schema):
        if field.metadata and (field.name != "name" or not field.metadata["choices"]):
            default = getattr(defaults, field.name)
            text = "" if default == MISSING else format_value(_rounded(default))
            name = f"{group}.{field.name}".lstrip(".")
            yield Key(name, group, text, describe_type(field), field.metadata["meaning"])


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return f"{value:.4g}" if isinstance(value, float) else value

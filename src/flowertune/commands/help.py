"""The config groups and keys, as `--help` lists them."""

from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from flowertune.config.fields import MISSING, describe_range
from flowertune.config.groups import conf_dir
from flowertune.config.plugins import plugins, schemas
from flowertune.config.probe import ProbeConfig
from flowertune.config.run import RunConfig
from flowertune.config.schema import Config


def groups_and_keys() -> str:
    """List the groups with their options, and the keys with default, meaning and range."""
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

"""The YAML files under conf/ show every key, with the defaults of the dataclasses."""

import re
from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from flowertune.config.groups import SCHEMAS, conf_dir
from flowertune.config.probe import ProbeConfig
from flowertune.config.run import RunConfig
from flowertune.config.schema import Config

OPTIONS = [(group, path.stem) for group in SCHEMAS for path in (conf_dir() / group).glob("*.yaml")]
# Keys that an option sets to other values than its dataclass, as they define the option.
CHOSEN = {
    "backbone/open_clip": {"source"},
    "backbone/local": {"source", "name", "tag"},
    "backbone/tiny": {"source", "name", "tag"},
    "backbone/vit_b16_openai": {"source", "name", "tag"},
    "backbone/vit_b32_laion2b": {"source", "name", "tag"},
    "backbone/vit_b32_openai": {"source", "name", "tag"},
    "data/flowers102": {"url", "templates"},
    "data/folder": {"templates"},
    "data/synthetic": {"templates"},
    "data/table": {"templates"},
}


def _read(path: Path) -> dict[str, Any]:
    """Read like Hydra, for which 1e-3 is a number."""
    plain = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _shown(group: str, option: str) -> tuple[type, dict[str, Any]]:
    """The option's dataclass, and the values of its file and of the options it builds on."""
    values = _read(conf_dir() / group / f"{option}.yaml")
    below, last = values.pop("defaults")
    assert last == "_self_", "a file must override what it builds on"
    if schema := re.fullmatch(rf"/schema/{group}/(\w+)@_here_", below):
        return SCHEMAS[group][schema[1]], values
    inherited_schema, inherited = _shown(group, below)
    return inherited_schema, {**inherited, **values}


def _default(declared: "Field[Any]") -> Any:
    factory = declared.default_factory
    return declared.default if factory is NO_DEFAULT else factory()


def _differing(schema: type, values: dict[str, Any]) -> set[str]:
    """16 differs from 16.0, as a key of type `float | int` takes both."""
    defaults = {each.name: _default(each) for each in fields(schema)}
    assert values.keys() == defaults.keys()
    return {name for name, value in values.items() if repr(value) != repr(defaults[name])}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_shows_every_key_with_its_default(group: str, option: str) -> None:
    """A required key is ??? in both."""
    assert _differing(*_shown(group, option)) == CHOSEN.get(f"{group}/{option}", set())


def test_the_config_shows_every_key_outside_groups() -> None:
    """All except method, which the presets set."""
    values = _read(conf_dir() / "config.yaml")
    for name, schema in (("probe", ProbeConfig), ("run", RunConfig)):
        assert _differing(schema, values.pop(name)) == set()
    del values["defaults"]
    plain = {each.name: _default(each) for each in fields(Config) if each.metadata}
    assert plain.pop("method") == "???"
    assert values == plain


def _texts() -> Iterator[Any]:
    for group, option in OPTIONS:
        text = (conf_dir() / group / f"{option}.yaml").read_text()
        yield pytest.param(text, _shown(group, option)[0], id=f"{group}-{option}")
    config = (conf_dir() / "config.yaml").read_text()
    for name, schema in (("probe", ProbeConfig), ("run", RunConfig)):
        (part,) = re.findall(rf"^{name}:\n((?:  .*\n)+)", config, re.MULTILINE)
        yield pytest.param(part, schema, id=name)


@pytest.mark.parametrize(("text", "schema"), _texts())
def test_each_key_has_a_comment_that_names_its_choices(text: str, schema: type) -> None:
    found = re.findall(r"((?:^ *# .*\n)*)^ *(\w+):(.*)", text, re.MULTILINE)
    comments = {key: above + line for above, key, line in found}
    for declared in fields(schema):
        if declared.name in comments:  # the others are in the option it builds on
            said = comments[declared.name]
            assert "# " in said, declared.name
            choices = declared.metadata["choices"] or ()
            assert set(choices) <= set(re.findall(r"\w+", said)), declared.name

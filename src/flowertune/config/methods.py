"""Read what each method is, when to use it and what it costs, from conf/method/*.yaml."""

import re
from dataclasses import dataclass
from pathlib import Path

from flowertune.config.groups import conf_dir

# From baselines to the largest adapters; others follow by name.
_ORDER = ["zeroshot", "linear_probe", "lora", "mixup", "cutmix", "triplet", "best"]


@dataclass(frozen=True)
class Method:
    """A preset, and the first comment lines of its file; empty where the file has none."""

    name: str
    what: str
    when: str
    cost: str


def list_methods() -> list[Method]:
    """List the methods of conf/method, baselines first."""
    paths = sorted((conf_dir() / "method").glob("*.yaml"), key=_place)
    return [read_method(path) for path in paths]


def read_method(path: Path) -> Method:
    """Read the comments `# What: ...`, `# When: ...` and `# Cost: ...` of a method's file."""
    text = path.read_text(encoding="utf-8")
    found = dict(re.findall(r"^# (What|When|Cost): (.+)$", text, re.MULTILINE))
    return Method(path.stem, *(found.get(key, "") for key in ("What", "When", "Cost")))


def _place(path: Path) -> tuple[int, str]:
    place = _ORDER.index(path.stem) if path.stem in _ORDER else len(_ORDER)
    return place, path.stem

"""Config of the run directory, and its default name."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowertune.config.fields import config_field
from flowertune.config.groups import RESULT_NEUTRAL_KEYS


@dataclass
class RunConfig:
    """Location, resumption, console and report of a run."""

    root: str = config_field("runs", "parent of the run directories")
    name: str | None = config_field(None, "the directory's name; null: made from what was typed")
    resume: str = config_field(
        "auto",
        "auto: an unfinished run goes on, a finished one is reported; never: both are refused; "
        "restart: both are replaced",
        choices=("auto", "never", "restart"),
    )
    console: str = config_field(
        "auto",
        "auto: a live view on a terminal, else lines; quiet: warnings and the run's path; "
        "json: objects on stdout, the rest on stderr",
        choices=("auto", "plain", "quiet", "json"),
    )
    report: bool = config_field(
        True, "make report.html at the end; flowertune report makes it, too"
    )


# overrides that say nothing about the result
_NEUTRAL = re.compile(rf"[+~]*({'|'.join(map(re.escape, RESULT_NEUTRAL_KEYS))}|hydra[./]|method=)")


def run_name(method: str, overrides: Sequence[str]) -> str:
    """Derive a directory name from the overrides: the same ones give the same name.

    The method, then the keys and values that were typed, shortened, then six digits that tell
    apart what shortening made equal. Keys of `hydra` do not count, nor those that no result
    depends on.
    """
    relevant = sorted(override for override in overrides if not _NEUTRAL.match(override))
    if not relevant:
        return method
    digest = hashlib.sha256("\n".join(relevant).encode()).hexdigest()[:6]
    parts = []
    for override in relevant:
        key, _, value = override.lstrip("+~").partition("=")
        value = Path(value).name if "/" in value else value
        parts.append(f"{key.rpartition('.')[2]}_{value}")
    parts.sort(key=len)  # a long value is cut, and not the seed that comes after it
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join([method, *parts]))[:80].rstrip("-_.")
    return f"{readable}-{digest}"

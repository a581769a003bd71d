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
    """Location, resumption, console output and report of a run."""

    root: str = config_field("runs", "parent directory of the run directories")
    name: str | None = config_field(None, "directory name; null: derived from the arguments")
    resume: str = config_field(
        "auto",
        "auto: continue an unfinished run, show the result of a finished one; never: refuse both; "
        "restart: replace both",
        choices=("auto", "never", "restart"),
    )
    console: str = config_field(
        "auto",
        "auto: live view on a terminal, plain otherwise; plain: lines; quiet: warnings and the "
        "run directory; json: JSON lines on stdout, the rest on stderr",
        choices=("auto", "plain", "quiet", "json"),
    )
    report: bool = config_field(True, "write report.html after training (also: flowertune report)")


# overrides that do not affect the result
_NEUTRAL = re.compile(rf"[+~]*({'|'.join(map(re.escape, RESULT_NEUTRAL_KEYS))}|hydra[./]|method=)")


def run_name(method: str, overrides: Sequence[str]) -> str:
    """Derive a directory name from the overrides, whatever their order.

    It holds the method, the overrides in short form, and six digits of their hash. Keys of `hydra`
    and keys that do not affect the result are ignored.
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
    parts.sort(key=len)  # long values last, so that they are cut and not the seed
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join([method, *parts]))[:80].rstrip("-_.")
    return f"{readable}-{digest}"

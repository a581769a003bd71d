"""What of Hydra's own settings may be set: how a sweep is done, and nothing that names code.

A config file may come from somebody else. Hydra would call what its callbacks, its logging and any
`_target_` name, so that these are its own plugins here or what conf/config.yaml has.
"""

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from flowertune.config_file import HYDRA
from flowertune.errors import Refused
from flowertune.keys import shown

_OPEN = ("mode", "launcher", "sweeper")
_QUIET = {"version": 1, "root": {"level": "ERROR"}, "disable_existing_loggers": True}
_CLOSED = {
    "callbacks": {},
    "hydra_logging": _QUIET,
    "job.env_copy": [],
    "job.env_set": {},
    "job_logging": _QUIET,
    "searchpath": [],
    "verbose": False,
}
_PLUGIN = re.compile(
    r"hydra\._internal\.core_plugins\.\w+\.\w+"
    r"|hydra_plugins\.\w+\.\w+\.\w+(Launcher|Sweeper)"
    r"|optuna\.samplers\.\w+Sampler"
)


def check_key(key: str, word: str) -> None:
    """Whether a typed word may be: nothing where it is not about hydra.

    Raises:
        Refused: the typed word sets a key or a group of `hydra` that is not for setting.
    """
    names = re.split(r"[./]", key)
    if names[0] == "hydra" and names[1:2] not in [[name] for name in _OPEN]:
        raise Refused(_closed(shown(word)))


def check(hydra: DictConfig) -> None:
    """The settings that were composed, from whatever files.

    Raises:
        Refused: a setting is not what it always is, or names code that is no plugin of Hydra's.
    """
    plain: Any = OmegaConf.to_container(hydra)
    for path, value in [*_leaves("", HYDRA), *_CLOSED.items()]:
        if _at(plain, path) != value:
            raise Refused(_closed(f"hydra.{path}"))
    for name in ("launcher", "sweeper"):
        if not isinstance(plain[name], dict):
            raise Refused(f"hydra.{name}={shown(plain[name])}: cannot be left out")
        for path, value in _leaves(f"hydra.{name}", plain[name]):
            last = path.rpartition(".")[2]
            if last == "_target_" and not _PLUGIN.fullmatch(str(value)):
                raise Refused(f"{path}={shown(value)}: must be a plugin of Hydra's")
            if last == "custom_search_space" and value is not None:
                raise Refused(f"{path}={shown(value)}: a config cannot name Python code")


def _closed(what: str) -> str:
    return f"{what}: is not for setting; of hydra, only {', '.join(_OPEN)} are"


def _at(node: Any, path: str) -> Any:
    for name in path.split("."):
        node = node[name]
    return node


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Each value that is no container, with its path."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = ((f"{path}.{key}".lstrip("."), each) for key, each in value.items())
    elif isinstance(value, list):
        inner = ((f"{path}[{index}]", each) for index, each in enumerate(value))
    else:
        yield path, value
    for deeper, each in inner:
        yield from _leaves(deeper, each)

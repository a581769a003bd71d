"""Check YAML files before Hydra composes them, as they may come from others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowertune.config.fields import escape_unprintable, format_value
from flowertune.config.groups import conf_dir
from flowertune.errors import UsageError, first_line

MAX_BYTES = 100_000  # a run's config.yaml has 2,000
MAX_VALUES = 10_000  # values behind an alias count each time


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's source of config files, which refuses files that are not configs.

    It has the name of Hydra's class, by which processes of a launcher find it.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path) / self._normalize_file_name(config_path)
        if not path.resolve().is_relative_to(conf_dir()):
            check(path)
        return super().load_config(config_path)


def register() -> None:
    """Register the checking source for Hydra's file:// paths."""
    Plugins.instance()  # registers Hydra's source first
    SourcesRegistry.instance().types["file"] = FileConfigSource


def check(path: Path) -> None:
    """Raise UsageError for a file that is not UTF-8 YAML, too large, or names Python code."""
    name = escape_unprintable(str(path))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{name}: has more than {MAX_BYTES:,} bytes; not a config")
        text = path.read_text(encoding="utf-8")
        for index, node in enumerate(_walk(yaml.compose(text, Loader=yaml.SafeLoader))):
            if index == MAX_VALUES:
                raise UsageError(f"{name}: has more than {MAX_VALUES:,} values; not a config")
            if "python" in node.tag:
                place = f"{name}, line {node.start_mark.line + 1}: {node.tag}"
                raise UsageError(f"{place}: a config cannot name Python code")
        config = OmegaConf.load(path)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{name}{line}: invalid YAML ({format_value(error.problem)})") from error
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise UsageError(f"{name}: is not a config ({format_value(first_line(error))})") from error
    if not isinstance(config, DictConfig):
        raise UsageError(f"{name}: is a list; a config must have keys with values")


def _walk(root: Any) -> Iterator[yaml.Node]:
    """Yield every node, once per alias; never ends if an alias contains itself."""
    stack = [root] if root else []
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, yaml.MappingNode):
            stack += [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value

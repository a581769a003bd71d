"""The YAML files that Hydra composes, each looked at before it is read: they may be anybody's."""

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

LARGEST = 100_000  # bytes; a run's config.yaml has 2,000
MOST = 10_000  # values, those that an alias repeats counted each time


class FileConfigSource(file_config_source.FileConfigSource):
    """A folder of config files, as Hydra has it; a file of it that is no config is refused.

    Of Hydra's own name, by which a launcher's other processes know what file:// is.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path) / self._normalize_file_name(config_path)
        if not path.resolve().is_relative_to(conf_dir()):
            check(path)
        return super().load_config(config_path)


def register() -> None:
    """From here on Hydra's file:// are looked at."""
    Plugins.instance()  # which registers Hydra's own
    SourcesRegistry.instance().types["file"] = FileConfigSource


def check(path: Path) -> None:
    """Whether the file is a config at all; what its keys may be is seen when it is composed.

    Raises:
        UsageError: it is no YAML in UTF-8, no keys with values, too large, or names Python code.
    """
    said = escape_unprintable(str(path))
    try:
        if path.stat().st_size > LARGEST:
            raise UsageError(f"{said}: has more than {LARGEST:,} bytes, and is no config")
        text = path.read_text(encoding="utf-8")
        for number, node in enumerate(_nodes(yaml.compose(text, Loader=yaml.SafeLoader))):
            if number == MOST:
                raise UsageError(f"{said}: has more than {MOST:,} values, and is no config")
            if "python" in node.tag:
                line = node.start_mark.line + 1
                raise UsageError(
                    f"{said}, line {line}: {node.tag}: a config cannot name Python code"
                )
        config = OmegaConf.load(path)
    except UnicodeDecodeError as error:
        raise UsageError(f"{said}: is not text in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{said}{line}: is not YAML ({format_value(error.problem)})") from error
    except OSError as error:
        raise UsageError(f"{said}: cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise UsageError(f"{said}: is no config ({format_value(first_line(error))})") from error
    if not isinstance(config, DictConfig):
        raise UsageError(f"{said}: is a list; a config has keys with values")


def _nodes(root: Any) -> Iterator[yaml.Node]:
    """All of it, as often as aliases repeat it; without end where one is within itself."""
    waiting = [root] if root else []
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, yaml.MappingNode):
            waiting += [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value

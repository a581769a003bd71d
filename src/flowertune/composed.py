"""What Hydra composed, as the checked dataclasses that everything else sees."""

import copy
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from flowertune.config.messages import composing
from flowertune.config.run import run_name
from flowertune.config.schema import Config
from flowertune.config.validate import check


def to_config(node: DictConfig) -> Config:
    """The composed node as checked dataclasses.

    Raises:
        Refused: for a key without a value or a value out of its range.
    """
    with composing():
        config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    check(config)
    _make_absolute(config)
    return config


def to_named_config(node: DictConfig) -> Config:
    config = to_config(node)
    if config.run.name is None:
        config.run.name = run_name(config.method, HydraConfig.get().overrides.task)
    return config


def typed_words(node: DictConfig) -> list[str]:
    """As they were typed: what a ${...} in one stands for is found when the config is composed."""
    words = OmegaConf.to_container(node.hydra.overrides.task, resolve=False)
    assert isinstance(words, list)
    return [str(word) for word in words]


def without_hydra(node: DictConfig) -> DictConfig:
    ours = copy.deepcopy(node)
    with read_write(ours), open_dict(ours):
        del ours["hydra"]
    return ours


def _make_absolute(config: Config) -> None:
    """What a run records must hold from any directory, so paths are anchored where they enter."""
    for holder, name in ((config.data, "root"), (config.backbone, "path")):
        path = getattr(holder, name, None)
        if path is not None:
            setattr(holder, name, str(Path(path).expanduser().absolute()))

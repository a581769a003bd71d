"""Schemas of the options of each config group, and the folder of their YAML files."""

from pathlib import Path
from typing import Any

from flowertune.config import augmentation, data, head, logger, loss
from flowertune.config.backbone import BackboneConfig
from flowertune.config.model import MODEL_CONFIGS
from flowertune.config.optimizer import OptimizerConfig
from flowertune.config.trainer import TrainerConfig

# Keys and groups that do not affect the result: changing them keeps the run.
RESULT_NEUTRAL_KEYS = ("run.", "logger", "data.residency", "trainer.checkpoint_minutes")


def _by_name(*schemas: Any) -> dict[str, type]:
    return {schema.name: schema for schema in schemas}


# Options of each group that have their own schema; conf/<group>/*.yaml build on them.
SCHEMAS: dict[str, dict[str, type]] = {
    "backbone": {"open_clip": BackboneConfig},
    "model": MODEL_CONFIGS,
    "head": _by_name(head.LinearHeadConfig, head.CosineHeadConfig, head.TextHeadConfig),
    "augmentation": _by_name(
        augmentation.NoAugmentationConfig,
        augmentation.BasicAugmentationConfig,
        augmentation.MixUpConfig,
        augmentation.CutMixConfig,
    ),
    "loss": _by_name(loss.CrossEntropyConfig, loss.FocalConfig, loss.TripletCrossEntropyConfig),
    "optimizer": _by_name(OptimizerConfig),
    "trainer": {"default": TrainerConfig},
    "data": _by_name(
        data.FolderConfig, data.TableConfig, data.Flowers102Config, data.SyntheticConfig
    ),
    "logger": _by_name(
        logger.LoggerConfig, logger.TensorBoardConfig, logger.WandbConfig, logger.MlflowConfig
    ),
}


def conf_dir() -> Path:
    """Locate conf/ in the installed package, or in the checkout of an editable install."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"

"""Schemas of each config group's options, and the folder of their YAML files."""

from pathlib import Path

from flowertune.config.augmentation import (
    BasicAugmentationConfig,
    CutMixConfig,
    MixUpConfig,
    NoAugmentationConfig,
)
from flowertune.config.backbone import BackboneConfig
from flowertune.config.data import Flowers102Config, FolderConfig, SyntheticConfig
from flowertune.config.head import CosineHeadConfig, LinearHeadConfig, TextHeadConfig
from flowertune.config.logger import LoggerConfig, MlflowConfig, TensorBoardConfig, WandbConfig
from flowertune.config.loss import CrossEntropyConfig, FocalConfig, TripletCrossEntropyConfig
from flowertune.config.model import MODEL_CONFIGS
from flowertune.config.optimizer import OptimizerConfig
from flowertune.config.trainer import TrainerConfig

# Keys and groups that no result depends on: the same run, whatever they are.
RESULT_NEUTRAL_KEYS = ("run.", "logger", "data.residency", "trainer.checkpoint_minutes")

# The options of each group that have a schema of their own; conf/<group>/*.yaml rest on them.
SCHEMAS: dict[str, dict[str, type]] = {
    "backbone": {"open_clip": BackboneConfig},
    "model": MODEL_CONFIGS,
    "head": {"linear": LinearHeadConfig, "cosine": CosineHeadConfig, "text": TextHeadConfig},
    "augmentation": {
        "none": NoAugmentationConfig,
        "basic": BasicAugmentationConfig,
        "mixup": MixUpConfig,
        "cutmix": CutMixConfig,
    },
    "loss": {
        "ce": CrossEntropyConfig,
        "focal": FocalConfig,
        "triplet_ce": TripletCrossEntropyConfig,
    },
    "optimizer": {"adamw": OptimizerConfig},
    "trainer": {"default": TrainerConfig},
    "data": {
        "folder": FolderConfig,
        "flowers102": Flowers102Config,
        "synthetic": SyntheticConfig,
    },
    "logger": {
        "none": LoggerConfig,
        "tensorboard": TensorBoardConfig,
        "wandb": WandbConfig,
        "mlflow": MlflowConfig,
    },
}


def conf_dir() -> Path:
    """Locate conf/: in an installed package, or at the top of a checkout (editable install)."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"

"""Typed config schema of a whole training."""

from dataclasses import dataclass, field

from flowertune.config.augmentation import AugmentationConfig
from flowertune.config.backbone import BackboneConfig
from flowertune.config.data import DataConfig
from flowertune.config.fields import MISSING, config_field
from flowertune.config.head import HeadConfig, LinearHeadConfig
from flowertune.config.logger import LoggerConfig
from flowertune.config.loss import LossConfig
from flowertune.config.model import ModelConfig
from flowertune.config.optimizer import OptimizerConfig
from flowertune.config.probe import ProbeConfig
from flowertune.config.run import RunConfig
from flowertune.config.trainer import TrainerConfig


@dataclass
class Config:
    """Complete config of one training."""

    method: str = config_field(MISSING, "the preset's name, for tables")
    seed: int = config_field(42, "fixes weights, order, crops and every other draw", at_least=0)
    baselines: bool = config_field(True, "zero-shot and linear probe beside the training")
    backbone: BackboneConfig = MISSING
    model: ModelConfig = MISSING
    head: HeadConfig = MISSING
    augmentation: AugmentationConfig = MISSING
    loss: LossConfig = MISSING
    optimizer: OptimizerConfig = MISSING
    trainer: TrainerConfig = MISSING
    data: DataConfig = MISSING
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    run: RunConfig = field(default_factory=RunConfig)


def head_from_probe(config: Config) -> bool:
    """Whether the head is, or starts as, the linear probe of the frozen features."""
    head = config.head
    return config.model.is_probe or (isinstance(head, LinearHeadConfig) and head.from_probe)

"""Typed schema of the complete config."""

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

    method: str = config_field(MISSING, "name of the method preset, shown in tables")
    seed: int = config_field(42, "random seed: weights, order, crops, everything", at_least=0)
    baselines: bool = config_field(True, "also evaluate zero-shot and a linear probe")
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
    """Whether the head is, or starts from, the linear probe of the frozen features."""
    head = config.head
    return config.model.is_probe or (isinstance(head, LinearHeadConfig) and head.from_probe)

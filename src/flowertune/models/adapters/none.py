"""No adapter: the image tower stays as it is, and the head is found on its frozen features."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from flowertune.config.model import LinearProbeConfig, ModelConfig, ZeroShotConfig
from flowertune.models.backbone import Backbone


@dataclass(frozen=True)
class NoAdapter:
    """See `protocol.Adapter`."""

    config: type[ModelConfig]
    is_peft: bool = False
    outside_tower: None = None

    def count(self, settings: ModelConfig, backbone: Backbone) -> int:
        return 0

    def attach(self, settings: ModelConfig, backbone: Backbone, seed: int) -> None:
        return None

    def training_modules(self, visual: nn.Module) -> tuple[nn.Module, ...]:
        return ()

    def save(self, visual: nn.Module, prompts: object, folder: Path) -> None:
        return None

    def load(self, backbone: Backbone, folder: Path) -> None:
        return None

    def merge(self, visual: nn.Module) -> Callable[[], None]:
        return lambda: None

    def is_scaled(self, name: str) -> bool:
        return False


LINEAR_PROBE = NoAdapter(LinearProbeConfig)
ZEROSHOT = NoAdapter(ZeroShotConfig)

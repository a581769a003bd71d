"""Train parameters that the image tower has already: all, some or none."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from flowertune import files
from flowertune.config.model import ModelConfig
from flowertune.errors import UsageError
from flowertune.models.backbone import Backbone

WEIGHTS_FILE = "visual.safetensors"


@dataclass(frozen=True)
class TowerParameters:
    """Train the tensors that `select` names among those of the tower's state_dict.

    `trains_mode`: the tower is in training mode, too, with its dropouts and running statistics.
    """

    config: type[ModelConfig]
    select: Callable[[nn.Module], Iterable[str]]
    trains_mode: bool = False
    is_peft: bool = False
    outside_tower: None = None

    def count(self, settings: ModelConfig, backbone: Backbone) -> int:
        """Count the numbers; raises UsageError where the tower has none of these parameters."""
        selected = self._state(backbone.visual)
        if self.config.trains_backbone and not selected:
            raise UsageError(
                f"model={settings.name}: the image tower of {backbone.name} is a"
                f" {type(backbone.visual).__name__} that has none of what it trains: use"
                " model=linear_probe or model=full"
            )
        return sum(tensor.numel() for tensor in selected.values())

    def attach(self, settings: ModelConfig, backbone: Backbone, seed: int) -> None:
        """Make the parameters trainable."""
        selected = self._state(backbone.visual)
        for name, parameter in backbone.visual.named_parameters():
            parameter.requires_grad_(name in selected)

    def training_modules(self, visual: nn.Module) -> list[nn.Module]:
        """The whole tower or nothing."""
        return [visual] if self.trains_mode else []

    def save(self, visual: nn.Module, prompts: object, folder: Path) -> None:
        """Write the tensors under the names that they have in the tower; no file for none."""
        state = {name: tensor.contiguous() for name, tensor in self._state(visual).items()}
        if state:
            files.write_bytes(folder / WEIGHTS_FILE, safetensors.torch.save(state))

    def load(self, backbone: Backbone, folder: Path) -> None:
        """Put the tensors in the place of the tower's own."""
        if not self.config.trains_backbone:
            return
        try:
            state = safetensors.torch.load_file(folder / WEIGHTS_FILE)
            if different := sorted(state.keys() ^ self._state(backbone.visual).keys()):
                raise ValueError(f"{different[0]} is in one of them only")
            backbone.visual.load_state_dict(state, strict=False)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder.name}/{WEIGHTS_FILE}") from error

    def merge(self, visual: nn.Module) -> Callable[[], None]:
        """Do nothing: they are the tower's."""
        return lambda: None

    def is_scaled(self, name: str) -> bool:
        """All of them go in a straight line from the pretrained to the trained ones."""
        return True

    def _state(self, visual: nn.Module) -> dict[str, Tensor]:
        state: dict[str, Tensor] = visual.state_dict()
        return {name: state[name] for name in self.select(visual)}

"""Train parameters that the image tower already has: all, some or none."""

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
    """Adapter that trains the tensors of the tower's state_dict that `select` names.

    `trains_mode` puts the tower into training mode, with dropout and updated running statistics.
    """

    config: type[ModelConfig]
    select: Callable[[nn.Module], Iterable[str]]
    trains_mode: bool = False
    is_peft: bool = False
    outside_tower: None = None

    def count(self, settings: ModelConfig, backbone: Backbone) -> int:
        """Count the selected values; raises UsageError if the tower has no such parameters."""
        selected = self._state(backbone.visual)
        if self.config.trains_backbone and not selected:
            raise UsageError(
                f"model={settings.name}: the image encoder of {backbone.name}"
                f" ({type(backbone.visual).__name__}) has no parameters that it trains; use"
                " model=linear_probe or model=full"
            )
        return sum(tensor.numel() for tensor in selected.values())

    def attach(self, settings: ModelConfig, backbone: Backbone, seed: int) -> None:
        selected = self._state(backbone.visual)
        for name, parameter in backbone.visual.named_parameters():
            parameter.requires_grad_(name in selected)

    def training_modules(self, visual: nn.Module) -> list[nn.Module]:
        return [visual] if self.trains_mode else []

    def save(self, visual: nn.Module, prompts: object, folder: Path) -> None:
        """Write the tensors under their names in the tower; without tensors, no file."""
        state = {name: tensor.contiguous() for name, tensor in self._state(visual).items()}
        if state:
            files.write_bytes(folder / WEIGHTS_FILE, safetensors.torch.save(state))

    def load(self, backbone: Backbone, folder: Path) -> None:
        """Replace the tower's tensors by the saved ones."""
        if not self.config.trains_backbone:
            return
        try:
            state = safetensors.torch.load_file(folder / WEIGHTS_FILE)
            if different := sorted(state.keys() ^ self._state(backbone.visual).keys()):
                raise ValueError(f"{different[0]} is only in the file or only in the tower")
            backbone.visual.load_state_dict(state, strict=False)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder.name}/{WEIGHTS_FILE}") from error

    def merge(self, visual: nn.Module) -> Callable[[], None]:
        """Do nothing: the tensors already belong to the tower."""
        return lambda: None

    def is_scaled(self, name: str) -> bool:
        """All are scaled, which interpolates between pretrained and trained values."""
        return True

    def _state(self, visual: nn.Module) -> dict[str, Tensor]:
        state: dict[str, Tensor] = visual.state_dict()
        return {name: state[name] for name in self.select(visual)}

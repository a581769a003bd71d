"""The classifier: an image tower with its adapter, and a head, as one module."""

from collections.abc import Mapping
from typing import Literal

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from flowertune.models.backbone import Backbone
from flowertune.models.heads import Head
from flowertune.models.vision_tower import embed
from flowertune.models.visual_prompts import VisualPrompts

Mode = Literal["lora", "vpt", "full", "zeroshot", "linear_probe"]
FROZEN = ("zeroshot", "linear_probe")  # nothing in the tower is trained


class Classifier(nn.Module):
    """`forward(images) -> (embedding, logits)`; the text tower stays outside.

    `mode` says what is trained beside the head: "lora" the adapter that `add_lora` put into the
    backbone, "vpt" the prompts, "full" the whole image tower, "linear_probe" nothing; "zeroshot":
    not even the head.
    """

    def __init__(
        self, backbone: Backbone, head: Head, mode: Mode, prompts: VisualPrompts | None = None
    ) -> None:
        super().__init__()
        self.visual = backbone.visual
        self.prompts = prompts
        self.head = head
        self.mode = mode
        self.dropouts = [
            layer.lora_dropout for layer in self.visual.modules() if isinstance(layer, LoraLayer)
        ]
        if mode == "full":
            self.visual.requires_grad_(True)
        if mode == "zeroshot":
            self.head.requires_grad_(False)
        assert (mode == "lora") == bool(self.dropouts), f"mode {mode!r} does not fit the backbone"
        assert (mode == "vpt") == (prompts is not None), f"mode {mode!r} does not fit the prompts"
        self.train(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalized images (B, 3, H, W) -> embedding (B, E), logits (B, C), in float32."""
        if self.mode in FROZEN:
            with torch.no_grad():
                embedding = embed(self.visual, images).float()
        else:
            embedding = embed(self.visual, images, self.prompts).float()
        return embedding, self.head(embedding)

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode; frozen parts stay in eval mode, and in LoRA towers only dropouts train."""
        super().train(mode)
        if self.mode != "full":
            self.visual.eval()
            for dropout in self.dropouts:
                dropout.train(mode)
        return self

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Group the trainable parameters for separate learning rates: "adapter" and "head"."""
        return {
            "adapter": list(self._adapter_parameters().values()),
            "head": [p for p in self.head.parameters() if p.requires_grad],
        }

    @property
    def trainable_parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for group in self.parameter_groups().values() for p in group)

    def trainable_state(self) -> dict[str, Tensor]:
        """Copy to the CPU the state of the trained part of the tower and of the whole head."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in self._state_views().items()}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a state from `trainable_state`, in place.

        Raises ValueError where names or shapes differ.
        """
        current = self._state_views()
        if different := sorted(current.keys() ^ state.keys()):
            raise ValueError(f"state of another classifier: {different[0]} is in one of them only")
        for name, tensor in current.items():
            if tensor.shape != state[name].shape:
                raise ValueError(f"{name}: {tuple(tensor.shape)} is not {tuple(state[name].shape)}")
        for name, tensor in current.items():
            tensor.copy_(state[name])

    def _adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters before the head, by name."""
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if parameter.requires_grad and not name.startswith("head.")
        }

    def _state_views(self) -> dict[str, Tensor]:
        """Views, without gradient: the adapter's parameters (the tower's and its buffers where all
        of it trains) and the head's parameters and buffers."""
        if self.mode == "full":
            adapter = {f"visual.{name}": t for name, t in self.visual.state_dict().items()}
        else:
            adapter = {name: p.detach() for name, p in self._adapter_parameters().items()}
        head = {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        return {**adapter, **head}

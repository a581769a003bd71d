"""The classifier: an image tower with its adapter, and a head, as one module."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from flowertune.models.adapters.protocol import Adapter
from flowertune.models.backbone import Backbone
from flowertune.models.heads import Head
from flowertune.models.vision_tower import embed
from flowertune.models.visual_prompts import VisualPrompts


class Classifier(nn.Module):
    """`forward(images) -> (embedding, logits)`; the text tower stays outside.

    `adapter` has been put into the backbone; `prompts` are what it gave for the forward pass.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        adapter: Adapter,
        prompts: VisualPrompts | None = None,
    ) -> None:
        super().__init__()
        self.visual = backbone.visual
        self.prompts = prompts
        self.head = head
        self.adapter = adapter
        if not (adapter.config.trains_backbone or adapter.config.is_probe):
            self.head.requires_grad_(False)
        self.train(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalized images (B, 3, H, W) -> embedding (B, E), logits (B, C), in float32."""
        with nullcontext() if self.adapter.config.trains_backbone else torch.no_grad():
            embedding = embed(self.visual, images, self.prompts).float()
        return embedding, self.head(embedding)

    def train(self, mode: bool = True) -> "Classifier":
        """Set the mode; of the tower, only what the adapter trains in that mode leaves eval."""
        super().train(mode)
        self.visual.eval()
        for module in self.adapter.training_modules(self.visual):
            module.train(mode)
        return self

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Merge the adapter into the tower inside the context, and no bit is changed after it."""
        unmerge = self.adapter.merge(self.visual)
        try:
            yield
        finally:
            unmerge()

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Group the trainable parameters for separate learning rates: "adapter" and "head"."""
        return {
            group: [
                parameter
                for name, parameter in self.named_parameters()
                if parameter.requires_grad and name.startswith("head.") == (group == "head")
            ]
            for group in ("adapter", "head")
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

    def _state_views(self) -> dict[str, Tensor]:
        """Views, without gradient, of what changes in a training, and of the whole head."""
        buffers = {
            id(buffer)
            for module in self.adapter.training_modules(self.visual)
            for buffer in module.buffers()
        }
        return {
            name: tensor.detach()
            for name, tensor in self.state_dict(keep_vars=True).items()
            if name.startswith("head.") or tensor.requires_grad or id(tensor) in buffers
        }

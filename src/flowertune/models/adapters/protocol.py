"""The interface of adapters; other code knows an adapter only through it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from flowertune.config.model import ModelConfig
from flowertune.models.backbone import Backbone
from flowertune.models.visual_prompts import VisualPrompts


class Adapter(Protocol):
    """A method for training a backbone's image tower. It holds no reference to a tower.

    Its state is the tower's parameters with `requires_grad`, which are trained, and the buffers
    of `training_modules`. `settings` is always an instance of `config`.
    """

    @property
    def config(self) -> type[ModelConfig]:
        """Class of the settings; its `name` is the adapter's name."""

    @property
    def is_peft(self) -> bool:
        """Whether `save` writes PEFT format."""

    @property
    def outside_tower(self) -> str | None:
        """Name of the part that `merge` cannot put into the tower's weights, or None."""

    def count(self, settings: Any, backbone: Backbone) -> int:
        """Count the values of the state without attaching the adapter.

        Raises UsageError if this backbone or these settings are not supported.
        """

    def attach(self, settings: Any, backbone: Backbone, seed: int) -> VisualPrompts | None:
        """Add the adapter to the frozen image tower in place and make it trainable.

        Initial values depend on `seed`. Returns the prompts for the forward pass, or None.
        """

    def training_modules(self, visual: nn.Module) -> Iterable[nn.Module]:
        """Return the modules to set to training mode; the rest of the tower stays in eval mode."""

    def save(self, visual: nn.Module, prompts: VisualPrompts | None, folder: Path) -> None:
        """Write the trained adapter to `folder`, the adapter/ folder of a run."""

    def load(self, backbone: Backbone, folder: Path) -> VisualPrompts | None:
        """Add a saved adapter to the image tower in place, frozen; returns what `attach` returns.

        Raises UsageError if it is missing or does not fit, ValueError with the name of a damaged
        file.
        """

    def merge(self, visual: nn.Module) -> Callable[[], None]:
        """Merge the adapter into the weights of the tower, which gets its original modules back.

        Returns a function that undoes the merge exactly, bit for bit.
        """

    def is_scaled(self, name: str) -> bool:
        """Whether WiSE-FT, which scales the adapter, scales this tensor of the state."""

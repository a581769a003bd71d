"""What each adapter offers; it says here and nowhere else what it is."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from flowertune.config.model import ModelConfig
from flowertune.models.backbone import Backbone
from flowertune.models.visual_prompts import VisualPrompts


class Adapter(Protocol):
    """One way to train a backbone's image tower; keeps nothing of the towers it is put into.

    Of a tower with the adapter, the parameters with `requires_grad` are trained, and they are its
    state, with the buffers of `training_modules`. `settings` are always of the class `config`.
    """

    @property
    def config(self) -> type[ModelConfig]:
        """Its settings; their `name` is the adapter's."""

    @property
    def is_peft(self) -> bool:
        """Whether `save` writes PEFT's format."""

    @property
    def outside_tower(self) -> str | None:
        """What no weights of the tower can hold, even merged; None: they hold all of it."""

    def count(self, settings: Any, backbone: Backbone) -> int:
        """Count the numbers of its state, before any work.

        Raises UsageError where it cannot be put into this backbone, or not with these settings.
        """

    def attach(self, settings: Any, backbone: Backbone, seed: int) -> VisualPrompts | None:
        """Put it into the frozen image tower in place, drawn from the seed, and make it trainable.

        Returns the prompts that the tower gets in each forward pass, where it is those.
        """

    def training_modules(self, visual: nn.Module) -> Iterable[nn.Module]:
        """Find what is in training mode in a training; all else of the tower stays in eval mode."""

    def save(self, visual: nn.Module, prompts: VisualPrompts | None, folder: Path) -> None:
        """Write the trained adapter into a run's adapter/ folder."""

    def load(self, backbone: Backbone, folder: Path) -> VisualPrompts | None:
        """Put a saved adapter into the image tower in place, frozen; returns as `attach` does.

        Raises UsageError where it is missing or does not fit, ValueError with the name of a
        damaged file.
        """

    def merge(self, visual: nn.Module) -> Callable[[], None]:
        """Merge it into the weights of the tower, which then has its original modules.

        Returns a function that takes it out again and leaves every bit as it was.
        """

    def is_scaled(self, name: str) -> bool:
        """Whether scaling the adapter (WiSE-FT) scales this tensor of its state."""

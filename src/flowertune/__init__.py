"""Adapt CLIP to fine-grained image classification from a few images per class."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "UnreadableImage", "UnreadableImageError", "load"]

if TYPE_CHECKING:
    from flowertune.data.image import UnreadableImageError
    from flowertune.inference.predictor import Prediction, Predictor, UnreadableImage, load


def __getattr__(name: str) -> Any:
    """Import public names on first use: they need torch."""
    if name in __all__:
        from flowertune.inference import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'flowertune' has no attribute {name!r}")

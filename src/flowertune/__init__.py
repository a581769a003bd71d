"""Adapts CLIP to fine-grained image classification from a few photos per class."""

__version__ = "0.1.0"

"""Trained weights on disk: safetensors, never a pickle, whole or absent."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from flowertune import files


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Writes CPU tensors by name."""
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    files.write_bytes(path, safetensors.torch.save(contiguous))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Reads what `save_weights` wrote, on the CPU."""
    tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
    return tensors

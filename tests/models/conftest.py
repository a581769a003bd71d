"""Small open_clip models with towers of other kinds, and visual prompts for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flowertune.config.model import VptConfig
from flowertune.models.adapters.vpt import VPT
from flowertune.models.backbone import Backbone
from flowertune.models.visual_prompts import VisualPrompts


@pytest.fixture(scope="session")
def resnet_dir(
    tmp_path_factory: pytest.TempPathFactory,
    write_open_clip: Callable[[Path, dict[str, Any]], Path],
    small_config: dict[str, Any],
) -> Path:
    resnet = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}
    folder = tmp_path_factory.mktemp("weights") / "small-resnet"
    return write_open_clip(folder, {**small_config, "vision_cfg": resnet})


@pytest.fixture(scope="session")
def tower_dir(
    tmp_path_factory: pytest.TempPathFactory,
    write_open_clip: Callable[[Path, dict[str, Any]], Path],
    small_config: dict[str, Any],
) -> Callable[..., Path]:
    """`tower_dir(**options)`: the small model's directory, with these options of open_clip's."""
    folders: dict[str, Path] = {}

    def tower_dir(**options: Any) -> Path:
        if (key := str(options)) not in folders:
            vision = {**small_config["vision_cfg"], **options}
            folder = tmp_path_factory.mktemp("weights") / "small-vit"
            folders[key] = write_open_clip(folder, {**small_config, "vision_cfg": vision})
        return folders[key]

    return tower_dir


def _initial_prompts(backbone: Backbone, **changes: Any) -> VisualPrompts:
    seed = changes.pop("seed", 42)
    return VPT.attach(VptConfig(**{"num_prompts": 5, **changes}), backbone, seed)


@pytest.fixture(scope="session")
def initial_prompts() -> Callable[..., VisualPrompts]:
    """`initial_prompts(backbone, **changes)`: five to a block, deep, but for the changes."""
    return _initial_prompts


@pytest.fixture(scope="session")
def trained_prompts() -> Callable[..., VisualPrompts]:
    """`trained_prompts(backbone, **changes)`: these as if trained, as large as the tokens."""

    def trained_prompts(backbone: Backbone, **changes: Any) -> VisualPrompts:
        prompts = _initial_prompts(backbone, **changes)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            prompts.embeddings.copy_(torch.randn(prompts.embeddings.shape, generator=generator))
        return prompts

    return trained_prompts

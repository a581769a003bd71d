"""A small open_clip model whose image tower is no transformer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def resnet_dir(
    tmp_path_factory: pytest.TempPathFactory,
    write_open_clip: Callable[[Path, dict[str, Any]], Path],
    small_config: dict[str, Any],
) -> Path:
    resnet = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}
    folder = tmp_path_factory.mktemp("weights") / "small-resnet"
    return write_open_clip(folder, {**small_config, "vision_cfg": resnet})

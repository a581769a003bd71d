"""Check of the disk space before a run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flowertune.config.schema import Config
from flowertune.errors import UsageError
from flowertune.models import factory
from flowertune.training import disk_space

CLASSES = 5
PHOTOS: Any = SimpleNamespace(
    splits={"train": SimpleNamespace(split=range(100)), "val": SimpleNamespace(split=range(50))},
    dataset=SimpleNamespace(class_names=["a"] * CLASSES),
)
METHODS = (
    ("method=lora", "model.rank=4", "model.targets=[q,mlp]", "model.layers=[1,3]"),
    ("method=lora", "trainer.ema=0.9"),
    ("method=vpt",),
    ("method=vpt_deep", "model.depth=2"),
    ("method=dora", "model.targets=[v,mlp]"),
    ("method=layernorm",),
    ("method=bitfit",),
    ("method=full",),
    ("method=linear_probe",),
)


@pytest.mark.parametrize("words", METHODS, ids=" ".join)
def test_the_count_matches_the_parameters_that_each_method_saves(
    words: tuple[str, ...], compose: Callable[..., Config]
) -> None:
    config = compose("experiment=quickstart", *words)
    backbone = factory.load_backbone(config.backbone, config.seed, None)
    counted = disk_space.saved_parameters(config, backbone, CLASSES)
    width = backbone.embedding_dim
    probe = (
        torch.zeros(CLASSES, width).double(), torch.zeros(CLASSES).double(),
        torch.zeros(width).double(), torch.ones(width).double(),
    )  # fmt: skip
    features = torch.randn(9, width)
    classifier = factory.build_classifier(config, backbone, CLASSES, features, None, probe)
    real = sum(tensor.numel() for tensor in classifier.trainable_state().values())
    assert real <= counted <= real + 4


def test_only_a_run_that_does_not_fit_is_refused(
    compose: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "not" / "yet"
    config = compose("experiment=quickstart", "method=full", f"run.root={root}")
    backbone = factory.load_backbone(config.backbone, config.seed, None)

    def free(size: int) -> None:
        disk = shutil._ntuple_diskusage(10**12, 10**12 - size, size)

        def usage(path: Path) -> Any:
            assert path == tmp_path  # the disk that it will be on
            return disk

        monkeypatch.setattr(shutil, "disk_usage", usage)

    numbers = sum(tensor.numel() for tensor in backbone.visual.state_dict().values())
    # best/ and adapter/; two checkpoints and a third in work, each of weights, AdamW's two, kept
    free(4 * numbers * (2 + 3 * 4))
    with pytest.raises(
        UsageError, match=r"run\.root=.*: the run needs about .* MB are free"
    ) as said:
        disk_space.check_disk_space(config, backbone, PHOTOS)
    assert "\n" not in str(said.value)
    (root / str(config.run.name)).mkdir(parents=True)
    (root / str(config.run.name) / "kept").write_bytes(bytes(10**6))  # of an unfinished run
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(
        10**12, 10**12, 4 * numbers * (2 + 3 * 4)))  # fmt: skip
    disk_space.check_disk_space(config, backbone, PHOTOS)
    shutil.rmtree(tmp_path / "not")
    free(4 * numbers * (2 + 3 * 4) + 10**6)
    disk_space.check_disk_space(config, backbone, PHOTOS)

"""Backbones that are carried to another machine, or have moved."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from flowertune import load
from flowertune.errors import UsageError
from flowertune.models import backbone as backbones
from flowertune.models import pretrained


def test_an_exported_backbone_is_the_same_elsewhere(flowertune: Any, tmp_path: Path) -> None:
    words = ("data", "prepare", "backbone=tiny", "--export-backbone", "carried")
    done = flowertune(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "backbone=local backbone.path=carried" in done.stdout
    ours = backbones.load_directory(backbones.TINY, text=True)
    theirs = backbones.load_directory(tmp_path / "carried", text=True)
    assert theirs.weights_sha256 == ours.weights_sha256
    images = torch.randn(2, 3, *ours.preprocessing.size)
    assert torch.equal(ours.encode_image(images), theirs.encode_image(images))
    assert torch.equal(ours.encode_text(["a rose"]), theirs.encode_text(["a rose"]))
    again = flowertune(*words, cwd=tmp_path)
    assert again.returncode == 2
    assert "carried: already exists" in again.stderr


def test_a_run_is_told_where_its_backbone_is_now(
    flowertune: Any, small: tuple[str, ...], tmp_path: Path
) -> None:
    shutil.copytree(backbones.TINY, tmp_path / "weights")
    done = flowertune(
        "train", "method=lora", *small, "backbone=local", "backbone.path=weights", "run.name=r",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run, image = tmp_path / "runs/r", tmp_path / "image.png"
    Image.new("RGB", (64, 64), "red").save(image)
    before = load(run).predict(image)
    (tmp_path / "weights").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match=r"does not exist;.*give .* with --backbone-path DIR"):
        load(run)
    assert load(run, backbone_path=tmp_path / "moved").predict(image) == before
    where = ("--backbone-path", "moved")
    for words in (
        ("predict", "runs/r", "image.png", *where),
        ("evaluate", "runs/r", "backbone.path=moved"),
        ("export", "runs/r", "--format", "open_clip", "--output", "out", *where),
    ):
        done = flowertune(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with (tmp_path / "moved/open_clip_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        byte = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([byte[0] ^ 1]))
    done = flowertune("predict", "runs/r", "image.png", *where, cwd=tmp_path)
    assert done.returncode == 2
    assert "has changed since the training (weights_sha256)" in done.stderr


def test_a_repository_of_the_hub_is_loaded_as_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshots" / "abc"
    shutil.copytree(backbones.TINY, snapshot)
    asked = []

    def fetch(repo: str, filenames: tuple[str, ...], what: str) -> Path:
        asked.append((repo, filenames[0]))
        return snapshot / filenames[0]

    monkeypatch.setattr(pretrained, "fetch", fetch)
    loaded = backbones.load_pretrained("hf-hub:owner/bioclip", "main")
    assert (loaded.name, loaded.tag) == ("hf-hub:owner/bioclip", "main")
    assert asked == [
        ("owner/bioclip", "open_clip_config.json"),
        ("owner/bioclip", "open_clip_model.safetensors"),
    ]


def test_paths_in_the_wrong_place_are_named(tmp_path: Path) -> None:
    (tmp_path / "ViT-B-32.pt").touch()
    with pytest.raises(UsageError, match=r"ViT-B-32.pt: is a file; give a folder with open_clip"):
        backbones.load_directory(tmp_path / "ViT-B-32.pt", text=True)
    with pytest.raises(UsageError, match=r"My-Weights/x.pt: is a path; .*backbone=local"):
        backbones.load_pretrained("ViT-B-32", "./My-Weights/x.pt")

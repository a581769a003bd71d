"""Saved classifiers can be loaded, and read by other libraries."""

import json
from dataclasses import asdict

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from flowertune.config.backbone import BackboneConfig
from flowertune.config.head import CosineHeadConfig, LinearHeadConfig
from flowertune.config.model import FullConfig, LinearProbeConfig, LoraConfig, VptConfig
from flowertune.config.schema import Config
from flowertune.models import serialization
from flowertune.models.adapters.vpt import VPT
from flowertune.models.backbone import load_directory
from flowertune.models.factory import build_classifier
from flowertune.models.vision_tower import embed

CLASSES = ("rose", "Gänseblümchen", "a [b]")


def config(small_dir, model, head):
    return Config(
        method="x",
        backbone=BackboneConfig(
            source="directory", name="local", tag="local", path=str(small_dir), text=False
        ),
        model=model,
        head=head,
    )


def write(small_dir, folder, model, head=None):
    """A classifier with random weights, written to `folder`."""
    settings = config(small_dir, model, head or LinearHeadConfig())
    backbone = load_directory(small_dir, text=False)
    features = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    weight, bias = torch.randn(3, 32).double(), torch.randn(3).double()
    probe = (weight, bias, torch.zeros(32), torch.ones(32))
    classifier = build_classifier(settings, backbone, len(CLASSES), features, None, probe)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in classifier.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 8)
    folder.mkdir(exist_ok=True)
    serialization.save_classifier(folder, settings, backbone, classifier, CLASSES)
    return settings, backbone, classifier


def standardized_linear(state, embedding):
    """The head computed from its file without flowertune."""
    standard = (embedding - state["mean"]) / state["std"]
    return nn.functional.linear(standard, state["linear.weight"], state["linear.bias"])


@torch.no_grad()
def test_plain_peft_and_the_head_file_give_the_same_logits(small_dir, images, tmp_path):
    model = LoraConfig(rank=4, alpha=8.0, dropout=0.2, targets=["q", "v", "mlp"])
    _, _, classifier = write(small_dir, tmp_path, model)
    embedding, logits = classifier(images)
    assert {path.name for path in tmp_path.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "head.safetensors", "model.json",
    }  # fmt: skip

    fresh = load_directory(small_dir, text=False)
    frozen = fresh.encode_image(images)
    loaded = peft.PeftModel.from_pretrained(fresh.visual, str(tmp_path))
    again = loaded(images)
    torch.testing.assert_close(again, embedding, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(again, frozen)
    head = load_file(tmp_path / "head.safetensors")
    assert torch.equal(standardized_linear(head, embedding), logits)


@torch.no_grad()
def test_prompts_and_the_head_file_give_the_same_logits(small_dir, images, tmp_path):
    model = VptConfig(num_prompts=4, depth=2, dropout=0.3, position="end")
    _, _, classifier = write(small_dir, tmp_path, model)
    embedding, logits = classifier(images)
    assert {path.name for path in tmp_path.iterdir()} == {
        "prompts.json", "prompts.safetensors", "head.safetensors", "model.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "model.json").read_text())["model"] == asdict(model)
    fresh = load_directory(small_dir, text=False)
    again = embed(fresh.visual, images, VPT.load(fresh, tmp_path))
    assert torch.equal(again, embedding)
    assert not torch.allclose(again, fresh.encode_image(images))
    head = load_file(tmp_path / "head.safetensors")
    assert torch.equal(standardized_linear(head, embedding), logits)


@torch.no_grad()
def test_a_full_tower_is_loaded_bit_identical(small_dir, images, tmp_path):
    _, _, classifier = write(small_dir, tmp_path, FullConfig())
    embedding, logits = classifier(images)
    assert {path.name for path in tmp_path.iterdir()} == {
        "visual.safetensors", "head.safetensors", "model.json",
    }  # fmt: skip
    fresh = load_directory(small_dir, text=False)
    fresh.visual.load_state_dict(load_file(tmp_path / "visual.safetensors"), strict=True)
    again = fresh.encode_image(images)
    assert torch.equal(again, embedding)
    head = load_file(tmp_path / "head.safetensors")
    assert torch.equal(standardized_linear(head, embedding), logits)


@torch.no_grad()
def test_a_frozen_backbone_saves_only_its_head(small_dir, images, tmp_path):
    _, _, classifier = write(small_dir, tmp_path, LinearProbeConfig())
    _, logits = classifier(images)
    assert {path.name for path in tmp_path.iterdir()} == {"head.safetensors", "model.json"}
    state = load_file(tmp_path / "head.safetensors")
    frozen = load_directory(small_dir, text=False).encode_image(images)
    expected = standardized_linear(state, frozen)
    torch.testing.assert_close(expected, logits, atol=1e-4, rtol=1e-5)


def test_a_cosine_head_keeps_its_scale(small_dir, images, tmp_path):
    head = CosineHeadConfig(scale=20.0)
    _, _, classifier = write(small_dir, tmp_path, LoraConfig(rank=2), head)
    embedding, logits = classifier(images)
    state = load_file(tmp_path / "head.safetensors")
    cosine = nn.functional.cosine_similarity(embedding[:, None], state["weight"][None], dim=2)
    torch.testing.assert_close(cosine * state["log_scale"].exp(), logits, atol=1e-4, rtol=1e-5)


def test_a_head_is_standardized_only_if_configured(small_dir, tmp_path):
    for standardize in (True, False):
        write(small_dir, tmp_path, LoraConfig(rank=2), LinearHeadConfig(standardize=standardize))
        state = load_file(tmp_path / "head.safetensors")
        plain = not state["mean"].any() and bool((state["std"] == 1).all())
        assert plain != standardize


def test_model_json_describes_the_model(small_dir, tmp_path):
    settings, backbone, _ = write(small_dir, tmp_path, LoraConfig(rank=2))
    text = (tmp_path / "model.json").read_text(encoding="utf-8")
    assert "Gänseblümchen" in text
    assert json.loads(text) == {
        "backbone": {
            "source": "directory",
            "name": "local",
            "tag": "local",
            "weights": "pretrained",
            "path": str(small_dir),
            "text": False,
            "weights_sha256": backbone.weights_sha256,
            "activation": "gelu",
        },
        "model": asdict(settings.model),
        "head": {"name": "linear", "standardize": True, "from_probe": False},
        "classes": list(CLASSES),
        "preprocessing": backbone.preprocessing.to_dict(),
    }
    assert json.loads(text)["preprocessing"]["mean"] == [0.5, 0.4, 0.3]


def test_a_full_disk_leaves_no_partial_adapter(small_dir, tmp_path, fill_disk):
    fill_disk()
    with pytest.raises(OSError, match="No space left"):
        write(small_dir, tmp_path / "adapter", LoraConfig(rank=2))
    assert list((tmp_path / "adapter").iterdir()) == []

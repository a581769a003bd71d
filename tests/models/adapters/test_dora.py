"""DoRA against its formula written out, and against peft alone."""

import copy

import peft
import torch
from peft.tuners import lora
from torch import nn

from flowertune.config.model import DoraConfig
from flowertune.models.adapters.lora import DORA
from flowertune.models.backbone import load_directory
from flowertune.models.classifier import Classifier

SETTINGS = {"rank": 4, "alpha": 8.0, "targets": ["q", "k", "v", "out", "mlp"]}


def with_dora(backbone, **changes):
    DORA.attach(DoraConfig(**{**SETTINGS, **changes}), backbone, seed=42)
    return Classifier(backbone, nn.Identity(), DORA)


def as_if_trained(classifier):
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in classifier.parameter_groups()["adapter"]:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return classifier


@torch.no_grad()
def test_it_is_the_magnitude_times_the_direction_of_the_updated_weights(small, images):
    frozen = small.encode_image(images)
    plain = copy.deepcopy(small.visual.transformer.resblocks[1].attn.v_proj)
    classifier = with_dora(small)
    torch.testing.assert_close(classifier(images)[0], frozen, atol=1e-5, rtol=1e-5)
    as_if_trained(classifier)
    layer = small.visual.transformer.resblocks[1].attn.v_proj
    assert type(layer) is lora.Linear  # not the fused one, which knows no magnitude
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    direction = plain.weight + 8 / 4 * b @ a
    magnitude = layer.lora_magnitude_vector["default"].weight
    weight = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)
    x = torch.randn(2, 5, 64)
    expected = x @ weight.T + plain.bias
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    with classifier.merged():
        merged = small.visual.transformer.resblocks[1].attn.v_proj.weight
        torch.testing.assert_close(merged, weight)


@torch.no_grad()
def test_plain_peft_reads_its_files_and_merges_to_the_same_bits(small_dir, images, tmp_path):
    backbone = load_directory(small_dir, text=False)
    classifier = as_if_trained(with_dora(backbone, rank_stabilized=True))
    expected, _ = classifier(images)
    DORA.save(backbone.visual, None, tmp_path)
    fresh = load_directory(small_dir, text=False)
    theirs = peft.PeftModel.from_pretrained(fresh.visual, str(tmp_path))
    torch.testing.assert_close(theirs(images), expected, atol=1e-5, rtol=1e-5)
    merged = theirs.merge_and_unload(safe_merge=True).state_dict()
    classifier.adapter.merge(classifier.visual)
    assert all(torch.equal(merged[key], t) for key, t in classifier.visual.state_dict().items())


def test_its_dropout_drops_in_training_alone(small, images):
    classifier = as_if_trained(with_dora(small, dropout=0.5)).train()
    assert not torch.equal(classifier(images)[0], classifier(images)[0])
    inside = {id(part) for layer in DORA.training_modules(small.visual) for part in layer.modules()}
    assert all(id(part) in inside for part in small.visual.modules() if part.training)
    classifier.eval()
    assert not any(module.training for module in classifier.modules())
    assert torch.equal(classifier(images)[0], classifier(images)[0])

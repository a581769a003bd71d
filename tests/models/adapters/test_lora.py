import copy
import json
import re
from contextlib import suppress

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from flowertune.config.model import LoraConfig
from flowertune.errors import UsageError
from flowertune.models.adapters import lora_linear
from flowertune.models.adapters.lora import LORA
from flowertune.models.backbone import load_directory
from flowertune.models.classifier import Classifier

SETTINGS = {"rank": 4, "alpha": 8.0, "targets": ["q", "k", "v", "out", "mlp"]}


def with_lora(backbone, seed=42, **changes):
    LORA.attach(LoraConfig(**{**SETTINGS, **changes}), backbone, seed)
    return backbone


def trained(backbone):
    """LoRA matrices by name."""
    return {n: p for n, p in backbone.visual.named_parameters() if p.requires_grad}


def as_if_trained(backbone):
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in trained(backbone).values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return backbone


def test_outputs_change_only_with_the_first_step(small, images):
    with torch.no_grad():
        frozen = small.encode_image(images)
    with_lora(small)
    embedding = small.encode_image(images)
    assert torch.equal(embedding, frozen)
    optimizer = torch.optim.SGD(trained(small).values(), lr=0.1)
    embedding.square().sum().backward()
    optimizer.step()
    assert (small.encode_image(images) - frozen).abs().max() > 1e-3


def test_gradients_reach_every_lora_matrix_and_nothing_else(small, images):
    as_if_trained(with_lora(small))
    small.encode_image(images).square().sum().backward()
    for name, parameter in small.model.named_parameters():
        if "lora_" in name:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name


@pytest.mark.parametrize(
    ("targets", "layers", "expected"),
    [
        # rank x (inputs + outputs) for each Linear layer; width 64, MLP 256, 3 layers
        (["q"], None, 3 * 4 * 128),
        (["q", "k", "v", "out"], None, 3 * 4 * 4 * 128),
        (["mlp"], [2], 2 * 4 * 320),
        (["v", "q"], [0, 2], 2 * 2 * 4 * 128),
    ],
)
def test_trainable_parameters_follow_the_formula(small, targets, layers, expected):
    with_lora(small, targets=targets, layers=layers)
    assert sum(parameter.numel() for parameter in trained(small).values()) == expected
    blocks = {int(re.search(r"resblocks\.(\d+)", name)[1]) for name in trained(small)}
    assert blocks == set(layers or range(3))


@pytest.mark.parametrize(("rank_stabilized", "scale"), [(False, 8 / 4), (True, 8 / 2)])
def test_the_update_is_b_a_times_the_scale(small, rank_stabilized, scale):
    plain = copy.deepcopy(small.visual.transformer.resblocks[1].attn.v_proj)
    as_if_trained(with_lora(small, rank_stabilized=rank_stabilized))
    adapted = small.visual.transformer.resblocks[1].attn.v_proj
    x = torch.randn(2, 5, 64)
    a, b = adapted.lora_A["default"].weight, adapted.lora_B["default"].weight
    torch.testing.assert_close(adapted(x), plain(x) + scale * x @ a.T @ b.T)


def test_initial_weights_depend_only_on_the_seed(small_dir):
    torch.manual_seed(1)
    one = trained(with_lora(load_directory(small_dir, text=False)))
    torch.manual_seed(2)
    same = trained(with_lora(load_directory(small_dir, text=False)))
    other = trained(with_lora(load_directory(small_dir, text=False), seed=43))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@torch.no_grad()
def test_plain_peft_and_load_adapter_give_the_same_embedding(small_dir, images, tmp_path):
    backbone = as_if_trained(with_lora(load_directory(small_dir, text=False), rank_stabilized=True))
    expected = backbone.encode_image(images)
    LORA.save(backbone.visual, None, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    fresh = load_directory(small_dir, text=False)
    embedding = peft.PeftModel.from_pretrained(fresh.visual, tmp_path)(images)
    torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-5)
    ours = load_directory(small_dir, text=False)
    LORA.load(ours, tmp_path)
    assert torch.equal(ours.encode_image(images), expected)
    assert not trained(ours)


@torch.no_grad()
def test_merging_keeps_the_outputs_and_can_be_undone_exactly(small, images, monkeypatch):
    updated = lora_linear._updated_linear
    as_if_trained(with_lora(small))
    expected = small.encode_image(images)
    before = {name: tensor.clone() for name, tensor in small.visual.state_dict().items()}
    computed = []
    monkeypatch.setattr(
        lora_linear, "_updated_linear", lambda *each: computed.append(each) or updated(*each)
    )
    with suppress(KeyboardInterrupt), Classifier(small, nn.Identity(), LORA).merged():
        embedding = small.encode_image(images)
        raise KeyboardInterrupt
    torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-5)
    assert not computed
    assert all(
        torch.equal(tensor, before[name]) for name, tensor in small.visual.state_dict().items()
    )
    assert torch.equal(small.encode_image(images), expected)
    assert computed


def test_adapters_that_do_not_fit_are_refused(small_dir, resnet_dir, tmp_path):
    LORA.save(with_lora(load_directory(small_dir, text=False)).visual, None, tmp_path)
    with pytest.raises(UsageError, match="not open_clip's own vision transformer"):
        LORA.load(load_directory(resnet_dir, text=False), tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    for other in (
        {key: value[:, :1].contiguous() for key, value in state.items()},
        {key: value for key, value in state.items() if "resblocks.1" not in key},
        state | {key.replace("resblocks.1", "resblocks.9"): 1 * v for key, v in state.items()},
    ):
        save_file(other, tmp_path / "adapter_model.safetensors")
        with pytest.raises(UsageError, match="does not fit small-vit"):
            LORA.load(load_directory(small_dir, text=False), tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"adapter_model\.safetensors is missing"):
        LORA.load(load_directory(small_dir, text=False), tmp_path)


def test_a_tower_without_split_attention_is_refused(resnet_dir):
    with pytest.raises(UsageError, match="ModifiedResNet"):
        with_lora(load_directory(resnet_dir, text=False))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": [0, 3]}, "no layer 3; use 0 to 2"),
        ({"layers": [-1]}, "no layer -1"),
    ],
)
def test_missing_layers_are_refused(small, change, words):
    with pytest.raises(UsageError, match=words):
        with_lora(small, **change)


# transformers' CLIP: the same weights under other names

RENAMED = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre": "pre_layrnorm",
    "ln_post": "post_layernorm",
    "transformer.resblocks": "encoder.layers",
    "attn": "self_attn",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def renamed(name):
    for ours, theirs in RENAMED.items():
        name = re.sub(rf"(^|\.){re.escape(ours)}(?=\.|$)", rf"\g<1>{theirs}", name)
    return f"vision_model.{name}"


@torch.no_grad()
def test_the_adapter_works_in_transformers_after_renaming(small, images, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=256,
        projection_dim=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        hidden_act="gelu",
    )
    theirs = transformers.CLIPVisionModelWithProjection(config).eval()
    state = {renamed(k): v for k, v in small.visual.state_dict().items() if k != "proj"}
    state["visual_projection.weight"] = small.visual.proj.T
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("position_ids") for name in missing)
    with_same_weights = theirs(pixel_values=images).image_embeds
    torch.testing.assert_close(with_same_weights, small.encode_image(images), atol=1e-4, rtol=1e-4)

    as_if_trained(with_lora(small))
    LORA.save(small.visual, None, tmp_path)
    prefix = "base_model.model."
    adapter = load_file(tmp_path / "adapter_model.safetensors")
    moved = {prefix + renamed(key.removeprefix(prefix)): value for key, value in adapter.items()}
    save_file(moved, tmp_path / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    settings["target_modules"] = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))

    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path)
    own = peft.get_peft_model_state_dict(adapted)
    assert own.keys() == moved.keys()
    embedding = adapted(pixel_values=images).image_embeds
    torch.testing.assert_close(embedding, small.encode_image(images), atol=1e-4, rtol=1e-4)
    assert (embedding - with_same_weights).abs().max() > 1e-2

"""What every adapter keeps to: its size, its files, its merging, and the towers that it takes."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from flowertune.config.groups import SCHEMAS
from flowertune.config.model import LinearProbeConfig
from flowertune.errors import UsageError
from flowertune.models.adapters.registry import ADAPTERS
from flowertune.models.backbone import load_directory
from flowertune.models.classifier import Classifier

OPTIONS = {
    "lora": {"rank": 3, "targets": ["v", "mlp"], "layers": [0, 2]},
    "dora": {"rank": 3, "targets": ["v", "mlp"], "layers": [0, 2], "rank_stabilized": True},
    "vpt": {"num_prompts": 3, "depth": 2},
}


def trained(name, backbone):
    """A classifier whose adapter is as if trained."""
    adapter = ADAPTERS[name]
    prompts = adapter.attach(adapter.config(**OPTIONS.get(name, {})), backbone, seed=1)
    classifier = Classifier(backbone, nn.Identity(), adapter, prompts)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in classifier.parameter_groups()["adapter"]:
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 20)
    return classifier


def test_each_adapter_has_the_name_of_its_config():
    assert {name: adapter.config for name, adapter in ADAPTERS.items()} == SCHEMAS["model"]
    assert all(adapter.config().name == name for name, adapter in ADAPTERS.items())


@pytest.mark.parametrize("name", ADAPTERS)
@torch.no_grad()
def test_what_is_saved_comes_back_frozen_and_to_the_bit(name, small_dir, images, tmp_path):
    backbone = load_directory(small_dir, text=False)
    adapter = ADAPTERS[name]
    frozen = backbone.encode_image(images)
    counted = adapter.count(adapter.config(**OPTIONS.get(name, {})), backbone)
    classifier = trained(name, backbone)
    state = classifier.trainable_state()
    assert counted == sum(tensor.numel() for tensor in state.values())
    expected, _ = classifier(images)
    assert torch.equal(expected, frozen) != adapter.config.trains_backbone

    adapter.save(classifier.visual, classifier.prompts, tmp_path)
    saved = [load_file(path) for path in tmp_path.glob("*.safetensors")]
    assert counted == sum(tensor.numel() for each in saved for tensor in each.values())
    fresh = load_directory(small_dir, text=False)
    again = Classifier(fresh, nn.Identity(), adapter, adapter.load(fresh, tmp_path))
    assert torch.equal(again(images)[0], expected)
    assert not again.parameter_groups()["adapter"]


@pytest.mark.parametrize("name", ADAPTERS)
@torch.no_grad()
def test_merged_it_is_the_same_function_in_the_modules_that_the_tower_had(name, small_dir, images):
    untouched = load_directory(small_dir, text=False).visual
    classifier = trained(name, load_directory(small_dir, text=False))
    expected, _ = classifier(images)
    before = {key: tensor.clone() for key, tensor in classifier.state_dict().items()}
    with classifier.merged():
        merged, _ = classifier(images)
        assert classifier.visual.state_dict().keys() == untouched.state_dict().keys()
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-5)
    after = classifier.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, before[key]) for key, tensor in after.items())
    assert torch.equal(classifier(images)[0], expected)
    classifier.adapter.merge(classifier.visual)
    assert torch.equal(classifier(images)[0], merged)
    assert classifier.visual.state_dict().keys() == untouched.state_dict().keys()


@pytest.mark.parametrize("name", ["layernorm", "bitfit", "full"])
def test_files_of_another_tower_or_damaged_ones_are_named(name, small_dir, tmp_path):
    adapter, file = ADAPTERS[name], tmp_path / "visual.safetensors"
    adapter.save(load_directory(small_dir, text=False).visual, None, tmp_path)
    state, fresh = load_file(file), load_directory(small_dir, text=False)
    first = next(iter(state))
    for other in (
        {key: tensor for key, tensor in state.items() if key != first},
        {**state, "another.bias": torch.zeros(3)},
        {**state, first: torch.zeros(3)},
    ):
        save_file(other, file)
        with pytest.raises(ValueError, match=r"/visual\.safetensors$"):
            adapter.load(fresh, tmp_path)
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"/visual\.safetensors$"):
        adapter.load(fresh, tmp_path)


def test_towers_that_have_nothing_of_it_are_refused_before_any_work(resnet_dir):
    backbone = load_directory(resnet_dir, text=False)
    for name in ("lora", "dora", "vpt", "layernorm"):
        with pytest.raises(UsageError, match=rf"model={name}.*ModifiedResNet.*model=linear_probe"):
            ADAPTERS[name].count(ADAPTERS[name].config(), backbone)
    for name in ("bitfit", "full"):
        assert ADAPTERS[name].count(ADAPTERS[name].config(), backbone) > 0
    assert ADAPTERS["linear_probe"].count(LinearProbeConfig(), backbone) == 0

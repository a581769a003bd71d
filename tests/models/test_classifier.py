import pytest
import torch
from torch import nn

from flowertune.models.adapters.lora import LORA
from flowertune.models.adapters.registry import ADAPTERS
from flowertune.models.backbone import load_directory
from flowertune.models.classifier import Classifier
from flowertune.models.heads import HeadInputs, LinearHead

MODES = ["lora", "dora", "vpt", "layernorm", "bitfit", "linear_probe", "full"]


@pytest.fixture
def build(small_dir):
    def build(mode, folder=small_dir, dropout=0.5):
        backbone = load_directory(folder, text=False)
        adapter = ADAPTERS[mode]
        options = {
            "vpt": {"num_prompts": 5, "depth": 2, "dropout": dropout},
            "lora": {"rank": 2, "alpha": 2.0, "dropout": dropout, "targets": ["q", "v"]},
        }
        options["dora"] = options["lora"]
        prompts = adapter.attach(adapter.config(**options.get(mode, {})), backbone, seed=42)
        dim = backbone.embedding_dim
        features = torch.tensor([[-1.9], [2.1]]).expand(2, dim)  # of the mean 0.1, deviation 2
        inputs = HeadInputs(dim, 5, 1.0, 42, features, None, None)
        head = LinearHead(inputs, standardize=True)
        return Classifier(backbone, head, adapter, prompts)

    return build


def names_of(classifier, mode):
    """What each adapter trains, by hand."""
    tower = {name for name, _ in classifier.visual.named_parameters(prefix="visual")}
    return {
        "lora": {name for name in tower if ".lora_" in name},
        "dora": {name for name in tower if ".lora_" in name},
        "vpt": {"prompts.embeddings"},
        "layernorm": {name for name in tower if ".ln_" in name},
        "bitfit": {name for name in tower if name.endswith(".bias")},
        "linear_probe": set(),
        "full": tower,
    }[mode]


def step(classifier, images, lr=0.1):
    """One step of SGD; returns what has a gradient."""
    classifier.train()
    groups = classifier.parameter_groups()
    optimizer = torch.optim.SGD([p for group in groups.values() for p in group], lr=lr)
    embedding, logits = classifier(images)
    (logits.logsumexp(1).sum() + embedding.square().mean()).backward()
    optimizer.step()
    return {name for name, p in classifier.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", MODES)
def test_a_step_moves_what_the_mode_trains_and_nothing_else(build, images, mode):
    classifier = build(mode)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    with_gradient = step(classifier, images)
    head = {"head.linear.weight", "head.linear.bias"}
    adapter = names_of(classifier, mode)
    assert bool(adapter) == (mode != "linear_probe")
    expected = head | adapter
    assert with_gradient == expected
    moved = {
        n for n, tensor in classifier.state_dict().items() if not torch.equal(tensor, before[n])
    }
    assert moved <= expected
    assert moved & head
    assert classifier.trainable_parameters == sum(before[name].numel() for name in expected)
    counts = {k: len(group) for k, group in classifier.parameter_groups().items()}
    assert counts == {"adapter": len(expected) - 2, "head": 2}


def test_shapes_and_types_under_autocast_too(build, images):
    for mode in MODES:
        classifier = build(mode)
        with torch.autocast("cpu", torch.bfloat16):
            embedding, logits = classifier(images)
        assert (embedding.shape, logits.shape) == ((4, 32), (4, 5))
        assert embedding.dtype == logits.dtype == torch.float32


def test_only_lora_dropouts_train_in_a_lora_tower(build, images):
    classifier = build("lora").train()
    training = [name for name, module in classifier.visual.named_modules() if module.training]
    assert training
    assert all("lora_dropout" in name for name in training)
    step(classifier, images)  # B is no longer zero: dropout shows
    assert not torch.equal(classifier(images)[0], classifier(images)[0])
    classifier.eval()
    assert not any(module.training for module in classifier.modules())
    assert torch.equal(classifier(images)[0], classifier(images)[0])


def test_no_dropout_is_no_work(build):
    visual = build("lora", dropout=0.0).visual
    dropouts = LORA.training_modules(visual)
    assert dropouts
    assert all(isinstance(each, nn.Identity) for layer in dropouts for each in layer.values())


def test_frozen_towers_stay_in_eval_mode_and_trained_ones_do_not(build, resnet_dir):
    assert not any(m.training for m in build("linear_probe").train().visual.modules())
    assert all(m.training for m in build("full", resnet_dir).train().visual.modules())


def test_a_linear_probe_builds_no_graph_through_the_tower(build, images):
    embedding, logits = build("linear_probe").train()(images)
    assert not embedding.requires_grad
    assert logits.requires_grad


@pytest.mark.parametrize("mode", MODES)
def test_trained_state_brings_back_the_same_function(build, images, resnet_dir, small_dir, mode):
    folder = resnet_dir if mode == "full" else small_dir  # with batch norm's running statistics
    images = torch.randn(4, 3, 64, 64) if mode == "full" else images
    classifier = build(mode, folder)
    step(classifier, images, lr=1e-3)
    state = classifier.trainable_state()
    with torch.no_grad():
        expected = classifier.eval()(images)[1].clone()
    step(classifier, images, lr=1e-3)  # a copy does not move with training
    fresh = build(mode, folder).eval()
    with torch.no_grad():
        assert not torch.equal(fresh(images)[1], expected)
        fresh.load_trainable_state(state)
        assert torch.equal(fresh(images)[1], expected)
    tower = {name for name in state if not name.startswith("head.")}
    buffers = {f"visual.{name}" for name, _ in fresh.visual.named_buffers()}
    assert tower == names_of(fresh, mode) | (buffers if mode == "full" else set())


def test_a_state_of_another_classifier_is_not_taken(build):
    classifier = build("lora")
    state = classifier.trainable_state()
    state.pop("head.mean")
    with pytest.raises(ValueError, match=r"head\.mean"):
        classifier.load_trainable_state(state)
    state = classifier.trainable_state()
    state["head.linear.bias"] = torch.zeros(6)
    with pytest.raises(ValueError, match=r"head\.linear\.bias"):
        classifier.load_trainable_state(state)

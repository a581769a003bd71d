"""Visual prompts: position, trainable parameters, saved files and errors."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from flowertune.config.backbone import BackboneConfig
from flowertune.config.head import LinearHeadConfig
from flowertune.config.model import VptConfig
from flowertune.config.schema import Config
from flowertune.errors import UsageError
from flowertune.models.adapters.vpt import VPT, prompted_blocks
from flowertune.models.backbone import load_directory
from flowertune.models.classifier import Classifier
from flowertune.models.factory import build_classifier
from flowertune.models.vision_tower import embed


@pytest.mark.parametrize(
    ("position", "order"),
    [("after_cls", ["class", "P1", "P2", "1", "2", "3"]), ("end", ["class", *"123", "P1", "P2"])],
)
@torch.no_grad()
def test_prompts_follow_the_class_token_or_are_at_the_end(small, position, order, initial_prompts):
    prompts = initial_prompts(small, num_prompts=2, position=position)
    values = {"class": 0.0, "1": 1.0, "2": 2.0, "3": 3.0, "P1": 10.0, "P2": 20.0}
    tokens = torch.tensor([0.0, 1.0, 2.0, 3.0])[None, :, None].expand(2, 4, 64)
    own = torch.tensor([10.0, 20.0])[None, :, None].expand(2, 2, 64)
    inserted = prompts.insert(tokens, own)
    assert inserted[1, :, 7].tolist() == [values[name] for name in order]
    assert torch.equal(prompts.strip(inserted), tokens)


def classifier_with(folder, classes=7, **settings):
    config = Config(
        method="vpt",
        backbone=BackboneConfig(source="directory", name="local", tag="local", text=False),
        model=VptConfig(**settings),
        head=LinearHeadConfig(standardize=False),
    )
    return build_classifier(config, load_directory(folder, text=False), classes, None, None, None)


@pytest.mark.parametrize(
    ("settings", "prompts"),
    [
        # tokens x width 64, shared or per block
        ({"num_prompts": 16, "shared": True}, 16 * 64),
        ({"num_prompts": 16}, 3 * 16 * 64),
        ({"num_prompts": 4, "depth": 2}, 2 * 4 * 64),
        ({"num_prompts": 4, "depth": 2, "shared": True}, 4 * 64),
        ({"num_prompts": 10, "depth": "shallow"}, 10 * 64),
    ],
)
def test_prompts_and_head_are_trained_and_nothing_else(small_dir, images, settings, prompts):
    classifier = classifier_with(small_dir, classes=7, **settings)
    head = 32 * 7 + 7
    assert classifier.trainable_parameters == prompts + head
    groups = classifier.parameter_groups()
    assert [sum(p.numel() for p in groups[name]) for name in ("adapter", "head")] == [prompts, head]
    classifier.train()
    classifier(images)[1].logsumexp(1).sum().backward()
    with_gradient = {name for name, p in classifier.named_parameters() if p.grad is not None}
    assert with_gradient == {"prompts.embeddings", "head.linear.weight", "head.linear.bias"}


def test_dropout_is_active_only_in_training_and_drawn_per_image(small_dir, images):
    classifier = classifier_with(small_dir, dropout=0.4, num_prompts=50).train()
    assert not any(module.training for module in classifier.visual.modules())
    tokens = torch.zeros(4, 17, 64)
    dropped = classifier.prompts(1, tokens, nn.Identity())
    kept = dropped != 0
    scaled = (classifier.prompts.embeddings[1] / 0.6).expand(4, -1, -1)
    torch.testing.assert_close(dropped[kept], scaled[kept])
    assert 0.55 < kept.float().mean() < 0.65
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(classifier(images)[0], classifier(images)[0])
    classifier.eval()
    without = classifier_with(small_dir, dropout=0.0, num_prompts=50)
    assert torch.equal(classifier(images)[0], without(images)[0])


def test_initial_prompts_have_the_range_of_the_paper(small, initial_prompts):
    # patches of 3 x 8 x 8 pixels and 64 dimensions; the same formula gives 0.0395 for ViT-B/32
    bound = math.sqrt(6 / (3 * 8 * 8 + 64))
    uniform = initial_prompts(small, num_prompts=200).embeddings.detach()
    assert 0.999 * bound < uniform.max() <= bound
    assert -bound <= uniform.min() < -0.999 * bound
    assert float(uniform.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    normal = initial_prompts(small, num_prompts=200, init="normal").embeddings
    normal = normal.detach()
    assert float(normal.std()) == pytest.approx(0.02, rel=0.02)
    assert float(normal.abs().max()) > 0.06


def test_initial_prompts_depend_only_on_the_seed(small, initial_prompts):
    torch.manual_seed(1)
    one = initial_prompts(small).embeddings
    torch.manual_seed(2)
    assert torch.equal(initial_prompts(small).embeddings, one)
    assert not torch.equal(initial_prompts(small, seed=43).embeddings, one)


# saved and loaded


@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_saved_prompts_are_loaded_frozen_and_bit_identical(
    small_dir, images, tmp_path, shared, trained_prompts
):
    backbone = load_directory(small_dir, text=False)
    where = {"depth": 2, "position": "end", "before_ln_pre": False, "dropout": 0.5}
    prompts = trained_prompts(backbone, shared=shared, **where).eval()
    VPT.save(backbone.visual, prompts, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"prompts.json", "prompts.safetensors"}
    fresh = load_directory(small_dir, text=False)
    loaded = VPT.load(fresh, tmp_path)
    assert torch.equal(embed(fresh.visual, images, loaded), embed(backbone.visual, images, prompts))
    classifier = Classifier(fresh, nn.Linear(32, 3), VPT, loaded).train()
    assert not classifier.parameter_groups()["adapter"]


def test_prompts_that_do_not_fit_are_refused(
    small_dir, resnet_dir, tmp_path, trained_prompts, tower_dir
):
    backbone = load_directory(small_dir, text=False)
    VPT.save(backbone.visual, trained_prompts(backbone), tmp_path)
    with pytest.raises(UsageError, match="not open_clip's own vision transformer"):
        VPT.load(load_directory(resnet_dir, text=False), tmp_path)
    with pytest.raises(UsageError, match="made for 3 blocks, not 1"):
        VPT.load(load_directory(tower_dir(layers=1), text=False), tmp_path)

    weights = tmp_path / "prompts.safetensors"
    whole, embeddings = weights.read_bytes(), load_file(weights)["embeddings"]
    for other in (embeddings[:2], embeddings[..., :32], embeddings[None], embeddings[0, 0]):
        save_file({"embeddings": other.contiguous()}, weights)
        with pytest.raises(UsageError, match=r"do not fit small-vit local: shape"):
            VPT.load(backbone, tmp_path)
    for broken in (whole[:100], b""):
        weights.write_bytes(broken)
        with pytest.raises(UsageError, match="cannot read the prompts"):
            VPT.load(backbone, tmp_path)
    save_file({"other": embeddings}, weights)
    with pytest.raises(UsageError, match="cannot read the prompts"):
        VPT.load(backbone, tmp_path)
    weights.write_bytes(whole)

    settings = tmp_path / "prompts.json"
    right = json.loads(settings.read_text())
    for change, words in (
        ({"depth": 4}, "depth 4, not 1 to 3"),
        ({"position": "middle"}, "unknown position middle"),
        ({"more": 1}, "cannot read the prompts"),
    ):
        settings.write_text(json.dumps({**right, **change}))
        with pytest.raises(UsageError, match=words):
            VPT.load(backbone, tmp_path)
    settings.write_text('{"depth": ')
    with pytest.raises(UsageError, match="cannot read the prompts"):
        VPT.load(backbone, tmp_path)
    for file in (settings, weights):
        file.unlink()
        with pytest.raises(UsageError, match=f"{file.name} is missing"):
            VPT.load(backbone, tmp_path)
        file.write_bytes(whole)


# refused before a run starts


def test_unsupported_towers_are_refused(resnet_dir, small_dir, initial_prompts, tower_dir):
    with pytest.raises(UsageError, match=r"small-resnet \(ModifiedResNet\) is not"):
        prompted_blocks(load_directory(resnet_dir, text=False), "deep")
    with pytest.raises(UsageError, match="with default blocks"):
        prompted_blocks(load_directory(tower_dir(scale_attn=True), text=False), "deep")
    sequence_first = load_directory(small_dir, text=False)
    sequence_first.visual.transformer.batch_first = False
    with pytest.raises(UsageError, match="with default blocks"):
        initial_prompts(sequence_first)


@pytest.mark.parametrize("depth", [4, 99])
def test_a_depth_above_the_number_of_blocks_is_refused(small, depth):
    with pytest.raises(UsageError, match=f"model.depth={depth}: small-vit has 3 blocks"):
        prompted_blocks(small, depth)

import json
import math

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from flowertune.build import build_classifier
from flowertune.config import BackboneConfig, Config, LinearHeadConfig, VptConfig
from flowertune.errors import Refused
from flowertune.models.backbone import load_directory
from flowertune.models.classifier import Classifier
from flowertune.models.tower import embed
from flowertune.models.vpt import load_prompts, make_prompts, prompted_blocks, save_prompts

P = 5
SETTINGS = {
    "num_prompts": P,
    "depth": "deep",
    "shared": False,
    "dropout": 0.0,
    "init": "vpt_uniform",
    "position": "after_cls",
    "before_ln_pre": True,
    "seed": 42,
}
TOWERS = {
    "clip": {},
    "no ln_pre": {"no_ln_pre": True},
    "layer scale": {"ls_init_value": 0.1},
    "norm after pooling": {"final_ln_after_pool": True},
    "average": {"pool_type": "avg"},
    "attentional pooling": {"attentional_pool": True, "attn_pooler_heads": 2},
    "tokens too": {"output_tokens": True},
    "one block": {"layers": 1},
    "custom blocks": {"scale_attn": True},
}
PROMPTED = [kind for kind in TOWERS if kind != "custom blocks"]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, write_open_clip, small_config):
    """`folder_of(kind)`: an open_clip directory with a tower of that kind, of three blocks."""
    folders = {}

    def folder_of(kind):
        if kind not in folders:
            vision = {**small_config["vision_cfg"], **TOWERS[kind]}
            folder = tmp_path_factory.mktemp("towers") / kind.replace(" ", "-")
            folders[kind] = write_open_clip(folder, {**small_config, "vision_cfg": vision})
        return folders[kind]

    return folder_of


def prompts_for(backbone, **changes):
    """Prompts as if trained: as large as the tokens."""
    prompts = make_prompts(backbone, **{**SETTINGS, **changes})
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        prompts.embeddings.copy_(torch.randn(prompts.embeddings.shape, generator=generator))
    return prompts


def naive(visual, images, embeddings, depth, position, before_ln_pre):
    """VPT written out on open_clip's tower as it is: an image at a time, lists of tokens."""
    of_images, positions = [], visual.positional_embedding
    for image in images:
        patches = visual.conv1(image[None])[0].flatten(1).T
        tokens = [visual.class_embedding, *patches]
        tokens = [token + place for token, place in zip(tokens, positions, strict=True)]
        start = 1 if position == "after_cls" else len(tokens)
        stop = start + P
        own = list(embeddings[0])
        if before_ln_pre:
            tokens = [visual.ln_pre(token) for token in [*tokens[:start], *own, *tokens[start:]]]
        else:
            tokens = [visual.ln_pre(token) for token in tokens]
            tokens = [*tokens[:start], *own, *tokens[start:]]
        for index, block in enumerate(visual.transformer.resblocks):
            if 0 < index < depth:
                tokens = [*tokens[:start], *embeddings[index], *tokens[stop:]]
            tokens = list(block(torch.stack(tokens)[None])[0])
        pooled, _ = visual._pool(torch.stack([*tokens[:start], *tokens[stop:]])[None])
        of_images.append(pooled[0] @ visual.proj)
    return torch.stack(of_images)


def agree(folder, images, *, depth="deep", **changes):
    """Embedding and the prompts' gradient are those of the naive forward pass."""
    untouched = open_clip.create_model(f"local-dir:{folder}").visual.eval()
    assert isinstance(untouched.transformer.resblocks[0].attn, nn.MultiheadAttention)
    backbone = load_directory(folder, text=False)
    prompts = prompts_for(backbone, depth=depth, **changes)
    blocks = len(untouched.transformer.resblocks)
    count = {"deep": blocks, "shallow": 1}.get(depth, depth)
    theirs = prompts.embeddings.detach().clone().requires_grad_()
    by_block = [theirs] * blocks if prompts.embeddings.ndim == 2 else theirs
    where = {**SETTINGS, **changes}
    expected = naive(untouched, images, by_block, count, where["position"], where["before_ln_pre"])
    embedding = embed(backbone.visual, images, prompts)
    torch.testing.assert_close(embedding, expected, atol=1e-4, rtol=1e-4)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(6))
    (expected * weights).sum().backward()
    (embedding * weights).sum().backward()
    torch.testing.assert_close(prompts.embeddings.grad, theirs.grad, atol=1e-4, rtol=1e-3)
    of_prompt = prompts.embeddings.grad.reshape(-1, P, theirs.shape[-1]).abs().amax(-1)
    assert of_prompt.shape == (1 if prompts.embeddings.ndim == 2 else count, P)
    assert (of_prompt > 1e-4).all()
    frozen = embed(backbone.visual, images)
    assert (embedding - frozen).abs().max() > 1e-2


@pytest.mark.parametrize("before_ln_pre", [True, False])
@pytest.mark.parametrize("position", ["after_cls", "end"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("depth", ["deep", "shallow", 1, 2, 3])
def test_embedding_and_gradients_are_those_of_a_naive_forward_pass(
    small_dir, images, depth, shared, position, before_ln_pre
):
    where = {"position": position, "before_ln_pre": before_ln_pre}
    agree(small_dir, images, depth=depth, shared=shared, **where)


@pytest.mark.parametrize("position", ["after_cls", "end"])
@pytest.mark.parametrize("depth", ["deep", "shallow"])
@pytest.mark.parametrize("kind", PROMPTED)
def test_so_they_are_in_towers_of_every_kind(folder_of, images, kind, depth, position):
    agree(folder_of(kind), images, depth=depth, position=position)


@pytest.mark.parametrize(
    ("depth", "computed"),
    [
        # 17 tokens of the image; the last block computes the class token alone
        ("deep", [17, 17, 1]),
        (2, [17, 17 + P, 1]),
        ("shallow", [17 + P, 17 + P, 1]),
    ],
)
@torch.no_grad()
def test_prompts_are_replaced_and_those_to_be_replaced_are_not_computed(
    small, images, depth, computed
):
    attended_to, through_mlp = [], []
    for block in small.visual.transformer.resblocks:
        block.attn.k_proj.register_forward_hook(
            lambda _, inputs, __: attended_to.append(inputs[0].shape[1])
        )
        block.mlp.register_forward_hook(
            lambda _, inputs, __: through_mlp.append(inputs[0].shape[1])
        )
    embed(small.visual, images, prompts_for(small, depth=depth))
    assert attended_to == [17 + P] * 3
    assert through_mlp == computed


@pytest.mark.parametrize(
    ("position", "order"),
    [("after_cls", ["class", "P1", "P2", "1", "2", "3"]), ("end", ["class", *"123", "P1", "P2"])],
)
@torch.no_grad()
def test_prompts_lie_after_the_class_token_or_at_the_end(small, position, order):
    prompts = make_prompts(small, **{**SETTINGS, "num_prompts": 2, "position": position})
    values = {"class": 0.0, "1": 1.0, "2": 2.0, "3": 3.0, "P1": 10.0, "P2": 20.0}
    tokens = torch.tensor([0.0, 1.0, 2.0, 3.0])[None, :, None].expand(2, 4, 64)
    own = torch.tensor([10.0, 20.0])[None, :, None].expand(2, 2, 64)
    inserted = prompts.insert(tokens, own)
    assert inserted[1, :, 7].tolist() == [values[name] for name in order]
    assert torch.equal(prompts.remove(inserted), tokens)


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
        # tokens x width 64, once or in each of the blocks that have some of their own
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


def test_dropout_trains_alone_and_is_drawn_for_each_image(small_dir, images):
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


@torch.no_grad()
def test_bf16_stays_close_to_float32(small, images):
    prompts = prompts_for(small)
    exact = embed(small.visual, images, prompts)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = embed(small.visual, images, prompts)
    assert rounded.dtype == torch.bfloat16
    # or every token after them would be float32 and the tower as slow as without autocast
    tokens = torch.zeros(2, 17, 64, dtype=torch.bfloat16)
    assert prompts(0, tokens, small.visual.ln_pre).dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_initial_prompts_have_the_range_of_the_paper(small):
    # 3 x 8 x 8 pixels of a patch and 64 dimensions; ViT-B/32 gets 0.0395 in the same way
    bound = math.sqrt(6 / (3 * 8 * 8 + 64))
    uniform = make_prompts(small, **{**SETTINGS, "num_prompts": 200}).embeddings.detach()
    assert 0.999 * bound < uniform.max() <= bound
    assert -bound <= uniform.min() < -0.999 * bound
    assert float(uniform.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    normal = make_prompts(small, **{**SETTINGS, "num_prompts": 200, "init": "normal"}).embeddings
    normal = normal.detach()
    assert float(normal.std()) == pytest.approx(0.02, rel=0.02)
    assert float(normal.abs().max()) > 0.06


def test_initial_prompts_come_from_the_seed_alone(small):
    torch.manual_seed(1)
    one = make_prompts(small, **SETTINGS).embeddings
    torch.manual_seed(2)
    assert torch.equal(make_prompts(small, **SETTINGS).embeddings, one)
    assert not torch.equal(make_prompts(small, **{**SETTINGS, "seed": 43}).embeddings, one)


# saved and loaded


@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_saved_prompts_come_back_bit_for_bit_and_frozen(small_dir, images, tmp_path, shared):
    backbone = load_directory(small_dir, text=False)
    where = {"depth": 2, "position": "end", "before_ln_pre": False, "dropout": 0.5}
    prompts = prompts_for(backbone, shared=shared, **where).eval()
    save_prompts(backbone.visual, prompts, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"prompts.json", "prompts.safetensors"}
    fresh = load_directory(small_dir, text=False)
    loaded = load_prompts(fresh, tmp_path)
    assert torch.equal(embed(fresh.visual, images, loaded), embed(backbone.visual, images, prompts))
    classifier = Classifier(fresh, nn.Linear(32, 3), "vpt", loaded).train()
    assert not classifier.parameter_groups()["adapter"]


def test_prompts_that_do_not_fit_are_refused(small_dir, resnet_dir, folder_of, tmp_path):
    backbone = load_directory(small_dir, text=False)
    save_prompts(backbone.visual, prompts_for(backbone), tmp_path)
    with pytest.raises(Refused, match="model=vpt needs a vision transformer"):
        load_prompts(load_directory(resnet_dir, text=False), tmp_path)
    with pytest.raises(Refused, match="made for 3 blocks, and it has 1"):
        load_prompts(load_directory(folder_of("one block"), text=False), tmp_path)

    weights = tmp_path / "prompts.safetensors"
    whole, embeddings = weights.read_bytes(), load_file(weights)["embeddings"]
    for other in (embeddings[:2], embeddings[..., :32], embeddings[None], embeddings[0, 0]):
        save_file({"embeddings": other.contiguous()}, weights)
        with pytest.raises(Refused, match=r"do not fit small-vit local: shape"):
            load_prompts(backbone, tmp_path)
    for broken in (whole[:100], b""):
        weights.write_bytes(broken)
        with pytest.raises(Refused, match="cannot read the prompts"):
            load_prompts(backbone, tmp_path)
    save_file({"other": embeddings}, weights)
    with pytest.raises(Refused, match="cannot read the prompts"):
        load_prompts(backbone, tmp_path)
    weights.write_bytes(whole)

    settings = tmp_path / "prompts.json"
    right = json.loads(settings.read_text())
    for change, words in (
        ({"depth": 4}, "depth 4, of 3 blocks"),
        ({"position": "middle"}, "position middle"),
        ({"more": 1}, "cannot read the prompts"),
    ):
        settings.write_text(json.dumps({**right, **change}))
        with pytest.raises(Refused, match=words):
            load_prompts(backbone, tmp_path)
    settings.write_text('{"depth": ')
    with pytest.raises(Refused, match="cannot read the prompts"):
        load_prompts(backbone, tmp_path)
    for file in (settings, weights):
        file.unlink()
        with pytest.raises(Refused, match=f"{file.name} is missing"):
            load_prompts(backbone, tmp_path)
        file.write_bytes(whole)


# refused before anything is started


def test_towers_of_another_build_are_refused(resnet_dir, folder_of, small_dir):
    with pytest.raises(Refused, match=r"small-resnet is another \(ModifiedResNet\)"):
        prompted_blocks(load_directory(resnet_dir, text=False), "deep")
    with pytest.raises(Refused, match="with its default blocks"):
        prompted_blocks(load_directory(folder_of("custom blocks"), text=False), "deep")
    sequence_first = load_directory(small_dir, text=False)
    sequence_first.visual.transformer.batch_first = False
    with pytest.raises(Refused, match="model=vpt needs"):
        make_prompts(sequence_first, **SETTINGS)


@pytest.mark.parametrize("depth", [4, 99])
def test_a_depth_that_the_tower_does_not_have_is_refused(small, depth):
    with pytest.raises(Refused, match=f"model.depth={depth}: small-vit has 3 blocks"):
        prompted_blocks(small, depth)

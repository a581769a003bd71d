"""The image tower against open_clip's own, and with prompts against a naive VPT."""

import copy

import open_clip
import pytest
import torch
from torch import nn

from flowertune.models.attention import unfuse_attention
from flowertune.models.backbone import load_directory
from flowertune.models.vision_tower import embed

TOWERS = {
    "clip": {},
    "no ln_pre": {"no_ln_pre": True},
    "layer scale": {"ls_init_value": 0.1},
    "norm after pooling": {"final_ln_after_pool": True},
    "average": {"pool_type": "avg"},
    "attentional pooling": {"attentional_pool": True, "attn_pooler_heads": 2},
    "tokens too": {"output_tokens": True},
    "custom blocks": {"scale_attn": True},
}
PROMPTED = {
    **{kind: options for kind, options in TOWERS.items() if kind != "custom blocks"},
    "one block": {"layers": 1},
}
CLASS_TOKEN_ALONE = {"clip", "no ln_pre", "layer scale", "norm after pooling", "tokens too"}


def tower(options):
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
    model = open_clip.CLIP(16, {**vision, **options}, {"layers": 1, "width": 32, "heads": 2})
    for name, parameter in model.visual.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model.visual.eval()


def pooled(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("kind", TOWERS)
def test_embedding_and_gradients_equal_open_clips(kind):
    untouched = tower(TOWERS[kind])
    ours = copy.deepcopy(untouched)
    unfuse_attention(ours)
    images = torch.randn(3, 3, 32, 32)
    expected, embedding = pooled(untouched(images)), embed(ours, images)
    torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-5)
    expected.square().sum().backward()
    embedding.square().sum().backward()
    block, its = ours.transformer.resblocks[-1], untouched.transformer.resblocks[-1]
    for name in ("mlp.c_fc.weight", "ln_1.weight", "ln_2.bias"):
        torch.testing.assert_close(
            block.get_parameter(name).grad, its.get_parameter(name).grad, atol=1e-4, rtol=1e-4
        )
    torch.testing.assert_close(ours.conv1.weight.grad, untouched.conv1.weight.grad,
                               atol=1e-4, rtol=1e-4)  # fmt: skip


@pytest.mark.parametrize("kind", TOWERS)
def test_the_last_block_computes_only_the_class_token_if_only_it_is_pooled(kind):
    visual = tower(TOWERS[kind])
    unfuse_attention(visual)
    counts = []
    for block in visual.transformer.resblocks:
        block.mlp.register_forward_hook(lambda _, inputs, __: counts.append(inputs[0].shape[1]))
    embed(visual, torch.randn(1, 3, 32, 32))
    assert counts == [17, 1 if kind in CLASS_TOKEN_ALONE else 17]


# with prompts

P = 5


def naive(visual, images, embeddings, depth, position, before_ln_pre):
    """Naive VPT on open_clip's unchanged tower: one image at a time, lists of tokens."""
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
        embedding, _ = visual._pool(torch.stack([*tokens[:start], *tokens[stop:]])[None])
        of_images.append(embedding[0] @ visual.proj)
    return torch.stack(of_images)


def agree(
    folder,
    images,
    trained_prompts,
    *,
    depth="deep",
    shared=False,
    position="after_cls",
    before_ln_pre=True,
):
    """Embedding and prompt gradients equal those of the naive forward pass."""
    untouched = open_clip.create_model(f"local-dir:{folder}").visual.eval()
    assert isinstance(untouched.transformer.resblocks[0].attn, nn.MultiheadAttention)
    backbone = load_directory(folder, text=False)
    where = {"depth": depth, "position": position, "before_ln_pre": before_ln_pre}
    prompts = trained_prompts(backbone, num_prompts=P, shared=shared, **where)
    blocks = len(untouched.transformer.resblocks)
    count = {"deep": blocks, "shallow": 1}.get(depth, depth)
    theirs = prompts.embeddings.detach().clone().requires_grad_()
    by_block = [theirs] * blocks if prompts.embeddings.ndim == 2 else theirs
    expected = naive(untouched, images, by_block, count, position, before_ln_pre)
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
    small_dir, images, depth, shared, position, before_ln_pre, trained_prompts
):
    where = {"position": position, "before_ln_pre": before_ln_pre}
    agree(small_dir, images, trained_prompts, depth=depth, shared=shared, **where)


@pytest.mark.parametrize("position", ["after_cls", "end"])
@pytest.mark.parametrize("depth", ["deep", "shallow"])
@pytest.mark.parametrize("kind", PROMPTED)
def test_they_also_equal_it_in_other_towers(
    tower_dir, images, kind, depth, position, trained_prompts
):
    folder = tower_dir(**PROMPTED[kind])
    agree(folder, images, trained_prompts, depth=depth, position=position)


@pytest.mark.parametrize(
    ("depth", "computed"),
    [
        # the image has 17 tokens; the last block computes only the class token
        ("deep", [17, 17, 1]),
        (2, [17, 17 + P, 1]),
        ("shallow", [17 + P, 17 + P, 1]),
    ],
)
@torch.no_grad()
def test_outputs_of_replaced_prompts_are_not_computed(
    small, images, depth, computed, trained_prompts
):
    attended_to, through_mlp = [], []
    for block in small.visual.transformer.resblocks:
        block.attn.k_proj.register_forward_hook(
            lambda _, inputs, __: attended_to.append(inputs[0].shape[1])
        )
        block.mlp.register_forward_hook(
            lambda _, inputs, __: through_mlp.append(inputs[0].shape[1])
        )
    embed(small.visual, images, trained_prompts(small, num_prompts=P, depth=depth))
    assert attended_to == [17 + P] * 3
    assert through_mlp == computed


@torch.no_grad()
def test_bf16_stays_close_to_float32(small, images, trained_prompts):
    prompts = trained_prompts(small)
    exact = embed(small.visual, images, prompts)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = embed(small.visual, images, prompts)
    assert rounded.dtype == torch.bfloat16
    # otherwise all later tokens would be float32, and the tower as slow as without autocast
    tokens = torch.zeros(2, 17, 64, dtype=torch.bfloat16)
    assert prompts(0, tokens, small.visual.ln_pre).dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().max() < 0.05 * exact.abs().max()

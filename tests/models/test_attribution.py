"""Relevance of patches against Chefer et al.'s rule written out, and against patches taken away."""

import open_clip
import pytest
import torch
from torch import nn

from flowertune.models.adapters.registry import ADAPTERS
from flowertune.models.adapters.tower_parameters import LINEAR_PROBE
from flowertune.models.attribution import patch_attribution
from flowertune.models.backbone import load_directory
from flowertune.models.classifier import Classifier
from flowertune.models.vision_tower import pools_class_token

P = 5


def attend(attention, x):
    """(N, D) -> (N, D), and the attention (heads, N, N) with its gradient to be kept."""
    heads = attention.num_heads
    q, k, v = (x @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
    q, k, v = (each.unflatten(1, (heads, -1)).transpose(0, 1) for each in (q, k, v))
    weights = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(2)
    weights.retain_grad()
    return attention.out_proj((weights @ v).transpose(0, 1).flatten(1)), weights


def naive(visual, head, image, label, prompts, depth, position):
    """One image through open_clip's tower as it is, all tokens in all blocks, and then the rule."""
    patches = visual.conv1(image[None])[0].flatten(1).T
    tokens = torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding
    tokens, count = visual.ln_pre(tokens), len(patches) + 1
    start = 1 if position == "after_cls" else count
    kept = []
    for index, block in enumerate(visual.transformer.resblocks):
        if index < depth:
            after = start + P if index else start
            tokens = torch.cat([tokens[:start], prompts[index], tokens[after:]])
        attended, weights = attend(block.attn, block.ln_1(tokens))
        tokens = tokens + attended
        tokens = tokens + block.mlp(block.ln_2(tokens))
        kept.append(weights)
    (visual.ln_post(tokens[:1]) @ visual.proj @ head.weight.T)[0, label].backward()
    extra = P if depth else 0
    relevance = torch.zeros(count + extra, count)
    relevance[:start, :start] = torch.eye(start)
    relevance[start + extra :, start:] = torch.eye(count - start)
    for index, weights in enumerate(kept):
        if index < depth:
            relevance[start : start + P] = 0
        raising = (weights * weights.grad).clamp_min(0).mean(0)
        relevance = relevance + raising @ relevance
    return relevance[0, 1:].view(4, 4).detach()


def a_head():
    head = nn.Linear(32, 6, bias=False)
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(4))
    return head


@pytest.mark.parametrize("position", ["after_cls", "end"])
@pytest.mark.parametrize("depth", [0, 1, 2, 3])
@pytest.mark.parametrize("mode", ["linear_probe", "full", "layernorm", "bitfit"])
def test_it_is_what_the_rule_gives_written_out(
    small_dir, images, trained_prompts, mode, depth, position
):
    backbone, head = load_directory(small_dir, text=False), a_head()
    where = {"depth": depth, "position": position, "before_ln_pre": False}
    prompts = trained_prompts(backbone, num_prompts=P, **where) if depth else None
    adapter = ADAPTERS["vpt" if depth else mode]
    if not depth:
        adapter.attach(adapter.config(), backbone, seed=42)
    classifier = Classifier(backbone, head, adapter, prompts)
    labels = torch.tensor([1, 0, 5, 1])
    found = patch_attribution(classifier, images, labels)
    assert all(parameter.grad is None for parameter in classifier.parameters())
    untouched = open_clip.create_model(f"local-dir:{small_dir}").visual.eval()
    own = None if prompts is None else prompts.embeddings.detach()
    expected = [
        naive(untouched, head, image, label, own, depth, position)
        for image, label in zip(images, labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-3)
    assert found.amax((1, 2)).min() > 1e-3


def test_a_photo_has_the_same_alone_and_beside_others_and_another_for_another_class(
    small_dir, images
):
    classifier = Classifier(load_directory(small_dir, text=False), a_head(), LINEAR_PROBE)
    labels = torch.tensor([1, 0, 5, 1])
    together = patch_attribution(classifier, images, labels)
    alone = patch_attribution(classifier, images[2:3], labels[2:3])
    torch.testing.assert_close(together[2:3], alone, atol=1e-6, rtol=1e-4)
    other = patch_attribution(classifier, images[2:3], torch.tensor([3]))
    assert (other - alone).abs().max() > 0.1 * alone.max()


@pytest.mark.parametrize(
    ("options", "shows"),
    [({}, True), ({"pool_type": "avg"}, False), ({"scale_attn": True}, False)],
)
def test_towers_that_pool_otherwise_show_none(tower_dir, options, shows):
    assert pools_class_token(load_directory(tower_dir(**options), text=False).visual) is shows

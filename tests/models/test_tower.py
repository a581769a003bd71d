import copy

import open_clip
import pytest
import torch

from flowertune.models.attention import open_attention
from flowertune.models.tower import embed

TOWERS = {
    "clip": {},
    "no ln_pre": {"no_ln_pre": True},
    "layer scale": {"ls_init_value": 0.1},
    "norm after pooling": {"final_ln_after_pool": True},
    "average": {"pool_type": "avg"},
    "attentional pooling": {"attentional_pool": True},
    "tokens too": {"output_tokens": True},
    "custom blocks": {"scale_attn": True},
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
def test_the_embedding_and_its_gradients_are_those_of_open_clip_untouched(kind):
    untouched = tower(TOWERS[kind])
    ours = copy.deepcopy(untouched)
    open_attention(ours)
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
def test_the_last_block_computes_the_class_token_alone_where_pooling_takes_no_other(kind):
    visual = tower(TOWERS[kind])
    open_attention(visual)
    counts = []
    for block in visual.transformer.resblocks:
        block.mlp.register_forward_hook(lambda _, inputs, __: counts.append(inputs[0].shape[1]))
    embed(visual, torch.randn(1, 3, 32, 32))
    assert counts == [17, 1 if kind in CLASS_TOKEN_ALONE else 17]

import open_clip
import pytest
import torch
from torch import nn

from flowertune.models.attention import QKV, Attention, fused_state_dict, unfuse_attention


def multihead(**options):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(32, 4, **options)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


def masks():
    causal = torch.full((5, 5), float("-inf")).triu(1)
    generator = torch.Generator().manual_seed(1)
    return {
        "none": None,
        "float": causal,
        "bool": causal.isinf(),
        "per head": torch.randn(3 * 4, 5, 5, generator=generator),
    }


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_opened_attention_computes_what_multihead_attention_does(batch_first, bias, mask):
    source = multihead(batch_first=batch_first, bias=bias)
    x = torch.randn((3, 5, 32) if batch_first else (5, 3, 32))
    expected = source(x, x, x, need_weights=False, attn_mask=masks()[mask])[0]
    opened = Attention(source)
    actual, nothing = opened(x, x, x, need_weights=False, attn_mask=masks()[mask])
    assert nothing is None
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_cross_attention_of_other_widths_is_opened_too():
    source = multihead(kdim=24, vdim=16, batch_first=True)
    query, key, value = torch.randn(2, 3, 32), torch.randn(2, 7, 24), torch.randn(2, 7, 16)
    expected = source(query, key, value, need_weights=False)[0]
    actual = Attention(source)(query, key, value)[0]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def test_gradients_are_those_of_multihead_attention():
    source = multihead(batch_first=True)
    opened = Attention(source)
    x = torch.randn(2, 5, 32)
    source.train()(x, x, x, need_weights=False)[0].square().sum().backward()
    opened.train()(x, x, x)[0].square().sum().backward()
    packed = torch.cat([getattr(opened, name).weight.grad for name in QKV])
    torch.testing.assert_close(packed, source.in_proj_weight.grad, atol=1e-3, rtol=1e-4)


def test_attention_that_cannot_be_opened_faithfully_is_not_opened():
    with pytest.raises(NotImplementedError, match="add_bias_kv"):
        unfuse_attention(nn.Sequential(nn.MultiheadAttention(32, 4, add_bias_kv=True)))


def n_opened(model):
    assert not any(isinstance(module, nn.MultiheadAttention) for module in model.modules())
    return sum(isinstance(module, Attention) for module in model.modules())


def test_opening_twice_changes_nothing():
    model = nn.Sequential(multihead(), nn.Sequential(multihead()))
    unfuse_attention(model)
    assert n_opened(model) == 2
    first = model[0]
    unfuse_attention(model)
    assert model[0] is first


@pytest.mark.parametrize("trained", [True, False])
def test_the_layers_are_as_trainable_as_the_attention_was(trained):
    opened = Attention(multihead().requires_grad_(trained))
    assert all(parameter.requires_grad == trained for parameter in opened.parameters())
    assert not any(module.training for module in opened.modules())


def test_drawn_numbers_are_left_alone():
    model = nn.Sequential(multihead())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    unfuse_attention(model)
    assert torch.equal(torch.rand(3), expected)


@torch.no_grad()
def test_vit_b_32_equals_the_untouched_model(roughen):
    """With `ViT-B-32` + `openai` in test_backbone, both activations."""
    model = open_clip.create_model("ViT-B-32")
    roughen(model)
    images = torch.randn(2, 3, 224, 224)
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a photo of a snowdrop", "a rose"])
    before = model.encode_image(images), model.encode_text(tokens)
    unfuse_attention(model)
    assert n_opened(model) == 24
    after = model.encode_image(images), model.encode_text(tokens)
    for untouched, opened in zip(before, after, strict=True):
        assert untouched.abs().max() > 0.1
        assert (opened - untouched).abs().max() < 1e-5


@pytest.mark.parametrize("options", [{}, {"attentional_pool": True}], ids=str)
def test_open_clip_reads_the_weights_of_an_opened_model_again(tower_dir, options):
    folder = tower_dir(**options)  # the pooling attention has keys of another width
    untouched = open_clip.create_model(f"local-dir:{folder}")
    opened = open_clip.create_model(f"local-dir:{folder}")
    unfuse_attention(opened)
    assert n_opened(opened) > 0
    state = fused_state_dict(opened)
    assert state.keys() == untouched.state_dict().keys()
    assert all(torch.equal(state[key], each) for key, each in untouched.state_dict().items())

"""Attribute a logit to the patches of an image (Chefer et al., 2021, arXiv:2103.15679)."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from flowertune.models.attention import QKV
from flowertune.models.classifier import Classifier
from flowertune.models.vision_tower import embed

_Captured = dict[str, Tensor]  # q, k, v and context, what the values were summed to; each (B, *, D)


def patch_attribution(classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """Relevance of each patch to the logit of a class: (B, rows, columns), 0 or more.

    images: (B, 3, H, W), normalized; classes: (B,). In each block the attention that raises the
    logit (attention times its gradient, what is negative left out, mean over heads) carries the
    tokens' relevance on: R <- R + A R, equations 5 and 6. The result is the class token's row
    at the end. Prompts that a block gets belong to no patch. `pools_class_token` must hold.
    """
    visual, prompts = classifier.visual, classifier.prompts
    assert isinstance(visual, VisionTransformer)
    blocks: list[ResidualAttentionBlock] = list(visual.transformer.resblocks)
    with torch.enable_grad(), _capture(blocks) as captures:
        logits = classifier.head(embed(visual, images, prompts).float())
        total = logits.gather(1, classes[:, None]).sum()  # each image's depends on its own alone
    gradients = torch.autograd.grad(total, [captured["context"] for captured in captures])
    rows, columns = visual.grid_size
    relevance = torch.eye(1 + rows * columns, device=images.device).expand(len(images), -1, -1)
    for block, captured, gradient in zip(blocks, captures, gradients, strict=True):
        weights = _positive_attention(captured, gradient, block.attn.num_heads)
        keys, n_prompts = relevance, weights.shape[2] - relevance.shape[1]
        if prompts is not None and n_prompts:
            zeros = relevance.new_zeros(len(images), n_prompts, relevance.shape[2])
            keys = prompts.insert(relevance, zeros)
        # prompts that travel on ask as well; else the image's tokens do, at the end the class token
        queries = keys if weights.shape[1] == keys.shape[1] else relevance[:, : weights.shape[1]]
        relevance = queries + weights @ keys
    result: Tensor = relevance[:, 0, 1:].unflatten(1, (rows, columns))
    return result


@torch.no_grad()
def _positive_attention(captured: _Captured, gradient: Tensor, heads: int) -> Tensor:
    """Attention (B, M, S) that raises the logit; gradient (B, M, D): of the context."""
    q, k, v, context_gradient = (
        x.float().unflatten(2, (heads, -1)).transpose(1, 2)
        for x in (*(captured[name] for name in QKV), gradient)
    )
    attention = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(3)
    attention_gradient = context_gradient @ v.transpose(2, 3)
    result: Tensor = (attention * attention_gradient).clamp_min(0).mean(1)
    return result


@contextmanager
def _capture(blocks: Sequence[ResidualAttentionBlock]) -> Iterator[list[_Captured]]:
    """Inside, a forward pass fills in what the attention of each block worked with."""
    captures: list[_Captured] = [{} for _ in blocks]
    with ExitStack() as hooks:
        for block, captured in zip(blocks, captures, strict=True):
            for name in QKV:
                save = partial(_save_output, captured, name)
                hooks.enter_context(getattr(block.attn, name).register_forward_hook(save))
            save_context = partial(_save_context, captured)
            hooks.enter_context(block.attn.out_proj.register_forward_pre_hook(save_context))
        yield captures


def _save_output(
    captured: _Captured, name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> None:
    captured[name] = output.detach()


def _save_context(captured: _Captured, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (context,) = inputs
    if not context.requires_grad:  # in the first block; nothing before it is differentiated
        context = context.detach().requires_grad_()
    captured["context"] = context
    return (context,)

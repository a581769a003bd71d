"""The image tower's forward pass: the same as open_clip's, without computing unused tokens."""

from collections.abc import Sequence

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from flowertune.models.attention import Attention
from flowertune.models.visual_prompts import VisualPrompts

# Limit for inference on a CPU, which is no faster with more; prompts are not counted. Cached
# features depend on it in their last bits: to change it, raise `FEATURES_VERSION`.
MAX_CPU_TOKENS = 6400


def split_for_cpu(visual: nn.Module, batch: Tensor) -> Sequence[Tensor]:
    """Split a batch (B, ...) of images or embeddings for inference on a CPU."""
    if batch.device.type != "cpu" or not isinstance(visual, VisionTransformer):
        return [batch]
    return torch.split(batch, max(1, MAX_CPU_TOKENS // len(visual.positional_embedding)))


def embed(visual: nn.Module, images: Tensor, prompts: VisualPrompts | None = None) -> Tensor:
    """Embed images (B, 3, H, W) -> (B, E), optionally with visual prompts.

    If only the class token is pooled, the last block computes that token alone, and the others
    only provide keys and values; so do prompts that the next block replaces. Other towers use
    their own forward pass. Prompts require `takes_prompts`, and pooling ignores them.
    """
    embedding: Tensor
    if prompts is None and not pools_class_token(visual):
        output = visual(images)
        embedding = output[0] if isinstance(output, tuple) else output  # CoCa also returns tokens
        return embedding
    assert isinstance(visual, VisionTransformer)
    tokens, normed, context = _run_up_to_last(visual, visual._embeds(images), prompts)
    if pools_class_token(visual):
        tokens, normed = tokens[:, :1], normed[:, :1]
    last = visual.transformer.resblocks[-1]
    embedding, _ = visual._pool(_run_block(last, tokens, normed, context))
    return embedding if visual.proj is None else embedding @ visual.proj


def takes_prompts(visual: nn.Module) -> bool:
    """Whether `embed` can insert prompts into this tower."""
    return (
        isinstance(visual, VisionTransformer)
        and visual.transformer.batch_first
        and all(_is_supported(block) for block in visual.transformer.resblocks)
    )


def pools_class_token(visual: nn.Module) -> bool:
    """Whether only the class token is pooled, after a last block that `embed` supports."""
    return (
        isinstance(visual, VisionTransformer)
        and visual.pool_type == "tok"
        and visual.attn_pool is None
        and visual.transformer.batch_first
        and _is_supported(visual.transformer.resblocks[-1])
    )


def _is_supported(block: nn.Module) -> bool:
    """Whether `_run_block` computes the same as the block."""
    return isinstance(block, ResidualAttentionBlock) and isinstance(block.attn, Attention)


def _run_block(
    block: ResidualAttentionBlock, tokens: Tensor, normed: Tensor, context: Tensor
) -> Tensor:
    """Run `block` on tokens (B, M, D) that attend to context; normed and context are after ln_1."""
    attended, _ = block.attn(normed, context, context)
    tokens = tokens + block.ls_1(attended)
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))  # type: ignore[no-any-return]


def _run_up_to_last(
    visual: VisionTransformer, tokens: Tensor, prompts: VisualPrompts | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run all blocks but the last; returns the inputs of `_run_block` for the last."""
    *blocks, last = visual.transformer.resblocks
    for index, block in enumerate(blocks):
        if prompts is None or index >= prompts.depth:
            tokens = block(tokens)
            continue
        extra = prompts(index, tokens, visual.ln_pre)
        if index == prompts.depth - 1:  # the last prompts stay with the image's tokens
            tokens = block(prompts.insert(tokens, extra))
        else:  # the next block replaces the prompts, so their outputs are not needed
            normed = block.ln_1(tokens)
            tokens = _run_block(block, tokens, normed, prompts.insert(normed, block.ln_1(extra)))
    normed = last.ln_1(tokens)
    if prompts is None:
        return tokens, normed, normed
    if prompts.depth <= len(blocks):
        return prompts.strip(tokens), prompts.strip(normed), normed
    extra = prompts(len(blocks), tokens, visual.ln_pre)
    return tokens, normed, prompts.insert(normed, last.ln_1(extra))

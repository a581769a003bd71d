"""The image tower's forward pass: open_clip's own, without the tokens that nothing depends on."""

from collections.abc import Sequence

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from flowertune.models.attention import Attention
from flowertune.models.visual_prompts import VisualPrompts

# Of inference on a CPU, which is no faster with more; prompts count for nothing. Features that are
# kept hang on it in their last bits: another number is another `FEATURES_VERSION`.
MAX_CPU_TOKENS = 6400


def split_for_cpu(visual: nn.Module, batch: Tensor) -> Sequence[Tensor]:
    """Split a batch (B, ...) of a tower's inputs or outputs into the parts to work on at once.

    For inference: a GPU takes all at once, a CPU as many images as have `MAX_CPU_TOKENS` tokens.
    """
    if batch.device.type != "cpu" or not isinstance(visual, VisionTransformer):
        return [batch]
    return torch.split(batch, max(1, MAX_CPU_TOKENS // len(visual.positional_embedding)))


def embed(visual: nn.Module, images: Tensor, prompts: VisualPrompts | None = None) -> Tensor:
    """Embed images (B, 3, H, W) -> (B, E), with visual prompts where they are given.

    Where the pooling takes the class token alone, the last block computes that token alone: the
    others give it their keys and values and are done. So do prompts that the next block replaces.
    Towers that are built in another way go through their own forward pass; prompts are for those
    that `takes_prompts` names, and no pooling takes them in.
    """
    embedding: Tensor
    if prompts is None and not pools_class_token(visual):
        output = visual(images)
        embedding = output[0] if isinstance(output, tuple) else output  # CoCa's: tokens beside it
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
    """Whether the embedding depends on the class token alone, in blocks that `embed` supports."""
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
    """Run `block` on tokens (B, M, D) that attend to context (B, N, D): (B, M, D).

    `normed` are the tokens after the block's ln_1, as the context is.
    """
    attended, _ = block.attn(normed, context, context)
    tokens = tokens + block.ls_1(attended)
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))  # type: ignore[no-any-return]


def _run_up_to_last(
    visual: VisionTransformer, tokens: Tensor, prompts: VisualPrompts | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run all blocks but the last on tokens and prompts; returns `_run_block`'s inputs there."""
    *blocks, last = visual.transformer.resblocks
    for index, block in enumerate(blocks):
        if prompts is None or index >= prompts.depth:
            tokens = block(tokens)
            continue
        extra = prompts(index, tokens, visual.ln_pre)
        if index == prompts.depth - 1:  # from here on they travel with the image's tokens
            tokens = block(prompts.insert(tokens, extra))
        else:  # the next block replaces them, so nobody looks at what becomes of them here
            normed = block.ln_1(tokens)
            tokens = _run_block(block, tokens, normed, prompts.insert(normed, block.ln_1(extra)))
    normed = last.ln_1(tokens)
    if prompts is None:
        return tokens, normed, normed
    if prompts.depth <= len(blocks):
        return prompts.strip(tokens), prompts.strip(normed), normed
    extra = prompts(len(blocks), tokens, visual.ln_pre)
    return tokens, normed, prompts.insert(normed, last.ln_1(extra))

"""The image tower's forward pass: open_clip's own, with what nobody looks at left out."""

from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from flowertune.models.attention import Attention


def embed(visual: nn.Module, images: Tensor) -> Tensor:
    """Images (B, 3, H, W) -> embedding (B, E).

    Where the pooling takes the class token alone, the last block computes that token alone: the
    others give it their keys and values and are done. Towers that are built in another way go
    through their own forward pass.
    """
    embedding: Tensor
    if isinstance(visual, VisionTransformer) and _pools_class_token(visual):
        tokens: Tensor = visual._embeds(images)
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            tokens = block(tokens)
        embedding, _ = visual._pool(_class_token(last, tokens))
        return embedding if visual.proj is None else embedding @ visual.proj
    output = visual(images)
    embedding = output[0] if isinstance(output, tuple) else output  # CoCa's: its tokens beside it
    return embedding


def _pools_class_token(visual: VisionTransformer) -> bool:
    last = visual.transformer.resblocks[-1]
    return (
        visual.pool_type == "tok"
        and visual.attn_pool is None
        and visual.transformer.batch_first
        and isinstance(last, ResidualAttentionBlock)
        and isinstance(last.attn, Attention)
    )


def _class_token(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """What `block(tokens (B, N, D))` gives for the class token: (B, 1, D)."""
    normed = block.ln_1(tokens)
    attended, _ = block.attn(normed[:, :1], normed, normed)
    token: Tensor = tokens[:, :1] + block.ls_1(attended)
    return token + block.ls_2(block.mlp(block.ln_2(token)))  # type: ignore[no-any-return]

"""Convert an image tower of open_clip to transformers' CLIPVisionModelWithProjection, the base
model of an exported adapter. Needs torch and transformers.
"""

from typing import Any

BLOCKS = "transformer.resblocks", "vision_model.encoder.layers"
# names in open_clip and transformers, inside and outside of blocks
IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OUTSIDE = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
}


def missing_support(visual: Any) -> str | None:
    """Reason why transformers' CLIP does not support this tower, or None if it does."""
    if type(visual).__name__ != "VisionTransformer" or not hasattr(visual, "conv1"):
        return f"its image encoder is a {type(visual).__name__}"
    first = visual.transformer.resblocks[0]
    sizes = visual.image_size, visual.patch_size
    for is_unsupported, reason in (
        (not hasattr(visual.ln_pre, "weight"), "it has no norm before its blocks"),
        (visual.attn_pool is not None or visual.pool_type != "tok", "its pooling is not CLIP's"),
        (type(first).__name__ != "ResidualAttentionBlock", "its blocks are not CLIP's"),
        (hasattr(first.ls_1, "gamma"), "it scales the outputs of its blocks"),
        (not activation(visual), "its activation is neither GELU nor QuickGELU"),
        (any(height != width for height, width in sizes), "its images or patches are not square"),
    ):
        if is_unsupported:
            return reason
    return None


def activation(visual: Any) -> str:
    """Name of the activation in transformers, or "" if it does not have it."""
    name = type(visual.transformer.resblocks[0].mlp.gelu).__name__
    return "quick_gelu" if name.endswith("QuickGELU") else "gelu" if name == "GELU" else ""


def convert(visual: Any, state: Any = None) -> Any:
    """Convert the tower to transformers, in eval mode. state: weights other than its own."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    state = dict(visual.state_dict() if state is None else state)
    block = visual.transformer.resblocks[0]
    width = len(state["class_embedding"])
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["transformer.resblocks.0.mlp.c_fc.bias"]),
        projection_dim=state["proj"].shape[1],
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=block.attn.num_heads,
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        hidden_act=activation(visual),
        layer_norm_eps=visual.ln_post.eps,
    )
    weights = {"visual_projection.weight": state.pop("proj").T.contiguous()}
    weights |= {theirs: state.pop(ours) for ours, theirs in OUTSIDE.items()}
    for name, tensor in state.items():
        if ".attn.in_proj_" in name:  # q, k and v combined
            block_name, parameter = name.split(".attn.in_proj_")
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                weights[rename(f"{block_name}.attn.{part}_proj.{parameter}")] = rows
        else:
            weights[rename(name)] = tensor
    model = CLIPVisionModelWithProjection(config)
    model.load_state_dict(weights, strict=True)
    return model.eval()


def rename(name: str) -> str:
    """Name in transformers of a weight or module of a block."""
    for ours, theirs in IN_BLOCK.items():
        head, separator, tail = name.partition(f".{ours}.")
        if separator:
            return f"{head.replace(*BLOCKS)}.{theirs}.{tail}"
    raise KeyError(name)

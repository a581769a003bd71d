"""Which patches of an image a logit depends on (Chefer et al., 2021, arXiv:2103.15679)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from flowertune.models.classifier import Classifier
from flowertune.models.vision_tower import embed, pools_class_token

_Attended = dict[str, Tensor]  # q, k, v and context, what the values were summed to; each (B, *, D)


def can_attribute(visual: nn.Module) -> bool:
    """Whether `patch_attribution` can be had of this image tower."""
    return pools_class_token(visual)


def patch_attribution(classifier: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """How much each patch has to do with the logit of a class: (B, rows, columns), 0 or more.

    images: (B, 3, H, W), normalized; classes: (B,). In each block the attention that raises the
    logit (attention times its gradient, what is negative left out, mean over heads) carries the
    tokens' relevance on: R <- R + A R, equations 5 and 6. What is given is the class token's row
    at the end. Prompts that a block gets are of no patch. `can_attribute` must hold.
    """
    visual, prompts = classifier.visual, classifier.prompts
    assert isinstance(visual, VisionTransformer)
    blocks: list[ResidualAttentionBlock] = list(visual.transformer.resblocks)
    with torch.enable_grad(), _watched(blocks) as seen:
        logits = classifier.head(embed(visual, images, prompts).float())
        chosen = logits.gather(1, classes[:, None]).sum()  # each photo's depends on its own alone
    gradients = torch.autograd.grad(chosen, [each["context"] for each in seen])
    rows, columns = visual.grid_size
    relevance = torch.eye(1 + rows * columns, device=images.device).expand(len(images), -1, -1)
    for block, attended, gradient in zip(blocks, seen, gradients, strict=True):
        raised = _raising(attended, gradient, block.attn.num_heads)
        keys, new = relevance, raised.shape[2] - relevance.shape[1]
        if prompts is not None and new:
            of_no_patch = relevance.new_zeros(len(images), new, relevance.shape[2])
            keys = prompts.insert(relevance, of_no_patch)
        # prompts that travel on ask as well; else the image's tokens do, at the end the class token
        queries = keys if raised.shape[1] == keys.shape[1] else relevance[:, : raised.shape[1]]
        relevance = queries + raised @ keys
    by_patch: Tensor = relevance[:, 0, 1:].unflatten(1, (rows, columns))
    return by_patch


@torch.no_grad()
def _raising(attended: _Attended, gradient: Tensor, heads: int) -> Tensor:
    """Attention (B, M, S) as far as it raises the logit; gradient (B, M, D): of the context."""
    q, k, v, of_context = (
        each.float().unflatten(2, (heads, -1)).transpose(1, 2)
        for each in (attended["q_proj"], attended["k_proj"], attended["v_proj"], gradient)
    )
    attention = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(3)
    its_gradient = of_context @ v.transpose(2, 3)
    raising: Tensor = (attention * its_gradient).clamp_min(0).mean(1)
    return raising


@contextmanager
def _watched(blocks: Sequence[ResidualAttentionBlock]) -> Iterator[list[_Attended]]:
    """While it is open, a forward pass leaves here what each block's attention worked with."""
    seen: list[_Attended] = [{} for _ in blocks]
    handles = []
    for block, kept in zip(blocks, seen, strict=True):
        for name in ("q_proj", "k_proj", "v_proj"):
            projection = block.get_submodule(f"attn.{name}")
            handles.append(projection.register_forward_hook(partial(_keep, kept, name)))
        out_proj = block.get_submodule("attn.out_proj")
        handles.append(out_proj.register_forward_pre_hook(partial(_keep_context, kept)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(
    kept: _Attended, name: str, module: nn.Module, inputs: tuple[Tensor], output: Tensor
) -> None:
    kept[name] = output.detach()


def _keep_context(kept: _Attended, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    (context,) = inputs
    if not context.requires_grad:  # in the first block; nothing before it is differentiated
        context = context.detach().requires_grad_()
    kept["context"] = context
    return (context,)

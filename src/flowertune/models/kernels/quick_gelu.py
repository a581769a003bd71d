"""A faster QuickGELU, the activation of OpenAI's CLIP."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

SLOPE = 1.702  # as in OpenAI's CLIP; x sigmoid(1.702 x) approximates GELU


class FusedQuickGELU(QuickGELU):  # type: ignore[misc]  # open_clip is not typed
    """QuickGELU as x sigmoid(s x) = silu(s x) / s.

    silu is a single kernel with its own derivative, so the backward pass needs one saved tensor
    instead of two. In half precision, each of the two scalings would round as much as the whole
    function does, so open_clip's own formula is used.
    """

    def forward(self, x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Activate elementwise; the last product is in place, as silu saves only its input."""
        if x.dtype in (torch.bfloat16, torch.float16):
            return super().forward(x)  # type: ignore[no-any-return]
        return F.silu(x * SLOPE).mul_(1 / SLOPE)


def fuse_quick_gelu(model: nn.Module) -> int:
    """Turn open_clip's QuickGELUs into FusedQuickGELUs in place; returns their number."""
    layers = [layer for layer in model.modules() if isinstance(layer, QuickGELU)]
    for layer in layers:
        layer.__class__ = FusedQuickGELU
    return len(layers)

"""QuickGELU, the activation of OpenAI's CLIP, in operations that torch has kernels for."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

SLOPE = 1.702  # OpenAI's; x sigmoid(1.702 x) is close to GELU


class FusedQuickGELU(QuickGELU):  # type: ignore[misc]  # open_clip is not typed
    """QuickGELU by another formula: x sigmoid(s x) = silu(s x) / s.

    One kernel with a derivative of its own instead of sigmoid and product, so that one tensor is
    kept for the backward pass instead of two. In half precision the factors before and after would
    each cost as much accuracy as the whole does, so there it is open_clip's own.
    """

    def forward(self, x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """Activate elementwise; the last product is in place, as silu keeps its input alone."""
        if x.dtype in (torch.bfloat16, torch.float16):
            return super().forward(x)  # type: ignore[no-any-return]
        return F.silu(x * SLOPE).mul_(1 / SLOPE)


def fuse_quick_gelu(model: nn.Module) -> int:
    """Turn open_clip's QuickGELUs into FusedQuickGELUs, in place; returns their number."""
    layers = [layer for layer in model.modules() if isinstance(layer, QuickGELU)]
    for layer in layers:
        layer.__class__ = FusedQuickGELU
    return len(layers)

"""Visual prompts: trained tokens inserted between the tokens of an image."""

from typing import Literal

import torch
from torch import Tensor, nn

Position = Literal["after_cls", "end"]
POSITIONS: tuple[Position, ...] = ("after_cls", "end")


class VisualPrompts(nn.Module):
    """Prompts for the first `depth` blocks of an image tower, inserted by `vision_tower.embed`.

    embeddings: (P, D), the same prompts in each block, or (depth, P, D), separate prompts. With
    `before_ln_pre`, the first block's prompts pass through CLIP's ln_pre like the image's tokens;
    later blocks have no such norm. `dropout` is drawn per image.
    """

    def __init__(
        self,
        embeddings: Tensor,
        *,
        depth: int,
        position: Position,
        before_ln_pre: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(embeddings)
        self.depth = depth
        self.position = position
        self.before_ln_pre = before_ln_pre
        self.dropout = nn.Dropout(dropout)

    def forward(self, block: int, tokens: Tensor, ln_pre: nn.Module) -> Tensor:
        """Return the prompts (B, P, D) of a block (from 0) in the dtype of tokens (B, N, D)."""
        embeddings = self.embeddings if self.embeddings.ndim == 2 else self.embeddings[block]
        prompts: Tensor = self.dropout(embeddings.to(tokens.dtype).expand(tokens.shape[0], -1, -1))
        return ln_pre(prompts) if block == 0 and self.before_ln_pre else prompts

    def insert(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Insert prompts (B, P, D) into tokens (B, N, D), class token first -> (B, N + P, D)."""
        start = self._start(tokens.shape[1])
        return torch.cat([tokens[:, :start], prompts, tokens[:, start:]], dim=1)

    def strip(self, tokens: Tensor) -> Tensor:
        """Undo `insert`: (B, N + P, D) -> (B, N, D)."""
        count = self.embeddings.shape[-2]
        start = self._start(tokens.shape[1] - count)
        return torch.cat([tokens[:, :start], tokens[:, start + count :]], dim=1)

    def _start(self, tokens: int) -> int:
        # Attention ignores order and prompts have no position embedding, so the two positions
        # compute the same function except for rounding.
        return 1 if self.position == "after_cls" else tokens

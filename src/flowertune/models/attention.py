"""Multi-head attention split into four Linear layers, so that LoRA can adapt each of them.

open_clip up to 3.3 builds its towers from `nn.MultiheadAttention`, which keeps q, k and v in one
parameter outside any Linear layer; peft's wrapper for it is wrong (it adds the update of the
output projection twice). The names here are those of transformers' `CLIPAttention`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowertune.models.kernels.attention import attend

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class Attention(nn.Module):
    """Replace `nn.MultiheadAttention` as open_clip calls it, by `attend` or PyTorch's SDPA.

    Query (B, N, D), key and value (B, S, D); (N, B, D) and (S, B, D) where not `batch_first`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        kdim: int,
        vdim: int,
        bias: bool,
        dropout: float,
        batch_first: bool,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.k_proj = nn.Linear(kdim, embed_dim, bias=bias)
        self.v_proj = nn.Linear(vdim, embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)

    @classmethod
    def from_multihead(cls, source: nn.MultiheadAttention) -> "Attention":
        """Build one with the weights, dtype, device and trainability of an `nn.MultiheadAttention`.

        Raises NotImplementedError for `add_bias_kv` and `add_zero_attn`, which no CLIP uses.
        """
        if source.bias_k is not None or source.bias_v is not None or source.add_zero_attn:
            raise NotImplementedError("attention with add_bias_kv or add_zero_attn is not opened")
        out_weight = source.out_proj.weight
        with torch.device("meta"):  # no initial weights to draw: all of them are copied
            attention = cls(
                source.embed_dim,
                source.num_heads,
                kdim=source.kdim,
                vdim=source.vdim,
                bias=source.in_proj_bias is not None,
                dropout=source.dropout,
                batch_first=source.batch_first,
            )
        attention = attention.to_empty(device=out_weight.device).to(out_weight.dtype)
        if source.in_proj_weight is not None:
            weights = list(source.in_proj_weight.chunk(3))
        else:  # key or value of another width than the query
            weights = [source.q_proj_weight, source.k_proj_weight, source.v_proj_weight]
        weights.append(out_weight)
        biases: Sequence[Tensor | None] = [None] * 4
        if source.in_proj_bias is not None:
            biases = [*source.in_proj_bias.chunk(3), source.out_proj.bias]
        projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj)
        with torch.no_grad():
            for projection, weight, bias in zip(projections, weights, biases, strict=True):
                projection.weight.copy_(weight)
                if bias is not None:
                    projection.bias.copy_(bias)
        attention.requires_grad_(out_weight.requires_grad)
        return attention.train(source.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attend; returns the tokens and, in place of `nn.MultiheadAttention`'s weights, None.

        `attn_mask`: (N, S) or (B * heads, N, S), as `nn.MultiheadAttention` takes it: a float mask
        is added to the scores, a bool mask is True where attention is NOT allowed.
        """
        if need_weights:
            raise NotImplementedError("the opened attention does not return attention weights")
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            self._split_heads(projection(x))
            for projection, x in (
                (self.q_proj, query),
                (self.k_proj, key),
                (self.v_proj, value),
            )
        )
        dropout, mask = self.dropout if self.training else 0.0, self._sdpa_mask(attn_mask, q)
        if dropout == 0 and mask is None:
            attended = attend(q, k, v)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        output = self.out_proj(attended.transpose(1, 2).flatten(2))
        return (output if self.batch_first else output.transpose(0, 1)), None

    def _split_heads(self, x: Tensor) -> Tensor:
        """Reshape (B, N, D) -> (B, heads, N, D / heads)."""
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

    def _sdpa_mask(self, mask: Tensor | None, q: Tensor) -> Tensor | None:
        """Convert a mask to SDPA's form: bool True = attend, per-head masks four-dimensional."""
        if mask is None:
            return None
        mask = ~mask if mask.dtype == torch.bool else mask.to(q.dtype)
        return mask.view(-1, self.num_heads, *mask.shape[1:]) if mask.ndim == 3 else mask


def is_unfused(module: nn.Module) -> bool:
    """Whether all projections are Linear layers (or Linear layers that peft has wrapped)."""
    return all(
        isinstance(getattr(projection, "base_layer", projection), nn.Linear)
        for projection in (getattr(module, name, None) for name in PROJECTIONS)
    )


def unfuse_attention(model: nn.Module) -> int:
    """Replace every `nn.MultiheadAttention` inside `model` by an `Attention` of the same weights.

    Found by what an attribute holds, not by the class of the block around it. Returns the number
    of split attentions, those that were split already included (open_clip's next major version
    builds them so, and splitting twice changes nothing); the caller asserts it.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(parent, name, Attention.from_multihead(child))
    return sum(is_unfused(module) for module in model.modules())


def fused_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """State dict of a model under the parameter names of `nn.MultiheadAttention`."""
    state: dict[str, Tensor] = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            prefixes = [f"{name}.{projection}" for projection in PROJECTIONS[:3]]
            weights = [state.pop(f"{prefix}.weight") for prefix in prefixes]
            if all(weight.shape[1] == module.embed_dim for weight in weights):
                state[f"{name}.in_proj_weight"] = torch.cat(weights)
            else:  # key or value of another width than the query
                keys = (f"{prefix}_weight" for prefix in prefixes)
                state.update(zip(keys, weights, strict=True))
            if module.q_proj.bias is not None:
                biases = [state.pop(f"{prefix}.bias") for prefix in prefixes]
                state[f"{name}.in_proj_bias"] = torch.cat(biases)
    return state

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

QKV = ("q_proj", "k_proj", "v_proj")


class Attention(nn.Module):
    """The weights of an `nn.MultiheadAttention`, called as open_clip calls that.

    Computed by `attend` or PyTorch's SDPA: query (B, N, D), key and value (B, S, D); (N, B, D) and
    (S, B, D) where not `batch_first`. Raises NotImplementedError for `add_bias_kv` and
    `add_zero_attn`, which no CLIP uses.
    """

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        if source.bias_k is not None or source.bias_v is not None or source.add_zero_attn:
            raise NotImplementedError("attention with add_bias_kv or add_zero_attn is not opened")
        self.embed_dim = source.embed_dim
        self.num_heads = source.num_heads
        self.dropout = source.dropout
        self.batch_first = source.batch_first
        weights: Sequence[Tensor]
        if source.in_proj_weight is not None:
            weights = source.in_proj_weight.chunk(3)
        else:  # key or value of another width than the query
            weights = source.q_proj_weight, source.k_proj_weight, source.v_proj_weight
        biases = [None] * 3 if source.in_proj_bias is None else source.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
        self.out_proj = _linear(source.out_proj.weight, source.out_proj.bias)
        self.train(source.training)

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
        q = self._split_heads(self.q_proj(query))
        k = self._split_heads(self.k_proj(key))
        v = self._split_heads(self.v_proj(value))
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


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a Linear layer of copies."""
    n_outputs, n_inputs = weight.shape
    linear = nn.Linear(n_inputs, n_outputs, bias=False, device="meta")  # nothing is drawn
    linear.weight = nn.Parameter(weight.detach().clone(), weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), bias.requires_grad)
    return linear


def unfuse_attention(model: nn.Module) -> None:
    """Replace every `nn.MultiheadAttention` inside `model` by an `Attention` of the same weights.

    Found by what an attribute holds, not by the class of the block around it.
    """
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.MultiheadAttention):
                setattr(parent, name, Attention(child))


def fused_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """State dict of a model under the parameter names of `nn.MultiheadAttention`."""
    state: dict[str, Tensor] = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            prefixes = [f"{name}.{projection}" for projection in QKV]
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

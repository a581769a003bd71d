"""Attention in float32 on a CPU whose MKL is slow (see `product`), in oneDNN's products.

torch's own has MKL inside. Batched products torch gives to oneDNN where bfloat16 would be allowed
in them; oneDNN, on a CPU without matrix tiles, then computes in float32 all the same, which
`_keeps_float32` makes sure of.
"""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from flowertune.models.kernels.linear import uses_onednn

LARGEST = 32 * 2**20  # bytes of attention that one call keeps for its gradient; torch's keeps none
AT_ONCE = 8 * 2**20  # bytes of attention that are worked on at once where none is kept


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(E)) v: q (B, heads, N, E), k and v (B, heads, S, E) -> (B, heads, N, E).

    torch's own where that is the faster one, and where too much would be kept for the gradients.
    """
    if not uses_onednn(q) or not _keeps_float32():
        return F.scaled_dot_product_attention(q, k, v)
    of_a_photo = q.shape[1:3].numel() * k.shape[2] * q.element_size()
    if torch.is_grad_enabled() and any(each.requires_grad for each in (q, k, v)):
        if len(q) * of_a_photo > LARGEST:
            return F.scaled_dot_product_attention(q, k, v)
        return _attend(q, k, v)  # type: ignore[no-any-return]
    photos = max(1, AT_ONCE // max(1, of_a_photo))
    parts = zip(q.split(photos), k.split(photos), v.split(photos), strict=True)
    return torch.cat([_attend(*part) for part in parts])


_lock = threading.Lock()
_open, _before = 0, ""  # how many threads are in `_onednn`, and how it was before the first came


@contextmanager
def _onednn() -> Iterator[None]:
    """While it is open, batched float32 products of the whole process are oneDNN's.

    Where somebody has set torch's newer switches, which this older one does not go with, they stay
    MKL's.
    """
    global _open, _before
    with _lock:
        if not _open:
            try:
                _before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("medium")
            except RuntimeError:
                _before = ""
        _open += 1
    try:
        yield
    finally:
        with _lock:
            _open -= 1
            if not _open and _before:
                torch.set_float32_matmul_precision(_before)


@functools.cache
def _keeps_float32() -> bool:
    """Whether oneDNN, where it may round factors to bfloat16, leaves them as they are.

    Not asked where there is a GPU, whose products the switch would round as well.
    """
    if torch.cuda.is_available():
        return False
    fine = torch.full((1, 64, 64), 1 + 2.0**-12, dtype=torch.float32, device="cpu")  # 1 in bfloat16
    one = torch.eye(64, dtype=torch.float32, device="cpu")[None]
    with torch.autocast("cpu", enabled=False), _onednn():
        return all(torch.equal(x @ one, fine) for x in (fine, fine.transpose(1, 2)))


class _Attend(torch.autograd.Function):
    """Keeps the attention for its gradient: to work it out again takes longer."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = q.shape[:2]
        scaled = torch.mul(q, q.shape[3] ** -0.5, out=q.new_empty(q.shape))
        q, k, v = (each.contiguous().flatten(0, 1) for each in (scaled, k, v))
        with _onednn():
            scores = torch.bmm(q, k.transpose(1, 2))
            attention = torch.softmax(scores, 2, out=scores)
            attended = torch.bmm(attention, v)
        ctx.save_for_backward(q, k, v, attention)
        found: Tensor = attended.unflatten(0, heads)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        q, k, v, attention = ctx.saved_tensors
        heads = gradient.shape[:2]
        gradient = gradient.contiguous().flatten(0, 1)
        with torch.autocast("cpu", enabled=False), _onednn():
            for_v = torch.bmm(attention.transpose(1, 2), gradient)
            of_scores = torch.bmm(gradient, v.transpose(1, 2))
            torch.ops.aten._softmax_backward_data.out(
                of_scores, attention, 2, torch.float32, grad_input=of_scores
            )
            for_q = torch.bmm(of_scores, k).mul_(k.shape[2] ** -0.5)
            for_k = torch.bmm(of_scores.transpose(1, 2), q)
        return tuple(each.unflatten(0, heads) for each in (for_q, for_k, for_v))


_attend = _Attend.apply

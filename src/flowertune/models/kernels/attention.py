"""Compute float32 attention with oneDNN on CPUs whose MKL is slow (see linear.py).

torch's own attention uses MKL. torch passes batched products to oneDNN only if they may use
bfloat16; on a CPU without matrix tiles, oneDNN still computes them in float32, which
`_keeps_float32` verifies.
"""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from flowertune.models.kernels.linear import uses_onednn

MAX_SAVED_BYTES = 32 * 2**20  # attention that a call may save for its gradient; torch saves none
CHUNK_BYTES = 8 * 2**20  # attention computed at once if none is saved


def attend(
    q: Float[Tensor, "b heads n e"],
    k: Float[Tensor, "b heads s e"],
    v: Float[Tensor, "b heads s e"],
) -> Float[Tensor, "b heads n e"]:
    """Return softmax(q k^T / sqrt(e)) v; torch computes it where it is faster or saves memory."""
    if not uses_onednn(q) or not _keeps_float32():
        return F.scaled_dot_product_attention(q, k, v)
    image_bytes = q.shape[1:3].numel() * k.shape[2] * q.element_size()
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (q, k, v)):
        if len(q) * image_bytes > MAX_SAVED_BYTES:
            return F.scaled_dot_product_attention(q, k, v)
        return _attend(q, k, v)  # type: ignore[no-any-return]
    chunk = max(1, CHUNK_BYTES // max(1, image_bytes))
    chunks = zip(q.split(chunk), k.split(chunk), v.split(chunk), strict=True)
    return torch.cat([_attend(*qkv) for qkv in chunks])


_lock = threading.Lock()
_users, _previous = 0, ""  # number of threads in `_onednn`, and the precision before the first


@contextmanager
def _onednn() -> Iterator[None]:
    """Compute batched float32 products of the whole process with oneDNN.

    If torch's newer precision API is in use, the older one used here fails, and MKL computes them.
    """
    global _users, _previous
    with _lock:
        if not _users:
            try:
                _previous = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("medium")
            except RuntimeError:
                _previous = ""
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users and _previous:
                torch.set_float32_matmul_precision(_previous)


@functools.cache
def _keeps_float32() -> bool:
    """Whether oneDNN keeps float32 where bfloat16 is allowed; a GPU, if any, would round."""
    if torch.cuda.is_available():
        return False
    fine = torch.full((1, 64, 64), 1 + 2.0**-12, dtype=torch.float32, device="cpu")  # 1 in bfloat16
    identity = torch.eye(64, dtype=torch.float32, device="cpu")[None]
    with torch.autocast("cpu", enabled=False), _onednn():
        return all(torch.equal(x @ identity, fine) for x in (fine, fine.transpose(1, 2)))


class _Attend(torch.autograd.Function):
    """Saves the attention for the backward pass: computing it again takes longer."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = q.shape[:2]
        scaled = torch.mul(q, q.shape[3] ** -0.5, out=q.new_empty(q.shape))
        q, k, v = (tensor.contiguous().flatten(0, 1) for tensor in (scaled, k, v))
        with _onednn():
            scores = torch.bmm(q, k.transpose(1, 2))
            attention = torch.softmax(scores, 2, out=scores)
            attended = torch.bmm(attention, v)
        ctx.save_for_backward(q, k, v, attention)
        output: Tensor = attended.unflatten(0, heads)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        q, k, v, attention = ctx.saved_tensors
        heads = grad.shape[:2]
        grad = grad.contiguous().flatten(0, 1)
        with torch.autocast("cpu", enabled=False), _onednn():
            grad_v = torch.bmm(attention.transpose(1, 2), grad)
            grad_scores = torch.bmm(grad, v.transpose(1, 2))
            torch.ops.aten._softmax_backward_data.out(
                grad_scores, attention, 2, torch.float32, grad_input=grad_scores
            )
            grad_q = torch.bmm(grad_scores, k).mul_(k.shape[2] ** -0.5)
            grad_k = torch.bmm(grad_scores.transpose(1, 2), q)
        return tuple(tensor.unflatten(0, heads) for tensor in (grad_q, grad_k, grad_v))


_attend = _Attend.apply

"""Compute products of Linear layers on a CPU by the faster of torch's two libraries.

MKL computes float32 with half the width of AVX-512 on processors that are not Intel's; oneDNN uses
all of it there, and is twice as fast on an AMD EPYC of the Zen 5 kind, the one that was measured
(benchmarks/LOG.md). torch asks oneDNN for half precision alone, so here it is asked by the
operation that inductor compiles Linear layers to.
"""

import functools
import platform
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CPU_INFO = Path("/proc/cpuinfo")  # Linux's


def linear_forward(
    x: Float[Tensor, "*b k"], weight: Float[Tensor, "n k"], bias: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "*b n"]:
    """Compute x weight^T + bias; all of one type, without gradients."""
    if uses_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


def uses_onednn(x: Tensor) -> bool:
    """Whether `linear_forward` of such a tensor uses oneDNN; never when traced, for others."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]  # it is public all the same
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and mkl_lacks_avx512()
    )


@functools.cache
def mkl_lacks_avx512() -> bool:
    """Whether this CPU has AVX-512 that MKL leaves unused, and torch has oneDNN."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _vendor() != "GenuineIntel"
    )


def _vendor() -> str:
    """Vendor of the processor; "" where the system does not tell."""
    if CPU_INFO.exists():
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.split(":")[1].strip() for line in lines if "vendor_id" in line), "")
    return platform.processor().rpartition(" ")[2]  # Windows: "... Stepping 1, AuthenticAMD"


class Linear(nn.Linear):
    """nn.Linear that computes with `linear_forward`, forward and backward."""

    def forward(self, x: Float[Tensor, "*b k"]) -> Float[Tensor, "*b n"]:
        return linear(x, self.weight, self.bias)


def use_onednn_linear(model: nn.Module) -> None:
    """Turn a model's nn.Linears into Linears, in place."""
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear


def linear(
    x: Float[Tensor, "*b k"], weight: Float[Tensor, "n k"], bias: Float[Tensor, "n"] | None
) -> Float[Tensor, "*b n"]:
    """Apply `linear_forward`, with gradients that use `linear_forward` too."""
    if uses_onednn(x):
        return _linear(x, weight, bias)  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    """Keeps x for the backward pass only where the weight is trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return linear_forward(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        flat_grad = grad.reshape(-1, grad.shape[-1])
        return (
            linear_forward(grad, weight.T) if needs_x else None,
            # MKL's: oneDNN would copy both, as their sums run over the rows; that is worth it where
            # one of them has few columns, as LoRA's have
            flat_grad.T @ x.reshape(-1, x.shape[-1]) if needs_weight else None,
            flat_grad.sum(0) if needs_bias else None,
        )


_linear = _Linear.apply

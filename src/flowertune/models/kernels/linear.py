"""Compute Linear layers on a CPU with the faster of torch's two libraries.

On processors not made by Intel, MKL computes float32 with half the width of AVX-512. oneDNN uses
the full width and is twice as fast on an AMD EPYC (Zen 5), the only one measured
(benchmarks/LOG.md). torch uses oneDNN only for half precision, so oneDNN is called here through the
operation to which inductor compiles Linear layers.
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

CPU_INFO = Path("/proc/cpuinfo")  # Linux


def linear_forward(
    x: Float[Tensor, "*b k"], weight: Float[Tensor, "n k"], bias: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "*b n"]:
    """Return x weight^T + bias without gradients; all tensors have the same dtype."""
    if uses_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


def uses_onednn(x: Tensor) -> bool:
    """Whether `linear_forward(x)` uses oneDNN; False while tracing, to keep exports portable."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined]  # documented as public
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and mkl_lacks_avx512()
    )


@functools.cache
def mkl_lacks_avx512() -> bool:
    """Whether MKL leaves this CPU's AVX-512 unused and torch has oneDNN."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _vendor() != "GenuineIntel"
    )


def _vendor() -> str:
    """Return the vendor of the processor, "" if unknown."""
    if CPU_INFO.exists():
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.split(":")[1].strip() for line in lines if "vendor_id" in line), "")
    return platform.processor().rpartition(" ")[2]  # Windows: "... Stepping 1, AuthenticAMD"


class Linear(nn.Linear):
    """nn.Linear that uses `linear_forward` in its forward and backward pass."""

    def forward(self, x: Float[Tensor, "*b k"]) -> Float[Tensor, "*b n"]:
        return linear(x, self.weight, self.bias)


def use_onednn_linear(model: nn.Module) -> None:
    """Turn a model's nn.Linear layers into Linear layers in place."""
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear


def linear(
    x: Float[Tensor, "*b k"], weight: Float[Tensor, "n k"], bias: Float[Tensor, "n"] | None
) -> Float[Tensor, "*b n"]:
    """Return x weight^T + bias with gradients; like `linear_forward` in both passes."""
    if uses_onednn(x):
        return _linear(x, weight, bias)  # type: ignore[no-any-return]
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    """Saves x for the backward pass only if the weight is trained."""

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
            # MKL: oneDNN would copy both factors, as it sums over their rows; that pays only if one
            # of them has few columns, like LoRA's
            flat_grad.T @ x.reshape(-1, x.shape[-1]) if needs_weight else None,
            flat_grad.sum(0) if needs_bias else None,
        )


_linear = _Linear.apply

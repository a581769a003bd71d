"""A Linear layer with LoRA in fewer and larger operations than peft's; the same function."""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from flowertune.models.kernels.linear import linear_forward


class LoraLinear(lora.Linear):  # type: ignore[misc]  # peft is not typed
    """peft's layer, of one adapter, with another forward pass: x (..., D_in) -> (..., D_out).

    peft computes W x + s B (A x): beside the frozen product two thin ones, a scaling and a sum, of
    which each but the first reads and writes an output. Here the update joins the weights, which
    are smaller than the activations. Under autocast it cannot, as half precision would round it
    away beside them, so there it is added by the product itself.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute x (..., D_in) -> (..., D_out), by peft where merged, disabled or with dropout."""
        (name,) = self.active_adapters
        dropout = self.lora_dropout[name]
        drops = isinstance(dropout, nn.Dropout) and dropout.training
        if self.merged or self.disable_adapters or drops:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        base = self.get_base_layer()
        a, b, scale = self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        if torch.is_autocast_enabled(x.device.type):
            base_output, down = base(x), F.linear(x, a)
            flat = torch.addmm(
                base_output.reshape(-1, base_output.shape[-1]),
                down.reshape(-1, down.shape[-1]),
                b.T,
                alpha=scale,
            )
            return flat.view_as(base_output)
        return _updated_linear(x, base.weight, base.bias, a, b, scale)  # type: ignore[no-any-return]


def fuse_lora(model: nn.Module) -> None:
    """Turn peft's LoRA layers into LoraLinears, in place; DoRA's norms need the sum of both."""
    layer: Any  # peft is not typed
    for layer in model.modules():
        if type(layer) is lora.Linear and not layer.lora_variant:
            layer.__class__ = LoraLinear
            # weights are float32 throughout; peft's casts would only undo autocast's
            layer.cast_input_dtype_enabled = False


class _UpdatedLinear(torch.autograd.Function):
    """x (W + s B A)^T + bias, whose gradients for A and B never form that of the sum.

    W (D_out, D_in) and bias (D_out,) or None are frozen; A (r, D_in), B (D_out, r).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, w, a, b)
        ctx.scale = scale
        return linear_forward(x, torch.addmm(w, b, a, alpha=scale), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w, a, b = ctx.saved_tensors
        flat_x, flat_grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        grad_x = None
        if ctx.needs_input_grad[0]:  # the sum anew: kept, it would be a second copy of the tower
            grad_x = linear_forward(flat_grad, torch.addmm(w, b, a, alpha=ctx.scale).T).view_as(x)
        grad_a = ctx.scale * linear_forward(linear_forward(flat_grad, b.T).T, flat_x.T)
        # transposed, and so several times as fast on a CPU as flat.T @ linear_forward(flat_x, a)
        grad_b = linear_forward(linear_forward(flat_x, a).T, flat_grad.T).T
        grad_b = torch.mul(grad_b, ctx.scale, out=torch.empty_like(b))
        return grad_x, None, None, grad_a, grad_b, None


_updated_linear = _UpdatedLinear.apply

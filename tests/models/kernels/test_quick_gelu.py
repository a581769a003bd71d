"""The fused activation against open_clip's."""

import pytest
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from flowertune.models.kernels.quick_gelu import FusedQuickGELU, fuse_quick_gelu

VALUES = torch.cat([torch.linspace(-30, 30, 1001), torch.tensor([0.0, -1e4, 1e4])])


def outcome(activation, dtype):
    """The activation's values at VALUES, and its gradients there."""
    x = VALUES.to(dtype, copy=True).requires_grad_()
    y = activation(x)
    y.backward(torch.linspace(-1, 1, len(VALUES)).to(dtype))
    assert torch.equal(x.detach(), VALUES.to(dtype))
    return torch.stack([y.detach(), x.grad])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_gradients_are_those_of_open_clip(dtype):
    torch.testing.assert_close(outcome(FusedQuickGELU(), dtype), outcome(QuickGELU(), dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_uses_open_clips_formula(dtype):
    ours, theirs = outcome(FusedQuickGELU(), dtype), outcome(QuickGELU(), dtype)
    assert torch.equal(ours, theirs)


def test_one_tensor_is_saved_for_the_backward_pass():
    kept = []
    x = torch.randn(64, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        FusedQuickGELU()(x)
    assert sum(t.dim() > 0 for t in kept) == 1


def test_only_quickgelus_are_replaced():
    model = nn.Sequential(QuickGELU(), nn.Sequential(nn.GELU(), QuickGELU()))
    assert fuse_quick_gelu(model) == 2
    assert fuse_quick_gelu(model) == 2
    assert [type(m) for m in model.modules() if not isinstance(m, nn.Sequential)] == [
        FusedQuickGELU, nn.GELU, FusedQuickGELU,
    ]  # fmt: skip

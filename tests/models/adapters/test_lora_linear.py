"""LoraLinear against peft's own forward pass, which it replaces."""

import copy
from contextlib import nullcontext

import peft
import pytest
import torch
from peft.tuners import lora
from torch import nn

from flowertune.models.adapters.lora_linear import LoraLinear, fuse_lora
from flowertune.models.kernels import linear


def pair(bias: bool = True, dropout: float = 0.0) -> tuple[nn.Module, nn.Module]:
    """peft's layer as if trained, and the same layer as ours; float64."""
    torch.manual_seed(3)
    holder = nn.Sequential(nn.Linear(10, 6, bias=bias))
    config = peft.LoraConfig(r=3, lora_alpha=5, lora_dropout=dropout, target_modules=["0"])
    peft.get_peft_model(holder, config)
    theirs = holder[0].double()
    assert type(theirs) is lora.Linear
    with torch.no_grad():
        theirs.lora_B["default"].weight.normal_()
    ours = copy.deepcopy(theirs)
    fuse_lora(ours)
    return theirs, ours


def outcome(layer: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y).to(y)).sum().backward()
    found = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {**found, "y": y.detach(), **({} if x.grad is None else {"x": x.grad})}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(10,), (4, 10), (2, 5, 10)])
@pytest.mark.parametrize("deep", [True, False])
def test_output_and_gradients_are_pefts(bias: bool, shape: tuple[int, ...], deep: bool) -> None:
    theirs, ours = pair(bias)
    x = torch.randn(shape, dtype=torch.float64)
    expected = outcome(theirs, x.clone().requires_grad_(deep))
    found = outcome(ours, x.clone().requires_grad_(deep))
    assert set(found) == set(expected) == {
        "lora_A.default.weight", "lora_B.default.weight", "y", *(["x"] if deep else []),
    }  # fmt: skip
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("photos", [1, 6])
def test_in_float32_they_are_pefts_by_either_library(
    onednn: bool, photos: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linear, "mkl_lacks_avx512", lambda: onednn)
    theirs, ours = pair()
    x = torch.randn(5, photos, 10, dtype=torch.float64).transpose(0, 1)
    expected = outcome(theirs, x.clone().requires_grad_())
    found = outcome(ours.float(), x.float().requires_grad_())
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-5, atol=1e-5)


def test_under_autocast_a_small_update_is_not_rounded_away() -> None:
    theirs, ours = (layer.float() for layer in pair())
    for layer in (theirs, ours):
        with torch.no_grad():
            layer.lora_B["default"].weight.mul_(1e-4)
    x = torch.randn(64, 10)
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = outcome(theirs, x), outcome(ours, x)
        frozen = ours.get_base_layer()(x)
    assert found["y"].dtype == torch.bfloat16
    assert not torch.equal(found["y"], frozen)
    for name, value in expected.items():
        torch.testing.assert_close(found[name].float(), value.float(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("autocast", [True, False])
def test_the_frozen_layer_gets_no_gradient_and_no_copy_is_kept(autocast: bool) -> None:
    _, layer = pair()
    layer.float()
    kept: list[torch.Tensor] = []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t),
        torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext(),
    ):
        layer(torch.randn(64, 10, requires_grad=True)).float().sum().backward()
    assert layer.get_base_layer().weight.grad is None
    if not autocast:  # which keeps its own casts
        storages = {tensor.untyped_storage().data_ptr() for tensor in kept}
        mine = {p.untyped_storage().data_ptr() for p in layer.parameters()}
        assert len(storages - mine) == 1  # the input alone


def test_dropout_stays_pefts() -> None:
    theirs, ours = pair(dropout=0.5)
    x = torch.randn(8, 10, dtype=torch.float64)
    results = []
    for layer in (theirs.train(), ours.train()):
        torch.manual_seed(0)
        results.append(layer(x))
    assert torch.equal(*results)
    assert not torch.equal(results[1], ours.eval()(x))
    assert isinstance(ours, LoraLinear)

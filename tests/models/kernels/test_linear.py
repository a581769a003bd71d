"""Linear layers by oneDNN against torch's own, and where they are left alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flowertune.models.kernels import linear as linear_kernel
from flowertune.models.kernels.linear import Linear, linear_forward, use_onednn_linear, uses_onednn

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture(params=[True, False], ids=["onednn", "as torch does it"])
def narrow(request, monkeypatch):
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linear_kernel, "mkl_lacks_avx512", lambda: request.param)
    return request.param


def outcome(layer, x, trained):
    layer.requires_grad_(trained)
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    gradients = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return {**gradients, "y": y.detach(), **({} if x.grad is None else {"x": x.grad})}


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("shape", [(40,), (7, 40), (3, 5, 40)])
def test_values_and_gradients_are_those_of_nn_linear(bias, trained, shape):
    torch.manual_seed(0)
    theirs = nn.Linear(40, 24, bias=bias)
    ours = copy.deepcopy(theirs)
    use_onednn_linear(ours)
    assert type(ours) is Linear
    x = torch.randn(shape)
    expected = outcome(theirs, x.clone().requires_grad_(), trained)
    found = outcome(ours, x.clone().requires_grad_(), trained)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.usefixtures("narrow")
def test_views_count_as_what_they_show():
    """The class token of a batch, and a transposed weight, as the last block and gradients have."""
    tokens, weight = torch.randn(4, 9, 40), torch.randn(24, 40)
    torch.testing.assert_close(
        linear_forward(tokens[:, :1], weight), F.linear(tokens[:, :1], weight)
    )
    gradient = torch.randn(4, 9, 24)
    torch.testing.assert_close(linear_forward(gradient, weight.T), gradient @ weight)


@pytest.mark.usefixtures("narrow")
def test_a_frozen_layer_keeps_no_activations():
    kept = []
    layer = Linear(40, 24).requires_grad_(False)
    x = torch.randn(8, 40, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    assert {tensor.numel() for tensor in kept} == {24 * 40}  # the weight


@needs_onednn
def test_only_float32_on_a_cpu_is_onednns(monkeypatch):
    monkeypatch.setattr(linear_kernel, "mkl_lacks_avx512", lambda: True)
    x = torch.randn(2, 3)
    assert uses_onednn(x)
    assert not uses_onednn(x.double())
    assert not uses_onednn(x.bfloat16())
    assert not uses_onednn(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not uses_onednn(x)
        assert Linear(3, 2)(x).dtype == torch.bfloat16


@needs_onednn
@pytest.mark.parametrize("strict", [True, False])
def test_what_is_exported_holds_no_operation_of_one_kind_of_cpu(monkeypatch, strict):
    monkeypatch.setattr(linear_kernel, "_vendor", lambda: "AuthenticAMD")
    layer, x = Linear(3, 2).requires_grad_(False).eval(), torch.randn(2, 3)
    program = torch.export.export(layer, (x,), strict=strict)
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert names == {"aten.linear.default"}


@needs_onednn
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nor_what_is_traced(monkeypatch):
    monkeypatch.setattr(linear_kernel, "mkl_lacks_avx512", lambda: True)
    traced = torch.jit.trace(Linear(3, 2).requires_grad_(False).eval(), torch.randn(2, 3))
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert kinds - {"prim::GetAttr"} == {"aten::linear"}


def test_intels_processors_are_left_to_mkl(monkeypatch, tmp_path):
    def narrow(vendor, capability="AVX512"):
        told = tmp_path / "cpuinfo"
        told.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\nmodel\t\t: 1\n")
        monkeypatch.setattr(linear_kernel, "CPU_INFO", told)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        return linear_kernel.mkl_lacks_avx512.__wrapped__()

    assert not narrow("GenuineIntel")
    assert not narrow("AuthenticAMD", "AVX2")
    has_both = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    assert narrow("AuthenticAMD") == has_both


def test_all_of_a_model_are_replaced_and_nothing_that_is_built_on_them():
    class Other(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(Other(2, 2), nn.Linear(2, 2)))
    use_onednn_linear(model)
    use_onednn_linear(model)
    assert [type(m) for m in model.modules() if isinstance(m, nn.Linear)] == [Linear, Other, Linear]

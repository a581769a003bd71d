"""Attention by oneDNN against PyTorch's own and against float64, with its gradients."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from flowertune.models.kernels import attention
from flowertune.models.kernels.attention import attend


@pytest.fixture(params=["onednn", "torch"])
def library(request, monkeypatch):
    """Each of the two libraries, on any machine."""
    monkeypatch.setattr(attention, "uses_onednn", lambda x: request.param == "onednn")
    return request.param


def of_tokens(tokens, heads):
    """(B, N, D) -> (B, heads, N, D / heads), as a view, like in the tower."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def exact(q, k, v):
    """Attention in float64, per image and head."""
    q, k, v = (each.double() for each in (q, k, v))
    images = [
        torch.stack([
            (a @ b.T / a.shape[1] ** 0.5).softmax(1) @ c for a, b, c in zip(*heads, strict=True)
        ])
        for heads in zip(q, k, v, strict=True)
    ]  # fmt: skip
    return torch.stack(images)


@pytest.mark.parametrize(("queries", "keys", "heads"), [(7, 7, 3), (1, 50, 12), (50, 55, 2)])
def test_output_and_gradients_are_those_of_the_definition(library, queries, keys, heads):
    generator = torch.Generator().manual_seed(1)
    sizes = (queries, keys, keys)
    tokens = [torch.randn(4, n, heads * 16, generator=generator) * 2 for n in sizes]
    for each in tokens:
        each.requires_grad_()
    q, k, v = (of_tokens(each, heads) for each in tokens)
    expected = exact(q, k, v)
    weights = torch.randn(expected.shape, generator=generator)
    of_exact = torch.autograd.grad((expected * weights).sum(), tokens)
    found = attend(q, k, v)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    of_found = torch.autograd.grad((found * weights).sum(), tokens)
    for ours, theirs in zip(of_found, of_exact, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert torch.get_float32_matmul_precision() == "highest"


def test_it_keeps_float32_where_it_is_used():
    """If oneDNN rounded factors to bfloat16, the error would be a thousand times as large."""
    if not attention._keeps_float32():
        pytest.skip("oneDNN rounds on this CPU, and is not used")
    generator = torch.Generator().manual_seed(1)
    for shape in [(1, 1, 1, 8), (2, 3, 197, 64), (1, 12, 50, 64), (3, 4, 17, 16), (1, 2, 300, 80)]:
        a, b = (torch.randn(shape, generator=generator).flatten(0, 1) for _ in range(2))
        with attention._onednn():
            found = a @ b.transpose(1, 2)
        error = (found - a.double() @ b.double().transpose(1, 2)).abs().max()
        assert error < 1e-4


def test_large_attention_is_computed_by_torch(monkeypatch):
    """Saved for its gradient, the attention of ViT-L at 336 pixels would take gigabytes."""
    monkeypatch.setattr(attention, "uses_onednn", lambda x: True)
    monkeypatch.setattr(attention, "_keeps_float32", lambda: True)
    monkeypatch.setattr(attention, "MAX_SAVED_BYTES", 2 * 3 * 20 * 20 * 4)
    used = []
    own = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a: used.append(1) or own(*a))
    for tokens, calls in ((20, 0), (21, 1)):
        q = torch.randn(2, 3, tokens, 8, requires_grad=True)
        attend(q, q, q)
        assert len(used) == calls
        with torch.no_grad():  # nothing is saved
            attend(q, q, q)
        assert len(used) == calls


def test_without_gradients_a_batch_is_split(library, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK_BYTES", 2 * 3 * 20 * 25 * 4)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(5, 3, n, 8, generator=generator) for n in (20, 25, 25))
    found = attend(q, k, v)
    torch.testing.assert_close(found.double(), exact(q, k, v), atol=1e-5, rtol=1e-5)


def test_if_onednn_rounds_torch_computes_it(monkeypatch):
    monkeypatch.setattr(attention, "uses_onednn", lambda x: True)
    monkeypatch.setattr(attention, "_keeps_float32", lambda: False)
    monkeypatch.setattr(attention, "_attend", None)
    q = torch.randn(1, 1, 3, 8)
    assert attend(q, q, q).shape == q.shape


def test_threads_restore_the_precision_switch(monkeypatch):
    """Left at "medium", later products on a GPU would be rounded."""
    monkeypatch.setattr(attention, "uses_onednn", lambda x: True)
    monkeypatch.setattr(attention, "_keeps_float32", lambda: True)
    q = torch.randn(2, 3, 20, 8)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: attend(q, q, q), range(400)))
    assert torch.get_float32_matmul_precision() == "highest"


def test_it_works_with_torchs_newer_precision_api(monkeypatch):
    """With it, the older API, which is used here, raises an error."""

    def raises(*given):
        raise RuntimeError("mix of the legacy and new APIs")

    monkeypatch.setattr(attention, "uses_onednn", lambda x: True)
    monkeypatch.setattr(attention, "_keeps_float32", lambda: True)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", raises)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", raises)
    q = torch.randn(2, 3, 20, 8)
    torch.testing.assert_close(attend(q, q, q).double(), exact(q, q, q), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("photos", [0, 2])
def test_an_empty_batch_and_autocast_around_the_gradient_work(library, photos):
    q = torch.randn(photos, 3, 20, 8, requires_grad=True)
    with torch.no_grad():
        assert attend(q, q, q).shape == q.shape
    found = attend(q, q, q)
    with torch.autocast("cpu", torch.bfloat16):
        found.sum().backward()
    assert q.grad.shape == q.shape

"""The patch embedding as a product against the convolution that it is."""

import copy

import pytest
import torch
from torch import nn

from flowertune.models.kernels import linear as linear_kernel
from flowertune.models.kernels.patch_embedding import PatchEmbedding, use_matmul_patches


@pytest.fixture(params=[True, False], ids=["onednn", "as torch does it"], autouse=True)
def narrow(request, monkeypatch):
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linear_kernel, "mkl_lacks_avx512", lambda: request.param)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("size", [(12, 16), (13, 18)])  # of the second, the edge is left out
@pytest.mark.parametrize("count", [2, 0])
def test_values_and_gradients_are_the_convolutions(bias, trained, size, count):
    torch.manual_seed(0)
    theirs = nn.Conv2d(3, 10, kernel_size=4, stride=4, bias=bias).requires_grad_(trained)
    ours = copy.deepcopy(theirs)
    use_matmul_patches(ours)
    assert type(ours) is PatchEmbedding
    images = torch.randn(count, 3, *size)
    expected, found = theirs(images), ours(images)
    torch.testing.assert_close(found, expected)
    assert found.requires_grad == trained
    if trained:
        for output in (expected, found):
            (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
        for name, parameter in theirs.named_parameters():
            torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad)


def test_only_what_cuts_patches_is_changed():
    model = nn.Sequential(
        nn.Conv2d(3, 8, kernel_size=4, stride=4),
        nn.Conv2d(3, 8, kernel_size=3, stride=1),
        nn.Conv2d(3, 8, kernel_size=1),
        nn.Conv2d(3, 8, kernel_size=4, stride=4, padding=1),
        nn.Conv2d(4, 8, kernel_size=4, stride=4, groups=2),
        nn.Conv2d(3, 8, kernel_size=4, stride=4, dilation=2),
    )
    use_matmul_patches(model)
    use_matmul_patches(model)
    assert [type(module) for module in model] == [PatchEmbedding] + 5 * [nn.Conv2d]

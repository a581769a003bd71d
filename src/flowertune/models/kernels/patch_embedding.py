"""The patch embedding as the one matrix product that it is."""

from torch import Tensor, nn

from flowertune.models.kernels.linear import linear, uses_onednn


class PatchEmbedding(nn.Conv2d):
    """nn.Conv2d whose kernel is as large as its stride, so that no two patches share a pixel.

    Where `product` has the faster library, the patches are laid out as rows and multiplied, in half
    to three quarters of the convolution's time (benchmarks/LOG.md); elsewhere it is a convolution.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> (B, D, H / P, W / P); what is left of H and W is not looked at."""
        if not uses_onednn(images):
            return super().forward(images)
        height, width = self.kernel_size
        rows, columns = images.shape[2] // height, images.shape[3] // width
        used = images[:, :, : rows * height, : columns * width]
        cut = used.unflatten(3, (columns, width)).unflatten(2, (rows, height))
        patches = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        tokens = linear(patches, self.weight.flatten(1), self.bias)
        embedded: Tensor = tokens.transpose(1, 2).unflatten(2, (rows, columns))
        return embedded


def use_matmul_patches(model: nn.Module) -> int:
    """Makes PatchEmbeddings of a model's convolutions that are one, in place; how many it has."""
    found = [
        module
        for module in model.modules()
        if type(module) in (nn.Conv2d, PatchEmbedding)
        and module.kernel_size == module.stride != (1, 1)
        and module.padding in (0, (0, 0), "valid")
        and module.dilation == (1, 1)
        and module.groups == 1
    ]
    for module in found:
        module.__class__ = PatchEmbedding
    return len(found)

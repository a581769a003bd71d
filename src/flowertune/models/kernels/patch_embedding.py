"""The patch embedding as one matrix product."""

from jaxtyping import Float
from torch import Tensor, nn

from flowertune.models.kernels.linear import linear, uses_onednn


class PatchEmbedding(nn.Conv2d):
    """nn.Conv2d with a kernel as large as its stride, so that no two patches share a pixel.

    Where oneDNN is the faster library, the patches are laid out as rows and multiplied, in half
    to three quarters of the convolution's time (benchmarks/LOG.md); elsewhere it is a convolution.
    """

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d rows columns"]:
        """Embed the patches of images, without incomplete ones."""
        if not uses_onednn(images):
            return super().forward(images)
        height, width = self.kernel_size
        rows, columns = images.shape[2] // height, images.shape[3] // width
        cropped = images[:, :, : rows * height, : columns * width]
        grid = cropped.unflatten(3, (columns, width)).unflatten(2, (rows, height))
        patches = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        tokens = linear(patches, self.weight.flatten(1), self.bias)
        embedding: Tensor = tokens.transpose(1, 2).unflatten(2, (rows, columns))
        return embedding


def use_matmul_patches(model: nn.Module) -> None:
    """Turn patch convolutions of a model into PatchEmbeddings, in place."""
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and module.kernel_size == module.stride != (1, 1)
            and module.padding in (0, (0, 0), "valid")
            and module.dilation == (1, 1)
            and module.groups == 1
        ):
            module.__class__ = PatchEmbedding

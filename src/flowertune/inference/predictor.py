"""Load the model of a finished run and classify images with it."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Integral  # includes NumPy's integers
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flowertune.config.schema import Config
from flowertune.data.cache.decode import parallel_map, quiet_pil
from flowertune.data.image import (
    Preprocessing,
    UnreadableImageError,
    convert_image,
    decode_image,
    eval_pixels,
    image_bytes,
)
from flowertune.data.transforms.augment import normalize
from flowertune.errors import UsageError
from flowertune.inference.logits import Outputs, top_classes
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import Classifier
from flowertune.models.factory import load_backbone
from flowertune.models.pretrained import ADVICE
from flowertune.models.serialization import load_classifier
from flowertune.runs.directory import damaged_message
from flowertune.runs.finished import FinishedRun, read_finished_run
from flowertune.runs.provenance import BACKBONE, changed_facts
from flowertune.runtime.device import Compute, choose_compute, send

ImageLike = str | Path | Image.Image
_Images = ImageLike | Iterable[ImageLike]

BATCH_SIZE = 32  # larger batches are no faster on a CPU
TOP_K = 3


@dataclass(frozen=True)
class Prediction:
    """Most likely classes of an image, with the most likely first.

    `image` is the path or image that was passed in. `probabilities` come from a softmax over all
    classes of the model, so those of the listed `classes` sum to at most 1.
    """

    image: ImageLike
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """Most likely class."""
        return self.classes[0]

    @property
    def probability(self) -> float:
        """Probability of the most likely class."""
        return self.probabilities[0]


@dataclass(frozen=True)
class UnreadableImage:
    """Image that cannot be read, with a short reason such as "not an image"."""

    image: ImageLike
    reason: str


@dataclass(frozen=True)
class Predictor:
    """Trained model of a run, as returned by `load`.

    `classifier` is a PyTorch module in eval mode on its device, with the adapter merged into the
    weights. `class_names` are in the order of its logits.
    """

    run: FinishedRun
    classifier: Classifier
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    compute: Compute
    _backbone: Backbone | None

    @property
    def config(self) -> Config:
        """Config of the run."""
        return self.run.config

    @property
    def backbone(self) -> Backbone:
        """Backbone with the adapted image encoder and the original text encoder.

        Raises ValueError unless the run was loaded with `keep_backbone`.
        """
        if self._backbone is None:
            raise ValueError("the backbone was not kept; load the run with keep_backbone=True")
        return self._backbone

    def predict(self, images: _Images, *, top_k: int = TOP_K) -> list[Prediction]:
        """Classify images and return one prediction per image, in order.

        Images are decoded in parallel, rotated by their EXIF orientation, and never all in memory
        at once.

        Args:
            images: A path or PIL image, or an iterable of them.
            top_k: Number of classes per prediction.

        Raises:
            UnreadableImageError: An image cannot be read; `stream` continues with the others.
            ValueError: `top_k` is not a positive integer.
        """
        inputs = [images] if isinstance(images, str | Path | Image.Image) else images
        predictions = []
        with quiet_pil(), closing(self.stream(inputs, top_k=top_k)) as results:
            for result in results:
                if isinstance(result, UnreadableImage):
                    raise UnreadableImageError(f"{result.image}: {result.reason}")
                predictions.append(result)
        return predictions

    def stream(
        self, images: Iterable[ImageLike], *, top_k: int = TOP_K, batch_size: int = BATCH_SIZE
    ) -> Generator[Prediction | UnreadableImage, None, None]:
        """Classify any number of images, yielding one result per image, in order.

        Yields an `UnreadableImage` for an image that cannot be read. Close the generator (see
        `contextlib.closing`) to stop early.

        Args:
            images: Paths or PIL images. The iterable may be infinite: it is read only a little
                more than `batch_size` images ahead.
            top_k: Number of classes per prediction.
            batch_size: Number of images per forward pass.

        Raises:
            ValueError: `top_k` or `batch_size` is not a positive integer.
        """
        _check_positive_integer("top_k", top_k)
        _check_positive_integer("batch_size", batch_size)
        return self._stream(images, top_k, batch_size)  # a generator, so the checks run now

    def _stream(
        self, images: Iterable[ImageLike], top_k: int, batch_size: int
    ) -> Generator[Prediction | UnreadableImage, None, None]:
        def decode(image: ImageLike) -> tuple[ImageLike, NDArray[np.uint8] | UnreadableImage]:
            try:
                return image, self.load_pixels(image)
            except UnreadableImageError as error:
                return image, UnreadableImage(image, str(error))

        with closing(parallel_map(decode, images)) as decoded:
            while batch := list(islice(decoded, batch_size)):
                pixels = [item for _, item in batch if not isinstance(item, UnreadableImage)]
                ranked: Iterator[tuple[list[int], list[float]]] = iter(())
                if pixels:
                    top, probabilities = top_classes(self.outputs(np.stack(pixels)).logits, top_k)
                    ranked = zip(top.tolist(), probabilities.tolist(), strict=True)
                for image, item in batch:
                    if isinstance(item, UnreadableImage):
                        yield item
                    else:
                        indices, values = next(ranked)
                        classes = tuple(self.class_names[index] for index in indices)
                        yield Prediction(image, classes, tuple(values))

    def load_pixels(self, image: ImageLike) -> NDArray[np.uint8]:
        """Resize and crop an image to uint8 pixels (3, H, W), like open_clip before normalization.

        A PIL image is not modified. Raises UnreadableImageError.
        """
        if isinstance(image, Image.Image):
            rgb = convert_image(image)
        else:
            rgb = decode_image(image_bytes(Path(image)))
        return eval_pixels(rgb, self.preprocessing)

    def images(self, pixels: UInt8[np.ndarray, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Normalized input of the classifier, on the device."""
        batch = send(torch.from_numpy(pixels), self.compute.device)
        return normalize(batch, self.preprocessing.mean, self.preprocessing.std)

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Embeddings and logits of one batch of pixels (B, 3, H, W)."""
        with torch.inference_mode(), self.compute.autocast():
            embedding, logits = self.classifier(self.images(pixels))
        return Outputs(embedding.float().cpu(), logits.float().cpu())


def _check_positive_integer(name: str, value: int) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name}={value!r}: must be a whole number, 1 or more")


def load(
    path: str | Path,
    *,
    device: str | None = None,
    precision: str | None = None,
    keep_backbone: bool = False,
    backbone_path: str | Path | None = None,
) -> Predictor:
    """Load the model of a finished run.

    The pretrained weights are loaded from where the training found them: the package, Hugging
    Face's cache (downloaded again if missing) or a local folder.

    Args:
        path: Run directory.
        device: "auto", "cpu", "cuda" or "mps"; by default the run's setting.
        precision: "auto", "fp32", "bf16" or "fp16"; by default the run's setting.
        keep_backbone: Whether to keep the text encoder in memory, as `Predictor.backbone`.
        backbone_path: Folder of the pretrained weights (in open_clip's format), if they are now
            elsewhere.

    Raises:
        UsageError: The run is not finished or damaged, its pretrained weights are missing or have
            changed, or the device or precision is not available.
    """
    run = read_finished_run(Path(path), backbone_path)
    return load_model(run, compute_for(run.config, device, precision), keep_backbone=keep_backbone)


def compute_for(config: Config, device: str | None = None, precision: str | None = None) -> Compute:
    """Choose device and precision, by default those of the run's config."""
    settings = config.trainer
    return choose_compute(device or settings.device, precision or settings.precision)


def load_model(run: FinishedRun, compute: Compute, *, keep_backbone: bool = False) -> Predictor:
    """Load a run's model onto the device. Raises UsageError like `load`."""
    backbone = load_run_backbone(run)
    try:
        classifier, class_names = load_classifier(run.adapter, run.config, backbone)
    except ValueError as error:
        raise UsageError(damaged_message(run.path, str(error))) from error
    classifier.to(compute.device)
    # merge on the device: the training's results also come from that device's arithmetic
    classifier.adapter.merge(classifier.visual)
    return Predictor(
        run, classifier, class_names, backbone.preprocessing, compute,
        backbone if keep_backbone else None,
    )  # fmt: skip


def load_run_backbone(run: FinishedRun) -> Backbone:
    """Load a run's frozen backbone. Raises UsageError if it is unavailable or has changed."""
    config = run.config
    try:
        settings = replace(config.backbone, text=False)
        backbone = load_backbone(settings, config.seed, config.data.resize)
    except UsageError as error:
        reason = str(error).removesuffix(f"; {ADVICE}")  # another backbone does not help
        raise UsageError(
            f"{run.path}: cannot load the pretrained weights of the run: {reason}; if they are"
            " elsewhere, give their open_clip folder with --backbone-path DIR"
        ) from error
    if config.backbone.path is not None:  # a folder may be renamed; its weights count
        facts = run.environment
        backbone = replace(backbone, name=facts["backbone"], tag=facts["tag"])
    if changed := changed_facts(run.environment, backbone.facts(), BACKBONE):
        source = config.backbone.path or f"{backbone.name} {backbone.tag}"
        raise UsageError(
            f"{run.path}: {source} has changed since the training"
            f" ({', '.join(changed)}); restore the original weights"
        )
    return backbone

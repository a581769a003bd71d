"""Load a finished run's model and predict any images, in batches and bounded memory.

`flowertune.load(RUN).predict(photos)`; the command line's evaluate and predict open a run here too.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Integral  # NumPy's whole numbers, too
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

BATCH_SIZE = 32  # more is no faster on a CPU
TOP_K = 3


@dataclass(frozen=True)
class Prediction:
    """Predicted class names of an image, likeliest first, with their probabilities.

    `image` is as it was given. Probabilities are of all classes, so that those of the few that are
    here add up to 1 at most.
    """

    image: ImageLike
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """Likeliest class."""
        return self.classes[0]

    @property
    def probability(self) -> float:
        """Probability of the likeliest class."""
        return self.probabilities[0]


@dataclass(frozen=True)
class UnreadableImage:
    """Image that could not be decoded, with a short reason."""

    image: ImageLike
    reason: str


@dataclass(frozen=True)
class Predictor:
    """Model of a run in eval mode on its device, with the adapter merged into the weights.

    `class_names` are in the order of the logits.
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
        """Backbone with the classifier's image tower, and its text tower as it was.

        Raises ValueError where the run was loaded without `keep_backbone`.
        """
        if self._backbone is None:
            raise ValueError("no backbone was kept; load the run with keep_backbone=True")
        return self._backbone

    def predict(self, images: _Images, *, top_k: int = TOP_K) -> list[Prediction]:
        """Predict the `top_k` likeliest classes of each image, in order.

        images: a path or a PIL image, or any number of them. They are decoded in parallel, turned
        upright by their EXIF orientation, and never all in memory at once.

        Raises:
            UnreadableImageError: a file gives no picture; `stream` goes on with the others.
            ValueError: `top_k` is no whole number from 1.
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
        """Yield predictions one by one, for more images than fit in a list.

        `images` may be a generator without end: it is asked for a few more than `batch_size` images
        ahead. Close what is given (`contextlib.closing`) to stop before its end.

        Raises:
            ValueError: `top_k` or `batch_size` is no whole number from 1.
        """
        _check_positive_integer("top_k", top_k)
        _check_positive_integer("batch_size", batch_size)
        return self._stream(images, top_k, batch_size)  # a generator, which begins when it is read

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
        """Preprocess an image to uint8 pixels (3, H, W), as open_clip does before it normalizes.

        A photo that somebody has opened already stays as it is. Raises UnreadableImageError.
        """
        if isinstance(image, Image.Image):
            rgb = convert_image(image)
        else:
            rgb = decode_image(image_bytes(Path(image)))
        return eval_pixels(rgb, self.preprocessing)

    def images(self, pixels: UInt8[np.ndarray, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Normalize pixels to the classifier's input, on the device."""
        batch = send(torch.from_numpy(pixels), self.compute.device)
        return normalize(batch, self.preprocessing.mean, self.preprocessing.std)

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Compute embeddings and logits of one batch of pixels (B, 3, H, W)."""
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
) -> Predictor:
    """Load the model of the finished run at `path`.

    The weights of its backbone are read from where they were: built in, in Hugging Face's cache or
    fetched again, or in their folder. `device` (auto, cpu, cuda, mps) and `precision` (auto, fp32,
    bf16, fp16) are by default as the run was set. `keep_backbone` keeps the text tower in memory.

    Raises:
        UsageError: it is no finished run, a file of it is damaged, the backbone's weights are gone
            or others than it was trained on, or there is no such device or precision here.
    """
    run = read_finished_run(Path(path))
    return load_model(run, compute_for(run.config, device, precision), keep_backbone=keep_backbone)


def compute_for(config: Config, device: str | None = None, precision: str | None = None) -> Compute:
    """Choose the device and precision, by default those of the run's config."""
    settings = config.trainer
    return choose_compute(device or settings.device, precision or settings.precision)


def load_model(run: FinishedRun, compute: Compute, *, keep_backbone: bool = False) -> Predictor:
    """Load the run's model onto the device. Raises UsageError as `load` does."""
    backbone = load_run_backbone(run)
    try:
        classifier, class_names = load_classifier(run.adapter, run.config, backbone)
    except ValueError as error:
        raise UsageError(damaged_message(run.path, str(error))) from error
    classifier.to(compute.device)
    # there, as the run's own numbers were made of that device's sums
    classifier.adapter.merge(classifier.visual)
    return Predictor(
        run, classifier, class_names, backbone.preprocessing, compute,
        backbone if keep_backbone else None,
    )  # fmt: skip


def load_run_backbone(run: FinishedRun) -> Backbone:
    """Load the run's frozen backbone without tokenizer. Raises UsageError if unavailable."""
    config = run.config
    try:
        backbone = load_backbone(replace(config.backbone, text=False), config.seed)
    except UsageError as error:
        reason = str(error).removesuffix(f"; {ADVICE}")  # no other one will do
        message = f"{run.path}: the weights that it was trained on cannot be had: {reason}"
        raise UsageError(message) from error
    if changed := changed_facts(run.environment, backbone.facts(), BACKBONE):
        source = config.backbone.path or f"{backbone.name} {backbone.tag}"
        raise UsageError(
            f"{run.path}: was trained on another backbone than {source} is now"
            f" ({', '.join(changed)}); put that back"
        )
    return backbone

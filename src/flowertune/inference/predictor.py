"""A finished run's model, ready for use on any photos: in batches, in bounded memory.

`flowertune.load(RUN).predict(photos)`; the command line's evaluate and predict open a run here too.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Integral  # NumPy's whole numbers, too
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flowertune.config import saved
from flowertune.config.schema import Config
from flowertune.data.cache.decode import in_order, quiet_pil
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.image import (
    Preprocessing,
    UnreadableImageError,
    decode_image,
    eval_pixels,
    from_image,
    image_bytes,
)
from flowertune.data.transforms.augment import normalize
from flowertune.errors import UsageError
from flowertune.inference.logits import Outputs, infer, top_classes
from flowertune.models import serialization
from flowertune.models.adapters.lora import merge_lora
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import Classifier
from flowertune.models.factory import load_backbone
from flowertune.models.pretrained import ADVICE
from flowertune.runs import finished, resume
from flowertune.runs.directory import Run, damaged_message
from flowertune.runtime.device import Compute, choose_compute, send

Photo = str | Path | Image.Image

BATCH_SIZE = 32  # more is no faster on a CPU
TOP_K = 3


@dataclass(frozen=True)
class Prediction:
    """What a photo is taken for: class names, the likeliest first, with their probabilities.

    `photo` is as it was given. Probabilities are of all classes, so that those of the few that are
    here add up to 1 at most.
    """

    photo: Photo
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.classes[0]

    @property
    def probability(self) -> float:
        """Its probability."""
        return self.probabilities[0]


@dataclass(frozen=True)
class UnreadableImage:
    """A photo that gives no picture, and the reason in a few words."""

    photo: Photo
    reason: str


@dataclass(frozen=True)
class Predictor:
    """A run with its model: in eval mode on the device, LoRA part of the weights.

    `class_names` are in the order of the logits.
    """

    run: Run
    config: Config
    classifier: Classifier
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    compute: Compute

    def predict(self, photos: Photo | Iterable[Photo], *, top_k: int = TOP_K) -> list[Prediction]:
        """The `top_k` likeliest classes of each photo, in order.

        photos: a path or a PIL image, or any number of them. They are decoded in parallel, turned
        upright by their EXIF orientation, and never all in memory at once.

        Raises:
            UnreadableImageError: a file gives no picture; `stream` goes on with the others.
            ValueError: `top_k` is no whole number from 1.
        """
        several = [photos] if isinstance(photos, str | Path | Image.Image) else photos
        found = []
        with quiet_pil(), closing(self.stream(several, top_k=top_k)) as answers:
            for answer in answers:
                if isinstance(answer, UnreadableImage):
                    raise UnreadableImageError(f"{answer.photo}: {answer.reason}")
                found.append(answer)
        return found

    def stream(
        self, photos: Iterable[Photo], *, top_k: int = TOP_K, batch_size: int = BATCH_SIZE
    ) -> Generator[Prediction | UnreadableImage, None, None]:
        """As `predict`, one answer after the other: for more photos than one would keep.

        `photos` may be a generator without end: it is asked for a few more than `batch_size` photos
        ahead. Close what is given (`contextlib.closing`) to stop before its end.

        Raises:
            ValueError: `top_k` or `batch_size` is no whole number from 1.
        """
        _check_count("top_k", top_k)
        _check_count("batch_size", batch_size)
        return self._stream(photos, top_k, batch_size)  # a generator, which begins when it is read

    def _stream(
        self, photos: Iterable[Photo], top_k: int, batch_size: int
    ) -> Generator[Prediction | UnreadableImage, None, None]:
        def decoded(photo: Photo) -> tuple[Photo, NDArray[np.uint8] | UnreadableImageError]:
            try:
                return photo, self.pixels(photo)
            except UnreadableImageError as reason:
                return photo, reason

        with closing(in_order(decoded, photos)) as found:
            while batch := list(islice(found, batch_size)):
                pixels = [each for _, each in batch if not isinstance(each, UnreadableImageError)]
                answers = self._ranked(np.stack(pixels), top_k) if pixels else iter(())
                for photo, each in batch:
                    if isinstance(each, UnreadableImageError):
                        yield UnreadableImage(photo, str(each))
                    else:
                        yield Prediction(photo, *next(answers))

    def logits(
        self, pixels: DevicePixels, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """Logits (N, C) of evaluation pixels (N, 3, H, W), float32 on the CPU.

        In batches of trainer.eval_batch_size: on the machine that trained, with the photos that
        were measured then, the run's own numbers to the bit. `progress(done, total)` counts photos.
        """
        mean, std = (
            torch.tensor(values, device=self.compute.device)
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        batch_size = self.config.trainer.eval_batch_size
        return infer(self.classifier, pixels, mean, std, batch_size, self.compute, progress).logits

    def pixels(self, photo: Photo) -> NDArray[np.uint8]:
        """(3, H, W), what open_clip's preprocessing yields before it normalizes.

        A photo that somebody has opened already stays as it is. Raises UnreadableImageError.
        """
        if isinstance(photo, Image.Image):
            image = from_image(photo)
        else:
            image = decode_image(image_bytes(Path(photo)))
        return eval_pixels(image, self.preprocessing)

    def images(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Pixels (B, 3, H, W) normalized, float32 on the device: what the classifier takes."""
        batch = send(torch.from_numpy(pixels), self.compute.device)
        return normalize(batch, self.preprocessing.mean, self.preprocessing.std)

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Embedding and logits of one batch of pixels (B, 3, H, W)."""
        with torch.inference_mode(), self.compute.autocast():
            embedding, logits = self.classifier(self.images(pixels))
        return Outputs(embedding.float().cpu(), logits.float().cpu())

    def _ranked(
        self, pixels: NDArray[np.uint8], top_k: int
    ) -> Iterator[tuple[tuple[str, ...], tuple[float, ...]]]:
        """The likeliest classes of each of (B, 3, H, W), and their probabilities."""
        top, probabilities = top_classes(self.outputs(pixels).logits, top_k)
        for places, values in zip(top.tolist(), probabilities.tolist(), strict=True):
            yield tuple(self.class_names[place] for place in places), tuple(values)


def _check_count(name: str, number: int) -> None:
    if not isinstance(number, Integral) or number < 1:
        raise ValueError(f"{name}={number!r}: must be a whole number, 1 or more")


def load(path: str | Path, *, device: str | None = None, precision: str | None = None) -> Predictor:
    """The model of the finished run at `path`.

    The weights of its backbone are read from where they were: built in, in Hugging Face's cache or
    fetched again, or in their folder. `device` (auto, cpu, cuda, mps) and `precision` (auto, fp32,
    bf16, fp16) are by default as the run was set.

    Raises:
        UsageError: it is no finished run, a file of it is damaged, the backbone's weights are gone
            or
            others than it was trained on, or there is no such device or precision here.
    """
    run, config = read_run(Path(path))
    return load_model(run, config, compute_for(config, device, precision))


def read_run(path: Path) -> tuple[Run, Config]:
    """A finished run and its config, before anything heavy. Raises UsageError as `load` does."""
    run = finished.finished_run(path)
    resume.check_version(run)
    try:
        return run, saved.read_config(run.path / "config.yaml")
    except (OSError, ValueError) as error:
        raise UsageError(damaged_message(run.path, "config.yaml")) from error


def compute_for(config: Config, device: str | None, precision: str | None) -> Compute:
    """Where to compute, by default as the run was set.

    Raises UsageError as `choose_compute` does.
    """
    settings = config.trainer
    return choose_compute(device or settings.device, precision or settings.precision)


def load_model(run: Run, config: Config, compute: Compute) -> Predictor:
    """What `read_run` found with its model on the device. Raises UsageError as `load` does."""
    backbone = load_run_backbone(run, config)
    classifier, class_names = read_classifier(run, config, backbone)
    classifier.to(compute.device)
    merge_lora(classifier.visual)  # there, as the run's own numbers were made of that device's sums
    return Predictor(run, config, classifier, class_names, backbone.preprocessing, compute)


def read_classifier(
    run: Run, config: Config, backbone: Backbone
) -> tuple[Classifier, tuple[str, ...]]:
    """The run's classifier on the CPU and its class names. Raises UsageError as `load` does."""
    try:
        return serialization.load_classifier(run.adapter, config, backbone)
    except ValueError as error:
        raise UsageError(damaged_message(run.path, str(error))) from error


def load_run_backbone(run: Run, config: Config) -> Backbone:
    """The run's own, frozen, without text. Raises UsageError where it cannot be had any more."""
    try:
        backbone = load_backbone(replace(config.backbone, text=False), config.seed)
    except UsageError as error:
        reason = str(error).removesuffix(f"; {ADVICE}")  # no other one will do
        why = f"{run.path}: the weights that it was trained on cannot be had: {reason}"
        raise UsageError(why) from error
    changed: Sequence[str] = resume.changed_facts(run, backbone.facts())
    if changed:
        where = config.backbone.path or f"{backbone.name} {backbone.tag}"
        raise UsageError(
            f"{run.path}: was trained on another backbone than {where} is now"
            f" ({', '.join(changed)}); put that back"
        )
    return backbone

"""Set up a training: device, frozen backbone, decoded images, model and step."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowertune.baselines import prompts
from flowertune.baselines.linear_probe import LinearProbe
from flowertune.config.augmentation import reads_train_pixels
from flowertune.config.schema import Config
from flowertune.data.cache.dataset import CachedDataset, cache_dataset
from flowertune.data.cache_dir import cache_root
from flowertune.data.dataset import ImageDataset
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.factory import (
    build_augmentation,
    list_images,
    pixels_are_resident,
    training_batches,
)
from flowertune.data.loader import TrainLoader
from flowertune.losses.factory import build_criterion, check_loss
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import Classifier
from flowertune.models.factory import build_classifier, check_adapter, load_backbone
from flowertune.report.console.run import ConsoleReporter
from flowertune.runtime import memory
from flowertune.runtime.determinism import make_deterministic
from flowertune.runtime.device import Compute, choose_compute
from flowertune.training.cuda_graph import build_graph_step
from flowertune.training.optimizer import build_optimizer
from flowertune.training.step import TrainStep


@dataclass(frozen=True)
class Setup:
    """What a training starts from.

    listed: all images of the source; cached: those that were decoded, with their pixels.
    class_prompts: those of each class, for zero-shot and text heads.
    """

    config: Config
    compute: Compute
    backbone: Backbone
    listed: ImageDataset
    cached: CachedDataset
    class_prompts: list[list[str]]


@dataclass(frozen=True)
class DeviceImages:
    """The decoded images on the device: pixels and labels by split."""

    pixels: dict[str, DevicePixels]
    labels: dict[str, Int64[Tensor, "_"]]
    mean: Float[Tensor, "3"]
    std: Float[Tensor, "3"]


def prepare(config: Config, console: ConsoleReporter, *, test: bool = True) -> Setup:
    """Load the frozen backbone and decode the images; what can be refused is refused here.

    What is quick to refuse comes first. `test` false: no test image is decoded.

    Raises:
        UsageError: the config does not fit the machine, the backbone or the images.
    """
    cache = cache_root()
    compute = choose_compute(config.trainer.device, config.trainer.precision)
    make_deterministic(config.trainer.deterministic, compute.device)
    memory.keep_freed()
    with console.progress():
        backbone = load_backbone(config.backbone, config.seed)
        check_adapter(config.model, backbone)
        listed = list_images(config.data, cache, console.advance)
        class_prompts = prompts.render(
            config.data.templates, listed.class_names, listed.descriptions
        )
        splits = {name: split for name, split in listed.splits.items() if test or name != "test"}
        cached = cache_dataset(
            replace(listed, splits=splits),
            backbone.preprocessing,
            train_form=reads_train_pixels(config.augmentation),
            folder=cache,
            bad_files=config.data.bad_files,
            progress=console.advance,
        )
    check_loss(config.loss, cached.dataset.splits["train"].labels)
    return Setup(config, compute, backbone, listed, cached, class_prompts)


def move_to_device(setup: Setup) -> DeviceImages:
    """Move the backbone to the device, and the pixels too where they fit."""
    device, preprocessing = setup.compute.device, setup.backbone.preprocessing
    splits = setup.cached.splits
    resident = pixels_are_resident(setup.config.data, setup.listed, splits["train"], device)
    images = DeviceImages(
        {
            name: DevicePixels(split.eval_pixels, device, resident=resident)
            for name, split in splits.items()
        },
        {name: torch.tensor(split.split.labels) for name, split in splits.items()},
        torch.tensor(preprocessing.mean, device=device),
        torch.tensor(preprocessing.std, device=device),
    )
    setup.backbone.model.to(device)
    return images


def build_model(
    setup: Setup,
    train_features: Float[Tensor, "n e"] | None,
    class_vectors: Float[Tensor, "c e"] | None,
    probe: LinearProbe | None,
) -> Classifier:
    """Build backbone, adapter and head on the device, each starting from what it needs of these.

    train_features and class_vectors: of the frozen backbone; probe: fitted on them.
    """
    return build_classifier(
        setup.config,
        setup.backbone,
        len(setup.cached.dataset.class_names),
        train_features,
        class_vectors,
        None if probe is None else probe.tensors,
    ).to(setup.compute.device)


def build_trainer(
    setup: Setup, images: DeviceImages, classifier: Classifier, say: Callable[[str], None]
) -> tuple[TrainLoader, TrainStep]:
    """Build the loader of training batches, and the step that takes them.

    `say` is told where steps cannot be recorded.
    """
    config, backbone = setup.config, setup.backbone
    train, pixels, sizes = setup.cached.splits["train"], images.pixels["train"], None
    if train.train_pixels is not None and train.train_sizes is not None:
        pixels = DevicePixels(train.train_pixels, pixels.device, resident=pixels.resident)
        sizes = torch.from_numpy(train.train_sizes)
    loader = TrainLoader(
        pixels,
        images.labels["train"],
        len(setup.cached.dataset.class_names),
        sizes,
        build_augmentation(config.augmentation, backbone.preprocessing.size, config.trainer.epochs),
        images.mean,
        images.std,
        training_batches(config, images.labels["train"]),
        config.seed,
    )
    graph_step = build_graph_step(config.trainer.compile, setup.compute, say)
    optimizer = build_optimizer(
        classifier.parameter_groups(),
        config.optimizer,
        setup.compute.device,
        recorded=graph_step is not None,
    )
    criterion, clip_norm = build_criterion(config.loss), config.trainer.clip_norm
    return loader, TrainStep(classifier, criterion, optimizer, setup.compute, clip_norm, graph_step)

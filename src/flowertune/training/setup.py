"""Set up a training: device, frozen backbone, decoded images, model and step."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from flowertune.baselines import prompts
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
from flowertune.data.quality.check import MAX_IMBALANCE
from flowertune.errors import printable
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
from flowertune.training.state import TrainState
from flowertune.training.step import TrainStep

BUILTIN_NOTE = (
    "backbone=tiny has seen drawn flowers only: for real images, use pretrained weights"
    " (backbone=vit_b32_openai; for a machine without a network, data prepare --export-backbone)"
)


@dataclass(frozen=True)
class Setup:
    """Device, backbone and images of a training."""

    config: Config
    compute: Compute
    backbone: Backbone
    listed: ImageDataset  # all images of the source
    cached: CachedDataset  # decoded images
    class_prompts: list[list[str]]  # by class, for zero-shot and text heads

    @cached_property
    def labels(self) -> dict[str, Int64[Tensor, "_"]]:
        """Labels by split."""
        return {name: torch.tensor(each.split.labels) for name, each in self.cached.splits.items()}


def prepare(config: Config, console: ConsoleReporter, *, test: bool = True) -> Setup:
    """Load the frozen backbone and decode the images, including the test split if `test`.

    Raises UsageError if the config does not fit the machine, the backbone or the images.
    """
    cache = cache_root()
    compute = choose_compute(config.trainer.device, config.trainer.precision)
    make_deterministic(config.trainer.deterministic, compute.device)
    memory.keep_freed()
    with console.progress():
        listed = list_images(config.data, cache, console.advance)
        backbone = load_backbone(config.backbone, config.seed, config.data.resize)
        check_adapter(config.model, backbone)
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
    if note := cached.copies_note():
        cached = replace(cached, dataset=cached.dataset.with_note(note))
    if note := imbalance_note(cached):
        cached = replace(cached, dataset=cached.dataset.with_note(note))
    if config.backbone.source == "builtin" and config.data.name != "synthetic":
        cached = replace(cached, dataset=cached.dataset.with_note(BUILTIN_NOTE))
    check_loss(config.loss, cached.dataset.splits["train"].labels)
    return Setup(config, compute, backbone, listed, cached, class_prompts)


def imbalance_note(cached: CachedDataset) -> str | None:
    """Name the keys for classes of very different sizes, if the training images have such."""
    names, labels = cached.dataset.class_names, cached.dataset.splits["train"].labels
    sizes = Counter({names[label]: n for label, n in Counter(labels).items()}).most_common()
    (most, n_most), (least, n_least) = sizes[0], sizes[-1]
    if n_most < MAX_IMBALANCE * n_least:
        return None
    return printable(
        f"classes of very different sizes in train: {most} {n_most:,}, {least} {n_least:,}; try"
        " data.balanced=true, loss.class_weights=balanced or loss.logit_adjustment=1, and"
        " trainer.monitor=mean_per_class"
    )


def move_to_device(setup: Setup) -> dict[str, DevicePixels]:
    """Move the backbone to the device, and the pixels of all splits if they fit."""
    device, splits = setup.compute.device, setup.cached.splits
    resident = pixels_are_resident(setup.config.data, setup.listed, splits["train"], device)
    pixels = {
        name: DevicePixels(split.eval_pixels, device, resident=resident)
        for name, split in splits.items()
    }
    setup.backbone.model.to(device)
    return pixels


def build_model(
    setup: Setup,
    train_features: Float[Tensor, "n e"] | None,
    class_vectors: Float[Tensor, "c e"] | None,
    linear_start: Sequence[Tensor] | None,
) -> Classifier:
    """Build the classifier on the device; for the arguments see `build_classifier`."""
    n_classes = len(setup.cached.dataset.class_names)
    return build_classifier(
        setup.config, setup.backbone, n_classes, train_features, class_vectors, linear_start
    ).to(setup.compute.device)


def build_train_state(
    setup: Setup,
    pixels: Mapping[str, DevicePixels],
    classifier: Classifier,
    say: Callable[[str], None],
) -> TrainState:
    """Build the state before the first step; `say` gets a line if steps cannot be recorded."""
    config, preprocessing, device = setup.config, setup.backbone.preprocessing, setup.compute.device
    settings, labels = config.trainer, setup.labels["train"]
    train, train_pixels, sizes = setup.cached.splits["train"], pixels["train"], None
    if train.train_pixels is not None and train.train_sizes is not None:
        train_pixels = DevicePixels(train.train_pixels, device, resident=train_pixels.resident)
        sizes = torch.from_numpy(train.train_sizes)
    n_classes = len(setup.cached.dataset.class_names)
    loader = TrainLoader(
        train_pixels,
        labels,
        n_classes,
        sizes,
        build_augmentation(config.augmentation, preprocessing.size, settings.epochs),
        torch.tensor(preprocessing.mean, device=device),
        torch.tensor(preprocessing.std, device=device),
        training_batches(config, labels),
        config.seed,
    )
    graph_step = build_graph_step(settings.compile, setup.compute, say)
    optimizer = build_optimizer(
        classifier.parameter_groups(), config.optimizer, device, recorded=graph_step is not None
    )
    criterion = build_criterion(config.loss, labels.bincount(minlength=n_classes).to(device))
    step = TrainStep(
        classifier, criterion, optimizer, setup.compute, settings.clip_norm, graph_step
    )
    return TrainState(step, loader, settings)

"""From decoded photos to results: baselines, the model, its training, what it reaches.

Reads from top to bottom; commands/train.py is what stands around it.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flowertune.baselines import evaluate as comparison
from flowertune.baselines import features as frozen
from flowertune.baselines import linear_probe
from flowertune.baselines.features import frozen_features
from flowertune.baselines.linear_probe import fit_linear_probe
from flowertune.baselines.zero_shot import class_vectors
from flowertune.config.head import TextHeadConfig
from flowertune.config.model import LinearProbeConfig
from flowertune.config.schema import Config, head_from_probe
from flowertune.data.cache.dataset import CachedDataset
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.factory import build_augmentation, pixels_are_resident, training_batches
from flowertune.data.loader import build_train_loader
from flowertune.errors import TrainingError
from flowertune.inference.logits import (
    Outputs,
    encode,
    infer,
    infer_features,
    prediction_table,
)
from flowertune.losses.factory import build_criterion
from flowertune.metrics import measure
from flowertune.models import serialization
from flowertune.models import serialization as models_serialization
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import FROZEN
from flowertune.models.factory import build_classifier
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs import directory
from flowertune.runtime.device import Compute
from flowertune.signals import StopRequest
from flowertune.training import report_data
from flowertune.training.loop import TrainResult, train
from flowertune.training.step import build_step, nonfinite_message


def adapt(
    config: Config,
    run: directory.Run,
    compute: Compute,
    backbone: Backbone,
    photos: CachedDataset,
    class_prompts: list[list[str]],
    cache: Path,
    console: ConsoleReporter,
    stop: StopRequest,
    saved: Path | None,
    track: Callable[[Sequence[directory.Metrics]], None],
) -> tuple[dict[str, Any], report_data.ReportInputs]:
    """Trains one model on decoded photos. -> the content of results.json, and what a page needs.

    The run gets everything else that a training leaves, as it comes. `saved`: the checkpoint that
    the training goes on from; `track` gets the lines of metrics.jsonl so far, whenever there are
    more.

    Raises:
        TrainingError, Interrupted, files.DiskFullError: as `course.train` does.
    """
    # pixels and labels
    device, settings = compute.device, config.trainer
    mean = torch.tensor(backbone.preprocessing.mean, device=device)
    std = torch.tensor(backbone.preprocessing.std, device=device)
    resident = pixels_are_resident(config.data, photos.dataset, photos.splits["train"], device)
    pixels = {
        name: DevicePixels(each.eval_pixels, device, resident=resident)
        for name, each in photos.splits.items()
    }
    labels = {name: torch.tensor(each.split.labels) for name, each in photos.splits.items()}
    class_names = photos.dataset.class_names
    run.write_table("photos.csv", ["split", "path", "label", "sha256"], photos.rows())

    # the frozen backbone: what the head starts from, and the baselines
    backbone.model.to(device)

    encode_pixels = partial(encode, backbone, mean=mean, std=std, compute=compute)
    features = {}
    with console.progress():
        for name in frozen.splits_to_encode(config, list(photos.splits)):
            key = frozen.feature_key(
                backbone, photos.splits[name], compute, settings.eval_batch_size
            )
            advance = partial(console.advance, f"frozen features of {name}")
            features[name] = frozen_features(pixels[name], encode_pixels, key, cache, advance)
    vectors, probe = None, None
    if backbone.has_text and (config.baselines or isinstance(config.head, TextHeadConfig)):
        vectors = class_vectors(backbone.encode_text, class_prompts).cpu()
    began = time.perf_counter()
    if config.baselines or head_from_probe(config):
        probe = fit_linear_probe(
            features["train"], labels["train"], features.get("val"), labels.get("val"),
            len(class_names), *linear_probe.probe_recipe(config.probe, config.seed),
        )  # fmt: skip
    probe_seconds = time.perf_counter() - began
    baselines = comparison.baselines(
        config.baselines, features, labels, vectors, backbone.logit_scale, probe
    )

    # the model
    classifier = build_classifier(
        config,
        backbone,
        len(class_names),
        features.get("train"),
        vectors,
        None if probe is None else probe.tensors,
    ).to(device)

    def evaluate(split: str) -> Outputs:
        if classifier.mode in FROZEN:
            return infer_features(classifier, features[split], settings.eval_batch_size)
        return infer(
            classifier, pixels[split], mean, std, settings.eval_batch_size, compute,
            lambda done, total: stop.check(),
        )  # fmt: skip

    # training; the best epoch's weights are kept, or without a val split the last
    inferred: dict[str, Outputs | None] = {}  # what these weights made of a split already
    training = None
    if classifier.mode in FROZEN:  # the head is what it will be
        models_serialization.save_weights(run.best, classifier.trainable_state())
        run.write_lines("metrics.jsonl", [])
        run.write_lines("timings.jsonl", [])
        seconds = probe_seconds if isinstance(config.model, LinearProbeConfig) else 0.0
        course = TrainResult(0, None, None, seconds, None)
    else:
        recipe = build_augmentation(
            config.augmentation, backbone.preprocessing.size, settings.epochs
        )
        training = build_train_loader(
            photos.splits["train"], pixels["train"], len(class_names), recipe, mean, std,
            training_batches(config, labels["train"]), config.seed,
        )  # fmt: skip
        course, inferred["val"] = train(
            build_step(
                classifier, build_criterion(config.loss), compute, config.optimizer, settings,
                console.say,
            ),
            training, settings, run,
            (lambda: evaluate("val")) if "val" in labels else None, labels.get("val"),
            console, stop, saved, track,
        )  # fmt: skip

    # the kept weights' result, by the code that every later use goes through; the trained model
    # meets the test photos here and nowhere else
    classifier.load_trainable_state(models_serialization.load_weights(run.best))
    measured, outputs = {}, {}
    for name, each in photos.splits.items():
        outputs[name] = inferred.get(name) or evaluate(name)
        logits = outputs[name].logits
        metrics = measure(logits, labels[name])
        if not math.isfinite(metrics.loss):
            raise TrainingError(nonfinite_message(f"loss on {name}", compute.precision))
        measured[name] = metrics.to_dict()
        run.write_table(
            f"predictions-{name}.csv",
            *prediction_table(photos.names(name), each.split.labels, logits, class_names),
        )
    serialization.save_classifier(run.adapter, config, backbone, classifier, class_names)

    results = {
        "run": run.path.name,
        "method": config.method,
        "model": config.model.name,
        "head": config.head.name,
        "augmentation": config.augmentation.name,
        "loss": config.loss.name,
        "backbone": backbone.name,
        "tag": backbone.tag,
        "weights_sha256": backbone.weights_sha256,
        "data_fingerprint": photos.fingerprint,
        "protocol": photos.dataset.protocol,
        "seed": config.seed,
        "device": compute.device_name,
        "precision": compute.precision,
        "trainable_parameters": classifier.trainable_parameters,
        **asdict(course),
        "splits": measured,
        "baselines": baselines,
        "notes": comparison.notes(
            config.baselines, config.model.name, backbone.has_text, measured, baselines
        ),
    }
    reported_split = "test" if "test" in outputs else "val"
    is_frozen = classifier.mode in FROZEN
    return results, report_data.ReportInputs(
        photos=photos,
        reported_split=reported_split,
        outputs=outputs[reported_split],
        trained=outputs["train"].embedding,
        frozen=None if is_frozen else features.get(reported_split),
        pixels=pixels,
        training=training,
        seed=config.seed,
    )

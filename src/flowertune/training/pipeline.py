"""Turn decoded images into results: baselines, the model, its training, its evaluation.

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

from flowertune.baselines.evaluate import evaluate_baselines, notes
from flowertune.baselines.features import feature_key, frozen_features, splits_to_encode
from flowertune.baselines.linear_probe import fit_linear_probe, probe_settings
from flowertune.baselines.zero_shot import class_vectors
from flowertune.config.head import TextHeadConfig
from flowertune.config.schema import Config, head_from_probe
from flowertune.data.cache.dataset import CachedDataset
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.factory import build_augmentation, pixels_are_resident, training_batches
from flowertune.data.loader import build_train_loader
from flowertune.errors import TrainingError
from flowertune.inference.logits import Outputs, encode, infer, infer_features, prediction_table
from flowertune.losses.factory import build_criterion
from flowertune.metrics import measure
from flowertune.models import serialization
from flowertune.models.backbone import Backbone
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
    cached: CachedDataset,
    class_prompts: list[list[str]],
    cache: Path,
    console: ConsoleReporter,
    stop: StopRequest,
    resume_from: Path | None,
    track: Callable[[Sequence[directory.Metrics]], None],
) -> tuple[dict[str, Any], report_data.ReportInputs]:
    """Train one model on decoded images -> the content of results.json, and the report's inputs.

    The run gets everything else that a training leaves, as it comes. `resume_from`: a
    checkpoint to continue from; `track` gets the lines of metrics.jsonl so far, whenever there are
    more.

    Raises:
        TrainingError, Interrupted, files.DiskFullError: as `loop.train` does.
    """
    # pixels and labels
    device, settings = compute.device, config.trainer
    mean = torch.tensor(backbone.preprocessing.mean, device=device)
    std = torch.tensor(backbone.preprocessing.std, device=device)
    resident = pixels_are_resident(config.data, cached.dataset, cached.splits["train"], device)
    pixels = {
        name: DevicePixels(split.eval_pixels, device, resident=resident)
        for name, split in cached.splits.items()
    }
    labels = {name: torch.tensor(split.split.labels) for name, split in cached.splits.items()}
    class_names = cached.dataset.class_names
    run.write_table("photos.csv", ["split", "path", "label", "sha256"], cached.rows())

    # the frozen backbone: what the head starts from, and the baselines
    backbone.model.to(device)

    encode_pixels = partial(encode, backbone, mean=mean, std=std, compute=compute)
    features = {}
    with console.progress():
        for name in splits_to_encode(config, list(cached.splits)):
            key = feature_key(backbone, cached.splits[name], compute, settings.eval_batch_size)
            advance = partial(console.advance, f"frozen features of {name}")
            features[name] = frozen_features(pixels[name], encode_pixels, key, cache, advance)
    vectors, probe = None, None
    if backbone.has_text and (config.baselines or isinstance(config.head, TextHeadConfig)):
        vectors = class_vectors(backbone.encode_text, class_prompts).cpu()
    start = time.perf_counter()
    if config.baselines or head_from_probe(config):
        probe = fit_linear_probe(
            features["train"], labels["train"], features.get("val"), labels.get("val"),
            len(class_names), *probe_settings(config.probe, config.seed),
        )  # fmt: skip
    probe_seconds = time.perf_counter() - start
    baselines = evaluate_baselines(
        config.baselines, features, labels, vectors, backbone.logit_scale, probe
    )

    # the model
    linear_start = None if probe is None else probe.tensors
    classifier = build_classifier(
        config, backbone, len(class_names), features.get("train"), vectors, linear_start
    ).to(device)

    def evaluate(split: str) -> Outputs:
        if not config.model.trains_backbone:
            return infer_features(classifier, features[split], settings.eval_batch_size)
        return infer(
            classifier, pixels[split], mean, std, settings.eval_batch_size, compute,
            lambda done, total: stop.check(),
        )  # fmt: skip

    # training; the best epoch's weights are kept, or without a val split the last
    inferred: dict[str, Outputs | None] = {}  # what these weights made of a split already
    loader = None
    if not config.model.trains_backbone:  # the head is what it will be
        serialization.save_weights(run.best, classifier.trainable_state())
        run.write_lines("metrics.jsonl", [])
        run.write_lines("timings.jsonl", [])
        seconds = probe_seconds if config.model.is_probe else 0.0
        result = TrainResult(0, None, None, seconds, None)
    else:
        augment = build_augmentation(
            config.augmentation, backbone.preprocessing.size, settings.epochs
        )
        loader = build_train_loader(
            cached.splits["train"], pixels["train"], len(class_names), augment, mean, std,
            training_batches(config, labels["train"]), config.seed,
        )  # fmt: skip
        result, inferred["val"] = train(
            build_step(
                classifier, build_criterion(config.loss), compute, config.optimizer, settings,
                console.say,
            ),
            loader, settings, run,
            (lambda: evaluate("val")) if "val" in labels else None, labels.get("val"),
            console, stop, resume_from, track,
        )  # fmt: skip

    # the kept weights' result, by the code that every later use goes through; the trained model
    # meets the test images here and nowhere else
    classifier.load_trainable_state(serialization.load_weights(run.best))
    split_metrics, outputs = {}, {}
    for name, split in cached.splits.items():
        outputs[name] = inferred.get(name) or evaluate(name)
        logits = outputs[name].logits
        metrics = measure(logits, labels[name])
        if not math.isfinite(metrics.loss):
            raise TrainingError(nonfinite_message(f"loss on {name}", compute.precision))
        split_metrics[name] = metrics.to_dict()
        run.write_table(
            f"predictions-{name}.csv",
            *prediction_table(cached.image_names(name), split.split.labels, logits, class_names),
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
        "data_fingerprint": cached.fingerprint,
        "protocol": cached.dataset.protocol,
        "seed": config.seed,
        "device": compute.device_name,
        "precision": compute.precision,
        "trainable_parameters": classifier.trainable_parameters,
        **asdict(result),
        "splits": split_metrics,
        "baselines": baselines,
        "notes": notes(
            config.baselines, config.model.name, backbone.has_text, split_metrics, baselines
        ),
    }
    reported_split = "test" if "test" in outputs else "val"
    return results, report_data.ReportInputs(
        cached=cached,
        reported_split=reported_split,
        outputs=outputs[reported_split],
        train_embedding=outputs["train"].embedding,
        frozen_embedding=features.get(reported_split) if config.model.trains_backbone else None,
        pixels=pixels,
        loader=loader,
        seed=config.seed,
    )

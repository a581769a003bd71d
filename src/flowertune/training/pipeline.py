"""From decoded images to results: frozen features, baselines, model, training, metrics."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from flowertune.baselines.evaluate import evaluate_baselines, notes
from flowertune.baselines.factory import fit_probe
from flowertune.baselines.features import feature_key, frozen_features, splits_to_encode
from flowertune.baselines.linear_probe import ProbeInputs
from flowertune.baselines.zero_shot import class_vectors
from flowertune.config.head import TextHeadConfig
from flowertune.config.schema import head_from_probe
from flowertune.data.cache_dir import cache_root
from flowertune.data.device_pixels import DevicePixels
from flowertune.errors import TrainingError
from flowertune.inference.logits import Outputs, encode, infer, infer_features, prediction_table
from flowertune.metrics import measure, reported_split
from flowertune.models import serialization
from flowertune.models.classifier import Classifier
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs import directory
from flowertune.signals import StopRequest
from flowertune.training import report_data
from flowertune.training.loop import Measured, TrainResult, train
from flowertune.training.setup import Setup, build_model, build_train_state, move_to_device
from flowertune.training.step import nonfinite_message

Features = dict[str, Float[Tensor, "_ e"]]  # frozen features by split


@dataclass(frozen=True)
class Baselines:
    """Zero-shot class vectors and linear probe, None if not needed, with their results."""

    vectors: Float[Tensor, "c e"] | None
    probe: Sequence[Tensor] | None
    seconds: float  # to fit the probe
    results: dict[str, Any]  # for results.json


def adapt(
    setup: Setup,
    run: directory.Run,
    console: ConsoleReporter,
    stop: StopRequest,
    resume_from: Path | None,
    track: Callable[[Sequence[directory.Metrics]], None],
) -> tuple[dict[str, Any], report_data.ReportInputs]:
    """Train one model; returns the content of results.json and the inputs of the report.

    Writes all other files of the run. `resume_from`, `track` and errors: see `loop.train`.
    """
    trains_backbone = setup.config.model.trains_backbone
    batch_size = setup.config.trainer.eval_batch_size
    pixels = move_to_device(setup)
    run.write_table("photos.csv", ["split", "path", "label", "sha256"], setup.cached.rows())

    features = encode_splits(setup, pixels, console)
    baselines = fit_baselines(setup, features)
    classifier = build_model(setup, features.get("train"), baselines.vectors, baselines.probe)

    def measure_split(split: str) -> Measured:
        """Measure the current classifier; raises Interrupted on a stop request."""
        if trains_backbone:
            outputs = infer(
                classifier, pixels[split], setup.backbone.preprocessing, batch_size,
                setup.compute, lambda done, total: stop.check(),
            )  # fmt: skip
        else:
            outputs = infer_features(classifier, features[split], batch_size)
        return outputs, measure(outputs.logits, setup.labels[split])

    loader, best_val = None, None
    if not trains_backbone:  # the head is final, no step is needed
        serialization.save_weights(run.best, classifier.trainable_state())
        run.write_lines("metrics.jsonl", [])
        run.write_lines("timings.jsonl", [])
        seconds = baselines.seconds if setup.config.model.is_probe else 0.0
        result = TrainResult(0, None, None, seconds, None)
    else:
        state = build_train_state(setup, pixels, classifier, console.say)
        loader, measure_val = state.loader, partial(measure_split, "val")
        result, best_val = train(
            state, run, measure_val if "val" in pixels else None, console, stop, resume_from, track
        )

    # measure the saved weights with the code that later commands use; this is the only place
    # where the trained model sees the test images
    classifier.load_trainable_state(load_file(run.best))
    outputs, metrics = measure_splits(setup, measure_split, best_val, run)
    serialization.save_classifier(
        run.adapter, setup.config, setup.backbone, classifier, setup.cached.dataset.class_names
    )
    results = _results(setup, run, classifier, result, metrics, baselines.results)
    split = reported_split(outputs)
    return results, report_data.ReportInputs(
        cached=setup.cached,
        reported_split=split,
        outputs=outputs[split],
        train_embedding=outputs["train"].embedding,
        frozen_embedding=features.get(split) if trains_backbone else None,
        pixels=pixels,
        loader=loader,
        seed=setup.config.seed,
    )


def encode_splits(
    setup: Setup, pixels: Mapping[str, DevicePixels], console: ConsoleReporter
) -> Features:
    """Encode the splits whose frozen features the run needs."""
    backbone, compute, splits = setup.backbone, setup.compute, setup.cached.splits
    encode_pixels = partial(encode, backbone, compute)
    features = {}
    with console.progress():
        for name in splits_to_encode(setup.config, list(splits)):
            key = feature_key(backbone, splits[name], compute, setup.config.trainer.eval_batch_size)
            advance = partial(console.advance, f"features of the frozen backbone: {name}")
            features[name] = frozen_features(
                pixels[name], encode_pixels, key, cache_root(), advance
            )
    return features


def fit_baselines(setup: Setup, features: Features) -> Baselines:
    """Fit and measure the baselines, which may also initialize the head."""
    config, backbone, labels = setup.config, setup.backbone, setup.labels
    vectors, probe = None, None
    if backbone.has_text and (config.baselines or isinstance(config.head, TextHeadConfig)):
        vectors = class_vectors(backbone.encode_text, setup.class_prompts).cpu()
    start = time.perf_counter()
    if config.baselines or head_from_probe(config):
        classes = len(setup.cached.dataset.class_names)
        inputs = ProbeInputs(features, labels, classes, vectors, config.seed)
        probe = fit_probe(config.probe, inputs)
    seconds = time.perf_counter() - start
    results = evaluate_baselines(
        config.baselines, features, labels, vectors, backbone.logit_scale, probe
    )
    return Baselines(vectors, None if probe is None else probe.tensors, seconds, results)


def measure_splits(
    setup: Setup,
    measure_split: Callable[[str], Measured],
    best_val: Measured | None,
    run: directory.Run,
) -> tuple[dict[str, Outputs], dict[str, Any]]:
    """Measure every split (val unless `best_val` has it) and write its predictions."""
    outputs, metrics = {}, {}
    for name, split in setup.cached.splits.items():
        known = best_val if name == "val" else None
        outputs[name], measured = known or measure_split(name)
        if not math.isfinite(measured.loss):
            raise TrainingError(nonfinite_message(f"loss on {name}", setup.compute.precision))
        metrics[name] = asdict(measured)
        names, class_names = setup.cached.image_names(name), setup.cached.dataset.class_names
        table = prediction_table(names, split.split.labels, outputs[name].logits, class_names)
        run.write_table(f"predictions-{name}.csv", *table)
    return outputs, metrics


def _results(
    setup: Setup,
    run: directory.Run,
    classifier: Classifier,
    result: TrainResult,
    metrics: dict[str, Any],
    baselines: dict[str, Any],
) -> dict[str, Any]:
    config, backbone, cached = setup.config, setup.backbone, setup.cached
    return {
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
        "device": setup.compute.device_name,
        "precision": setup.compute.precision,
        "trainable_parameters": classifier.trainable_parameters,
        **asdict(result),
        "splits": metrics,
        "baselines": baselines,
        "notes": [
            *notes(config.baselines, config.model.name, backbone.has_text, metrics, baselines),
            *cached.dataset.notes,
        ],
    }

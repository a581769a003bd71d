"""`flowertune train`: photos in, a run directory out. Reads from top to bottom."""

import hashlib
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowertune import build, environment, recording, runs, saved_model
from flowertune.baselines import comparison, prompts
from flowertune.baselines.features import FeatureKey, frozen_features
from flowertune.baselines.zero_shot import class_vectors
from flowertune.config import Config, LinearHeadConfig, TextHeadConfig
from flowertune.data.augment import normalise
from flowertune.data.batches import PixelStore
from flowertune.data.cache import CachedPhotos, CachedSplit, bad_file_lines, cache_photos
from flowertune.data.cache_folder import cache_root
from flowertune.data.training_photos import TrainingPhotos
from flowertune.errors import EXIT_DONE
from flowertune.inference import Outputs, infer, prediction_table
from flowertune.metrics import measure
from flowertune.models.backbone import Backbone
from flowertune.report.console import RunConsole
from flowertune.training import checkpoint
from flowertune.training.determinism import make_deterministic
from flowertune.training.device import Compute, choose_compute
from flowertune.training.early_stopping import BestEpoch
from flowertune.training.loop import fit
from flowertune.training.optimizer import build_optimizer


def execute(config: Config) -> int:
    """Trains one model and returns the exit code.

    Raises:
        Refused: before anything was started; no run directory is left behind.
        TrainingFailed, Interrupted: afterwards; the run directory says so too.
    """
    console = RunConsole()
    assert config.run.name is not None
    cache = cache_root()
    run, finished = runs.claim(Path(config.run.root), config.run.name, asdict(config))
    if finished:
        if config.data.name == "folder":  # the other sources give the same photos always
            run.check_photos(build.list_photos(config.data, cache, console.advance))
        console.say(f"{run.path} is finished already; this is its result")
        console.results(run.results(), str(run.path))
        return EXIT_DONE

    # what can be refused comes before the run directory, and what is quick to refuse comes first
    compute = choose_compute(config.trainer.device, config.trainer.precision)
    make_deterministic(config.trainer.deterministic, compute.device)
    with console.progress():
        backbone = build.load_backbone(config.backbone, config.seed)
        build.check_adapter(config.model, backbone)
        photo_set = build.list_photos(config.data, cache, console.advance)
        class_prompts = prompts.render(
            config.data.templates, photo_set.class_names, photo_set.descriptions
        )
        photos = cache_photos(
            photo_set,
            backbone.preprocessing,
            train_form=config.augmentation.name != "none",
            folder=cache,
            bad_files=config.data.bad_files,
            progress=console.advance,
        )
    build.check_loss(config.loss, photos.photo_set.splits["train"].labels)
    for line in bad_file_lines(photo_set, photos.bad):
        console.say(f"left out: {line}")
    console.say(f"{config.method}: {backbone.name} {backbone.tag}; {photos.photo_set.protocol}")

    out_of_memory = recording.OUT_OF_MEMORY.format(
        device=compute.device_name,
        batch_size=config.trainer.batch_size,
        accumulation=config.trainer.accumulation,
    )
    run.create(asdict(config), environment.describe(compute, backbone, photos))
    with recording.recorded(run, out_of_memory):
        results = _train(config, run, compute, backbone, photos, class_prompts, cache, console)
        run.write_results(results)
    console.results(results, str(run.path))
    return EXIT_DONE


def _train(
    config: Config,
    run: runs.Run,
    compute: Compute,
    backbone: Backbone,
    photos: CachedPhotos,
    class_prompts: list[list[str]],
    cache: Path,
    console: RunConsole,
) -> dict[str, Any]:
    # pixels and labels
    device, settings = compute.device, config.trainer
    mean = torch.tensor(backbone.preprocessing.mean, device=device)
    std = torch.tensor(backbone.preprocessing.std, device=device)
    pixels = {name: PixelStore(each.eval_pixels, device) for name, each in photos.splits.items()}
    labels = {name: torch.tensor(each.split.labels) for name, each in photos.splits.items()}
    class_names = photos.photo_set.class_names
    run.write_table("photos.csv", ["split", "path", "label", "sha256"], photos.rows())

    # the frozen backbone: what the head starts from, and the baselines
    backbone.model.to(device)

    def encode(batch: Tensor) -> Tensor:
        with compute.autocast():
            return backbone.encode_image(normalise(batch, mean, std))

    standardize = isinstance(config.head, LinearHeadConfig) and config.head.standardize
    wanted = list(photos.splits) if config.baselines else ["train"] if standardize else []
    features = {}
    with console.progress():
        for name in wanted:
            key = _feature_key(backbone, photos.splits[name], compute, settings.eval_batch_size)
            advance = partial(console.advance, f"frozen features of {name}")
            features[name] = frozen_features(pixels[name], encode, key, cache, advance)
    vectors = None
    if backbone.has_text and (config.baselines or isinstance(config.head, TextHeadConfig)):
        vectors = class_vectors(backbone.encode_text, class_prompts).cpu()
    baselines: dict[str, Any] = {"zeroshot": None, "linear_probe": None}
    if config.baselines:
        if vectors is not None:
            baselines["zeroshot"] = comparison.zero_shot_results(
                features, labels, vectors, backbone.logit_scale
            )
        baselines["linear_probe"] = comparison.linear_probe_results(
            features, labels, len(class_names)
        )

    # the model
    classifier = build.build_classifier(
        config, backbone, len(class_names), features["train"] if standardize else None, vectors
    ).to(device)
    optimizer = build_optimizer(classifier.parameter_groups(), config.optimizer, device)

    def evaluate(split: str) -> Outputs:
        return infer(classifier, pixels[split], mean, std, settings.eval_batch_size, compute)

    # training; the best epoch's weights are kept
    train = photos.splits["train"]
    recipe = build.augmentation_recipe(config.augmentation, backbone.preprocessing.size)
    train_pixels, sizes = pixels["train"], None
    if train.train_pixels is not None and train.train_sizes is not None:
        train_pixels = PixelStore(train.train_pixels, device)
        sizes = torch.from_numpy(train.train_sizes)
    training_photos = TrainingPhotos(
        pixels=train_pixels,
        labels=labels["train"],
        classes=len(class_names),
        sizes=sizes,
        recipe=recipe,
        mean=mean,
        std=std,
        batches=build.training_batches(config, labels["train"]),
        seed=config.seed,
    )
    best = BestEpoch(settings.monitor, settings.patience, settings.min_delta)
    epochs = fit(
        classifier,
        training_photos,
        build.build_criterion(config.loss),
        optimizer,
        compute,
        settings,
        best,
        validate=lambda: measure(evaluate("val").logits, labels["val"]),
        on_step=lambda epoch, done, total: console.step(epoch, settings.epochs, done, total),
    )
    lines: list[runs.Metrics] = []
    timings: list[runs.Metrics] = []
    with console.progress():
        for record in epochs:
            if record.is_best:
                checkpoint.save_weights(run.best, classifier.trainable_state())
            lines += record.lines
            timings.append(record.timing)
            run.write_lines("metrics.jsonl", lines)
            run.write_lines("timings.jsonl", timings)
            console.epoch(
                record.epoch, settings.epochs, record.train_loss, record.lines[-1], record.is_best
            )

    # the best epoch's result, by the code that every later use goes through; the trained model
    # meets the test photos here and nowhere else
    classifier.load_trainable_state(checkpoint.load_weights(run.best))
    measured = {}
    for name, each in photos.splits.items():
        logits = evaluate(name).logits
        measured[name] = measure(logits, labels[name]).to_dict()
        run.write_table(
            f"predictions-{name}.csv",
            *prediction_table(photos.names(name), each.split.labels, logits, class_names),
        )
    saved_model.write(run.adapter, config, backbone, classifier, class_names)

    train_seconds = sum(timing["train_seconds"] for timing in timings)
    images_per_epoch = sum(map(len, training_photos.batches(1)))
    return {
        "run": run.path.name,
        "method": config.method,
        "model": config.model.name,
        "head": config.head.name,
        "augmentation": config.augmentation.name,
        "backbone": backbone.name,
        "tag": backbone.tag,
        "weights_sha256": backbone.weights_sha256,
        "data_fingerprint": photos.fingerprint,
        "protocol": photos.photo_set.protocol,
        "seed": config.seed,
        "device": compute.device_name,
        "precision": compute.precision,
        "trainable_parameters": classifier.trainable_parameters,
        "epochs_run": len(timings),
        "best_epoch": best.epoch,
        "seconds": train_seconds + sum(timing["val_seconds"] for timing in timings),
        "images_per_second": images_per_epoch * len(timings) / train_seconds,
        "splits": measured,
        "baselines": baselines,
        "notes": comparison.notes(config.baselines, backbone.has_text, measured, baselines),
    }


def _feature_key(
    backbone: Backbone, split: CachedSplit, compute: Compute, batch_size: int
) -> FeatureKey:
    return FeatureKey(
        weights_sha256=backbone.weights_sha256,
        activation=backbone.activation,
        split_fingerprint=hashlib.sha256("".join(split.sha256).encode()).hexdigest(),
        preprocessing=str(backbone.preprocessing.to_dict()),
        precision=compute.precision,
        device=compute.device_name,
        batch_size=batch_size,
    )

"""`flowertune train`: photos in, a run directory out. Reads from top to bottom."""

import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowertune import (
    build,
    claims,
    environment,
    frozen,
    keepsakes,
    loggers,
    memory,
    recording,
    runs,
    saved_model,
    space,
    unchanged,
)
from flowertune.baselines import comparison, prompts
from flowertune.baselines.features import frozen_features
from flowertune.baselines.linear_probe import fit_linear_probe
from flowertune.baselines.zero_shot import class_vectors
from flowertune.config import Config, needs_probe
from flowertune.data.augment import normalise
from flowertune.data.batches import PixelStore
from flowertune.data.cache import CachedPhotos, bad_file_lines, cache_photos
from flowertune.data.cache_folder import cache_root
from flowertune.data.training_photos import training_photos
from flowertune.errors import EXIT_DONE, TrainingFailed, with_type
from flowertune.inference import Outputs, infer, infer_features, prediction_table
from flowertune.method_config import LinearProbeConfig, TextHeadConfig
from flowertune.metrics import measure
from flowertune.models.backbone import Backbone
from flowertune.models.classifier import FROZEN
from flowertune.report.console import RunConsole
from flowertune.stopping import Stop, listening, on_signals
from flowertune.tracking import tracked
from flowertune.training import checkpoint
from flowertune.training.course import Course, train
from flowertune.training.determinism import make_deterministic
from flowertune.training.device import Compute, choose_compute
from flowertune.training.step import build_step, not_finite


def execute(config: Config) -> int:
    """Trains one model and returns the exit code.

    Raises:
        Refused: before anything was started; no run directory is left behind.
        TrainingFailed, Interrupted: afterwards; the run directory says so too.
    """
    with listening() as stop:
        return _execute(config, stop)


def _execute(config: Config, stop: Stop) -> int:
    console = RunConsole(mode=config.run.console)
    assert config.run.name is not None
    cache, resume = cache_root(), config.run.resume
    # what is written down is for the next time, and restarts nothing then
    plain = asdict(replace(config, run=replace(config.run, resume="auto", console="auto")))
    run, finished = claims.claim(Path(config.run.root), config.run.name, plain, resume)
    if finished:
        results = run.results()
        run.remove_checkpoints()  # where it was killed just after it had finished
        if config.data.name == "folder":  # the other sources give the same photos always
            with console.progress():
                photo_set = build.list_photos(config.data, cache, console.advance)
                unchanged.check_photos(run, photo_set, console.advance)
        if config.backbone.path is not None:  # the other weights stay what they are
            facts = build.load_backbone(config.backbone, config.seed).facts()
            unchanged.check_backbone(run, facts)
        console.say(f"{run.path} is finished already; this is its result")
        console.results(results, str(run.path))
        return EXIT_DONE

    # what can be refused comes before the run directory, and what is quick to refuse comes first
    loggers.check(config.logger)
    compute = choose_compute(config.trainer.device, config.trainer.precision)
    make_deterministic(config.trainer.deterministic, compute.device)
    memory.keep_freed()
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
    space.check_room(config, backbone, photos)
    for line in bad_file_lines(photo_set, photos.bad):
        console.warn(f"left out: {line}")
    console.start(
        str(run.path),
        method=config.method,
        backbone=backbone.name,
        tag=backbone.tag,
        protocol=photos.photo_set.protocol,
        seed=config.seed,
    )

    out_of_memory = recording.OUT_OF_MEMORY.format(
        device=compute.device_name,
        batch_size=config.trainer.batch_size,
        accumulation=config.trainer.accumulation,
    )
    made_in = environment.describe(compute, backbone, photos)
    begun = claims.begun(run, plain, made_in, resume)
    tracker = tracked(config.logger, run, plain, console.say)
    with begun as before, recording.logged(run), tracker as tracking:
        with recording.recorded(run, out_of_memory):
            if before is not None:
                for note in before.notes:
                    console.warn(note)
                then = "it is started over" if before.checkpoint is None else "it goes on"
                console.say(f"{run.path} {before.words}; {then}")
            saved = None if before is None else before.checkpoint
            results, ending = _train(
                config, run, compute, backbone, photos, class_prompts, cache, console, stop, saved,
                tracking.log_metrics,
            )  # fmt: skip
            with on_signals(signal.SIG_IGN):  # it is finished, whatever comes now
                run.write_results(results)
        tracking.log_results(results)
        console.results(results, str(run.path))
    _report(run, ending, config.run.report, console)
    return EXIT_DONE


def _report(run: runs.Run, ending: keepsakes.Ending, page: bool, console: RunConsole) -> None:
    """What the run's page is made of, and the page. The results stand, whatever comes of these."""
    try:
        keepsakes.leave(run, ending)
        if page:
            from flowertune.report import run_page  # matplotlib, which no training waits for

            for line in run_page.write(run.path):
                console.say(line)
    except Exception as error:
        console.warn(f"{run.path}: its report could not be made ({with_type(error)})")


def _train(
    config: Config,
    run: runs.Run,
    compute: Compute,
    backbone: Backbone,
    photos: CachedPhotos,
    class_prompts: list[list[str]],
    cache: Path,
    console: RunConsole,
    stop: Stop,
    saved: Path | None,
    track: Callable[[Sequence[runs.Metrics]], None],
) -> tuple[dict[str, Any], keepsakes.Ending]:
    # pixels and labels
    device, settings = compute.device, config.trainer
    mean = torch.tensor(backbone.preprocessing.mean, device=device)
    std = torch.tensor(backbone.preprocessing.std, device=device)
    resident = build.pixels_are_resident(
        config.data, photos.photo_set, photos.splits["train"], device
    )
    pixels = {
        name: PixelStore(each.eval_pixels, device, resident=resident)
        for name, each in photos.splits.items()
    }
    labels = {name: torch.tensor(each.split.labels) for name, each in photos.splits.items()}
    class_names = photos.photo_set.class_names
    run.write_table("photos.csv", ["split", "path", "label", "sha256"], photos.rows())

    # the frozen backbone: what the head starts from, and the baselines
    backbone.model.to(device)

    def encode(batch: Tensor) -> Tensor:
        with compute.autocast():
            return backbone.encode_image(normalise(batch, mean, std))

    features = {}
    with console.progress():
        for name in frozen.wanted(config, list(photos.splits)):
            key = frozen.key(backbone, photos.splits[name], compute, settings.eval_batch_size)
            advance = partial(console.advance, f"frozen features of {name}")
            features[name] = frozen_features(pixels[name], encode, key, cache, advance)
    vectors, probe = None, None
    if backbone.has_text and (config.baselines or isinstance(config.head, TextHeadConfig)):
        vectors = class_vectors(backbone.encode_text, class_prompts).cpu()
    began = time.perf_counter()
    if config.baselines or needs_probe(config):
        probe = fit_linear_probe(
            features["train"], labels["train"], features.get("val"), labels.get("val"),
            len(class_names), *build.probe_recipe(config.probe, config.seed),
        )  # fmt: skip
    probe_seconds = time.perf_counter() - began
    baselines = comparison.baselines(
        config.baselines, features, labels, vectors, backbone.logit_scale, probe
    )

    # the model
    classifier = build.build_classifier(
        config, backbone, len(class_names), features.get("train"), vectors, probe
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
        checkpoint.save_weights(run.best, classifier.trainable_state())
        run.write_lines("metrics.jsonl", [])
        run.write_lines("timings.jsonl", [])
        seconds = probe_seconds if isinstance(config.model, LinearProbeConfig) else 0.0
        course = Course(0, None, None, seconds, None)
    else:
        recipe = build.augmentation_recipe(
            config.augmentation, backbone.preprocessing.size, settings.epochs
        )
        training = training_photos(
            photos.splits["train"], pixels["train"], len(class_names), recipe, mean, std,
            build.training_batches(config, labels["train"]), config.seed,
        )  # fmt: skip
        course, inferred["val"] = train(
            build_step(
                classifier, build.build_criterion(config.loss), compute, config.optimizer, settings,
                console.say,
            ),
            training, settings, run,
            (lambda: evaluate("val")) if "val" in labels else None, labels.get("val"),
            console, stop, saved, track,
        )  # fmt: skip

    # the kept weights' result, by the code that every later use goes through; the trained model
    # meets the test photos here and nowhere else
    classifier.load_trainable_state(checkpoint.load_weights(run.best))
    measured, outputs = {}, {}
    for name, each in photos.splits.items():
        outputs[name] = inferred.get(name) or evaluate(name)
        logits = outputs[name].logits
        metrics = measure(logits, labels[name])
        if not math.isfinite(metrics.loss):
            raise TrainingFailed(not_finite(f"loss on {name}", compute.precision))
        measured[name] = metrics.to_dict()
        run.write_table(
            f"predictions-{name}.csv",
            *prediction_table(photos.names(name), each.split.labels, logits, class_names),
        )
    saved_model.write(run.adapter, config, backbone, classifier, class_names)

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
        "protocol": photos.photo_set.protocol,
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
    judged = "test" if "test" in outputs else "val"
    is_frozen = classifier.mode in FROZEN
    return results, keepsakes.Ending(
        photos=photos,
        judged=judged,
        outputs=outputs[judged],
        trained=outputs["train"].embedding,
        frozen=None if is_frozen else features.get(judged),
        pixels=pixels,
        training=training,
        seed=config.seed,
    )

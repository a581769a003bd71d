"""A whole training: the loop's epochs, what is kept of them, and what is written down."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor

from flowertune.config import TrainerConfig
from flowertune.data.training_photos import TrainingPhotos
from flowertune.metrics import SplitMetrics, measure
from flowertune.report.console import RunConsole
from flowertune.runs import Metrics, Run
from flowertune.training import checkpoint
from flowertune.training.early_stopping import BestEpoch
from flowertune.training.ema import AveragedWeights
from flowertune.training.interpolation import choose_scale
from flowertune.training.loop import fit
from flowertune.training.step import Step


@dataclass(frozen=True)
class Course:
    """How a training went, as results.json has it.

    best_epoch: None where nothing was selected on val. adapter_scale: where WiSE-FT chose one.
    seconds: of training and validation. images_per_second: of training.
    """

    epochs_run: int
    best_epoch: int | None
    adapter_scale: float | None
    seconds: float
    images_per_second: float | None


def train(
    step: Step,
    photos: TrainingPhotos,
    settings: TrainerConfig,
    run: Run,
    infer_val: Callable[[], Tensor] | None,
    val_labels: Tensor | None,
    console: RunConsole,
) -> tuple[Course, Tensor | None]:
    """Trains the step's classifier and leaves in the run the best epoch's weights, else the last's.

    The run's files are true after each epoch. `infer_val` gives the logits (N, C) of the classifier
    as it is, for `val_labels` (N,); both None without a val split. Beside the course those of the
    weights that are left, where they were inferred. Raises TrainingFailed as `loop.fit` does.
    """
    classifier = step.classifier
    average = None if settings.ema is None else AveragedWeights(step.trained, settings.ema)
    initial = classifier.trainable_state() if settings.adapter_scales else {}

    def averaged() -> AbstractContextManager[None]:
        return nullcontext() if average is None else average.in_place()

    latest: Tensor | None = None
    kept: Tensor | None = None

    def validate() -> SplitMetrics:
        nonlocal latest
        assert infer_val is not None
        assert val_labels is not None
        latest = infer_val()
        return measure(latest, val_labels)

    def validate_averaged() -> SplitMetrics:
        with averaged():
            return validate()

    best = BestEpoch(settings.monitor, settings.patience, settings.min_delta)
    epochs = fit(
        step,
        photos,
        settings,
        best,
        validate=None if infer_val is None else validate_averaged,
        on_step=lambda epoch, done, total: console.step(epoch, settings.epochs, done, total),
        average=average,
    )
    lines: list[Metrics] = []
    timings: list[Metrics] = []
    with console.progress():
        for record in epochs:
            if record.keep:
                with averaged():
                    checkpoint.save_weights(run.best, classifier.trainable_state())
                kept = latest
            lines += record.lines
            timings.append(record.timing)
            run.write_lines("metrics.jsonl", lines)
            run.write_lines("timings.jsonl", timings)
            console.epoch(record.epoch, settings.epochs, record.train_loss, record.val, record.keep)

    # how much of the adapter is best on val
    scale = None
    if settings.adapter_scales and infer_val is not None:
        whole, scales = checkpoint.load_weights(run.best), settings.adapter_scales
        console.say(f"measuring val with the adapter at {', '.join(map(str, scales))} of its size")
        scale, state = choose_scale(
            classifier, initial, whole, scales, lambda: best.score(validate())
        )
        checkpoint.save_weights(run.best, state)
        kept = None  # of those tried, another may have been the last

    train_seconds = sum(timing["train_seconds"] for timing in timings)
    course = Course(
        epochs_run=len(timings),
        best_epoch=None if infer_val is None else best.epoch,
        adapter_scale=scale,
        seconds=train_seconds + sum(timing["val_seconds"] for timing in timings),
        images_per_second=sum(map(len, photos.batches(1))) * len(timings) / train_seconds,
    )
    return course, kept

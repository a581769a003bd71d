"""A whole training: the loop's epochs, what is kept of them, and what is written down."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from flowertune.config.trainer import TrainerConfig
from flowertune.data.loader import TrainingPhotos
from flowertune.errors import Interrupted, TrainingFailed, with_type
from flowertune.inference.logits import Outputs
from flowertune.metrics import SplitMetrics, measure
from flowertune.models import serialization
from flowertune.report.console.run import RunConsole
from flowertune.runs.directory import Metrics, Run
from flowertune.signals import Stop
from flowertune.training import checkpoint
from flowertune.training.early_stopping import BestEpoch
from flowertune.training.ema import AveragedWeights
from flowertune.training.failed_batch import explained
from flowertune.training.interpolation import choose_scale
from flowertune.training.loop import EpochRecord, fit
from flowertune.training.saving import Saving
from flowertune.training.standing import Standing
from flowertune.training.step import NotFinite, Step


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
    infer_val: Callable[[], Outputs] | None,
    val_labels: Tensor | None,
    console: RunConsole,
    stop: Stop,
    saved: Path | None,
    track: Callable[[Sequence[Metrics]], None] = lambda lines: None,
) -> tuple[Course, Outputs | None]:
    """Trains the step's classifier and leaves in the run the best epoch's weights, else the last's.

    The run's files are true after each epoch, and then, every `settings.checkpoint_minutes` and
    when `stop` has been asked for, all that a training goes on from is saved there. `saved`: the
    checkpoint that this one goes on from. `infer_val` gives what the classifier as it is makes
    of val, whose labels `val_labels` (N,) are; both None without a val split. `track` gets all
    lines of metrics.jsonl so far, whenever there are more. Beside the course what the weights that
    are left made of val, where they were asked.

    Raises:
        TrainingFailed: as `loop.fit` does; the step's photos are in run.failed_batch then.
        Interrupted: after saving.
        files.DiskFull: what was saved before is there.
    """
    classifier = step.classifier
    average = None if settings.ema is None else AveragedWeights(step.trained, settings.ema)
    initial = classifier.trainable_state() if settings.adapter_scales else {}
    best = BestEpoch(settings.monitor, settings.patience, settings.min_delta)
    standing = Standing(step, best, average)
    steps_per_epoch = -(-len(photos.batches(1)) // settings.accumulation)
    saving = Saving(run, standing, steps_per_epoch, settings.checkpoint_minutes, stop, console)

    def averaged() -> AbstractContextManager[None]:
        return nullcontext() if average is None else average.in_place()

    latest: Outputs | None = None
    kept: Outputs | None = None

    def validate() -> SplitMetrics:
        nonlocal latest
        assert infer_val is not None
        assert val_labels is not None
        latest = infer_val()
        return measure(latest.logits, val_labels)

    def validate_averaged() -> SplitMetrics:
        try:
            with averaged():
                return validate()
        except Interrupted:
            if not stop.hurried:
                saving.save()
            raise

    def write_lines() -> None:
        run.write_lines("metrics.jsonl", standing.lines)
        run.write_lines("timings.jsonl", standing.timings)

    def take_in(record: EpochRecord) -> None:
        nonlocal kept
        if record.keep:
            with averaged():
                standing.kept = classifier.trainable_state()
            serialization.save_weights(run.best, standing.kept)
            kept = latest
        standing.lines += record.lines
        standing.timings.append(record.timing)
        write_lines()
        console.epoch(record.epoch, settings.epochs, record.train_loss, record.val, record.keep)

    if saved is not None:
        standing.restore(checkpoint.load(saved))
        if standing.kept is not None:  # an epoch that is to come again may have left others
            serialization.save_weights(run.best, standing.kept)
        write_lines()
        console.say(f"going on after {saving.place()}")
    records = fit(
        step,
        photos,
        settings,
        best,
        validate=None if infer_val is None else validate_averaged,
        on_step=lambda epoch, done, total: console.step(epoch, done, standing.progress.lines),
        average=average,
        progress=standing.progress,
        pause=saving.due,
    )
    try:
        view = console.training(settings.epochs, steps_per_epoch, standing.lines)
        with view as say, stop.deferred(say), closing(records):
            for record in records:
                if record is not None:
                    take_in(record)
                track(standing.lines + standing.progress.lines)
                saving.save()
                stop.check()
    except TrainingFailed as error:
        standing.lines += standing.progress.lines
        write_lines()
        track(standing.lines)
        if isinstance(error, NotFinite):
            try:
                why = explained(error, step, photos, settings, standing.progress, run)
            except (OSError, RuntimeError, MemoryError) as other:  # no room; the reason counts
                why = f"{error}; its photos could not be kept ({with_type(other)})"
            raise TrainingFailed(why) from error
        raise

    # how much of the adapter is best on val
    scale = None
    if settings.adapter_scales and infer_val is not None:
        assert standing.kept is not None
        scales = settings.adapter_scales
        console.say(f"measuring val with the adapter at {', '.join(map(str, scales))} of its size")
        scale, state = choose_scale(
            classifier, initial, standing.kept, scales, lambda: best.score(validate())
        )
        serialization.save_weights(run.best, state)
        kept = None  # of those tried, another may have been the last

    timings = standing.timings
    train_seconds = sum(timing["train_seconds"] for timing in timings)
    course = Course(
        epochs_run=len(timings),
        best_epoch=None if infer_val is None else best.epoch,
        adapter_scale=scale,
        seconds=train_seconds + sum(timing["val_seconds"] for timing in timings),
        images_per_second=sum(map(len, photos.batches(1))) * len(timings) / train_seconds,
    )
    return course, kept

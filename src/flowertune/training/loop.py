"""The training loop: schedule, step, log, validate, save, stop."""

import math
import operator
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor

from flowertune.config.trainer import TrainerConfig
from flowertune.data.loader import TrainLoader
from flowertune.errors import Interrupted, TrainingError, with_type
from flowertune.inference.logits import Outputs
from flowertune.metrics import SplitMetrics, measure
from flowertune.models import serialization
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs.directory import Metrics, Run
from flowertune.signals import StopRequest
from flowertune.training import checkpoint
from flowertune.training.early_stopping import EarlyStopping
from flowertune.training.ema import EMA
from flowertune.training.nonfinite import dump_failed_batch
from flowertune.training.optimizer import schedule, set_learning_rates
from flowertune.training.state import Checkpointer, LoopState, TrainState
from flowertune.training.step import (
    NonFiniteError,
    TrainStep,
    check_finite,
    load_batches,
    nonfinite_message,
)
from flowertune.training.wise_ft import choose_scale


@dataclass(frozen=True)
class EpochRecord:
    """Records of an epoch: `lines` for metrics.jsonl, `timing`, and which weights to keep.

    `val` is the line of validation, None without a val split. `keep` says that these weights are
    the ones to keep so far: the best on val, or the latest where nothing is selected.
    """

    epoch: int
    lines: list[Metrics]
    train_loss: float
    val: Metrics | None
    keep: bool
    timing: Metrics


def fit(
    step: TrainStep,
    loader: TrainLoader,
    settings: TrainerConfig,
    early_stopping: EarlyStopping,
    validate: Callable[[], SplitMetrics] | None,
    on_step: Callable[[int, int, int], None],
    ema: EMA | None,
    progress: LoopState,
    pause: Callable[[], bool],
) -> Generator[EpochRecord | None, None, None]:
    """Train in place and yield after each epoch, when `early_stopping` has seen its validation.

    `validate` None: no val split, so no best epoch and no early end. `on_step(epoch, done, total)`
    counts the epoch's steps. `ema` takes in the weights of each step; the step's classifier
    keeps its own. It goes on from `progress`, which it keeps true: where `pause()` is true after a
    step it yields None, and all that it would go on from can be saved, as it can during a
    validation and after an epoch.

    Raises:
        NonFiniteError: a loss or gradient, before it touches a weight (on a GPU at the end of its
            epoch or the next pause, with fp16 at once). `progress` has the lines before it.
        TrainingError: a validation loss that is not finite.
    """
    steps_per_epoch = -(-len(loader.batches(1)) // settings.accumulation)
    total_steps = settings.epochs * steps_per_epoch
    warmup_steps = round(settings.warmup_epochs * steps_per_epoch)

    while progress.epoch <= settings.epochs and not early_stopping.should_stop:
        epoch, started = progress.epoch, time.perf_counter()
        step.classifier.train()
        queued: list[tuple[Metrics, dict[str, Tensor]]] = []
        steps = _steps(loader.batches(epoch), settings.accumulation)
        rest = list(chain.from_iterable(steps[progress.done :]))
        with closing(load_batches(loader, rest, epoch)) as stream:
            for step_batches in steps[progress.done :]:
                # schedule
                factor = schedule(progress.applied, total_steps, warmup_steps, settings.final_lr)
                rates = set_learning_rates(step.optimizer, factor)

                # forward, loss, backward, guard, step
                progress.done += 1
                terms, stepped = step.run(
                    islice(stream, len(step_batches)),
                    _count_images(step_batches),
                    _step_label(epoch, progress.done),
                )
                progress.applied += stepped
                if stepped and ema is not None:
                    ema.update()

                # log
                global_step = (epoch - 1) * steps_per_epoch + progress.done
                line = {"step": global_step, "epoch": epoch, "split": "train", **_lr_fields(rates)}
                queued.append((line, terms))
                if not step.deferred:  # the host has waited for the step in any case
                    _collect_terms(queued, progress.lines, step)
                on_step(epoch, progress.done, steps_per_epoch)

                # save, end
                if pause():
                    _collect_terms(queued, progress.lines, step)
                    progress.train_seconds += time.perf_counter() - started
                    yield None
                    started = time.perf_counter()

        # validate, keep, stop
        _collect_terms(queued, progress.lines, step)
        trained_at = time.perf_counter()
        progress.train_seconds += trained_at - started
        val = None if validate is None else validate()
        lines, train_losses = progress.lines, [line["loss"] for line in progress.lines]
        if val is not None:
            if not math.isfinite(val.loss):
                raise TrainingError(
                    nonfinite_message(f"validation loss of epoch {epoch}", step.compute.precision)
                )
            lines.append({"step": epoch * steps_per_epoch, "epoch": epoch, "split": "val",
                          "loss": val.loss, "top1": val.top1, "top5": val.top5,
                          "mean_per_class": val.mean_per_class})  # fmt: skip
        timing = {
            "epoch": epoch,
            "train_seconds": progress.train_seconds,
            "val_seconds": time.perf_counter() - trained_at,
        }
        progress.epoch, progress.done, progress.lines, progress.train_seconds = epoch + 1, 0, [], 0
        counts = list(map(_count_images, steps))
        yield EpochRecord(
            epoch=epoch,
            lines=lines,
            train_loss=sum(map(operator.mul, train_losses, counts)) / sum(counts),
            val=None if val is None else lines[-1],
            keep=val is None or early_stopping.update(epoch, val),
            timing=timing,
        )


def _steps(batches: list[Tensor], accumulation: int) -> list[list[tuple[int, Tensor]]]:
    """Group the batches by step, with their numbers in the epoch."""
    numbered = list(enumerate(batches))
    return [numbered[i : i + accumulation] for i in range(0, len(numbered), accumulation)]


def _count_images(step_batches: list[tuple[int, Tensor]]) -> int:
    return sum(len(indices) for _, indices in step_batches)


def _collect_terms(
    queued: list[tuple[Metrics, dict[str, Tensor]]], lines: list[Metrics], step: TrainStep
) -> None:
    """Fetch the terms of the queued steps from the device, in one piece, into the lines."""
    if not queued:
        return
    names = list(queued[0][1])
    table = torch.stack([torch.stack(list(terms.values())) for _, terms in queued]).tolist()
    for (line, _), values in zip(queued, table, strict=True):
        line.update(zip(names, values, strict=True))
        if step.deferred:
            label = _step_label(line["epoch"], len(lines) + 1)
            check_finite(line["loss"], line["gradient_norm"], label, step.compute.precision)
        if not math.isfinite(line["gradient_norm"]):  # fp16's scaler skipped the step
            line["gradient_norm"] = None
        lines.append(line)
    queued.clear()


def _step_label(epoch: int, step: int) -> str:
    return f"epoch {epoch}, step {step}"


def _lr_fields(rates: dict[str, float]) -> Metrics:
    return {"lr" if name == "adapter" else f"{name}_lr": rate for name, rate in rates.items()}


@dataclass(frozen=True)
class TrainResult:
    """Summary of a training, for results.json.

    best_epoch: None where nothing was selected on val. adapter_scale: where WiSE-FT chose one.
    seconds: of training and validation. images_per_second: of training.
    """

    epochs_run: int
    best_epoch: int | None
    adapter_scale: float | None
    seconds: float
    images_per_second: float | None


def train(
    step: TrainStep,
    loader: TrainLoader,
    settings: TrainerConfig,
    run: Run,
    infer_val: Callable[[], Outputs] | None,
    val_labels: Tensor | None,
    console: ConsoleReporter,
    stop: StopRequest,
    resume_from: Path | None,
    track: Callable[[Sequence[Metrics]], None] = lambda lines: None,
) -> tuple[TrainResult, Outputs | None]:
    """Train the step's classifier and save the best epoch's weights in the run, else the last's.

    The run's files are true after each epoch, and then, every `settings.checkpoint_minutes` and
    when `stop` has been asked for, all that a training goes on from is saved there. It continues
    from the checkpoint `resume_from`. `infer_val` gives what the classifier as it is makes
    of val, whose labels `val_labels` (N,) are; both None without a val split. `track` gets all
    lines of metrics.jsonl so far, whenever there are more. Returns the
    result, and the saved weights' outputs on val where they were computed.

    Raises:
        TrainingError: as `loop.fit` does; the step's photos are in run.failed_batch then.
        Interrupted: after saving.
        files.DiskFullError: what was saved before is there.
    """
    classifier = step.classifier
    ema = None if settings.ema is None else EMA(step.parameters, settings.ema)
    initial = classifier.trainable_state() if settings.adapter_scales else {}
    early_stopping = EarlyStopping(settings.monitor, settings.patience, settings.min_delta)
    state = TrainState(step, early_stopping, ema)
    steps_per_epoch = -(-len(loader.batches(1)) // settings.accumulation)
    checkpointer = Checkpointer(
        run, state, steps_per_epoch, settings.checkpoint_minutes, stop, console
    )

    def averaged_weights() -> AbstractContextManager[None]:
        return nullcontext() if ema is None else ema.average_parameters()

    latest: Outputs | None = None
    best_outputs: Outputs | None = None

    def validate() -> SplitMetrics:
        nonlocal latest
        assert infer_val is not None
        assert val_labels is not None
        latest = infer_val()
        return measure(latest.logits, val_labels)

    def validate_averaged() -> SplitMetrics:
        try:
            with averaged_weights():
                return validate()
        except Interrupted:
            if not stop.forced:
                checkpointer.save()
            raise

    def write_lines() -> None:
        run.write_lines("metrics.jsonl", state.lines)
        run.write_lines("timings.jsonl", state.timings)

    def add_record(record: EpochRecord) -> None:
        nonlocal best_outputs
        if record.keep:
            with averaged_weights():
                state.best_state = classifier.trainable_state()
            serialization.save_weights(run.best, state.best_state)
            best_outputs = latest
        state.lines += record.lines
        state.timings.append(record.timing)
        write_lines()
        console.epoch(record.epoch, settings.epochs, record.train_loss, record.val, record.keep)

    if resume_from is not None:
        state.restore(checkpoint.load(resume_from))
        if state.best_state is not None:  # an epoch that is to come again may have left others
            serialization.save_weights(run.best, state.best_state)
        write_lines()
        console.say(f"going on after {checkpointer.describe_progress()}")
    records = fit(
        step,
        loader,
        settings,
        early_stopping,
        validate=None if infer_val is None else validate_averaged,
        on_step=lambda epoch, done, total: console.step(epoch, done, state.progress.lines),
        ema=ema,
        progress=state.progress,
        pause=checkpointer.due,
    )
    try:
        view = console.training(settings.epochs, steps_per_epoch, state.lines)
        with view as say, stop.deferred(say), closing(records):
            for record in records:
                if record is not None:
                    add_record(record)
                track(state.lines + state.progress.lines)
                checkpointer.save()
                stop.check()
    except TrainingError as error:
        state.lines += state.progress.lines
        write_lines()
        track(state.lines)
        if isinstance(error, NonFiniteError):
            try:
                message = dump_failed_batch(error, step, loader, settings, state.progress, run)
            except (OSError, RuntimeError, MemoryError) as failure:  # no room; the reason counts
                message = f"{error}; its photos could not be kept ({with_type(failure)})"
            raise TrainingError(message) from error
        raise

    # how much of the adapter is best on val
    scale = None
    if settings.adapter_scales and infer_val is not None:
        assert state.best_state is not None
        scales = settings.adapter_scales
        console.say(f"measuring val with the adapter at {', '.join(map(str, scales))} of its size")
        scale, best_state = choose_scale(
            classifier, initial, state.best_state, scales, lambda: early_stopping.score(validate())
        )
        serialization.save_weights(run.best, best_state)
        best_outputs = None  # of those tried, another may have been the last

    timings = state.timings
    train_seconds = sum(timing["train_seconds"] for timing in timings)
    result = TrainResult(
        epochs_run=len(timings),
        best_epoch=None if infer_val is None else early_stopping.epoch,
        adapter_scale=scale,
        seconds=train_seconds + sum(timing["val_seconds"] for timing in timings),
        images_per_second=sum(map(len, loader.batches(1))) * len(timings) / train_seconds,
    )
    return result, best_outputs

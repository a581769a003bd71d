"""The training loop: schedule, step, log, validate, keep the best, save, stop."""

import math
import operator
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from flowertune.config.trainer import TrainerConfig
from flowertune.data.loader import TrainLoader
from flowertune.errors import Interrupted, TrainingError
from flowertune.inference.logits import Outputs
from flowertune.metrics import measure
from flowertune.models import serialization
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs.directory import Metrics, Run
from flowertune.signals import StopRequest
from flowertune.training.batches import count_images, load_steps, step_indices
from flowertune.training.failed_batch import keep_failed_batch
from flowertune.training.nonfinite import nonfinite_message
from flowertune.training.optimizer import schedule, set_learning_rates
from flowertune.training.state import TrainState
from flowertune.training.wise_ft import choose_scale


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
    state: TrainState,
    loader: TrainLoader,
    settings: TrainerConfig,
    run: Run,
    infer_val: Callable[[], Outputs] | None,
    val_labels: Int64[Tensor, "n"] | None,
    console: ConsoleReporter,
    stop: StopRequest,
    resume_from: Path | None,
    track: Callable[[Sequence[Metrics]], None] = lambda lines: None,
) -> tuple[TrainResult, Outputs | None]:
    """Train the state's classifier and save the best epoch's weights in the run, else the last's.

    The run's files are true after each epoch. A checkpoint is saved then, every
    `settings.checkpoint_minutes`, and where `stop` was asked for; the training continues from the
    checkpoint `resume_from`. `infer_val` gives what the classifier makes of val, whose labels
    `val_labels` are; both None without a val split. `track` gets all lines of metrics.jsonl so
    far, whenever there are more. Returns the result, and the saved weights' outputs on val where
    they were computed.

    Raises:
        TrainingError: a loss or gradient that is not finite, before it touches a weight (on a GPU
            found at the end of its epoch or at the next checkpoint, with fp16 at once), with its
            images in run.failed_batch_dir; a validation loss that is not finite.
        Interrupted: after saving.
        files.DiskFullError: what was saved before is there.
    """
    step, steps_per_epoch = state.step, state.steps_per_epoch
    total_steps = settings.epochs * steps_per_epoch
    warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
    initial = step.classifier.trainable_state() if settings.adapter_scales else {}
    best_outputs: Outputs | None = None
    if resume_from is not None:
        state.load(resume_from)
        if state.best_state is not None:  # an epoch that is to come again may have left others
            serialization.save_weights(run.best, state.best_state)
        state.write_metrics(run)
        console.say(f"going on after {state.describe()}")

    view = console.training(settings.epochs, steps_per_epoch, state.lines)
    failures = keep_failed_batch(state, loader, settings.accumulation, run, track)
    with failures, view as say, stop.deferred(say):
        while state.epoch <= settings.epochs and not state.early_stopping.should_stop:
            step.classifier.train()
            started = time.perf_counter()
            steps = step_indices(loader, state.epoch, settings.accumulation)
            sizes = list(map(count_images, steps))
            with closing(load_steps(loader, state.epoch, steps[state.done :])) as stream:
                for batches in stream:
                    # schedule
                    factor = schedule(state.updates, total_steps, warmup_steps, settings.final_lr)
                    rates = set_learning_rates(step.optimizer, factor)

                    # forward, loss, backward, guard, update
                    terms, updated = step.run(batches, sizes[state.done], state.step_label)

                    # log
                    state.end_step(rates, terms, updated)
                    console.step(state.epoch, state.done, state.epoch_lines)

                    # checkpoint, stop
                    if stop.received is not None or state.is_late(settings.checkpoint_minutes):
                        state.fetch_terms()
                        state.train_seconds += time.perf_counter() - started
                        track(state.lines + state.epoch_lines)
                        _save(state, run, stop, console)
                        stop.check()
                        started = time.perf_counter()

            # validate
            state.fetch_terms()
            trained_at = time.perf_counter()
            state.train_seconds += trained_at - started
            outputs, val = None, None
            if infer_val is not None:
                assert val_labels is not None
                try:
                    with state.averaged_weights():
                        outputs = infer_val()
                        val = measure(outputs.logits, val_labels)
                except Interrupted:
                    if not stop.forced:
                        _save(state, run, stop, console)
                    raise
                if not math.isfinite(val.loss):
                    what = f"validation loss of epoch {state.epoch}"
                    raise TrainingError(nonfinite_message(what, step.compute.precision))
            val_seconds = time.perf_counter() - trained_at

            # keep the best
            is_best = val is None or state.early_stopping.update(state.epoch, val)
            if is_best:
                with state.averaged_weights():
                    state.best_state = step.classifier.trainable_state()
                serialization.save_weights(run.best, state.best_state)
                best_outputs = outputs

            # log
            losses = [line["loss"] for line in state.epoch_lines]
            train_loss = sum(map(operator.mul, losses, sizes)) / sum(sizes)
            epoch, val_line = state.epoch, state.end_epoch(val, val_seconds)
            state.write_metrics(run)
            console.epoch(epoch, settings.epochs, train_loss, val_line, is_best)
            track(state.lines)

            # checkpoint, stop
            _save(state, run, stop, console)
            stop.check()

    scale = None
    if settings.adapter_scales and infer_val is not None:
        scale = _choose_scale(state, initial, settings, run, infer_val, val_labels, console)
        best_outputs = None  # of those tried, another may have been the last
    return _summarize(state, loader, scale, selected=infer_val is not None), best_outputs


def _save(state: TrainState, run: Run, stop: StopRequest, console: ConsoleReporter) -> None:
    """Save a checkpoint, and say so where the training is about to end."""
    state.save(run)
    if stop.received is not None:
        console.say(f"saved after {state.describe()}; the same command goes on")


def _choose_scale(
    state: TrainState,
    initial: dict[str, Tensor],
    settings: TrainerConfig,
    run: Run,
    infer_val: Callable[[], Outputs],
    val_labels: Int64[Tensor, "n"] | None,
    console: ConsoleReporter,
) -> float:
    """Find how much of the adapter is best on val, and save the weights so; returns the scale."""
    assert state.best_state is not None
    assert val_labels is not None
    scales = settings.adapter_scales
    console.say(f"measuring val with the adapter at {', '.join(map(str, scales))} of its size")
    scale, best_state = choose_scale(
        state.step.classifier, initial, state.best_state, scales,
        lambda: state.early_stopping.score(measure(infer_val().logits, val_labels)),
    )  # fmt: skip
    serialization.save_weights(run.best, best_state)
    return scale


def _summarize(
    state: TrainState, loader: TrainLoader, scale: float | None, *, selected: bool
) -> TrainResult:
    timings = state.timings
    train_seconds = sum(timing["train_seconds"] for timing in timings)
    return TrainResult(
        epochs_run=len(timings),
        best_epoch=state.early_stopping.epoch if selected else None,
        adapter_scale=scale,
        seconds=train_seconds + sum(timing["val_seconds"] for timing in timings),
        images_per_second=sum(map(len, loader.batches(1))) * len(timings) / train_seconds,
    )

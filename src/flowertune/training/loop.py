"""The training loop: schedule, step, log, validate, keep the best, save, stop."""

import math
import operator
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from flowertune.errors import Interrupted, TrainingError
from flowertune.inference.logits import Outputs
from flowertune.metrics import SplitMetrics
from flowertune.models import serialization
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs.directory import Metrics, Run
from flowertune.signals import StopRequest
from flowertune.training.batches import count_images, load_steps
from flowertune.training.failed_batch import keep_failed_batch
from flowertune.training.optimizer import schedule, set_learning_rates
from flowertune.training.state import TrainState
from flowertune.training.step import nonfinite_message
from flowertune.training.wise_ft import choose_scale

Measured = tuple[Outputs, SplitMetrics]  # what a classifier makes of a split


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
    run: Run,
    measure_val: Callable[[], Measured] | None,
    console: ConsoleReporter,
    stop: StopRequest,
    resume_from: Path | None,
    track: Callable[[Sequence[Metrics]], None] = lambda lines: None,
) -> tuple[TrainResult, Measured | None]:
    """Train the state's classifier and save the best epoch's weights in the run, else the last's.

    The run's files are true after each epoch. A checkpoint is saved then, every
    `checkpoint_minutes`, and where `stop` was asked for; the training continues from the
    checkpoint `resume_from`. `measure_val` measures the classifier on val; None without a val
    split. `track` gets all lines of metrics.jsonl so far, whenever there are more. Returns the
    result, and what `measure_val` gave for the saved weights, if they were measured.

    Raises:
        TrainingError: a loss or gradient that is not finite, before it touches a weight (on a GPU
            found at the end of its epoch or at the next checkpoint, with fp16 at once), with its
            images in run.failed_batch_dir; a validation loss that is not finite.
        Interrupted: after saving.
        files.DiskFullError: what was saved before is there.
    """
    step, settings, steps_per_epoch = state.step, state.settings, state.steps_per_epoch
    total_steps = settings.epochs * steps_per_epoch
    warmup_steps = round(settings.warmup_epochs * steps_per_epoch)
    initial = step.classifier.trainable_state() if settings.adapter_scales else {}
    best: Measured | None = None
    if resume_from is not None:
        state.load(resume_from)
        if state.best_state is not None:  # an epoch that is to come again may have left others
            serialization.save_weights(run.best, state.best_state)
        state.write_metrics(run)
        console.say(f"going on after {state.describe()}")

    view = console.training(settings.epochs, steps_per_epoch, state.lines)
    with keep_failed_batch(state, run, track), view as say, stop.deferred(say):
        while state.epoch <= settings.epochs and not state.early_stopping.should_stop:
            step.classifier.train()
            started = time.perf_counter()
            steps = state.step_indices(state.epoch)
            sizes = list(map(count_images, steps))
            with closing(load_steps(state.loader, state.epoch, steps[state.done :])) as stream:
                for batches in stream:
                    # schedule
                    factor = schedule(state.updates, total_steps, warmup_steps, settings.final_lr)
                    rates = set_learning_rates(step.optimizer, factor)

                    # forward, loss, backward, guard, update
                    label = f"epoch {state.epoch}, step {state.done + 1}"
                    terms, updated = step.run(batches, sizes[state.done], label)

                    # log
                    state.end_step(rates, terms, updated)
                    console.step(state.epoch, state.done, state.epoch_lines)

                    # checkpoint, stop
                    if stop.received is not None or state.is_late:
                        state.fetch_terms()
                        state.train_seconds += time.perf_counter() - started
                        track(state.lines + state.epoch_lines)
                        _save(state, run, stop, console)
                        started = time.perf_counter()

            # validate
            state.fetch_terms()
            trained_at = time.perf_counter()
            state.train_seconds += trained_at - started
            measured: Measured | None = None
            if measure_val is not None:
                try:
                    with state.averaged_weights():
                        measured = measure_val()
                except Interrupted:
                    if not stop.forced:
                        _save(state, run, stop, console)
                    raise
            val = None if measured is None else measured[1]
            if val is not None and not math.isfinite(val.loss):
                what = f"validation loss of epoch {state.epoch}"
                raise TrainingError(nonfinite_message(what, step.compute.precision))
            val_seconds = time.perf_counter() - trained_at

            # keep the best
            is_best = val is None or state.early_stopping.update(state.epoch, val)
            if is_best:
                with state.averaged_weights():
                    state.best_state = step.classifier.trainable_state()
                serialization.save_weights(run.best, state.best_state)
                best = measured

            # log
            losses = [line["loss"] for line in state.epoch_lines]
            train_loss = sum(map(operator.mul, losses, sizes)) / sum(sizes)
            epoch, val_line = state.epoch, state.end_epoch(val, val_seconds)
            state.write_metrics(run)
            console.epoch(epoch, settings.epochs, train_loss, val_line, is_best)
            track(state.lines)

            # checkpoint, stop
            _save(state, run, stop, console)

    scale = None
    if settings.adapter_scales and measure_val is not None:
        scale = _choose_scale(state, initial, run, measure_val, console)
        best = None  # of those tried, another may have been the last
    train_seconds = sum(timing["train_seconds"] for timing in state.timings)
    n_images = sum(map(len, state.loader.batches(1))) * len(state.timings)
    return TrainResult(
        epochs_run=len(state.timings),
        best_epoch=None if measure_val is None else state.early_stopping.epoch,
        adapter_scale=scale,
        seconds=train_seconds + sum(timing["val_seconds"] for timing in state.timings),
        images_per_second=n_images / train_seconds,
    ), best


def _save(state: TrainState, run: Run, stop: StopRequest, console: ConsoleReporter) -> None:
    """Save a checkpoint, and end the training there if `stop` was asked for."""
    state.save(run)
    if stop.received is not None:
        console.say(f"saved after {state.describe()}; the same command goes on")
    stop.check()


def _choose_scale(
    state: TrainState,
    initial: dict[str, Tensor],
    run: Run,
    measure_val: Callable[[], Measured],
    console: ConsoleReporter,
) -> float:
    """Find how much of the adapter is best on val, and save the weights so; returns the scale."""
    assert state.best_state is not None
    scales = state.settings.adapter_scales
    console.say(f"measuring val with the adapter at {', '.join(map(str, scales))} of its size")
    scale, best_state = choose_scale(
        state.step.classifier, initial, state.best_state, scales,
        lambda: state.early_stopping.score(measure_val()[1]),
    )  # fmt: skip
    serialization.save_weights(run.best, best_state)
    return scale

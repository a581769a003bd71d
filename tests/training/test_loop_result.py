"""What a training leaves for what comes after it."""

import pytest
import torch

from flowertune.inference.logits import infer
from flowertune.losses.factory import cross_entropy
from flowertune.models import serialization
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs.directory import Run
from flowertune.signals import StopRequest
from flowertune.training.loop import train
from flowertune.training.step import TrainStep


@pytest.fixture
def course(prepare, tmp_path):
    """`course(**settings)`: how a training went, what its weights made of val, and make again."""

    def course(**settings):
        made = prepare(**settings)
        run = Run(tmp_path)
        run.best.parent.mkdir(parents=True)
        photos = made.photos

        def infer_val():
            return infer(made.classifier, photos.pixels, photos.mean, photos.std, 8, made.compute)

        def criterion(embedding, logits, targets):
            return cross_entropy(embedding, logits, targets, label_smoothing=0.0)

        step = TrainStep(made.classifier, criterion, made.optimizer, made.compute, 1.0, None)
        found, outputs = train(
            step,
            photos,
            made.settings,
            run,
            infer_val,
            photos.labels,
            ConsoleReporter(),
            StopRequest(),
            None,
        )
        made.classifier.load_trainable_state(serialization.load_weights(run.best))
        return found, outputs, infer_val()

    return course


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_outputs_that_come_with_the_kept_weights_are_theirs_bit_for_bit(course, ema):
    found, outputs, again = course(epochs=3, ema=ema, min_delta=1.0)
    assert torch.equal(outputs.logits, again.logits)
    assert torch.equal(outputs.embedding, again.embedding)
    assert found.best_epoch < found.epochs_run  # so they are not simply the last ones


def test_where_another_scale_of_the_adapter_was_tried_last_none_come(course):
    _, outputs, _ = course(epochs=2, adapter_scales=[0.0, 0.5])
    assert outputs is None

"""What a training leaves for what comes after it."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from flowertune.report.console.run import ConsoleReporter
from flowertune.signals import StopRequest
from flowertune.training.loop import train


@pytest.fixture
def course(prepare):
    """`course(**settings)`: how a training went, what its weights made of val, and make again."""

    def course(**settings):
        made = prepare(**settings)
        run = made.run_dir
        measure_val = partial(made.measure, made.infer)
        found, best = train(made.state, run, measure_val, ConsoleReporter(), StopRequest(), None)
        made.classifier.load_trainable_state(load_file(run.best))
        return found, best, made.infer()

    return course


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_outputs_that_come_with_the_kept_weights_are_theirs_bit_for_bit(course, ema):
    found, (outputs, _), again = course(epochs=3, ema=ema, min_delta=1.0)
    assert torch.equal(outputs.logits, again.logits)
    assert torch.equal(outputs.embedding, again.embedding)
    assert found.best_epoch < found.epochs_run  # so they are not simply the last ones


def test_where_another_scale_of_the_adapter_was_tried_last_none_come(course):
    _, best, _ = course(epochs=2, adapter_scales=[0.0, 0.5])
    assert best is None

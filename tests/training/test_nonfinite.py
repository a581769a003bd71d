"""Files that a diverged training leaves for inspection."""

import json

import pytest
import torch
from safetensors.torch import load_file

from flowertune.errors import TrainingError
from flowertune.losses.factory import cross_entropy
from flowertune.report.console.run import ConsoleReporter
from flowertune.runtime.device import Compute
from flowertune.signals import StopRequest
from flowertune.training.loop import train


@pytest.fixture
def run_away(prepare, mixup):
    """`run_away(at, factor, **settings)`: multiply the loss of call `at` by `factor`, in float32
    only if `always`; returns the run, the error, the images of all calls and the training."""

    def run_away(at, factor, always=True, **settings):
        made = prepare(count=20, recipe=mixup, epochs=2, **settings)
        run, calls, seen = made.run_dir, 0, []

        def criterion(embedding, logits, targets):
            nonlocal calls
            calls += 1
            terms = cross_entropy(embedding, logits, targets, label_smoothing=0.0)
            low = torch.is_autocast_enabled("cpu")
            return {"loss": terms["loss"] * factor} if calls >= at and (low or always) else terms

        forward = made.classifier.forward
        made.classifier.forward = lambda images: (seen.append(images.clone()), forward(images))[1]
        made.state.step.criterion = criterion
        with pytest.raises(TrainingError) as failure:
            train(made.state, run, None, ConsoleReporter(), StopRequest(), None)
        return run, str(failure.value), seen, made

    return run_away


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_failed_batch_and_the_metrics_before_it_are_saved(
    run_away, accumulation, asynchronous, monkeypatch
):
    monkeypatch.setattr(Compute, "asynchronous", asynchronous)
    at = 5 + accumulation + 1  # a call for each of 5 batches: the second step of epoch 2
    run, message, seen, made = run_away(at, float("nan"), accumulation=accumulation)
    assert "loss of epoch 2, step 2 is not finite" in message
    assert message.endswith(f"the images of this step were saved in {run.failed_batch_dir}")
    batch = load_file(run.failed_batch_dir / "batch.safetensors")
    assert torch.equal(batch["images"], torch.cat(seen[at - 1 :][:accumulation]))
    photos = torch.cat(made.photos.batches(2)[accumulation : 2 * accumulation])
    assert torch.equal(batch["photos"], photos)
    assert batch["targets"].sum(1) == pytest.approx(1.0)
    facts = json.loads((run.failed_batch_dir / "facts.json").read_text())
    assert (facts["epoch"], facts["step"]) == (2, 2)
    assert facts["in_full_precision"]["loss"] is None
    steps = -(-5 // accumulation)
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, steps + 2))


def test_the_facts_include_the_step_in_full_precision(run_away):
    run, *_ = run_away(3, float("inf"), always=False, precision="bf16")
    facts = json.loads((run.failed_batch_dir / "facts.json").read_text())
    assert facts["precision"] == "bf16"
    assert facts["peak_learning_rates"] == {"optimizer.lr": 1e-3, "optimizer.head_lr": 5e-3}
    assert 1 < facts["in_full_precision"]["loss"] < 2
    assert facts["in_full_precision"]["gradient_norm"] > 0


def test_no_weight_was_updated_and_the_previous_checkpoint_is_intact(run_away):
    run, _, _, made = run_away(8, float("nan"))
    newest, _ = run.newest_checkpoint()
    assert newest == run.checkpoint(1, 5)
    weights = made.classifier.trainable_state()
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_full_disk_does_not_hide_the_reason(run_away, monkeypatch):
    def full(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flowertune.models.serialization.save_weights", full)
    _, message, *_ = run_away(3, float("nan"))
    assert "loss of epoch 1, step 3 is not finite" in message
    assert "the images of the step could not be saved (OSError" in message

"""The moving average equals a naive loop over the weights of every step."""

import math

import pytest
import torch

from flowertune.losses.factory import cross_entropy


def copies(parameters):
    return [parameter.detach().clone() for parameter in parameters]


def naive_average(steps, decay):
    """Average from the initial weights `steps[0]` on, in float64."""
    average = [weight.double() for weight in steps[0]]
    for t, weights in enumerate(steps[1:]):
        d = min(decay, (1 + t) / (10 + t))
        average = [d * a + (1 - d) * w.double() for a, w in zip(average, weights, strict=True)]
    return average


@pytest.mark.parametrize("decay", [0.2, 0.5, 0.999])  # the ramp passes 0.2 and 0.5, not 0.999
def test_the_average_equals_a_naive_loop_and_forgets_the_initial_weights(prepare, decay):
    training = prepare(epochs=4, ema=decay)
    steps = [copies(training.average.weights)]
    training.run(on_step=lambda *_: steps.append(copies(training.average.weights)))
    assert len(steps) == 17
    expected = naive_average(steps, decay)
    for mine, reference in zip(training.average.averaged, expected, strict=True):
        torch.testing.assert_close(mine.double(), reference, atol=1e-6, rtol=0)
    # the first weights count for less than a thousandth, which without the ramp they would not
    shifted = naive_average([[w + 1.0 for w in steps[0]], *steps[1:]], decay)
    assert max(float((a - b).max()) for a, b in zip(shifted, expected, strict=True)) < 1e-3


@pytest.mark.parametrize("model", ["lora", "linear_probe", "full"])
def test_only_trainable_parameters_are_averaged(prepare, model):
    training = prepare(model=model, ema=0.9)
    trained = {id(p) for p in training.classifier.parameters() if p.requires_grad}
    assert {id(weight) for weight in training.average.weights} == trained
    assert sum(map(torch.numel, training.average.averaged)) == (
        training.classifier.trainable_parameters
    )


def test_validation_uses_the_average_and_training_its_own_weights(prepare):
    plain, averaging = prepare(epochs=3, lr=1e-2), prepare(epochs=3, lr=1e-2, ema=0.9)
    seen = []

    def infer_val():
        own = averaging.classifier.trainable_state()
        with averaging.average.average_parameters():
            seen.append(copies(averaging.average.weights))
            outputs = averaging.infer()
        after = averaging.classifier.trainable_state()
        assert all(torch.equal(own[name], after[name]) for name in own)
        assert all(map(torch.equal, seen[-1], averaging.average.averaged))
        return outputs

    plain.run()
    averaging.run(infer_val=infer_val)
    assert plain.split("train") == averaging.split("train")
    weights, others = plain.classifier.state_dict(), averaging.classifier.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    for one, two in zip(plain.split("val"), averaging.split("val"), strict=True):
        assert one["loss"] != two["loss"]


def test_the_own_weights_are_restored_if_validation_fails(prepare):
    training = prepare(ema=0.9).run()
    own = training.classifier.trainable_state()
    with pytest.raises(KeyboardInterrupt), training.average.average_parameters():
        raise KeyboardInterrupt
    after = training.classifier.trainable_state()
    assert all(torch.equal(own[name], after[name]) for name in own)


def test_steps_skipped_by_the_fp16_scaler_are_not_averaged(prepare):
    training = prepare(count=16, precision="fp16", epochs=1, warmup_epochs=1.0, ema=0.9)
    calls, updates = 0, []

    def criterion(embedding, logits, targets):
        nonlocal calls
        calls += 1
        if calls == 2:
            logits.register_hook(lambda gradient: gradient * math.inf)
        return cross_entropy(embedding, logits, targets, label_smoothing=0.0)

    training.run(criterion, on_step=lambda *_: updates.append(training.average.updates))
    assert updates == [1, 1, 2, 3]

"""What a training does with the weights, and what it says of it."""

import json
import math
import threading
import weakref
from itertools import pairwise

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from flowertune.data.loader import TrainLoader
from flowertune.errors import TrainingError
from flowertune.inference.logits import Outputs
from flowertune.losses.cross_entropy import soft_cross_entropy
from flowertune.runtime.device import Compute


def same(one, two):
    """Whether two states hold the same bits."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def broken(at, what="loss and gradient", always=False):
    """Cross-entropy whose call number `at` (from 1) gives a value or gradient that is no number."""
    calls = 0

    def criterion(embedding, logits, targets):
        nonlocal calls
        calls += 1
        loss = soft_cross_entropy(logits, targets, 0.0)
        if calls == at or (always and calls > at):
            if what == "loss":
                return {"loss": loss + math.nan}
            if what == "loss and gradient":
                return {"loss": loss * math.nan}
            logits.register_hook(lambda g: g * math.inf)
        return {"loss": loss}

    return criterion


@pytest.mark.parametrize("count", [24, 18, 21])  # 21: the last batch of the last step has one
def test_accumulated_batches_make_the_same_step_as_one_large_batch(prepare, count):
    accumulated = prepare(count=count, batch_size=4, accumulation=3).run()
    large = prepare(count=count, batch_size=12).run()
    assert len(accumulated.lines) == len(large.lines) == 2 * (math.ceil(count / 12) + 1)
    start, theirs = prepare().classifier.trainable_state(), large.classifier.trainable_state()
    for name, weight in accumulated.classifier.trainable_state().items():
        assert (weight - theirs[name]).abs().max() < 1e-6, name
    assert not same(start, theirs)
    losses = [line["loss"] for line in accumulated.lines]
    assert losses == pytest.approx([line["loss"] for line in large.lines], abs=1e-5)


@pytest.mark.parametrize("what", ["loss", "gradient", "loss and gradient"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_what_is_not_finite_stops_before_it_touches_a_weight(prepare, what, accumulation):
    training = prepare(count=16, batch_size=2, accumulation=accumulation)
    steps = 8 // accumulation
    states = []

    def remember(*_):
        states.append(training.classifier.state_dict())
        states[-1] = {name: tensor.clone() for name, tensor in states[-1].items()}

    # the first batch of the second epoch's third step
    at = 8 + 2 * accumulation + 1
    named = what.split()[0]
    with pytest.raises(TrainingError, match=rf"{named} of epoch 2, step 3 is not finite.*lr"):
        training.run(broken(at, what), on_step=remember)
    assert len(states) == steps + 2
    assert same(training.classifier.state_dict(), states[-1])
    assert not same(states[-1], states[-2])


@pytest.mark.parametrize("what", ["loss", "gradient", "loss and gradient"])
def test_where_the_host_does_not_wait_the_optimizer_stops_by_itself(prepare, what, monkeypatch):
    alone = prepare(count=16, batch_size=2, epochs=1)
    states = []
    alone.run(on_step=lambda *_: states.append(alone.classifier.trainable_state()))

    monkeypatch.setattr(Compute, "asynchronous", True)
    training = prepare(count=16, batch_size=2, epochs=1)
    took = []
    named = what.split()[0]
    with pytest.raises(TrainingError, match=rf"{named} of epoch 1, step 3 is not finite.*lr"):
        training.run(broken(3, what), on_step=lambda epoch, done, total: took.append(done))
    assert took == list(range(1, 9))  # to the end of the epoch, at whose end it is looked at
    assert same(training.classifier.trainable_state(), states[1])


def reading_threads():
    return [each.name for each in threading.enumerate() if each.name.startswith("photos")]


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_batch_is_gone_before_the_next_is_put_together_and_all_are_before_validation(
    prepare, mixup, accumulation, resident, monkeypatch
):
    training = prepare(
        count=18, batch_size=4, accumulation=accumulation, recipe=mixup, resident=resident
    )
    put_together = TrainLoader._build_batch
    given = []

    def gone():
        return all(tensor() is None for tensor in given)

    def watched(photos, pixels, *which):
        assert gone()
        images, targets = put_together(photos, pixels, *which)
        parts = pixels if resident else [pixels]  # of the memory map, photo by photo
        given.extend(map(weakref.ref, (*parts, images, targets)))
        return images, targets

    def infer_val():
        assert gone()
        assert not reading_threads()
        return training.infer()

    monkeypatch.setattr(TrainLoader, "_build_batch", watched)
    training.run(infer_val=infer_val)
    assert len(given) == 2 * (5 * 2 + (18 if resident else 5))


def test_a_step_that_fails_leaves_no_thread_that_reads(prepare):
    training = prepare(count=16, batch_size=2, resident=False)
    with pytest.raises(TrainingError) as failure:
        training.run(broken(2))
    assert failure.traceback  # which keeps the loop's frame alive
    assert not reading_threads()


def test_weights_that_explode_in_the_last_step_of_an_epoch_are_not_a_result(prepare):
    training = prepare(count=4, batch_size=4, epochs=1, warmup_epochs=0.0, lr=1e38)
    with pytest.raises(TrainingError, match="validation loss of epoch 1 is not finite"):
        training.run()
    assert not training.records


@pytest.mark.parametrize("model", ["lora", "full"])
def test_same_seed_gives_the_same_bits_whatever_else_draws(prepare, mixup, model):
    torch.manual_seed(1)
    one = prepare(model=model, recipe=mixup, dropout=0.3 * (model == "lora")).run()
    torch.manual_seed(2)
    two = prepare(model=model, recipe=mixup, dropout=0.3 * (model == "lora"))
    two.run(on_step=lambda epoch, done, total: torch.rand(done))
    assert same(one.classifier.state_dict(), two.classifier.state_dict())
    assert one.lines == two.lines


def test_dropout_is_in_force_and_differs_between_steps(prepare):
    plain, dropped = prepare().run(), prepare(dropout=0.5).run()
    assert not same(plain.classifier.trainable_state(), dropped.classifier.trainable_state())


@pytest.mark.parametrize("model", ["lora", "linear_probe", "full"])
def test_nothing_frozen_changes_and_everything_trained_does(prepare, model):
    training = prepare(model=model, count=16)
    modules = {"model": training.backbone.model, "head": training.classifier.head}
    names, before = {}, {}
    for part, module in modules.items():
        for name, parameter in module.named_parameters():
            names[f"{part}.{name}"] = parameter
            before[f"{part}.{name}"] = (parameter.requires_grad, parameter.detach().clone())
    training.run()
    changed = {name for name in names if not torch.equal(names[name], before[name][1])}
    trained = {name for name in names if before[name][0]}
    assert changed == trained
    assert {"lora": any("lora_A" in n for n in trained),
            "linear_probe": all(n.startswith("head.") for n in trained),
            "full": any("positional_embedding" in n for n in trained)}[model]  # fmt: skip


def outputs_with_top1(training, top1):
    """Outputs that classify so many of the training's images correctly."""
    labels, count = training.photos.labels, round(top1 * len(training.photos.labels))
    classes = torch.where(torch.arange(len(labels)) < count, labels, (labels + 1) % 4)
    return Outputs(torch.zeros(len(labels), 1), torch.nn.functional.one_hot(classes, 4).float())


def test_patience_ends_it(prepare):
    accuracies = iter([0.5, 0.6, 0.6, 0.55, 0.9])
    training = prepare(count=20, epochs=5, patience=2)
    training.run(infer_val=lambda: outputs_with_top1(training, next(accuracies)))
    assert [record.keep for record in training.records] == [True, True, False, False]
    assert (training.best.epoch, training.best.value) == (2, pytest.approx(0.6))


def test_without_patience_it_goes_on_to_the_end(prepare):
    training = prepare(epochs=3, warmup_epochs=1.0)
    training.run(infer_val=lambda: outputs_with_top1(training, 0.5))
    assert [record.epoch for record in training.records] == [1, 2, 3]
    assert training.best.epoch == 1


def test_without_a_val_split_every_epoch_is_run_and_the_last_weights_are_kept(prepare):
    training, validated = prepare(epochs=3, warmup_epochs=1.0), prepare(epochs=3, warmup_epochs=1.0)
    training.run(val=False)
    validated.run()
    assert [record.keep for record in training.records] == [True, True, True]
    assert [record.val for record in training.records] == [None, None, None]
    assert not training.split("val")
    assert training.split("train") == validated.split("train")
    assert same(training.classifier.state_dict(), validated.classifier.state_dict())


def test_learning_rates_follow_torchs_schedulers_apart_for_adapter_and_head(prepare):
    training = prepare(count=18, epochs=5, warmup_epochs=1.5, final_lr=0.1).run()
    train = training.split("train")
    total, warmup = 25, 8
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    reference = SequentialLR(
        dummy,
        [LinearLR(dummy, 1 / (warmup + 1), 1.0, warmup),
         CosineAnnealingLR(dummy, total - 1 - warmup, eta_min=1e-4)],
        milestones=[warmup],
    )  # fmt: skip
    expected = []
    for _ in range(total):
        expected.append(dummy.param_groups[0]["lr"])
        dummy.step()
        reference.step()
    assert [line["lr"] for line in train] == pytest.approx(expected, rel=1e-9)
    assert [line["head_lr"] for line in train] == pytest.approx([5 * lr for lr in expected])
    assert train[-1]["lr"] == pytest.approx(0.1 * 1e-3)


def test_lines_count_steps_through_and_are_json(prepare):
    training = prepare(count=10, batch_size=4, accumulation=2).run()
    assert [(li["step"], li["epoch"], li["split"]) for li in training.lines] == [
        (1, 1, "train"), (2, 1, "train"), (2, 1, "val"),
        (3, 2, "train"), (4, 2, "train"), (4, 2, "val"),
    ]  # fmt: skip
    json.dumps(training.lines, allow_nan=False)
    assert training.split("train")[0].keys() == {
        "step", "epoch", "split", "lr", "head_lr", "loss", "gradient_norm",
    }  # fmt: skip
    assert training.split("val")[0].keys() == {
        "step", "epoch", "split", "loss", "top1", "top5", "mean_per_class",
    }  # fmt: skip
    # the last line is the trained model's own
    _, final = training.measure(training.infer)
    assert training.lines[-1]["loss"] == final.loss
    assert [record.val for record in training.records] == training.split("val")
    assert [timing["epoch"] for timing in training.timings] == [1, 2]
    for record, timing in zip(training.records, training.timings, strict=True):
        train = [li["loss"] for li in training.split("train") if li["epoch"] == record.epoch]
        # steps of 4 + 4 and of 2 photos: the mean is over photos
        assert record.train_loss == pytest.approx((8 * train[0] + 2 * train[1]) / 10)
        assert timing.keys() == {"epoch", "train_seconds", "val_seconds"}


@pytest.mark.parametrize("accumulation", [1, 3])
def test_terms_of_the_loss_are_logged_apart_as_means_over_the_steps_photos(prepare, accumulation):
    def criterion(embedding, logits, targets):
        ce = soft_cross_entropy(logits, targets, 0.0)
        length = embedding.norm(dim=1).mean()
        label = targets.argmax(1).float().mean()
        return {"loss": ce + 0.1 * length, "ce": ce, "length": length, "label": label}

    training = prepare(count=10, batch_size=4, accumulation=accumulation, epochs=1).run(criterion)
    train, batches = training.split("train"), training.photos.batches(1)
    steps = [torch.cat(batches[i : i + accumulation]) for i in range(0, 3, accumulation)]
    assert len(train) == len(steps)
    for line, photos in zip(train, steps, strict=True):
        assert line["loss"] == pytest.approx(line["ce"] + 0.1 * line["length"])
        assert line["label"] == pytest.approx(float(training.photos.labels[photos].float().mean()))
    losses = [line["loss"] * len(photos) for line, photos in zip(train, steps, strict=True)]
    assert training.records[0].train_loss == pytest.approx(sum(losses) / 10)


def test_gradients_are_clipped_to_the_norm(prepare):
    free, clipped = prepare(clip_norm=None), prepare(clip_norm=1e-3)
    reached = []

    def norm_after(training):
        grads = [p.grad for group in training.optimizer.param_groups for p in group["params"]]
        return float(torch.stack([g.norm() for g in grads]).norm())

    for training in (free, clipped):
        step = training.optimizer.step

        def spy(*args, training=training, step=step, **kwargs):
            reached.append(norm_after(training))
            return step(*args, **kwargs)

        training.optimizer.step = spy
        training.run()
    half = len(reached) // 2
    assert min(reached[:half]) > 1e-2
    assert reached[half:] == pytest.approx([1e-3] * half, rel=1e-2)
    # what is logged is the norm before clipping
    assert clipped.lines[0]["gradient_norm"] == pytest.approx(free.lines[0]["gradient_norm"])


def test_it_learns(prepare):
    training = prepare(count=16, epochs=15, warmup_epochs=1.0, lr=2e-2).run()
    val = training.split("val")
    assert val[-1]["loss"] < 0.5 * val[0]["loss"]
    assert val[-1]["top1"] == 1.0


def test_bf16_trains_close_to_fp32_with_weights_kept_in_float32(prepare):
    exact, rounded = prepare().run(), prepare(precision="bf16").run()
    assert {t.dtype for t in rounded.classifier.state_dict().values()} == {torch.float32}
    for one, two in zip(exact.split("train"), rounded.split("train"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=0.05)
    assert exact.lines[0]["loss"] != rounded.lines[0]["loss"]


def test_a_step_that_fp16s_scaler_skips_moves_neither_weights_nor_schedule(prepare):
    training = prepare(count=16, precision="fp16", epochs=1, warmup_epochs=1.0)
    states = [training.classifier.trainable_state()]
    training.run(
        broken(2, "gradient"),
        on_step=lambda *_: states.append(training.classifier.trainable_state()),
    )
    moved = [not same(one, two) for one, two in pairwise(states)]
    assert moved == [True, False, True, True]
    train = training.split("train")
    assert [line["gradient_norm"] is None for line in train] == [False, True, False, False]
    rates = [line["lr"] for line in train]
    assert rates[1] == rates[2] < rates[3]
    json.dumps(training.lines, allow_nan=False)


def test_fp16_gradients_that_no_scale_helps_end_it(prepare):
    training = prepare(count=64, batch_size=2, precision="fp16", epochs=1)
    with pytest.raises(TrainingError, match=r"gradient of epoch 1, step .*precision=fp32"):
        training.run(broken(2, "gradient", always=True))

"""A training that was stopped goes on as if it had not been."""

import json
import shutil
import signal
from functools import partial
from typing import Any

import pytest
import torch

from flowertune.errors import Interrupted
from flowertune.inference.logits import infer
from flowertune.losses.factory import cross_entropy, triplet_cross_entropy
from flowertune.report.console.run import ConsoleReporter
from flowertune.runs.directory import Run
from flowertune.runtime.device import Compute
from flowertune.signals import StopRequest, install_handlers
from flowertune.training.loop import train

HARD = {"epochs": 3, "ema": 0.9, "dropout": 0.3, "warmup_epochs": 0.5, "clip_norm": 1.0}


@pytest.fixture
def life(prepare, mixup, tmp_path):
    """`life(name, stop_after=None, **settings)`: a training in the run `name`, from its newest
    checkpoint, with objects of its own; it is asked to end after so many of its own steps."""

    def life(name, stop_after=None, in_validation=False, criterion=cross_entropy, stop=None,
             track=lambda lines: None, **settings):  # fmt: skip
        made = prepare(**{"recipe": mixup, "count": 20, **settings})
        run = Run(tmp_path / name)
        run.best.parent.mkdir(parents=True, exist_ok=True)
        stop, taken = stop or StopRequest(), 0

        def infer_val():
            if in_validation and taken >= stop_after:
                stop.handle(signal.SIGTERM, None)
            return infer(
                made.classifier, made.photos.pixels, made.backbone.preprocessing, 8, made.compute,
                lambda done, total: stop.check(),
            )  # fmt: skip

        step = made.state.step
        step.criterion = partial(criterion, label_smoothing=0.0)
        run_step = step.run

        def counted(*args):
            nonlocal taken
            taken += 1
            if taken == stop_after and not in_validation:
                stop.handle(signal.SIGTERM, None)
            return run_step(*args)

        step.run = counted
        saved, flaws = run.newest_checkpoint()
        assert not flaws
        course, _ = train(
            made.state, run, partial(made.measure, infer_val), ConsoleReporter(), stop, saved,
            track,
        )  # fmt: skip
        return course, made.classifier.state_dict(), made.average

    return life


def files_of(tmp_path, name):
    run = Run(tmp_path / name)
    return run.best.read_bytes(), (run.path / "metrics.jsonl").read_bytes()


def lives(life, name, stops, **settings):
    """As many lives as it takes; each but the last is stopped after so many of its steps."""
    for stop_after in stops:
        with pytest.raises(Interrupted):
            life(name, stop_after, **settings)
    return life(name, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        HARD,
        {**HARD, "model": "full", "dropout": 0.0, "lr": 1e-4},
        {**HARD, "model": "dora"},
        {**HARD, "model": "layernorm"},
        {**HARD, "model": "bitfit"},
        {**HARD, "accumulation": 2, "resident": False, "precision": "bf16"},
        {**HARD, "precision": "fp16"},
        {**HARD, "epochs": 8, "patience": 2, "monitor": "loss", "lr": 2e-2},
    ],
    ids=[
        "lora",
        "full",
        "dora",
        "layernorm",
        "bitfit",
        "accumulated, streamed, bf16",
        "fp16",
        "early stopping",
    ],
)
def test_stopped_anywhere_it_ends_in_the_same_bits(life, tmp_path, settings):
    whole, weights, average = life("whole", **settings)
    cut, after, averaged = lives(life, "cut", [1, 3, 2, 1], **settings)
    assert files_of(tmp_path, "cut") == files_of(tmp_path, "whole")
    assert (cut.epochs_run, cut.best_epoch) == (whole.epochs_run, whole.best_epoch)
    for name, weight in weights.items():
        assert torch.equal(after[name], weight), name
    assert averaged.updates == average.updates
    for one, other in zip(averaged.averaged, average.averaged, strict=True):
        assert torch.equal(one, other)


def test_where_the_host_does_not_wait_it_is_the_same(life, tmp_path, monkeypatch):
    monkeypatch.setattr(Compute, "asynchronous", True)
    life("whole", **HARD)
    lives(life, "cut", [2, 4, 5], **HARD)
    assert files_of(tmp_path, "cut") == files_of(tmp_path, "whole")


def test_stopped_in_a_validation_it_goes_on_with_that(life, tmp_path):
    life("whole", **HARD)
    with pytest.raises(Interrupted):
        life("cut", 5, in_validation=True, **HARD)  # 5 steps are an epoch
    (saved,) = Run(tmp_path / "cut").checkpoints()
    progress = json.loads((saved / "state.json").read_text())["progress"]
    assert (progress["epoch"], progress["done"]) == (1, 5)
    life("cut", **HARD)
    assert files_of(tmp_path, "cut") == files_of(tmp_path, "whole")


def test_another_loss_with_terms_of_its_own_goes_on_too(life, tmp_path):
    triplets = partial(
        triplet_cross_entropy, margin=1.0, weight=0.3, distance="euclidean", normalize=False,
        reduction="mean",
    )  # fmt: skip
    settings = {**HARD, "recipe": None, "criterion": triplets}
    life("whole", **settings)
    lives(life, "cut", [2, 2], **settings)
    assert files_of(tmp_path, "cut") == files_of(tmp_path, "whole")


def test_the_adapters_size_is_chosen_from_the_same_beginning(life, tmp_path):
    settings = {**HARD, "adapter_scales": [0.0, 0.5]}
    whole, *_ = life("whole", **settings)
    cut, *_ = lives(life, "cut", [7], **settings)
    assert cut.adapter_scale == whole.adapter_scale
    assert files_of(tmp_path, "cut") == files_of(tmp_path, "whole")


def test_it_saves_as_often_as_asked_and_keeps_two(life, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        "flowertune.training.state.save_checkpoint",
        lambda run, epochs, step, values, tensors: saved.append((epochs, step)),
    )
    life("epochs", **HARD)
    assert saved == [(1, 5), (2, 10), (3, 15)]
    saved.clear()
    life("steps", **HARD, checkpoint_minutes=1e-9)
    assert saved[:7] == [(0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (1, 5), (1, 6)]
    monkeypatch.undo()
    life("kept", **HARD, checkpoint_minutes=1e-9)
    names = [path.name for path in Run(tmp_path / "kept").checkpoints()]
    assert names == ["epoch-00003-step-000000015", "epoch-00002-step-000000015"]


def test_from_the_one_before_a_damaged_checkpoint_it_ends_in_the_same_bits_too(life, tmp_path):
    life("whole", **HARD)
    with pytest.raises(Interrupted):
        life("cut", 8, checkpoint_minutes=1e-9, **HARD)
    newest, before = Run(tmp_path / "cut").checkpoints()
    (newest / "tensors.safetensors").write_bytes(b"torn")
    assert Run(tmp_path / "cut").newest_checkpoint()[0] == before
    shutil.rmtree(newest)  # as taking the run up does
    life("cut", **HARD)
    assert files_of(tmp_path, "cut") == files_of(tmp_path, "whole")


def test_whoever_tracks_it_gets_all_lines_from_the_first_on_in_each_life(life, tmp_path):
    lives: list[list[list[dict[str, Any]]]] = [[], []]
    often = {**HARD, "checkpoint_minutes": 1e-9}
    with pytest.raises(Interrupted):
        life("cut", 7, track=lambda lines: lives[0].append(list(lines)), **often)
    life("cut", track=lambda lines: lives[1].append(list(lines)), **often)
    written = (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()
    whole = [json.loads(line) for line in written]
    assert lives[1][-1] == whole
    for given in (*lives[0], *lives[1]):
        assert given == whole[: len(given)]
    assert [len(given) for given in lives[0]] == [1, 2, 3, 4, 5, 6, 7, 8]  # 6 is a validation


def test_a_second_signal_ends_it_at_once_and_what_was_saved_stands(life, tmp_path):
    with pytest.raises(Interrupted):
        life("cut", 6, **HARD)
    (saved, *_) = Run(tmp_path / "cut").checkpoints()

    def impatient(embedding, logits, targets, label_smoothing):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it went on")

    with install_handlers() as stop, pytest.raises(Interrupted) as interruption:
        life("cut", criterion=impatient, stop=stop, **HARD)
    assert interruption.value.exit_code == 130
    assert Run(tmp_path / "cut").checkpoints()[0] == saved
    life("cut", **HARD)
    life("whole", **HARD)
    assert files_of(tmp_path, "cut") == files_of(tmp_path, "whole")

"""Recorded steps against the same steps as they are, by a stand-in where there is no GPU."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from operation_recorder import StandIn

from flowertune.config.optimizer import OptimizerConfig
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.transforms.mixup import MixSettings
from flowertune.errors import TrainingError
from flowertune.losses import factory
from flowertune.losses.cross_entropy import soft_cross_entropy
from flowertune.models.kernels import attention
from flowertune.runtime.device import Compute
from flowertune.training.cuda_graph import MAX_RECORDINGS, WARM_UP, CudaGraphStep, build_graph_step
from flowertune.training.optimizer import build_optimizer
from flowertune.training.state import TrainState
from flowertune.training.step import TrainStep

TRIPLET = partial(
    factory.triplet_cross_entropy, label_smoothing=0.1, margin=0.3, weight=0.5,
    distance="euclidean", normalize=True, reduction="mean",
)  # fmt: skip


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _attention_as_on_a_gpu(monkeypatch):
    """torch's own: which library computes the other on a CPU is no operation to record."""
    monkeypatch.setattr(attention, "uses_onednn", lambda x: False)


class AsItIs(CudaGraphStep):
    """In the place of what would replay, so that the optimizer is the same."""

    def __init__(self):
        super().__init__(StandIn(), print)

    def __call__(self, function, *tensors, **fixed):
        return function(*tensors, **fixed)


@pytest.fixture
def queued(monkeypatch):
    """The loop as a GPU's: it does not look at what a step gives."""
    monkeypatch.setattr(Compute, "asynchronous", True)


@pytest.fixture
def both(prepare, queued):
    """`both(criterion, **settings)`: a training as it is, and replayed, both at an end."""

    def both(criterion=None, **settings):
        unexpected, recorder = [], StandIn()
        plain = prepare(replay=AsItIs(), **settings).run(criterion)
        replayed = prepare(replay=CudaGraphStep(recorder, unexpected.append), **settings).run(
            criterion
        )
        assert not unexpected
        return plain, replayed, recorder

    return both


def assert_same(plain, replayed):
    state = replayed.classifier.trainable_state()
    for name, expected in plain.classifier.trainable_state().items():
        assert torch.equal(state[name], expected), name
    if plain.average is not None:
        for ours, expected in zip(replayed.average.averaged, plain.average.averaged, strict=True):
            assert torch.equal(ours, expected)
    assert replayed.lines == plain.lines


@pytest.mark.parametrize("model", ["lora", "dora", "vpt", "layernorm", "bitfit", "full"])
def test_a_replayed_training_is_the_same_training(both, mixup, model):
    """Its rates warm up and fall, and dropout, crops and partners differ from step to step."""
    dropout = 0.2 if model in ("lora", "dora") else 0.0
    plain, replayed, recorder = both(
        model=model, recipe=mixup, dropout=dropout, epochs=3, ema=0.9, clip_norm=1.0
    )
    assert_same(plain, replayed)
    assert recorder.recorded == 2  # forward and backward, and the update
    assert len({line["lr"] for line in plain.split("train")}) > 6


@pytest.mark.parametrize("mixing", ["mixup", "cutmix", None])
def test_what_one_batch_mixes_is_not_what_the_next_one_does(both, mixup, mixing):
    recipe = replace(
        mixup, mixing=None if mixing is None else MixSettings(mixing, 0.4, last_epoch=2)
    )
    plain, replayed, _ = both(recipe=recipe, epochs=3)
    assert_same(plain, replayed)


def test_triplets_are_mined_anew_in_each_step(both):
    plain, replayed, _ = both(TRIPLET, epochs=3, batch_size=8)
    assert_same(plain, replayed)
    assert len({line["triplet"] for line in plain.split("train")}) > 3


def test_smaller_batches_and_steps_of_several_have_recordings_of_their_own(both):
    plain, replayed, recorder = both(count=22, batch_size=4, accumulation=2, epochs=5)
    assert_same(plain, replayed)
    # half of 8 photos; two thirds, and a third, of the 6 in each epoch's last step; the update
    assert recorder.recorded == 4


def test_the_rates_of_tensors_train_as_those_of_numbers_do(both, prepare):
    plain, _, _ = both(epochs=3)
    numbers = prepare(epochs=3).run().classifier.trainable_state()
    for name, expected in plain.classifier.trainable_state().items():
        torch.testing.assert_close(numbers[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("queued")
def test_what_is_not_finite_stops_a_replayed_training_where_it_stops_any_other(prepare):
    def broken():
        calls = torch.zeros(())

        def criterion(embedding, logits, targets):
            calls.add_(1)
            loss = soft_cross_entropy(logits, targets, 0.0)
            return {"loss": loss * torch.where(calls == 6, torch.nan, 1.0)}

        return criterion

    states = []
    alone = prepare(count=16, batch_size=2, epochs=1, replay=AsItIs())
    alone.run(on_step=lambda *_: states.append(alone.classifier.trainable_state()))
    recorder = StandIn()
    training = prepare(count=16, batch_size=2, epochs=1, replay=CudaGraphStep(recorder, print))
    with pytest.raises(TrainingError, match="loss of epoch 1, step 6 is not finite"):
        training.run(broken())
    assert recorder.recorded == 2
    for name, weight in training.classifier.trainable_state().items():
        assert torch.equal(weight, states[4][name]), name


def looks(embedding, logits, targets):
    """A criterion for which the host waits."""
    loss = soft_cross_entropy(logits, targets, 0.0)
    return {"loss": loss * (1.0 if loss.item() > 0 else 2.0)}


@pytest.mark.usefixtures("queued")
def test_what_cannot_be_recorded_goes_on_as_it_is_with_one_line(prepare):
    said = []
    plain = prepare(epochs=3, replay=AsItIs()).run(looks)
    replayed = prepare(epochs=3, replay=CudaGraphStep(StandIn(), said.append))
    assert_same(plain, replayed.run(looks))
    assert said == [
        "steps are not recorded, and so a little slower: "
        "operation not permitted when stream is capturing"
    ]


def test_the_first_calls_run_and_rare_shapes_are_not_recorded():
    recorder, ran = StandIn(), []

    def double(x):
        ran.append(len(x))
        return {"sum": 2 * x.sum()}

    replay = CudaGraphStep(recorder, print)
    for size in range(1, MAX_RECORDINGS + 3):
        for call in range(WARM_UP + 3):
            assert replay(double, torch.full((size,), float(call)))["sum"] == 2 * size * call
    assert recorder.recorded == MAX_RECORDINGS
    assert ran.count(1) == WARM_UP + 1  # and once when it is recorded
    assert ran.count(MAX_RECORDINGS + 1) == WARM_UP + 3


def test_a_result_is_the_callers_to_keep():
    def total(x):
        return {"x": x.sum()}

    replay = CudaGraphStep(StandIn(), print)
    results = [replay(total, torch.tensor([float(call)]))["x"] for call in range(6)]
    assert [result.item() for result in results] == [0, 1, 2, 3, 4, 5]


def test_only_a_gpus_steps_are_recorded_and_fp16_says_why_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    said = []
    cuda = torch.device("cuda")
    assert build_graph_step("auto", Compute(torch.device("cpu"), "fp32", 1), said.append) is None
    assert build_graph_step("never", Compute(cuda, "bf16", 1), said.append) is None
    assert not said
    assert build_graph_step("auto", Compute(cuda, "bf16", 1), said.append) is not None
    assert not said
    assert build_graph_step("auto", Compute(cuda, "fp16", 1), said.append) is None
    assert len(said) == 1
    assert "fp16" in said[0]


def on_gpu(made, precision, replay):
    """A training of `prepare`, on the GPU."""
    device = torch.device("cuda")
    made.classifier.to(device)
    photos = replace(
        made.photos,
        pixels=DevicePixels(made.photos.pixels.array, device, resident=True),
        mean=made.photos.mean.to(device),
        std=made.photos.std.to(device),
    )
    compute = Compute(device, precision, 1)
    optimizer = build_optimizer(
        made.classifier.parameter_groups(), OptimizerConfig(), device, recorded=True
    )
    step = TrainStep(
        made.classifier, made.state.step.criterion, optimizer, compute,
        made.state.settings.clip_norm, replay,
    )  # fmt: skip
    state = TrainState(step, photos, made.state.settings)
    return replace(made, photos=photos, optimizer=optimizer, compute=compute, state=state)


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cuda_graphs_train_as_the_steps_they_were_recorded_from(prepare, mixup, precision):
    def trained(replay):
        made = prepare(recipe=mixup, dropout=0.2, epochs=3, ema=0.9, clip_norm=1.0)
        return on_gpu(made, precision, replay).run()

    said = []
    compute = Compute(torch.device("cuda"), precision, 1)
    plain = trained(AsItIs())
    replayed = trained(build_graph_step("auto", compute, said.append))
    assert not said
    state = replayed.classifier.trainable_state()
    for name, expected in plain.classifier.trainable_state().items():
        torch.testing.assert_close(state[name], expected, rtol=1e-4, atol=1e-5)


@needs_cuda
def test_a_cuda_graph_that_cannot_be_leaves_everything_as_it_was(prepare):
    said = []
    compute = Compute(torch.device("cuda"), "fp32", 1)
    plain = on_gpu(prepare(epochs=3), "fp32", AsItIs()).run(looks)
    replay = build_graph_step("auto", compute, said.append)
    replayed = on_gpu(prepare(epochs=3), "fp32", replay).run(looks)
    assert len(said) == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    state = replayed.classifier.trainable_state()
    for name, expected in plain.classifier.trainable_state().items():
        torch.testing.assert_close(state[name], expected, rtol=1e-4, atol=1e-5)

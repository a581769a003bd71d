from dataclasses import replace

import numpy as np
import pytest
import torch

from flowertune.config.model import LoraConfig
from flowertune.data.device_pixels import DevicePixels
from flowertune.data.image import Preprocessing
from flowertune.inference.logits import encode, infer, infer_features, prediction_table
from flowertune.models import vision_tower
from flowertune.models.adapters.lora import LORA
from flowertune.models.adapters.tower_parameters import LINEAR_PROBE, ZEROSHOT
from flowertune.models.classifier import Classifier
from flowertune.models.heads import HeadInputs, LinearHead
from flowertune.runtime.device import Compute

CPU = torch.device("cpu")
PREPROCESSING = Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3, "bicubic", "shortest", 0)
CLASSES = ("rose", "tulip", "lily", "iris", "daisy", "aster", "poppy")


@pytest.fixture
def head(small):
    inputs = HeadInputs(small.embedding_dim, 7, 1.0, 1, None, None, None)
    return LinearHead(inputs, standardize=False)


@pytest.fixture
def classifier(small, head):
    LORA.attach(LoraConfig(rank=2, alpha=4.0, dropout=0.5, targets=["q"]), small, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in small.visual.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) / 8
    return Classifier(small, head, LORA)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (11, 3, 32, 32), dtype=np.uint8)


def run(classifier, pixels, batch_size, precision="fp32", progress=None):
    pixels, compute = DevicePixels(pixels, CPU, resident=True), Compute(CPU, precision, threads=1)
    return infer(classifier, pixels, PREPROCESSING, batch_size, compute, progress)


def test_the_result_is_that_of_a_plain_forward_in_eval_mode_in_order(classifier, pixels):
    classifier.eval()
    with torch.no_grad():
        embedding, logits = classifier((torch.from_numpy(pixels) / 255 - 0.5) / 0.25)
    classifier.train()  # as training leaves it: with dropout
    outputs = run(classifier, pixels, batch_size=4)
    torch.testing.assert_close(outputs.embedding, embedding, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(outputs.logits, logits, atol=1e-5, rtol=1e-5)
    assert not outputs.logits.requires_grad


@pytest.mark.parametrize("batch_size", [1, 3, 128])
def test_the_batch_size_does_not_matter(classifier, pixels, batch_size):
    one, other = run(classifier, pixels, 11), run(classifier, pixels, batch_size)
    torch.testing.assert_close(other.logits, one.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(other.embedding, one.embedding, atol=1e-5, rtol=1e-5)


@pytest.fixture
def five_at_once(small, monkeypatch):
    monkeypatch.setattr(
        vision_tower, "MAX_CPU_TOKENS", 5 * len(small.visual.positional_embedding) + 1
    )


def sizes_of(module):
    """How many photos each of its forward passes has."""
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    return seen


def test_a_cpu_works_on_few_photos_of_a_batch_at_once(classifier, pixels, request):
    whole = run(classifier, pixels, 8)
    request.getfixturevalue("five_at_once")
    sizes, seen = sizes_of(classifier), []
    parts = run(classifier, pixels, 8, progress=lambda done, total: seen.append(done))
    assert sizes == [5, 3, 3]
    assert seen == [8, 11]
    torch.testing.assert_close(parts.embedding, whole.embedding, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.logits, whole.logits, atol=1e-5, rtol=1e-5)


def test_a_frozen_backbone_embeds_in_the_parts_that_inference_has(
    small, head, pixels, five_at_once
):
    probe = Classifier(small, head, ZEROSHOT)
    outputs = run(probe, pixels, 11)
    sizes = sizes_of(small.visual.conv1)
    small = replace(small, preprocessing=PREPROCESSING)
    with torch.inference_mode():
        embedding = encode(small, Compute(CPU, "fp32", threads=1), torch.from_numpy(pixels))
    assert sizes == [5, 5, 1]
    assert torch.equal(embedding, outputs.embedding)


def test_a_head_gets_features_in_the_parts_that_inference_has(small, head, pixels, five_at_once):
    probe = Classifier(small, head, LINEAR_PROBE)
    sizes = sizes_of(head)
    outputs = run(probe, pixels, 8)
    again = infer_features(probe, outputs.embedding, 8)
    assert sizes == [5, 3, 3] * 2
    assert torch.equal(again.logits, outputs.logits)


def test_bf16_gives_float32_close_to_fp32(classifier, pixels):
    exact, rounded = run(classifier, pixels, 4), run(classifier, pixels, 4, "bf16")
    assert rounded.logits.dtype == rounded.embedding.dtype == torch.float32
    assert not torch.equal(rounded.logits, exact.logits)
    scale = exact.logits.abs().max()
    assert (rounded.logits - exact.logits).abs().max() < 0.1 * scale


def test_progress_counts_photos(classifier, pixels):
    seen = []
    run(classifier, pixels, 4, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 11), (8, 11), (11, 11)]


def test_the_table_lists_the_five_likeliest_as_a_plain_sort_does():
    logits = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    names, labels = [f"a/{i}.jpg" for i in range(6)], [0, 1, 2, 3, 4, 6]
    header, rows = prediction_table(names, labels, logits, CLASSES)
    assert header == [
        "path", "label", "prediction", "probability", "prediction_2", "probability_2",
        "prediction_3", "probability_3", "prediction_4", "probability_4", "prediction_5",
        "probability_5",
    ]  # fmt: skip
    for name, label, row, line in zip(names, labels, rows, logits.tolist(), strict=True):
        shares = np.exp(line) / np.exp(line).sum()
        ranked = sorted(zip(shares, CLASSES, strict=True), reverse=True)[:5]
        expected = [name, CLASSES[label]]
        for share, class_name in ranked:
            expected += [class_name, f"{share:.6f}"]
        assert row == expected


def test_with_fewer_than_five_classes_all_are_listed():
    header, rows = prediction_table(["x.jpg"], [1], torch.tensor([[0.0, 1.0]]), ("rose", "tulip"))
    assert header == [
        "path", "label", "prediction", "probability", "prediction_2", "probability_2",
    ]  # fmt: skip
    assert rows == [["x.jpg", "tulip", "tulip", "0.731059", "rose", "0.268941"]]


def test_the_prediction_is_the_one_the_metrics_count_where_probabilities_round_to_equal():
    # in float32 both have the probability 0.5, to the bit
    logits = torch.tensor([[10.0, 10.0 + 1e-6, 0.0]])
    assert logits[0, 1] > logits[0, 0]
    _, rows = prediction_table(["x.jpg"], [0], logits, ("rose", "tulip", "lily"))
    assert rows[0][2] == "tulip"
    _, rows = prediction_table(["x.jpg"], [0], torch.zeros(1, 7), CLASSES)
    assert rows[0][2::2] == list(CLASSES[:5])  # of equal ones the first, like argmax

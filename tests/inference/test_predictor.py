"""`flowertune.load`: load a run and classify images."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import ExifTags, Image
from safetensors.torch import load_file

import flowertune
from flowertune.config import saved
from flowertune.models import factory, serialization
from flowertune.models.backbone import TINY

pytestmark = pytest.mark.usefixtures("quiet_commands")


@pytest.fixture(scope="module")
def model(lora: Path) -> flowertune.Predictor:
    return flowertune.load(lora)


@pytest.fixture(scope="module")
def photos(drawn: Path) -> list[Path]:
    return sorted((drawn / "test").rglob("*.png"))


@torch.no_grad()
def test_predictions_equal_a_plain_forward_with_the_open_clip_transform(
    kind: str, run_of: Callable[[str], Path], photos: list[Path]
) -> None:
    """One image at a time, with LoRA not merged into the weights."""
    run = run_of(kind)
    config = saved.read_config(run / "config.yaml")
    backbone = factory.load_backbone(config.backbone, config.seed, None)
    transform = image_transform_v2(PreprocessCfg(**asdict(backbone.preprocessing)), is_train=False)
    unmerged, classes = serialization.load_classifier(run / "adapter", config, backbone)
    answers = flowertune.load(run, precision="fp32").predict(photos[:5], top_k=20)
    for photo, answer in zip(photos[:5], answers, strict=True):
        _, logits = unmerged(transform(Image.open(photo))[None])
        expected = dict(zip(classes, logits.softmax(1)[0].tolist(), strict=True))
        assert answer.image == photo
        assert dict(zip(answer.classes, answer.probabilities, strict=True)) == pytest.approx(
            expected, abs=1e-5
        )
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
        assert answer.label == answer.classes[0] == max(expected, key=expected.__getitem__)
        assert answer.probability == answer.probabilities[0]


@torch.no_grad()
def test_a_linear_probe_equals_open_clip_and_the_saved_head(
    run_of: Callable[[str], Path], photos: list[Path]
) -> None:
    """No code of flowertune between the image and the embedding."""
    run = run_of("linear_probe")
    clip, _, transform = open_clip.create_model_and_transforms(f"local-dir:{TINY}")
    clip.eval()
    classes = json.loads((run / "adapter/model.json").read_text())["classes"]
    head = load_file(run / "adapter/head.safetensors")
    images = torch.stack([transform(Image.open(photo)) for photo in photos[:5]])
    standard = (clip.encode_image(images) - head["mean"]) / head["std"]
    logits = standard @ head["linear.weight"].T + head["linear.bias"]
    for row, answer in zip(
        logits.softmax(1), flowertune.load(run).predict(photos[:5]), strict=True
    ):
        expected = sorted(row.tolist(), reverse=True)[:3]
        assert list(answer.probabilities) == pytest.approx(expected, abs=1e-5)
        assert answer.label == classes[int(row.argmax())]


def test_paths_strings_and_pil_images_give_the_same_prediction(
    model: flowertune.Predictor, photos: list[Path], tmp_path: Path
) -> None:
    with Image.open(photos[0]) as image:
        upright = image.convert("RGB")
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise
    turned.save(tmp_path / "turned.png", exif=exif, transparency=(1, 2, 3))
    gray = upright.convert("L")
    with Image.open(tmp_path / "turned.png") as opened:
        ways = [photos[0], str(photos[0]), upright, tmp_path / "turned.png", opened, gray]
        *same, other = model.predict(ways)
        assert opened.info["transparency"] == (1, 2, 3)  # as it was
    for answer, given in zip(same, ways, strict=False):
        assert answer.image is given
        assert answer.classes == same[0].classes
        assert answer.probabilities == pytest.approx(same[0].probabilities, abs=1e-6)
    assert other.probabilities != pytest.approx(same[0].probabilities, abs=1e-6)
    (alone,) = model.predict(photos[0])
    assert alone.classes == same[0].classes


def test_infinite_iterables_are_read_as_needed(
    model: flowertune.Predictor, photos: list[Path]
) -> None:
    taken = 0

    def without_end() -> Iterator[Path]:
        nonlocal taken
        for photo in repeat(photos[0]):
            taken += 1
            yield photo

    with closing(model.stream(without_end(), batch_size=4)) as answers:
        assert len(list(islice(answers, 8))) == 8
    assert taken < 8 + 4 + 4 * 64  # a batch, and four for each thread that decodes


def test_unreadable_images_are_yielded_in_order(
    model: flowertune.Predictor, photos: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "notes.jpg").write_text("roses are red")
    cut = tmp_path / "cut.png"
    cut.write_bytes(photos[1].read_bytes()[:200])
    given = [tmp_path / "notes.jpg", photos[0], cut, tmp_path / "gone.jpg", photos[1]]
    answers = list(model.stream(given, batch_size=2))
    assert [answer.image for answer in answers] == given
    bad = [answer for answer in answers if isinstance(answer, flowertune.UnreadableImage)]
    assert [answer.image for answer in bad] == [given[0], given[2], given[3]]
    assert [bad[0].reason, bad[2].reason] == ["not an image", "no such file"]
    with pytest.raises(flowertune.UnreadableImageError, match=r"notes\.jpg: not an image"):
        model.predict(given)
    assert model.predict([]) == []


@pytest.mark.parametrize("count", [0, -1, 1.5, "3", None])
def test_bad_counts_are_refused_at_the_call(
    count: Any, model: flowertune.Predictor, photos: list[Path]
) -> None:
    said = re.escape(f"{count!r}: must be a whole number, 1 or more")
    with pytest.raises(ValueError, match=f"top_k={said}"):
        model.predict(photos[0], top_k=count)
    with pytest.raises(ValueError, match=f"top_k={said}"):
        model.stream(photos, top_k=count)  # which nobody reads
    with pytest.raises(ValueError, match=f"batch_size={said}"):
        model.stream(photos, batch_size=count)


DAMAGED = "is missing or damaged; remove the run and train it again"


def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "copied"))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("adapter/head.safetensors", f"adapter/head.safetensors {DAMAGED}"),
        ("adapter/model.json", f"adapter/model.json {DAMAGED}"),
        ("adapter/adapter_model.safetensors", "the adapter in .* does not fit tiny builtin"),
        ("config.yaml", f"config.yaml {DAMAGED}"),
        ("environment.json", f"environment.json {DAMAGED}"),
        ("status.json", "is not a finished run"),
    ],
)
def test_a_damaged_run_is_refused_and_the_file_is_named(
    file: str, said: str, lora: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    run = copied(lora, tmp_path)
    whole = (run / file).read_bytes()
    (run / file).write_bytes(whole[: len(whole) // 2])
    message = refusal(lambda: flowertune.load(run))
    assert re.search(said, message), message


def test_fewer_class_names_than_the_head_has_are_refused(
    lora: Path, tmp_path: Path, refusal: Callable[..., str]
) -> None:
    run = copied(lora, tmp_path)
    (run / "adapter/model.json").write_text('{"classes": ["rose", "tulip"]}')
    message = refusal(lambda: flowertune.load(run))
    assert "adapter/model.json is missing or damaged" in message


def test_missing_or_changed_pretrained_weights_are_refused(
    lora: Path, tmp_path: Path, refusal: Callable[..., str], small_dir: Path
) -> None:
    run, weights = copied(lora, tmp_path), tmp_path / "weights"
    shutil.copytree(TINY, weights)
    config = saved.read_config(run / "config.yaml")
    local = replace(config.backbone, source="directory", path=str(weights), tag="builtin")
    text = saved.to_yaml(asdict(replace(config, backbone=local)))
    (run / "config.yaml").write_text(text)
    environment = json.loads((run / "environment.json").read_text())
    environment["backbone"] = "weights"
    (run / "environment.json").write_text(json.dumps(environment))
    assert flowertune.load(run).class_names == flowertune.load(lora).class_names

    (file,) = weights.glob("*.safetensors")
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    message = refusal(lambda: flowertune.load(run))
    assert "weights has changed since the training" in message
    assert "(weights_sha256); restore the original weights" in message
    shutil.rmtree(weights)
    message = refusal(lambda: flowertune.load(run))
    assert "cannot load the pretrained weights of the run: " in message
    assert str(weights) in message


def test_the_backbone_is_kept_only_if_requested(lora: Path, model: flowertune.Predictor) -> None:
    with pytest.raises(ValueError, match="keep_backbone=True"):
        _ = model.backbone
    kept = flowertune.load(lora, keep_backbone=True)
    assert kept.backbone.visual is kept.classifier.visual
    assert len(kept.backbone.model.transformer.resblocks) > 0  # the text tower


def test_an_unfinished_run_is_refused(
    tmp_path: Path, lora: Path, refusal: Callable[..., str]
) -> None:
    assert refusal(lambda: flowertune.load(tmp_path)) == f"{tmp_path}: is not a finished run"
    run = copied(lora, tmp_path)
    (run / "status.json").write_text(json.dumps({"state": "interrupted", "why": "SIGINT"}))
    assert refusal(lambda: flowertune.load(run)).endswith("is not a finished run (interrupted)")

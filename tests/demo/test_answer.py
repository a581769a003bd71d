"""Predictions, relevance maps and nearest training images of the demo, without the page."""

import importlib.util
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import flowertune
from flowertune import cli
from flowertune.commands import demo
from flowertune.demo import cards
from flowertune.demo.answer import Explanation, Neighbor, Neighbors, explain, load_neighbors
from flowertune.inference import run_images
from flowertune.inference.predictor import UnreadableImage

pytestmark = pytest.mark.usefixtures("quiet_commands")

MOST = 1000


def read(model: flowertune.Predictor, most: int = MOST) -> tuple[Neighbors, list[str]]:
    left_out: list[str] = []
    return load_neighbors(model, most, left_out.append, lambda *_: None), left_out


@pytest.fixture(scope="module")
def photos(drawn: Path) -> list[Path]:
    return sorted((drawn / "test").rglob("*.png"))


def answered(model: flowertune.Predictor, known: Neighbors, photo: Path) -> Explanation:
    found = explain(model, known, photo)
    assert isinstance(found, Explanation)
    return found


def test_every_kind_of_model_predicts_like_predict_and_finds_its_own_images(
    kind: str, run_of: Callable[[str], Path], photos: list[Path]
) -> None:
    model = flowertune.load(run_of(kind))
    known, left_out = read(model)
    assert left_out == []
    assert len(known.paths) == len(set(known.paths)) > 0
    (expected,) = model.predict(photos[0], top_k=5)
    found = answered(model, known, photos[0])
    assert found.classes == expected.classes
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
    assert found.relevance is not None
    assert found.relevance.min() == 0
    assert found.relevance.max() == 1

    own = answered(model, known, known.paths[3]).nearest[0]
    assert (own.path, own.label) == (known.paths[3], known.paths[3].parent.name)
    assert own.similarity == pytest.approx(1, abs=1e-3)


def test_the_nearest_images_have_the_largest_cosine_similarity(
    lora: Path, photos: list[Path]
) -> None:
    model = flowertune.load(lora)
    known, _ = read(model)

    def embedding(path: Path) -> torch.Tensor:
        return model.outputs(model.load_pixels(path)[None]).embedding[0]

    itself = embedding(photos[5])
    cosines = torch.stack([F.cosine_similarity(itself, embedding(p), dim=0) for p in known.paths])
    nearest = answered(model, known, photos[5]).nearest
    best = cosines.argsort(descending=True)[:5].tolist()
    assert [each.path for each in nearest] == [known.paths[place] for place in best]
    assert [each.similarity for each in nearest] == pytest.approx(cosines[best].tolist(), abs=1e-4)


def test_removing_the_most_relevant_patches_lowers_the_logit_most(
    lora: Path, photos: list[Path]
) -> None:
    model = flowertune.load(lora)
    rest, least, most = [], [], []
    for photo in photos[:20]:
        found = answered(model, read(model, 0)[0], photo)
        assert found.relevance is not None
        label = model.class_names.index(found.classes[0])
        side = found.pixels.shape[1] // found.relevance.shape[0]
        order = found.relevance.flatten().argsort()
        gray = np.broadcast_to(found.pixels.mean((1, 2), keepdims=True), (3, side, side))
        for places, kept in ((order[:0], rest), (order[:8], least), (order[-8:], most)):
            without = found.pixels.copy()
            for row, column in zip(*np.unravel_index(places, found.relevance.shape), strict=True):
                up, left = row * side, column * side
                without[:, up : up + side, left : left + side] = gray
            kept.append(float(model.outputs(without[None]).logits[0, label]))
    assert np.mean(rest) - np.mean(most) > 3 * abs(np.mean(rest) - np.mean(least))


def test_missing_and_changed_training_images_are_left_out_and_listed(
    lora: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = flowertune.load(lora)
    whole, _ = read(model)
    few, _ = read(model, 7)
    assert len(few.paths) == 7
    assert f"of 7 of the {len(whole.paths):,} training images" in few.caption
    assert set(few.paths) < set(whole.paths)
    root = run_images.run_image_root(model.config.data)
    shutil.copytree(root, tmp_path / "photos")
    monkeypatch.setattr(run_images, "run_image_root", lambda data: tmp_path / "photos")
    names = [path.relative_to(root) for path in whole.paths]
    (tmp_path / "photos" / names[1]).unlink()
    shutil.copy(tmp_path / "photos" / names[3], tmp_path / "photos" / names[2])
    known, left_out = read(model)
    assert left_out == [
        f"{names[1]}: no such file",
        f"{names[2]}: the image has changed since the run",
    ]
    assert [p.relative_to(tmp_path / "photos") for p in known.paths] == [names[0], *names[3:]]
    assert known.caption.startswith(f"Nearest of {len(names) - 2:,} of the {len(names):,} training")

    assert read(model, 0)[0].caption == "No training images (--photos 0)"
    shutil.rmtree(tmp_path / "photos")
    known, _ = read(model)
    assert known.caption == f"The training images are no longer in {tmp_path / 'photos'}"
    assert known.nearest(torch.ones(512), 5) == []


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>\"'&"
    (picture := tmp_path / f"{evil.replace('/', '')}.png").touch()
    Image.new("RGB", (300, 200), "red").save(picture)
    found = Explanation(
        pixels=np.zeros((3, 32, 32), np.uint8),
        classes=(evil, "b"),
        probabilities=(0.75, 0.25),
        relevance=np.eye(4, dtype=np.float32),
        nearest=(Neighbor(picture, evil, 0.5), Neighbor(tmp_path / "gone", "b", 0.25)),
    )
    results = {
        "method": evil, "backbone": evil, "tag": evil,
        "splits": {"val": {"n": 10, "top1": 0.5, "top1_interval": [0.25, 0.75]}},
    }  # fmt: skip
    made = (
        cards.lead(evil, results, 2)
        + cards.render_card(evil, found, evil)
        + cards.render_card(evil, UnreadableImage(picture, evil), evil)
    )
    assert "<img src=x" not in made
    assert "onerror=alert(1)&gt;&quot;&#x27;&amp;" in made
    assert "75.0%" in made
    assert "50.0% (25.0 to 75.0) on 10 val images" in made
    assert "no such file" in made  # instead of the nearest image


def test_bad_arguments_are_refused_in_one_line(
    lora: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refused(*words: object) -> str:
        assert cli.main(["demo", *map(str, words)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        return err

    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in demo.PACKAGES else there(name)
    )
    assert "gradio, uvicorn not installed; pip install 'flowertune[demo]'" in refused(lora)
    monkeypatch.setattr(demo, "PACKAGES", ())
    assert "does not exist" in refused(tmp_path / "nothing")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"--port {port}: Address already in use" in refused(lora, "--port", port)
    assert "--port" in refused(lora, "--port", "0")
    assert "--port" in refused(lora, "--port", "65536")
    assert "--host" in refused(lora, "--host", "no such host")
    assert "--photos" in refused(lora, "--photos", "-1")

"""One's own folder of photos, with what real folders hold."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from flowertune.models.backbone import CONFIG_FILE, TINY, WEIGHT_FILES

COLORS = {"red tulip": (200, 30, 40), "Veilchen": (90, 40, 160), "ひまわり": (240, 200, 30)}
WORDS = ("train", "backbone=tiny", "data=folder", "trainer.epochs=2", "trainer.batch_size=8")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of ten pictures in one level, one of them a link."""
    root = tmp_path / "my photos"
    for name, color in COLORS.items():
        folder = root / name
        folder.mkdir(parents=True)
        for number in range(10):
            image = Image.new("RGB", (90 + 7 * number, 120), (60, 120 + 5 * number, 60))
            ImageDraw.Draw(image).ellipse((20, 20, 70, 80 + 3 * number), fill=color)
            image.save(folder / f"{number}.jpg")
    moved = tmp_path / "elsewhere"
    (root / "Veilchen").rename(moved)
    (root / "Veilchen").symlink_to(moved, target_is_directory=True)
    return root


def test_three_lines_train_on_ones_own_folder(
    photos: Path, flowertune: Any, tmp_path: Path
) -> None:
    process = flowertune(*WORDS, "data.root=my photos", "run.name=mine", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    results = json.loads((tmp_path / "runs/mine/results.json").read_text())
    assert {name: split["n"] for name, split in results["splits"].items()} == {
        "train": 18,
        "val": 6,
        "test": 6,
    }
    chosen = (tmp_path / "runs/mine/photos.csv").read_text()
    assert chosen.count("\n") == 31
    assert "ひまわり/" in chosen


def test_a_finished_run_does_not_speak_for_photos_that_changed(
    photos: Path, flowertune: Any, tmp_path: Path
) -> None:
    words = (*WORDS, "data.root=my photos")
    assert flowertune(*words, cwd=tmp_path).returncode == 0
    again = flowertune(*words, cwd=tmp_path)
    assert again.returncode == 0
    assert "already finished" in again.stdout

    one = next((photos / "red tulip").iterdir())
    as_it_was = one.read_bytes()
    one.write_bytes(as_it_was)  # touched, and the same
    assert flowertune(*words, cwd=tmp_path).returncode == 0
    one.unlink()
    one.symlink_to(tmp_path / "nowhere.jpg")
    broken = flowertune(*words, cwd=tmp_path)
    one.unlink()
    one.write_bytes(as_it_was)

    # two classes change places, and no file's time tells
    for old, new in (("red tulip", "between"), ("ひまわり", "red tulip"), ("between", "ひまわり")):
        (photos / old).rename(photos / new)
    exchanged = flowertune(*words, cwd=tmp_path)
    assert f"(red tulip/{one.name})" in broken.stderr
    for changed in (broken, exchanged):
        assert changed.returncode == 2
        assert "images were added, removed or changed since" in changed.stderr


def test_a_finished_run_does_not_speak_for_other_weights(
    photos: Path, flowertune: Any, tmp_path: Path
) -> None:
    shutil.copytree(TINY, tmp_path / "clip")
    words = (*WORDS, "data.root=my photos", "backbone=local", "backbone.path=clip")
    assert flowertune(*words, cwd=tmp_path).returncode == 0
    assert flowertune(*words, cwd=tmp_path).returncode == 0
    weights = tmp_path / "clip" / WEIGHT_FILES[0]
    tensors = load_file(weights)
    save_file({**tensors, "visual.proj": -tensors["visual.proj"]}, weights)
    changed = flowertune(*words, cwd=tmp_path)
    assert changed.returncode == 2
    assert "the backbone has changed since (weights_sha256)" in changed.stderr
    save_file(tensors, weights)
    settings = json.loads((tmp_path / "clip" / CONFIG_FILE).read_text())
    settings["preprocess_cfg"]["mean"] = [0.0, 0.0, 0.0]
    (tmp_path / "clip" / CONFIG_FILE).write_text(json.dumps(settings))
    other = flowertune(*words, cwd=tmp_path)
    assert "the backbone has changed since (preprocessing)" in other.stderr


def test_trainval_without_test_photos_is_refused(
    photos: Path, flowertune: Any, tmp_path: Path
) -> None:
    for split in ("train", "val"):
        (tmp_path / "two" / split).mkdir(parents=True)
        for name in COLORS:
            (tmp_path / "two" / split / name).symlink_to(photos / name, target_is_directory=True)
    words = ("data.root=two", "data.protocol=trainval", "baselines=false")
    process = flowertune(*WORDS, *words, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1, process.stderr
    assert "two has no test images" in process.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("bad_files", ["stop", "skip"])
def test_what_is_no_photo_is_named(
    bad_files: str, photos: Path, flowertune: Any, tmp_path: Path
) -> None:
    (photos / "red tulip" / "notes.png").write_text("not a photo")
    (photos / "ひまわり" / "torn.jpg").write_bytes((photos / "ひまわり/1.jpg").read_bytes()[:400])
    (photos / "red tulip" / ".DS_Store").write_bytes(b"ignored")
    process = flowertune(
        *WORDS, "data.root=my photos", "run.name=r", f"data.bad_files={bad_files}", cwd=tmp_path
    )
    named = process.stderr if bad_files == "stop" else process.stdout
    assert "red tulip/notes.png" in named
    assert "ひまわり/torn.jpg" in named
    assert "DS_Store" not in process.stdout + process.stderr
    if bad_files == "stop":
        assert process.returncode == 2
        assert not (tmp_path / "runs").exists()
    else:
        assert process.returncode == 0, process.stderr
        environment = json.loads((tmp_path / "runs/r/environment.json").read_text())
        assert len(environment["left_out"]) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "empty"),
        ("one photo", "lonely"),
        ("a file", "a file"),
        ("nowhere", "does not exist"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(
    name: str, message: str, flowertune: Any, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").write_text("x")
    for folder, count in (("lonely", 1), ("fine", 5)):
        (tmp_path / "one photo" / folder).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / "one photo" / folder / f"{number}.png")
    process = flowertune(*WORDS, f"data.root={name}", cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1, process.stderr
    assert message in process.stderr
    assert not (tmp_path / "runs").exists()

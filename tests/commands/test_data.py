"""`flowertune data`: output and exit codes."""

import io
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowertune import cli
from flowertune.commands import train
from flowertune.data.cache import store
from flowertune.data.cache.listing import list_entries
from flowertune.runtime import memory
from flowertune.training import setup

SMALL = (
    "experiment=quickstart", "data.train_per_class=2", "data.val_per_class=1",
    "data.test_per_class=1",
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FLOWERTUNE_CACHE", str(folder))
    monkeypatch.setenv("COLUMNS", "80")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with 10 different images each."""
    rng = np.random.default_rng(0)
    for name in ("daisy", "rose"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            cells = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            image = Image.fromarray(cells).resize((48, 36))
            image.save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


class BegunError(Exception):
    """Raised where a training would start."""


@pytest.mark.parametrize("method", ["mixup", "linear_probe"])
def test_a_training_uses_the_prepared_cache(
    method: str, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With and without pixels for augmentation."""
    words = (*SMALL, f"method={method}")
    assert cli.main(["data", "prepare", *words]) == 0
    first = capsys.readouterr().out
    stores = [each for each in list_entries(cache) if each.kind == "images"]
    assert len(stores) == 3
    for entry in stores:
        assert f"\n  {entry.paths[0]}\n" in first
    assert "train: 40 images, " in first
    assert first.count("decoded now") == 3

    def decode(*_: object) -> None:
        pytest.fail("photos are decoded once more")

    def begin(*_: object) -> None:
        raise BegunError

    monkeypatch.setattr(store, "build_store", decode)
    for each in list_entries(cache):
        os.utime(each.paths[0], (1000, 1000))
    assert cli.main(["data", "prepare", *words]) == 0
    assert capsys.readouterr().out.count("already in the cache") == 3
    assert min(each.last_used for each in list_entries(cache)) > 1000  # the synthetic flowers too

    monkeypatch.setattr(train, "open_run", begin)  # all photos are there by then
    monkeypatch.setattr(setup, "make_deterministic", lambda *_: None)
    monkeypatch.setattr(memory, "keep_freed", lambda: True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BegunError):
        cli.main(["train", *words])


def test_findings_are_printed_and_exit_with_1(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "check", "data=folder", f"data.root={photos}", "data.shots=1"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out.endswith("\nno problems found\n")

    same = (photos / "daisy" / "0.png").read_bytes()
    (photos / "daisy" / "evil\n\x1b[2Jname.png").write_bytes(same)
    (photos / "rose" / "empty.png").touch()
    assert cli.main(words) == 1
    lines = capsys.readouterr().out.split("\n")
    assert any(line.strip(" =").startswith(r"daisy/evil\n\x1b[2Jname.png") for line in lines)
    assert "Unreadable images: 1" in lines
    assert "  rose/empty.png: empty file" in lines
    assert "no problems found" not in lines


def test_stdout_has_only_json(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("daisy", "rose"):
        copy = (photos / "daisy" / "0.png").read_bytes()
        (photos / name / "new\nline.jpg").write_bytes(copy)
    assert cli.main(["data", "check", "--json", "data=folder", f"data.root={photos}"]) == 1
    printed = capsys.readouterr()
    read = json.loads(printed.out)
    assert read["classes"] == 2
    assert read["findings"] == 3
    (group,) = read["two_classes"]
    assert group["identical"]
    assert {(photo["name"], photo["class_name"]) for photo in group["photos"]} == {
        ("daisy/0.png", "daisy"), ("daisy/new\nline.jpg", "daisy"), ("rose/new\nline.jpg", "rose"),
    }  # fmt: skip
    assert [each["format"] for each in read["endings"]] == ["PNG", "PNG"]
    assert "decoding images (22)" in printed.err


def test_a_missing_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", "data=folder", f"data.root={tmp_path / 'no'}"]) == 2
    error = capsys.readouterr().err
    assert error == f"flowertune data check: data.root: {tmp_path / 'no'} does not exist\n"
    assert cli.main(["data", "check", "-m", "data=folder", "data.root=a,b"]) == 2


@pytest.fixture
def filled(cache: Path) -> Path:
    """Cached features from 100 days ago, 10 days ago, and now."""
    for number, days in enumerate((0, 10, 100)):
        path = cache / "features" / f"{number:032x}"
        path.mkdir(parents=True)
        (path / "features.safetensors").write_bytes(bytes(1_500_000))
        moment = time.time() - days * 86_400 - 60
        os.utime(path, (moment, moment))
    return cache


def test_the_cache_is_listed_least_recently_used_first(
    filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "cache", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines[:-1])
    rows = [line.split() for line in lines if line.startswith("features")]
    assert [row[-3:] for row in rows] == [
        ["100", "days", "ago"], ["10", "days", "ago"], ["a", "day", "ago"],
    ]  # fmt: skip
    assert lines[-1] == f"3 entries, 4.5 MB in {filled}"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("words", "answer", "exit_code", "left"),
    [
        (["--yes"], None, 0, 0),
        (["--older-than", "30", "--yes"], None, 0, 2),
        (["--older-than=9.5", "--yes"], None, 0, 1),
        (["--older-than", "1000"], None, 0, 3),
        ([], None, 2, 3),
        ([], "y\n", 0, 0),
        ([], "n\n", 0, 3),
        ([], "\n", 0, 3),
        ([], "", 0, 3),
        (["--older-than", "soon", "--yes"], None, 2, 3),
        (["--older-than", "-1", "--yes"], None, 2, 3),
        (["--yse"], None, 2, 3),
        (["--y"], None, 2, 3),
        (["data=folder", "--yes"], None, 2, 3),
    ],
)
def test_nothing_is_deleted_without_consent(
    words: list[str], answer: str | None, exit_code: int, left: int, filled: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """`answer` is typed on a terminal; None without a terminal."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n") if answer is None else Terminal(answer))
    assert cli.main(["data", "cache", "clear", *words]) == exit_code
    assert len(list_entries(filled)) == left
    printed = capsys.readouterr()
    if exit_code == 2:
        assert printed.err.startswith("flowertune data cache clear: ")
        assert printed.err.count("\n") == 1
    if answer is not None:
        assert "3 entries, 4.5 MB in" in printed.out  # what the question is about


def test_entries_that_cannot_be_deleted_are_listed_and_exit_with_1(
    filled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rename = Path.rename

    def refuse_the_second(path: Path, target: Path) -> None:
        if path.stem.endswith("1"):
            raise PermissionError(13, "Permission denied")
        rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse_the_second)
    assert cli.main(["data", "cache", "clear", "--yes"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "not deleted: features, damaged: cannot be deleted: Permission denied",
        "deleted: 2 entries, 3.0 MB",
    ]

"""`data check` on a folder with faults of all kinds at once."""

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowertune import cli

Photo = Callable[[int], Image.Image]


def check(capsys: Any, *words: str) -> tuple[int, dict[str, Any]]:
    code = cli.main(["data", "check", "--json", *words])
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return code, found


@pytest.mark.skipif(sys.platform != "linux", reason="other systems forbid such names")
def test_every_fault_is_listed_in_one_pass(tmp_path: Path, photo: Photo, capsys: Any) -> None:
    root = tmp_path / "set"

    def write(name: str, seed: int, kind: str = "JPEG") -> Path:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        photo(seed).save(root / name, kind)
        return root / name

    for number in range(60):
        write(f"train/ash/{number}.jpg", number)
    for number in range(6):
        write(f"train/elm/{number}.jpg", 100 + number)
    write("train/Rosé/0.jpg", 200)
    write("train/" + unicodedata.normalize("NFD", "rosé") + "/1.jpg", 201)
    (root / "train/empty").mkdir()
    for number in range(3):
        write(f"val/ash/{number}.jpg", 300 + number)
        write(f"val/oak/{number}.jpg", 310 + number)
    write("test/ASH/0.jpg", 400)
    write("rose/0.jpg", 500)  # a class folder beside the split folders
    (root / "train/ivy").symlink_to(root / "nowhere")
    open(os.fsencode(root) + b"/train/elm/\xe9.jpg", "w").close()
    (root / "train/elm/torn.jpg").write_bytes((root / "train/elm/0.jpg").read_bytes()[:200])
    (root / "train/elm/IMG.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (root / "train/elm/IMG.MOV").write_bytes(b"video")
    shutil.copy(root / "train/ash/0.jpg", root / "train/elm/label.jpg")
    shutil.copy(root / "train/ash/1.jpg", root / "val/ash/split.jpg")
    shutil.copy(root / "train/ash/2.jpg", root / "train/ash/twice.jpg")
    write("train/ash/name.jpg", 77, "PNG")
    (root / "$RECYCLE.BIN").mkdir()
    scan = np.asarray(photo(600).convert("L"), np.uint16) * 16  # 12 bits in 16
    Image.fromarray(scan).save(root / "train/elm/scan.png")

    code, found = check(capsys, "data=folder", f"data.root={root}")
    assert code == 1
    layout = "\n".join(found["layout"])
    for expected in ("but also rose/", "broken link ivy", "not valid UTF-8"):
        assert expected in layout
    assert found["twins"] == [["Rosé", "rosé"]]
    notes = "\n".join(found["notes"])
    for expected in (
        "left out of val: oak (3), which train lacks",
        "no val images of Rosé/, elm/, rosé/",
        "left out empty/: no images",
        "left out files that are not images: .mov 1",
    ):
        assert expected in notes
    assert {Path(each["name"]).name for each in found["unreadable"]} == {"torn.jpg", "IMG.HEIC"}
    assert len(found["two_classes"]) == len(found["two_splits"]) == len(found["repeated"]) == 1
    assert {each["class_name"] for each in found["few"] if each["split"] == "train"} == {
        "Rosé", "rosé",
    }  # fmt: skip
    assert [each["class_name"] for each in found["uneven"]] == ["Rosé", "ash"]
    assert [each["format"] for each in found["endings"]] == ["PNG"]
    assert [each["name"] for each in found["dark"]] == ["train/elm/scan.png"]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"a/0.jpg": 1}, "only one class"),
        ({"a.jpg": 1}, "no class folders"),
        ({"a/0.jpg": 1, "b/0.jpg": 2}, "a (1), b (1); every class needs at least 3"),
        ({"val/a/0.jpg": 1, "val/b/0.jpg": 2}, "has val/ but no train/"),
        ({"train/a/0.jpg": 1, "train/b/0.jpg": 2, "val/c/0.jpg": 3}, "has none of the classes"),
    ],
)
def test_what_training_refuses_is_a_finding(
    made: dict[str, int], expected: str, tmp_path: Path, photo: Photo, capsys: Any
) -> None:
    for name, seed in made.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        photo(seed).save(tmp_path / name)
    code, found = check(capsys, "data=folder", f"data.root={tmp_path}")
    assert code == 1
    assert expected in "\n".join(found["layout"])


def test_unusable_rows_of_a_table_are_findings(tmp_path: Path, photo: Photo, capsys: Any) -> None:
    rows = [f"{n}.jpg,{'ash' if n % 2 else 'elm'}" for n in range(12)]
    for number in range(10):  # two files are missing
        photo(number).save(tmp_path / f"{number}.jpg")
    (tmp_path / "l.csv").write_text("\n".join(["image,label", *rows, "9.jpg,elm"]))
    code, found = check(capsys, "data=table", f"data.path={tmp_path / 'l.csv'}")
    assert code == 1
    (problem,) = found["layout"]
    assert "3 of 13 rows cannot be used" in problem
    assert "no such file" in problem
    assert ": rows 12-13" in problem
    assert "row 11: row 14" in problem

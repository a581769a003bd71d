"""`flowertune evaluate`: on the images of the run and on other datasets."""

import csv
import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flowertune import cli

pytestmark = pytest.mark.usefixtures("quiet_commands")


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`evaluate(run, words...)`: the JSON on stdout."""

    def evaluate(run: Path, *words: str) -> Any:
        capsys.readouterr()
        exit_code = cli.main(["evaluate", str(run), *words, "--json"])
        printed = capsys.readouterr()
        assert exit_code == 0, printed.err
        return json.loads(printed.out)

    return evaluate


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_every_kind_of_model_reproduces_its_results_bit_for_bit(
    kind: str, run_of: Callable[[str], Path], evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    run, file = run_of(kind), tmp_path / "answers.csv"
    own = json.loads((run / "results.json").read_text())
    measured = evaluate(run, "split=all", "--output", str(file))
    assert measured["splits"].keys() == own["splits"].keys()
    for split, metrics in own["splits"].items():
        assert metrics.items() <= measured["splits"][split].items()
        assert measured["splits"][split]["unknown"] == {}
    assert measured["data_fingerprint"] == own["data_fingerprint"]
    tables = [(run / f"predictions-{split}.csv").read_bytes() for split in own["splits"]]
    without_header = [table.partition(b"\n")[2] for table in tables]
    assert file.read_bytes() == tables[0] + b"".join(without_header[1:])


def test_the_default_is_the_test_split(lora: Path, evaluate: Callable[..., Any]) -> None:
    assert evaluate(lora)["splits"].keys() == {"test"}
    assert evaluate(lora)["splits"]["test"]["trained_on"] == 0
    train = evaluate(lora, "split=train")["splits"]["train"]
    assert train["trained_on"] == train["n"] == 40


def test_classes_are_matched_by_name_and_unknown_ones_counted_separately(
    lora: Path, drawn: Path, evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    """The metrics equal counts over the rows of known classes."""
    known = sorted(path.name for path in (drawn / "test").iterdir())
    for name in known[3:6]:
        shutil.copytree(drawn / "test" / name, tmp_path / "photos" / name)
    trained = next((drawn / "train" / known[3]).iterdir())
    shutil.copy(trained, tmp_path / "photos" / known[3] / "seen.png")
    (tmp_path / "photos/Ärzte").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photos/Ärzte/1.png")
    file = tmp_path / "answers.csv"
    words = ("data=folder", f"data.root={tmp_path / 'photos'}", "--output", str(file))
    measured = evaluate(lora, *words)["splits"]["all"]
    assert measured["unknown"] == {"Ärzte": 1}
    assert set(measured["missing"]) == set(known) - set(known[3:6])
    assert measured["trained_on"] == 1
    found = rows(file)
    assert {row["label"] for row in found} == {*known[3:6], "Ärzte"}
    assert len(found) == 3 * 2 + 2
    counted = [row for row in found if row["label"] != "Ärzte"]
    assert measured["n"] == len(counted) == 7
    hits = sum(row["label"] == row["prediction"] for row in counted)
    assert measured["top1"] == hits / 7
    assert {row["prediction"] for row in found} <= set(known)
    its_own = {row["path"].split("/", 1)[1]: row for row in rows(lora / "predictions-test.csv")}
    seen = f"{known[3]}/seen.png"
    for row in counted:
        if row["path"] != seen:
            assert row["prediction"] == its_own[row["path"]]["prediction"]


def test_class_names_match_in_any_unicode_form(
    lora: Path, drawn: Path, evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(lora, tmp_path / "run"))
    described = json.loads((run / "adapter/model.json").read_text())
    first = described["classes"][0]
    described["classes"][0] = unicodedata.normalize("NFC", "Gänseblümchen")
    (run / "adapter/model.json").write_text(json.dumps(described))
    apart = unicodedata.normalize("NFD", "Gänseblümchen")
    shutil.copytree(drawn / "test" / first, tmp_path / "photos/test" / apart)
    words = ("data=folder", f"data.root={tmp_path / 'photos'}")
    measured = evaluate(run, *words)["splits"]["test"]  # test/ alone is fine, with one class
    assert (measured["n"], measured["unknown"]) == (2, {})
    assert measured["per_class"][0] is not None
    assert evaluate(run, *words, "split=test")["splits"] == {"test": measured}


def test_the_output_lists_missing_and_unknown_classes(
    lora: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    known = sorted(path.name for path in (drawn / "val").iterdir())
    for name in known[1:]:
        shutil.copytree(drawn / "val" / name, tmp_path / name)
    shutil.copytree(drawn / "test" / known[0], tmp_path / "other")
    assert cli.main(["evaluate", str(lora), "data=folder", f"data.root={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert "all 19" in text
    assert f"all: no images of {known[0]}\n" in text
    assert "all: 2 images left out; classes unknown to the run: other (2)" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["split=tets"], "split=tets: must be one of train, val, test, all"),
        (
            ["model.rank=4"],
            "model.rank=4: cannot be changed for a trained model; allowed: split",
        ),
        (["."], ".: expected data=folder data.root=."),
        (["method=vpt"], "method=vpt: cannot be changed for a trained model"),
        (["data=folder"], "data.root: missing"),
        (["data=folder", "data.root=nowhere"], "nowhere does not exist"),
        (["data.rot=x"], "data.rot: unknown key"),
        (["trainer.eval_batch_size=0"], "trainer.eval_batch_size=0: must be at least 1"),
        (["--output", "nowhere/a.csv"], "nowhere does not exist"),
        (["--output", "/"], "--output /: is a folder; give a file name"),
        (["--jsn"], "unrecognized arguments: --jsn"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    words: list[str], message: str, lora: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert cli.main(["evaluate", str(lora), *words]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_missing_splits_and_unknown_classes_are_refused(
    run_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of("full")  # of trainval
    assert cli.main(["evaluate", str(run), "split=val"]) == 2
    assert "split=val: not in this dataset; available: train, test" in capsys.readouterr().err
    (tmp_path / "stones").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "stones/1.png")
    assert cli.main(["evaluate", str(run), "data=folder", f"data.root={tmp_path}"]) == 2
    assert "none of its classes (stones) are" in capsys.readouterr().err

"""The page of one run shows its numbers, and says what is missing."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flowertune import cli
from flowertune.runs import directory

LeaveRun = Callable[..., Path]
FLOWERS102 = ("method=mixup", "data=flowers102", "backbone=vit_b32_openai")


class Read(HTMLParser):
    """Parse tables by caption, sections by id, figures by alternative text, images and tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.sections: list[str] = []
        self.figures: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self._rows: list[list[str]] = []
        self._caption = ""
        self._in = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self._in = tag if tag in ("th", "td", "caption") else ""
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
        elif tag == "section":
            self.sections.append(str(values["id"]))
        elif tag == "img":
            self.pictures.append(values)
        elif values.get("role") == "img":
            self.figures.append(str(values["aria-label"]))

    def handle_data(self, data: str) -> None:
        if self._in == "caption":
            self._caption += data
        elif self._in:
            self._rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in = ""
        if tag == "table":
            self.tables[self._caption] = self._rows


def page_of(run: Path) -> Read:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph missing in the fonts here must not warn
        assert cli.main(["report", str(run)]) == 0
    return Read((run / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(leave_run: LeaveRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return leave_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(run: Path) -> Read:
    return page_of(run)


def test_it_shows_the_results_of_the_run_and_its_probe(run: Path, page: Read) -> None:
    results = json.loads((run / "results.json").read_text())
    header, probe, method = page.tables["test, 30 images; accuracies in %"]
    assert header[1:3] == ["top-1", "95% interval"]
    assert (probe[0], method[0]) == ("linear probe", "triplet")
    top1 = results["splits"]["test"]["top1"]
    assert 0.3 < top1 < 1
    assert method[1] == f"{100 * top1:.2f}"
    measured = results["baselines"]["linear_probe"]["splits"]["test"]
    assert probe[1] == f"{100 * measured['top1']:.2f}"
    assert page.tables["val, 30 images; accuracies in %"][2][0] == "triplet"


def test_its_tables_of_classes_and_confusions_are_counted_from_the_predictions(
    run: Path, page: Read
) -> None:
    results = json.loads((run / "results.json").read_text())
    _, *classes = page.tables["lowest accuracy first"]
    shares = [float(row[1]) for row in classes]
    assert shares == sorted(shares)
    per_class = results["splits"]["test"]["per_class"]
    assert shares == pytest.approx(sorted(100 * each for each in per_class), abs=0.01)
    _, *pairs = page.tables["most frequent confusions"]
    counts = [int(row[2].split()[0]) for row in pairs]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == 30 - round(30 * results["splits"]["test"]["top1"])


def test_its_curves_are_those_of_the_run_with_separate_loss_terms(page: Read) -> None:
    # by hand: 4 / step, the mean of steps 1 to 4 and 9 to 12
    assert any(
        text.startswith("Train loss from 2.083 to 0.3854, val loss from 2 to 0.6667")
        for text in page.figures
    )
    assert any("ce from 3 to 0.25; triplet from 1 to 0.08333" in text for text in page.figures)


def test_calibration_has_fifteen_bins(run: Path, page: Read) -> None:
    (said,) = (text for text in page.figures if "confidence " in text)
    bands = re.findall(r"confidence (\d+), accuracy (\d+), (\d+) images", said)
    assert sum(int(photos) for _, _, photos in bands) == 30
    error = sum(int(n) * abs(int(sure) - int(right)) for sure, right, n in bands) / 30
    ece = json.loads((run / "results.json").read_text())["splits"]["test"]["ece"]
    assert error == pytest.approx(100 * ece, abs=1)  # bins are in whole percent


def test_names_never_become_markup_and_each_image_has_a_text(page: Read) -> None:
    assert "script" not in page.tags
    assert page.pictures
    for picture in page.pictures:
        assert str(picture["src"]).startswith("data:image/jpeg;base64,")
        assert picture["alt"]
    assert "a$b$ & \"c\" 'd'" in [row[0] for row in page.tables["lowest accuracy first"]]


def test_each_figure_is_also_a_file(run: Path, page: Read) -> None:
    files = {path.name for path in (run / "figures").iterdir()}
    names = {"loss", "accuracy", "loss_terms", "learning_rate", "confusion", "per_class",
             "calibration", "embeddings"}  # fmt: skip
    assert files == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert len(page.figures) == len(names)


def test_with_output_it_writes_elsewhere_and_leaves_the_run_unchanged(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("report.html", "figures"))
    before = sorted(copy.rglob("*"))
    assert cli.main(["report", str(copy), "--output", str(tmp_path / "page.html")]) == 0
    assert sorted(copy.rglob("*")) == before
    assert (tmp_path / "page.html").read_text().count("<svg") == 8
    (copy / "figures").write_text("in the way")
    assert cli.main(["report", str(copy)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        f"{copy}: cannot be written (File exists); choose another place with --output FILE" in line
    )


def test_the_reference_is_shown_only_for_the_same_method_and_dataset(
    leave_run: LeaveRun, tmp_path: Path, page: Read
) -> None:
    assert "reference" not in str(page.tables)
    other = page_of(leave_run(tmp_path, *FLOWERS102, keeps=False, epochs=0))
    assert other.tables["test, 30 images; accuracies in %"][-1][:2] == ["reference", "91.09"]


def test_a_run_without_epochs_or_report_data_has_a_shorter_page(
    leave_run: LeaveRun, tmp_path: Path
) -> None:
    run = leave_run(tmp_path, splits=("train", "val"), keeps=False, epochs=0)
    page = page_of(run)
    assert page.sections == [
        "result", "photos", "confusion", "classes", "calibration", "settings",
    ]  # fmt: skip
    assert "the run saved no images" in (run / "report.html").read_text()
    assert not page.pictures


def test_a_run_without_errors_shows_none(leave_run: LeaveRun, tmp_path: Path) -> None:
    page = page_of(leave_run(tmp_path, noise=0.0))
    assert "mistakes" not in page.sections
    assert "unsure" in page.sections


def test_a_damaged_file_is_named(
    leave_run: LeaveRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = leave_run(tmp_path)
    for name, damages in (
        ("metrics.jsonl", ['{"ha', "", "[1]\n", "null\n", '{"split": "train", "step": 1}\n']),
        ("predictions-test.csv", ['{"ha', "", "path,label,prediction\n"]),
        ("config.yaml", ["["]),
        ("results.json", ['{"ha', "[]"]),
    ):
        whole = (run / name).read_bytes()
        for damage in damages:
            (run / name).write_text(damage)
            assert cli.main(["report", str(run)]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert f"{name} is missing or damaged" in line
        (run / name).write_bytes(whole)
    assert not (run / "report.html").exists()


def test_with_damaged_report_data_it_has_no_images_and_says_so(
    leave_run: LeaveRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = leave_run(tmp_path)
    (run / "report" / "photos.json").write_bytes(b'{"ha')
    page = page_of(run)
    assert not page.pictures
    assert {"photos", "confusion"} < set(page.sections) - {"mistakes", "map"}
    said, place = capsys.readouterr().out.splitlines()
    assert (
        said == f"{run / 'report'}: photos.json is damaged; the report omits images and embeddings"
    )
    assert place == str(run / "report.html")
    assert said in (run / "report.html").read_text()


def test_an_unfinished_run_is_refused(
    leave_run: LeaveRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = leave_run(tmp_path)
    directory.Run(run).write_status("interrupted", "interrupted by SIGTERM")
    assert cli.main(["report", str(run)]) == 2
    assert "is not a finished run (interrupted)" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path)]) == 2

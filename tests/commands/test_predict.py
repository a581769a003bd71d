"""`flowertune predict`: predictions on stdout, everything else on stderr."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flowertune import cli
from flowertune.commands import predict as command
from flowertune.commands.arguments import make_parser
from flowertune.commands.registry import COMMANDS
from flowertune.data.cache.decode import _available_cores

pytestmark = pytest.mark.usefixtures("quiet_commands")

Predict = Callable[..., tuple[int, str, str]]


@pytest.fixture
def predict(capsys: pytest.CaptureFixture[str]) -> Predict:
    """`predict(words...)`: exit code, stdout, stderr."""

    def predict(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        exit_code = cli.main(["predict", *map(str, words)])
        printed = capsys.readouterr()
        return exit_code, printed.out, printed.err

    return predict


@pytest.fixture
def odd(drawn: Path, tmp_path: Path) -> Path:
    """Folder of images with names that are hard for lines, tables and terminals."""
    folder = tmp_path / "odd"
    first, second, *_ = sorted((drawn / "test").rglob("*.png"))
    for name in ('rosa, "x".png', "deep/two\nlines\x1b[1m.png", "deep/花.png", "-v.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(first, folder / name)
    shutil.copy(second, folder / "deep/.hidden.png")
    (folder / "deep/round").symlink_to(folder)
    return folder


NAMES = ["-v.png", 'rosa, "x".png', "deep/two\nlines\x1b[1m.png", "deep/花.png"]


def test_predictions_equal_those_of_the_run(lora: Path, drawn: Path, predict: Predict) -> None:
    exit_code, out, err = predict(lora, drawn / "test", "--top-k", "5", "--format", "csv")
    assert (exit_code, err) == (0, "")
    answers = list(csv.DictReader(io.StringIO(out)))
    with (lora / "predictions-test.csv").open(encoding="utf-8", newline="") as file:
        own = {str(drawn / row.pop("path")): row for row in csv.DictReader(file)}
    assert [answer["path"] for answer in answers] == sorted(own)
    for answer in answers:
        expected = own[answer.pop("path")]
        del expected["label"]
        assert answer.keys() == expected.keys()
        for key, value in answer.items():
            if key.startswith("probability"):
                assert float(value) == pytest.approx(float(expected[key]), abs=2e-6)
            else:
                assert value == expected[key]


def test_every_format_handles_any_file_name(lora: Path, odd: Path, predict: Predict) -> None:
    exit_code, out, err = predict(lora, odd, "--format", "json")
    assert (exit_code, err) == (0, "")
    objects = [json.loads(line) for line in out.splitlines()]
    assert [each["path"] for each in objects] == [str(odd / name) for name in NAMES]
    for each in objects:
        assert len(each["predictions"]) == 3
        assert each["predictions"] == objects[0]["predictions"]
    exit_code, out, _ = predict(lora, odd, "--format", "csv", "--top-k", "1")
    assert exit_code == 0
    header, *lines = csv.reader(io.StringIO(out, newline=""))
    assert header == ["path", "prediction", "probability"]
    best = objects[0]["predictions"][0]
    assert lines == [
        [str(odd / name), best["class"], f"{best['probability']:.6f}"] for name in NAMES
    ]
    exit_code, out, _ = predict(lora, odd)
    assert exit_code == 0
    header_line, *table = out.splitlines()
    assert header_line.split() == ["prediction", "second", "third", "image"]
    assert len({line.index(str(odd)) for line in table}) == 1  # straight columns
    assert header_line.index("image") == table[0].index(str(odd))
    assert table[2].endswith("two\\nlines\\x1b[1m.png")
    assert f"{best['class']} " in table[0]
    assert f"{100 * best['probability']:.2f}%" in table[0]


def test_unreadable_images_are_skipped_and_listed(lora: Path, odd: Path, predict: Predict) -> None:
    (odd / "notes\n.jpg").write_text("roses are red")
    (odd / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    exit_code, out, err = predict(lora, odd, "--format", "json")
    assert exit_code == 1
    assert len([json.loads(line) for line in out.splitlines()]) == len(NAMES)
    first, second, last = err.splitlines()
    assert first.startswith(f"skipped: {odd}/cut.jpg: ")
    assert second == f"skipped: {odd}/notes\\n.jpg: not an image"
    assert last == "2 of 6 files skipped"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
def test_names_are_read_from_stdin(
    end: str, lora: Path, odd: Path, predict: Predict, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    null = end == "\0"
    names = NAMES if null else [name for name in NAMES if "\n" not in name]
    (tmp_path / "names").write_bytes((end.join(names) + (end if null else "")).encode())
    monkeypatch.chdir(odd)
    monkeypatch.setattr(command, "READ_AT_ONCE", 7)  # names come in pieces
    with (tmp_path / "names").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        exit_code, out, _ = predict(lora, "-", *(["--null"] if null else []), "--format", "json")
    assert exit_code == 0
    assert [json.loads(line)["path"] for line in out.splitlines()] == names


def test_an_empty_stdin_gives_no_predictions(
    lora: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(os.devnull) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert predict(lora, "-", "--format", "csv", "--top-k", "1") == (
            0, "path,prediction,probability\n", ""
        )  # fmt: skip


def test_nul_separated_names_need_the_option(
    lora: Path, predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "names").write_bytes(b"a.png\0b.png\0")
    with (tmp_path / "names").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        exit_code, _, err = predict(lora, "-")
    assert (exit_code, err.count("\n")) == (2, 1)
    assert "add --null" in err
    monkeypatch.setattr(sys, "stdin", None)  # of a process that was started with it closed
    exit_code, out, err = predict(lora, "-")
    assert (exit_code, out) == (2, "")
    assert "stdin, which is closed" in err


def test_a_closed_pipe_stops_it(
    lora: Path, drawn: Path, predict: Predict, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    left = Left()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", left)
        with pytest.raises(BrokenPipeError):
            command.execute(
                make_parser(COMMANDS["predict"].arguments).parse_args(
                    [str(lora), str(drawn / "test"), "--format", "json"]
                )
            )
    assert len(left.getvalue().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.jpg"], "nowhere.jpg: no such file or directory"),
        ([".", "--top-k", "0"], "argument --top-k: 0: must be a whole number, 1 or more"),
        ([".", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
        ([".", "--device", "cuda", "--precision", "fp16"], "available: cpu"),
        (["empty"], "empty: contains no files"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(
    words: list[str], message: str, lora: Path, predict: Predict, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    exit_code, out, err = predict(lora, *words)
    assert (exit_code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_the_run_that_was_meant_is_named(
    lora: Path, drawn: Path, predict: Predict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mess").symlink_to(lora)
    image, results = next((drawn / "test").rglob("*.png")), lora / "results.json"
    for words, message in (
        ((image, lora), f"the run comes first: predict {lora} {image}"),
        ((image,), f"RUN is missing: predict RUN {image}"),
        ((lora,), f"IMAGE is missing: predict {lora} IMAGE"),
        ((results, image), f"{results}: is not a finished run; did you mean {lora}?"),
        (("mess", image), "mess: does not exist; did you mean runs/mess?"),
        (("runs", image), "runs: is not a finished run; finished runs in it: 1; give one, or"),
        (("runs/m*", image), "runs/m*: does not exist; the shell expands patterns only without"),
    ):
        exit_code, out, err = predict(*words)
        assert (exit_code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_an_interruption_keeps_the_printed_lines(lora: Path, drawn: Path, place: Path) -> None:
    photo = next((drawn / "test").rglob("*.png"))
    process = subprocess.Popen(
        [sys.executable, "-m", "flowertune", "predict", str(lora), "-", "--format", "csv"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "FLOWERTUNE_CACHE": str(place / "cache")},
    )  # fmt: skip
    patience = threading.Timer(100, process.kill)  # lines that do not come are no reason to wait
    patience.start()
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    # as many as are read ahead for a batch, and none that would begin another
    process.stdin.write(f"{photo}\n".encode() * (32 + 4 * _available_cores()))
    process.stdin.flush()
    lines = [process.stdout.readline() for _ in range(1 + 32)]  # a batch; now it waits for names
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    patience.cancel()
    lines += process.stdout.readlines()
    assert len(lines) == 1 + 32
    assert all(line.endswith(b"\n") and line.count(b",") == 6 for line in lines)
    assert process.stderr.read() == b"flowertune predict: interrupted by SIGINT\n"

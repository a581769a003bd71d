"""Console output during a run and at its end."""

import copy
import io
import json
import re
import signal
from typing import Any

import pytest
from rich.console import Console

from flowertune.report.console.run import ConsoleReporter
from flowertune.signals import install_handlers


def measured(n: int, top1: float, low: float, high: float, mean: float) -> dict[str, Any]:
    return {
        "n": n, "loss": 0.3, "top1": top1, "top1_interval": [low, high], "top5": 0.99,
        "mean_per_class": mean, "per_class": [mean], "ece": 0.02,
    }  # fmt: skip


RESULTS: dict[str, Any] = {
    "run": "first",
    "method": "mixup",
    "model": "lora",
    "head": "linear",
    "augmentation": "mixup",
    "backbone": "ViT-B-32",
    "tag": "laion2b_s34b_b79k",
    "protocol": "Flowers-102 official split: 1,020 train, 1,020 val, 6,149 test",
    "loss": "ce",
    "seed": 42,
    "device": "cpu",
    "precision": "fp32",
    "trainable_parameters": 87_849_216,
    "epochs_run": 12,
    "best_epoch": 7,
    "adapter_scale": 0.75,
    "seconds": 123.45,
    "images_per_second": 1234.5,
    "splits": {
        "train": measured(1020, 1.0, 0.99, 1.0, 1.0),
        "val": measured(1020, 0.91234, 0.9, 0.93, 0.92345),
        "test": measured(6149, 0.90123, 0.89, 0.91, 0.93456),
    },
    "baselines": {
        "zeroshot": {
            "trainable_parameters": 0,
            "splits": {
                "val": measured(1020, 0.66, 0.63, 0.69, 0.67),
                "test": measured(6149, 0.65, 0.64, 0.66, 0.68),
            },
        },
        "linear_probe": {
            "trainable_parameters": 52_326,
            "splits": {
                "train": measured(1020, 1.0, 0.99, 1.0, 1.0),
                "val": measured(1020, 0.94, 0.92, 0.95, 0.941),
                "test": measured(6149, 0.93, 0.925, 0.937, 0.942),
            },
        },
    },
    "notes": ["below the linear probe of the same backbone on test (93.00%)"],
}


def console(width: int = 80, terminal: bool = False) -> tuple[ConsoleReporter, io.StringIO]:
    out = io.StringIO()
    return (
        ConsoleReporter(
            Console(file=out, width=width, force_terminal=terminal, color_system=None,
                    highlight=False, soft_wrap=True)
        ),
        out,
    )  # fmt: skip


def table(results: dict[str, Any], width: int = 80) -> str:
    shown, out = console(width)
    shown.results(results, "runs/first")
    return out.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_truncates_no_number_and_names_the_protocol(width: int) -> None:
    text = table(RESULTS, width)
    assert "…" not in text
    assert "ViT-B-32 laion2b_s34b_b79k; Flowers-102 official split: 1,020 train" in text
    val, test = text.split("test  ")
    for part, rows in (
        (val, [("zero-shot", "66.00% [63.0, 69.0]", "67.00%", "0"),
               ("linear probe", "94.00% [92.0, 95.0]", "94.10%", "52,326"),
               ("mixup", "91.23% [90.0, 93.0]", "92.34%", "87,849,216")]),
        (test, [("zero-shot", "65.00% [64.0, 66.0]", "68.00%", "0"),
                ("linear probe", "93.00% [92.5, 93.7]", "94.20%", "52,326"),
                ("mixup", "90.12% [89.0, 91.0]", "93.46%", "87,849,216")]),
    ):  # fmt: skip
        found = [re.split(r"\s{2,}", line.strip()) for line in part.splitlines()]
        for row in rows:
            assert list(row) in found
    assert "1,020 images" in val
    assert "6,149 images" in test
    for word in (
        "model lora, head linear",
        "best epoch 7 of 12",
        "123.5 s",
        "images/s",
        "cpu fp32",
        "seed 42",
        "runs/first",
    ):
        assert word in text
    assert RESULTS["notes"][0] in text


def test_no_line_of_the_table_is_wider_than_a_narrow_terminal() -> None:
    lines = table(RESULTS, 60).splitlines()
    rule = next(number for number, line in enumerate(lines) if "─" in line)
    assert all(len(line) <= 60 for line in lines[rule - 2 : rule + 4])


def test_without_test_split_and_baselines_those_parts_are_absent() -> None:
    results = copy.deepcopy(RESULTS)
    del results["splits"]["test"]
    results["baselines"] = {"zeroshot": None, "linear_probe": None}
    results["notes"] = ["no zero-shot and no linear probe: baselines=false"]
    text = table(results)
    assert "6,149 images" not in text
    assert not re.search(r"^(zero-shot|linear probe) ", text, re.MULTILINE)
    assert re.search(r"^mixup +91\.23%", text, re.MULTILINE)
    assert results["notes"][0] in text


def test_brackets_and_colons_are_printed_as_they_are() -> None:
    odd = "/data/[bold]x[/bold]/[/]/:rose:/photos"
    results = {**RESULTS, "protocol": odd, "method": "[red]m", "notes": [odd], "tag": "[t]"}
    shown, out = console(200)
    shown.results(results, odd)
    shown.say(odd)
    shown.advance(odd, 0, 3)
    assert out.getvalue().count(odd) == 5
    assert "[red]m" in out.getvalue()
    assert "ViT-B-32 [t]; " in out.getvalue()
    shown, out = console(200, terminal=True)
    with shown.progress():
        shown.advance(odd, 1, 3)
    assert odd in out.getvalue()


def test_a_long_line_is_not_broken() -> None:
    path = "/a/" + "long/" * 40 + "name with spaces"
    shown, out = console(60)
    shown.say(path)
    assert out.getvalue() == path + "\n"


def test_without_val_nothing_claims_to_have_been_selected() -> None:
    results = copy.deepcopy(RESULTS) | {"best_epoch": None, "adapter_scale": None}
    del results["splits"]["val"]
    text = table(results)
    assert "last of 12 epochs, 123.5 s" in text
    assert "best" not in text
    assert not re.search("^val ", text, re.MULTILINE)
    shown, out = console()
    shown.epoch(3, 12, 0.25, None, is_best=True)
    assert out.getvalue() == "epoch  3/12  train loss 0.2500\n"


TERMS = {"step": 1, "epoch": 1, "split": "train", "lr": 1e-3, "loss": 0.25, "triplet": 0.125}


def run_two_epochs(shown: ConsoleReporter) -> None:
    with shown.progress():
        for done in (0, 5, 10):
            shown.advance("decoding", done, 10)
    with shown.training(12, 3, []):
        for epoch in (1, 2):
            for done in (1, 2, 3):
                shown.step(epoch, done, [TERMS])
            shown.epoch(epoch, 12, 1 / epoch, {"loss": 0.5, "top1": 0.4}, is_best=epoch == 1)


def test_without_a_terminal_there_is_one_line_per_epoch_and_no_control_character() -> None:
    shown, out = console()
    run_two_epochs(shown)
    shown.results(RESULTS, "runs/first")
    text = out.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert text.splitlines()[:3] == [
        "decoding (10)",
        "epoch  1/12  train loss 1.0000  val loss 0.5000  val top-1 40.00%  best so far",
        "epoch  2/12  train loss 0.5000  val loss 0.5000  val top-1 40.00%",
    ]


def test_on_a_terminal_the_view_is_live_and_the_lines_of_epochs_stay() -> None:
    shown, out = console(terminal=True)
    run_two_epochs(shown)
    text = out.getvalue()
    assert "\x1b[" in text  # it is redrawn
    assert re.search(r"epoch 2/12 .* step 6/36  .:..:.. left", text)
    assert text.count("train loss 1.0000  val loss") == 1
    assert text.rindex("epoch 2/12 ") < text.rindex("\x1b[2K")  # the view is removed at the end


def test_a_signal_is_announced_in_the_view_only(
    capfd: pytest.CaptureFixture[str],
) -> None:
    shown, out = console(terminal=True)
    with install_handlers() as stop, shown.training(12, 3, []) as say, stop.deferred(say):
        shown.step(1, 1, [TERMS])
        signal.raise_signal(signal.SIGINT)
        shown.say("saved")
    assert "press Ctrl-C again to stop now" in out.getvalue()
    assert capfd.readouterr() == ("", "")  # written past the view, it would move what is redrawn


def test_a_plain_console_has_no_live_view_on_a_terminal() -> None:
    shown, out = console(terminal=True)
    shown.mode = "plain"
    run_two_epochs(shown)
    assert "\x1b" not in out.getvalue()
    assert "epoch  2/12  train loss 0.5000" in out.getvalue()


def test_a_terminal_that_cannot_redraw_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    shown, out = console(terminal=True)
    run_two_epochs(shown)
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().startswith("decoding (10)\nepoch  1/12")


def run_whole(mode: str) -> None:
    shown = ConsoleReporter(mode=mode)
    shown.start("runs/first", method="mixup", backbone="tiny", tag="builtin", protocol="p", seed=42)
    shown.warn("left out: a.jpg")
    run_two_epochs(shown)
    shown.results(RESULTS, "runs/first")


def test_quiet_prints_warnings_and_the_path_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run_whole("quiet")
    assert capsys.readouterr() == ("runs/first\n", "left out: a.jpg\n")


def test_json_is_one_object_per_line_on_stdout_and_the_rest_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_whole("json")
    out, err = capsys.readouterr()
    start, first, second, result = map(json.loads, out.splitlines())
    assert start == {
        "event": "start", "run": "runs/first", "method": "mixup", "backbone": "tiny",
        "tag": "builtin", "protocol": "p", "seed": 42,
    }  # fmt: skip
    assert first == {
        "event": "epoch", "epoch": 1, "epochs": 12, "train_loss": 1.0,
        "val": {"loss": 0.5, "top1": 0.4}, "best": True,
    }  # fmt: skip
    assert second["best"] is False
    assert result == {"event": "result", "directory": "runs/first", **RESULTS}
    assert "left out: a.jpg" in err
    assert "linear probe" in err


def test_json_has_all_lines_if_stderr_is_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown, out = console(terminal=True)
    shown.mode = "json"
    run_two_epochs(shown)
    assert [json.loads(line)["epoch"] for line in capsys.readouterr().out.splitlines()] == [1, 2]
    assert "event" not in out.getvalue()


def test_the_terminal_is_restored_after_a_failure() -> None:
    shown, out = console(terminal=True)
    shown.say("before")
    with pytest.raises(TypeError), shown.progress():
        shown.advance("decoding", "odd", 10)  # type: ignore[arg-type]
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")  # the cursor
    shown.advance("again", 0, 10)
    assert "again (10)" in out.getvalue()

"""A training stopped by a signal saves, says so, and continues when it is started again."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest


def status(folder: Path) -> Any:
    return json.loads((folder / "runs/r/status.json").read_text())


@pytest.mark.faults
def test_asked_to_end_in_each_of_its_parts(
    live: Any, results: Any, whole: Any, tmp_path: Path
) -> None:
    words = ["method=vpt", "trainer.checkpoint_minutes=null"]
    exit_code, output = live(tmp_path, words, "decoding", 5, "SIGTERM")
    assert exit_code == 143
    assert output.endswith("flowertune train: interrupted by SIGTERM\n")
    assert not (tmp_path / "runs").exists()
    assert not list((tmp_path / "cache").rglob("*.building"))

    for kind, at, by, expected, where in (
        ("features", 2, "SIGINT", 130, None),
        ("step", 3, "SIGUSR1", 143, "epoch 1 of 3, step 3"),
        ("validation", 2, "SIGINT", 130, "epoch 1 of 3, before validation"),
        ("step", 3, "SIGTERM", 143, "epoch 2 of 3, step 3"),
    ):
        exit_code, output = live(tmp_path, words, kind, at, by)
        assert exit_code == expected, output
        assert status(tmp_path) == {"state": "interrupted", "why": f"interrupted by {by}"}
        if where is not None:
            assert f"saved in {where}; run the same command to continue" in output

    exit_code, output = live(tmp_path, words)
    assert exit_code == 0
    assert "continuing the training saved in epoch 2 of 3, step 3" in output
    assert results(tmp_path) == whole("vpt")
    assert status(tmp_path)["state"] == "finished"


def test_asked_to_end_while_nobody_reads_what_it_says_it_saves_and_goes_on(
    start: Any, live: Any, tmp_path: Path
) -> None:
    # `2>&1 | tee log`: the Ctrl-C that it gets has ended the tee as well
    words = ["method=lora", "trainer.checkpoint_minutes=null", "baselines=false"]
    process = start(tmp_path, *words)
    while "epoch" not in process.stdout.readline():
        pass
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) in (1, 130)  # 1: it could not say that it has saved
    assert status(tmp_path)["state"] == "interrupted"
    exit_code, output = live(tmp_path, words)
    assert exit_code == 0
    assert "continuing the training saved" in output

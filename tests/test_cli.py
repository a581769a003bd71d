"""The command line's surface: help, completion, and what is no command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowertune import cli


def flowertune(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "flowertune", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert f"  {name}" in text
        assert command.summary in text


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_groups_and_three_examples(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.count(f"  flowertune {command}") == 3
    for group in ("method", "backbone", "data", "augmentation", "trainer"):
        assert f"\n  {group} " in text
    assert "lora, mixup" in text


def test_help_names_a_commands_own_flags_and_no_sweep_where_there_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli.main(["bench", "--help"])
    text = capsys.readouterr().out
    assert "usage: flowertune bench [--json] [group=option ...]" in text
    assert "\n  --json " in text
    assert "\n  -m " not in text
    cli.main(["train", "--help"])
    text = capsys.readouterr().out
    assert "usage: flowertune train [-m] [group=option ...]" in text
    assert "--json" not in text


def test_help_loads_neither_torch_nor_hydra() -> None:
    code = (
        "import sys\nfrom flowertune import cli\ncli.main(['--help'])\ncli.main(['train', '-h'])\n"
        "cli.main(['bench', '-h'])\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'numpy', 'open_clip', 'rich'}\n"
        "sys.exit(', '.join(heavy & sys.modules.keys()) or 0)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "'trian' is not a command; did you mean train?"),
        (["method=lora"], "for example: flowertune train method=lora"),
        (["-m"], "the command comes first"),
        (["qqq"], "the commands are: train"),
    ],
)
def test_what_is_no_command_says_what_is(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err


def test_cfg_prints_the_whole_config_and_runs_nothing(tmp_path: Path) -> None:
    process = flowertune("train", "method=mixup", "--cfg", "job")
    assert process.returncode == 0, process.stderr
    assert "alpha: 0.2" in process.stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flowertune tr", {"train"}),
        ("flowertune ", set(cli.COMMANDS)),
        ("flowertune train method=mi", {"method=mixup"}),
        ("flowertune bench method=mi", {"method=mixup"}),
        ("flowertune bench --json method=mi", {"method=mixup"}),
        ("flowertune train method=mixup augmentation.al", {"augmentation.alpha="}),
        (
            "flowertune train backbone=vit_b32",
            {"backbone=vit_b32_openai", "backbone=vit_b32_laion2b"},
        ),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_completion_works_behind_the_command(line: str, expected: set[str], shell: str) -> None:
    process = flowertune("-sc", f"query={shell}", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert process.returncode == 0, process.stderr
    assert set(process.stdout.split()) == expected


def test_bash_itself_completes(tmp_path: Path) -> None:
    """Not only our answer to the query: the script that `-sc install=bash` prints, run by bash."""
    program = tmp_path / "flowertune"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flowertune "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(flowertune -sc install=bash | sed s/__main__.py/flowertune/)"\n'
        'COMP_LINE="flowertune train method=lo"; COMP_POINT=${#COMP_LINE}\n'
        "COMP_WORDS=(flowertune train method=lo); COMP_CWORD=2\n"
        'hydra_bash_completion; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    process = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert process.stdout.split() == ["method=lora"], process.stderr


def test_idle_threads_leave_the_cores_to_others_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert cli.main(["train", "method=mixupp"]) == 2
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    cli.main(["train", "method=mixupp"])
    assert os.environ["GOMP_SPINCOUNT"] == cli.SPIN_COUNT
    assert "did you mean mixup?" in capsys.readouterr().err

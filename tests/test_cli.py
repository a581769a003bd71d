"""The command line's surface: help, completion, and what is no command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowertune import cli
from flowertune.config.listing import list_keys


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
def test_the_help_of_a_command_fits_on_a_screen(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(f"Usage: flowertune {command}") for line in lines)
    assert any(line.startswith(f"  flowertune {command}") for line in lines)
    is_composed = bool(cli.COMMANDS[command].composes)
    assert ("Common settings:" in lines) == is_composed


def test_the_help_of_a_group_has_its_options_and_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help", "model"]) == 0
    text = capsys.readouterr().out
    assert "  model=lora " in text
    assert "  model.rank=8 " in text
    assert "(only lora, dora)" in text
    assert "trainer.epochs" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_help_of_methods_says_when_to_use_each_and_what_it_costs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["train", "method=lora", "--help", "method"]) == 0
    text = capsys.readouterr().out
    n_methods = text.count("  method=")
    assert n_methods == text.count(" When: ") == text.count(" Cost: ") == 14


def test_help_all_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--help-all"]) == 0
    text = capsys.readouterr().out
    for key in list_keys():
        assert key.name == "method" or f"  {key.name}={key.default}" in text


def test_help_of_an_unknown_group_names_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "--help", "epochs"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("flowertune train: --help epochs: unknown group; available: method, ")


def test_a_command_without_a_config_has_help_without_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["data", "cache", "clear", "--older-than", "3", "-h"]) == 0
    text = capsys.readouterr().out
    assert "Usage: flowertune data cache clear [OPTION ...]\n" in text
    assert "  flowertune data cache clear --older-than 30\n" in text
    assert "\n  --older-than DAYS " in text
    assert "group=option" not in text


@pytest.mark.parametrize(
    ("family", "others"), [("data", ()), ("data cache", ("data prepare", "data check"))]
)
def test_help_of_several_commands_lists_these(
    family: str, others: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*family.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert cli.main(family.split()) == 2
    assert capsys.readouterr().out == text
    for name, command in cli.COMMANDS.items():
        belongs = name.startswith(family) and name not in others
        assert (f"  {name} " in text) == (command.summary in text) == belongs


def test_help_names_a_commands_own_flags_and_no_sweep_where_there_is_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli.main(["bench", "--help"])
    text = capsys.readouterr().out
    assert "Usage: flowertune bench [OPTION ...] [group=option ...]" in text
    assert "\n  --json " in text
    assert "\n  -m " not in text
    cli.main(["train", "--help"])
    text = capsys.readouterr().out
    assert "Usage: flowertune train [-m] [group=option ...]" in text
    assert "\n  -m " in text
    assert "--json" not in text


def test_neither_help_nor_the_cache_nor_reports_load_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom flowertune import cli\ncli.main(['--help'])\ncli.main(['train', '-h'])\n"
        "cli.main(['bench', '-h'])\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'numpy', 'open_clip', 'rich'}\n"
        "loaded = heavy & sys.modules.keys()\n"
        "assert cli.main(['data', 'cache', 'list']) == 0\n"  # prints a table, of nothing here
        "loaded |= (heavy - {'numpy', 'rich'}) & sys.modules.keys()\n"
        "import flowertune.commands.report\n"
        "loaded |= {'torch', 'open_clip'} & sys.modules.keys()\n"
        "sys.exit(', '.join(loaded) or 0)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "FLOWERTUNE_CACHE": str(tmp_path)},
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "'trian' is not a command; did you mean train?"),
        (["compare", "runs/A"], "'compare' is not a command; did you mean report?"),
        (["test", "runs/A"], "'test' is not a command; did you mean evaluate?"),
        (["help", "train"], "'help' is not a command; did you mean flowertune --help?"),
        (["method=lora"], "for example: flowertune train method=lora"),
        (["-m"], "the command comes first"),
        (
            ["qqq"],
            "the commands are: train, reproduce, evaluate, predict, demo, report, export, bench,"
            " data\n",
        ),
        (["data", "chek"], "flowertune data: 'chek' is not a command; did you mean check?"),
        (["data", "cache", "qqq"], "the commands are: list, clear\n"),
        (["data", "data=folder"], "for example: flowertune data prepare data=folder"),
        (["data", "cache", "a=1"], "'a=1' is not a command; the commands are: list, clear\n"),
        (["data", "cache", "list", "a=1"], "unrecognized arguments: a=1"),
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
        ("flowertune train method=mi", {"method=mixup"}),
        ("flowertune data  check --json data=fo", {"data=folder"}),
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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flowertune tr", ["train"]),
        (
            "flowertune ",
            [
                "train",
                "reproduce",
                "evaluate",
                "predict",
                "demo",
                "report",
                "export",
                "bench",
                "data",
            ],
        ),
        ("flowertune data", ["data"]),
        ("flowertune data ", ["prepare", "check", "cache"]),
        ("flowertune data  c", ["check", "cache"]),
        ("flowertune data cache ", ["list", "clear"]),
        ("flowertune data cache list ", []),
        ("flowertune predict --d", ["--device"]),
        ("flowertune predict runs/A --format json --p", ["--precision"]),
        ("flowertune bench method=lora -", ["--json"]),
        ("flowertune data chek ", []),
    ],
)
def test_the_words_of_a_command_are_completed_one_by_one(
    line: str,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert cli.main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == expected


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

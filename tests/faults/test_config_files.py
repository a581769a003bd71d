"""Damaged, hostile or newer config files are refused in one line, and nothing is called."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from flowertune import cli
from flowertune.config import saved
from flowertune.config.schema import Config

GLOBAL = "# @package _global_\n"
BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 10)}]}}\n" for i in range(1, 10)
)
FILES: list[tuple[str, bytes, str]] = [
    ("no text", b"\xff\xfe\x00\x01", "mine.yaml: is not text in UTF-8"),
    ("UTF-16", "seed: 1".encode("utf-16"), "mine.yaml: is not text in UTF-8"),
    ("Latin-1", 'method: "é"'.encode("latin-1"), "mine.yaml: is not text in UTF-8"),
    ("NUL", b"seed: \0", "mine.yaml: is no config (unacceptable character #x0000"),
    ("torn", b"model:\n  targets: [q, ", "mine.yaml, line 2: is not YAML (expected the node"),
    ("tab", b"model:\n\trank: 4", "mine.yaml, line 2: is not YAML (found character '\\t'"),
    ("key twice", b"seed: 1\nseed: 2", "mine.yaml, line 2: is not YAML (found duplicate key seed)"),
    ("list", b"- seed", "mine.yaml: is a list; a config has keys with values"),
    ("number", b"5", "mine.yaml: cannot be read (Invalid loaded object type: int)"),
    ("laughs", BOMB.encode(), "mine.yaml: has more than 10,000 values"),
    ("merges", MERGES.encode(), "mine.yaml: has more than 10,000 values"),
    ("within itself", b"a: &a [*a]", "mine.yaml: has more than 10,000 values"),
    ("deep", b"a: " + b"[" * 40_000, "mine.yaml: is no config (maximum recursion depth"),
    ("huge", b"seed: 1\n" * 20_000, "mine.yaml: has more than 100,000 bytes"),
    (
        "object",
        b"a: !!python/object/apply:os.mkdir [called]",
        "python/object/apply:os.mkdir: a con",
    ),
    ("path", b"a: !!python/object/apply:pathlib.PosixPath [a]", "a config cannot name Python code"),
    ("tag", b"a: !mine 1", "line 1: is not YAML (could not determine a constructor"),
    ("half an interpolation", b'seed: "${"', "mine.yaml: is no config (no viable alternative"),
]
LATER: list[tuple[str, str, str]] = [
    ("an unknown resolver", "seed: ${eval:1+1}", "seed=${eval:1+1}: cannot be resolved"),
    ("a target", "model: {_target_: os.mkdir}", "model._target_: there is no such key"),
    ("another's part", "probe: ${model}", "value: ${model}; method/mine.yaml sets it"),
    (
        "no number",
        "trainer: {epochs: many}",
        "epochs=many: must be a whole number, at least 1; method",
    ),
    ("a list for keys", "model: [1]", "method/mine.yaml sets it"),
    (
        "no such default",
        "defaults: [{override /model: nope}]",
        "model=nope: there is no such model",
    ),
    ("itself by default", "defaults: [mine]", "method=mine: cannot be composed (RecursionError"),
    ("callback", "hydra: {callbacks: {a: {_target_: os.mkdir}}}", "hydra.callbacks: is not for"),
    (
        "log handler",
        "hydra: {job_logging: {handlers: {a: {(): os.mkdir}}}}",
        "hydra.job_logging: is",
    ),
    ("launcher", "hydra: {launcher: {_target_: os.mkdir}}", "_target_=os.mkdir: must be a plugin"),
    ("environment", "hydra: {job: {env_set: {PATH: x}}}", "hydra.job.env_set: is not for setting"),
]


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """`refused(*words)`: the one line of the refusal; nothing else is printed or written."""
    monkeypatch.chdir(tmp_path)

    def refused(*words: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert cli.main(["train", *words]) == 2
        output = capfd.readouterr()
        assert output.out == ""
        assert output.err.count("\n") == 1
        assert len(output.err) <= 300 + len(str(tmp_path))
        assert sorted(tmp_path.rglob("*")) == before
        return output.err

    return refused


@pytest.mark.parametrize(("content", "message"), [each[1:] for each in FILES],
                         ids=[each[0] for each in FILES])  # fmt: skip
def test_a_file_that_is_not_a_config_is_refused_by_name(
    content: bytes, message: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_bytes(content)
    assert message in refused("--config-dir", "conf", "method=mine")


@pytest.mark.parametrize(("content", "message"), [each[1:] for each in LATER],
                         ids=[each[0] for each in LATER])  # fmt: skip
def test_a_config_with_invalid_values_or_code_is_refused(
    content: str, message: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    text = f"{GLOBAL}method: mine\n{content}\n"
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(text)
    assert message in refused("--config-dir", "conf", "method=mine")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  rank: 8",
            "  rank: 8\n  young: 1",
            "model.young: there is no such key; model has alpha",
        ),
        ("seed: 42", "seed: 42\nyoung: 1", "young: there is no such key; the config has"),
        ("schema/model/lora@", "schema/model/young@", "model=young: there is no such model"),
        ("  epochs: 20", "  epochs: twenty", "trainer.epochs=twenty: must be a whole number"),
        ("  epochs: 20\n", "  epochs: [20\n", "config.yaml, line"),
        ("seed: 42", "seed: 42\nseed: 43", "config.yaml, line"),
    ],
)
def test_a_damaged_or_newer_config_of_a_run_is_refused(
    old: str, new: str, message: str, tmp_path: Path, config: Config, refused: Callable[..., str]
) -> None:
    text = saved.to_yaml(asdict(config))
    assert old in text
    (tmp_path / "config.yaml").write_text(text.replace(old, new))
    assert message in refused("--config-path", ".")


def test_a_missing_config_is_reported(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "empty").mkdir()
    assert "--config-path nowhere: is no folder" in refused("--config-path", "nowhere")
    assert "--config-path : is no folder" in refused("--config-path", "")
    assert "empty/config.yaml: there is no such config" in refused("--config-path", "empty")
    assert "--config-dir nowhere: is no folder" in refused("--config-dir", "nowhere")

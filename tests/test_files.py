import errno
import json
import os
import stat
from pathlib import Path

import pytest

from flowertune import files


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("before", ["old", None])
def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, before: "str | None"
) -> None:
    path = tmp_path / "results.json"
    if before is not None:
        path.write_text(before)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        files.write_text(path, "new")
    assert [each.name for each in tmp_path.iterdir()] == ([path.name] if before else [])
    assert before is None or path.read_text() == before


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_text(tmp_path / "status.json", "new")
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_flushed_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    seen = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(path.read_text()), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append("rename"), replace(a, b)))
    files.write_text(path, "new")
    assert seen == ["old", "rename", "new"]  # the content, the name, then the folder
    assert path.read_text() == "new"


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_the_mode_of_a_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a.txt", "x")
        assert os.umask(0o027) == 0o027  # put back
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_json_refuses_nan_and_keeps_unicode(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"class": "Gänseblümchen", "n": 1})
    assert "Gänseblümchen" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8"))["n"] == 1


def test_a_file_name_that_is_not_utf8_can_be_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    files.write_text(tmp_path / "photos.csv", name)
    assert (tmp_path / "photos.csv").read_text(encoding="utf-8") == "caf\\udce9.jpg"
    files.write_json(tmp_path / "a.json", [name])
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == [name]


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0.0 kB"), (1234, "1.2 kB"), (56_780_000, "56.8 MB"), (3e12, "3,000.0 GB")],
)
def test_sizes_have_a_fitting_unit(size: int, words: str) -> None:
    assert files.format_bytes(size) == words

"""What becomes of work whose output nobody can take."""

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flowertune.cli import main
from flowertune.runtime.streams import is_writable, resilient_output

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX descriptors")

Stream = Callable[[int], io.TextIOWrapper]


@pytest.fixture
def stream() -> Stream:
    """`stream(descriptor)`: text to it, as Python makes stdout where that is no terminal."""
    return lambda descriptor: io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "w")))


def unread() -> int:
    """A pipe whose reader has gone away."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full() -> int:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("name", ["stdout", "stderr"])
@pytest.mark.parametrize(("open_it", "told"), [(unread, 0), (full, 1)])
def test_the_work_goes_on_and_what_somebody_would_miss_is_told(
    name: str, open_it: Callable[[], int], told: int, stream: Stream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    outer = stream(open_it())
    monkeypatch.setattr(sys, name, outer)
    with resilient_output() as lost:
        for _ in range(3):
            print("x" * 10_000, file=getattr(sys, name), flush=True)
        assert not is_writable(getattr(sys, name))  # whoever asks may stop
    assert len(lost) == told
    assert getattr(sys, name) is outer
    print("nor does the end of the process raise", file=outer, flush=True)


def test_what_did_arrive_is_whole(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr(sys, "stdout", stream(writer))
    with resilient_output() as lost:
        print("before", "\udc80", "Gänseblümchen", flush=True)
        assert is_writable(sys.stdout)
    sys.stdout.close()
    with os.fdopen(reader, encoding="utf-8") as file:
        assert file.read() == "before \\udc80 Gänseblümchen\n"
    assert lost == []


def test_a_command_whose_output_is_lost_has_failed(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", stream(full()))
    assert main(["--help"]) == 1
    assert "No space left on device" in capfd.readouterr().err
    monkeypatch.setattr(sys, "stdout", stream(unread()))
    assert main(["--help"]) == 0

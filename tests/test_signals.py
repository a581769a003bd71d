"""Effect of signals, at once or deferred."""

import os
import signal
import threading

import pytest

from flowertune.errors import Interrupted
from flowertune.signals import install_handlers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="POSIX signals")


@pytest.mark.parametrize(
    ("name", "exit_code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 143), ("SIGHUP", 129)]
)
def test_a_signal_raises_interrupted_at_once(name: str, exit_code: int) -> None:
    before = signal.getsignal(signal.Signals[name])
    with pytest.raises(Interrupted, match=name) as interruption, install_handlers():  # noqa: PT012
        signal.raise_signal(signal.Signals[name])
        raise AssertionError("it went on")
    assert interruption.value.exit_code == exit_code
    assert signal.getsignal(signal.Signals[name]) is before


def test_while_deferred_the_first_signal_waits_and_the_second_does_not(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with install_handlers() as stop, stop.deferred():
        stop.check()
        signal.raise_signal(signal.SIGUSR1)
        assert stop.received is signal.SIGUSR1
        assert not stop.forced
        assert "press Ctrl-C again to stop now" in capfd.readouterr().err
        with pytest.raises(Interrupted, match="SIGUSR1"):
            stop.check()
        signal.raise_signal(signal.SIGINT)  # the first signal besides the warning
        assert not stop.forced
        with pytest.raises(Interrupted, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)
        assert stop.forced


def test_a_signal_is_recorded_even_if_stderr_is_closed() -> None:
    reader, writer = os.pipe()
    os.close(reader)  # like `2>&1 | tee`, which the same Ctrl-C ends
    stderr = os.dup(2)
    os.dup2(writer, 2)
    try:
        with install_handlers() as stop, stop.deferred():
            signal.raise_signal(signal.SIGINT)
            assert stop.received is signal.SIGINT
    finally:
        os.dup2(stderr, 2)
        for descriptor in (stderr, writer):
            os.close(descriptor)


def test_the_first_signal_is_passed_on_and_a_returned_warning_is_no_second_signal() -> None:
    passed = []
    with install_handlers() as stop, stop.deferred(lambda text: passed.append(stop.received)):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGUSR1)
        assert passed == [signal.SIGINT]
        assert stop.received is signal.SIGINT
        assert not stop.forced


def test_sighup_stays_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with install_handlers():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_forked_child_exits_without_saving() -> None:
    with install_handlers() as stop, stop.deferred():
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 143
        assert stop.received is None


def test_outside_the_main_thread_no_handler_is_installed() -> None:
    handlers: list[object] = []

    def work() -> None:
        with install_handlers():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]

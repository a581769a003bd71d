"""The cache in separate processes: several at once, killed, interrupted, out of space."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SRC = Path(__file__).parents[3] / "src"

BUILDER = """
import sys, time
from pathlib import Path
sys.path[:0] = [{src!r}, {tests!r}]
from conftest import cache_of
from flowertune.data import image as image_module
from flowertune.data.cache import store
from flowertune.errors import UsageError

def run(progress=None):
    return cache_of(Path({root!r}), Path({folder!r}), progress=progress)
"""

# The transform of "squash", without importing open_clip, which takes seconds.
WITHOUT_OPEN_CLIP = """
def resize(image):
    return image.resize((32, 32), image_module.Image.Resampling.BICUBIC)
image_module.eval_transform = store.eval_transform = lambda preprocessing: resize
"""


def builder_command(root: Path, folder: Path, code: str) -> list[str]:
    here = str(Path(__file__).parent)
    prepared = BUILDER.format(src=str(SRC), tests=here, root=str(root), folder=str(folder))
    return [sys.executable, "-c", prepared + code]


def output_of(root: Path, folder: Path, code: str) -> str:
    command = builder_command(root, folder, code)
    return subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, timeout=120
    ).stdout


# A process started by a background process inherits that Ctrl-C is ignored.
LISTENING = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
"""

SLOW = """
def progress(text, done, total):
    print(text, done, flush=True)
    if text == "train: decoding images" and done == 3:
        time.sleep({seconds})
run(progress)
"""


def wait_for(process: subprocess.Popen, line: str) -> None:
    for output in process.stdout:
        if output.strip() == line:
            return
    raise AssertionError(f"the builder ended without saying {line!r}")


def start_builder(root: Path, folder: Path, seconds: float) -> subprocess.Popen:
    code = LISTENING + WITHOUT_OPEN_CLIP + SLOW.format(seconds=seconds)
    command = builder_command(root, folder, code)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_a_warm_cache_needs_no_open_clip(root, tmp_path, cached):
    cached(root, tmp_path / "cache")
    code = "run(); print('open_clip' in sys.modules)"
    assert output_of(root, tmp_path / "cache", code).strip() == "False"


def test_a_full_disk_is_reported_and_leaves_no_partial_cache(root, tmp_path):
    """Limits the size of files, which makes write() fail as on a full disk."""
    pytest.importorskip("resource", reason="this platform has no limits on file sizes")
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    run()
except UsageError as refused:
    print(refused)
"""
    output = output_of(root, tmp_path / "cache", WITHOUT_OPEN_CLIP + code)
    assert f"train (124.8 kB) in {tmp_path / 'cache' / 'pixels'}: " in output
    assert output.count("\n") == 1
    assert not list((tmp_path / "cache" / "pixels").glob("*.building"))


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_stops_at_once_and_leaves_no_partial_cache(root, tmp_path):
    builder = start_builder(root, tmp_path / "cache", seconds=60)
    wait_for(builder, "train: decoding images 3")
    started = time.monotonic()
    builder.send_signal(signal.SIGINT)
    builder.wait(timeout=20)
    assert time.monotonic() - started < 5
    assert not list((tmp_path / "cache" / "pixels").glob("*.building"))


def test_a_killed_builder_blocks_no_other_process(
    root, tmp_path, decoded, cached, assert_same_pixels
):
    builder = start_builder(root, tmp_path / "cache", seconds=60)
    wait_for(builder, "train: decoding images 3")
    builder.kill()
    builder.wait()
    pixels = tmp_path / "cache" / "pixels"
    assert [path for path in pixels.iterdir() if path.suffix == ".building"]

    started = time.monotonic()
    photos = cached(root, tmp_path / "cache")
    assert time.monotonic() - started < 20
    assert len(decoded) == 12
    assert not list(pixels.glob("*.building"))
    assert_same_pixels(photos, cached(root, tmp_path / "other"))


def test_leftovers_of_a_killed_builder_go_even_if_its_images_changed(root, tmp_path, cached):
    builder = start_builder(root, tmp_path / "cache", seconds=60)
    wait_for(builder, "train: decoding images 3")
    builder.kill()
    builder.wait()
    (root / "train" / "rose" / "0.jpg").unlink()
    cached(root, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "pixels").glob("*.building"))


def test_one_of_two_processes_builds_and_the_other_reports_that_it_waits(
    root, tmp_path, decoded, cached, assert_same_pixels
):
    builder = start_builder(root, tmp_path / "cache", seconds=3)
    wait_for(builder, "train: decoding images 3")
    said: list[str] = []

    def progress(text: str, done: int, total: int) -> None:
        said.append(text)

    photos = cached(root, tmp_path / "cache", progress=progress)
    builder.communicate(timeout=60)
    assert builder.returncode == 0
    assert said[0] == "train: waiting for another process to decode the images"
    assert len(decoded) <= 2  # only val, if this process started it first
    assert_same_pixels(photos, cached(root, tmp_path / "other"))

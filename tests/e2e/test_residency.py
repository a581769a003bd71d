"""Where a training's pixels lie is no more than a question of memory."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# The command line, which says at its end what was streamed: how many photos each store has.
WATCHED = """\
import json
import sys
from flowertune import cli
from flowertune.data.device_pixels import DevicePixels
read, streamed = DevicePixels._gather, {}
def watched(store, indices):
    streamed[id(store)] = store
    return read(store, indices)
DevicePixels._gather = watched
code = cli.main(sys.argv[1:])
print(json.dumps(sorted(map(len, streamed.values()))))
sys.exit(code)
"""


def test_a_training_on_streamed_photos_ends_in_the_same_bits(
    small: tuple[str, ...],
    environment: dict[str, str],
    same_training: Callable[[Path, Path], None],
    tmp_path: Path,
) -> None:
    def streamed_by(residency: str) -> Any:
        process = subprocess.run(
            [sys.executable, "-c", WATCHED, "train", "method=mixup", *small,
             f"data.residency={residency}", f"run.name={residency}"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout.splitlines()[-1])

    assert streamed_by("auto") == []
    # evaluation form of val, train and test, training form of train (which is as large here)
    assert streamed_by("stream") == [40, 60, 60, 60]
    same_training(tmp_path / "runs/auto", tmp_path / "runs/stream")

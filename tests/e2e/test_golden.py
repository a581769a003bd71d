"""The first losses of every method, to the bit as they are in golden/.

A change of structure leaves them alone. A change that means to move them records them anew, from
the top of the repository, and says why in its commit:

    RECORD_GOLDEN=1 python -m pytest tests/e2e/test_golden.py
"""

import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest
import torch

from flowertune.config.groups import conf_dir

GOLDEN = Path(__file__).with_name("golden")
STEPS = 20
# The quickstart with half of its training photos, so that an epoch has 20 steps: ten of warm-up
# and ten of the cosine, and with fewer photos to measure. The probe's weight decay is given: what
# so few photos choose hangs on rounding, and with less of it L-BFGS ends elsewhere on each machine.
WORDS = (
    "experiment=quickstart",
    "trainer.epochs=1",
    "trainer.warmup_epochs=0.5",
    "data.train_per_class=16",
    "data.val_per_class=4",
    "data.test_per_class=1",
    "probe.weight_decay=0.1",
    "baselines=false",
    "run.report=false",
)
# How far losses may be off where the processor or a library is another, as a share of the loss.
# Seen with MKL's products, AVX2 and no vectors at all: 2e-6 for full, 4e-7 for the others.
TOLERANCE = 1e-4
# The libraries that compute the pixels and the losses.
LIBRARIES = ("torch", "torchvision", "numpy", "pillow", "scipy")


def processor() -> str:
    """The processor's name, and where Linux tells its family and model, which say more."""
    told = Path("/proc/cpuinfo")
    if not told.exists():
        return platform.processor()
    pairs = [line.partition(":") for line in told.read_text().split("\n\n")[0].splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    wanted = ("vendor_id", "model name", "cpu family", "model")
    return ", ".join(f"{name} {facts[name]}" for name in wanted if name in facts)


def kind_of_machine(run: Path) -> dict[str, Any]:
    """Where a run was made, as far as its bits may depend on it."""
    environment = json.loads((run / "environment.json").read_text())
    return {
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": environment["cpu_threads"],
        "packages": {name: environment["packages"][name] for name in LIBRARIES},
    }


def loss_lines(run: Path) -> list[dict[str, Any]]:
    """Those of the steps and of val after them; of a method without steps what it has on val."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    if lines:
        assert [line["split"] for line in lines] == ["train"] * STEPS + ["val"]
        return lines
    val = json.loads((run / "results.json").read_text())["splits"]["val"]
    return [{"split": "val", "loss": val["loss"], "top1": val["top1"]}]


@pytest.mark.parametrize("method", sorted(path.stem for path in (conf_dir() / "method").iterdir()))
def test_the_first_losses_are_the_recorded_ones(
    method: str, flowertune: Any, tmp_path: Path
) -> None:
    process = flowertune("train", f"method={method}", *WORDS, "run.name=r", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    run = tmp_path / "runs" / "r"
    machine, lines = kind_of_machine(run), loss_lines(run)
    file = GOLDEN / f"{method}.jsonl"
    if "RECORD_GOLDEN" in os.environ:
        file.write_text("".join(json.dumps(each) + "\n" for each in (machine, *lines)))
        pytest.skip(f"recorded {file}")
    recorded_on, *recorded = map(json.loads, file.read_text().splitlines())
    if machine == recorded_on:
        assert lines == recorded
        return
    for line, expected in zip(lines, recorded, strict=True):
        assert line.keys() == expected.keys()
        assert line["loss"] == pytest.approx(expected["loss"], rel=TOLERANCE)

"""Out-of-memory errors of evaluate and predict are one line with advice."""

from pathlib import Path

import pytest
import torch

from flowertune import cli
from flowertune.models.classifier import Classifier

pytestmark = pytest.mark.usefixtures("quiet_commands")


@pytest.mark.parametrize("where", ["to", "forward"])
@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("evaluate", "lower trainer.eval_batch_size=128, or choose another trainer.device"),
        ("predict", "choose another --device, or free some memory"),
    ],
)
def test_the_error_is_one_line_with_advice(
    command: str, advice: str, where: str, lora: Path, drawn: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """When weights are moved to the device, and in the forward pass."""

    def full(*values: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Classifier, where, full)
    photos = [str(drawn / "test")] if command == "predict" else []
    assert cli.main([command, str(lora), *photos]) == 1
    said = f"flowertune {command}: out of memory on cpu: {advice}\n"
    assert capsys.readouterr().err == said

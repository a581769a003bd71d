"""A benchmark sets up the same training as train."""

from collections.abc import Callable

import pytest
import torch

from flowertune.benchmark import setup
from flowertune.config.schema import Config
from flowertune.data import device_pixels, factory
from flowertune.report.console.run import ConsoleReporter


@pytest.mark.usefixtures("rehearsing")
@pytest.mark.parametrize("word", ["auto", "device", "stream"])
@pytest.mark.parametrize("augmentation", ["basic", "none"])
def test_residency_is_decided_like_in_a_training(
    word: str,
    augmentation: str,
    compose: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The test images count although a benchmark has none; decided once for all splits."""
    asked = []

    def are_resident(residency: str, total: int, device: torch.device) -> bool:
        asked.append((residency, total))
        return device_pixels.are_resident(residency, total, device)

    monkeypatch.setattr(factory, "are_resident", are_resident)
    config = compose(
        "experiment=quickstart", "method=lora", f"augmentation={augmentation}",
        "trainer.device=cpu", f"data.residency={word}", "data.train_per_class=2",
        "data.val_per_class=1", "data.test_per_class=3",
    )  # fmt: skip
    training = setup.prepare(config, ConsoleReporter())
    train = training.setup.cached.splits["train"]
    total = 20 * (2 + 1 + 3) * 3 * 64 * 64
    if augmentation == "basic":
        assert train.train_pixels is not None
        total += train.train_pixels.array.nbytes
    assert asked == [(word, total)]
    assert training.state.loader.pixels.resident is (word != "stream")

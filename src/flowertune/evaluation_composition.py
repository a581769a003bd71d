"""The config of an evaluation: a run's own, with the photos and the device that the words name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flowertune import composition
from flowertune.config.fields import format_value
from flowertune.config.schema import Config
from flowertune.errors import Refused

# of a trained model nothing else is for choosing
OPEN = ("data", "trainer.device", "trainer.precision", "trainer.eval_batch_size")


def compose(run: Path, words: Sequence[str]) -> tuple[Config, bool]:
    """The config, and whether the photos are others than the run's own.

    Raises:
        Refused: a word that is not about OPEN, or what `composition.run` refuses.
    """
    keys = [word.partition("=")[0] for word in words]
    for word, key in zip(words, keys, strict=True):
        if not (key in OPEN or key.startswith("data.")):
            takes = f"split, data.*, {', '.join(OPEN)}"
            raise Refused(
                f"{format_value(word)}: is settled in a trained model; evaluate takes {takes}"
            )
    of_data = [
        word for word, key in zip(words, keys, strict=True) if key.partition(".")[0] == "data"
    ]
    if "data" not in keys:
        return _composed(run, words), "data.root" in keys
    # a run's config has no groups to choose from, so that these are composed with the program's
    data = _composed(None, ["baselines=false", *of_data]).data
    config = _composed(run, [word for word in words if word not in of_data])
    return replace(config, data=data), True


def _composed(run: Path | None, words: Sequence[str]) -> Config:
    found: list[Config] = []

    def keep(config: Config) -> int:
        found.append(config)
        return 0

    where = [] if run is None else ["--config-path", str(run.absolute())]
    composition.run([*where, *words], keep, sweeps=False)
    return found[0]

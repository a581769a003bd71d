"""Configs of the data: source, protocol, shots."""

from dataclasses import dataclass

from flowertune.config.fields import MISSING, config_field, option


@dataclass
class DataConfig:
    """Source, protocol and number of images."""

    name: str = config_field(MISSING, "source")
    protocol: str = config_field(
        "official",
        "official: val selects; trainval: train on both, select nothing",
        choices=("official", "trainval"),
    )
    seed: int = config_field(
        0, "fixes splits and shots, apart from the training's seed", at_least=0
    )
    shots: int | None = config_field(None, "training photos a class; null: all", at_least=1)
    residency: str = config_field(
        "auto",
        "pixels on the device, or streamed to it; auto: on it if at most half of its free memory",
        choices=("auto", "device", "stream"),
    )
    bad_files: str = config_field("stop", "files that are no photos", choices=("stop", "skip"))
    templates: list[str] = config_field(
        ["a photo of a {name}."], "prompts; {name} and {description}"
    )


@dataclass
class FolderConfig(DataConfig):
    """Class folders: below train/ and val/ (and test/), or one level, split 60/20/20."""

    name: str = option("folder")
    root: str = config_field(MISSING, "the folder")


@dataclass
class Flowers102Config(DataConfig):
    """Oxford Flowers-102 with its official splits; downloaded where it is missing."""

    name: str = option("flowers102")
    root: str | None = config_field(None, "where it lies; null: in the user's cache folder")
    url: str = config_field(MISSING, "where to fetch its three files, without a slash at the end")


@dataclass
class SyntheticConfig(DataConfig):
    """Flowers drawn by the program, for machines without network or images."""

    name: str = option("synthetic")
    train_per_class: int = config_field(32, "pictures a species", at_least=1)
    val_per_class: int = config_field(16, "pictures a species", at_least=1)
    test_per_class: int = config_field(100, "pictures a species", at_least=1)

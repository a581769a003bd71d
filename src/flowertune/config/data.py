"""Configs of the dataset: source, protocol and number of images."""

from dataclasses import dataclass

from flowertune.config.fields import MISSING, config_field, option


@dataclass
class DataConfig:
    """Dataset: source, protocol and number of images."""

    name: str = config_field(MISSING, "name of the source")
    protocol: str = config_field(
        "official",
        "official: select on val; trainval: train on train and val, without selection",
        choices=("official", "trainval"),
    )
    seed: int = config_field(0, "seed of splits and shots, not of the training", at_least=0)
    shots: int | None = config_field(None, "training images per class; null: all", at_least=1)
    balanced: bool = config_field(False, "draw training images evenly over classes")
    residency: str = config_field(
        "auto",
        "keep pixels on the device or stream them; auto: device if they fit half its free memory",
        choices=("auto", "device", "stream"),
    )
    resize: str | None = config_field(
        None,
        "fit images to the input size: crop, pad or squash; null: as the backbone's weights expect",
        choices=("crop", "pad", "squash"),
    )
    bad_files: str = config_field(
        "stop", "stop at unreadable images, or skip them", choices=("stop", "skip")
    )
    templates: list[str] = config_field(
        ["a photo of a {name}."], "prompts per class; {name} and {description} are filled in"
    )


@dataclass
class OwnImagesConfig(DataConfig):
    """Images of the user: any number of classes, splits and groups."""

    min_images: int | None = config_field(
        None, "leave out classes with fewer images; null: none", at_least=1
    )
    names: str | None = config_field(
        None, "file with names for the classes (.json, .csv or .txt); null: as they are"
    )


@dataclass
class FolderConfig(OwnImagesConfig):
    """Class folders inside train/, val/ and test/, or alone and split 60/20/20."""

    name: str = option("folder")
    root: str = config_field(MISSING, "folder of class folders, or of train/, val/ and test/")
    group: str | None = config_field(
        None,
        "keep images of a group in one split: folder (below the class folder), or a regular "
        "expression on the path below it",
    )


@dataclass
class TableConfig(OwnImagesConfig):
    """Images and their labels in a table: CSV or TSV."""

    name: str = option("table")
    path: str = config_field(MISSING, "table with a header and a row per image")
    root: str | None = config_field(
        None, "folder that the paths in the table start from; null: the table's folder"
    )
    image_column: str | None = config_field(None, "column of the images; null: by its name")
    label_column: str | None = config_field(None, "column of the labels; null: by its name")
    split_column: str | None = config_field(
        None, "column with train, val or test; null: by its name, if there is one"
    )
    group: str | None = config_field(
        None, "column of groups, whose images stay in one split; null: group, if there is one"
    )


@dataclass
class Flowers102Config(DataConfig):
    """Oxford Flowers-102 with its official splits, downloaded if missing."""

    name: str = option("flowers102")
    root: str | None = config_field(None, "folder of the dataset; null: the user's cache folder")
    url: str = config_field(MISSING, "base URL of the three files, without a trailing slash")


@dataclass
class SyntheticConfig(DataConfig):
    """Synthetic flowers, for machines without network or images."""

    name: str = option("synthetic")
    train_per_class: int = config_field(32, "training images per class", at_least=1)
    val_per_class: int = config_field(16, "validation images per class", at_least=1)
    test_per_class: int = config_field(100, "test images per class", at_least=1)

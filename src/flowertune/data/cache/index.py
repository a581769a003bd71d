"""The index of a pixel store, which lies in its meta.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class StoreIndex:
    """Index of a pixel store; rows are the images that decoded, in the order they were listed.

    `canvas` is the (height, width) that holds every training picture, `train_sizes[row]` the true
    (height, width) of one; None and (0, 0) without a training form. `kept[row]` is the image's
    index in the list, `bad` maps the other indices to the reason, `sha256[row]` is the hash of the
    file's content. `crc32[form][row]` is the checksum of a row's pixels.
    """

    canvas: tuple[int, int] | None
    crc32: list[list[int]]
    kept: list[int] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    sha256: list[str] = field(default_factory=list)
    train_sizes: list[tuple[int, int]] = field(default_factory=list)

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> "StoreIndex":
        """Read it from a store's meta.json. Raises ValueError where that lacks something."""
        try:
            index = cls(**{each.name: meta[each.name] for each in fields(cls)})
            index.bad = {int(number): reason for number, reason in index.bad.items()}
        except (KeyError, AttributeError) as error:
            raise ValueError("its index is damaged") from error
        return index

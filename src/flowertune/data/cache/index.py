"""The index of a pixel store, in a file with a checksum."""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# of a store's directory
EVAL_FILE, TRAIN_FILE, INDEX_FILE = "eval.u8", "train.u8", "index.json"


@dataclass(frozen=True)
class StoreIndex:
    """Index of a pixel store; rows are the images that decoded, in the order they were listed.

    `kept[row]` is the image's index in the list, `bad` maps the other indices to the reason,
    `sha256[row]` is the hash of the file's content. `canvas` is the (height, width) that holds
    every training picture, `train_sizes[row]` the true (height, width) of one; None and empty
    without a training form. `eval_crc32` and `train_crc32` are checksums of each row's pixels.
    `split` and `folder` say to people what it is of: they see the key alone.
    """

    split: str
    folder: str
    kept: tuple[int, ...]
    bad: dict[int, str]
    sha256: tuple[str, ...]
    canvas: tuple[int, int] | None
    train_sizes: tuple[tuple[int, int], ...]
    eval_crc32: tuple[int, ...]
    train_crc32: tuple[int, ...]

    def to_json(self, key: str) -> str:
        """Return the text of the index file, for the store of this key."""
        content = json.loads(json.dumps({"key": key, **asdict(self)}))
        return json.dumps({**content, "crc32": _crc32_of(content)})


def read_index(path: Path, key: str) -> StoreIndex:
    """Read what `to_json` wrote. Raises OSError, or ValueError where the file is damaged."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.pop("crc32", None) != _crc32_of(content):
        raise ValueError(f"the checksum of {path.name} is wrong")
    if content.pop("key") != key:
        raise ValueError(f"{path.name} is another cache's")
    return StoreIndex(
        split=content["split"],
        folder=content["folder"],
        kept=tuple(content["kept"]),
        bad={int(index): reason for index, reason in content["bad"].items()},
        sha256=tuple(content["sha256"]),
        canvas=None if content["canvas"] is None else tuple(content["canvas"]),
        train_sizes=tuple((height, width) for height, width in content["train_sizes"]),
        eval_crc32=tuple(content["eval_crc32"]),
        train_crc32=tuple(content["train_crc32"]),
    )


def _crc32_of(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content).encode())

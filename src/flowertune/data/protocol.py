"""The trainval protocol: train on all labelled photos but the test ones, and select nothing."""

from dataclasses import replace

from flowertune.data.photos import PhotoSet, Split
from flowertune.errors import Refused


def trainval(photo_set: PhotoSet) -> PhotoSet:
    """The same task with train and val as its one training split, train's photos first.

    Raises Refused where there are no test photos: nothing would be left to measure on.
    """
    if "test" not in photo_set.splits:
        raise Refused(
            f"data.protocol=trainval: {photo_set.root} has no test photos, so nothing would be left"
            " to measure on; add test/ or use data.protocol=official"
        )
    train, val = photo_set.splits["train"], photo_set.splits["val"]
    joined = Split(train.paths + val.paths, train.labels + val.labels)
    return replace(
        photo_set,
        protocol=f"{photo_set.protocol}; trainval: train and val are one training set of"
        f" {len(joined):,}, nothing is selected, the last weights count",
        splits={"train": joined, "test": photo_set.splits["test"]},
    )

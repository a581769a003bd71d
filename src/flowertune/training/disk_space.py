"""Check that the disk has room for a run."""

import shutil

from flowertune.config.schema import Config
from flowertune.data.cache.dataset import CachedDataset
from flowertune.errors import UsageError
from flowertune.files import bytes_in, expand_user, format_bytes
from flowertune.models.adapters.registry import find_adapter
from flowertune.models.backbone import Backbone
from flowertune.runs.directory import CHECKPOINTS_KEPT, not_writable_message

IMAGE_BYTES = 500  # per image: its rows in photos.csv and in the predictions
LINE_BYTES = 250  # per step: its line in metrics.jsonl


def check_disk_space(config: Config, backbone: Backbone, cached: CachedDataset) -> None:
    """Raise UsageError if the disk of `run.root` has no room for the run."""
    settings = config.trainer
    sizes = {name: len(split.split) for name, split in cached.splits.items()}
    weights = 4 * saved_parameters(config, backbone, len(cached.dataset.class_names))
    needed = 2 * weights + IMAGE_BYTES * sum(sizes.values())  # best/ and adapter/
    if config.model.trains_backbone:
        lines = LINE_BYTES * settings.epochs * -(-sizes["train"] // settings.batch_size)
        n_states = 4 if settings.ema is None else 5  # trained, AdamW's two, best; averaged
        checkpoint = n_states * weights + lines
        needed += lines + (CHECKPOINTS_KEPT + 1) * checkpoint
    root = expand_user(config.run.root).absolute()
    path = root / str(config.run.name)
    try:
        needed -= bytes_in(path) if path.exists() else 0  # an unfinished run
        while not root.exists():
            root = root.parent
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise UsageError(not_writable_message(path, error)) from error
    if needed > free:
        raise UsageError(
            f"run.root={config.run.root}: the run needs about {format_bytes(needed)}, but only "
            f"{format_bytes(free)} are free; make room or choose another run.root"
        )


def saved_parameters(config: Config, backbone: Backbone, classes: int) -> int:
    """Upper bound of the number of parameters in a saved classifier (adapter and head)."""
    head = (classes + 2) * (backbone.embedding_dim + 1)
    return head + find_adapter(config.model).count(config.model, backbone)

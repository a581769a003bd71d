"""Compute embeddings of whole splits by the frozen backbone once, and cache them on disk."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor

from flowertune.config.head import LinearHeadConfig
from flowertune.config.schema import Config, head_from_probe
from flowertune.data.cache.store import FORMAT, CachedSplit
from flowertune.data.cache_dir import LOCK, build_entry, read_meta, touch, write_meta
from flowertune.data.device_pixels import DevicePixels
from flowertune.errors import TrainingError
from flowertune.files import lock, write_bytes
from flowertune.models.backbone import Backbone
from flowertune.runtime.device import Compute

# Raise it when this package comes to compute other features from the same inputs.
FEATURES_VERSION = 3
FEATURES_FILE = "features.safetensors"

log = logging.getLogger(__name__)


def splits_to_encode(config: Config, splits: list[str]) -> list[str]:
    """List the splits whose frozen features are needed."""
    if config.baselines or not config.model.trains_backbone:
        return splits
    if head_from_probe(config):
        return [name for name in splits if name != "test"]
    standardize = isinstance(config.head, LinearHeadConfig) and config.head.standardize
    return ["train"] if standardize else []


def feature_key(
    backbone: Backbone, split: CachedSplit, compute: Compute, batch_size: int
) -> dict[str, Any]:
    """Describe everything that decides the bits of a split's features, this process included."""
    return {
        "weights_sha256": backbone.weights_sha256,
        "activation": backbone.activation,
        # of the contents of the images, in their order
        "split_fingerprint": hashlib.sha256("".join(split.sha256).encode()).hexdigest(),
        "preprocessing": str(backbone.preprocessing.to_dict()),
        "precision": compute.precision,
        "device": compute.device_name,
        "batch_size": batch_size,  # the shape of a batch decides how sums are rounded
        "features_version": FEATURES_VERSION,
        "pixels_version": FORMAT,
        "torch": torch.__version__,
        "open_clip": version("open_clip_torch"),
        # These two resize the images.
        "pillow": version("pillow"),
        "torchvision": version("torchvision"),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
    }


def frozen_features(
    pixels: DevicePixels,
    encode: Callable[[UInt8[Tensor, "b 3 h w"]], Float[Tensor, "b e"]],
    key: Mapping[str, Any],
    folder: Path,
    progress: Callable[[int, int], None],
) -> Float[Tensor, "n e"]:
    """Load or compute the embeddings, float32 on the CPU, of all images of a split.

    `encode` maps evaluation pixels to embeddings, as `key` (of `feature_key`) describes. Entries
    under `features/` of the cache folder are exactly what would have been computed.
    `progress(done, total)` counts images, and is not called for features from the cache.

    Raises:
        TrainingError: an embedding is not finite.
    """
    name = hashlib.sha256(_dump(key).encode()).hexdigest()[:32]
    path = folder / "features" / name
    if (cached := _read(path, key)) is not None:
        return cached
    with _lock_features(path):
        if (cached := _read(path, key)) is not None:  # by another process in the meantime
            return cached
        features = _compute(pixels, encode, key["batch_size"], progress)
        if not features.isfinite().all():
            raise TrainingError(
                f"the frozen backbone gives embeddings that are not finite in precision "
                f"{key['precision']}: try trainer.precision=fp32"
            )
        _write(path, key, features)
    return features


@contextmanager
def _lock_features(path: Path) -> Iterator[None]:
    """Let one of several processes compute the same features, while the others wait."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            waiting = partial(log.warning, "waiting for another process that computes %s", path)
            stack.enter_context(lock(path.with_suffix(LOCK), waiting))
        except OSError as error:  # nothing can be kept there, so nobody waits for it either
            log.info("%s cannot be locked: %s", path, error)
        yield


def _compute(
    pixels: DevicePixels,
    encode: Callable[[UInt8[Tensor, "b 3 h w"]], Float[Tensor, "b e"]],
    batch_size: int,
    progress: Callable[[int, int], None],
) -> Tensor:
    parts, done = [], 0
    with torch.inference_mode():
        for batch in pixels.batches(torch.arange(len(pixels)).split(batch_size)):
            parts.append(encode(batch).float().cpu())
            done += len(batch)
            progress(done, len(pixels))
    # Outside inference mode: the result is an ordinary tensor that autograd may use.
    return torch.cat(parts)


def _read(path: Path, key: Mapping[str, Any]) -> Tensor | None:
    """Read cached features; None where there are none, or where a file is damaged."""
    if not path.exists():
        return None
    try:
        meta = read_meta(path)
        features: Tensor = safetensors.torch.load_file(path / FEATURES_FILE)["features"]
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        log.warning("%s cannot be read (%s): the features are computed again", path, error)
        return None
    if meta.get("key") != _dump(key) or meta.get("sha256") != _checksum(features):
        log.warning("%s is damaged: the features are computed again", path)
        return None
    touch(path)
    return features


def _write(path: Path, key: Mapping[str, Any], features: Tensor) -> None:
    n_images, width = features.shape
    compute = f"{key['precision']} on {key['device']}"
    description = f"{n_images:,} x {width}, {compute}, weights {key['weights_sha256'][:8]}"
    content = safetensors.torch.save({"features": features})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with build_entry(path) as folder:
            write_bytes(folder / FEATURES_FILE, content)
            write_meta(folder, description, key=_dump(key), sha256=_checksum(features))
    except OSError as error:
        # The features are here, only the next run has to compute them again.
        log.warning("the frozen features could not be kept in %s: %s", path.parent, error)


def _checksum(features: Tensor) -> str:
    return hashlib.sha256(features.contiguous().numpy().tobytes()).hexdigest()


def _dump(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)

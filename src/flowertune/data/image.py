"""Decode an image file into uint8 pixels, for evaluation and for training."""

import io
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from flowertune.errors import printable

# Told apart by content, never by the file's ending. A list, because some of PIL's other readers
# start programs (EPS calls Ghostscript) or hold no photo at all.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

JPEG_START = b"\xff\xd8\xff"

# A file is read whole: more than any photo has, less than a film that lies in the folder.
MAX_BYTES = 512 * 2**20

# The reason where the disk did not give a file. It may do so later, and the file is then the same.
UNREADABLE = "cannot be read"

# Training pixels keep this much more than the input size, so that a random crop is a real crop.
TRAIN_MARGIN = 256 / 224
TRAIN_MAX_ASPECT = 2

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing that a backbone's weights expect: open_clip's PreprocessCfg, hashable.

    `size` is (height, width) in pixels; `mean` and `std` belong to RGB values in [0, 1].
    `interpolation` is "bicubic" or "bilinear"; `resize_mode` "shortest", "longest" or "squash";
    `fill_color` (0 to 255) pads in the mode "longest".
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    fill_color: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Build it from `to_dict()` or open_clip's, where one number may be a square's size."""
        size = values["size"]
        pairs: dict[str, Any] = {"size": (size, size) if isinstance(size, int) else tuple(size)}
        colors: dict[str, Any] = {key: tuple(map(float, values[key])) for key in ("mean", "std")}
        others = {key: values[key] for key in ("interpolation", "resize_mode", "fill_color")}
        return cls(**pairs, **colors, **others)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


class UnreadableImageError(Exception):
    """A file that cannot be decoded; the message is the reason, short enough for a list."""


def image_bytes(path: Path) -> bytes:
    """Read an image file; raises UnreadableImageError where it cannot be read, or is no file."""
    try:
        _check_file(path)
        return path.read_bytes()
    except FileNotFoundError:
        reason = "a link that leads nowhere" if path.is_symlink() else "no such file"
        raise UnreadableImageError(reason) from None
    except OSError as error:
        raise UnreadableImageError(f"{UNREADABLE}: {error.strerror or error}") from error


def decode_image(data: bytes) -> Image.Image:
    """Decode an image completely, rotate it upright by its EXIF orientation, convert it to RGB.

    The conversion is PIL's `convert("RGB")`, as in open_clip: transparency is dropped, an
    animation gives its first frame, and a 16-bit gray picture is clipped at 255 rather than scaled.
    Raises UnreadableImageError: empty, not an image, cut short, damaged, more pixels than PIL
    allows.
    """
    if not data:
        raise UnreadableImageError("an empty file")
    try:
        with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
            return _upright_rgb(image)
    # PIL's readers raise nearly anything on damaged files: OSError, SyntaxError, struct.error,
    # zlib.error, IndexError, ... Whatever it is, the file gives no picture and says so.
    except Exception as error:
        raise UnreadableImageError(_reason(error, data[:32])) from error


def convert_image(image: Image.Image) -> Image.Image:
    """Convert an opened image as `decode_image` does; `image` itself stays as it is."""
    try:
        return _upright_rgb(image.copy())
    except Exception as error:  # as in decode_image
        raise UnreadableImageError(_reason(error, b"")) from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    upright = _UPRIGHT.get(_orientation(image))
    # PIL would work out a transparent color, and warn about it; it is not kept anyway.
    image.info.pop("transparency", None)
    rgb: Image.Image = image if image.mode == "RGB" else image.convert("RGB")
    return rgb if upright is None else rgb.transpose(upright)


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) of `decode_image`'s result, from the header alone where that can be trusted.

    Only a JPEG says everything at its beginning: the orientation of a PNG may stand behind its
    pixels, and PIL turns a TIFF while loading it. Those are decoded. Raises UnreadableImageError.
    """
    with suppress(Exception):  # whatever is wrong, decoding finds it again and names it
        _check_file(path)
        with path.open("rb") as file:
            if file.read(len(JPEG_START)) == JPEG_START:
                with Image.open(file, formats=readable_formats()) as image:
                    width, height = image.size
                    return (height, width) if _orientation(image) > 4 else (width, height)
    return decode_image(image_bytes(path)).size


def eval_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Apply open_clip's own evaluation preprocessing up to normalization, bit for bit.

    `image` is `decode_image`'s. Returns (3, H, W) of `preprocessing.size`. Raises
    UnreadableImageError where the image is so long and thin that open_clip could not resize it.
    """
    _check_shape(image.size, preprocessing)
    return _channels_first(eval_transform(preprocessing)(image))


def train_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """(height, width) of the training pixels of an image of `width` x `height`.

    The shorter side becomes 256/224 of the (shorter) input side, or stays as it is where it is
    shorter than that; the longer one keeps the aspect ratio, up to twice the shorter.
    """
    shorter, longer = sorted((width, height))
    longer = min(longer, TRAIN_MAX_ASPECT * shorter)
    short_side = min(shorter, round(min(preprocessing.size) * TRAIN_MARGIN))
    long_side = round(longer * short_side / shorter)
    return (long_side, short_side) if height > width else (short_side, long_side)


def train_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize to `train_size`: (3, h, w). The ends of a very long image are cropped first."""
    width, height = image.size
    crop_width = min(width, TRAIN_MAX_ASPECT * height)
    crop_height = min(height, TRAIN_MAX_ASPECT * width)
    if (crop_width, crop_height) != (width, height):
        left, top = (width - crop_width) // 2, (height - crop_height) // 2
        image = image.crop((left, top, left + crop_width, top + crop_height))
    new_size = train_size(width, height, preprocessing)[::-1]
    return _channels_first(image.resize(new_size, Image.Resampling.BICUBIC))


@lru_cache(maxsize=8)
def eval_transform(preprocessing: Preprocessing) -> Callable[[Image.Image], Image.Image]:
    """Return open_clip's evaluation transform without its ToTensor and Normalize."""
    # takes seconds to import
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from torchvision.transforms import Compose, Normalize, ToTensor

    config = PreprocessCfg(**asdict(preprocessing))
    *steps, to_tensor, normalize = image_transform_v2(config, is_train=False).transforms
    assert isinstance(to_tensor, ToTensor)
    assert isinstance(normalize, Normalize)
    return Compose(steps)  # type: ignore[no-any-return]


def _channels_first(image: Image.Image) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _check_file(path: Path) -> None:
    """Raise UnreadableImageError, or OSError, where this is no file of a photo's size."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImageError("a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("not a regular file")  # to read a pipe would be to wait for ever
    if status.st_size > MAX_BYTES:
        raise UnreadableImageError(f"too large: {status.st_size / 2**20:,.0f} MiB")


def _check_shape(size: tuple[int, int], preprocessing: Preprocessing) -> None:
    """Refuse what would have no pixel, or billions of them, when it is resized."""
    width, height = size
    target_height, target_width = preprocessing.size
    scales = (target_width / width, target_height / height)
    if preprocessing.resize_mode == "longest":
        is_invalid = min(round(side * min(scales)) for side in size) == 0
    else:
        too_many = width * height * max(scales) ** 2 > 2 * (Image.MAX_IMAGE_PIXELS or 2**30)
        is_invalid = too_many and preprocessing.resize_mode == "shortest"
    if is_invalid:
        raise UnreadableImageError(f"too long and thin: {width} x {height} pixels")


@lru_cache(maxsize=1)
def readable_formats() -> tuple[str, ...]:
    """Select the FORMATS that this build of PIL reads: AVIF needs a library that not all have."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where the EXIF is damaged or says nothing else."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF must not cost the photo, and PIL raises nearly anything on it
        return 1
    return orientation if orientation in range(1, 9) else 1


def _reason(error: Exception, head: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"hevc"):
            return "HEIC, which is not read here: convert it to JPEG"
        if head.startswith((JPEG_START, b"\x89PNG")):
            return "damaged at its beginning"
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    if "truncated" in str(error).lower():
        return "cut short (truncated)"
    detail = printable(" ".join(str(error).split())[:100]) or type(error).__name__
    return f"damaged: {detail}"

"""Decode image files into uint8 pixels for evaluation and training."""

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

# Recognized by content, never by file extension. A fixed list, because some of PIL's other readers
# start programs (EPS calls Ghostscript) or read formats without photos.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")

# Brands of HEIC, and the first bytes of camera raw files that PIL does not take for a TIFF.
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
RAW = (b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM")
RAW_REASON = "camera raw is not supported; export it as JPEG or TIFF"

# How images are fitted to the input, by the names that data.resize has for open_clip's.
RESIZE_MODES = {"crop": "shortest", "pad": "longest", "squash": "squash"}

# TIFF tags, and the photometric interpretations of sensor data.
TAG_SUBFILE, TAG_BITS, TAG_PHOTOMETRIC, TAG_SUB_IFDS, TAG_DNG_VERSION = 254, 258, 262, 330, 50706
CFA = (32803, 34892)

JPEG_START = b"\xff\xd8\xff"

# Files are read whole. No image is this large, but a video in the folder may be.
MAX_BYTES = 512 * 2**20

# The reason for disk errors. They may be temporary, so such a file is tried again later.
UNREADABLE = "cannot be read"

# Training pixels are larger than the input by this factor, which leaves room for random crops.
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
    """Preprocessing that a backbone's weights expect: a hashable open_clip PreprocessCfg.

    `size` is (height, width) in pixels; `mean` and `std` are for RGB values in [0, 1].
    `interpolation` is "bicubic" or "bilinear"; `resize_mode` is "shortest", "longest" or "squash";
    `fill_color` (0 to 255) is the padding for "longest".
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    fill_color: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Build from the dict of `to_dict()` or open_clip, whose `size` may be a single number."""
        size = values["size"]
        pair = (size, size) if isinstance(size, int) else size
        pairs: dict[str, Any] = {"size": tuple(map(int, pair))}
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
    """A file that cannot be decoded; the message is a short reason, to be shown in lists."""


def image_bytes(path: Path) -> bytes:
    """Read an image file; raise UnreadableImageError if it cannot be read or is not a file."""
    try:
        _check_file(path)
        return path.read_bytes()
    except FileNotFoundError:
        reason = "broken link" if path.is_symlink() else "no such file"
        raise UnreadableImageError(reason) from None
    except OSError as error:
        raise UnreadableImageError(f"{UNREADABLE}: {error.strerror or error}") from error


def decode_image(data: bytes) -> Image.Image:
    """Decode an image completely, apply its EXIF orientation and convert it to RGB.

    Converts with PIL's `convert("RGB")`, like open_clip: drops transparency and uses an animation's
    first frame. Gray of more than 8 bits, which PIL would clip at 255, is scaled by its depth.
    Raises UnreadableImageError if it is empty, not an image, a camera's raw file, truncated,
    damaged, or has more pixels than PIL allows.
    """
    if not data:
        raise UnreadableImageError("empty file")
    try:
        if data[8:10] == b"CR":  # Canon's CR2
            raise UnreadableImageError(RAW_REASON)
        with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
            _refuse_raw(image)
            return _upright_rgb(image)
    except UnreadableImageError:
        raise
    # On damaged files PIL's readers raise nearly anything: OSError, SyntaxError, struct.error,
    # zlib.error, IndexError, ...
    except Exception as error:
        raise UnreadableImageError(_reason(error, data[:32])) from error


def convert_image(image: Image.Image) -> Image.Image:
    """Convert an opened image like `decode_image`, without changing `image` itself."""
    try:
        return _upright_rgb(image.copy())
    except UnreadableImageError:
        raise
    except Exception as error:  # as in decode_image
        raise UnreadableImageError(_reason(error, b"")) from error


def _upright_rgb(image: Image.Image) -> Image.Image:
    image.load()
    upright = _UPRIGHT.get(_orientation(image))
    # PIL would compute a transparent color and warn about it; transparency is dropped anyway.
    image.info.pop("transparency", None)
    if image.mode[0] in "IF":
        image = _scale_gray(image)
    rgb: Image.Image = image if image.mode == "RGB" else image.convert("RGB")
    return rgb if upright is None else rgb.transpose(upright)


def _scale_gray(image: Image.Image) -> Image.Image:
    """Scale gray of more than 8 bits to 8: 16 bits by 65535, a TIFF of 12 bits by 4095.

    Floats must be in [0, 1]. Raises UnreadableImageError for other ranges and 32-bit integers.
    """
    values = np.asarray(image).astype(np.float64)
    bits = getattr(image, "tag_v2", {}).get(TAG_BITS, (16,))[0]
    if image.mode == "F":
        top, problem = 1.0, "float gray outside [0, 1]; rescale it"
    else:
        top, problem = 2.0 ** min(bits, 16) - 1, "32-bit integer gray; convert it to 16 bits"
    if not (values >= 0).all() or values.max(initial=0) > top:  # also NaN
        raise UnreadableImageError(problem)
    return Image.fromarray((values * (255 / top)).round().astype(np.uint8))


def _refuse_raw(image: Image.Image) -> None:
    """Raise UnreadableImageError for a camera's raw file, of which PIL reads a preview."""
    tags = getattr(image, "tag_v2", {})
    is_preview = tags.get(TAG_SUBFILE, 0) & 1 and TAG_SUB_IFDS in tags
    if TAG_DNG_VERSION in tags or is_preview or tags.get(TAG_PHOTOMETRIC) in CFA:
        raise UnreadableImageError(RAW_REASON)


def upright_size(path: Path) -> tuple[int, int]:
    """Return (width, height) of `decode_image`'s result, from the header alone if possible.

    Only a JPEG header is enough: a PNG may have its orientation after its pixels, and PIL rotates a
    TIFF while loading it. Other formats are decoded. Raises UnreadableImageError.
    """
    with suppress(Exception):  # decoding raises it again, with the reason
        _check_file(path)
        with path.open("rb") as file:
            if file.read(len(JPEG_START)) == JPEG_START:
                with Image.open(file, formats=readable_formats()) as image:
                    width, height = image.size
                    return (height, width) if _orientation(image) > 4 else (width, height)
    return decode_image(image_bytes(path)).size


def eval_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Apply open_clip's own evaluation preprocessing up to normalization, bit for bit.

    `image` comes from `decode_image`. Returns (3, H, W) of `preprocessing.size`. Raises
    UnreadableImageError if the image is too long and thin for open_clip to resize.
    """
    _check_shape(image.size, preprocessing)
    return _channels_first(eval_transform(preprocessing)(image))


def train_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Return (height, width) of the training pixels of an image of `width` x `height`.

    The shorter side is reduced to 256/224 of the (shorter) input side and never enlarged; the
    longer side keeps the aspect ratio, up to twice the shorter.
    """
    shorter, longer = sorted((width, height))
    longer = min(longer, TRAIN_MAX_ASPECT * shorter)
    short_side = min(shorter, round(min(preprocessing.size) * TRAIN_MARGIN))
    long_side = round(longer * short_side / shorter)
    return (long_side, short_side) if height > width else (short_side, long_side)


def train_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize to `train_size`: (3, h, w). Crops the ends of a very long image first."""
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
    """Raise UnreadableImageError or OSError unless this is a file of at most MAX_BYTES."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImageError("a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableImageError("not a regular file")  # reading a pipe would block forever
    if status.st_size > MAX_BYTES:
        raise UnreadableImageError(f"too large: {status.st_size / 2**20:,.0f} MiB")


def _check_shape(size: tuple[int, int], preprocessing: Preprocessing) -> None:
    """Refuse images that would have no pixels, or billions of them, after resizing."""
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
    """Return the FORMATS that this PIL reads; AVIF and HEIF need optional libraries."""
    Image.init()
    with suppress(ImportError):  # the extra "heic"
        import pi_heif  # type: ignore[import-untyped,unused-ignore]

        pi_heif.register_heif_opener(thumbnails=False)
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) if the EXIF is damaged or has none."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF does not make an image unreadable; PIL raises nearly anything
        return 1
    return orientation if orientation in range(1, 9) else 1


def _reason(error: Exception, head: bytes) -> str:
    if isinstance(error, UnidentifiedImageError):
        if head[4:8] == b"ftyp" and head[8:12] in HEIC:
            if "HEIF" in readable_formats():
                return "damaged HEIC, or a kind that flowertune[heic] cannot read"
            return "HEIC needs pip install 'flowertune[heic]', or convert it to JPEG"
        if head.startswith(RAW) or head[4:12] == b"ftypcrx ":
            return RAW_REASON
        if head.startswith((b"II*\0", b"MM\0*")):
            return "unsupported TIFF (camera raw or 16-bit color); export it as JPEG or 8-bit TIFF"
        if head.startswith((JPEG_START, b"\x89PNG")):
            return "damaged at the start"
        return "not an image"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    if "truncated" in str(error).lower():
        return "truncated"
    detail = printable(" ".join(str(error).split())[:100]) or type(error).__name__
    return f"damaged: {detail}"

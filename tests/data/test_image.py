"""Compare pixels with those of open_clip and PIL."""

import base64
import errno
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageOps, TiffImagePlugin
from torchvision.transforms.functional import normalize

from flowertune.data import image
from flowertune.data.image import (
    Preprocessing,
    UnreadableImageError,
    decode_image,
    eval_pixels,
    image_bytes,
    readable_formats,
    train_pixels,
    train_size,
    upright_size,
)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def preprocessing(size=(224, 224), interpolation="bicubic", resize_mode="shortest", fill=0):
    return Preprocessing(size, MEAN, STD, interpolation, resize_mode, fill)


CONFIGS = [
    preprocessing(),
    preprocessing(interpolation="bilinear"),
    preprocessing((64, 64)),
    preprocessing((64, 64), resize_mode="squash"),
    preprocessing((64, 64), "bilinear", "longest", 127),
    preprocessing((48, 96)),
]


def config_id(config: Preprocessing) -> str:
    return f"{config.resize_mode}-{config.interpolation}-{config.size[0]}x{config.size[1]}"


def noise(width: int, height: int, channels: int = 3) -> np.ndarray:
    values = np.random.default_rng(width * 1000 + height).integers(
        0, 256, (height, width, channels), dtype=np.uint8
    )
    return values[..., 0] if channels == 1 else values


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif_with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def made_photos() -> dict[str, bytes]:
    rgb = Image.fromarray(noise(90, 60))
    palette = rgb.quantize(16)
    photos = {
        "grey JPEG": encoded(Image.fromarray(noise(90, 60, 1)), "JPEG"),
        "CMYK JPEG": encoded(rgb.convert("CMYK"), "JPEG"),
        "palette PNG": encoded(palette, "PNG"),
        "palette PNG, one colour transparent": encoded(palette, "PNG", transparency=3),
        "palette PNG, alpha for each colour": encoded(
            palette, "PNG", transparency=bytes(range(16))
        ),
        "RGBA PNG": encoded(Image.fromarray(noise(90, 60, 4)), "PNG"),
        "1-bit PNG": encoded(rgb.convert("1"), "PNG"),
        "animated GIF": encoded(rgb, "GIF", save_all=True, append_images=[rgb.rotate(180)]),
        "WebP": encoded(rgb, "WEBP"),
        "upright TIFF": encoded(rgb, "TIFF"),
        "turned TIFF": encoded(rgb, "TIFF", exif=exif_with_orientation(6)),
        "turned PNG": encoded(rgb, "PNG", exif=exif_with_orientation(6)),
        "1 pixel wide": encoded(Image.fromarray(noise(1, 40)), "PNG"),
        "1 pixel high": encoded(Image.fromarray(noise(40, 1)), "PNG"),
        "1 x 1": encoded(Image.fromarray(noise(1, 1)), "PNG"),
    }
    for orientation in range(1, 9):
        photos[f"orientation {orientation}"] = encoded(
            rgb, "JPEG", exif=exif_with_orientation(orientation)
        )
    return photos


PHOTOS = made_photos()


def upright_rgb(data: bytes) -> Image.Image:
    """Reference: PIL's own conversion to an upright RGB image."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def assert_equals_open_clip(data: bytes, config: Preprocessing) -> None:
    transform = image_transform_v2(
        PreprocessCfg(
            size=config.size,
            interpolation=config.interpolation,
            resize_mode=config.resize_mode,
            fill_color=config.fill_color,
        ),
        is_train=False,
    )
    reference = transform(upright_rgb(data))
    ours = eval_pixels(decode_image(data), config)
    assert ours.dtype == np.uint8
    assert ours.shape == (3, *config.size)
    pixels = torch.from_numpy(ours).float().div(255)
    assert torch.equal(normalize(pixels, MEAN, STD), reference)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
@pytest.mark.parametrize("config", CONFIGS, ids=config_id)
@pytest.mark.parametrize("kind", PHOTOS)
def test_eval_pixels_are_open_clips_own_bit_for_bit(kind, config):
    assert_equals_open_clip(PHOTOS[kind], config)


@pytest.mark.parametrize("config", CONFIGS, ids=config_id)
def test_eval_pixels_of_real_photos_are_open_clips_own(config, shared_folder):
    photos = sorted(shared_folder("data/flowers17/val").glob("*/*.jpg"))[::29][:12]
    for path in photos:
        assert_equals_open_clip(image_bytes(path), config)


def test_a_photo_is_read_the_same_whatever_its_orientation_tag_says():
    """For all eight orientations: the same scene stored rotated, with the tag that undoes it."""
    scene = Image.fromarray(noise(30, 20))
    turned = {
        1: scene,
        2: scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: scene.transpose(Image.Transpose.ROTATE_180),
        4: scene.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: scene.transpose(Image.Transpose.TRANSPOSE),
        6: scene.transpose(Image.Transpose.ROTATE_90),
        7: scene.transpose(Image.Transpose.TRANSVERSE),
        8: scene.transpose(Image.Transpose.ROTATE_270),
    }
    for orientation, stored in turned.items():
        data = encoded(stored, "PNG", exif=exif_with_orientation(orientation))
        assert np.array_equal(decode_image(data), scene), orientation


@pytest.mark.parametrize("kind", PHOTOS)
def test_the_size_known_beforehand_is_the_size_of_the_picture(kind, tmp_path):
    path = tmp_path / "photo"
    path.write_bytes(PHOTOS[kind])
    assert upright_size(path) == decode_image(PHOTOS[kind]).size


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_an_image_with_damaged_exif_is_readable():
    exif = exif_with_orientation(6).tobytes()
    whole = encoded(Image.fromarray(noise(30, 20)), "JPEG", exif=exif)
    reference = np.asarray(decode_image(encoded(Image.fromarray(noise(30, 20)), "JPEG")))
    start = whole.index(b"Exif\0\0") + 6
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(start, start + len(exif) - 6, 3):
            data[place] = rng.integers(256)
        pixels = np.asarray(decode_image(bytes(data)))
        assert pixels.size == reference.size
    data = bytearray(whole)
    data[start : start + 4] = b"????"
    assert np.array_equal(decode_image(bytes(data)), reference)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"not a picture at all" * 10, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\0\0\0\x18ftypcrx " + bytes(40), "camera raw is not supported; export it"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(40), "camera raw"),
        (b"IIU\0\x18\0\0\0" + bytes(40), "camera raw"),
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "camera raw"),
        (encoded(Image.fromarray(noise(90, 60)), "JPEG")[:-2000], "truncated"),
        (encoded(Image.fromarray(noise(90, 60)), "PNG")[:-2000], "truncated"),
        (encoded(Image.fromarray(noise(90, 60)), "PNG")[:20], "truncated"),
        (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "too large"),
    ],
)
def test_unreadable_images_have_a_reason(data, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        decode_image(data)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_give_an_image_or_a_reason_and_never_crash():
    rng = np.random.default_rng(0)
    reasons = []
    for kind in ("orientation 6", "palette PNG", "animated GIF", "WebP", "turned TIFF"):
        for _ in range(100):
            data = bytearray(PHOTOS[kind])
            for place in rng.integers(4, len(data), 5):
                data[place] = rng.integers(256)
            try:
                assert decode_image(bytes(data)).mode == "RGB"
            except UnreadableImageError as error:
                reasons.append(str(error))
    assert reasons
    assert all(0 < len(reason) < 120 and "\n" not in reason for reason in reasons)


def test_files_that_cannot_be_read_say_why(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round.jpg").symlink_to(tmp_path / "round.jpg")
    for name, reason in [
        ("folder.jpg", "a folder"),
        ("link.jpg", "broken link"),
        ("round.jpg", "cannot be read: Too many levels of symbolic links"),
        ("missing.jpg", "no such file"),
    ]:
        with pytest.raises(UnreadableImageError, match=reason):
            image_bytes(tmp_path / name)
        with pytest.raises(UnreadableImageError, match=reason):
            upright_size(tmp_path / name)


def test_a_disk_error_is_reported(tmp_path, monkeypatch):
    def unreadable(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "photo.jpg").write_bytes(PHOTOS["1 x 1"])
    monkeypatch.setattr(Path, "read_bytes", unreadable)
    with pytest.raises(UnreadableImageError, match=r"cannot be read: Input/output error"):
        image_bytes(tmp_path / "photo.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no named pipes")
def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImageError, match="not a regular file"):
        image_bytes(tmp_path / "pipe.jpg")


def test_a_photo_too_thin_to_resize_is_named_instead_of_crashing():
    with pytest.raises(UnreadableImageError, match="too long and thin: 1 x 500"):
        eval_pixels(Image.new("RGB", (1, 500)), preprocessing(resize_mode="longest"))
    with pytest.raises(UnreadableImageError, match="too long and thin: 40000 x 1"):
        eval_pixels(Image.new("RGB", (40_000, 1)), preprocessing())


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (600, 500, (256, 307)),
        (500, 600, (307, 256)),
        (500, 500, (256, 256)),
        (5000, 500, (256, 512)),  # the longer side is capped at twice the shorter
        (100, 60, (60, 100)),  # never enlarged
        (1000, 100, (100, 200)),
        (1, 1, (1, 1)),
        (1, 500, (2, 1)),
    ],
)
def test_train_size_keeps_the_aspect_up_to_two_and_never_enlarges(width, height, expected):
    assert train_size(width, height, preprocessing()) == expected
    pixels = train_pixels(Image.new("RGB", (width, height)), preprocessing())
    assert pixels.dtype == np.uint8
    assert pixels.shape == (3, *expected)


def test_train_pixels_of_an_ordinary_photo_are_pils_bicubic_resize():
    image = Image.fromarray(noise(600, 500))
    reference = np.asarray(image.resize((307, 256), Image.Resampling.BICUBIC))
    assert np.array_equal(train_pixels(image, preprocessing()), reference.transpose(2, 0, 1))


def test_train_pixels_of_a_long_photo_are_its_middle():
    values = noise(1000, 100)
    pixels = train_pixels(Image.fromarray(values), preprocessing())
    assert np.array_equal(pixels, values[:, 400:600].transpose(2, 0, 1))


def test_preprocessing_comes_back_from_its_dict_and_from_open_clips():
    config = preprocessing((64, 48), resize_mode="squash")
    assert Preprocessing.from_dict(config.to_dict()) == config
    theirs = {"size": 224, "mode": "RGB", "mean": list(MEAN), "std": list(STD)}
    theirs |= {"interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
    assert Preprocessing.from_dict(theirs) == preprocessing()
    assert len({preprocessing(), Preprocessing.from_dict(theirs)}) == 1


GRAY = np.linspace(0, 1, 64 * 48).reshape(48, 64)


def gray_file(kind: str) -> bytes:
    """A ramp from black to white in a format with more than 8 bits."""
    if kind == "PGM 16":
        header = b"P5 64 48 65535\n"
        return header + (GRAY * 65535).round().astype(">u2").tobytes()
    if kind == "TIFF float":
        return encoded(Image.fromarray(GRAY.astype(np.float32)), "TIFF")
    if kind == "TIFF 12":
        values = (GRAY * 4095).round().astype(np.uint16)
        packed = np.stack([values[:, 0::2] >> 4, (values[:, 0::2] & 15) << 4 | values[:, 1::2] >> 8,
                           values[:, 1::2] & 255], axis=-1).astype(np.uint8).tobytes()  # fmt: skip
        tags = [(256, 64), (257, 48), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1),
                (278, 48), (279, len(packed))]  # fmt: skip
        ifd = struct.pack("<H", len(tags))
        ifd += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + ifd + bytes(4)
    image = Image.fromarray((GRAY * 65535).round().astype(np.uint16))
    return encoded(image, kind.split()[0])


@pytest.mark.parametrize("kind", ["PNG 16", "TIFF 16", "PGM 16", "TIFF 12", "TIFF float"])
def test_gray_of_more_than_8_bits_is_scaled_by_its_depth(kind):
    pixels = np.asarray(decode_image(gray_file(kind)))
    assert pixels.shape == (48, 64, 3)
    assert (pixels == pixels[..., :1]).all()
    assert np.abs(pixels[..., 0] - GRAY * 255).max() <= 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((4, 4), 7.5, np.float32), "float gray outside"),
        (np.full((4, 4), np.nan, np.float32), "float gray outside"),
        (np.full((4, 4), 70_000, np.int32), "32-bit integer gray"),
        (np.full((4, 4), -1, np.int32), "32-bit integer gray"),
    ],
)
def test_gray_without_a_known_range_is_refused(values, reason):
    with pytest.raises(UnreadableImageError, match=reason):
        decode_image(encoded(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("tags", [{254: 1, 330: 8}, {50706: b"\1\4\0\0"}, {262: 32803}])
def test_the_preview_of_a_camera_raw_is_not_taken_for_the_image(tags):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    data = encoded(Image.new("RGB", (12, 12)), "TIFF", tiffinfo=info)
    with pytest.raises(UnreadableImageError, match="camera raw"):
        decode_image(data)


# 64 x 48, its left half green and its right half red, encoded with libheif
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAA"
    "AAAAAAAAACJpbG9jAAAAAERAAAEAAQAAAAABoQABAAAAAAAAAGAAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABo"
    "dmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEA"
    "GEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAA"
    "AwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAAB"
    "AAAAMAAAAAEAAAAAAAAAAv////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAAGht"
    "ZGF0AAAAXCgBrwngOSMkv//4oH//8hY//6VDXBOPpEn/8kwN/7mu9RXZV/jr0zpgLMesSpHcWcqi0SACoBeHNpluhz2m"
    "v57yvsGZl2/faGvyRGG6Fib/4DZ9KdWgyYLqh3g+"
)


def test_heic_is_read_with_the_extra():
    pytest.importorskip("pi_heif")
    pixels = np.asarray(decode_image(HEIC)).astype(int)
    assert pixels.shape == (48, 64, 3)
    for x, color in ((8, (40, 120, 60)), (56, (200, 60, 40))):
        assert np.abs(pixels[24, x] - color).max() < 25


@pytest.mark.parametrize("brand", ["heic", "heix", "heim", "heis", "hevc", "hevm", "mif1", "msf1"])
def test_every_brand_of_heic_says_what_to_install(brand, monkeypatch):
    formats = tuple(name for name in readable_formats() if name != "HEIF")
    monkeypatch.setattr(image, "readable_formats", lambda: formats)
    data = b"\0\0\0\x18ftyp" + brand.encode() + b"\0\0\0\0mif1heic" + bytes(99)
    with pytest.raises(UnreadableImageError, match=r"HEIC needs pip install 'flowertune\[heic\]'"):
        decode_image(data)

"""Any image file to the same RGB pixels, or a reason."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from twofold.data.images.csv_pixels import encode_png
from twofold.data.images.decode import ImageError, Limits, count_scans, decode
from twofold.data.images.formats import IMAGE_FORMATS, IMAGE_SUFFIXES, image_format

RAMP = np.linspace(0, 255, 40 * 30).reshape(30, 40).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey_of(content: bytes) -> np.ndarray:
    pixels = np.asarray(decode(content), int)
    assert pixels.shape[2] == 3 and (pixels.max(axis=2) - pixels.min(axis=2)).max() <= 3
    return pixels[..., 0]


@pytest.mark.parametrize("content", [
    saved(Image.fromarray(RAMP), "PNG"), saved(Image.fromarray(RAMP).convert("RGB"), "PNG"),
    saved(Image.fromarray(RAMP).convert("RGBA"), "PNG"), saved(Image.fromarray(RAMP).convert("LA"), "PNG"),
    saved(Image.fromarray(RAMP).quantize(256), "PNG"), saved(Image.fromarray(RAMP).convert("CMYK"), "TIFF"),
    saved(Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG"), saved(Image.fromarray(RAMP), "JPEG", quality=100),
    saved(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"), saved(Image.fromarray(RAMP), "BMP"),
    saved(Image.fromarray(RAMP.astype(np.int32) * 257), "TIFF"), saved(Image.fromarray(RAMP), "WEBP", lossless=True),
], ids=["grey", "rgb", "alpha", "grey-alpha", "palette", "cmyk", "16-bit", "jpeg", "float", "bmp", "int32", "webp"])
def test_every_mode_gives_the_same_grey(content):
    assert np.abs(grey_of(content) - RAMP).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation, kind):
    upright = Image.fromarray(RAMP).convert("RGB")
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if back is None else upright.transpose(Image.Transpose(back))
    shown = np.asarray(decode(saved(stored, kind, exif=exif.tobytes(), quality=100)), int)
    assert shown.shape == (30, 40, 3) and np.abs(shown - np.asarray(upright, int)).max() <= 8


@pytest.mark.parametrize(("kind", "exif"), [("JPEG", b"Exif\0\0\0\x08\0\2\1\x12\0\3"), ("PNG", b"b'Exif\\x00MM"),
                                            ("WEBP", b"Exif\0\0garbage!"), ("JPEG", b"Exif\0\0MM\0*\xff\xff\xff\xff")])
def test_broken_exif_data_is_no_orientation(kind, exif):
    content = saved(Image.fromarray(RAMP), kind, **({} if kind == "JPEG" else {"exif": exif}))
    if kind == "JPEG":
        content = content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + content[2:]
    assert np.abs(grey_of(content) - RAMP).max() <= 16


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_format_of_the_list_is_read_and_identified(suffix):
    kind = next(each.name for each in IMAGE_FORMATS if suffix in each.suffixes)
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    content = saved(Image.fromarray(RAMP).convert("L" if suffix == ".pgm" else "RGB"), kind)
    found = image_format(content[:32])
    assert found and found.name == kind and np.abs(grey_of(content) - RAMP).max() <= 16


def test_a_heic_picture_without_its_library_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"pip install 'twofold\[footage\]'"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))


@pytest.mark.parametrize(("values", "kind"), [
    (RAMP.astype(np.float32), "TIFF"), (RAMP.astype(np.int32), "TIFF"), (RAMP.astype(np.float32), "PPM"),
    (RAMP.astype(np.uint16) * 16, "PNG"), (RAMP.astype(np.uint16) * 16, "TIFF"), (RAMP.astype(np.uint16), "PNG"),
    (RAMP.astype(np.float32) * 257, "TIFF"), (RAMP.astype(np.int32) * (1 << 22), "TIFF"),
    (np.where(RAMP == 0, np.nan, RAMP).astype(np.float32), "TIFF")])
def test_grey_of_many_bits_is_scaled_by_what_it_holds(values, kind):
    assert np.abs(grey_of(saved(Image.fromarray(values), kind)) - RAMP).max() <= 1


def test_tags_say_how_much_a_grey_value_can_be():
    dark = RAMP.astype(np.uint16) // 4  # a dark picture of 12 bits
    shown = grey_of(saved(Image.fromarray(dark * 16), "TIFF", tiffinfo={281: 4095}))
    assert np.abs(shown - RAMP // 4).max() <= 1


def test_a_photograph_over_the_limit_is_decoded_smaller_where_that_is_allowed():
    content = saved(Image.fromarray(RAMP).resize((400, 300)), "JPEG")
    assert decode(content, Limits(pixels=40_000, memory=1 << 30, shrink=True)).size == (200, 150)
    with pytest.raises(ImageError, match="more than 40000 pixels"):
        decode(content, Limits(pixels=40_000, memory=1 << 30))


def test_pictures_in_endless_parts_are_refused_before_they_are_opened():
    png, jpeg = (saved(Image.fromarray(RAMP), kind) for kind in ("PNG", "JPEG"))
    text = struct.pack(">I", 3) + b"tEXta\0b" + struct.pack(">I", zlib.crc32(b"tEXta\0b"))
    for content, reason in ((png[:33] + text * 30_000 + png[33:], "more than 20000 chunks"),
                            (png[:-12] + text * 30_000 + png[-12:], "more than 20000 chunks"),
                            (jpeg[:2] + b"\xff\xfe\0\2" * 30_000 + jpeg[2:], "more than 20000 headers"),
                            (b"P3\n3000 3000\n255\n" + b"0 " * 15_000_000, "written as text in more than 20 MB")):
        with pytest.raises(ImageError, match=reason):
            decode(content)
    assert (grey_of(png[:33] + text * 500 + png[33:]) == RAMP).all()


def test_scans_without_end_are_refused_before_they_are_decoded():
    content = saved(Image.fromarray(RAMP).convert("RGB"), "JPEG", progressive=True)
    scan = content.rfind(b"\xff\xda")
    header = content[scan:scan + 2 + int.from_bytes(content[scan + 2:scan + 4], "big")]
    assert count_scans(content) == content.count(b"\xff\xda") > 5
    with pytest.raises(ImageError, match="progressive JPEG of 50"):
        decode(content[:-2] + (header + b"\0") * 5000 + content[-2:])
    decode(content + b"\xff\xda" * 5000)  # a video behind the picture, as phones append it


def test_what_is_transparent_is_white():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    assert np.asarray(decode(saved(image, "PNG"))).tolist() == [[[255, 255, 255], [10, 20, 30]]]
    keyed = saved(Image.fromarray(np.array([[7, 200]], np.uint8)), "PNG", transparency=7)
    assert np.asarray(decode(keyed))[0, :, 0].tolist() == [255, 200]


def test_bombs_are_refused_before_they_are_opened():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    for side in (9_000, 60_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        with pytest.raises(ImageError, match="more than 64000000 pixels"):
            decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


@pytest.mark.parametrize(("content", "reason"), [
    (b"", "empty file"), (b"<html>", "not an image"), (saved(Image.fromarray(RAMP), "JPEG")[:300], "truncated image"),
    (b"\x89PNG\r\n\x1a\n", "not an image")])
def test_reasons_are_short_and_the_same(content, reason):
    with pytest.raises(ImageError) as caught:
        decode(content)
    assert str(caught.value) in (reason, "damaged image") and "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_never_escapes(data):
    content = bytearray(saved(Image.fromarray(RAMP), data.draw(st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "TIFF"]))))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode(bytes(content)).mode == "RGB"
    except ImageError as error:
        assert 0 < len(str(error)) < 60


@given(st.integers(1, 300), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_our_own_png_is_one(side, seed):
    grey = np.random.default_rng(seed).integers(0, 256, (side, side)).astype(np.uint8)
    assert (np.asarray(decode(encode_png(grey.tobytes(), side)))[..., 0] == grey).all()


@pytest.mark.parametrize("kind", ["EPS", "PCX"])
def test_formats_that_are_no_photographs_are_not_opened(kind):
    """Pillow hands an EPS file to Ghostscript, whatever the file is called: a dataset must not run programs."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    with pytest.raises(ImageError, match="not an image"):
        decode(file.getvalue())

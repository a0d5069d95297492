"""Any image file to the same RGB pixels, or a reason; each bad one is a recorded failure, and the run goes on."""

import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from twofold.cache.store import Store
from twofold.data.images import deep
from twofold.data.images.csv_pixels import encode_png
from twofold.data.images.decode import (
    FACE_LIMITS,
    LEFT_OUT,
    PHOTO_LIMITS,
    REMARKS,
    ImageError,
    Limits,
    decode,
)
from twofold.data.images.formats import IMAGE_FORMATS, IMAGE_SUFFIXES, image_format
from twofold.data.images.limits import count_scans, tiff_images, tiff_pages

BACKBONE = "timm:test_resnet"
ENCODER = ("--backbones", BACKBONE, "--weights", f"{BACKBONE}=random:0", "--device", "cpu", "--precision", "fp32")
RAMP = np.linspace(0, 255, 40 * 30).reshape(30, 40).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def grey_of(content: bytes) -> np.ndarray:
    pixels = np.asarray(decode(content), int)
    assert pixels.shape[2] == 3 and (pixels.max(axis=2) - pixels.min(axis=2)).max() <= 3
    return pixels[..., 0]


@pytest.mark.parametrize(("mode", "kind", "options"), [
    ("L", "PNG", {}), ("RGB", "PNG", {}), ("RGBA", "PNG", {}), ("LA", "PNG", {}), ("P", "PNG", {}),
    ("CMYK", "TIFF", {}), ("L", "JPEG", {"quality": 100}), ("L", "BMP", {}), ("L", "WEBP", {"lossless": True})])
def test_every_mode_gives_the_same_grey(mode, kind, options):
    grey = Image.fromarray(RAMP)
    image = grey.quantize(256) if mode == "P" else grey.convert(mode)
    assert np.abs(grey_of(saved(image, kind, **options)) - RAMP).max() <= 3


@pytest.mark.parametrize(("dtype", "factor", "kind"), [
    ("f4", 1, "TIFF"), ("f4", 1, "PPM"), ("f4", 257, "TIFF"), ("f4", 1 / 255, "TIFF"), ("i4", 1, "TIFF"),
    ("i4", 257, "TIFF"), ("i4", 1 << 22, "TIFF"), ("u2", 4, "PNG"), ("u2", 64, "TIFF"), ("i4", 4, "TIFF"),
    ("f4", 4, "TIFF"), ("f4", 64, "TIFF"), ("u2", 1, "PNG"), ("u2", 16, "PNG"), ("u2", 16, "TIFF"),
    ("u2", 257, "PNG"), ("nan", 1, "TIFF")])
def test_grey_of_many_bits_is_scaled_by_what_it_holds(dtype, factor, kind):
    values = np.where(RAMP == 0, np.nan, RAMP).astype("f4") if dtype == "nan" else (
        RAMP.astype("f8") * factor).astype(dtype)
    assert np.abs(grey_of(saved(Image.fromarray(values), kind)) - RAMP).max() <= 1


def retagged(tiff: bytes, *tags: tuple[int, int, int]) -> bytes:
    """A TIFF file of Pillow with other tags in the place of some: number before, number after, value."""
    for before, after, value in tags:
        place = tiff.index(struct.pack("<HHI", before, 3, 1))
        tiff = tiff[:place] + struct.pack("<HHIH", after, 3, 1, value) + tiff[place + 10:]
    return tiff


def test_grey_of_32_bits_without_sign():
    values = (RAMP.astype("u4") << 24).view("i4")
    assert np.abs(grey_of(retagged(saved(Image.fromarray(values), "TIFF"), (339, 339, 1))) - RAMP).max() <= 1


FLOATS = saved(Image.fromarray(np.zeros((8, 8), "f4")), "TIFF")
#: positions of few values among RAMP's 1200, for each kind of error
FEW = {"burnt": np.s_[:2, :5], "hot": np.s_[3:4, 7:8], "none": np.s_[:0]}


@pytest.mark.parametrize(("dtype", "factor", "offset", "few", "value", "kind"), [
    ("f4", 1 / 255, 0, "hot", 1.02, "TIFF"), ("f4", 1 / 255, 0, "hot", 40, "TIFF"), ("f4", 1, 0, "hot", 264, "TIFF"),
    ("f4", 1, 0, "hot", 1e7, "TIFF"), ("f4", 1.1, -10, "none", 0, "TIFF"), ("f4", 2 / 255, -1, "none", 0, "TIFF"),
    ("f4", 4 / 255, -2, "none", 0, "TIFF"), ("f4", 4 / 255, -2, "hot", -900, "TIFF"),
    ("i4", 1 << 23, -(1 << 30), "none", 0, "TIFF"), ("u2", 16, 0, "burnt", 65535, "PNG"),
    ("u2", 64, 0, "burnt", 65535, "PNG"), ("u2", 4, 0, "burnt", 65535, "TIFF"), ("u2", 1, 0, "burnt", 65535, "PNG")])
def test_few_values_and_negative_ones_do_not_darken_a_picture(dtype, factor, offset, few, value, kind):
    values = (RAMP.astype("f8") * factor + offset).astype(dtype)
    values[FEW[few]] = value
    differences = np.abs(grey_of(saved(Image.fromarray(values), kind)) - RAMP)
    differences[FEW[few]] = 0
    assert differences.max() <= (14 if factor == 1.1 else 1)


@pytest.mark.parametrize(("values", "white"), [
    (np.where(RAMP > 253, 30_000, RAMP.astype("u2") * 16), 65535), (np.where(RAMP > 254, 4095.0, RAMP // 2), 4095),
    (np.where(RAMP < 20, -5.0, RAMP), 255), (np.where(RAMP < 100, -9999.0, RAMP), 255)])
def test_a_night_with_lamps_and_values_for_no_data_stay_dark(values, white):
    values = values.astype("u2" if white == 65535 else "f4")
    shown = np.floor(np.clip(values.astype(float) * (255.0 / white) + 0.5, 0, 255))
    assert (grey_of(saved(Image.fromarray(values), "TIFF")) == shown).all()


@pytest.mark.parametrize("kind", [".png", ".tif"])
@pytest.mark.parametrize("factor", [1, 4, 16, 64, 257])
@pytest.mark.parametrize("alpha", [None, 0, 65535])
def test_colours_of_many_bits_are_scaled_by_what_they_hold(kind, factor, alpha):
    cv2 = pytest.importorskip("cv2")
    colours = np.dstack([RAMP, 255 - RAMP, RAMP // 2])
    stored = (colours[..., ::-1].astype(int) * factor).astype(np.uint16)
    stored = stored if alpha is None else np.dstack([stored, np.full((30, 40), alpha or 255 * factor, np.uint16)])
    for options in ([], [cv2.IMWRITE_TIFF_COMPRESSION, 1]):
        shown = np.asarray(decode(cv2.imencode(kind, stored, options)[1].tobytes())).astype(int)
        assert np.abs(shown - colours).max() <= 1


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def grey_png_with_alpha(factor: int) -> bytes:
    values = np.dstack([RAMP.astype(int) * factor, np.full((30, 40), 65535)]).astype(">u2")
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 30, 16, 4, 0, 0, 0))
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff_of_planes(factor: int) -> bytes:
    """Three planes of 16 bits, one after the other, without compression."""
    planes, at = (RAMP.astype(int) * factor).astype(">u2").tobytes() * 3, 8 + 3 * 2400
    places = struct.pack(">6I3H", *range(8, at, 2400), *[2400] * 3, 16, 16, 16)
    tags = ((256, 40, 1), (257, 30, 1), (258, at + 24, 3), (259, 1, 1), (262, 2, 1), (273, at, 3), (277, 3, 1),
            (278, 30, 1), (279, at + 12, 3), (284, 2, 1))
    entries = b"".join(struct.pack(">HHI", tag, 3 if tag == 258 else 4, count) + struct.pack(">I", value)
                       for tag, value, count in tags)
    header = struct.pack(">2sHI", b"MM", 42, at + 30)
    return header + planes + places + struct.pack(">H", len(tags)) + entries + bytes(4)


def ppm_of_16_bits(factor: int) -> bytes:
    return b"P6\n# 16 bits\n40 30\n65535\n" + (np.dstack([RAMP] * 3).astype(int) * factor).astype(">u2").tobytes()


def tiff_whose_white_is_zero(factor: int) -> bytes:
    return saved(Image.fromarray(((255 - RAMP).astype(int) * factor).astype(np.uint16)), "TIFF", tiffinfo={262: 0})


def ppm_in_words(factor: int) -> bytes:
    words = " ".join(map(str, (np.dstack([RAMP] * 3).astype(int) * factor).reshape(-1)))
    return f"P3\n40 30\n65535\n# and these\n{words}\n".encode()


@pytest.mark.parametrize("made", [grey_png_with_alpha, tiff_of_planes, ppm_of_16_bits, ppm_in_words,
                                  tiff_whose_white_is_zero])
@pytest.mark.parametrize("factor", [1, 4, 16, 64, 257])
def test_other_pictures_of_16_bits_a_channel_are_scaled_too(made, factor):
    assert np.abs(grey_of(made(factor)) - RAMP).max() <= 1


@pytest.mark.parametrize("kind", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_text_burnt_into_colours_does_not_darken_them(kind, channels):
    cv2 = pytest.importorskip("cv2")
    stored = np.dstack([RAMP.astype(np.uint16) * 16] * 3 + [np.full((30, 40), 65535, np.uint16)] * (channels - 3))
    stored[:2, :5] = 65535
    shown = grey_of(cv2.imencode(kind, stored)[1].tobytes())
    assert (shown[:2, :5] == 255).all() and np.abs(shown - RAMP)[2:].max() <= 1


def test_dark_pictures_that_say_what_is_white_stay_dark():
    dark = RAMP.astype(np.uint16) // 16 * 257  # of 8 bits, stretched
    png = saved(Image.fromarray(RAMP.astype(np.uint16)), "PNG")
    for content, shown in (
            (saved(Image.fromarray(dark), "PNG"), RAMP // 16),
            (b"P5\n40 30\n4095\n" + RAMP.astype(">u2").tobytes(), RAMP // 16),
            (b"P6\n40 30\n4095\n" + np.repeat(RAMP.astype(">u2"), 3).tobytes(), RAMP // 16),
            (png[:33] + chunk(b"sBIT", b"\x0a") + png[33:], RAMP // 4),
            (saved(Image.fromarray(RAMP.astype(np.uint16)), "TIFF", tiffinfo={50717: 1023}), RAMP // 4)):
        assert np.abs(grey_of(content) - shown).max() <= 1 and not decode(content).info[REMARKS]


def test_what_was_guessed_or_left_out_is_said():
    images = [Image.fromarray(RAMP.astype(np.uint16) * 4), Image.fromarray(RAMP), Image.fromarray(255 - RAMP)]
    (guess, times), = decode(saved(images[0], "PNG")).info[REMARKS].items()
    assert times == 1 and "0 taken for black, 1023 for white" in guess
    assert not decode(saved(images[1], "PNG")).info[REMARKS]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF"):
        several = saved(images[1], kind, save_all=True, append_images=[images[2], images[1]])
        assert decode(several).info[REMARKS] == {LEFT_OUT: 2}
        assert np.abs(np.asarray(decode(several), int)[..., 0] - RAMP).mean() < 3


def test_a_preview_before_the_page_of_a_tiff_is_not_taken_for_it():
    both = saved(Image.fromarray(RAMP[:10, :10]), "TIFF", save_all=True, append_images=[Image.fromarray(RAMP)],
                 tiffinfo={254: 0})
    both = both.replace(struct.pack("<HHII", 254, 4, 1, 0), struct.pack("<HHII", 254, 4, 1, 1), 1)
    assert len(tiff_pages(both)) == 2 and len(tiff_images(both)) == 1
    assert (grey_of(both) == RAMP).all() and not decode(both).info[REMARKS]
    pages = [Image.fromarray(RAMP), Image.fromarray(255 - RAMP)]
    big = saved(pages[0], "TIFF", big_tiff=True, save_all=True, append_images=pages[1:])
    assert [(grey_of(page) == grey).all() for page, grey in zip(tiff_images(big), (RAMP, 255 - RAMP), strict=True)]


def test_a_heic_picture_of_ten_bits_is_not_dark():
    pillow_heif = pytest.importorskip("pillow_heif")
    file, colours = io.BytesIO(), np.dstack([RAMP] * 3).astype(np.uint16) * 16
    pillow_heif.from_bytes("RGB;16", (40, 30), colours.tobytes()).save(file)
    assert np.abs(grey_of(file.getvalue()) - RAMP).max() <= 12


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


@pytest.mark.parametrize("verb", ["crop", "extract"])
def test_help_names_formats_and_limits(verb, cli):
    shown = "".join(cli(verb, "--help").stdout.split()).lower()
    names = [each.name.lower().replace("heif", "heic") for each in IMAGE_FORMATS]
    assert all(words in shown for words in (*names, "256mb", "60seconds"))


def test_a_heic_picture_without_its_library_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"pip install 'twofold\[footage\]'"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))


def test_tags_say_how_much_a_grey_value_can_be():
    dark = RAMP.astype(np.uint16) // 4  # a dark picture of 12 bits
    shown = grey_of(saved(Image.fromarray(dark * 16), "TIFF", tiffinfo={281: 4095}))
    assert np.abs(shown - RAMP // 4).max() <= 1


def test_a_photograph_of_200_megapixels_is_decoded_smaller():
    content = saved(Image.new("L", (16_400, 12_300), 90), "JPEG")  # more than Pillow opens by itself
    assert decode(content).size == (8_200, 6_150)
    with pytest.raises(ImageError, match="more than 25000000 pixels"):
        decode(content, FACE_LIMITS)
    content = saved(Image.new("RGB", (4_000, 3_000)), "JPEG", progressive=True)
    with pytest.raises(ImageError, match="decoding takes more than 68 MB"):  # all of it is kept between the scans
        decode(content, Limits(pixels=4_000_000, memory=68 << 20, shrink=True))


def test_a_picture_that_takes_too_long_is_refused_while_it_is_decoded(monkeypatch):
    noise = Image.effect_noise((400, 400), 90)
    for kind in ("JPEG", "PNG", "BMP", "JPEG2000"):
        content = saved(noise, kind)
        assert decode(content).size == (400, 400)
        with monkeypatch.context() as patch:
            clock = iter(range(1000))
            patch.setattr("twofold.data.images.limits.time.thread_time", lambda clock=clock: 25.0 * next(clock))
            with pytest.raises(ImageError, match="decoding takes more than 60 seconds"):
                decode(content)


def test_pictures_in_endless_parts_are_refused_before_they_are_opened():
    png, jpeg = (saved(Image.fromarray(RAMP), kind) for kind in ("PNG", "JPEG"))
    gif = saved(Image.fromarray(RAMP), "GIF")
    count = 400_000  # places of tiles of a pixel each
    tiled = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 324, 4, count, 26) + bytes(4 + 4 * count)
    text = struct.pack(">I", 3) + b"tEXta\0b" + struct.pack(">I", zlib.crc32(b"tEXta\0b"))
    for content, reason in ((png[:33] + text * 30_000 + png[33:], "more than 20000 chunks"),
                            (png[:-12] + text * 30_000 + png[-12:], "more than 20000 chunks"),
                            (jpeg[:2] + b"\xff\xfe\0\2" * 30_000 + jpeg[2:], "more than 20000 headers"),
                            (gif[:-1] + b"\x21\xfe" + b"\x01x" * 30_000 + b"\0;", "GIF of more than 20000 blocks"),
                            (gif[:-1] + b"\x2c" + bytes(9) + b"\x01x" * 1_300_000, "GIF of more than 1200000"),
                            (tiled, "TIFF of more than 300000 strips, tiles"),
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
    for side in (9_000, 60_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        with pytest.raises(ImageError, match="more than 64000000 pixels"):
            decode(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))




def test_jpeg_2000_colours_of_16_bits_are_right_or_refused():
    cv2 = pytest.importorskip("cv2")
    colours = np.kron(np.dstack([RAMP] * 3), np.ones((8, 8, 1))).astype(np.uint16)
    lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    for stored in (colours * 257, np.dstack([colours * 257, np.full((240, 320), 65535, np.uint16)])):
        shown = np.asarray(decode(cv2.imencode(".jp2", stored, lossless)[1].tobytes()), int)
        assert np.abs(shown - colours).max() <= 9 and (shown == 255).any()  # white, and nothing is transparent
    with pytest.raises(ImageError, match="14 or fewer bits in 16"):
        decode(cv2.imencode(".jp2", colours * 16, lossless)[1].tobytes())


def test_a_large_jpeg_2000_picture_is_decoded_in_a_process_that_can_be_ended(monkeypatch):
    image = Image.fromarray(np.dstack([RAMP, 255 - RAMP, RAMP // 2]))
    pictures = [saved(image.convert(mode), "JPEG2000") for mode in ("RGB", "RGBA", "L")]
    here = [np.asarray(decode(content)).tolist() for content in pictures]
    monkeypatch.setattr("twofold.data.images.deep.LOADED_HERE", 0)
    assert [np.asarray(decode(content)).tolist() for content in pictures] == here
    with pytest.raises(ImageError, match="damaged image"):
        decode(pictures[0][:-300])
    monkeypatch.setattr("twofold.data.images.deep.MAX_SECONDS", 1.0)
    monkeypatch.setattr("twofold.data.images.deep.LOADER", deep.LOADER + "while True: pass")
    with pytest.raises(ImageError, match="decoding takes more than 1 seconds"):
        decode(pictures[0])


def raw_file(*tags: tuple[int, int, int, int]) -> bytes:
    """A TIFF of one page of 8-bit grey, RAMP, with these tags: number, type, count, value."""
    tags = ((256, 4, 1, 40), (257, 4, 1, 30), (258, 3, 1, 8), (259, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1),
            (278, 4, 1, 30), (279, 4, 1, 1200), *tags)
    return (b"II*\0" + struct.pack("<I", 1208) + RAMP.tobytes() + struct.pack("<H", len(tags))
            + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags)) + bytes(4))


def test_a_raw_file_is_not_taken_for_its_preview_nor_signed_values_for_others():
    grey, preview, below = (262, 3, 1, 1), (254, 4, 1, 1), (330, 4, 1, 8)
    assert all((grey_of(raw_file(*tags)) == RAMP).all() for tags in ([grey], [grey, preview], [grey, below]))
    with pytest.raises(ImageError, match="raw file, of which only a preview"):
        decode(raw_file(grey, preview, below))
    with pytest.raises(ImageError, match="8-bit signed samples"):
        decode(raw_file(grey, (339, 3, 1, 2)))


@pytest.mark.parametrize("factor", [1, 256, 257])
def test_a_palette_of_8_bits_in_16_is_not_black(factor):
    content = raw_file((262, 3, 1, 3), (320, 3, 768, 1400))
    palette = (np.tile(np.arange(256), 3) * factor).astype("<u2").tobytes()
    assert (grey_of(content.ljust(1400, b"\0") + palette) == RAMP).all()


@pytest.mark.parametrize(("content", "reason"), [
    (retagged(FLOATS, (258, 258, 64)), "TIFF of 1 x 64-bit floating-point samples, which is not read"),
    (retagged(FLOATS, (284, 277, 3)), "TIFF of 3 x 32-bit floating-point samples, which is not read"),
    (b"", "empty file"), (b"<html>", "not an image"), (saved(Image.fromarray(RAMP), "JPEG")[:300], "truncated image"),
    (b"\x89PNG\r\n\x1a\n", "not an image"),  # below: Pillow hands an EPS file to Ghostscript, whatever its name is
    (saved(Image.new("RGB", (8, 8)), "EPS"), "not an image"), (saved(Image.new("RGB", (8, 8)), "PCX"), "not an image")])
def test_reasons_are_short_and_the_same(content, reason):
    with pytest.raises(ImageError) as caught:
        decode(content)
    assert str(caught.value) in (reason, "damaged image") and "\n" not in str(caught.value)


@given(st.integers(1, 300), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_our_own_png_is_one(side, seed):
    grey = np.random.default_rng(seed).integers(0, 256, (side, side)).astype(np.uint8)
    assert (np.asarray(decode(encode_png(grey.tobytes(), side)))[..., 0] == grey).all()


def jpeg_with_exif(kind: int, count: int, value: bytes, *, tag: int = 0x0112) -> bytes:
    """A small JPEG whose only EXIF tag is of that type and value."""
    entry = struct.pack(">HHI", tag, kind, count) + value.ljust(4, b"\0")[:4]
    tiff = b"MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0)
    body = b"Exif\0\0" + tiff
    plain = saved(Image.new("RGB", (40, 40), "gray"), "JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


#: orientation as text, as fractions, as floats, as an offset far outside, as a type that does not exist
WRONG_EXIF = [jpeg_with_exif(2, 4, b"6abc"), jpeg_with_exif(5, 1, b"\0\0\0\1"), jpeg_with_exif(12, 9, b"\xff" * 4),
              jpeg_with_exif(7, 4, b"\xff" * 4), jpeg_with_exif(99, 1, b"\0\6\0\0"), jpeg_with_exif(3, 2**31, b"\0\6")]


def test_an_error_of_any_kind_within_a_decoder_is_a_reason(monkeypatch):
    """Pillow's decoders have raised each of these on files that were sent to them."""
    for error in (AttributeError("x"), struct.error("unpack"), ZeroDivisionError(), AssertionError(), RuntimeError(),
                  RecursionError(), NotImplementedError(), UnicodeDecodeError("utf-8", b"", 0, 1, "x")):
        def fail(*_args, error=error, **_options):
            raise error
        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(ImageError, match="damaged image"):
            decode(b"x")
    monkeypatch.setattr(Image, "open", lambda *_args, **_options: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ImageError, match="not enough memory"):
        decode(b"x")


def test_limits_bound_pixels_and_memory():
    white = Image.new("L", (200, 100))
    assert decode(saved(white, "PNG"), Limits(pixels=20_000, memory=1 << 20)).size == (200, 100)
    with pytest.raises(ImageError, match="more than 19999 pixels"):
        decode(saved(white, "PNG"), Limits(pixels=19_999, memory=1 << 20))
    with pytest.raises(ImageError, match="decoding takes more than 0 MB"):
        decode(saved(white, "WEBP"), Limits(pixels=20_000, memory=300_000))  # a PNG of that size would take 240,000
    photograph = saved(white.resize((400, 300)), "JPEG")
    assert decode(photograph, Limits(pixels=40_000, memory=1 << 30, shrink=True)).size == (200, 150)
    with pytest.raises(ImageError, match="more than 40000 pixels"):
        decode(photograph, Limits(pixels=40_000, memory=1 << 30))
    assert PHOTO_LIMITS.pixels > FACE_LIMITS.pixels
    assert FACE_LIMITS.scaled_to(50_000_000) == Limits(pixels=50_000_000, memory=2 * FACE_LIMITS.memory)


PEAK = """
import sys
from pathlib import Path
from twofold.data.images import decode
decode.decode(Path(sys.argv[1]).with_suffix(".small").read_bytes())
status = Path("/proc/self/status")
peak = lambda: next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
content = Path(sys.argv[1]).read_bytes()
Path("/proc/self/clear_refs").write_text("5")
before = peak()
try:
    size = decode.decode(content, decode.FACE_LIMITS).size
except decode.ImageError:
    size = (1, 1)
print((peak() - before) / 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize(("mode", "kind", "side"), [
    ("RGB", "WEBP", 4600), ("RGB", "WEBP", 8000), ("I;16", "PNG", 4900)])
def test_memory_stays_within_the_limit(tmp_path, mode, kind, side):
    """2 kB of WebP took 1.2 GB, a 16-bit PNG 1.7 GB."""
    for path, size in ((tmp_path / "a.small", 8), (tmp_path / "a.img", side)):
        grey = np.zeros((size, size), np.uint16 if mode == "I;16" else np.uint8)
        image = Image.fromarray(grey)
        path.write_bytes(saved(image if mode == "I;16" else image.convert(mode), kind,
                               **({"lossless": True, "method": 0} if kind == "WEBP" else {})))
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path / "a.img"], capture_output=True, text=True, check=True)
    assert float(done.stdout) < (FACE_LIMITS.memory >> 20), done.stdout


@pytest.fixture
def bad_folder(tmp_path, put) -> Path:
    """Two good faces among everything that ended or hung a run."""
    root = tmp_path / "faces"
    put(root / "a good.jpg", 1)
    put(root / "z good.jpg", 2)
    (root / "loop.jpg").symlink_to("loop.jpg")
    (root / "loop2.jpg").symlink_to("loop3.jpg")
    (root / "loop3.jpg").symlink_to("loop2.jpg")
    (root / "dangling.jpg").symlink_to("nothing.jpg")
    os.mkfifo(root / "pipe.jpg")
    with (root / "sparse.jpg").open("wb") as file:
        file.truncate(40 << 30)
    (root / "folder.jpg").mkdir()
    (root / "empty.jpg").touch()
    (root / "exif.jpg").write_bytes(WRONG_EXIF[0])
    (root / "exif2.jpg").write_bytes(WRONG_EXIF[2])
    (root / "bomb.png").write_bytes(saved(Image.new("1", (7000, 7000)), "PNG"))
    Image.new("L", (40, 40)).save(root / "m.gif", save_all=True, append_images=[Image.new("L", (40, 40), 90)])
    (root / "long.jpg").write_bytes(saved(Image.new("L", (1, 60_000)), "PNG"))
    return root


def test_each_bad_face_is_a_recorded_failure_at_every_rerun(bad_folder, tmp_path, cli):
    keys = sorted(path.name for path in bad_folder.iterdir())
    (tmp_path / "faces.csv").write_text("key\n" + "".join(f"{key}\n" for key in [*keys, "absent.jpg"]))
    words = ["extract", tmp_path / "faces.csv", "--root", bad_folder, "--store", tmp_path / "store", *ENCODER,
             "--batch-size", "4"]
    for options in ([], ["--retry-failures", "--recheck"]):
        done = cli(*words, *options)
        assert done.returncode in (0, 1), done.stderr
        file = Store(tmp_path / "store").find(BACKBONE)
        good = [key for key in file.keys if not key.startswith("exif")]
        assert good == ["a good.jpg", "m.gif", "z good.jpg"]
        assert options or "  1 frames or pages after the first of a file are left out" in done.stdout
        assert {key: reason for key, reason in file.failures.items() if not key.startswith("exif")} == {
            "absent.jpg": "missing file", "bomb.png": "more than 25000000 pixels", "dangling.jpg": "missing file",
            "empty.jpg": "empty file", "folder.jpg": "unreadable file (Is a directory)",
            "long.jpg": "too long and thin: 1 x 60000",
            "loop.jpg": "unreadable file (Too many levels of symbolic links)",
            "loop2.jpg": "unreadable file (Too many levels of symbolic links)",
            "loop3.jpg": "unreadable file (Too many levels of symbolic links)",
            "pipe.jpg": "unreadable file (not a regular file)", "sparse.jpg": "file larger than 256 MB"}
    done = cli(*words, "--retry-failures", "--max-pixels", "49000000")
    larger = Store(tmp_path / "store").find(BACKBONE)
    assert "bomb.png" in larger.keys and larger.path.name == file.path.name, done.stderr
    checked = cli("manifest", "check", tmp_path / "faces.csv", "--root", bad_folder)
    assert checked.returncode == 1 and "1 samples: file larger than 256 MB (sparse.jpg)" in checked.stdout
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 << 20  # kB: nobody read 40 GB

"""Whatever lies in a folder of faces: each bad one is a recorded failure, and the run goes on."""

import io
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from twofold.cache.store import Store
from twofold.data.images.decode import FACE_LIMITS, PHOTO_LIMITS, ImageError, Limits, decode
from twofold.data.images.sources import open_images

BACKBONE = "torchvision:mobilenet_v2"
ENCODER = ("--backbones", BACKBONE, "--weights", f"{BACKBONE}=random:0", "--device", "cpu", "--precision", "fp32")


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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


@pytest.mark.parametrize("content", WRONG_EXIF)
def test_wrongly_typed_exif_is_a_reason_or_no_matter(content):
    try:
        assert decode(content).size == (40, 40)
    except ImageError as error:
        assert str(error) in ("damaged EXIF data", "damaged image", "truncated image")


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


ZOO = [saved(Image.effect_noise((40, 30), 90).convert(mode), kind) for mode, kind in (
    ("RGB", "JPEG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("RGB", "TIFF"), ("RGB", "WEBP"), ("RGB", "BMP"),
    ("L", "PPM"), ("RGB", "JPEG2000"))] + WRONG_EXIF


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ZOO), st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=6))
def test_files_with_wrong_bytes_give_a_picture_or_a_reason(content, changes):
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        assert decode(bytes(damaged), Limits(pixels=1 << 20, memory=1 << 25)).mode == "RGB"
    except ImageError as error:
        assert str(error) and "\n" not in str(error)


def test_limits_bound_pixels_and_memory():
    white = Image.new("L", (200, 100))
    assert decode(saved(white, "PNG"), Limits(pixels=20_000, memory=1 << 20)).size == (200, 100)
    with pytest.raises(ImageError, match="more than 19999 pixels"):
        decode(saved(white, "PNG"), Limits(pixels=19_999, memory=1 << 20))
    with pytest.raises(ImageError, match="decoding takes more than 0 MB"):
        decode(saved(white, "WEBP"), Limits(pixels=20_000, memory=300_000))  # a PNG of that size would take 240,000
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
        assert good == ["a good.jpg", "z good.jpg"]
        assert {key: reason for key, reason in file.failures.items() if not key.startswith("exif")} == {
            "absent.jpg": "missing file", "bomb.png": "more than 25000000 pixels", "dangling.jpg": "missing file",
            "empty.jpg": "empty file", "folder.jpg": "unreadable file (Is a directory)",
            "long.jpg": "too long and thin: 1 x 60000",
            "loop.jpg": "unreadable file (Too many levels of symbolic links)",
            "loop2.jpg": "unreadable file (Too many levels of symbolic links)",
            "loop3.jpg": "unreadable file (Too many levels of symbolic links)",
            "pipe.jpg": "unreadable file (not a regular file)", "sparse.jpg": "file larger than 256 MB"}
    checked = cli("manifest", "check", tmp_path / "faces.csv", "--root", bad_folder)
    assert checked.returncode == 1 and "1 samples: file larger than 256 MB (sparse.jpg)" in checked.stdout
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 << 20  # kB: nobody read 40 GB


def test_a_larger_limit_is_an_option_of_extract(bad_folder, tmp_path, cli):
    (tmp_path / "faces.csv").write_text("key\nbomb.png\n")
    words = ["extract", tmp_path / "faces.csv", "--root", bad_folder, "--store", tmp_path / "store", *ENCODER,
             "--batch-size", "1"]
    cli(*words)
    name = Store(tmp_path / "store").find(BACKBONE).path.name
    done = cli(*words, "--retry-failures", "--max-pixels", "49000000")
    file = Store(tmp_path / "store").find(BACKBONE)
    assert done.returncode == 0 and file.keys == ["bomb.png"] and not file.failures and file.path.name == name


def test_a_pipe_is_never_opened(bad_folder):
    with pytest.raises(ImageError, match="not a regular file"):
        open_images(bad_folder).read("pipe.jpg")
    assert PHOTO_LIMITS.pixels > FACE_LIMITS.pixels

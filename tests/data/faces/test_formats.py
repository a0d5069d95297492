"""Image formats that Pillow writes and videos that PyAV writes: read as OpenCV reads them, none of them black."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.faces.films import READER, film
from twofold.data.faces.settings import Sampling
from twofold.data.faces.sources import find_sources
from twofold.data.images.decode import decode
from twofold.data.images.formats import IMAGE_FORMATS, image_format
from twofold.data.synthetic.dataset import draw_face

cv2 = pytest.importorskip("cv2")
FACE = draw_face(identity=1, emotions=("happiness",), size=64, seed=0)
MODES = {"JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "L", "RGBA", "P", "1", "LA", "I;16"),
         "TIFF": ("RGB", "CMYK", "P")}
VIDEOS = [("mpeg4", "mp4"), ("libx264", "mp4"), ("libx264", "mov"), ("libx265", "mp4"), ("libx264", "mkv"),
          ("libvpx-vp9", "webm"), ("libvpx", "webm"), ("libsvtav1", "mp4"), ("mpeg4", "avi"), ("mjpeg", "avi"),
          ("ffv1", "mkv"), ("mpeg2video", "ts"), ("mpeg1video", "mpg"), ("wmv2", "wmv"), ("flv", "flv"),
          ("mpeg2video", "mxf"), ("prores", "mov"), ("huffyuv", "avi"), ("h263", "3gp"), ("tiff", "mov")]


@pytest.mark.parametrize("kind, mode", [(each.name, mode) for each in IMAGE_FORMATS
                                        for mode in MODES.get(each.name, ("RGB", "L"))])
def test_an_image_is_read_as_opencv_reads_it(kind, mode):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    file, image = io.BytesIO(), FACE.convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    image.save(file, kind)
    content = file.getvalue()
    found, ours = image_format(content[:32]), np.asarray(decode(content))
    assert found is not None and found.name == kind and ours.shape == (64, 64, 3) and ours.mean() > 30
    theirs = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if theirs is not None:
        assert np.abs(ours.astype(int) - theirs[..., ::-1]).mean() < 2


@pytest.mark.parametrize("codec, suffix", VIDEOS)
def test_a_video_is_read_as_opencv_reads_it(tmp_path, codec, suffix):
    if codec not in av.codecs_available:
        pytest.skip(f"no encoder {codec} here")
    formats = [each.name for each in av.Codec(codec, "w").video_formats or []]
    pixels = next((name for name in ("yuvj420p", "yuv420p", "yuv422p10le") if name in formats), formats[0])
    images = [np.asarray(FACE.resize((352, 288)).rotate(angle)) for angle in range(6)]
    path = film(tmp_path / f"a.{suffix}", images, codec=codec, pixels=pixels)
    assert [source.video for source in find_sources([path])] == [True]
    frames = [frame.pixels for frame in READER.frames(path, Sampling())]
    theirs, video = [], cv2.VideoCapture(str(path))
    while (read := video.read())[0]:
        theirs.append(read[1])
    assert len(frames) >= len(theirs) and len(frames) >= 5 and min(frame.mean() for frame in frames) > 30
    for ours, other in zip(frames, theirs, strict=False):
        assert ours.shape == other.shape and np.abs(ours.astype(int) - other).mean() < 2

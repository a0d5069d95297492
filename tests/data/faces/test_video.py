"""Frames and their times, out of files as they come."""

import re
import struct
import time
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.faces.films import GREEN, READER, RED, film, set_matrix, sound, still
from twofold.data.faces import video
from twofold.data.faces.settings import Sampling
from twofold.data.faces.sources import find_sources
from twofold.data.faces.video import VideoError, VideoReader
from twofold.data.utils.errors import InputError

HEADS = [still((RED, 4 * place, 20)) for place in range(20)]
NOISE = np.random.default_rng(0).integers(0, 256, (50, 96, 160, 3), np.uint8)


def frames_of(path, **sampling):
    return READER.frames(path, Sampling(**sampling))


def read(path, **sampling):
    frames = list(frames_of(path, **sampling))
    return [frame.index for frame in frames], [frame.time for frame in frames]


def reason(path):
    with pytest.raises(VideoError) as error:
        list(frames_of(path))
    return str(error.value)


def test_every_frame_comes_with_its_pixels_and_its_time(tmp_path):
    path = film(tmp_path / "a.mp4", HEADS)
    frames = list(frames_of(path))
    assert [frame.index for frame in frames] == list(range(20))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(20) / 25, atol=1e-9)
    for frame in frames:
        assert frame.pixels.shape == (96, 160, 3) and frame.pixels.dtype == np.uint8
        assert np.abs(frame.pixels[..., ::-1].astype(int) - HEADS[frame.index]).mean() < 4
    facts = READER.facts(path)
    assert (facts.frames, facts.rate, facts.width, facts.height) == (20, 25, 160, 96)
    assert read(film(tmp_path / "b.mp4", HEADS[:1])) == ([0], [0])


def test_a_variable_frame_rate_keeps_its_times(tmp_path):
    stamps = [0, 40, 80, 500, 520, 1000, 3000, 3001]
    path = film(tmp_path / "a.mkv", HEADS[:8], stamps=stamps, time_base=Fraction(1, 1000))
    assert read(path) == (list(range(8)), pytest.approx([stamp / 1000 for stamp in stamps]))
    assert read(path, fps=2) == ([0, 3, 5, 6], pytest.approx([0, 0.5, 1, 3]))  # the first at or after each half second


def test_times_begin_at_the_first_frame_whatever_the_clock_says(tmp_path):
    path = film(tmp_path / "a.mkv", HEADS[:4], stamps=[90_000, 93_003, 96_006, 99_009], time_base=Fraction(1, 30_000))
    assert read(path)[1] == pytest.approx([0, 0.1001, 0.2002, 0.3003], abs=1.1e-3)  # Matroska counts milliseconds


def test_frames_are_picked_by_number_or_by_time(tmp_path):
    path = film(tmp_path / "a.mp4", HEADS)
    for sampling, used in (({"every": 6}, [0, 6, 12, 18]), ({"fps": 5}, [0, 5, 10, 15]),
                           ({"fps": 10}, [0, 3, 5, 8, 10, 13, 15, 18]), ({"fps": 100}, list(range(20)))):
        assert read(path, **sampling)[0] == used
    for wrong, says in (({"fps": 5, "every": 2}, "give one"), ({"fps": -1.0}, "at least 0"), ({"every": 0}, "least 1")):
        with pytest.raises(InputError, match=says):
            Sampling(**wrong)


@pytest.mark.parametrize("a, b, c, d", [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
                                        (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, 1, 0), (0, -1, -1, 0)])
def test_a_video_is_turned_and_mirrored_as_its_display_matrix_says(tmp_path, a, b, c, d):
    path = set_matrix(film(tmp_path / "a.mp4", [still((RED, 8, 4), (GREEN, 100, 60))] * 2), a, b, c, d)
    pixels = next(frames_of(path)).pixels[..., ::-1].astype(int)
    for colour, (x, y) in ((RED, (24, 20)), (GREEN, (116, 76))):  # the centres, moved about that of the image
        rows, columns = np.nonzero(np.abs(pixels - colour).max(axis=2) < 60)
        x, y = x - 80, y - 48
        assert abs(columns.mean() - pixels.shape[1] / 2 - (a * x + c * y)) < 2
        assert abs(rows.mean() - pixels.shape[0] / 2 - (b * x + d * y)) < 2


def append(path, other):
    """Two recordings in one file: the clock of the second begins anew."""
    path.write_bytes(path.read_bytes() + other.read_bytes())
    return path


@pytest.mark.parametrize("suffix", ["ts", "mpg", "avi", "mkv", "mxf"])
@pytest.mark.parametrize("fps, used", [(0.0, 40), (5.0, 8)])
def test_joined_recordings_go_on_where_the_clock_is_set_back(tmp_path, suffix, fps, used):
    path = append(*(film(tmp_path / f"{name}.{suffix}", HEADS, codec="mpeg2video") for name in "ab"))
    indices, times = read(path, fps=fps)
    assert len(indices) >= used - 1 and times == pytest.approx([index / 25 for index in indices], abs=0.17)


@pytest.mark.parametrize("suffix, codec", [("mp4", "mpeg4"), ("flv", "flv"), ("wmv", "wmv2"), ("nut", "mpeg4")])
def test_a_recording_that_no_player_sees_is_named(tmp_path, suffix, codec):
    paths = [film(tmp_path / f"{name}.{suffix}", HEADS, codec=codec) for name in "ab"]
    assert read(paths[0])[0] == list(range(20))
    assert "has another recording appended to it" in reason(append(*paths))


@pytest.mark.parametrize("flags", ["", "frag_keyframe+empty_moov+default_base_moof"])
def test_a_second_index_is_named_whatever_stands_before_it(tmp_path, flags):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": flags or "0"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        container.mux([packet for image in HEADS for packet in
                       stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))] + stream.encode())
    whole = path.read_bytes()
    heads = [b"\0\0\0\x18" + kind + bytes(16) for kind in (b"pdin", b"styp", b"uuid", b"meta")] if flags else []
    for between in (b"", b"\0" * 7, b"\r\n"):
        path.write_bytes(whole + between)
        assert read(path)[0] == list(range(20))
        for head in (b"", *heads):
            path.write_bytes(head + whole + between + whole)
            assert "has another recording appended to it" in reason(path)


@pytest.mark.parametrize("name, video", [("cam.mjpg", True), ("cam.MJPEG", True), ("cam", True), ("cam.jpg", False)])
def test_jpegs_one_after_the_other_are_a_video(tmp_path, name, video):
    with (tmp_path / name).open("wb") as file:
        for image in HEADS:
            Image.fromarray(image).save(file, "JPEG")
    (tmp_path / f"one{name[3:]}").write_bytes((tmp_path / name).read_bytes().partition(b"\xff\xd9")[0] + b"\xff\xd9")
    assert [source.video for source in find_sources([tmp_path])] == [video, False]
    if video:
        assert read(tmp_path / name) == (list(range(20)), pytest.approx([place / 25 for place in range(20)]))


@pytest.mark.parametrize("name", ["held.mp4", "held.mkv", "held.flv", "held.avi"])
def test_a_last_frame_that_is_held_for_seconds_is_no_damage(tmp_path, name):
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        packets = [packet for image in HEADS for packet in
                   stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))] + stream.encode()
        packets[-1].duration = packets[-1].duration * 125
        container.mux(packets)
    assert read(tmp_path / name)[0] == list(range(20))


def animation(path, kind, **options):
    images = [Image.fromarray(still((RED, 4 * place, 20))) for place in range(6)]
    images[0].save(path, kind, save_all=True, append_images=images[1:], duration=200, **options)
    return path


def test_the_pages_of_a_tiff_are_a_short_video_and_endless_ones_are_refused(tmp_path):
    path = animation(tmp_path / "a.tif", "TIFF")
    assert [source.video for source in find_sources([path])] == [True]
    assert read(path) == (list(range(6)), pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5]))
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
    (tmp_path / "b.gif").write_bytes(b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + frame * 30_000)
    began = time.monotonic()
    with pytest.raises(VideoError, match="has more than 20000 frames"):
        assert READER.facts(tmp_path / "b.gif").frames == 30_000
        next(frames_of(tmp_path / "b.gif"))
    assert time.monotonic() - began < 5


def test_guesses_on_pages_of_many_bits_are_counted(tmp_path):
    pages = [Image.fromarray(np.full((30, 40), value, np.uint16)) for value in (900, 1000, 4000)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with VideoReader() as reader:
        assert len(list(reader.frames(tmp_path / "a.tif", Sampling()))) == 3
        assert sorted(reader.remarks.values()) == [1, 2]


def test_a_cut_off_asf_file_says_so(tmp_path):
    content = film(tmp_path / "a.wmv", HEADS, codec="wmv2").read_bytes()
    assert read(tmp_path / "a.wmv")[0] == list(range(20))
    (tmp_path / "a.wmv").write_bytes(content[:len(content) * 2 // 3])
    with pytest.raises(VideoError, match=r"ends after .* bytes: the rest is missing"):
        read(tmp_path / "a.wmv")


def test_a_burst_of_photographs_is_a_short_video(tmp_path):
    pytest.importorskip("pillow_heif").register_heif_opener()
    path = animation(tmp_path / "a.heic", "HEIF", quality=90)
    assert [source.video for source in find_sources([path])] == [True]
    assert read(path) == (list(range(6)), pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5]))


@pytest.mark.parametrize("name, options", [("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True})])
def test_an_animation_is_a_short_video(tmp_path, name, options):
    path = animation(tmp_path / name, name[2:].upper(), **options)
    assert video.is_animation(path) and read(path) == (list(range(6)), pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    assert read(path, fps=2.5)[0] == [0, 2, 4]
    for frame in frames_of(path):
        assert np.abs(frame.pixels[24:48, 4 * frame.index + 4:4 * frame.index + 28, ::-1].astype(int) - RED).max() < 40
    if name == "a.png":
        content, profile = path.read_bytes(), bytes(100_000)
        body = struct.pack(">I", len(profile)) + b"teSt" + profile + struct.pack(">I", zlib.crc32(b"teSt" + profile))
        path.write_bytes(content[:33] + body + content[33:])
        assert video.is_animation(path) and read(path)[0] == list(range(6))
    Image.fromarray(HEADS[0]).save(path)
    assert not video.is_animation(path)


def test_the_picture_before_the_frames_of_a_png_is_none_of_them(tmp_path):
    still, *frames = [Image.new("RGB", (8, 8), (10 * number, 0, 0)) for number in range(4)]
    still.save(tmp_path / "a.png", save_all=True, append_images=frames, default_image=True, duration=200)
    assert [(frame.time, frame.pixels[0, 0, 2]) for frame in frames_of(tmp_path / "a.png")] == [
        (0, 10), (0.2, 20), (0.4, 30)]


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile 'secret.mp4'\n", "ffconcat version 1.0\nfile 'x.mp4'\n",
                                  "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.mp4\n#EXT-X-ENDLIST\n",
                                  "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
                                  "v=0\nm=video 5004 RTP/AVP 96\n"])
def test_a_text_that_names_other_files_is_no_video(tmp_path, text):
    film(tmp_path / "secret.mp4", HEADS)
    (tmp_path / "x.mp4").write_text(text)
    assert "not a video that can be read" in reason(tmp_path / "x.mp4")


def test_a_crash_and_a_silence_of_the_decoder_cost_one_file(tmp_path, monkeypatch):
    path, worker = film(tmp_path / "a.mp4", HEADS), video.WORKER
    with VideoReader() as reader:
        for code, sentence in (("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashes the decoder"),
                               ("import time; time.sleep(60)", "keeps the decoder busy")):
            monkeypatch.setattr(video, "MAX_SILENCE", 1.0)
            monkeypatch.setattr(video, "WORKER", tmp_path / "worker.py")
            (tmp_path / "worker.py").write_text(code)
            with pytest.raises(VideoError, match=sentence):
                list(reader.frames(path, Sampling()))
        monkeypatch.setattr(video, "WORKER", worker)
        monkeypatch.setattr(video, "MAX_SILENCE", 60.0)
        assert len(list(reader.frames(path, Sampling()))) == 20


@pytest.mark.parametrize("duration", ["99999:99:99.999999", "9" * 30 + ":00:00.0"])
def test_a_video_of_impossible_length_is_read(tmp_path, duration):
    path = film(tmp_path / "a.mkv", HEADS, metadata={"DURATION": duration})
    content = path.read_bytes().replace(b"00:00:00.800000000", b"99999:99:99.999999")
    path.write_bytes(content)
    assert read(path)[0] == list(range(20))


def test_frames_are_refused_by_their_size_and_their_number(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", HEADS)
    source = video.WORKER.read_text()
    READER.close()
    monkeypatch.setattr(video, "WORKER", tmp_path / "worker.py")
    for line, changed, sentence in (
            ("MAX_PIXELS = 64_000_000", "MAX_PIXELS = 15_000", "has frames of more than 15000"),
            ("= 100_000_000_000, 1_000_000", "= 100_000, 1", "takes too long to decode: after 6")):
        assert line in source
        (tmp_path / "worker.py").write_text(source.replace(line, changed))
        assert sentence in reason(path)
        READER.close()


def test_a_film_cut_off_ends_where_it_ends_and_says_so(tmp_path):
    path = film(tmp_path / "a.mkv", list(NOISE))
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    indices = []
    with pytest.raises(VideoError, match=r"ends after [\d.]+ of 2.0 s: the rest is missing or damaged"):
        for frame in frames_of(path):
            indices.append(frame.index)
    assert 15 < len(indices) < 35 and indices == list(range(len(indices)))


def test_a_damaged_place_costs_its_frames_and_no_more(tmp_path):
    path = film(tmp_path / "a.mp4", list(NOISE), codec="mjpeg", pixels="yuvj420p")
    with av.open(str(path)) as container:
        place, size = next((packet.pos, packet.size) for packet in container.demux() if packet.pts and
                           packet.pts * packet.time_base == 1)
    content = bytearray(path.read_bytes())
    content[place:place + size] = bytes(size)
    path.write_bytes(content)
    times = []
    with pytest.raises(VideoError, match="is damaged in 1 places, where frames are missing"):
        for frame in frames_of(path):
            times.append(round(frame.time * 25))
    assert times == [*range(25), *range(26, 50)]


def test_what_is_no_film_says_what_it_is(tmp_path):
    for name, content in (("zero.mp4", b""), ("junk.mp4", b"not a film " * 200)):
        (tmp_path / name).write_bytes(content)
    path = film(tmp_path / "cut.mp4", [still((GREEN, 3, 3))] * 9)  # MP4 writes its index last
    path.write_bytes(path.read_bytes()[:-200])
    for name, says in (("zero.mp4", "empty file"), ("junk.mp4", "not a video that can be read"),
                       ("gone.mp4", "unreadable file"), ("cut.mp4", "not a video that can be read|no frame in it")):
        assert re.match(says, reason(tmp_path / name))
    assert reason(sound(tmp_path / "sound.wav")) == "no video in it, only sound"


def test_frames_of_two_sizes_keep_their_pixels(tmp_path):
    files = [film(tmp_path / f"{width}.ts", [still((RED, 4 * place, 20), width=width) for place in range(12)],
                  codec="mpeg2video") for width in (160, 320)]
    frames = list(frames_of(append(*files)))
    wide = next(frame.index for frame in frames if frame.pixels.shape[1] == 320)
    assert wide in (11, 12) and len(frames) == wide + 12  # the decoder may drop the last one of the first size
    for frame in frames:
        x = 4 * (frame.index if frame.index < wide else frame.index - wide)
        assert frame.time == pytest.approx(frame.index / 25, abs=0.05)
        assert np.abs(frame.pixels[24:48, x + 4:x + 28, ::-1].astype(int) - RED).mean() < 12

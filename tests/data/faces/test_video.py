"""Frames and their times, out of files as they come."""

from fractions import Fraction

import av
import numpy as np
import pytest

from tests.data.faces.films import GREEN, RED, film, sound, still, turn
from twofold.data.faces.settings import Sampling
from twofold.data.faces.video import VideoError, read_frames, video_facts
from twofold.data.utils.errors import InputError

HEADS = [still((RED, 4 * place, 20)) for place in range(20)]


def read(path, **sampling):
    frames = list(read_frames(path, Sampling(**sampling)))
    return [frame.index for frame in frames], [frame.time for frame in frames]


def reason(path):
    with pytest.raises(VideoError) as error:
        list(read_frames(path, Sampling()))
    return str(error.value)


def test_every_frame_comes_with_its_time(tmp_path):
    indices, times = read(film(tmp_path / "a.mp4", HEADS))
    assert indices == list(range(20))
    np.testing.assert_allclose(times, np.arange(20) / 25, atol=1e-9)
    facts = video_facts(tmp_path / "a.mp4")
    assert (facts.frames, facts.rate, facts.width, facts.height) == (20, 25, 160, 96)


def test_pixels_are_the_pictures(tmp_path):
    for frame in read_frames(film(tmp_path / "a.mp4", HEADS), Sampling()):
        pixels = frame.pixels()
        assert pixels.shape == (96, 160, 3) and pixels.dtype == np.uint8
        assert np.abs(pixels[..., ::-1].astype(int) - HEADS[frame.index]).mean() < 4


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
    assert read(path, every=6)[0] == [0, 6, 12, 18]
    assert read(path, fps=5)[0] == [0, 5, 10, 15]
    assert read(path, fps=10)[0] == [0, 3, 5, 8, 10, 13, 15, 18]
    assert read(path, fps=100)[0] == list(range(20))
    with pytest.raises(InputError, match="give one"):
        Sampling(fps=5, every=2)


@pytest.mark.parametrize("degrees, corner", [(90, "right"), (180, "low right"), (270, "low left")])
def test_a_turned_film_comes_upright(tmp_path, degrees, corner):
    path = film(tmp_path / "a.mp4", [still((RED, 0, 0))] * 3)
    turn(path, degrees)
    pixels = next(read_frames(path, Sampling())).pixels()
    assert pixels.shape == ((160, 96, 3) if degrees != 180 else (96, 160, 3))
    rows, columns = np.nonzero(np.abs(pixels[..., ::-1].astype(int) - RED).max(axis=2) < 60)
    assert (rows.mean() > pixels.shape[0] / 2) == ("low" in corner)
    assert (columns.mean() > pixels.shape[1] / 2) == ("right" in corner)


def test_a_film_of_one_frame(tmp_path):
    assert read(film(tmp_path / "a.mp4", HEADS[:1])) == ([0], [0])


def test_a_film_cut_off_ends_where_it_ends_and_says_so(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 96, 160, 3), np.uint8)
    path = film(tmp_path / "a.mkv", list(noise))
    content = path.read_bytes()
    path.write_bytes(content[:len(content) // 2])
    indices = []
    with pytest.raises(VideoError, match=r"ends after [\d.]+ of 2.0 s: the rest is missing or damaged"):
        for frame in read_frames(path, Sampling()):
            indices.append(frame.index)
    assert 15 < len(indices) < 35 and indices == list(range(len(indices)))


def test_a_damaged_place_costs_its_frames_and_no_more(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (50, 96, 160, 3), np.uint8)
    path = film(tmp_path / "a.mp4", list(noise), codec="mjpeg", pixels="yuvj420p")
    with av.open(str(path)) as container:
        place, size = next((packet.pos, packet.size) for packet in container.demux() if packet.pts and
                           packet.pts * packet.time_base == 1)
    content = bytearray(path.read_bytes())
    content[place:place + size] = bytes(size)
    path.write_bytes(content)
    times = []
    with pytest.raises(VideoError, match="is damaged in 1 places, where frames are missing"):
        for frame in read_frames(path, Sampling()):
            times.append(round(frame.time * 25))
    assert times == [*range(25), *range(26, 50)]


def test_what_is_no_film_says_what_it_is(tmp_path):
    for name, content in (("zero.mp4", b""), ("junk.mp4", b"not a film " * 200)):
        (tmp_path / name).write_bytes(content)
    assert reason(tmp_path / "zero.mp4") == "empty file"
    assert "not a video that can be read" in reason(tmp_path / "junk.mp4")
    assert reason(sound(tmp_path / "sound.wav")) == "no video in it, only sound"
    assert "unreadable file" in reason(tmp_path / "gone.mp4")


def test_a_film_whose_index_is_cut_off_cannot_be_read(tmp_path):
    path = film(tmp_path / "a.mp4", [still((GREEN, 3, 3))] * 9)  # MP4 writes its index last
    path.write_bytes(path.read_bytes()[:-200])
    assert reason(path) in ("no frame in it can be decoded", "not a video that can be read (Invalid data found when "
                            "processing input)")

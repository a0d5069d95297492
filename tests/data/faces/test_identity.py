"""Who is who: tracks by appearance, cuts, persons, sessions; what is followed between detections."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.benchmarks.identity import identity_figures
from tests.data.faces.films import BLOBS, GREEN, RED, Blobs, film, still
from twofold.data.faces.crop import crop
from twofold.data.faces.detectors import Detection, DetectorModel
from twofold.data.faces.follow import Follower
from twofold.data.faces.identity import CutFinder, Gallery, IdentityModel, Tracker
from twofold.data.faces.settings import CropSettings, Sampling, parse_crop_line
from twofold.data.faces.sources import find_sources
from twofold.data.manifest import read_manifest
from twofold.data.utils.errors import InputError

asked: list[int] = []  #: portraits of each call of the network below


def by_colour(portraits):
    """Tells people apart by the colour in the middle of their portrait."""
    asked.append(len(portraits))
    return portraits[:, 50:62, 50:62].mean(axis=(1, 2)) - 90


MODEL = IdentityModel("colour", "c" * 8, by_colour)
NOISE = {colour: np.random.default_rng(colour[0]).integers(0, 80, (112, 112, 1), np.uint8) for colour in (RED, GREEN)}


def seen(*faces):
    """Detections and portraits of faces (x, colour)."""
    points = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))
    return ([Detection((float(x), 0.0, 40.0, 40.0), tuple((x + 40 * a, 40 * b) for a, b in points), 0.9)
             for x, _ in faces], [np.maximum(np.uint8(colour), NOISE[colour]) for _, colour in faces])


def tracks(frames, *, model=MODEL, cuts=(), rate=25):
    tracker = Tracker(model)
    return [tracker.update(*seen(*faces)[:1], number / rate, portraits=seen(*faces)[1], cut=number in cuts)
            for number, faces in enumerate(frames)], tracker


def test_who_looks_otherwise_is_another_track_however_near():
    jump = [[(0, RED)]] * 3 + [[(1, GREEN)]] * 3  # a jump cut that no frame difference shows
    assert tracks(jump)[0] == [[0]] * 3 + [[1]] * 3
    assert tracks(jump, model=None)[0] == [[0]] * 6
    crossing = [[(0, RED), (60, GREEN)], [(20, RED), (40, GREEN)], [(30, GREEN)], [(20, GREEN), (40, RED)]]
    assert tracks(crossing)[0] == [[0, 1], [0, 1], [1], [1, 0]]
    back = [[(0, RED)], [], [(3, GREEN)], [], [(2, RED)]]  # after a gap, near the place
    assert tracks(back)[0] == [[0], [], [1], [], [0]]
    assert tracks([[(0, RED)]] * 4, cuts={2})[0] == [[0], [0], [1], [1]]


def test_the_network_is_asked_only_where_there_is_doubt():
    asked.clear()
    numbers, tracker = tracks([[(step, RED), (100, GREEN)] for step in range(50)])
    assert numbers == [[0, 1]] * 50 and 4 <= sum(asked) <= 12  # two people, two seconds, twice a second
    assert tracker.together == {(0, 1)}


@pytest.mark.parametrize("seed", range(4))
def test_persons_are_those_of_a_plain_agglomeration(seed):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(5, 8))
    sums = {int(name): rng.integers(1, 9) * np.float32(centres[rng.integers(5)] + rng.normal(scale=0.7, size=8))
            for name in rng.permutation(18)}
    together = {(one, other) for one, other in rng.integers(0, 18, (6, 2)).tolist() if one < other}
    clusters = [{name} for name in sorted(sums)]

    def cosine(a, b):
        one, other = (sum(sums[name] for name in each) for each in (a, b))
        barred = any((min(x, y), max(x, y)) in together for x in a for y in b)
        return -2 if barred else float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    while (best := max(((cosine(a, b), i, j) for i, a in enumerate(clusters) for j, b in enumerate(clusters) if i < j),
                       default=(-2, 0, 0)))[0] >= 0.5:
        clusters[best[1]] |= clusters.pop(best[2])
    expected = {name: number for number, each in enumerate(sorted(clusters, key=min)) for name in each}
    assert Gallery().persons(sums, together, 0.5) == expected


def test_persons_of_a_session_keep_their_numbers_and_two_at_once_are_never_one():
    gallery, east, north = Gallery(), np.float32([1, 0.1]), np.float32([0.1, 1])
    gallery.add({0: 3 * east, 1: north})
    assert gallery.persons({0: north, 1: east, 2: -east}, {(0, 1)}, 0.5) == {0: 1, 1: 0, 2: 2}
    assert gallery.persons({0: east, 1: east * 2}, {(0, 1)}, 0.5) == {0: 0, 1: 2}
    assert gallery.persons({}, (), 0.5) == {}


def test_cuts_are_found_and_a_moving_camera_is_none():
    rng = np.random.default_rng(1)
    wall = cv2.resize(rng.integers(0, 255, (6, 20, 3), np.uint8), (900, 120), interpolation=cv2.INTER_CUBIC)
    frames = [wall[:, step:step + 160] for step in range(20)]
    frames += [wall[::-1, 300 - step:460 - step] for step in range(20)]
    finder = CutFinder()
    assert [number for number, frame in enumerate(frames) if finder.update(frame)] == [20]


# -------------------------------------------------------------------------------------------------------- crop
def run(inputs, out, *, model=BLOBS, identity=MODEL, by_person=False, **settings):
    return crop(find_sources(inputs, ignore=out), out, model, sampling=Sampling(), workers=2, progress=False,
                settings=CropSettings(**({"size": 32, "align": "square"} | settings)), identity=identity,
                by_person=by_person)


@pytest.fixture
def films(tmp_path):
    """Red, then green in the same place after a cut, then both; in the other file green, then red after a gap."""
    folder = tmp_path / "in"
    folder.mkdir()
    dark = [np.where(np.arange(160)[:, None] < 80, image, image // 4) for image in [still((GREEN, 11, 20))] * 12]
    film(folder / "a.mp4", [still((RED, 10, 20))] * 12 + dark + [still((RED, 10, 20), (GREEN, 100, 20))] * 8)
    film(folder / "b.mp4", [still((GREEN, 60, 40))] * 5 + [still()] * 30 + [still((RED, 60, 40))] * 5)
    Image.fromarray(still((GREEN, 20, 20), (RED, 90, 20), side=30)).save(folder / "c.png")
    return folder


def test_persons_in_the_manifest(films, tmp_path):
    report = run([films], tmp_path / "out", by_person=True)
    rows = read_manifest(tmp_path / "out/faces.csv").table
    faces = rows[rows["box"] != ""]
    colours = [np.asarray(Image.open(tmp_path / "out" / key))[16, 16].argmax() for key in faces["key"]]
    for name, numbers in (("a.mp4", ["0", "1"]), ("b.mp4", ["1", "0"])):
        own = (faces["source"] == name).to_numpy()
        assert [numbers[colour] for colour in np.array(colours)[own]] == list(faces["person"][own])
    assert set(faces["group"]) == {f"{name}.mp4, person {person}" for name in "ab" for person in "01"} | {"c.png"}
    assert set(faces["person"][faces["source"] == "c.png"]) == {""} and report.persons == 4
    assert "4 persons, numbered anew in each file: colour, cosine similarity of at least 0.4" in report.text()
    assert "person" not in read_manifest(run([films], tmp_path / "plain", identity=None).manifest).table
    with pytest.raises(InputError, match=r"cropped otherwise .identity .* there, off here"):
        run([films], tmp_path / "out", identity=None)


@pytest.mark.parametrize("every", [1, 4])
def test_a_session_is_the_same_after_an_interruption(films, tmp_path, every):
    model = replace(MODEL, session=True)
    report = run([films], tmp_path / "out", identity=model, detect_every=every)
    table = read_manifest(report.manifest).table
    person = {row.key: row.person for row in table.itertuples() if row.box}
    colours = {key: np.asarray(Image.open(tmp_path / "out" / key))[16, 16].argmax() for key in person}
    assert report.persons == 2 and all(person[key] == str(colours[key]) for key in person)
    lines = (tmp_path / "out/.journal.jsonl").read_bytes().splitlines(keepends=True)
    for kept in (15, len(lines) - 20):
        shutil.copytree(tmp_path / "out", tmp_path / str(kept))
        (tmp_path / str(kept) / "faces.csv").unlink()
        (tmp_path / str(kept) / ".journal.jsonl").write_bytes(b"".join(lines[:kept]))
        again = run([films], tmp_path / str(kept), identity=model, detect_every=every)
        assert again.manifest.read_bytes() == report.manifest.read_bytes()


def test_faces_between_detections_are_followed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(Blobs, "detect", lambda self, image, plain=Blobs.detect: calls.append(1) or plain(self, image))
    texture = np.random.default_rng(2).integers(0, 60, (96, 160, 1), np.uint8)
    frames = [np.maximum(still((RED, 20 + 2 * step, 30)), np.roll(texture, 2 * step, axis=1)) for step in range(20)]
    path, model = film(tmp_path / "a.mkv", frames, codec="ffv1", pixels="bgr0"), DetectorModel("b" * 64, BLOBS.create)
    plain = read_manifest(run([path], tmp_path / "1", model=model, identity=None).manifest).table
    assert len(calls) == 20
    rows = read_manifest(run([path], tmp_path / "5", model=model, identity=None, detect_every=5).manifest).table
    assert len(calls) == 24 and list(rows["key"]) == list(plain["key"])
    boxes, truth = (np.array([box.split() for box in table["box"]], float) for table in (rows, plain))
    np.testing.assert_allclose(boxes, truth, atol=0.5)
    settings = CropSettings(size=32, align="square", detect_every=5)
    assert parse_crop_line(rows["crop"][0]) == (settings, "b" * 16)
    assert json.loads((tmp_path / "5/crop.json").read_text())["settings"]["detect_every"] == 5


def test_a_followed_face_lies_where_it_was_moved_to_and_a_hidden_one_is_lost():
    rng = np.random.default_rng(3)
    image = cv2.GaussianBlur(rng.integers(0, 255, (200, 300, 3), np.uint8), (0, 0), 3)
    image = cv2.normalize(image, np.empty_like(image), 0, 255, cv2.NORM_MINMAX)
    face = Detection((100, 60, 70, 80), ((120, 90), (150, 90), (135, 105), (122, 122), (148, 122)), 0.8)
    follower = Follower(image, [face])
    for step in range(1, 5):
        matrix = cv2.getRotationMatrix2D((135, 100), 1.5 * step, 1 + 0.01 * step)
        matrix[:, 2] += (3 * step, -2 * step)
        moved = cv2.warpAffine(image, matrix, (300, 200))
        (now,) = follower.follow(moved) or [None]
        assert now and now.score == 0.8
        truth = np.array(face.landmarks) @ matrix[:, :2].T + matrix[:, 2]
        np.testing.assert_allclose(now.landmarks, truth, atol=0.7)
    moved[60:140, 110:190] = 0
    assert follower.follow(moved) is None


# ------------------------------------------------------------------------------------------------- figures, verbs
def test_identity_figures_by_hand():
    a, b, far = (np.array([x, 0.0, 10.0, 10.0]) for x in (0, 50, 200))
    truth = [[("A", a), ("B", b)]] * 10
    assert identity_figures(truth, [[("0", a), ("1", b)]] * 10)["IDF1"] == 100
    swapped = [[("0", a), ("1", b)]] * 6 + [[("1", a), ("0", b)]] * 4
    figures = identity_figures(truth, swapped)
    assert figures["IDF1"] == pytest.approx(60) and figures["IDSW"] == 2  # 12 of 20 by the best assignment
    worse = [[("0", a), ("9", far)]] * 5 + [[("2", a)]] * 5  # B missed, a false track, A in two pieces
    figures = identity_figures(truth, worse)  # IDTP 5, IDFN 15, IDFP 10
    assert figures["IDF1"] == pytest.approx(100 * 5 / (5 + 12.5)) and figures["IDSW"] == 1


@pytest.mark.parametrize("words, says", [
    (["--session"], "say with --identity NAME which backbone"),
    (["--group", "person"], "say with --identity NAME which backbone"),
    (["--group", "family"], "--group 'family': choose source or person"),
    (["--identity", "onnx:/missing.onnx"], "onnx:/missing.onnx: there is no such file"),
    (["--identity", "onnx:/missing.onnx", "--same-person", "1.5"], "same-person 1.5: it is a cosine similarity"),
    (["--detect-every", "0"], "detect-every 0: it must be at least 1"),
])
def test_bad_input_is_one_sentence(cli, tmp_path, words, says):
    Image.fromarray(still()).save(tmp_path / "a.png")
    done = cli("crop", tmp_path / "a.png", "-o", tmp_path / "out", *words)
    assert done.returncode == 2 and says in done.stderr and not (tmp_path / "out").exists()
    assert len(done.stderr.strip().splitlines()) == 1

"""What the server answers for pictures: what `predict` writes for the same files, and how the faces come about."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.faces.films import GREEN, RED, still
from tests.fuse.serve.conftest import embed_of, encoded, picture, resident
from twofold.data.faces.in_memory import FaceFinder, open_detection
from twofold.data.faces.settings import Sampling
from twofold.data.labels import BASIC
from twofold.data.synthetic.dataset import draw_face
from twofold.fuse.metrics.scores import apply_temperature
from twofold.fuse.runs.read import read_run
from twofold.fuse.serve.recogniser import Recogniser


@pytest.mark.parametrize("head", ["gated", "paper"])
def test_the_answers_are_those_of_predict(cli, drawn, recogniser, tmp_path, head):
    run = read_run(drawn / head)
    paths = sorted((drawn / "faces").rglob("*.png"))[:9]
    done = cli("predict", drawn / head, *paths, "--cropped", "-o", tmp_path / "out.csv", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    assert len(rows) == 9
    live = Recogniser(run, recogniser.finder, embed_of(run), 8)
    for path in paths:
        row = next(row for key, row in rows.items() if str(path).endswith(key))
        face, = live.recognise(path.read_bytes()).faces
        assert face.expressions == pytest.approx([float(row[name]) for name in run.taxonomy.classes], abs=2e-3)
        assert sum(face.expressions) == pytest.approx(1, abs=1e-5)
        assert face.answer == row["prediction"]
        if head == "paper":
            assert BASIC[int(np.argmax(face.basic))] == row["basic"] and face.stream_weights == ()
        else:
            shares = [float(row[f"share {name}"]) for name in run.stream_names]
            assert face.stream_weights == pytest.approx(shares, abs=2e-3) and face.basic == ()


def test_a_stream_left_out_stands_at_its_mean(drawn, recogniser):
    run, content = recogniser.run, encoded(draw_face(identity=1, emotions=("anger",), size=60, seed=0))
    face, = recogniser.recognise(content).faces
    features = recogniser.embed([content])
    place = int(np.argmax(face.expressions))
    expected = []
    for start, dim in zip((0, run.head.spec.dims[0]), run.head.spec.dims, strict=True):
        members = []
        for member in range(run.head.spec.members):
            changed = features.copy()
            changed[0, start:start + dim] = run.head.mean[member, 0, start:start + dim]
            with torch.inference_mode():
                logits = run.head(torch.from_numpy(changed)).logits[member]
            members.append(logits.softmax(dim=-1).numpy())
        expected.append(apply_temperature(np.mean(members, axis=0), run.record.temperature)[0, place])
    assert face.without == pytest.approx(expected, abs=1e-5)
    assert max(abs(share - face.expressions[place]) for share in face.without) > 1e-4


def test_several_faces_the_largest_first_and_none(finding, served):
    server = served(finding)
    status, answer = server.recognise(picture((RED, 20, 30), (GREEN, 100, 40)))
    assert status == 200 and (answer["width"], answer["height"]) == (160, 96) and answer["left_out"] == 0
    assert sorted(tuple(face["box"]) for face in answer["faces"]) == [(20, 30, 32, 32), (100, 40, 32, 32)]
    assert all(sum(face["expressions"]) == pytest.approx(1, abs=1e-5) for face in answer["faces"])
    assert answer["faces"][0]["expressions"] != answer["faces"][1]["expressions"]
    assert set(answer["seconds"]) == {"wait", "find", "encode", "decide"}
    status, answer = server.recognise(picture())
    assert (status, answer["faces"]) == (200, [])
    assert (server.stats["pictures"], server.stats["faces"], server.stats["refused"]) == (2, 2, 0)


def test_five_people_in_a_photograph(real, recogniser):
    search = open_detection([], detector=real / "weights/detectors/yunet_n_dynamic.onnx", sampling=Sampling())
    live = Recogniser(recogniser.run, FaceFinder(search), recogniser.embed, 8)
    answer = live.recognise((real / "media/multi_face.jpg").read_bytes())
    assert (answer.width, answer.height, len(answer.faces), answer.left_out) == (1000, 667, 5, 0)
    sides = [face.box[2] * face.box[3] for face in answer.faces]
    assert sides == sorted(sides, reverse=True) and all(face.detection > 0.8 for face in answer.faces)


def test_more_faces_than_are_answered_for_are_counted(finding):
    few = Recogniser(finding.run, finding.finder, finding.embed, max_faces=1)
    answer = few.recognise(picture((RED, 20, 30), (GREEN, 100, 40)))
    assert len(answer.faces) == 1 and answer.left_out == 1


def test_a_picture_that_is_a_face_is_taken_as_it_is(finding, recogniser):
    content = picture((RED, 2, 2), width=40, height=40)
    face, = finding.recognise(content).faces
    assert face.box == (2, 2, 32, 32)
    assert face.expressions == recogniser.recognise(content).faces[0].expressions


def test_what_the_decoder_guessed_is_said(recogniser, caplog):
    file = io.BytesIO()
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)).save(file, "PNG")
    remark, = recogniser.recognise(file.getvalue()).remarks
    assert "0 taken for black, 4095 for white" in remark and remark in caplog.text


def test_an_upright_picture_whatever_its_file_says(finding):
    """A phone's picture lies on its side, and EXIF says how to turn it: boxes are of what the browser shows."""
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees clockwise
    lying = Image.fromarray(still((RED, 20, 30))).rotate(90, expand=True)
    file = io.BytesIO()
    lying.save(file, "PNG", exif=exif)
    answer = finding.recognise(file.getvalue())
    assert (answer.width, answer.height) == (160, 96) and answer.faces[0].box == (20, 30, 32, 32)


def test_memory_stays_where_it_is(recogniser, served):
    """Twenty large pictures more, and not one of them is kept: each takes 9 MB once it is decoded."""
    server, content = served(recogniser), picture((RED, 200, 300), width=2000, height=1500)
    for _ in range(5):
        assert server.recognise(content)[0] == 200
    before = resident()
    for _ in range(20):
        assert server.recognise(content)[0] == 200
    assert resident() - before < 60 << 20

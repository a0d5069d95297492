"""The first answer: a photograph without a run, from one that comes with Twofold (here a small untrained stand-in)."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import twofold
from twofold.data.labels import BASIC, basic_emotions, builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset, draw_face
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.registry import load_encoder
from twofold.fuse.runs import read

NAME, CLASSES = "timm:test_resnet", builtin_taxonomy("cexpr7").classes


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with drawn `faces/` and `starter/`: a run on them, its encoder beside it and nowhere else."""
    folder = tmp_path_factory.mktemp("starter")
    write_manifest(draw_dataset(folder / "faces", taxonomy=builtin_taxonomy("cexpr7"), per_class=10, size=48, seed=3),
                   folder / "faces.csv")
    torch.manual_seed(1)
    network = timm.create_model("test_resnet", num_classes=0)
    save_file(network.state_dict(), folder / "encoder.safetensors")
    store = twofold.Dataset(folder / "faces.csv", root=folder / "faces").extract(
        folder / "store", backbones=NAME, weights=folder / "encoder.safetensors", device="cpu", precision="fp32")
    store.fuse(out=folder / "starter", head="paper", epochs=2, hidden=8, projection=8, seeds=1)
    shutil.move(folder / "encoder.safetensors", folder / "starter/encoder.safetensors")
    return folder


@pytest.fixture
def starter(made, monkeypatch, tmp_path):
    """The stand-in in place of the run that comes with Twofold, in a folder without weights."""
    monkeypatch.setattr(read, "STARTER_FOLDER", made / "starter")
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    return made


def faces(starter, count=2):
    return sorted(starter.glob("faces/**/*.png"))[:count]


def test_without_a_run_the_starter_answers_and_says_so(cli, starter, tmp_path):
    first, second = faces(starter)
    plain = cli("predict", first, second, "--cropped", "-o", tmp_path / "plain.csv")
    named = cli("predict", "starter", first, second, "--cropped", "-o", tmp_path / "named.csv")
    assert plain.returncode == named.returncode == 0, plain.stderr
    assert (tmp_path / "plain.csv").read_bytes() == (tmp_path / "named.csv").read_bytes()
    said = [line for line in plain.stderr.splitlines() if "no RUN is named" in line]
    assert len(said) == 1 and "starter" in said[0] and "no RUN is named" not in named.stderr


def test_without_an_output_a_line_a_face_is_printed(cli, starter, tmp_path):
    first, second = faces(starter)
    shown = cli("predict", first, second, "--cropped")
    assert shown.returncode == 0 and not list(tmp_path.iterdir()), shown.stderr
    head, *lines, note = shown.stdout.splitlines()
    assert head.split() == ["SOURCE", "FACE", "BASIC", "EXPRESSION"] and len(lines) == 2 and note[:6] == "note: "
    said = json.loads(cli("predict", first, second, "--cropped", "--json").stdout)["answers"]
    table = twofold.Run("starter").predict([first, second], cropped=True)
    assert [record["source"] for record in said] == [first.name, second.name]
    for row, record, line in zip(table.to_dict("records"), said, lines, strict=True):
        assert record["expressions"] == pytest.approx({name: row[name] for name in CLASSES}, abs=1e-3)
        assert record["basics"] == pytest.approx({name: row[name] for name in BASIC}, abs=1e-3)
        best = max(CLASSES, key=record["expressions"].get)
        assert f"{best} {100 * record['expressions'][best]:.0f} %" in line and record["answer"] == row["prediction"]
        none = min(record["basics"][emotion] for emotion in basic_emotions(best)) < 0.1
        assert (record["answer"] == "none") == none == ("none (nearest: " in line) and none | (record["answer"] == best)


def test_the_named_run_is_found_by_every_verb_that_takes_one(cli, starter, tmp_path):
    assert cli("evaluate", "starter", starter / "store").returncode == 0
    assert cli("report", "starter", "-o", tmp_path / "report.html").returncode == 0
    exported = cli("export", "starter", "-o", tmp_path / "export", "--face", "--licence", f"{NAME}=none")
    assert exported.returncode == 0, exported.stderr


def test_analyze_gives_a_row_a_face(starter):
    first, second = faces(starter)
    table = twofold.analyze([first, Image.open(second)], cropped=True)
    assert table["source"].tolist() == [str(first), ""] and table["image"].tolist() == [0, 1]
    assert {"box", "score", "prediction", *BASIC, *CLASSES} <= set(table)
    assert table[list(BASIC)].sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-4)
    assert table[list(CLASSES)].sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-4)
    pd.testing.assert_frame_equal(twofold.analyze(str(first), cropped=True), table[:1], check_dtype=False)


def test_an_encoder_beside_a_run_is_taken_only_if_it_is_the_runs(starter, made, tmp_path):
    shutil.copytree(made / "starter", tmp_path / "mine")
    torch.manual_seed(2)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "mine/encoder.safetensors")
    with pytest.raises(InputError, match="the run was trained on"):
        twofold.Run(tmp_path / "mine").predict(faces(starter, 1), cropped=True)


def test_a_run_of_ones_own_on_the_starters_encoder_needs_no_weights_folder(starter, tmp_path):
    store = twofold.Dataset(starter / "faces.csv", root=starter / "faces").extract(
        tmp_path / "store", backbones="starter", device="cpu")
    store.fuse(out=tmp_path / "run", head="logreg")
    table = twofold.Run(tmp_path / "run").predict(faces(starter), cropped=True)
    assert len(table) == 2 and table[list(CLASSES)].sum(axis=1).tolist() == pytest.approx([1, 1], abs=1e-4)


def test_what_cannot_be_done_is_said_in_a_sentence(cli, starter, tmp_path, monkeypatch):
    for words, said in (
            (["predict", "nowhere", "photo.png"], "no such run, photograph, video or folder"),
            (["predict", "starter"], "name what it is to predict"),
            (["predict", starter / "faces", starter / "starter"], "is a run: name it first"),
            (["predict", faces(starter)[0], "--timeline", "t.png"], "-o"),
            (["predict", faces(starter)[0], "--submission", "t.csv"], "-o")):
        done = cli(*words)
        assert done.returncode == 2 and said in done.stderr, done.stderr
    monkeypatch.setattr(read, "STARTER_FOLDER", tmp_path / "gone")
    for words in (["predict", faces(starter)[0], "--cropped"], ["serve"], ["report", "starter"]):
        done = cli(*words)
        assert done.returncode == 2 and "not part of this installation" in done.stderr


def test_odd_pictures_are_answered_or_said(cli, starter, real, tmp_path):
    """Each through the command line: none, five and drawn faces, grey, an animation, HEIC, no image, far too large."""
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    portrait = Image.open(real / "media/single_face.jpg").convert("RGB")
    portrait.convert("L").save(tmp_path / "grey.png")
    portrait.save(tmp_path / "phone.heic")
    portrait.save(tmp_path / "moving.gif", save_all=True, append_images=[portrait.rotate(8)], duration=100)
    draw_face(identity=1, emotions=("happiness", "surprise"), size=200, seed=1).save(tmp_path / "drawn.png")
    Image.new("RGB", (300, 200), (20, 90, 160)).save(tmp_path / "sky.png")
    Image.new("L", (10_000, 10_000)).save(tmp_path / "large.png")
    (tmp_path / "text.jpg").write_text("no image")
    words = ("predict", real / "media/multi_face.jpg", *sorted(tmp_path.glob("*.*")), "--detect",
             "--detector", real / "weights/detectors/yunet_n_dynamic.onnx")
    done = cli(*words, "--json")
    answers = pd.DataFrame(json.loads(done.stdout)["answers"]).fillna("")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert answers["source"].value_counts().to_dict() == dict.fromkeys(
        ["grey.png", "phone.heic", "moving.gif", "drawn.png", "sky.png", "large.png", "text.jpg"], 1) | {
        "multi_face.jpg": 5}
    assert answers.set_index("source")["note"][["sky.png", "large.png", "text.jpg", "grey.png", "phone.heic"]].tolist(
        ) == ["no face", "more than 64000000 pixels", "not an image", "", ""]
    assert answers.set_index("source").loc["moving.gif", "where"].startswith("person 0, 2 frames")
    shown = cli("predict", tmp_path / "sky.png", *words[-3:]).stdout.splitlines()
    assert shown[:2] == ["SOURCE   FACE", "sky.png  no face"]


def test_the_run_that_ships_is_whole_small_and_what_its_card_says():
    run, card = read.read_run(read.STARTER_FOLDER), (read.STARTER_FOLDER / "README.md").read_text()
    assert sum(path.stat().st_size for path in read.STARTER_FOLDER.iterdir()) <= 6_000_000
    encoder = load_encoder("starter", device="cpu", precision="fp32")  # no weights are named: it comes with Twofold
    assert {recipe.weights for _, _, recipe in run.streams} == {encoder.weights} and encoder.weights in card
    assert run.taxonomy.classes == CLASSES and encoder.classifier is not None and encoder.dim == 256
    assert set(encoder.classifier.classes) == set(BASIC)
    face = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    grey = (face @ [0.299, 0.587, 0.114]).astype(np.uint8)[..., None].repeat(3, axis=3)
    colour, plain = (encoder.encode(images) for images in (face, grey))
    assert np.abs(colour - plain).max() < 0.05 * np.abs(plain).max()  # colour says nothing

"""Small copies of published datasets, with drawn faces, in the exact layouts."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from twofold.data.labels import basic_pair, builtin_taxonomy
from twofold.data.readers.cexpr import HEADER
from twofold.data.synthetic.dataset import draw_face


@pytest.fixture(scope="session")
def jpeg() -> Callable[..., bytes]:
    """A drawn face as the bytes of a JPEG file; other numbers, other faces."""
    made: dict[tuple, bytes] = {}

    def face(number: int = 0, *emotions: str, kind: str = "JPEG") -> bytes:
        if (number, emotions, kind) not in made:
            file = io.BytesIO()
            draw_face(identity=number, emotions=emotions or ("neutral",), size=48, seed=number).save(file, kind)
            made[number, emotions, kind] = file.getvalue()
        return made[number, emotions, kind]

    return face


@pytest.fixture
def put(jpeg) -> Callable[..., Path]:
    """Write a drawn face to a path, folders included."""

    def write(path: Path, number: int = 0, *emotions: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number, *emotions))
        return path

    return write


@pytest.fixture
def rafdb(tmp_path, put) -> Path:
    """RAF-DB: each class of both parts once in train and once in test, aligned and original."""
    for part, name in (("basic", "basic7"), ("compound", "rafdb11")):
        classes, lines = builtin_taxonomy(name), []
        for number, label in zip(classes.numbers, classes.classes, strict=True):
            emotions = basic_pair(label) if part == "compound" else (label,)
            for split in ("train", "test"):
                stem = f"{split}_{number:05d}"
                put(tmp_path / part / "Image/aligned" / f"{stem}_aligned.jpg", number, *emotions)
                put(tmp_path / part / "Image/original" / f"{stem}.jpg", number, *emotions)
                lines.append(f"{stem}.jpg {number}\n")
        (tmp_path / part / "EmoLabel").mkdir()
        (tmp_path / part / "EmoLabel/list_patition_label.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def rafce(tmp_path, put) -> Path:
    """RAF-CE: each class once, splits in turn."""
    for number in range(14):
        put(tmp_path / f"aligned/{number + 1:04d}_aligned.jpg", number)
        for name, value in (("emolabel", number), ("partition", number % 3),
                            ("AUlabel", f"{number + 1}+L12" if number else "null")):
            with (tmp_path / f"RAFCE_{name}.txt").open("a") as file:
                file.write(f"{number + 1:04d}.jpg {value}\n")
    return tmp_path


@pytest.fixture
def affectnet(tmp_path, put) -> Path:
    """AffectNet of 2021: expressions 0 to 7 in both sets, 8 to 10 in train_set; numbers kept as text, as published."""
    for name, expressions in (("train_set", range(11)), ("val_set", range(8))):
        (tmp_path / name / "annotations").mkdir(parents=True)
        for number in expressions:
            put(tmp_path / name / f"images/{number * 7}.jpg", number)
            for kind, value in (("exp", str(number)), ("val", "0.1"), ("aro", "-0.25"), ("lnd", np.zeros(136))):
                np.save(tmp_path / name / f"annotations/{number * 7}_{kind}.npy", np.array(value))
    return tmp_path


@pytest.fixture
def older_affectnet(tmp_path, put) -> Path:
    """AffectNet's older lists, with uncropped pictures."""
    for name, offset, expressions in (("training", 0, range(11)), ("validation", 20, range(8))):
        text = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence\n"
        for number in expressions:
            put(tmp_path / f"Manually_Annotated_Images/{number}/{number + offset}ab.jpg", number)
            text += f"{number}/{number + offset}ab.jpg,8,10,32,60,1;2;3,{number},0.5\n"
        (tmp_path / f"{name}.csv").write_text(text)
    return tmp_path


PIXELS = np.random.default_rng(0).integers(0, 256, (12, 48, 48))


@pytest.fixture
def fer2013(tmp_path) -> Path:
    """FER2013 and FER+: twelve rows, the fourth no face."""
    usages = ["Training"] * 8 + ["PublicTest"] * 2 + ["PrivateTest"] * 2
    text, plus = "emotion,pixels,Usage\n", ("Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,"
                                            "contempt,unknown,NF\n")
    for row, usage in enumerate(usages):
        text += f"{row % 7},{' '.join(map(str, PIXELS[row].ravel()))},{usage}\n"
        votes = "0,0,0,0,0,0,0,0,0,10" if row == 3 else VOTES[row % len(VOTES)]
        plus += f"{usage},{'' if row == 3 else f'fer{row:07d}.png'},{votes}\n"
    (tmp_path / "fer2013.csv").write_text(text)
    (tmp_path / "fer2013new.csv").write_text(plus)
    return tmp_path


#: neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF
VOTES = ("0,6,4,0,0,0,0,0,0,0",  # happily surprised, strict; happiness
         "5,0,5,0,0,0,0,0,0,0",  # nothing
         "2,0,3,2,0,0,0,0,3,0",  # sadly surprised, loose; no majority
         "9,0,0,0,0,0,0,0,1,0")  # neutral


@pytest.fixture
def cexpr(tmp_path, put) -> Path:
    """Three videos: 01 lacks a frame without a face, 02 has one frame more than asked for, 03 has none at all."""
    for video, frames in (("01", (1, 3)), ("02", (1, 2, 3))):
        for frame in frames:
            put(tmp_path / f"frames/{video}/{frame:05d}.jpg", frame)
    asked = [f"{video}/{frame:05d}.jpg" for video, last in (("01", 3), ("02", 2), ("03", 2))
             for frame in range(1, last + 1)]
    (tmp_path / "template.txt").write_text("\n".join([",".join(HEADER), *(f"{key},0" for key in asked)]) + "\n")
    return tmp_path


#: of BLEMORE
VIDEOS = ("A102_ang_int1_ver1", "A102_neu_sit4_ver2", "A411_mix_ang_hap_30_70_ver1", "A411_mix_sad_fea_50_50_ver1")


@pytest.fixture
def rafml(tmp_path, put) -> Path:
    """RAF-ML: three faces."""
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / "EmoLabel/distribution.txt").write_text(
        "0001.jpg 0.5 0 0 0.5 0 0 \n0002.jpg 0 0.1 0.1 0 0.8 0 \n0003.jpg 0 0 0 0 0 0\n")
    (tmp_path / "EmoLabel/partition_label.txt").write_text("0001.jpg 0\n0002.jpg 1\n0003.jpg 0\n")
    for number in (1, 2, 3):
        put(tmp_path / f"Image/aligned/{number:04d}_aligned.jpg", number)
    return tmp_path


@pytest.fixture
def blemore(tmp_path) -> Path:
    """BLEMORE: four training videos with a table of folds, a test video."""
    root = tmp_path / "BLEMORE"
    for name in (*(f"train/{name}.mov" for name in VIDEOS), "test/test_0001.mov"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "train_metadata.csv").write_text("filename,video_id,fold\n" + "".join(
        f"{name},{name[:4]},{number}\n" for number, name in enumerate(VIDEOS)))
    return root


@pytest.fixture
def mafw(tmp_path) -> Path:
    """MAFW: two videos in the single lists and their folds, one of several emotions."""
    root = tmp_path / "MAFW"
    for name in ("00001", "00002", "00003"):
        (root / "clips").mkdir(parents=True, exist_ok=True)
        (root / f"clips/{name}.mp4").write_bytes(b"")
    (root / "labels").mkdir()
    (root / "labels/multi_label.txt").write_text("00003.mp4\tanger_disgust_anxiety\t<br>text\t<br>A frown.\n")
    for fold, (train, test) in enumerate(((1, 2), (2, 1)), 1):
        folder = root / f"Train & Test Set/single/no_caption/set_{fold}"
        folder.mkdir(parents=True)
        for name, number in (("train", train), ("test", test)):
            label = "anger" if number == 1 else "helplessness"
            (folder / f"{name}.txt").write_text(f"0000{number}.mp4 {label}\n")
    return root

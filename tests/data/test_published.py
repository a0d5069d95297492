"""RAF-DB, RAF-CE, AffectNet and C-EXPR-DB: as published, as they are found on disks, and broken."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from twofold.data.images.decode import decode
from twofold.data.images.sources import open_images
from twofold.data.labels import BASIC, builtin_taxonomy
from twofold.data.readers.affectnet import read_affectnet
from twofold.data.readers.cexpr import HEADER, frames_of, read_cexpr, template_frames
from twofold.data.readers.rafce import read_rafce
from twofold.data.readers.rafdb import read_rafdb
from twofold.data.utils.errors import InputError

CLASS_FOLDERS = [f"{split}/{number}/{split}_{number:05d}_aligned.jpg" for split in ("train", "test")
                 for number in range(1, 8)]


def test_each_part_of_rafdb_has_its_own_numbers(rafdb):
    compound, basic = read_rafdb(rafdb, part="compound"), read_rafdb(rafdb, part="basic")
    assert compound.table["split"].value_counts().to_dict() == {"train": 11, "test": 11}
    for faces, part, column in ((compound, "rafdb11", "compound"), (basic, "basic7", "basic")):
        table, classes = faces.table.set_index("key"), builtin_taxonomy(part)
        assert [table.loc[f"{column}/Image/aligned/train_{number:05d}_aligned.jpg", column]
                for number in classes.numbers] == list(classes.classes)
    assert (compound.table["basic"] == "").all()
    assert decode(open_images(rafdb).read(compound.keys[0])).size == (48, 48)
    assert read_rafdb(rafdb / "compound", part="compound").keys[0] == "Image/aligned/train_00001_aligned.jpg"


def test_both_parts_of_rafdb_and_original_pictures(rafdb):
    faces = read_rafdb(rafdb, part="both", images="original")
    assert len(faces) == 14 + 22 and faces.keys[0] == "basic/Image/original/train_00001.jpg"
    assert all(open_images(rafdb).read(key) for key in faces.keys)
    assert faces.notes == ("RAF-DB basic train: 7 samples here, 12,271 as published",
                           "RAF-DB basic test: 7 samples here, 3,068 as published",
                           "RAF-DB compound: 22 samples here, 3,954 as published")


def test_repackaged_class_folders_of_rafdb(tmp_path, put):
    for place in CLASS_FOLDERS:
        put(tmp_path / "basic" / place)
        put(tmp_path / "valid" / place.replace("test", "valid"))
    faces = read_rafdb(tmp_path, part="basic")
    assert faces.table.set_index("key").loc["basic/test/4/test_00004_aligned.jpg", "basic"] == "happiness"
    assert faces.table["split"].value_counts().to_dict() == {"train": 7, "test": 7}
    assert read_rafdb(tmp_path / "basic", part="basic").keys[0] == "test/1/test_00001_aligned.jpg"
    assert set(read_rafdb(tmp_path / "valid", part="basic").table["split"]) == {"train", "val"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_that_a_spreadsheet_has_saved(rafdb, encoding):
    before, path = read_rafdb(rafdb).table, rafdb / "compound/EmoLabel/list_patition_label.txt"
    path.write_text("".join(f"{line}.0\r\n" for line in path.read_text().splitlines()), encoding=encoding)
    assert read_rafdb(rafdb).table.equals(before)


def test_older_lists_of_affectnet_that_pandas_has_written_again_on_windows(older_affectnet):
    expected, path = read_affectnet(older_affectnet).table, older_affectnet / "training.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table["expression"] += ".0"
    table["subDirectory_filePath"] = table["subDirectory_filePath"].str.replace("/", "\\")
    table.to_csv(path, index=False, encoding="utf-16")
    assert read_affectnet(older_affectnet).table.equals(expected)


def test_a_list_with_tabs_and_a_picture_that_is_gone(rafdb):
    before, path = read_rafdb(rafdb).table, rafdb / "compound/EmoLabel/list_patition_label.txt"
    path.write_text(path.read_text().replace(" ", "\t"))
    (rafdb / "compound/Image/aligned/train_00003_aligned.jpg").unlink()
    faces = read_rafdb(rafdb)
    assert faces.table.equals(before)
    assert ("1 of 22 listed images are not there (the first is compound/Image/aligned/train_00003_aligned.jpg)"
            in faces.notes)


def test_rafce_as_published(rafce):
    faces = read_rafce(rafce)
    assert faces.keys[0] == "aligned/0001_aligned.jpg" and faces.table["au"][4] == "5+L12"
    assert [name for name in faces.table if name.startswith("au_")] == [f"au_{unit}" for unit in range(2, 15)]
    assert faces.table.loc[[0, 3, 4], ["au_4", "au_5", "au_12"]].to_numpy().tolist() == [
        ["0", "0", "0"], ["1", "0", "1"], ["0", "1", "1"]]  # on the left side only, too
    assert tuple(faces.table["compound"]) == builtin_taxonomy("rafce14").classes
    assert list(faces.table["split"][:4]) == ["train", "test", "val", "train"]
    assert faces.notes == ("RAF-CE: 14 samples here, 4,549 as published",)
    assert all(open_images(rafce).read(key) for key in faces.keys)


def test_rafce_without_action_units_and_with_line_ends_of_windows(rafce):
    (rafce / "RAFCE_AUlabel.txt").unlink()
    for name in ("RAFCE_emolabel.txt", "RAFCE_partition.txt"):
        (rafce / name).write_bytes(b"\xef\xbb\xbf" + (rafce / name).read_bytes().replace(b"\n", b"\r\n"))
    faces = read_rafce(rafce)
    assert len(faces) == 14 and "au" not in faces.table


def test_affectnet_of_2021(affectnet):
    faces = read_affectnet(affectnet)
    table, (*notes, last) = faces.table, faces.notes
    assert tuple(table.loc[table["split"] == "train", "basic"]) == BASIC
    assert tuple(table.loc[table["split"] == "val", "basic"]) == BASIC
    assert faces.keys[:3] == ["train_set/images/0.jpg", "train_set/images/7.jpg", "train_set/images/14.jpg"]
    assert "--val-as test" in last and notes == [
        "1 samples labelled 8 (none) are left out", "1 samples labelled 9 (uncertain) are left out",
        "1 samples labelled 10 (no face) are left out",
        "AffectNet, 8 classes train: 8 samples here, 287,651 as published",
        "AffectNet, 8 classes val: 8 samples here, 3,999 as published"]
    seven = read_affectnet(affectnet, classes="basic7")
    assert len(seven) == 14 and "contempt" not in set(seven.table["basic"])
    assert "2 samples of contempt are left out (basic7)" in seven.notes


def test_valence_and_arousal_of_affectnet(affectnet, older_affectnet):
    """-2 stands for none."""
    np.save(affectnet / "train_set/annotations/7_val.npy", np.array("-2.000"))
    (affectnet / "train_set/annotations/14_aro.npy").unlink()
    table = read_affectnet(affectnet / ".").table
    assert table["valence"][:3].tolist() == ["0.1", "", "0.1"]
    assert table["arousal"][:3].tolist() == ["-0.25", "-0.25", ""]
    path = older_affectnet / "training.csv"
    path.write_text(path.read_text().replace(",1,0.5", ",1,-2"))
    assert read_affectnet(older_affectnet).table["valence"][:3].tolist() == ["0.1", "", "0.1"]


def test_the_official_validation_set_can_be_the_test_split(affectnet, older_affectnet):
    for root in (affectnet, older_affectnet):
        as_val, as_test = read_affectnet(root), read_affectnet(root, val_as="test")
        assert as_test.keys == as_val.keys and not any("--val-as" in note for note in as_test.notes)
        assert list(as_test.table["split"]) == list(as_val.table["split"].replace("val", "test"))


def test_the_older_lists_of_affectnet(older_affectnet, tmp_path):
    faces = read_affectnet(older_affectnet)
    assert len(faces) == 16 and faces.keys[1] == "Manually_Annotated_Images/1/1ab.jpg"
    assert tuple(faces.table["basic"][8:]) == BASIC and set(faces.table["split"][8:]) == {"val"}
    assert set(faces.table["valence"]) == {"0.5"} and "facial_landmarks" not in faces.table
    assert any("--crop" in note for note in faces.notes)
    (older_affectnet / "Manually_Annotated_Images/2/2ab.jpg").write_bytes(b"no picture")
    faces, images = read_affectnet(older_affectnet, crop=tmp_path / "crops"), open_images(tmp_path / "crops")
    assert decode(images.read(faces.keys[0])).size == (32, 38)  # the box ends below the picture of 48 x 48
    assert not any("--crop" in note for note in faces.notes)
    assert ("1 faces could not be cropped (the first is Manually_Annotated_Images/2/2ab.jpg: not an image)"
            in faces.notes)
    whole = np.asarray(decode(open_images(older_affectnet).read(faces.keys[3])), int)[10:48, 8:40]
    assert np.abs(np.asarray(decode(images.read(faces.keys[3])), int) - whole).mean() < 4


def test_what_affectnet_lacks_is_counted(affectnet):
    (affectnet / "train_set/images/7.jpg").unlink()
    (affectnet / "train_set/annotations/14_exp.npy").unlink()
    faces = read_affectnet(affectnet)
    assert {"train_set: 1 annotations without an image are left out",
            "train_set: 1 images without an annotation are left out"} <= set(faces.notes)
    assert "train_set/images/7.jpg" not in faces.keys and "train_set/images/14.jpg" not in faces.keys
    shutil.rmtree(affectnet / "train_set")
    faces = read_affectnet(affectnet)
    assert len(faces) == 8 and "train_set: no such folder" in faces.notes[0]


class Touch:
    """An object whose reading back makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_an_annotation_that_is_code_is_refused_and_not_run(affectnet, tmp_path):
    annotation = np.array([Touch(tmp_path / "ran")], object)
    np.save(affectnet / "train_set/annotations/7_exp.npy", annotation, allow_pickle=True)
    with pytest.raises(InputError, match=r"7_exp\.npy"):
        read_affectnet(affectnet)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [
    np.array([3, 4]), np.array(np.inf), np.array("9" * 5000), np.array("x"), np.array(3.5), np.array(3 + 2j),
    np.array("2020-01-01", "datetime64[D]"), np.zeros((0,)), np.array((1, 2.0), dtype="i4,f4"), b"",
    b"PK\x05\x06" + bytes(18), b"\x93NUMPY" + bytes(20), b"\x93NUMPY\x01\x00\x10\x00{'a':  (1, 2), \n"])
def test_odd_annotation_arrays_of_affectnet_are_one_sentence(affectnet, value):
    path = affectnet / "train_set/annotations/0_exp.npy"
    path.write_bytes(value) if isinstance(value, bytes) else np.save(path, value)
    with pytest.raises(InputError, match=r"0_exp\.npy: not one expression number"):
        read_affectnet(affectnet)


def test_frames_of_cexpr_alone(cexpr):
    (cexpr / "frames/01/._00001.jpg").write_bytes(b"x")  # as macOS leaves them
    (cexpr / "frames/__MACOSX").mkdir()
    (cexpr / "frames/__MACOSX/00001.jpg").write_bytes(b"x")
    faces = read_cexpr(cexpr / "frames")
    assert faces.keys == ["01/00001.jpg", "01/00003.jpg", "02/00001.jpg", "02/00002.jpg", "02/00003.jpg"]
    assert list(faces.table["group"]) == ["01", "01", "02", "02", "02"]
    assert set(faces.table["compound"]) == {""} and not faces.notes


def test_the_template_of_cexpr_is_the_list_of_rows(cexpr):
    path = cexpr / "template.txt"
    asked = template_frames(path)
    faces = read_cexpr(cexpr / "frames", template=path)
    assert tuple(faces.keys) == asked == ("01/00001.jpg", "01/00002.jpg", "01/00003.jpg", "02/00001.jpg",
                                          "02/00002.jpg", "03/00001.jpg", "03/00002.jpg")
    assert faces.notes == (
        "C-EXPR-DB submission template: 7 samples here, 26,145 as published",
        "3 of the template's 7 frames are not there (the first is 01/00002.jpg): they stay in the manifest, for they "
        "must be answered",
        "1 whole videos are not there: 03",
        "1 frames are not in the template and left out (the first is 02/00003.jpg)")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert template_frames(path) == asked


def test_frames_of_other_formats_answer_to_the_template(cexpr):
    """Frames are often cut out as .bmp or .png; labels of the template's names are theirs, too."""
    frames = cexpr / "frames"
    for video, suffix in (("01", ".png"), ("02", ".bmp")):
        for frame in sorted((frames / video).iterdir()):
            frame.rename(frame.with_suffix(suffix))
    (cexpr / "truth.csv").write_text(f"{','.join(HEADER)}\n01/00003.jpg,6\n")
    faces = read_cexpr(frames, template=cexpr / "template.txt", annotation=cexpr / "truth.csv")
    assert faces.keys == ["01/00001.png", "01/00002.jpg", "01/00003.png", "02/00001.bmp", "02/00002.bmp",
                          "03/00001.jpg", "03/00002.jpg"]
    assert list(faces.table["compound"]) == ["", "", "sadly_angry", "", "", "", ""]
    assert frames_of(["1/a.jpg", "1/b.jpg"], ["1/a.jpg", "1/a.png", "1/b.bmp"]) == ["1/a.jpg", "1/b.bmp"]


def test_annotations_of_cexpr(cexpr):
    path, folder = cexpr / "truth.csv", cexpr / "truth"
    path.write_text(f"{','.join(HEADER)}\n01/00001.jpg,0\n01/00003.jpg,6\n02/00001.jpg,7\n02/00002.jpg,-1\n"
                    "02/00003.jpg,0,1,0,0,0,0,0\n")
    faces = read_cexpr(cexpr / "frames", annotation=path)
    assert list(faces.table["compound"]) == ["fearfully_surprised", "sadly_angry", "", "", "happily_surprised"]
    assert faces.notes == (f"{path}: 2 of 5 frames have no label",)
    folder.mkdir()
    (folder / "01.txt").write_text("Fearfully Surprised,Happily Surprised\r\n3\r\n5\r\n4\r\n")
    faces = read_cexpr(cexpr / "frames", annotation=folder)
    assert list(faces.table["compound"]) == ["disgustedly_surprised", "angrily_surprised", "", "", ""]
    (folder / "01.txt").write_text("Fearfully Surprised\n3\n\n4\n")  # a blank line is a frame without a label
    faces = read_cexpr(cexpr / "frames", annotation=folder)
    assert list(faces.table["compound"]) == ["disgustedly_surprised", "angrily_surprised", "", "", ""]
    for text in ("3\n5\n4\n", "0,1,0,0,0,0,0\n1,0,0,0,0,0,0\n"):
        (folder / "01.txt").write_text(text)
        with pytest.raises(InputError, match=r"01.txt: line 1 is .*, a label, where the header should be"):
            read_cexpr(cexpr / "frames", annotation=folder)


def test_a_box_without_end_is_a_face_that_could_not_be_cropped(older_affectnet, tmp_path):
    path = older_affectnet / "training.csv"
    path.write_text(path.read_text().replace("1ab.jpg,8,10,32", "1ab.jpg,8,10,1e400", 1))
    faces = read_affectnet(older_affectnet, crop=tmp_path / "cropped")
    assert any("1 faces could not be cropped" in note and "no box" in note for note in faces.notes)


def keep(root: Path) -> None:
    """Nothing is changed."""


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()


def clear(name: str) -> Callable[[Path], object]:
    return lambda root: (shutil.rmtree(root / name), (root / name).mkdir())


def edit(name: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


def add(name: str, line: str) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        (root / name).parent.mkdir(exist_ok=True)
        with (root / name).open("a") as file:
            file.write(f"{line}\n")

    return change


def expression(value: str) -> Callable[[Path], object]:
    return lambda root: np.save(root / "train_set/annotations/7_exp.npy", np.array(value))


def affect(kind: str, value: str) -> Callable[[Path], object]:
    return lambda root: np.save(root / f"train_set/annotations/7_{kind}.npy", np.array(value))


def rename_images(root: Path) -> None:
    for path in [*root.glob("*_set/images/*")]:
        path.rename(path.with_name(f"x{path.name}"))


def original_as_aligned(root: Path) -> None:
    shutil.rmtree(root / "compound/Image/aligned")
    shutil.copytree(root / "compound/Image/original", root / "compound/Image/aligned")


LIST, LABELS, PARTITION = "compound/EmoLabel/list_patition_label.txt", "RAFCE_emolabel.txt", "RAFCE_partition.txt"
UNITS = "RAFCE_AUlabel.txt"
TEMPLATE, TRUTH = {"template": "template.txt"}, {"annotation": "truth"}
PICTURES = "Manually_Annotated_Images"


@pytest.mark.parametrize(("dataset", "change", "options", "says"), [
    ("rafdb", keep, {"part": "other"}, "choose from basic, compound, both"),
    ("rafdb", keep, {"images": "cropped"}, "choose from aligned, original"),
    ("rafdb", remove(LIST), {}, "no compound/EmoLabel/list_patition_label.txt below it .spelled so"),
    ("rafdb", remove("compound/Image/aligned"), {}, "unpack aligned.zip there, or say --images original"),
    ("rafdb", clear("compound/Image/aligned"), {}, "none of the 22 listed images is there .*unpack aligned.zip"),
    ("rafdb", original_as_aligned, {}, "holds the original pictures"),
    ("rafdb", add(LIST, "train_00099.jpg 12"), {}, "line 23: 12 is not a class of RAF-DB compound"),
    ("rafdb", add(LIST, "valid_00001.jpg 1"), {}, "does not start with train_ or test_"),
    ("rafdb", add(LIST, "train_00001.jpg 1"), {}, "line 23: train_00001.jpg stands in another line already"),
    *(("rafdb", add(LIST, line), {}, "line 23: .* is not like") for line in (
        "train_00099.jpg", "train_00001.jpg " + "9" * 5000, "train_00001.jpg ²", "train_00001.jpg -3")),
    ("rafce", remove(LABELS), {}, LABELS), ("rafce", remove(PARTITION), {}, PARTITION),
    ("rafce", remove("aligned"), {}, "aligned: no such folder"),
    ("rafce", clear("aligned"), {}, "none of the 14 listed images is there"),
    ("rafce", add(LABELS, "0015.jpg 14"), {}, "line 15: 14 is not a class of RAF-CE"),
    ("rafce", add(LABELS, "0015.jpg 3"), {}, "no line for 0015.jpg"),
    ("rafce", add(PARTITION, "0015.jpg x"), {}, "line 15: '0015.jpg x' is not like"),
    ("rafce", edit(PARTITION, "0002.jpg 1", "0002.jpg 3"), {}, "line 2: 3 is not a split of RAF-CE"),
    *(("rafce", edit(UNITS, "3+L12", code), {}, "line 3: '0003.jpg .*' is not like '0001.jpg 1[+]4[+]L12'$")
      for code in ("3,12", "3 12", "AU3", "3+", "nil")),
    *(("affectnet", affect(name, value), {}, f"{name}: not one number|{says} '?{value}'? of train_set/images/7.jpg")
      for name, value, says in (("val", "1.5", "valence"), ("aro", "x", "arousal"), ("aro", "nan", "arousal"))),
    ("affectnet", lambda root: np.save(root / "train_set/annotations/7_val.npy", np.zeros(3)), {}, "not one number"),
    ("affectnet", keep, {"val_as": "train"}, "choose from val, test"),
    ("affectnet", keep, {"classes": "cexpr7"}, "choose from basic8, basic7"),
    ("affectnet", keep, {"crop": "crops"}, "nothing to crop"),
    ("affectnet", remove("val_set/images"), {}, "val_set/images: no such folder: unpack val_set whole"),
    ("affectnet", clear("val_set/images"), {}, "no images in it"),
    ("affectnet", rename_images, {}, "an annotation of its name: train_set: 11 annotations without an image"),
    ("affectnet", expression("11"), {}, r"expression 11 of train_set/images/7\.jpg"),
    ("older_affectnet", edit("training.csv", "expression", "label"), {}, "no column expression; it has sub"),
    ("older_affectnet", edit("training.csv", ",0,0.5", ",happy,0.5"), {}, "row 2, column 'expression': 'happy' is no"),
    ("older_affectnet", edit("training.csv", ",0,0.5", f",{'9' * 5000},0.5"), {}, "'expression': .* is no number"),
    ("older_affectnet", remove(PICTURES), {}, f"{PICTURES}: no such folder"),
    ("older_affectnet", clear(PICTURES), {}, "none of the 19 listed images is there"),
    ("cexpr", keep, {"template": "none.txt"}, "no such file"),
    ("cexpr", edit("template.txt", ",".join(HEADER[1:3]), HEADER[1]), TEMPLATE, "line 1 is not the challenge's header"),
    ("cexpr", edit("template.txt", "01/00002.jpg", "01/00001.jpg"), TEMPLATE, "line 3: 01/00001.jpg stands there tw"),
    ("cexpr", edit("template.txt", "01/00002", "00002"), TEMPLATE, "line 3: '00002.jpg' is not like 01/00001.jpg"),
    ("cexpr", add("truth/x.txt", ""), TRUTH, "no <video>.txt"),
    *(("cexpr", add("truth/01.txt", f"header\n{cell}"), TRUTH, "is not one class number|not a class number")
      for cell in ("9" * 5000, "--5", "²", "-", "1.5", "8", "joy", "1,1,0,0,0,0,0"))])
def test_a_copy_that_is_not_as_published_is_one_sentence(dataset, change, options, says, request):
    root = request.getfixturevalue(dataset)
    change(root)
    read = {"rafdb": read_rafdb, "rafce": read_rafce, "cexpr": read_cexpr}.get(dataset, read_affectnet)
    if dataset == "cexpr":
        root, options = root / "frames", {name: root / value for name, value in options.items()}
    with pytest.raises(InputError, match=says) as caught:
        read(root, **options)
    assert "\n" not in str(caught.value)


def test_the_other_part_is_not_read_in_its_place(rafdb, put):
    """Numbers 1 to 7 mean something in both parts: read as the wrong one, every label would be wrong."""
    for place in CLASS_FOLDERS:
        put(rafdb / "DATASET" / place)
    for folder, part, says in (("basic", "compound", "is the other part: say --part basic"),
                               ("compound", "basic", "is the other part: say --part compound"),
                               ("DATASET", "compound", "say --part basic"), ("DATASET", "both", "not both parts")):
        with pytest.raises(InputError, match=says):
            read_rafdb(rafdb / folder, part=part)
    assert len(read_rafdb(rafdb / "DATASET", part="basic")) == 14


def test_a_root_without_a_dataset(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/01.mp4").write_bytes(b"")
    for read, says in ((read_cexpr, "no frames like 01/00001.jpg"), (read_affectnet, "neither train_set/ and val_se")):
        with pytest.raises(InputError, match=says):
            read(tmp_path)

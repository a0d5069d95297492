"""C-EXPR-DB: frames, template, annotation."""

import pytest

from twofold.data.readers.cexpr import HEADER, frames_of, read_cexpr, template_frames
from twofold.data.utils.errors import InputError


def test_frames_alone(cexpr):
    faces = read_cexpr(cexpr / "frames")
    assert faces.keys == ["01/00001.jpg", "01/00003.jpg", "02/00001.jpg", "02/00002.jpg", "02/00003.jpg"]
    assert list(faces.table["group"]) == ["01", "01", "02", "02", "02"]
    assert set(faces.table["compound"]) == {""} and not faces.notes


def test_the_template_is_the_list_of_rows(cexpr):
    faces = read_cexpr(cexpr / "frames", template=cexpr / "template.txt")
    assert faces.keys == ["01/00001.jpg", "01/00002.jpg", "01/00003.jpg", "02/00001.jpg", "02/00002.jpg",
                          "03/00001.jpg", "03/00002.jpg"]
    assert faces.notes == (
        "C-EXPR-DB submission template: 7 samples here, 26,145 as published",
        "3 of the template's 7 frames are not there (the first is 01/00002.jpg): they stay in the manifest, for they "
        "must be answered",
        "1 whole videos are not there: 03",
        "1 frames are not in the template and left out (the first is 02/00003.jpg)")


def test_frames_of_other_formats_answer_to_the_template(cexpr):
    """Frames are often cut out as .bmp or .png; labels of the template's names are theirs, too."""
    frames = cexpr / "frames"
    for video, suffix in (("01", ".png"), ("02", ".bmp")):
        for frame in sorted((frames / video).iterdir()):
            frame.rename(frame.with_suffix(suffix))
    truth = cexpr / "truth.csv"
    truth.write_text(f"{','.join(HEADER)}\n01/00003.jpg,6\n")
    faces = read_cexpr(frames, template=cexpr / "template.txt", annotation=truth)
    assert faces.keys == ["01/00001.png", "01/00002.jpg", "01/00003.png", "02/00001.bmp", "02/00002.bmp",
                          "03/00001.jpg", "03/00002.jpg"]
    assert list(faces.table["compound"]) == ["", "", "sadly_angry", "", "", "", ""]
    assert "3 of the template's 7 frames are not there (the first is 01/00002.jpg)" in faces.notes[1]
    both = frames_of(["1/a.jpg", "1/b.jpg"], ["1/a.jpg", "1/a.png", "1/b.bmp"])
    assert both == ["1/a.jpg", "1/b.bmp"]


def test_annotation_as_a_table_by_number_or_one_hot(cexpr):
    path = cexpr / "truth.csv"
    path.write_text(f"{','.join(HEADER)}\n01/00001.jpg,0\n01/00003.jpg,6\n02/00001.jpg,7\n02/00002.jpg,-1\n"
                    "02/00003.jpg,0,1,0,0,0,0,0\n")
    faces = read_cexpr(cexpr / "frames", annotation=path)
    assert list(faces.table["compound"]) == ["fearfully_surprised", "sadly_angry", "", "", "happily_surprised"]
    assert faces.notes == (f"{path}: 2 of 5 frames have no label",)


def test_annotation_as_a_folder_of_videos(cexpr):
    folder = cexpr / "truth"
    folder.mkdir()
    (folder / "01.txt").write_text("Fearfully Surprised,Happily Surprised\r\n3\r\n5\r\n4\r\n")
    faces = read_cexpr(cexpr / "frames", annotation=folder)
    assert list(faces.table["compound"]) == ["disgustedly_surprised", "angrily_surprised", "", "", ""]


def broken(cexpr, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        read_cexpr(cexpr, **arguments)
    return str(caught.value)


def test_no_frames(cexpr, tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/01.mp4").write_bytes(b"")
    assert "no frames like 01/00001.jpg" in broken(tmp_path / "videos")


@pytest.mark.parametrize(("old", "new", "says"), [
    ("Fearfully_Surprised,Happily_Surprised", "Happily_Surprised,Fearfully_Surprised", "line 1 is not the challenge's"),
    ("01/00002.jpg", "01/00001.jpg", "line 3: 01/00001.jpg stands there twice"),
    ("01/00002.jpg", "00002.jpg", "line 3: '00002.jpg' is not like 01/00001.jpg")])
def test_another_template(cexpr, old, new, says):
    path = cexpr / "template.txt"
    path.write_text(path.read_text().replace(old, new))
    assert says in broken(cexpr / "frames", template=path)


def test_a_template_from_windows(cexpr):
    path = cexpr / "template.txt"
    before = template_frames(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert template_frames(path) == before


@pytest.mark.parametrize(("text", "says"), [("8", "8 is not a class number"), ("joy", "'joy' is not one class number"),
                                            ("1,1,0,0,0,0,0", "is not one class number")])
def test_another_annotation(cexpr, text, says):
    path = cexpr / "truth.csv"
    path.write_text(f"{','.join(HEADER)}\n01/00001.jpg,{text}\n")
    assert says in broken(cexpr / "frames", annotation=path)
    (cexpr / "empty").mkdir()
    assert "no <video>.txt" in broken(cexpr / "frames", annotation=cexpr / "empty")
    assert "no such file" in broken(cexpr / "frames", template=cexpr / "none.txt")


def test_what_macos_leaves_beside_frames_is_no_frame(cexpr):
    (cexpr / "frames/01/._00001.jpg").write_bytes(b"x")
    (cexpr / "frames/__MACOSX").mkdir()
    (cexpr / "frames/__MACOSX/00001.jpg").write_bytes(b"x")
    assert len(read_cexpr(cexpr / "frames")) == 5

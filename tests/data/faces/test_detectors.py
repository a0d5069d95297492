"""YuNet on pictures whose faces are known, and the file that it is read from."""

import numpy as np
import pytest
from PIL import Image

from twofold.data.faces.align import TEMPLATE, crop_face
from twofold.data.faces.detectors import DETECTORS, Detection, iou, is_same_face, open_detector
from twofold.data.faces.settings import CropSettings
from twofold.data.labels import builtin_taxonomy
from twofold.data.synthetic.dataset import draw_dataset
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.report import listing

YUNET = DETECTORS["yunet"]


@pytest.fixture(scope="session")
def yunet(real):
    return open_detector(real / "weights/detectors/yunet_n_dynamic.onnx")


def picture(path):
    return np.ascontiguousarray(np.asarray(Image.open(path).convert("RGB"))[..., ::-1])


def faces(yunet, image, **settings):
    return yunet.create(CropSettings(**settings)).detect(image)


@pytest.mark.parametrize("name, count", [("media/multi_face.jpg", 5), ("media/single_face.jpg", 1),
                                         ("photos/astronaut_nasa_public_domain.png", 1)])
def test_all_faces_are_found_at_every_size_of_the_picture(yunet, real, name, count):
    image = Image.open(real / name).convert("RGB")
    for scale in (1, 0.75, 3):
        pixels = np.asarray(image.resize((round(image.width * scale), round(image.height * scale))))[..., ::-1]
        found = faces(yunet, np.ascontiguousarray(pixels))
        assert len(found) == count
        assert [face.box[2] * face.box[3] for face in found] == sorted(
            (face.box[2] * face.box[3] for face in found), reverse=True)


def test_a_crop_shows_its_face_where_the_template_says_and_is_padded_at_the_border(yunet, real):
    image = picture(real / "photos/astronaut_nasa_public_domain.png")
    crop = crop_face(image, faces(yunet, image)[0], CropSettings(size=200))
    again = faces(yunet, crop.image)[0]
    assert np.abs(np.array(again.landmarks) / 2 - TEMPLATE).max() < 5
    half = np.ascontiguousarray(picture(real / "media/single_face.jpg")[:, 225:])  # without a third of its face
    found = faces(yunet, half)
    assert len(found) == 1 and crop_face(half, found[0], CropSettings()).padded > 0.05


def test_drawn_faces_are_faces_and_many_of_them_are_all_found(yunet, tmp_path):
    drawn = draw_dataset(tmp_path, taxonomy=builtin_taxonomy("cexpr7"), per_class=8, size=112, seed=0)
    tiles = [picture(tmp_path / key) for key in drawn.keys[:50]]
    sheet = np.vstack([np.hstack(tiles[row * 10:row * 10 + 10]) for row in range(5)])
    found = faces(yunet, sheet)
    cells = {(int((face.box[0] + face.box[2] / 2) // 112), int((face.box[1] + face.box[3] / 2) // 112))
             for face in found}
    assert len(found) == len(cells) == 50


def test_min_size_and_min_score_leave_faces_out(yunet, real):
    image = picture(real / "media/multi_face.jpg")
    widths = sorted(min(face.box[2:]) for face in faces(yunet, image, min_size=20))
    assert len(faces(yunet, image, min_size=round(widths[2] - 1))) in (3, 2)  # boxes differ a little with the scale
    assert faces(yunet, image, min_score=1.0) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (37, 41)])
def test_pictures_of_any_shape_are_searched(yunet, shape):
    assert faces(yunet, np.zeros((*shape, 3), np.uint8)) == []


def test_other_files_are_no_detector(tmp_path, real):
    pytest.importorskip("cv2")
    (tmp_path / "junk.onnx").write_bytes(b"junk" * 99)
    for path in (tmp_path / "junk.onnx", real / "weights/face_recognition/mobilefacenet_foamliu_msceleb_128d.onnx"):
        with pytest.raises(InputError, match="not read as a yunet face detector"):
            open_detector(path)


def test_the_detector_is_looked_for_like_all_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        YUNET.find_file()
    assert f"get it from {YUNET.page}" in listing(tmp_path).text() and YUNET.licence in listing(tmp_path).text()
    for part in ("no face detector", YUNET.file, YUNET.page, YUNET.licence, str(tmp_path), "--detector"):
        assert part in str(error.value)
    (tmp_path / YUNET.file).write_bytes(b"x")
    assert YUNET.find_file() == tmp_path / YUNET.file
    assert listing(tmp_path).record()[-1]["found"] == str(tmp_path / YUNET.file)
    assert "yunet (detector)" in listing(tmp_path).text() and "yunet: is here" in listing(tmp_path).text()
    with pytest.raises(InputError, match="is not a file"):
        open_detector(tmp_path / "gone.onnx")


def test_overlaps():
    assert iou((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 0, 10, 10)) == 0
    points = ((0.0, 0.0),) * 5
    large = Detection((0, 0, 100, 100), points, 0.9)
    assert is_same_face(Detection((10, 10, 20, 20), points, 0.9), large)  # a nose taken for a face
    assert not is_same_face(Detection((90, 10, 40, 40), points, 0.9), large)

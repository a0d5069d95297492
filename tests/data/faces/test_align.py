"""Cutting faces out: the similarity against least squares by numpy, and crops against what must be in them."""

import io

import numpy as np
import pytest
from PIL import Image

from twofold.data.faces.align import TEMPLATE, crop_face, encode, similarity, square_matrix, template, warp
from twofold.data.faces.detectors import Detection
from twofold.data.faces.settings import CropSettings

WHOLE = np.array([[1, 0, 0], [0, 1, 0.0]])
NOISE = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_the_similarity_is_that_of_least_squares(seed):
    source, rows, values = np.random.default_rng(seed).uniform(0, 4000, (5, 2)), [], []
    for (x, y), (u, v) in zip(source, TEMPLATE, strict=True):  # four unknowns, two equations a point
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    np.testing.assert_allclose(similarity(source, np.array(TEMPLATE)), [[a, -b, c], [b, a, d]], atol=1e-8)


def test_the_template_scales_with_the_size_and_shrinks_about_the_centre_with_the_margin():
    np.testing.assert_allclose(template(CropSettings(size=100)), TEMPLATE)
    np.testing.assert_allclose(template(CropSettings(size=224)), np.array(TEMPLATE) * 2.24)
    np.testing.assert_allclose(template(CropSettings(size=100, margin=0.5)), (np.array(TEMPLATE) + 50) / 2)


def dotted(landmarks, deviation, side=400):
    """A black picture with a soft white dot at each landmark."""
    y, x = np.mgrid[:side, :side] + 0.5
    light = sum(np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * deviation ** 2)) for u, v in landmarks)
    return np.repeat((255 * light).round().astype(np.uint8)[..., None], 3, axis=2)


def centre(image, near, radius):
    """The centre of brightness within a radius."""
    y, x = np.mgrid[:image.shape[0], :image.shape[1]] + 0.5
    weight = image[..., 0] * (np.hypot(x - near[0], y - near[1]) < radius)
    return np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()


@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_landmarks_come_to_lie_on_the_template_at_any_scale(scale):
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = (np.array(TEMPLATE) - 50) @ turn.T / scale + 200
    face = Detection((150, 150, 100, 100), tuple(map(tuple, landmarks.tolist())), 0.9)
    crop = crop_face(dotted(landmarks, 3 / scale), face, CropSettings(size=100))
    assert crop.scale == pytest.approx(scale, rel=1e-6)
    for target in TEMPLATE:
        assert np.abs(centre(crop.image, target, 9) - target).max() < 0.1


def test_square_takes_the_longer_side_and_the_margin_about_the_middle_of_the_box():
    matrix = square_matrix((40, 10, 20, 60), CropSettings(align="square", size=120, margin=0.25))
    corners = matrix @ np.array([[50 - 45, 50 + 45], [40 - 45, 40 + 45], [1, 1]])
    np.testing.assert_allclose(corners, [[0, 120], [0, 120]])


def test_a_crop_of_whole_pixels_is_those_pixels_as_is_that_of_a_face_whose_landmarks_coincide():
    crop = warp(NOISE, np.array([[1, 0, -30], [0, 1, -20.0]]), 64)
    np.testing.assert_array_equal(crop.image, NOISE[20:84, 30:94])
    assert crop.scale == 1 and crop.padded == 0
    face = Detection((20, 20, 64, 64), ((50, 50),) * 5, 0.9)
    np.testing.assert_array_equal(crop_face(NOISE, face, CropSettings(size=64)).image, NOISE[20:84, 20:84])


def test_what_lies_outside_the_picture_is_black_and_counted():
    image = np.full((60, 60, 3), 200, np.uint8)
    crop = warp(image, np.array([[1, 0, 32], [0, 1, 0.0]]), 64)  # half of it left of the picture, 4 rows below
    assert not crop.image[:, :32].any() and (crop.image[:60, 33:] == 200).all()
    assert crop.padded == pytest.approx(1 - 32 * 60 / 64 ** 2, abs=0.03)
    away = warp(image, np.array([[1, 0, 500], [0, 1, 0.0]]), 64)
    assert away.padded == 1 and not away.image.any()


def test_making_smaller_averages_instead_of_picking_pixels():
    image = np.zeros((512, 512, 3), np.uint8)
    image[::2, ::2] = image[1::2, 1::2] = 255  # a chequer board whose mean is grey
    crop = warp(image, np.array([[0.125, 0, 0], [0, 0.125, 0.0]]), 64)
    assert np.abs(crop.image[2:-2, 2:-2].astype(int) - 127).max() <= 2


def test_sharpness_tells_a_blurred_face_from_a_sharp_one():
    blurred = (NOISE.astype(float) + np.roll(NOISE, 1, 0) + np.roll(NOISE, 1, 1)) / 3
    assert warp(NOISE, WHOLE, 64).sharpness > 2 * warp(blurred.astype(np.uint8), WHOLE, 64).sharpness


def test_png_keeps_every_value_and_jpeg_is_jpeg():
    crop = warp(NOISE, WHOLE, 64)
    png, jpeg = (Image.open(io.BytesIO(encode(crop, CropSettings(size=64, jpeg=quality)))) for quality in (0, 90))
    np.testing.assert_array_equal(np.asarray(png)[..., ::-1], NOISE[:64, :64])
    assert jpeg.format == "JPEG"

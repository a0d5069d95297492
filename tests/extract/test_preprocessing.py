"""Our pixels against torchvision's and timm's own transforms, to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from twofold.data.images.decode import ImageError
from twofold.extract.encoders.preprocessing import Preprocessing

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.5)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def normalised(how: Preprocessing, image: Image.Image) -> torch.Tensor:
    return how.normalize(torch.from_numpy(how.prepare(image)).permute(2, 0, 1).float())


sides = st.integers(1, 90)


@settings(max_examples=60, deadline=None)
@given(width=sides, height=sides, size=st.integers(8, 48), extra=st.integers(-4, 16),
       mode=st.sampled_from(["bilinear", "bicubic"]))
def test_equal_to_torchvision_for_any_shape(width, height, size, extra, mode):
    image = picture(width, height)
    theirs = ImageClassification(crop_size=size, resize_size=size + extra, mean=MEAN, std=STD,
                                 interpolation=InterpolationMode(mode))(image)
    ours = normalised(Preprocessing(size=size, resize=size + extra, interpolation=mode, mean=MEAN, std=STD), image)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(width=sides, height=sides, size=st.integers(8, 48), crop=st.sampled_from([0.8, 0.875, 0.9, 0.95, 1.0]),
       mode=st.sampled_from(["bilinear", "bicubic"]),
       rule=st.sampled_from([("center", "shorter"), ("squash", "both"), ("border", "longer")]))
def test_equal_to_timm_for_any_shape(width, height, size, crop, mode, rule):
    if rule[0] == "border":  # beyond this timm itself rounds a side to nothing
        width, height = max(width, 16), max(height, 16)
    image = picture(width, height)
    theirs = create_transform(size, is_training=False, interpolation=mode, mean=MEAN, std=STD, crop_pct=crop,
                              crop_mode=rule[0])(image)
    how = Preprocessing(size=size, resize=int(size / crop), rule=rule[1], interpolation=mode, mean=MEAN, std=STD)
    torch.testing.assert_close(normalised(how, image), theirs, rtol=0, atol=2e-6)


def test_what_the_recipe_says_of_it():
    assert Preprocessing(size=224, resize=256, interpolation="bicubic").record() == {
        "size": [224, 224], "resize": 256, "resize_rule": "shorter", "interpolation": "bicubic", "crop": "centre",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "scale": 1 / 255}


def test_a_picture_far_too_long_is_refused_before_it_fills_the_memory():
    with pytest.raises(ImageError, match="1 x 20000"):
        Preprocessing(size=224, resize=256).prepare(Image.new("RGB", (1, 20000)))


@pytest.mark.parametrize("wrong", [{"rule": "shortest"}, {"interpolation": "cubic"}])
def test_unknown_rules_are_refused_when_made(wrong):
    with pytest.raises(ValueError, match="no such"):
        Preprocessing(size=8, resize=8, **wrong)

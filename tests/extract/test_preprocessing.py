"""Our pixels against torchvision's and timm's own transforms, to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.v2.functional import resize

from twofold.data.images.decode import ImageError
from twofold.extract.encoders.preprocessing import DECODERS, Preprocessing, Resizer

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


def test_a_border_has_the_mean_colour_in_any_units_and_the_thinnest_picture_a_pixel():
    image, caffe = picture(1, 1000), Preprocessing(size=8, resize=8, rule="longer", mean=(131.1, 300, -1), scale=1.0)
    assert caffe.prepare(image)[0, 0].tolist() == [131, 255, 0]
    halves = Preprocessing(size=8, resize=8, rule="longer", mean=(1.0, 1.0, 1.0), scale=2 / 255)
    assert halves.prepare(image)[0, 0].tolist() == [128, 128, 128]


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


@settings(max_examples=40, deadline=None)
@given(width=sides, height=sides, wide=sides, high=sides, mode=st.sampled_from(["bilinear", "bicubic"]))
def test_the_fast_decoder_resizes_as_torch_does(width, height, wide, high, mode):
    """To the bit as torchvision's tensors, and nearly as Pillow where the picture is smooth, as photographs are."""
    image = picture(width, height).filter(ImageFilter.GaussianBlur(2))
    fast = Resizer(image, decoder=DECODERS["fast"]).resize((wide, high), mode)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    theirs = resize(tensor, [high, wide], interpolation=InterpolationMode(mode), antialias=True)
    np.testing.assert_array_equal(fast, theirs.permute(1, 2, 0).numpy())
    difference = np.abs(fast.astype(int) - Resizer(image).resize((wide, high), mode))
    assert difference.max() <= 3 and (difference > 0).mean() <= 0.3


def test_a_picture_is_resized_once_to_each_size_and_by_each_filter(monkeypatch):
    calls = []
    monkeypatch.setattr(Image.Image, "resize", lambda image, size, mode, real=Image.Image.resize: (
        calls.append((size, mode)), real(image, size, mode))[1])
    image = picture(60, 60)
    hows = [Preprocessing(size=24, resize=32), Preprocessing(size=32, resize=32, rule="both", mean=MEAN, std=STD),
            Preprocessing(size=24, resize=32, interpolation="bicubic"), Preprocessing(size=20, resize=60),
            Preprocessing(size=16, resize=24, interpolation="lanczos")]
    for decoder, bound in ((DECODERS["pillow"], 3), (DECODERS["fast"], 1)):  # torch has no lanczos for bytes
        calls.clear()
        resizer = Resizer(image, decoder=decoder)
        together = [how.prepare(resizer) for how in hows]
        assert len(calls) == bound
        for how, pixels in zip(hows, together, strict=True):
            np.testing.assert_array_equal(pixels, how.prepare(Resizer(image, decoder=decoder)))

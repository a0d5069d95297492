import numpy as np
import pytest
from PIL import Image

from twofold.data.utils.errors import InputError
from twofold.extract.views import VIEWS, view

SHA = "ab" * 32


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels(name, image, sha256=SHA):
    return np.asarray(view(name).apply(image, sha256))


def test_the_original_is_untouched_and_the_flip_mirrors(image):
    np.testing.assert_array_equal(pixels("original", image), np.asarray(image))
    np.testing.assert_array_equal(pixels("flip", image), np.asarray(image)[:, ::-1])


@pytest.mark.parametrize("name", ["enhanced1", "enhanced2"])
def test_an_enhanced_view_depends_on_the_image_alone(image, name):
    first = pixels(name, image)
    pixels("enhanced1", image, "cd" * 32)  # other faces in between change nothing
    np.testing.assert_array_equal(first, pixels(name, image))
    assert first.shape == np.asarray(image).shape
    assert (first != pixels(name, image, "cd" * 32)).any()


def test_the_two_enhanced_views_differ(image):
    assert (pixels("enhanced1", image) != pixels("enhanced2", image)).any()


def test_enhanced_values_are_for_ever(image):
    """The draw is part of the recipe: another NumPy or Pillow must give the same face."""
    assert [int(pixels(name, image).astype(int).sum()) for name in ("enhanced1", "enhanced2")] == GOLDEN


GOLDEN = [393046, 527465]


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_says_what_it_does(name):
    assert view(name).record()["name"] == name
    assert ("scale" in view(name).record()) == name.startswith("enhanced")


def test_an_unknown_view_is_named():
    with pytest.raises(InputError, match=r"'mirror'.*original, flip"):
        view("mirror")

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


def test_an_enhanced_view_depends_on_the_image_alone(image):
    """The draw is part of the recipe: another NumPy or Pillow must give the same face."""
    for name, total in (("enhanced1", 393046), ("enhanced2", 527465)):
        first = pixels(name, image)
        pixels("enhanced1", image, "cd" * 32)  # other faces in between change nothing
        np.testing.assert_array_equal(first, pixels(name, image))
        assert first.shape == np.asarray(image).shape and int(first.astype(int).sum()) == total
        assert (first != pixels(name, image, "cd" * 32)).any()


@pytest.mark.parametrize("name", VIEWS)
def test_the_record_of_a_view_holds_its_parameters(name):
    assert view(name).record()["name"] == name
    assert ("scale" in view(name).record()) == name.startswith("enhanced")


def test_an_unknown_view_is_named():
    with pytest.raises(InputError, match=r"'mirror'.*original, flip"):
        view("mirror")

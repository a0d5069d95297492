"""Bytes of a key, and no others."""

import os
import unicodedata

import pytest

from twofold.data.images.decode import ImageError
from twofold.data.images.sources import check_roots, open_images, parse_roots
from twofold.data.utils.errors import InputError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "faces/a").mkdir(parents=True)
    (tmp_path / "faces/a/1.png").write_bytes(b"one")
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path / "faces"


def test_one_root(root):
    assert open_images(root).read("a/1.png") == b"one"


def test_roots_by_name(root, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more/2.png").write_bytes(b"two")
    faces = open_images({"x": root, "y": tmp_path / "more"})
    assert faces.read("x/a/1.png") == b"one" and faces.read("y/2.png") == b"two"
    with pytest.raises(ImageError, match="no root for 'z'"):
        faces.read("z/2.png")


@pytest.mark.parametrize("key", ["../secret", "a/../../secret", "link", "linked/secret"])
def test_a_key_cannot_leave_its_root(root, key):
    (root / "link").symlink_to(root.parent / "secret")
    (root / "linked").symlink_to(root.parent)
    with pytest.raises(ImageError, match="outside its root"):
        open_images(root).read(key)


def test_an_absolute_key_is_not_followed(root):
    with pytest.raises(ImageError, match="outside its root"):
        open_images(root).read(str(root.parent / "secret"))


def test_links_out_of_the_root_are_an_option(root, tmp_path, cli):
    """As DVC, git-annex and storage folders of clusters have it; keys cannot leave the root all the same."""
    (root / "link.png").symlink_to(root.parent / "secret")
    (root / "linked").symlink_to(root.parent)
    (tmp_path / "faces.csv").write_text("key\nlink.png\n")
    images = open_images(root, follow_links=True)
    assert images.read("link.png") == images.read("linked/secret") == b"secret"
    for key in ("../secret", "linked/../secret", str(root.parent / "secret")):
        with pytest.raises(ImageError, match=r"outside its root|missing file"):
            images.read(key)
    done = cli("manifest", "check", tmp_path / "faces.csv", "--root", root)
    assert "outside its root (a link: --follow-links reads it) (link.png)" in done.stdout
    done = cli("manifest", "check", tmp_path / "faces.csv", "--root", root, "--follow-links")
    assert "not an image (link.png)" in done.stdout


@pytest.mark.parametrize(("here", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_another_unicode_form_are_the_same_file(root, here, asked):
    """macOS decomposes letters with accents; a manifest made there names them so."""
    name = "Zoë/é.png"
    path = root / unicodedata.normalize(here, name)
    path.parent.mkdir()
    path.write_bytes(b"there")
    images, key = open_images(root), unicodedata.normalize(asked, name)
    assert images.read(key) == b"there"
    check_roots(images, [key])
    with pytest.raises(ImageError, match="missing file"):
        images.read("Zoë/è.png")


def test_links_within_the_root_are_fine(root):
    (root / "b.png").symlink_to(root / "a/1.png")
    assert open_images(root).read("b.png") == b"one"


def test_a_csv_of_pixels_outside_the_root_is_not_read(root):
    (root.parent / "fer2013.csv").write_text("emotion,pixels,Usage\n0,1,Training\n")
    (root / "in.csv").symlink_to(root.parent / "fer2013.csv")
    with pytest.raises(ImageError, match="outside its root"):
        open_images(root).read("in.csv/0000000.png")


@pytest.mark.parametrize(("key", "reason"), [("a/2.png", "missing file"), ("a", "unreadable file"),
                                             ("a/1.png/x", "unreadable file"), ("a\0b", "unreadable file")])
def test_reasons(root, key, reason):
    with pytest.raises(ImageError, match=reason):
        open_images(root).read(key)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_no_permission(root):
    (root / "a/1.png").chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        open_images(root).read("a/1.png")


def test_a_missing_root(tmp_path):
    with pytest.raises(InputError, match="no such folder of images"):
        open_images(tmp_path / "none")
    with pytest.raises(InputError, match="no such folder of images"):
        open_images({"x": tmp_path, "y": tmp_path / "none"})


def test_roots_that_cannot_be_meant_are_refused(root):
    check_roots(open_images(root), ["a/2.png", "a/1.png"])
    check_roots(open_images(root), [])
    with pytest.raises(InputError, match=r"none of 2 images tried is below .*the first is x/a/1.png"):
        check_roots(open_images(root), ["x/a/1.png", "x/a/2.png"])
    with pytest.raises(InputError, match="no root for the samples of y: give --root y=DIR too"):
        check_roots(open_images({"x": root}), ["x/a/1.png", "y/1.png"])
    many = [f"a/{row + 2}.png" for row in range(5000)]
    with pytest.raises(InputError, match="none of 100 images tried"):
        check_roots(open_images(root), many)


def test_roots_from_the_command_line(root):
    assert parse_roots([str(root)]) == root
    assert list(parse_roots(["x=/a", "y=/b=c"]).values())[1].as_posix() == "/b=c"
    for wrong in (["/a", "/b"], ["x=/a", "x=/b"], ["x=", "y=/b"]):
        with pytest.raises(InputError, match="NAME=DIR"):
            parse_roots(wrong)

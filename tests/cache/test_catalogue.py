"""A catalogue comes from a stranger: what it may say, and what is refused in one sentence."""

import json

import pytest

from tests.cache.conftest import make_recipe
from twofold.cache.errors import CacheError
from twofold.cache.share.catalogue import CATALOGUE, MAX_CATALOGUE_BYTES, Catalogue, Entry, catalogue_of, parse
from twofold.cache.share.transfer import pull, push, shared_listing
from twofold.cache.store import Store


def recipe_with(**changes) -> dict:
    """A recipe, perhaps of strange contents, whose fingerprint is nevertheless its own."""
    made = make_recipe(**changes)
    return {"recipe": json.loads(made.canonical()), "fingerprint": made.fingerprint}


def features(**changes) -> dict:
    return {"name": "a.h5", "bytes": 10_000, "sha256": "0" * 64, "rows": 10, "failed": 0, "dim": 6} | recipe_with(
        ) | changes


def whole(*files: dict, **changes) -> bytes:
    record = {"format": "twofold-store-2", "files": list(files), "manifest": None}
    return json.dumps(record | changes).encode()


def test_a_catalogue_survives_writing_and_reading(tmp_path, write):
    write(tmp_path / "a.h5")
    write(tmp_path / "b.h5", view={"name": "flip"})
    (tmp_path / "manifest.csv").write_text("key\n")
    made = catalogue_of(Store(tmp_path))
    assert parse(made.json(), Catalogue, "here") == made
    assert [(file.rows, file.failed, file.dim, file.recipe.view["name"]) for file in made.files] == [
        (700, 1, 6, "original"), (700, 1, 6, "flip")]
    assert made.manifest == Entry.of(tmp_path / "manifest.csv") and next(iter(made.entries)) == "manifest.csv"


@pytest.mark.parametrize(("change", "said"), [
    *(({"name": name}, "files[0].name") for name in (
        "../a.h5", "/etc/a.h5", "a/b.h5", "a\\b.h5", "..h5", ".a.h5", ".pull-0.h5", "a.csv", "manifest.csv",
        "store.json", "a.h5\n", "a\0.h5", "a.h5/", "", ".h5", "C:a.h5", "é.h5", "a" * 300 + ".h5", "\x1b[2Ja.h5", None,
        5, ["a.h5"])),
    *(({"bytes": count}, "files[0].bytes") for count in (1 << 60, -1, 1e4, True, "10000")),
    *(({"sha256": digest}, "files[0].sha256") for digest in ("0" * 63, "Z" * 64, 0, "../" + "0" * 61)),
    ({"rows": 1 << 40}, "files[0].rows"), ({"dim": None}, "files[0].dim"), ({"failed": -3}, "files[0].failed"),
    ({"rows": 5000}, "do not fit into 10000 by"), ({"fingerprint": "0" * 16}, "does not match its fingerprint"),
    ({"fingerprint": None}, "files[0].fingerprint"),
    *(({"recipe": recipe}, "files[0].recipe") for recipe in ({}, "text", None)),
    (recipe_with(view={}), "no view name"), (recipe_with(view={"name": ["x"]}), "no view name"),
    (recipe_with(backbone="\x1b]0;owned\x07"), "not plain text"), (recipe_with(weights="x" * 5000), "not plain text"),
    (recipe_with(version=9), "recipe version 9"), ({"more": 1}, "unknown field"), ({"\x1b[2J": 1}, "unknown field")])
def test_a_feature_file_that_is_not_sane_is_refused(change, said):
    with pytest.raises(CacheError, match="there: its catalogue") as caught:
        parse(whole(features(**change)), Catalogue, "there")
    assert said in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.parametrize(("data", "said"), [
    *((data, "is not one that") for data in (
        b"", b"\xff\xfe", b"[]", b"{}", b"[" * 200_000, b"9" * 5000, whole().replace(b"null", b"NaN"))),
    (whole(format="twofold-store-3"), "$.format"), (whole(format=True), "$.format"), (whole(files={}), "$.files"),
    (whole(extra=1), "unknown field `extra`"), (whole(5), "$.files[0]"),
    (whole(features(), features()), "lists a.h5 twice"), (whole(features(), features(name="A.h5")), "lists a.h5 twice"),
    (whole(manifest={"name": "../manifest.csv", "bytes": 1, "sha256": "0" * 64}), "the manifest is not manifest.csv"),
    (whole(manifest={"name": "manifest.csv", "bytes": 1 << 50, "sha256": "0" * 64}), "$.manifest.bytes"),
    (b" " * (MAX_CATALOGUE_BYTES + 1), "larger than 16 MB")])
def test_what_is_no_catalogue_is_refused(data, said):
    with pytest.raises(CacheError) as caught:
        parse(data, Catalogue, "there")
    assert said in str(caught.value) and str(caught.value).startswith("there: ")


def test_backbones_are_chosen_by_name_and_fingerprint(tmp_path, write):
    for name, changes in {"a": {}, "b": {"view": {"name": "flip"}}, "c": {"precision": "bf16"},
                          "d": {"backbone": "timm:other"}}.items():
        write(tmp_path / f"{name}.h5", rows=3, **changes)
    made = catalogue_of(Store(tmp_path))
    of_c = made.entries["c.h5"].fingerprint
    for asked, names in ((["timm:tiny"], "abc"), ([f"timm:tiny@{of_c[:8]}", "timm:other"], "cd"), (None, "abcd")):
        assert [file.name for file in made.chosen(asked, "there").files] == [f"{name}.h5" for name in names]
    for asked in ("resnet18", "timm:tiny@ffffffffffff"):
        with pytest.raises(CacheError, match=r"there has no features of .*; it has timm:tiny@.*timm:other@"):
            made.chosen([asked], "there")


# ---------------------------------------------------------------------------------------- what a pull does with it
@pytest.fixture
def lie(tmp_path, there, write):
    """A shared store of one file; call it to tell lies in its catalogue."""
    (tmp_path / "store").mkdir()
    write(tmp_path / "store" / "a.h5")
    push(Store(tmp_path / "store"), str(there))

    def change(**changes) -> str:
        record = json.loads((there / CATALOGUE).read_text())
        record["files"][0] |= changes
        (there / CATALOGUE).write_text(json.dumps(record))
        return str(there)

    return change


@pytest.mark.parametrize(("change", "said"), [
    ({"name": "../escaped.h5"}, r"files\[0\].name"), ({"rows": 699}, "another recipe or size"),
    ({"failed": 0}, "another recipe or size"),
    ({"dim": 5}, "another recipe or size"), (recipe_with(decoder="other"), "another recipe or size"),
    ({"sha256": "0" * 64}, "does not have the SHA-256"), ({"bytes": 1 << 43}, "its disk has"),
    ({"bytes": 500_000}, "bytes and its catalogue says")])
def test_a_file_that_is_not_what_the_catalogue_says_is_refused(lie, back, tmp_path, change, said):
    before = {*tmp_path.rglob("*"), back.path}
    with pytest.raises(CacheError, match=said):
        pull(lie(**change), back)
    assert {*tmp_path.rglob("*")} <= before


def test_a_foreign_file_with_the_right_hash_is_refused(lie, there, back):
    (there / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"x" * 20_000)
    entry = Entry.of(there / "a.h5")
    with pytest.raises(CacheError, match=r"there/a\.h5 is refused: an HDF5 file without"):
        pull(lie(bytes=entry.bytes, sha256=entry.sha256), back)
    assert list(back.path.iterdir()) == []


def test_an_endless_catalogue_is_not_read_to_its_end(tmp_path):
    with (tmp_path / CATALOGUE).open("wb") as file:
        file.truncate(1 << 40)  # a hole: a terabyte of zeros
    with pytest.raises(CacheError, match="larger than 16 MB"):
        shared_listing(f"file://{tmp_path}")

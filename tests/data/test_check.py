"""What a check finds, on drawn and on real faces."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from twofold.data import audit
from twofold.data.audit import (
    FINGERPRINT,
    check_manifest,
    components,
    exact_duplicates,
    fingerprint_images,
    group_duplicates,
    near_duplicates,
)
from twofold.data.images.sources import open_images
from twofold.data.manifest import build_manifest, read_manifest, write_manifest
from twofold.data.readers.csv import read_csv


def pair_count(sets: np.ndarray) -> int:
    return sum(size * (size - 1) // 2 for size in np.unique(sets, return_counts=True)[1])


@pytest.fixture
def faces(tmp_path, jpeg):
    """0 = 1 to the byte across splits; 2 ~ 3 to the eye with other labels; 4, 5 one person in two splits; 6, 7 bad."""
    def write(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        return name
    two = Image.open(io.BytesIO(jpeg(2, "fear", kind="PNG")))
    file = io.BytesIO()
    ImageEnhance.Brightness(two).enhance(0.9).save(file, "JPEG", quality=60)
    keys = [write("0.jpg", jpeg(1, "anger")), write("1.jpg", jpeg(1, "anger")),
            write("2.png", jpeg(2, "fear", kind="PNG")), write("3.jpg", file.getvalue()),
            write("4.jpg", jpeg(4, "surprise")), write("5.jpg", jpeg(5, "disgust")),
            write("6.jpg", b"no picture"), "7.jpg"]
    table = pd.DataFrame({
        "key": keys, "split": ["train", "test", "train", "train", "train", "val", "test", "test"],
        "basic": ["anger", "anger", "fear", "surprise", "surprise", "disgust", "fear", "fear"],
        "group": ["", "", "", "", "p", "p", "", ""]})
    return build_manifest(table, source="x")


@pytest.fixture
def check(tmp_path):
    return lambda manifest: check_manifest(manifest, open_images(tmp_path), workers=1)


def test_everything_wrong_is_found(faces, check):
    found = check(faces)
    exact, near, groups = found.sets.values()
    assert found.unreadable == {"missing file": ["7.jpg"], "not an image": ["6.jpg"]}
    assert (exact.sets, exact.samples, exact.crossing) == (1, 2, ["0.jpg (train) = 1.jpg (test)"])
    assert (near.sets, near.crossing, near.disagreeing) == (1, [], ["2.png (fear) = 3.jpg (surprise)"])
    assert groups.crossing == ["4.jpg (train) = 5.jpg (val)"]
    assert found.exit_code == 1 and "1 samples: missing file (7.jpg)" in found.text()
    assert "the splits leak" in found.text()
    assert found.record()["near_duplicates"] == {"sets": 1, "samples": 2, "crossing_splits": 0, "different_labels": 1}
    sound = check(faces.select(np.array([1, 0, 1, 0, 1, 0, 0, 0])))
    assert sound.exit_code == 0 and "every image can be read" in sound.text() and "leak" not in sound.text()


def test_what_the_decoder_guessed_is_counted(check, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40)).save(tmp_path / name)
    found = check(build_manifest(pd.DataFrame({"key": ["a.png", "b.png"]}), source="x"))
    assert found.exit_code == 0 and "2 pictures of more than 8 bits a value do not say which is white" in found.text()
    assert list(found.record()["remarks"].values()) == [2]


def test_duplicates_become_groups_and_sets_that_share_a_group_are_joined(faces, check):
    grouped = group_duplicates(check(faces))
    assert grouped.table["group"].tolist() == ["same0000000"] * 2 + ["same0000002"] * 2 + ["p", "p", "", ""]
    assert len(check(grouped).sets["groups"].crossing) == 2
    shared = build_manifest(faces.table.assign(group=["", "a", "a", "", "b", "", "", ""]), source="x")
    assert group_duplicates(check(shared)).table["group"].tolist() == ["a"] * 4 + ["b", "", "", ""]


def test_the_command_line(faces, tmp_path, cli):
    write_manifest(faces, tmp_path / "faces.csv")
    done = cli("manifest", "check", "faces.csv", "--root", ".", "--group-duplicates", "-o", "grouped.csv", cwd=tmp_path)
    assert done.returncode == 1 and "exact duplicates: 1 sets of 2 samples" in done.stdout
    split = cli("manifest", "split", "grouped.csv", "--test", 0.4, "--val", 0, "-o", "new.csv", cwd=tmp_path)
    assert split.returncode == 0, split.stderr
    made = read_manifest(tmp_path / "new.csv").table
    assert made["group"][1] == "same0000000"
    assert made["split"][0] == made["split"][1] and made["split"][4] == made["split"][5]


def test_a_csv_of_pixels_is_checked_too(fer2013, cli, tmp_path):
    assert cli("manifest", "fer2013", fer2013, "-o", tmp_path / "fer.csv").returncode == 0
    done = cli("manifest", "check", tmp_path / "fer.csv", "--root", fer2013, "--json")
    assert done.returncode == 0 and '"unreadable": {}' in done.stdout


def test_processes_find_the_same(faces, tmp_path, monkeypatch):
    keys = faces.keys * 20
    here = fingerprint_images(keys, open_images(tmp_path), workers=1)
    monkeypatch.setattr("twofold.data.audit.FEW", 10)
    seen = []
    there = fingerprint_images(keys, open_images(tmp_path), workers=2, progress=seen.append)
    assert sum(seen) == len(keys) and (here == there).all()


def test_the_known_duplicates_of_the_real_faces(real):
    """Recall against dup_group, among every eighth of the other faces; what is found beyond those pairs are the same
    photographs too, by eye."""
    faces = read_csv(real / "faces_ferplus/labels.csv", key="image", group="dup_group")
    faces = faces.select(faces.table["group"].duplicated(keep=False) | (np.arange(len(faces)) % 8 == 0))
    sets = near_duplicates(fingerprint_images(faces.keys, open_images(real / "faces_ferplus"), workers=1))
    known = np.unique(faces.table["group"].to_numpy(object), return_inverse=True)[1]
    both = np.unique(np.column_stack([known, sets]), axis=0, return_inverse=True)[1].ravel()
    assert pair_count(both) / pair_count(known) >= 0.99
    assert pair_count(both) / pair_count(sets) >= 0.63
    assert np.bincount(sets).max() <= 20  # sets do not run together


def test_other_people_are_no_duplicates(real):
    """News photographs of 333 scenes: nothing to find but what is there twice."""
    table = pd.read_csv(real / "faces_lfw_expr/labels.csv", dtype=str)
    images = open_images(real / "faces_lfw_expr")
    sets = near_duplicates(fingerprint_images(table["image"].tolist(), images, workers=1))
    for head in np.flatnonzero(np.bincount(sets) > 1):
        assert table["subject"][sets == head].nunique() == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(0, 999))
def test_bands_find_what_comparing_all_pairs_finds(count, seed):
    draw = np.random.default_rng(seed)
    base = draw.random((4, 320)) < 0.5
    bits = base[draw.integers(0, 4, count)] ^ (draw.random((count, 320)) < draw.choice([0.02, 0.06, 0.1]))
    packed = np.packbits(bits, axis=1).view(np.uint64)
    far = (bits[:, None] ^ bits[None])
    alike = (far[..., :64].sum(axis=2) <= audit.COARSE) & (far[..., 64:].sum(axis=2) <= audit.FINE)
    wanted = components(count, *np.nonzero(alike))
    prints = np.zeros(count, FINGERPRINT)
    prints["sha256"], prints["shows"], prints["reason"] = np.arange(count)[:, None], True, ""
    prints["coarse"], prints["fine"] = packed[:, 0], packed[:, 1:]
    assert (near_duplicates(prints) == wanted).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=60))
def test_components_are_closed(count, edges):
    pairs = np.array([(a % count, b % count) for a, b in edges], int).reshape(-1, 2)
    parents = components(count, pairs[:, 0], pairs[:, 1])
    wanted = list(range(count))
    for _ in range(count):
        for a, b in pairs:
            wanted[a] = wanted[b] = min(wanted[a], wanted[b])
    assert parents.tolist() == wanted


def test_flat_and_unreadable_pictures_are_like_none(tmp_path):
    for name, grey in (("a", 10), ("b", 200), ("c", 200)):
        Image.new("L", (48, 48), grey).save(tmp_path / f"{name}.png")
    prints = fingerprint_images(["a.png", "b.png", "c.png", "none.png", "none2.png"], open_images(tmp_path), workers=1)
    assert exact_duplicates(prints).tolist() == near_duplicates(prints).tolist() == [0, 1, 1, 3, 4]

"""From a dataset as it lies on a disk to features, as a person types it."""

import numpy as np
import pytest
from PIL import Image

from twofold.cache.store import Store
from twofold.data.images.csv_pixels import row_key
from twofold.data.labels import basic_pair, builtin_taxonomy
from twofold.data.manifest import read_manifest
from twofold.data.readers.cexpr import HEADER
from twofold.data.synthetic.dataset import draw_face

BACKBONE = ("--backbones", "torchvision:mobilenet_v2", "--weights", "torchvision:mobilenet_v2=random:0",
            "--precision", "fp32", "--device", "cpu")


@pytest.fixture
def features(cli):
    """Extract a manifest and return the feature file."""

    def extract(manifest, store, *roots):
        named = [word for root in roots for word in ("--root", root)]
        done = cli("extract", manifest, *named, "--store", store, *BACKBONE)
        assert done.returncode == 0, done.stderr
        return Store(store).find("torchvision:mobilenet_v2")

    return extract


def drawn(number: int) -> np.ndarray:
    emotions = basic_pair(builtin_taxonomy("cexpr7").classes[number % 7])
    return np.asarray(draw_face(identity=number, emotions=emotions, size=48, seed=number).convert("L"))


def test_faces_inside_fer2013_give_the_features_of_png_files(tmp_path, cli, features):
    """Those that `--unpack` writes have the same bytes, others the same pixels."""
    (tmp_path / "png").mkdir()
    with (tmp_path / "fer2013.csv").open("w") as file:
        file.write("emotion,pixels,Usage\n")
        for number in range(6):
            file.write(f"{number},{' '.join(map(str, drawn(number).ravel()))},Training\n")
            Image.fromarray(drawn(number)).save(tmp_path / f"png/{number}.png")
    made = {}
    for name, root, *words in (("inside", "fer2013.csv", "fer2013", "."), ("csv", "png", "csv", "list.csv"),
                               ("outside", "fer", "fer2013", ".", "--unpack", "fer")):
        (tmp_path / "list.csv").write_text("key\n" + "".join(f"{number}.png\n" for number in range(6)))
        done = cli("manifest", *words, "-o", f"{name}.csv", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        made[name] = features(tmp_path / f"{name}.csv", tmp_path / name, tmp_path / root)
    inside, outside = made["inside"], made["outside"]
    assert list(inside.keys) == [row_key("fer2013.csv", row) for row in range(6)]
    assert list(outside.keys) == [f"fer{row:07d}.png" for row in range(6)]
    assert list(inside.sha256) == list(outside.sha256) != list(made["csv"].sha256)
    assert (inside.read() == outside.read()).all() and (inside.read() == made["csv"].read()).all()


def test_a_merged_manifest_is_extracted_from_its_roots(tmp_path, cli, features):
    for name in ("one", "two"):
        (tmp_path / name / "fear").mkdir(parents=True)
        for number in range(3):
            Image.fromarray(drawn(number + 3 * (name == "two"))).save(tmp_path / name / f"fear/{number}.png")
        assert cli("manifest", "folder", tmp_path / name, "-o", tmp_path / f"{name}.csv").returncode == 0
    named = f"a={tmp_path / 'one.csv'}", f"b={tmp_path / 'two.csv'}"
    done = cli("manifest", "merge", *named, "-o", tmp_path / "both.csv")
    assert done.returncode == 0, done.stderr
    made = features(tmp_path / "both.csv", tmp_path / "both", f"a={tmp_path / 'one'}", f"b={tmp_path / 'two'}")
    assert list(made.keys) == read_manifest(tmp_path / "both.csv").keys == [
        f"{name}/fear/{number}.png" for name in "ab" for number in range(3)]
    assert not made.failures
    alone = features(tmp_path / "two.csv", tmp_path / "alone", tmp_path / "two")
    assert (alone.sha256 == made.sha256[3:]).all()
    assert np.abs(made.read()[3:] - alone.read()).max() < 0.01


def test_a_missing_frame_is_a_recorded_fact(tmp_path, cli):
    """C-EXPR-DB: a frame without a face has no picture, and keeps its row."""
    (tmp_path / "frames/01").mkdir(parents=True)
    Image.fromarray(drawn(0)).save(tmp_path / "frames/01/00001.jpg")
    (tmp_path / "template.csv").write_text(f"{','.join(HEADER)}\n01/00001.jpg,0\n01/00002.jpg,0\n")
    cli("manifest", "cexpr", tmp_path / "frames", "--template", tmp_path / "template.csv", "-o", tmp_path / "c.csv")
    done = cli("extract", tmp_path / "c.csv", "--root", tmp_path / "frames", "--store", tmp_path / "s", *BACKBONE)
    file = Store(tmp_path / "s").find("torchvision:mobilenet_v2")
    assert list(file.keys) == ["01/00001.jpg"] and file.failures == {"01/00002.jpg": "missing file"}, done.stderr


def test_images_that_are_links_out_of_the_root_are_an_option_of_every_verb(tmp_path, cli):
    """As DVC, git-annex and storage folders leave a dataset; the refusal names the option."""
    (tmp_path / "storage").mkdir()
    for label in ("fear", "anger"):
        (tmp_path / "faces" / label).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(drawn(number)).save(tmp_path / f"storage/{label}{number}.png")
            (tmp_path / f"faces/{label}/{number}.png").symlink_to(tmp_path / f"storage/{label}{number}.png")
    table, store = tmp_path / "f.csv", tmp_path / "s"
    assert cli("manifest", "folder", tmp_path / "faces", "-o", table).returncode == 0
    extract = ("extract", table, "--root", tmp_path / "faces", "--store", store, *BACKBONE)
    refused = cli(*extract)
    assert refused.returncode == 1 and "(a link: --follow-links reads it)" in refused.stdout, refused.stdout
    assert cli(*extract, "--follow-links", "--retry-failures").returncode == 0
    assert Store(store).find("torchvision:mobilenet_v2").rows == 8
    for words in (("cache", "verify", store), ("manifest", "check", table)):
        assert cli(*words, "--root", tmp_path / "faces").returncode == 1, words
        assert "--follow-links" not in cli(*words, "--root", tmp_path / "faces", "--follow-links").stdout, words
    tune = ("finetune", table, "--root", tmp_path / "faces", "--backbone", "timm:test_resnet", "--weights", "random:0",
            "--target", "basic", "--epochs", "1", "--size", "32", "--out", tmp_path / "w.safetensors")
    refused = cli(*tune)
    assert refused.returncode == 2 and "--follow-links reads it" in refused.stderr, refused.stderr

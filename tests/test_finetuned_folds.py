"""From faces to honest folds: one encoder a fold, its features, and a fusion that reads the right one for each."""

from twofold.cache.store import Store
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset

NETWORK = "timm:test_vit"


def test_one_encoder_a_fold(cli, tmp_path):
    faces = draw_dataset(tmp_path / "faces", taxonomy=builtin_taxonomy("cexpr7"), per_class=18, size=48, seed=0,
                         per_identity=1)
    write_manifest(faces, tmp_path / "faces.csv")
    words = ("finetune", tmp_path / "faces.csv", "--root", tmp_path / "faces", "--backbone", NETWORK, "--weights",
             "random:0", "--size", "48", "--epochs", "1", "--batch-size", "16", "--target", "compound", "--device",
             "cpu", "--folds", "2", "--out", tmp_path / "weights.safetensors")
    alone = cli(*words, "--fold", "2")  # as another machine would
    assert alone.returncode == 0 and not (tmp_path / "weights.fold1of2.safetensors").exists(), alone.stderr
    assert cli(*words, "--fold", "3").returncode == 2
    extract = ("extract", tmp_path / "faces.csv", "--root", tmp_path / "faces", "--store", tmp_path / "store",
               "--backbones", NETWORK, "--weights", f"{NETWORK}={tmp_path / 'weights.safetensors'}", "--device", "cpu")
    early = cli(*extract)
    assert early.returncode == 2 and "weights.fold1of2.safetensors is missing" in early.stderr
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    assert f"use all of them with `extract --backbones {NETWORK} --weights {NETWORK}=" in done.stdout
    files = [tmp_path / f"weights.fold{number}of2.safetensors" for number in (1, 2)]
    assert all(file.exists() for file in files)
    stamps = [file.stat().st_mtime_ns for file in files]
    assert cli(*words).returncode == 0 and stamps == [file.stat().st_mtime_ns for file in files]  # nothing twice
    done = cli(*extract)
    assert done.returncode == 0, done.stderr
    assert len(Store(tmp_path / "store").files()) == 2
    done = cli("fuse", tmp_path / "store", "--folds", "2", "--head", "logreg")
    assert done.returncode == 0, done.stderr
    assert "126 samples" in done.stdout and "each of the 2 folds has its own encoder" in done.stdout
    assert "test samples left out" not in done.stdout
    leak = cli("fuse", tmp_path / "store", "--folds", "2", "--head", "logreg", "--seed", "1")  # dealt otherwise
    assert leak.returncode == 2 or "test samples left out" in leak.stdout

"""An encoder that was taught with test faces is a leak: caught, named, and never part of a figure."""

import hashlib
import shutil

import numpy as np
import pytest

import twofold
from twofold.cache.classifier import BackboneClassifier, TrainingSamples
from twofold.cache.feature_writer import write_feature_file
from twofold.cache.recipe import Recipe
from twofold.cache.store import Store
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import build_manifest, write_manifest
from twofold.data.splits import assign_folds
from twofold.data.utils.errors import InputError
from twofold.fuse.core.features import join, join_folds
from twofold.fuse.core.kinds import Classification

CLASSES = builtin_taxonomy("cexpr7").classes
FACES, DIM, FOLDS = 210, 6, 3


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def faces():
    """Thirty faces a class, three of them a person; two thirds train, one sixth each val and test, by person."""
    import pandas as pd

    person = np.arange(FACES) // 3
    split = np.array(["train", "train", "train", "train", "val", "test"])[person % 6]
    return build_manifest(pd.DataFrame({
        "key": [f"{number:03}.png" for number in range(FACES)], "split": split,
        "compound": [CLASSES[number % 7] for number in range(FACES)], "group": [f"p{number}" for number in person],
    }), source="test")


@pytest.fixture
def write_store(faces, tmp_path):
    """A store with a feature file for each `taught`, of one backbone unless named otherwise."""
    def write(*taught: TrainingSamples | None, backbone: str = "timm:net", folder: str = "store", shift: float = 0.0):
        store = Store(tmp_path / folder, new=True)
        store.path.mkdir(exist_ok=True)
        write_manifest(faces, store.manifest_path)
        for number, each in enumerate(taught):
            recipe = Recipe(backbone=backbone, architecture=backbone, weights=f"sha256:{number:064x}", tap="pool",
                            preprocessing={}, view={"name": "original"}, decoder="d", precision="fp32", dtype="float32")
            draw = np.random.default_rng(number)
            values = draw.normal(size=(FACES, DIM)).astype(np.float32) + shift
            values[:, 0] += np.arange(FACES) % 7
            classifier = BackboneClassifier(("anger", "fear"), np.zeros((DIM, 2), np.float32), np.zeros(2, np.float32),
                                       each) if each else None
            write_feature_file(store.path_of(recipe), recipe=recipe, dim=DIM, keys=faces.keys,
                              sha256=[digest(key) for key in faces.keys], features=values, failures={},
                              classifier=classifier)
        return store.path

    return write


def taught_with(faces, rows, *, by_group: bool = False, **fold) -> TrainingSamples:
    keys = np.array(faces.keys)[rows]
    groups = np.unique(faces.table["group"].to_numpy(str)[rows])
    images = [bytes.fromhex(digest(f"other {key}" if by_group else key)) for key in keys]
    names = [hashlib.sha256(name.encode()).digest()[:16] for name in groups]
    return TrainingSamples(np.frombuffer(b"".join(images), np.uint8).reshape(-1, 32),
                       np.frombuffer(b"".join(names), np.uint8).reshape(-1, 16), **fold)


def fuse_args(store, *more):
    return ("fuse", store, "--head", "logreg", "--seeds", 1, *more)


@pytest.mark.parametrize("by_group", [False, True])
def test_test_faces_of_the_encoder_leave_the_test(cli, faces, write_store, tmp_path, by_group):
    test = np.flatnonzero(faces.table["split"] == "test")
    store = write_store(taught_with(faces, test[:15], by_group=by_group))
    done = cli(*fuse_args(store, "--out", tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert f"15 of {len(test)} test samples left out: the encoder of timm:net was fine-tuned with them" in done.stdout
    assert f"{len(test) - 15} samples of the test split" in done.stdout


def test_a_test_that_the_encoder_knows_whole_is_refused(cli, faces, write_store):
    store = write_store(taught_with(faces, np.arange(FACES)))
    for more in ((), ("--folds", FOLDS)):
        done = cli(*fuse_args(store, *more))
        assert done.returncode == 2 and "the encoder of timm:net was fine-tuned with all" in done.stderr
        assert "finetune --folds" in done.stderr


def test_teaching_with_train_and_val_is_no_leak(cli, faces, write_store):
    store = write_store(taught_with(faces, np.flatnonzero(faces.table["split"] != "test")))
    done = cli(*fuse_args(store))
    assert done.returncode == 0 and "test samples left out" not in done.stdout


def test_predict_counts_what_the_encoder_has_learned(cli, faces, write_store, tmp_path):
    test = np.flatnonzero(faces.table["split"] == "test")
    store = write_store(taught_with(faces, test[:15]))
    assert cli(*fuse_args(store, "--out", tmp_path / "run")).returncode == 0
    said = f"{FACES - len(test) + 15} of {FACES} samples were in the training or validation set of"
    done = cli("predict", tmp_path / "run", store, "-o", tmp_path / "answers.csv")
    assert done.returncode == 0 and said in done.stderr
    with pytest.warns(UserWarning, match=said):
        table = twofold.Run(tmp_path / "run").predict(store)
    assert table["seen"].sum() == FACES - len(test) + 15


def test_evaluate_leaves_out_or_names_what_the_encoder_has_learned(cli, faces, write_store, tmp_path):
    test = np.flatnonzero(faces.table["split"] == "test")
    store = write_store(None)
    assert cli(*fuse_args(store, "--out", tmp_path / "run")).returncode == 0
    shutil.rmtree(store)
    leaky = write_store(taught_with(faces, test[:12]))
    done = cli("evaluate", tmp_path / "run", leaky)
    assert done.returncode == 0 and f"on {len(test) - 12} test samples" in done.stdout
    assert f"the encoder of timm:net was fine-tuned with 12 of the {len(test)} samples" in done.stdout
    seen = cli("evaluate", tmp_path / "run", leaky, "--allow-seen")
    assert f"on {len(test)} test samples" in seen.stdout and "(12 SEEN" in seen.stdout


@pytest.fixture
def fold_sides(faces):
    return assign_folds(faces, builtin_taxonomy("cexpr7"), folds=FOLDS, seed=0)


def fold_set(faces, fold_sides, **changes):
    return [taught_with(faces, np.flatnonzero(fold_sides != fold), fold=fold, folds=FOLDS, training_id="t" * 8,
                        **changes) for fold in range(FOLDS)]


def test_each_fold_reads_its_own_encoder(cli, faces, fold_sides, write_store, tmp_path):
    store = write_store(*fold_set(faces, fold_sides))
    done = cli(*fuse_args(store, "--folds", FOLDS, "--out", tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert f"{FACES} samples" in done.stdout and "each of the 3 folds has its own encoder" in done.stdout
    assert "test samples left out" not in done.stdout
    refused = cli("evaluate", tmp_path / "run", store)
    assert refused.returncode == 2 and "cross-validated with one encoder per fold" in refused.stderr


def test_python_reaches_the_encoders_of_the_folds(cli, faces, fold_sides, write_store, tmp_path):
    store = write_store(*fold_set(faces, fold_sides))
    assert cli(*fuse_args(store, "--folds", FOLDS, "--out", tmp_path / "run")).returncode == 0
    features = twofold.Store(store).features(folds=FOLDS)
    result = features.train("logreg", folds=FOLDS, seeds=1)
    assert result.figures["macro_f1"].tolist() == twofold.Run(tmp_path / "run").figures["macro_f1"].tolist()
    with pytest.raises(InputError, match=f"train with folds={FOLDS}"):
        features.train("logreg", folds=5)


def test_a_folds_features_are_those_of_its_file(faces, fold_sides, write_store):
    store = Store(write_store(*fold_set(faces, fold_sides)))
    features = join([store], backbones=[], views=["original"],
                    task=Classification(builtin_taxonomy("cexpr7")), folds=FOLDS)
    for fold, joined in enumerate(join_folds([store], features, folds=FOLDS)):
        file = features.streams[0].fold_files[fold]
        assert file.classifier is not None and file.classifier.training_samples is not None
        assert file.classifier.training_samples.fold == fold
        assert np.array_equal(joined.loaded().matrix, file.read())


def test_folds_dealt_otherwise_are_caught(cli, faces, fold_sides, write_store):
    store = write_store(*fold_set(faces, np.roll(fold_sides, 3)))
    done = cli(*fuse_args(store, "--folds", FOLDS))
    assert (done.returncode, "test samples left out" in done.stdout) == (0, True) or done.returncode == 2


@pytest.mark.parametrize(("kept", "folds", "message"), [
    (FOLDS, 5, "fine-tuned for 3 folds: use --folds 3"), (2, FOLDS, "fold 3 of 3 has no features")])
def test_another_number_of_folds_or_a_missing_one_is_named(cli, faces, fold_sides, write_store, kept, folds, message):
    done = cli(*fuse_args(write_store(*fold_set(faces, fold_sides)[:kept]), "--folds", folds))
    assert done.returncode == 2 and message in done.stderr

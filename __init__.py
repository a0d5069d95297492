"""Compound facial expressions from cached features: the Python API, for notebooks and scripts.

    store = twofold.Dataset("faces.csv", root="photos").extract("store", backbones=["resnet18"])
    features = store.features(classes="cexpr7")                   # X, y, groups, keys, split
    result = features.train("mlp", folds=5, seeds=3)              # or features.train(SVC(), folds=5)
    head = twofold.Head("mlp", random_state=0).fit(features)      # head.predict(features), head.predict_proba(X)
    result.figures, result.confusion, result.compare(other)

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from twofold.data.utils.machine import limit_openmp_spinning

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from PIL.Image import Image
    from sklearn.base import BaseEstimator

    from twofold.extract.encoders.encoder import Encoder as Network
    from twofold.fuse.features import Features as JoinedFeatures
    from twofold.fuse.predictions import Predictions
    from twofold.fuse.serve.recogniser import Recogniser
    from twofold.fuse.settings import Settings

__all__ = ["Dataset", "Encoder", "Features", "Head", "Report", "Result", "Run", "Store"]

limit_openmp_spinning()  # before anything imports torch, in every entry and every worker process


class Report(Protocol):
    """What a verb returns and is printed. It may have `exit_code`, too: 1 where some of its work failed."""

    def text(self) -> str: ...
    def record(self) -> Any: ...


class Dataset:
    """Images with their labels: the manifest, a CSV file or a table, and the folder (or archive) of its keys.

    Raises twofold.data.utils.errors.InputError for a manifest that cannot be read.
    """

    def __init__(self, manifest: Path | str | pd.DataFrame, *, root: Path | str):
        from twofold.data.manifest import read_manifest

        self.manifest, self.root = Path(manifest) if isinstance(manifest, str | Path) else None, root
        self._manifest = read_manifest(Path(manifest) if isinstance(manifest, str) else manifest)

    def __len__(self) -> int:
        return len(self._manifest)

    def frame(self) -> pd.DataFrame:
        """One row per sample: key, split, basic, compound, group, and whatever else the manifest carries."""
        return self._manifest.table.copy()

    def extract(
        self, store: Path | str, *, backbones: Sequence[str], views: Sequence[str] = ("original",),
        weights: dict[str, str] | None = None, device: str = "auto", precision: str = "auto",
    ) -> Store:
        """Embed every face with every backbone that the store lacks; the store. As the verb `extract`.

        weights: backbone to a file, `random:SEED` or `hub`. Raises InputError or CacheError before anything is written
        if that makes no sense, RuntimeError if it was interrupted.
        """
        from twofold.extract.extract import Request, extract
        from twofold.extract.streams import parse_streams

        files = [f"{name}={file}" for name, file in (weights or {}).items()]
        report = extract(Request(
            manifest=self._manifest, roots=[str(self.root)], store=Path(store), device=device,
            streams=parse_streams(backbones, views, weights=files, precision=precision)))
        if report.exit_code > 1:
            raise RuntimeError(f"interrupted: {report.text()}")
        return Store(store)


class Encoder:
    """A backbone with its weights, by name: a preset, timm:NAME, torchvision:NAME or onnx:PATH. dim: of an embedding.

    weights: a file, `random:SEED`, `hub`, or None for the weights folder and then the hub. Raises InputError for a name
    or weights that are not to be had.
    """

    def __init__(self, name: str, *, weights: str | None = None, device: str = "auto", precision: str = "auto"):
        from twofold.extract.encoders.registry import load_encoder

        self._network: Network = load_encoder(name, weights=weights, device=device, precision=precision)
        self.dim = self._network.dim

    def embed(self, images: Sequence[Image | np.ndarray | Path | str] | Image | np.ndarray | Path | str) -> np.ndarray:
        """(N, D) float32 embeddings of N images of faces, in order: PIL images, (H, W, 3) uint8 RGB arrays, or paths of
        image files. A single one counts as a list of one.

        Raises ImageError for a picture that cannot be read, InputError if none fits the device.
        """
        import numpy as np
        import PIL.Image as pillow

        from twofold.data.images.decode import decode, upright_rgb

        def opened(image: Image | np.ndarray | Path | str) -> Image:
            if isinstance(image, str | Path):
                return decode(Path(image).read_bytes())
            return upright_rgb(pillow.fromarray(image) if isinstance(image, np.ndarray) else image)

        if isinstance(images, str | Path | pillow.Image) or (isinstance(images, np.ndarray) and images.ndim == 3):
            images = [images]
        prepare, size = self._network.preprocessing.prepare, self._network.batch_size
        blocks = []
        for start in range(0, len(images), size):
            pictures = [opened(image) for image in images[start:start + size]]
            blocks.append(self._network.encode(np.stack([prepare(picture) for picture in pictures])))
        return np.concatenate(blocks) if blocks else np.empty((0, self.dim), np.float32)


class Store:
    """A folder of cached features. Raises twofold.cache.errors.CacheError if there is none."""

    def __init__(self, path: Path | str):
        from twofold.cache.store import Store as Folder

        self.path = Folder(path).path

    def files(self) -> pd.DataFrame:
        """One row a feature file: backbone, view, rows, failed, dim, weights, fingerprint, bytes, ..."""
        import pandas as pd

        from twofold.cache.report import listing

        return pd.DataFrame(listing(self.path).record()["files"])

    def features(
        self, *, classes: str = "cexpr7", target: str = "", backbones: Sequence[str] = (),
        views: Sequence[str] = ("original",), folds: int = 0,
    ) -> Features:
        """The embeddings of these backbones (none: all) side by side, joined by key with the manifest's labels.

        classes: as of `fuse`; `from-data` takes the labels in the manifest's column `target`. folds: for encoders that
        were fine-tuned one per fold; trained with as many folds, each has its own encoder.
        """
        from twofold.cache.store import Store as Folder
        from twofold.fuse.features import join, join_folds
        from twofold.fuse.settings import resolve
        from twofold.fuse.task import chosen_classes

        stores = [Folder(self.path)]
        taxonomy = chosen_classes(resolve(changes={"classes": classes, "target": target}), stores)
        joined = join(stores, backbones=list(backbones), views=list(views), taxonomy=taxonomy, folds=folds)
        return Features(joined.loaded(), join_folds(stores, joined, folds=folds))

    def fuse(self, *, out: Path | str | None = None, overwrite: bool = False, preset: str = "default", **settings: Any
             ) -> pd.DataFrame:
        """Train a head on each backbone and on all; their figures, a row a system, the fusion last. As the verb `fuse`.

        settings: as the options of the verb, such as head="gated", folds=5, seeds=10. out: the folder of the run;
        overwrite: a run of other settings there. Raises InputError or CacheError for what cannot be.
        """
        import pandas as pd

        from twofold.fuse.fuse import fuse
        from twofold.fuse.settings import resolve

        fusion = fuse([self.path], resolve(preset=preset, changes=settings), out=Path(out) if out else None,
                      overwrite=overwrite)
        return pd.DataFrame([_row(figures.record(fusion.classes.classes)) for figures in fusion.figures])


class Features:
    """Embeddings and labels of N samples as arrays, in the manifest's order.

    X (N, D) float32: the streams side by side; y (N,): numbers of `classes`, -1 for a sample without a label of the
    taxonomy; groups, keys, split (N,): text, samples of one group must not cross a split (a sample without a group is
    its own, by its key); streams: the backbones (and views) whose columns X has, in order.
    """

    def __init__(self, joined: JoinedFeatures, by_fold: tuple[JoinedFeatures, ...] = ()):
        import numpy as np

        self._joined, self._by_fold = joined, by_fold
        self.X: np.ndarray = joined.read(np.arange(len(joined)), range(len(joined.streams)))
        self.y, self.keys, self.split = joined.label, joined.keys, joined.split
        self.groups = np.array([group.rpartition("\0")[2] for group in joined.group], object)
        self.classes = tuple(joined.taxonomy.classes)
        self.streams = [stream.name for stream in joined.streams]

    def __len__(self) -> int:
        return len(self.y)

    def frame(self) -> pd.DataFrame:
        """One row per sample: key, split, group, label."""
        import pandas as pd

        names = [*self.classes, ""]  # -1 takes the last
        return pd.DataFrame({"key": self.keys, "split": self.split, "group": self.groups,
                             "label": [names[label] for label in self.y]})

    def train(self, head: str | BaseEstimator = "mlp", *, name: str = "", random_state: int | None = None,
              n_jobs: int | None = None, **settings: Any) -> Result:
        """Train a head, by name, or any scikit-learn classifier; score it on the test samples, or by `folds=K`.

        settings: as the options of the verb `fuse` (folds, seeds, epochs, lr, ...); random_state: the first seed;
        n_jobs: threads. An estimator takes folds, random_state, n_jobs and val_fraction; what else it needs it has
        itself. Both have the same samples, groups and folds. Raises InputError for what cannot be.
        """
        from twofold.fuse.experiment import (
            experiment_on,
            predict_test,
            predict_with_estimator,
            train_singles,
            train_subset,
        )

        if not isinstance(head, str):
            own = sorted(settings.keys() - {"folds", "seed", "val_fraction"})
            if own:
                raise _input_error(f"{', '.join(own)}: settings of our heads; set those of {type(head).__name__} on "
                                   "the estimator itself")
        resolved = _resolve(self, head if isinstance(head, str) else "mlp", random_state, settings)
        if self._by_fold and resolved.folds != len(self._by_fold):
            raise _input_error(f"these features have an encoder per fold: train with folds={len(self._by_fold)}")
        experiment = experiment_on(self._joined, resolved, by_fold=self._by_fold)
        with _threads(n_jobs):
            if not isinstance(head, str):
                return Result(self, predict_with_estimator(experiment, head, name=name), resolved.seed)
            trained = train_subset(experiment, range(len(self.streams)), train_singles(experiment))
        return Result(self, predict_test(experiment, trained, name=name or head), resolved.seed)


class Head:
    """A fusion head as a scikit-learn estimator, to be trained on features and to predict.

    head: its name; random_state: the first seed; n_jobs: threads while it trains, None for all; settings: as the
    options of the verb `fuse` (seeds, epochs, lr, ...). Raises InputError for unknown ones.
    """

    def __init__(self, head: str = "mlp", *, random_state: int = 0, n_jobs: int | None = None, **settings: Any):
        if settings.get("folds"):
            raise _input_error("folds: a head is trained once; score it with Features.train(..., folds=K)")
        self.head, self.random_state, self.n_jobs, self.settings = head, random_state, n_jobs, settings
        _resolve(None, head, random_state, settings)

    def fit(self, features: Features) -> Head:
        """Train on the training samples; validation samples (carved by group where there are none) choose epoch and
        temperature; test samples are not used. Raises InputError."""
        from twofold.fuse.experiment import experiment_on, train_singles, train_subset

        settings = _resolve(features, self.head, self.random_state, self.settings)
        experiment = experiment_on(features._joined, settings, needs_test=False)
        with _threads(self.n_jobs):
            self._trained, = train_subset(experiment, range(len(features.streams)), train_singles(experiment))
        self.classes_, self._names, self.notes_ = _array(features.classes), features.streams, experiment.notes
        return self

    def predict_proba(self, features: Features | np.ndarray) -> np.ndarray:
        """(N, C) calibrated probabilities in the order of `classes_`; features: as `fit` had, or their X."""
        import numpy as np

        from twofold.fuse.heads.head import run_on_array
        from twofold.fuse.metrics.scores import apply_temperature
        from twofold.fuse.runs.read import check_features

        if not hasattr(self, "_trained"):
            raise _input_error("the head is not trained: call fit first")
        X = features.X if isinstance(features, Features) else np.asarray(features)
        head = self._trained.head
        check_features(X, head.spec.dims, [self._names[k] for k in self._trained.streams])
        output = run_on_array(head, np.ascontiguousarray(X, np.float32))
        return apply_temperature(output.probabilities.mean(axis=0), self._trained.temperature)

    def predict(self, features: Features | np.ndarray) -> np.ndarray:
        """(N,) names of the classes."""
        best = self.predict_proba(features).argmax(axis=1)
        return self.classes_[best]


class Result:
    """The predictions of a trained head for the test samples, and their figures."""

    def __init__(self, features: Features, predictions: Predictions, seed: int):
        self._features, self._predictions, self._seed = features, predictions, seed

    @property
    def figures(self) -> pd.DataFrame:
        """One row: accuracy and macro-F1 with their 95 % intervals, groups, seeds, calibration, as metrics.json."""
        import pandas as pd

        from twofold.fuse.predictions import figures

        classes = self._features.classes
        return pd.DataFrame([_row(figures(self._predictions, seed=self._seed).record(classes))])

    @property
    def confusion(self) -> pd.DataFrame:
        """(C, C) counts: rows truth, columns prediction."""
        import pandas as pd

        from twofold.fuse.metrics.scores import confusion_matrix

        classes = list(self._features.classes)
        counts = confusion_matrix(self._predictions.target, self._predictions.predicted, len(classes))
        return pd.DataFrame(counts, index=pd.Index(classes, name="truth"), columns=classes)

    @property
    def predictions(self) -> pd.DataFrame:
        """One row per test sample: key, truth, prediction, and the calibrated probability of each class."""
        import pandas as pd

        classes = list(self._features.classes)
        table = self._predictions
        calls = pd.DataFrame({"key": table.key, "truth": [classes[label] for label in table.target],
                              "prediction": [classes[label] for label in table.calibrated.argmax(axis=1)]})
        return pd.concat([calls, pd.DataFrame(table.calibrated, columns=classes)], axis=1)

    def compare(self, other: Result) -> ResultComparison:
        """The difference in macro-F1 on the same samples, paired by group.

        Raises InputError if the two were scored on different samples.
        """
        import numpy as np

        from twofold.fuse.predictions import compare_predictions
        from twofold.fuse.tables import describe_comparison

        ours, theirs = self._predictions, other._predictions
        if not np.array_equal(ours.key, theirs.key):
            raise _input_error("these two were scored on different samples: train both with the same folds and seed")
        result = compare_predictions(ours, theirs, seed=self._seed)
        return ResultComparison(
            difference=result.difference, interval=result.interval, p=result.p_value, groups=result.groups,
            within_noise=result.within_noise,
            text=f"{ours.system.name} against {theirs.system.name}: {describe_comparison(result)}")


@dataclass(frozen=True)
class ResultComparison:
    """A difference in macro-F1: its 95 % interval (None from too few groups), and p by sign flips of groups.

    It prints as a sentence.
    """

    difference: float
    interval: tuple[float, float] | None
    p: float
    groups: int
    within_noise: bool
    text: str

    def __repr__(self) -> str:
        return self.text


class Run:
    """A run that `fuse --out` has written, read back. Raises InputError if it is not one.

    classes: in the order of `predict_proba`'s columns; streams: the backbones (and views) of the columns that it wants.
    """

    def __init__(self, path: Path | str):
        from twofold.fuse.runs.read import read_run

        self._run = read_run(Path(path))
        self.classes, self.streams = tuple(self._run.taxonomy.classes), list(self._run.stream_names)
        self.classes_ = _array(self.classes)

    @property
    def figures(self) -> pd.DataFrame:
        """One row per system, the fusion last, as metrics.json holds them."""
        import pandas as pd
        from msgspec import to_builtins

        return pd.DataFrame([_row(to_builtins(system)) for system in self._run.metrics.systems])

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """(N, C) calibrated probabilities of raw features (N, D), side by side in the order of `streams`.

        Raises InputError for features of another width.
        """
        return self._run.probabilities(X)

    def predict(
        self, inputs: Store | np.ndarray | Path | str | Image | Sequence[Image | Path | str], *, cropped: bool = False,
        detector: Path | str | None = None, weights: dict[str, str] | None = None, device: str = "auto",
    ) -> pd.DataFrame:
        """Predict a store, features (N, D), or images: a row each, with the prediction and a probability per class.

        A store: one row per sample, with `seen` where it, or its group, was in the run's training or validation set,
        so that its prediction says nothing about new samples; a warning counts them. Images (PIL, or paths of files):
        one row per face, with its image's number and box, cropped as the run's samples were, or taken whole (cropped:
        all of them); detector, weights, device: as the options of the verb `predict`. For videos: that verb.
        """
        import numpy as np
        import pandas as pd

        if isinstance(inputs, np.ndarray) and inputs.ndim == 2:
            return self._frame(pd.DataFrame(), self._run.probabilities(inputs))
        if isinstance(inputs, Store) or (isinstance(inputs, str | Path) and Path(inputs).is_dir()):
            return self._predict_store(Path(inputs.path if isinstance(inputs, Store) else inputs))
        images: list[Any] = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        recogniser = self._recogniser(cropped, detector, weights or {}, device)
        results = [recogniser.recognise(_file_content(image)) for image in images]
        faces = [(number, face) for number, result in enumerate(results) for face in result.faces]
        found = pd.DataFrame({"image": [number for number, _ in faces], "box": [face.box for _, face in faces]})
        return self._frame(found, np.array([face.expressions for _, face in faces]).reshape(-1, len(self.classes)))

    def _predict_store(self, path: Path) -> pd.DataFrame:
        import warnings

        import numpy as np
        import pandas as pd

        from twofold.cache.store import Store as Folder
        from twofold.fuse.predict import seen_samples_note

        features, notes = self._run.features(Folder(path))
        rows = np.arange(len(features))
        seen = np.asarray(~np.all(self._run.seen.unseen(features, rows), axis=1))
        for note in [*notes, *seen_samples_note(self._run, seen)]:
            warnings.warn(note, stacklevel=3)
        return self._frame(pd.DataFrame({"key": features.keys, "seen": seen}),
                           self._run.calibrated(self._run.scores(features, rows)))

    def _recogniser(self, cropped: bool, detector: Path | str | None, weights: dict[str, str], device: str
                    ) -> Recogniser:
        from twofold.extract.match import load_matching
        from twofold.fuse.serve.recogniser import Recogniser
        from twofold.fuse.serve.worker import open_finder

        self._run.require_one_encoder_per_stream()
        encoders = load_matching([recipe for _, _, recipe in self._run.streams], device=device,
                                 weights=[f"{name}={file}" for name, file in weights.items()],
                                 dims=self._run.head.spec.dims)
        finder = open_finder(self._run.record.crops, Path(detector) if detector else None, cropped)
        return Recogniser(self._run, finder, encoders.embed, max_faces=100)

    def _frame(self, columns: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
        import pandas as pd

        calls = pd.DataFrame({"prediction": self.classes_[probabilities.argmax(axis=1)]})
        return pd.concat([columns, calls, pd.DataFrame(probabilities, columns=list(self.classes))], axis=1)


def _file_content(image: Image | Path | str) -> bytes:
    """The bytes of an image file; of an image in memory, as PNG."""
    import io

    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _resolve(features: Features | None, head: str, random_state: int | None, settings: dict[str, Any]) -> Settings:
    """Settings of a head on features. Raises InputError for what is unknown, or decided by the features already."""
    from twofold.fuse.settings import resolve

    joined = [name for name in ("backbones", "views", "extra_views", "target", "classes") if name in settings]
    if joined:
        raise _input_error(f"{', '.join(joined)}: decided by the features already; choose in Store.features(...)")
    if random_state is not None:
        settings = settings | {"seed": int(random_state)}
    taxonomy = features._joined.taxonomy if features else None
    classes = {"target": taxonomy.target, "classes": taxonomy.name} if taxonomy else {}
    return resolve(changes={**classes, "head": head, **settings})


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """torch with that many threads (None or -1: as it is) while something trains."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count if count and count > 0 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _array(names: Sequence[str]) -> np.ndarray:
    import numpy as np

    return np.array(names, object)


def _input_error(sentence: str) -> ValueError:
    from twofold.data.utils.errors import InputError

    return InputError(sentence)


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """What of a system's record fits into a row."""
    return {name: value for name, value in record.items() if name not in ("per_class", "confusion", "contributions")}

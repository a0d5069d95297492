"""Compound facial expressions from cached features: the Python API, for notebooks and scripts.

    store = twofold.Dataset("faces.csv", root="photos").extract("store", backbones=["resnet18"])
    features = store.features(classes="cexpr7")                   # X, y, groups, keys, split
    result = features.train("mlp", folds=5, seeds=3)              # or features.train(SVC(), folds=5)
    head = twofold.Head("mlp", random_state=0).fit(features)      # head.predict(features), head.predict_proba(X)
    result.figures, result.confusion, result.compare(other)

    twofold.analyze("photo.jpg")                                  # a row a face, from the run that comes with Twofold

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from twofold.data.utils.machine import limit_openmp_spinning

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from PIL.Image import Image

    from twofold.extract.encoders.encoder import Encoder as Network
    from twofold.extract.streams import MatchingEncoders
    from twofold.fuse.api import Features, Head, Result
    from twofold.fuse.runs.read import Run as TrainedRun
    from twofold.fuse.serve.recogniser import Recogniser

__all__ = ["Dataset", "Encoder", "Features", "Head", "Report", "Result", "Run", "Store", "analyze"]

limit_openmp_spinning()  # before anything imports torch, in every entry and every worker process


Method = TypeVar("Method", bound=Callable[..., Any])


def _on_cpu(method: Method) -> Method:
    """Have its tensors on the CPU unless it says otherwise, whatever device a notebook has made the default one."""
    @wraps(method)
    def inside(*arguments: Any, **named: Any) -> Any:
        import torch

        if torch.get_default_device().type == "cpu":
            return method(*arguments, **named)
        with torch.device("cpu"):
            return method(*arguments, **named)

    return inside  # pyright: ignore[reportReturnType]


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

    @_on_cpu
    def extract(
        self, store: Path | str, *, backbones: Sequence[str] | str, views: Sequence[str] | str = "original",
        weights: dict[str, Path | str] | Path | str | None = None, device: str = "auto", precision: str = "auto",
    ) -> Store:
        """Embed every face with every backbone that the store lacks; the store. As the verb `extract`.

        weights: a file, `random:SEED` or `hub`, of each backbone or of all. Raises InputError or CacheError before
        anything is written if that makes no sense, RuntimeError if it was interrupted.
        """
        from twofold.extract.extract import extract
        from twofold.extract.plan import open_workspace
        from twofold.extract.streams import parse_streams

        names, weights_of = _names(backbones), weights if isinstance(weights, dict) else {}
        if isinstance(weights, str | Path):
            weights_of = dict.fromkeys(names, weights)
        files = [f"{name}={file}" for name, file in weights_of.items()]
        report = extract(open_workspace(self._manifest, [str(self.root)], Path(store)),
                         parse_streams(names, _names(views), weights=files, precision=precision), device=device)
        if report.exit_code > 1:
            raise RuntimeError(f"interrupted: {report.text()}")
        return Store(store)


class Encoder:
    """A backbone with its weights, by name: a preset, timm:NAME, torchvision:NAME or onnx:PATH. dim: of an embedding.

    weights: a file, `random:SEED`, `hub`, or None for the weights folder and then the hub. Raises InputError for a name
    or weights that are not to be had.
    """

    def __init__(self, name: str, *, weights: Path | str | None = None, device: str = "auto", precision: str = "auto"):
        from twofold.extract.encoders.registry import load_encoder

        self._network: Network = load_encoder(name, weights=None if weights is None else str(weights),
                                              device=str(device), precision=precision)
        self.dim = self._network.dim

    def embed(self, images: Sequence[Image | np.ndarray | Path | str] | Image | np.ndarray | Path | str) -> np.ndarray:
        """(N, D) float32 embeddings of N images of faces, in order: PIL images, (H, W, 3) RGB or (H, W) grey uint8
        arrays, or paths of image files. A single one counts as a list of one.

        Raises ImageError for a picture that cannot be read, InputError for what is no picture, or if none fits the
        device.
        """
        import numpy as np
        import PIL.Image as pillow

        from twofold.data.images.decode import decode, upright_rgb
        from twofold.data.utils.errors import InputError

        def opened(image: Image | np.ndarray | Path | str) -> Image:
            if isinstance(image, str | Path):
                return decode(Path(image).read_bytes())
            if isinstance(image, pillow.Image):
                return upright_rgb(image)
            shape = getattr(image, "shape", ())
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or 0 in shape or not (
                    len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))):
                raise InputError(f"{type(image).__name__} {getattr(image, 'dtype', '')} {tuple(shape)} is no picture: "
                                 "give PIL images, uint8 arrays of (H, W, 3) or (H, W), or paths of image files")
            return upright_rgb(pillow.fromarray(image))

        if not isinstance(images, Iterable) or isinstance(images, str | bytes) or (
                isinstance(images, np.ndarray) and images.ndim < 4):
            images = [images]
        images = list(images)
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
        self, *, classes: str | Path | Sequence[str] = "cexpr7", target: str = "", backbones: Sequence[str] | str = (),
        views: Sequence[str] | str = "original", folds: int = 0, task: str = "", labels: Sequence[str] | str = (),
        teach: str = "soft", unit: str = "", pool: Sequence[str] | str = (),
    ) -> Features:
        """The embeddings of these backbones (none: all) side by side, joined by key with the manifest's labels.

        classes: as of `fuse`, or a list of names; `from-data` takes the labels in the column `target`. folds: for
        encoders that were fine-tuned one per fold; trained with as many folds, each has its own encoder. task, labels,
        teach, unit, pool: as of `fuse`.
        """
        from twofold.cache.store import Store as Folder
        from twofold.fuse.api import Features
        from twofold.fuse.core.choice import chosen_task
        from twofold.fuse.core.features import join, join_folds
        from twofold.fuse.core.settings import resolve

        stores = [Folder(self.path)]
        asked = {} if task in ("multilabel", "regression") else {"classes": classes, "target": target}
        settings = resolve(changes=asked | {"folds": folds, "task": _names(task), "labels": _names(labels),
                                            "teach": teach, "unit": unit} | ({"pool": _names(pool)} if pool else {}))
        joined = join(stores, backbones=_names(backbones), views=_names(views),
                      task=chosen_task(settings, stores), folds=settings.folds, unit=settings.unit, pool=settings.pool)
        return Features(joined.loaded(), join_folds(stores, joined, folds=settings.folds, unit=settings.unit))

    @_on_cpu
    def fuse(self, *, out: Path | str | None = None, overwrite: bool = False, preset: str = "default", **settings: Any
             ) -> pd.DataFrame:
        """Train a head on each backbone and on all; their figures, a row a system, the fusion last. As the verb `fuse`.

        settings: as the options of the verb, such as head="gated", folds=5, seeds=10. out: the folder of the run;
        overwrite: a run of other settings there. Raises InputError or CacheError for what cannot be.
        """
        import pandas as pd

        from twofold.fuse.api import figures_row
        from twofold.fuse.core.settings import resolve
        from twofold.fuse.fuse import fuse

        fusion = fuse([self.path], resolve(preset=preset, changes=settings), out=Path(out) if out else None,
                      overwrite=overwrite)
        return pd.DataFrame([figures_row(figures.record()) for figures in fusion.figures])


def analyze(images: Image | Path | str | Sequence[Image | Path | str], *, run: Path | str = "starter",
            cropped: bool = False, detector: Path | str | None = None, device: str = "auto",
            second: float | None = None) -> pd.DataFrame:
    """The expressions of the faces in images (PIL, or paths of files), a row a face: as `Run.predict`.

    run: the one that comes with Twofold, or another one's folder. Raises InputError, for instance where no detector is
    to be had, and ImageError for what is no image.
    """
    return Run(run).predict(images, cropped=cropped, detector=detector, device=device, second=second)


class Run:
    """A run that `fuse --out` has written, or `starter`, read back. Raises InputError if it is not one.

    classes: in the order of `predict_proba`'s columns; streams: the backbones (and views) of the columns that it wants.
    """

    @_on_cpu
    def __init__(self, path: Path | str):
        from twofold.fuse.runs.read import read_run

        self._run = read_run(Path(path))
        self.classes, self.streams = self._run.task.outputs, list(self._run.stream_names)
        self.classes_ = _array(self.classes)

    @property
    def figures(self) -> pd.DataFrame:
        """One row per system, the fusion last, as metrics.json holds them."""
        import pandas as pd
        from msgspec import to_builtins

        from twofold.fuse.api import figures_row

        return pd.DataFrame([figures_row(to_builtins(system)) for system in self._run.metrics.systems])

    @_on_cpu
    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """(N, C) calibrated probabilities of raw features (N, D), side by side in the order of `streams`.

        Raises InputError for features of another width.
        """
        return self._run.probabilities(X)[0]

    @_on_cpu
    def predict(
        self, inputs: Store | np.ndarray | Path | str | Image | Sequence[Image | Path | str], *, cropped: bool = False,
        detector: Path | str | None = None, weights: dict[str, str] | None = None, device: str = "auto",
        second: float | None = None,
    ) -> pd.DataFrame:
        """Predict a store, features (N, D), or images: a row each, with the prediction, a probability per class, and of
        basic expressions where the head gives them.

        A store: one row per sample, with `seen` where it, or its group, was in the run's training or validation set,
        so that its prediction says nothing about new samples; a warning counts them. Images (PIL, or paths of files):
        one row per face, cropped as the run's samples were, or taken whole (cropped: all of them), with its image's
        number and file, its box (x, y, width, height in pixels), the detector's score; an image without a face has no
        row. detector, weights, device, second: as the options of the verb `predict`. For videos: that verb.
        """
        import numpy as np
        import pandas as pd

        from twofold.fuse.answers import check_second

        second = check_second(self._run, second)
        if isinstance(inputs, Iterator):  # of Path.glob
            inputs = list(inputs)
        if getattr(inputs, "ndim", 0) or (isinstance(inputs, list | tuple) and not all(map(_is_image, inputs))):
            return self._frame(pd.DataFrame(), *self._run.probabilities(cast("np.ndarray", inputs)), second)
        if isinstance(inputs, Store) or (isinstance(inputs, str | Path) and Path(inputs).is_dir()):
            return self._predict_store(Path(inputs.path if isinstance(inputs, Store) else inputs), second)
        images: list[Any] = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        recogniser = self._recogniser(cropped, detector, weights or {}, device)
        results = [recogniser.recognise(_file_content(image)) for image in images]
        faces = [(number, face) for number, result in enumerate(results) for face in result.faces]
        columns = pd.DataFrame({
            "image": [number for number, _ in faces],
            "source": [str(images[number]) if isinstance(images[number], str | Path) else "" for number, _ in faces],
            "box": [face.box for _, face in faces], "score": [face.detection for _, face in faces]})
        outputs = np.array([face.expressions for _, face in faces]).reshape(len(faces), len(self.classes))
        basic = np.array([face.basic for _, face in faces]).reshape(len(faces), len(self._run.basics))
        return self._frame(columns, outputs, basic, second)

    def _predict_store(self, path: Path, second: float) -> pd.DataFrame:
        import warnings

        import numpy as np
        import pandas as pd

        from twofold.cache.store import Store as Folder
        from twofold.fuse.core.split import samples_seen
        from twofold.fuse.predict import seen_samples_note

        features, notes = self._run.features(Folder(path))
        rows = np.arange(len(features))
        seen = samples_seen(self._run.seen, features)
        for note in [*notes, *seen_samples_note(self._run, seen)]:
            warnings.warn(note, stacklevel=4)
        return self._frame(pd.DataFrame({"key": features.keys, "seen": seen}),
                           *self._run.means(self._run.scores(features, rows))[:2], second)

    def _recogniser(self, cropped: bool, detector: Path | str | None, weights: dict[str, str], device: str
                    ) -> Recogniser:
        from twofold.fuse.serve.recogniser import Recogniser
        from twofold.fuse.serve.worker import open_finder

        self._run.require_single_images()
        encoders = encoders_of(self._run, [f"{name}={file}" for name, file in weights.items()], device).load_all()
        finder = open_finder(self._run.record.crops, Path(detector) if detector else None, cropped)
        return Recogniser(self._run, finder, encoders.embed, max_faces=100)

    def _frame(self, columns: pd.DataFrame, outputs: np.ndarray, basic: np.ndarray, second: float) -> pd.DataFrame:
        import pandas as pd

        from twofold.fuse.answers import decide, output_columns

        calls = pd.DataFrame({"prediction": decide(self._run, outputs, basic, second=second)})
        return pd.concat([columns, calls, output_columns(self._run, outputs, basic)], axis=1)


def encoders_of(run: TrainedRun, weights: Sequence[str], device: str) -> MatchingEncoders:
    """The encoders that a run was trained on. weights: NAME=PATH, for what is neither beside it nor in the weights
    folder; device: as of the option of `predict`."""
    from twofold.extract.streams import MatchingEncoders

    return MatchingEncoders([recipe for _, _, recipe in run.streams], weights=weights, beside=run.path, device=device,
                            dims=run.frame_dims)


def _is_image(image: object) -> bool:
    return isinstance(image, str | Path) or hasattr(image, "save")


def _file_content(image: Image | Path | str) -> bytes:
    """The bytes of an image file; of an image in memory, upright and in RGB, as PNG. Raises InputError for no file."""
    import io

    from twofold.data.images.decode import upright_rgb
    from twofold.data.utils.errors import InputError

    if isinstance(image, str | Path):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise InputError(f"{image}: {error.strerror or error}") from None
    file = io.BytesIO()
    upright_rgb(image).save(file, "PNG")
    return file.getvalue()


def _names(given: Sequence[str] | str | None) -> list[str]:
    """One name, names between commas, or a list of names; None is an empty one."""
    from twofold.data.utils.options import split_names

    return split_names(str(given)) if isinstance(given, str | Path) else list(map(str, given or ()))


def _array(names: Sequence[str]) -> np.ndarray:
    import numpy as np

    return np.array(names, object)


def __getattr__(name: str) -> Any:
    """The API of stage two, imported when it is first used."""
    if name in ("Features", "Head", "Result"):
        from twofold.fuse import api

        return getattr(api, name)
    raise AttributeError(f"module 'twofold' has no attribute {name!r}")

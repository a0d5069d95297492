"""The encoders to extract with: named on the command line, or those that make the recipes of a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from twofold.cache.recipe import DTYPES, Recipe, differences
from twofold.cache.shards import Rows
from twofold.data.faces.in_memory import FacesInMemory
from twofold.data.images.decode import DECODER, ImageError
from twofold.data.utils.errors import InputError
from twofold.extract.encoders.classifier import class_order
from twofold.extract.encoders.encoder import Encoder
from twofold.extract.encoders.onnx import onnx_name
from twofold.extract.encoders.preprocessing import DECODERS
from twofold.extract.encoders.presets import published_weights
from twofold.extract.encoders.registry import check_dim, check_fit
from twofold.extract.engine.loop import compute_task
from twofold.extract.engine.progress import Stop
from twofold.extract.engine.task import ComputeTask, Encoders, EncoderSource, FileRows, recipe_of
from twofold.extract.engine.views import view_record
from twofold.extract.weights.find import fold_paths, weights_folder

WEIGHTS_FILES = (".pth", ".pt", ".safetensors", ".bin", ".tar", ".ckpt")


@dataclass(frozen=True)
class Stream:
    """The features of one encoder and one view; the dtype that they are stored in; the decoder, as recipes have it."""

    source: EncoderSource
    view: str
    dtype: str
    decoder: str = DECODER

    def recipe(self, encoder: Encoder) -> Recipe:
        """The recipe of the feature file; encoder: the loaded source."""
        return recipe_of(encoder, self.view, dtype=self.dtype, decoder=self.decoder)


def parse_streams(backbones: Sequence[str], views: Sequence[str] = ("original",), *, weights: Sequence[str] = (),
                  classes_of: Sequence[str] = (), precision: str = "auto", dtype: str = "float16",
                  decoder: str = "pillow", batch_size: int = 0, compiled: bool = False) -> list[Stream]:
    """Return every backbone with all its weights and every view, each once, in order.

    weights: NAME=PATH, NAME=random:SEED or NAME=hub; a name may have several, as encoders that were fine-tuned one per
    fold; classes_of: NAME=ORDER, as `class_order` takes it. Raises InputError for anything else.
    """
    if not backbones or not views:
        raise InputError("no backbone is named: give --backbones NAME[,NAME...]" if not backbones else
                         "no view is named: give --views NAME[,NAME...]")
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}: choose from {', '.join(DTYPES)}")
    if decoder not in DECODERS:
        raise InputError(f"unknown decoder {decoder!r}: choose from {', '.join(DECODERS)}")
    names = [view_record(name)["name"] for name in dict.fromkeys(views)]
    files = parse_weights(weights, backbones)
    orders = _by_backbone(classes_of, backbones, what="classes", form="NAME=ORDER, as posterv2=rafdb")
    classes = {name: class_order(texts[-1]) for name, texts in orders.items()}
    sources = [EncoderSource(backbone=name, weights=file, precision=precision, batch_size=batch_size,
                             compiled=compiled, classes=classes.get(name, ()))
               for name in dict.fromkeys(backbones)
               for file in (dict.fromkeys(files[name]) if name in files else [None])]
    return [Stream(source, name, dtype, DECODERS[decoder]) for source in sources for name in names]


def parse_weights(texts: Sequence[str], backbones: Sequence[str]) -> dict[str, list[str]]:
    """Map each name of NAME=VALUE texts to its values; the --out of `finetune --folds` stands for every fold's file.

    Raises InputError for a name that is not among the backbones, and for missing folds.
    """
    def files_of(weights: str) -> list[str]:
        path = Path(weights)
        folds = [] if path.suffix != ".safetensors" or path.is_file() else fold_paths(path)
        return list(map(str, folds)) or [weights]

    values = _by_backbone(texts, backbones, what="weights", form="NAME=PATH, NAME=random:SEED or NAME=hub")
    return {name: [file for text in named for file in files_of(text)] for name, named in values.items()}


def _by_backbone(texts: Sequence[str], backbones: Sequence[str], *, what: str, form: str) -> dict[str, list[str]]:
    """Map NAME=VALUE texts, where a name may have options, and equals signs, behind it; what is given for NAME alone is
    for all NAME?OPTIONS that nothing is given for."""
    values: dict[str, list[str]] = {}
    names = {*backbones, *(name.partition("?")[0] for name in backbones)}
    for text in texts:
        name = max((name for name in names if text.startswith(f"{name}=")), key=len, default="")
        value = text[len(name) + 1:]
        if not name and all(text.partition("=")):
            raise InputError(f"{what} are given for {text.partition('=')[0]!r}, which is not among the backbones "
                             f"{', '.join(backbones)}")
        if not name or not value:
            raise InputError(f"{what} {text!r} is not {form}")
        values.setdefault(name, []).append(value)
    by_backbone = {name: values.get(name) or values.get(name.partition("?")[0]) for name in backbones}
    return {name: each for name, each in by_backbone.items() if each}


# ------------------------------------------------------------------------------------------- the recipes of a run again
class MatchingEncoders:
    """The encoders that make the recipes of a run, in the order of its streams; each is found when it is asked for.

    weights: NAME=PATH, for what is not in the weights folder; beside: the run's folder, whose `encoder*.safetensors`
    come next; device: one, or several with commas between, of which the first holds the encoders; dims: features that
    each recipe must give, where known.
    """

    def __init__(self, recipes: Sequence[Recipe], *, weights: Sequence[str] = (), beside: Path | None = None,
                 device: str = "auto", dims: Sequence[int] = ()):
        self.recipes, self.weights, self.devices = tuple(recipes), weights, device.split(",")
        self.encoders = Encoders(self.devices[0])
        self._dims = dims or [0] * len(recipes)
        self._files = parse_weights(weights, [recipe.backbone for recipe in recipes])
        self._beside = sorted(map(str, beside.glob("encoder*.safetensors"))) if beside else []
        self._found: dict[int, EncoderSource] = {}

    @classmethod
    def of_streams(cls, streams: Sequence[Stream], *, device: str) -> "MatchingEncoders":
        """The encoders of streams that were named, not of a run. Raises InputError as `Encoders.load`."""
        encoders = Encoders(device.split(",")[0])
        matching = cls([each.recipe(encoders.load(each.source)) for each in streams], device=device)
        matching.encoders, matching._found = encoders, {row: each.source for row, each in enumerate(streams)}
        return matching

    def load_all(self) -> "MatchingEncoders":
        """Find every encoder; raises as `find`."""
        for number in range(len(self.recipes)):
            self.find(number)
        return self

    def find(self, number: int) -> tuple[EncoderSource, Encoder]:
        """Return the first source whose encoder makes the recipe of that number, and the encoder.

        The named weights are tried first, then those beside the run, then those in the weights folder. They are
        recognised by their content, whatever their name (ONNX models apart, whose name is in the recipe). Raises
        InputError that says what those tried make instead, and for one that would not give that many features, before
        it is built.
        """
        if number in self._found:
            return self._found[number], self.encoders.load(self._found[number])
        recipe = self.recipes[number]
        if self._dims[number]:
            check_dim(recipe.backbone, self._dims[number], untrained=recipe.untrained)
        differing: dict[str, tuple[object, object]] = {}
        tried, failure = 0, None
        for source in _sources(recipe, self._files.get(recipe.backbone, []), self._beside):
            try:
                if source.weights and not recipe.untrained and source.weights != "hub":
                    check_fit(recipe.backbone, Path(source.weights))
                encoder = self.encoders.load(source)
            except InputError as error:  # a file of another network; the last error tells how to get the right one
                failure = error
                continue
            differing = differences(recipe, recipe_of(encoder, recipe.view["name"], dtype=recipe.dtype,
                                                       decoder=recipe.decoder))
            tried += 1
            if not differing:
                self._found[number] = source
                return source, encoder
            del self.encoders.loaded[source]
        if not tried and failure:
            raise failure
        if "weights" in differing or not differing:
            raise InputError(f"the weights of {recipe.backbone} that the run was trained on ({recipe.weights}) are not "
                             f"here{f' ({tried} others are)' if tried else ''}: give their file with --weights "
                             f"{recipe.backbone}=PATH, or put it into {weights_folder()}")
        what = "; ".join(f"{field} {there} there, {here} here" for field, (there, here) in differing.items())
        raise InputError(f"{recipe.backbone} is computed otherwise here than what the run was trained on: {what}")

    def embed(self, images: Sequence[bytes]) -> np.ndarray:
        """Return (N, D) float32 features of these image files of faces, all streams side by side, rounded as stored.

        They are those that `extract` stores but for the last digits, since batches are only as long as they need be.
        Raises ImageError for an image that cannot be read or encoded.
        """
        keys = [str(row) for row in range(len(images))]
        files = {recipe.fingerprint: FileRows(source=self.find(number)[0], recipe=recipe, rows=np.arange(len(images)))
                 for number, recipe in enumerate(self.recipes)}
        shards: dict[str, list[np.ndarray]] = {fingerprint: [] for fingerprint in files}

        def keep(recipe: Recipe, _dim: int, rows: Rows) -> None:
            shards[recipe.fingerprint].append(rows.features)

        task = ComputeTask(files=list(files.values()), keys=keys, store=Path(), max_batch=len(images),
                           images=FacesInMemory(keys, dict(zip(keys, images, strict=True))))
        stats = compute_task(task, self.encoders, publish=keep, progress=False, stop=Stop())
        for reason in (reason for failures in stats.failures.values() for reason in failures.values()):
            raise ImageError(reason)
        return np.concatenate([np.concatenate(shards[recipe.fingerprint]) for recipe in self.recipes], axis=1,
                              dtype=np.float32)


def _sources(recipe: Recipe, weights: Sequence[str], beside: Sequence[str]) -> Iterator[EncoderSource]:
    """Yield where the encoder of a recipe may come from, the likeliest first."""
    name, folder = recipe.backbone, weights_folder()

    def source(file: str | None, backbone: str = name) -> EncoderSource:
        return EncoderSource(backbone=backbone, weights=file).with_precision(recipe.precision)

    if name.startswith("onnx:"):
        for path in dict.fromkeys([*map(Path, weights), *sorted(folder.glob("*.onnx"))]):
            yield source(None, onnx_name(path, recipe.preprocessing, output=recipe.tap))
    elif recipe.untrained:
        yield from map(source, weights or [recipe.weights])
    else:
        yield from map(source, (*weights, *beside))
        published = published_weights(name)
        usual = {Path(file).stem for file in published.files}
        files = [path for path in folder.glob("*") if path.suffix in WEIGHTS_FILES and str(path) not in weights]
        yield from (source(str(path)) for path in sorted(files, key=lambda path: (path.stem not in usual, path)))
        if published.packaged:
            yield source(str(published.packaged))
        yield source("hub")

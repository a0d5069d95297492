"""Reading a run: the folder that `fuse --out` wrote. Text and safetensors only, checked against `schema`."""

import io
import json
import logging
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open

from twofold.cache.errors import CacheError
from twofold.cache.recipe import Recipe, differences
from twofold.cache.store import Store
from twofold.data.labels import BASIC, Taxonomy
from twofold.data.manifest import Manifest, read_manifest
from twofold.data.utils.csv_files import unescape_cells
from twofold.data.utils.errors import InputError, first_line
from twofold.fuse.core.choice import check_pairs, recorded_task
from twofold.fuse.core.features import Features, join_streams
from twofold.fuse.core.predictions import Predictions, System
from twofold.fuse.core.settings import HEAD_TYPES, Settings, pool_width, run_file, settings_from
from twofold.fuse.core.split import SeenSamples, parse_seen
from twofold.fuse.core.streams import describe_differences, find_stream, stream_marks, stream_name
from twofold.fuse.core.task import Calibration, Task, mean_calibration
from twofold.fuse.core.units import units_of
from twofold.fuse.heads.head import HeadOutput, StandardisedHead, run_head, run_on_array
from twofold.fuse.runs import schema
from twofold.fuse.runs.schema import invalid
from twofold.fuse.training.ensemble import Spec

log = logging.getLogger(__name__)

MAX_HEADER = 1 << 20  #: bytes of the header of head.safetensors
STARTER = "starter"  #: the name of the run that comes with Twofold
STARTER_FOLDER = Path(__file__).parents[1] / STARTER  #: where it is, its encoder beside it


@dataclass(frozen=True)
class Run:
    """A trained run. task: what it predicts; streams: (backbone, view, recipe) in the order of the head's columns.

    The head's members are ordered by fold: members per fold x folds.
    """

    path: Path
    record: schema.RunRecord
    settings: Settings
    task: Task
    streams: tuple[tuple[str, str, Recipe], ...]
    head: StandardisedHead
    seen: SeenSamples

    @property
    def kind(self) -> str:
        """The head's name."""
        return self.head.spec.kind

    @property
    def taxonomy(self) -> Taxonomy:
        return self.task.taxonomy

    @property
    def calibrations(self) -> list[Calibration]:
        """What each fold's validation fitted."""
        thresholds = self.record.thresholds or [[]] * self.folds
        return [Calibration(temperature, tuple(each))
                for temperature, each in zip(self.record.temperatures, thresholds, strict=True)]

    @property
    def calibration(self) -> Calibration:
        """That of all folds together."""
        return replace(mean_calibration(self.calibrations), temperature=self.record.temperature)

    @property
    def stream_names(self) -> tuple[str, ...]:
        """The names of the streams in tables."""
        return tuple(stream_name(backbone + mark, view)
                     for (backbone, view, _), mark in zip(self.streams, stream_marks(self.streams), strict=True))

    @property
    def frame_dims(self) -> tuple[int, ...]:
        """The width of each stream's features of one row: where samples are units, of which statistics are read."""
        width = pool_width(self.settings.pool if self.settings.unit else ())
        return tuple(dim // width for dim in self.head.spec.dims)

    @property
    def folds(self) -> int:
        return len(self.record.temperatures)

    @property
    def untrained(self) -> bool:
        """True if a backbone has random weights."""
        return any(recipe.untrained for _, _, recipe in self.streams)

    @cached_property
    def metrics(self) -> schema.MetricsRecord:
        """metrics.json. Raises InputError."""
        path = _file(self.path, schema.METRICS)
        record = schema.parse_json(path.read_bytes(), schema.metrics_record(self.task), source=path)
        if record.classes != self.task.outputs:
            raise invalid(path, "its classes are not those of the run")
        return record

    @cached_property
    def predictions(self) -> Predictions:
        """The fusion's test samples of predictions.csv; a group is a digest, or the key of a sample without one. Of the
        thresholds, which are not in it, only on which side of them an output is. Raises InputError."""
        task, nothing = self.task, np.zeros((0, len(self.task.outputs)))
        columns = task.truth_columns(np.zeros(0, int), nothing)
        texts = ["key", "split", "group", "prediction", *(name for name in columns if columns[name].dtype == "O")]
        table = _table(self.path, schema.PREDICTIONS, texts,
                       numbers=[*(name for name in columns if name not in texts), *task.outputs])
        table = table[table["split"] == "test"].reset_index(drop=True)
        outputs = table[list(task.outputs)].to_numpy()
        try:
            target, truth = task.read_truth(table, outputs)
            thresholds = task.read_decisions(table["prediction"].tolist())
        except ValueError as error:
            raise invalid(self.path / schema.PREDICTIONS, error) from None
        digest = table["group"].to_numpy(object)
        keys = np.array(unescape_cells(table["key"].tolist()), object)
        system = System(name=str(self.path), backbones=self.stream_names, head=self.kind, dim=sum(self.head.spec.dims),
                        untrained=self.untrained, temperature=self.record.temperature)
        return Predictions(
            task=task, system=system, key=keys, sha256=np.full(len(keys), ""), group_digest=digest, target=target,
            group=np.where(digest == "", "\0" + table["key"].to_numpy(object), digest), truth=truth,
            fold=np.zeros(len(keys), int), role=table["split"].to_numpy(object), outputs=outputs[None],
            calibrated=outputs, thresholds=thresholds)

    @cached_property
    def history(self) -> list[pd.DataFrame]:
        """The lines of history.csv for each fold and seed: epoch, loss, and val_ with the key of the task's score.
        Raises InputError."""
        table = _table(self.path, schema.HISTORY, ["fold", "member"],
                       numbers=["epoch", "loss", f"val_{self.task.score.key}"])
        return [lines for _, lines in table.groupby(["fold", "member"], sort=False)]

    def samples(self, store: Store) -> Manifest:
        """The manifest of a store's samples as the run has them: its rows, or the units of these. Raises InputError."""
        manifest, unit = read_manifest(store.manifest_path), self.settings.unit
        return units_of(manifest, unit, source=str(store.manifest_path))[0] if unit else manifest

    def features(self, store: Store) -> tuple[Features, list[str]]:
        """The store's features in the order of the head's columns, and notes on recipes that differ in precision.

        Raises InputError if they are of another recipe otherwise, CacheError if a backbone is missing.
        """
        self.require_one_encoder_per_stream()
        streams = [find_stream(store, *stream, source=str(self.path)) for stream in self.streams]
        notes = [f"{stream.name}: other than what the run was trained on (there, here): "
                 + describe_differences(differences(recipe, stream.recipe)) for stream, (_, _, recipe)
                 in zip(streams, self.streams, strict=True) if stream.recipe.fingerprint != recipe.fingerprint]
        if self.settings.unit:
            streams = [replace(stream, pool=self.settings.pool) for stream in streams]
        if tuple(stream.dim for stream in streams) != tuple(self.head.spec.dims):
            raise InputError(f"{store.path}: its features are not as wide as those of {self.path}")
        return join_streams([store], streams, task=self.task, unit=self.settings.unit), notes

    def require_one_encoder_per_stream(self) -> None:
        """Raises InputError for a run whose folds had encoders of their own: none of them fits a new sample."""
        own = [stream.backbone for stream in self.record.streams if stream.folds]
        if own:
            raise InputError(f"{self.path} was cross-validated with one encoder per fold ({', '.join(own)}), for its "
                             "figures only: to predict, fine-tune one encoder (`finetune` without --folds) and train "
                             "a run on its features")

    def require_single_images(self) -> None:
        """Raises InputError for a run that cannot answer for an image by itself."""
        self.require_one_encoder_per_stream()
        if self.settings.unit:
            raise InputError(f"{self.path} answers once a {self.settings.unit}, from all its frames: use `predict` on "
                             "a store, or on videos")

    def scores(self, features: Features, rows: np.ndarray) -> HeadOutput:
        """The scores of each member for these rows of `features`."""
        return run_head(self.head, features, rows, range(len(self.streams)))

    def calibrated(self, scores: HeadOutput) -> np.ndarray:
        """(n, C) the mean outputs of the members, calibrated."""
        return self.task.calibrate(scores.probabilities.mean(axis=0), self.calibration)

    @property
    def basics(self) -> tuple[str, ...]:
        """The basic emotions whose probabilities the head gives on the way, none for most heads."""
        return BASIC if HEAD_TYPES[self.kind].outputs_basic else ()

    def means(self, scores: HeadOutput) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the members: outputs (n, C), calibrated, basic probabilities (n, 8) and weights of the streams (n, K); of
        heads without these, they have no columns."""
        outputs = self.calibrated(scores)
        basic, weights = (np.empty((len(outputs), 0)) if each is None else each.mean(axis=0)
                          for each in (scores.basic, scores.stream_weights))
        return outputs, basic, weights

    def probabilities(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs (N, C), calibrated, and basic probabilities (N, 8), or without columns, of raw features (N, D): the
        streams side by side in `streams`' order; of clips of frames (N, T, D), nan beyond the end of a clip.

        Raises InputError for another width, and for features that are not finite.
        """
        return self.means(run_on_array(self.head, as_features(features, self.head.spec, self.stream_names)))[:2]


def as_features(table: object, spec: Spec, names: Sequence[str]) -> np.ndarray:
    """Features (N, D) of a head's streams, of these names, an array, tensor, DataFrame or list, as float32. Of clips of
    frames (N, T, D), as (N, T D).

    Raises InputError for what is no table of real numbers, has another width, or has values that are not finite.
    """
    features: np.ndarray
    try:
        features = np.asarray(table.detach().cpu() if isinstance(table, torch.Tensor) else table)
    except (TypeError, ValueError):  # rows of different lengths
        features = np.empty(1, object)
    if features.dtype.kind not in "fiu":
        raise InputError(f"features must be a table of real numbers, not {type(table).__name__} of {features.dtype}")
    shape = ("N", *("T" for _ in range(spec.frames)), sum(spec.dims))
    if features.ndim != len(shape) or features.shape[-1] != shape[-1]:
        streams = " + ".join(f"{dim} of {name}" for dim, name in zip(spec.dims, names, strict=True))
        raise InputError(f"features of shape {features.shape}: ({', '.join(map(str, shape))}) is needed, {streams}"
                         f"{'; of one sample, give features[None]' if features.shape == shape[1:] else ''}")
    with np.errstate(over="ignore"):  # what is too large for float32 is told next
        features = np.ascontiguousarray(features, np.float32)
    finite: np.ndarray = np.all(np.isfinite(features), axis=-1)
    if spec.frames and len(features):
        length = finite.sum(axis=1, keepdims=True)
        beyond = np.arange(finite.shape[1]) >= length
        finite = np.where(beyond, np.all(np.isnan(features), axis=-1), finite) & (length > 0)
    if not np.all(finite):
        raise InputError("the features have values that are not finite numbers")
    return features.reshape(len(features), math.prod(features.shape[1:]))


def find_run(path: Path) -> Path:
    """The folder of a run. `starter` names the run that comes with Twofold, unless a folder here is called so.

    Raises InputError where this installation has none.
    """
    if path != STARTER_FOLDER and (str(path) != STARTER or path.exists()):
        return path
    if not (STARTER_FOLDER / schema.RECORD).is_file():
        raise InputError("the run `starter` is not part of this installation: install Twofold anew, or give a folder "
                         "that `fuse --out` wrote")
    return STARTER_FOLDER


def split_run(words: Sequence[Path]) -> tuple[Path | None, list[Path]]:
    """The run that is named first, None where there is none, and the inputs. Raises InputError for no input."""
    first = words[0]
    if str(first) != STARTER and not run_file(first, schema.RECORD).is_file():
        if not first.exists():
            raise InputError(f"{first}: there is no such run, photograph, video or folder")
        if runs := [word for word in words[1:] if run_file(word, schema.RECORD).is_file()]:
            raise InputError(f"{runs[0]} is a run: name it first, before what it is to predict")
        return None, list(words)
    if not words[1:]:
        raise InputError(f"{first} is a run: name what it is to predict behind it, a photograph, a video, a folder")
    return first, list(words[1:])


def open_run(path: Path | None) -> Run:
    """Read a run, or the starter where none is named, which is said."""
    run = read_run(path or find_run(STARTER_FOLDER))
    if path is None:
        log.info("no RUN is named: the run `starter` answers, which comes with Twofold and knows %s; what it was made "
                 "from, and how well it does, is in %s", run.record.classes_name, run.path)
    return run


def read_run(path: Path) -> Run:
    """Read a run, a folder or `starter`; it may come from a stranger. Raises InputError if it is not one, or not
    complete."""
    path = find_run(path)
    source = path / schema.RECORD
    record = schema.parse_json(_file(path, schema.RECORD).read_bytes(), schema.RunRecord, source=source)
    try:
        task = recorded_task(record.head.task, record.classes, record.taxonomy)
        if not HEAD_TYPES[record.head.kind].learns_classes:
            check_pairs(task.taxonomy)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    if task.outputs != record.classes or task.taxonomy.name != record.classes_name:
        raise invalid(source, f"the head's classes are not those of {task.taxonomy.name}")
    spec = replace(Spec(**msgspec.structs.asdict(record.head)), pairs=task.taxonomy.pairs)
    streams = tuple(_stream(stream, dim, source) for stream, dim in zip(record.streams, spec.dims, strict=True))
    listed = _file(path, schema.SEEN)
    seen = parse_seen(listed.read_bytes(), folds=len(record.temperatures), source=str(listed))
    return Run(path, record, settings_from(record.settings), task, streams, _read_head(path, spec), seen)


def _stream(stream: schema.StreamRecord, dim: int, path: Path) -> tuple[str, str, Recipe]:
    name = first_line(stream.backbone, most=120)
    try:
        recipe = Recipe.from_json(json.dumps(stream.recipe))
        fingerprint = recipe.fingerprint
    except (CacheError, RecursionError, ValueError) as error:
        raise invalid(path, f"the recipe of {name}: {first_line(error)}") from None
    if (recipe.backbone, recipe.view.get("name"), dim, fingerprint) != (
            stream.backbone, stream.view, stream.dim, stream.fingerprint):
        raise invalid(path, f"name, view, dim or fingerprint of {name} are not those of its recipe and of the head")
    return stream.backbone, stream.view, recipe


def _read_head(folder: Path, spec: Spec) -> StandardisedHead:
    """The head of a spec with the weights of head.safetensors.

    Names, types and shapes are compared with the file's header, and the sizes of both with the file's, before anything
    is allocated; values must be finite, deviations positive. Raises InputError.
    """
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in StandardisedHead(spec).state_dict().items()}
    path, needed = _file(folder, schema.HEAD), sum(4 * math.prod(shape) for shape in expected.values())
    size = path.stat().st_size
    if not needed < size <= needed + MAX_HEADER:
        raise invalid(path, f"{size:,} bytes, where the head that run.json describes takes {needed:,}")
    try:
        with safe_open(path, framework="pt") as file:
            if surplus := sorted(set(file.keys()) - set(expected)):
                raise invalid(path, f"{surplus[0]} is not part of the head that run.json describes")
            state = {name: _tensor(file, name, shape, path) for name, shape in expected.items()}
    except SafetensorError as error:
        raise invalid(path, f"not the weights of the head that run.json describes ({error})") from None
    if not (state["std"] > 0).all() or not (state.get("body.absent", torch.zeros(1)) <= 0).all():
        raise invalid(path, "its standard deviations are not all positive")
    head = StandardisedHead(spec)
    head.load_state_dict(state)
    return head.eval()


def _tensor(file: Any, name: str, shape: torch.Size, path: Path) -> torch.Tensor:
    entry = file.get_slice(name)
    if entry.get_dtype() != "F32" or entry.get_shape() != list(shape):
        raise invalid(path, f"{name} is {entry.get_dtype()} {entry.get_shape()}, not F32 {list(shape)} as run.json "
                            "describes the head")
    tensor = file.get_tensor(name)
    if name != "body.absent" and not torch.isfinite(tensor).all():  # -inf: a basic emotion without training samples
        raise invalid(path, f"{name} has values that are not finite")
    return tensor


def _file(folder: Path, name: str) -> Path:
    """The path of a run's file. Raises InputError if it is missing, unreadable or too large."""
    path = run_file(folder, name)
    if not path.is_file() or not os.access(path, os.R_OK):
        raise InputError(f"{folder}: not a run (no {name} that can be read): give a folder that `fuse --out` wrote")
    if path.stat().st_size > schema.MAX_BYTES[name]:
        raise invalid(folder / name, f"{path.stat().st_size:,} bytes are too many")
    return path


def _table(folder: Path, name: str, texts: list[str], *, numbers: list[str]) -> pd.DataFrame:
    """Columns of a CSV file as text and as float64, of which nan is one, and an empty cell of a truth. Raises
    InputError."""
    content = io.BytesIO(_file(folder, name).read_bytes())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows with more cells than the header line
            table = pd.read_csv(content, dtype=str, keep_default_na=False, index_col=False)[[*texts, *numbers]]
        for column in numbers:
            table[column] = (table[column].replace("", "nan") if column.startswith("truth ") else table[column]).astype(
                float)
        return table
    except (KeyError, ValueError, TypeError, pd.errors.ParserWarning) as error:
        raise invalid(folder / name, error) from None

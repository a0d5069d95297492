"""A run: the folder that a fusion leaves behind, read back. Text and safetensors only."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from twofold.cache.recipe import Recipe, differences
from twofold.cache.store import Store
from twofold.data.labels import Taxonomy, taxonomy_from_record
from twofold.data.utils.errors import InputError, first_line
from twofold.fuse.features import FusedFeatures, join_streams, marks, spelled, stream_name, stream_of_recipe
from twofold.fuse.heads.head import MemberScores, StandardisedHead, member_scores, scores_of
from twofold.fuse.metrics import scores as metrics
from twofold.fuse.runs.received import read_head, spec_of, streams_of, temperatures_of
from twofold.fuse.runs.run_folder import HEAD, RECORD, SEEN, run_file
from twofold.fuse.runs.values import read_json
from twofold.fuse.settings import Settings, settings_from
from twofold.fuse.split import SeenFaces, read_seen
from twofold.fuse.task import check_pairs
from twofold.fuse.training.ensemble import Spec

VERSION = 1


@dataclass(frozen=True)
class Run:
    """A trained run. streams: (backbone, view, recipe) in the order of the head's columns.

    The head's members stand fold by fold: members of a fold x folds. temperatures: one a fold.
    """

    path: Path
    settings: Settings
    taxonomy: Taxonomy
    streams: tuple[tuple[str, str, Recipe], ...]
    head: StandardisedHead
    temperature: float
    temperatures: tuple[float, ...]
    seen: SeenFaces | None  #: None for runs of versions that did not record it
    record: dict

    @property
    def kind(self) -> str:
        """The head's name."""
        return self.head.spec.kind

    @property
    def stream_names(self) -> tuple[str, ...]:
        """As tables call them."""
        return tuple(stream_name(backbone + mark, view)
                     for (backbone, view, _), mark in zip(self.streams, marks(self.streams), strict=True))

    @property
    def folds(self) -> int:
        return len(self.temperatures)

    @property
    def untrained(self) -> bool:
        """True if a backbone has random weights."""
        return any(recipe.untrained for _, _, recipe in self.streams)

    def features(self, store: Store) -> tuple[FusedFeatures, list[str]]:
        """The store's features in the order of the head's columns, and what is to be said about their recipes.

        Raises InputError if they are of another recipe (another precision is only a note), CacheError if a backbone is
        missing.
        """
        self.require_one_encoder_a_stream()
        streams = [stream_of_recipe(store, *stream, source=str(self.path)) for stream in self.streams]
        notes = [f"{stream.backbone}: other than what the run was trained on (there, here): "
                 + spelled(differences(recipe, stream.recipe)) for stream, (_, _, recipe)
                 in zip(streams, self.streams, strict=True) if stream.recipe.fingerprint != recipe.fingerprint]
        return join_streams([store], streams, taxonomy=self.taxonomy), notes

    def require_one_encoder_a_stream(self) -> None:
        """Raises InputError for a run whose folds had encoders of their own: none of them answers for a new face."""
        own = [stream["backbone"] for stream in self.record["streams"] if stream.get("folds")]
        if own:
            raise InputError(f"{self.path} was cross-validated with one encoder a fold ({', '.join(own)}), for its "
                             "figures alone: to predict, fine-tune one encoder (`finetune` without --folds) and train "
                             "a run on its features")

    def scores(self, features: FusedFeatures, rows: np.ndarray) -> MemberScores:
        """What each member says of these rows of `features`."""
        return member_scores(self.head, features, rows, range(len(self.streams)))

    def calibrated(self, scores: MemberScores) -> np.ndarray:
        """(n, C) the mean probabilities of the members under the run's temperature."""
        return metrics.tempered(scores.probabilities.mean(axis=0), self.temperature)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(N, C) calibrated probabilities of raw features (N, D) float32, streams side by side in `streams`' order."""
        return self.calibrated(scores_of(self.head, np.ascontiguousarray(features, np.float32)))


def read_run(path: Path) -> Run:
    """Read a run back, which may come from a stranger. Raises InputError if it is not one, or not whole."""
    try:
        source = read_json(run_file(path, RECORD))
        record = source.table()
        if type(record.get("version")) is not int or record["version"] != VERSION:
            raise InputError(f"{path}: not a run of version {VERSION}, which is what this code reads: train it again")
        spec = spec_of(source)
        streams = streams_of(source, spec)
        temperature, temperatures = temperatures_of(source, spec)
        classes = _taxonomy(record, spec, source.path)
        spec = replace(spec, pairs=classes.pairs)
        settings = settings_from(record.get("settings"))
        seen = read_seen(run_file(path, SEEN), folds=len(temperatures))
        head = read_head(run_file(path, HEAD), spec)
    except FileNotFoundError as error:
        missing = Path(error.filename or "head.safetensors").name
        raise InputError(f"{path}: not a run (no {missing}): give a folder that `fuse` made") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the run does not read back ({first_line(error)})") from None
    return Run(path, settings, classes, streams, head, temperature, temperatures, seen, record)


def _taxonomy(record: dict, spec: Spec, path: Path) -> Taxonomy:
    """The taxonomy that a record names or holds, which must have the head's classes."""
    try:
        classes = taxonomy_from_record(record)
        if spec.kind == "zeroshot":
            check_pairs(classes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if classes.classes != spec.classes or classes.name != record.get("classes_name"):
        raise InputError(f"{path}: the head's classes are not those of {classes.name}: train the run again")
    return classes

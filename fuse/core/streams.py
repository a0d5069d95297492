"""Streams: one backbone and view each, the columns that stand side by side; which feature files a name means."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from twofold.cache.classifier import BackboneClassifier, TrainingSamples
from twofold.cache.feature_file import FeatureFile
from twofold.cache.recipe import Piece, Recipe, differences
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.fuse.core.settings import pool_width

PRECISION = {"precision", "dtype"}  #: of a recipe: what may differ between files whose features are the same
FilePiece = tuple[FeatureFile, str]  #: a file, and the piece of its rows that is wanted; "" for whole rows


@dataclass(frozen=True)
class Stream:
    """One backbone and view: its columns of the joined features. files: one for each store, in order.

    fold_files: where the encoder was fine-tuned one a fold, the file of each fold (of the one store); then `files` is
    that of the first. piece: of the rows of a file of layers, the one that is taken; "" for all. mark: what tells it
    apart from streams of the same backbone and view, as `stream_marks` gives it. pool: where samples are units of
    several rows, the statistics of their features that stand side by side.
    """

    backbone: str
    view: str
    files: tuple[FeatureFile, ...]
    fold_files: tuple[FeatureFile, ...] = ()
    mark: str = ""
    pool: tuple[str, ...] = ()
    piece: str = ""

    @property
    def recipe(self) -> Recipe:
        return recipe_of((self.files[0], self.piece))

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """As `pieces_of`."""
        return pieces_of(self.recipe, self.pool)

    @property
    def dim(self) -> int:
        return len(range(self.files[0].dim)[self.columns(self.files[0])]) * pool_width(self.pool)

    def columns(self, file: FeatureFile) -> slice:
        """Of a file's rows what the stream takes."""
        return file.recipe.columns(self.piece if file.recipe.pieces else "")

    @property
    def classifier(self) -> BackboneClassifier | None:
        """The backbone's own, where a file has it and the stream has the features that it reads."""
        for file in self.files:
            if (own := file.classifier) and (weight := own.weight[self.columns(file)]).any():
                return replace(own, weight=weight)
        return None

    @property
    def name(self) -> str:
        return stream_name(self.backbone + self.mark, self.view)


def pieces_of(recipe: Recipe, pool: Sequence[str]) -> tuple[Piece, ...]:
    """Name and width of what stands side by side in a stream's columns: layers, tokens; nothing for one embedding.
    Pooled over frames, all pieces once for each column of the statistics."""
    times = pool_width(pool)
    return tuple((f"{name}.{number}" if times > 1 else name, width)
                 for number in range(times) for name, width in recipe.pieces)


def weight_names(streams: Sequence[tuple[str, Sequence[Piece]]], count: int, *, frames: bool) -> list[str]:
    """What is weighed by the `count` weights of a head, of streams by name and pieces: each stream, each of their
    pieces, or with frames each tenth of a clip's time."""
    if count == len(streams):
        return [name for name, _ in streams]
    spans = count // len(streams)
    return [f"{name} {part}" if part else name for name, pieces in streams for part in (
        [f"{100 * span // spans} to {100 * (span + 1) // spans} %" for span in range(spans)] if frames else
        [piece for piece, _ in pieces] or [""])]


def stream_marks(streams: Sequence[tuple[str, str, Recipe]]) -> list[str]:
    """Of each (backbone, view, recipe): `@` and the digits that its file is named by, where another has the same
    backbone and view; else nothing."""
    count = Counter((backbone, view) for backbone, view, _ in streams)
    return [f"@{recipe.fingerprint[:8]}" if count[backbone, view] > 1 else "" for backbone, view, recipe in streams]


def stream_name(backbone: str, view: str) -> str:
    """What tables call a stream: the backbone, with the view unless it is the original."""
    return backbone if view == "original" else f"{backbone} ({view})"


# ------------------------------------------------------------------------------------------- which files a name means
def recipe_of(wanted: FilePiece) -> Recipe:
    """The recipe of a file, or of one piece of its rows alone."""
    file, piece = wanted
    return file.recipe.of_pieces()[piece] if piece and file.recipe.pieces else file.recipe


def candidates(store: Store, name: str, view: str) -> list[FilePiece]:
    """What a name without regard to its fingerprint means: `NAME`, `NAME@PIECE` and `NAME@-2` (the last piece but one)
    of the files of that backbone; else, as a run records a piece, the piece whose own recipe has this backbone.

    Raises InputError for a piece that a file does not have.
    """
    plain, choice = split_choice(name)
    files, plain = [file for file in store.readable()[0] if file.view == view], plain.partition("@")[0]
    return [(file, _named_piece(file, choice) if choice else "") for file in files if file.backbone == plain] or [
        (file, piece) for file in files for piece, recipe in file.recipe.of_pieces().items()
        if recipe.backbone == plain and not choice]


def find_file(store: Store, name: str, view: str) -> FilePiece:
    """The one file, and piece, that a name means. Raises InputError as `candidates`, CacheError as `Store.find`."""
    plain, choice = split_choice(name)
    by_fingerprint = {recipe_of(each).fingerprint: each for each in candidates(store, name, view)}
    digits = plain.partition("@")[2]
    pieces = [each for fingerprint, each in by_fingerprint.items() if each[1] and fingerprint.startswith(digits)]
    if len(pieces) == 1 and not choice:
        return pieces[0]
    file = store.find(plain, view)  # raises, naming what the store has
    return file, _named_piece(file, choice) if choice else ""


def split_choice(name: str) -> tuple[str, str]:
    """`NAME@PIECE` as both; a fingerprint, hex digits, is no piece."""
    plain, at, last = name.rpartition("@")
    return (plain, last) if at and not re.fullmatch("[0-9a-f]*", last) else (name, "")


def _named_piece(file: FeatureFile, choice: str) -> str:
    names = list(file.recipe.of_pieces())
    if choice in names:
        return choice
    if re.fullmatch(r"-[1-9][0-9]{0,3}", choice) and int(choice) >= -len(names):
        return names[int(choice)]
    raise InputError(f"{file.path}: {file.backbone} has no piece {choice!r}: " + (
        f"choose from {', '.join(names)}, or count from the end, as @-1" if names else
        "only files of layers (`extract --backbones NAME?layers=all`) have pieces to choose from"))


def find_stream(store: Store, backbone: str, view: str, recipe: Recipe, *, source: str) -> Stream:
    """The stream of a store with this recipe, or with one that differs in precision alone.

    source: what is named as having asked for the recipe. Raises InputError for any other difference, CacheError if the
    store has no such backbone.
    """
    wanted = candidates(store, backbone, view)
    if not wanted:
        store.find(backbone, view)  # raises, naming what the store has
    compared = [(differences(recipe, recipe_of(each)), *each) for each in wanted]
    difference, file, piece = min(compared, key=lambda each: (bool(set(each[0]) - PRECISION), len(each[0])))
    if set(difference) - PRECISION:
        raise InputError(f"{file.path}: {backbone} was extracted otherwise than what {source} was trained on (there, "
                         f"here): {describe_differences(difference)}; extract it as the run wants it")
    return Stream(backbone, view, (file,), piece=piece)


def describe_differences(difference: dict[str, tuple[object, object]]) -> str:
    """Differences of two recipes in words."""
    def short(value: object) -> str:
        text = "none" if value is None else str(value)
        return text if len(text) <= 40 else f"{text[:20]}..."

    return "; ".join(f"{name} {short(a)} there, {short(b)} here" for name, (a, b) in difference.items())


def fold_files(store: Store, backbone: str, view: str, *, folds: int) -> tuple[FeatureFile, ...]:
    """The feature files of the encoders that `backbone` (`NAME`, or the `NAME@FINGERPRINT` of any of them) means, which
    were fine-tuned one a fold, in the order of the folds; none where it means another file.

    Raises InputError if there are not as many as `folds`, or some of them have no features here.
    """
    name, _, digits = split_choice(backbone)[0].partition("@")
    wanted = candidates(store, backbone, view)
    files = [(file, next(iter(training_samples_of([file])), None)) for file, _ in wanted]
    trainings = {trained.training_id if trained else "" for each, (_, trained) in zip(wanted, files, strict=True)
                 if recipe_of((each[0], "" if split_choice(backbone)[1] else each[1])).fingerprint.startswith(digits)}
    if len(trainings) != 1 or "" in trainings:
        return ()
    members = sorted(((trained.fold, file.path, file, trained.folds) for file, trained in files
                      if trained and trained.training_id in trainings), key=lambda each: each[:2])
    count = members[0][3]
    if count != folds:
        raise InputError(f"the encoders of {name} were fine-tuned for {count} folds: use --folds {count}"
                         + (f", not {folds}" if folds else ""))
    missing = sorted(set(range(count)) - {fold for fold, *_ in members})
    if missing or len(members) != count:
        what = f"fold {missing[0] + 1} of {count} has no features" if missing else "a fold has several files"
        raise InputError(f"{store.path}: {name} is fine-tuned one encoder a fold, and {what} here: extract with the "
                         "weights of each fold, in the same precision")
    return tuple(file for _, _, file, _ in members)


def file_names(store: Store, view: str) -> list[str]:
    """What names each file of a view: `NAME`, or `NAME@FINGERPRINT` where the backbone has several files, those that
    were fine-tuned one a fold being one. Raises CacheError if any file of the store cannot be read."""
    files: dict[str, dict[str, str]] = {}
    for file in store.files_of(view):
        training = next((trained.training_id for trained in training_samples_of([file])), "")
        files.setdefault(file.backbone, {}).setdefault(training or file.fingerprint, file.fingerprint)
    return [name if len(each) == 1 else f"{name}@{fingerprint[:8]}"
            for name, each in files.items() for fingerprint in each.values()]


def training_samples_of(files: Sequence[FeatureFile]) -> list[TrainingSamples]:
    """The samples that the encoders of these files were fine-tuned with, where a file says so."""
    classifiers = [file.classifier for file in files]
    return [classifier.training_samples for classifier in classifiers
            if classifier is not None and classifier.training_samples is not None]

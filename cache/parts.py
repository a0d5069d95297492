"""Parts: small whole feature files that a run leaves behind as it goes, and their assembly into the finished one.

What is done is what reads back whole: a part or file that does not is set aside with its reason and computed again.
"""

import contextlib
import logging
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from twofold.cache.atomic import remove_leftovers
from twofold.cache.errors import CacheError, FileGone
from twofold.cache.format.classifier import OwnClassifier
from twofold.cache.format.featurefile import BLOCK_ROWS, FeatureFile
from twofold.cache.format.write import write_featurefile
from twofold.cache.recipe import Recipe
from twofold.cache.store import Store

log = logging.getLogger(__name__)
ATTEMPTS = 10  #: at assembling, when other processes do the same
RETIRED = "retired-"  #: starts the name of a part with rows of faces that are no longer in the manifest


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one recipe on their way into a file: keys, image hashes and features (N, D), and what failed."""

    keys: Sequence[str]
    sha256: Sequence[str | bytes]
    features: np.ndarray
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Holdings:
    """What is cached of one recipe: for each key its source and row there; failures; newer sources come later."""

    sources: list[FeatureFile]
    where: dict[str, tuple[int, int]]
    failures: dict[str, str]

    def sha256(self, key: str) -> str:
        source, row = self.where[key]
        return self.sources[source].sha256[row].decode()

    def covers(self, keys: Sequence[str]) -> bool:
        """True if every key is cached or known to fail."""
        return all(key in self.where or key in self.failures for key in keys)

    def blocks(self, keys: Sequence[str]) -> Iterator[np.ndarray]:
        """Blocks of rows (<= BLOCK_ROWS, D), as stored, in the order of `keys`; each source is read once a block."""
        for start in range(0, len(keys), BLOCK_ROWS):
            places = np.array([self.where[key] for key in keys[start:start + BLOCK_ROWS]])
            block = None
            for source in np.unique(places[:, 0]):
                here = np.flatnonzero(places[:, 0] == source)
                values = self.sources[source].read_rows(places[here, 1], dtype=self.sources[source].recipe.dtype)
                if block is None:
                    block = np.empty((len(places), values.shape[1]), values.dtype)
                block[here] = values
            yield block


def publish_part(store: Store, recipe: Recipe, dim: int, rows: Rows, *, prefix: str = "") -> Path:
    """Write rows as one part of the store; once this returns they survive a crash."""
    folder = store.parts_of(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{prefix}{uuid.uuid4().hex}.h5"
    write_featurefile(path, recipe=recipe, dim=dim, keys=rows.keys, sha256=rows.sha256, features=rows.features,
                      failures=rows.failures)
    return path


def parts_by_age(store: Store, recipe: Recipe) -> list[Path]:
    """The parts of a recipe, the newest last."""
    aged = []
    for path in store.parts_of(recipe).glob("*.h5"):
        with contextlib.suppress(FileNotFoundError):  # another process has assembled and removed it
            aged.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(aged)]


def holdings(store: Store, recipe: Recipe) -> Holdings:
    """Everything cached of a recipe: the finished file, overridden by parts, the newest last.

    Parts are read back whole; of the finished file the index and the place of every chunk are checked. What does not
    hold is set aside.
    """
    parts = [_whole(path, recipe, deep=True) for path in parts_by_age(store, recipe)]
    finished = _whole(store.path_of(recipe), recipe, deep=False)  # last: by now it has what parts were removed for
    return stock_of([file for file in [finished, *parts] if file is not None])


def stock_of(files: Sequence[FeatureFile]) -> Holdings:
    """What these files of one recipe hold together; what a later one says of a key counts."""
    where, failures = {}, {}
    for source, file in enumerate(files):
        where |= {key: (source, row) for row, key in enumerate(file.keys)}
        failures |= file.failures
        for key in file.failures:  # an image that was changed, and cannot be encoded any more
            where.pop(key, None)
    return Holdings(list(files), where, {key: reason for key, reason in failures.items() if key not in where})


def is_finished(store: Store, recipe: Recipe, keys: Sequence[str], *, classifier: OwnClassifier | None = None) -> bool:
    """True if the finished file holds exactly these keys, in this order but for failures, and no parts are left.

    classifier: and if it carries this one, too.
    """
    if any(not path.name.startswith(RETIRED) for path in store.parts_of(recipe).glob("*.h5")):
        return False
    file = _whole(store.path_of(recipe), recipe, deep=False)
    if file is None or len(file.keys) + len(file.failures) != len(keys):
        return False
    if classifier is not None and not classifier.equals(file.classifier):
        return False
    return [key for key in keys if key not in file.failures] == file.keys.tolist()


def assemble(
    store: Store, recipe: Recipe, dim: int, keys: Sequence[str], *, classifier: OwnClassifier | None = None,
) -> FeatureFile | None:
    """Make the finished file, rows in the order of `keys`, from all that is cached; then remove the parts.

    Cached rows of other keys stay in a part, so that a face taken out of the manifest costs nothing to put back.
    Returns None if a key is neither cached nor known to fail. Several processes may do this at once: each makes the
    same file, and looks again where another was quicker.
    """
    for _ in range(ATTEMPTS):
        held = holdings(store, recipe)
        if is_finished(store, recipe, keys, classifier=classifier):
            return FeatureFile(store.path_of(recipe))
        if not held.covers(keys):
            return None
        with contextlib.suppress(FileGone):
            return assemble_from(held, store, recipe, dim, keys, classifier=classifier)
    raise CacheError(f"{store.path}: other processes keep changing it: run the same command again once they are done")


def assemble_from(
    held: Holdings, store: Store, recipe: Recipe, dim: int, keys: Sequence[str], *,
    classifier: OwnClassifier | None = None,
) -> FeatureFile:
    """Make the finished file of what is held, in the order of `keys` (those not held are left out), as `assemble`.

    classifier: the backbone's own; by default that of the files it is made of.
    """
    wanted = set(keys)
    spent = [source.path for source in held.sources if source.path.parent == store.parts_of(recipe)]
    _retire(store, recipe, dim, held, [key for key in held.where if key not in wanted])
    present = [key for key in keys if key in held.where]
    classifier = classifier or classifier_of(held.sources)
    if classifier is None and any(source.logits() for source in held.sources):
        log.warning("%s: logits are not stored any more: extract with the weights to add the classifier they came from",
                    store.path_of(recipe))
    write_featurefile(
        store.path_of(recipe), recipe=recipe, dim=dim, keys=present, sha256=[held.sha256(key) for key in present],
        features=held.blocks(present), failures={key: held.failures[key] for key in keys if key in held.failures},
        classifier=classifier,
    )
    for path in spent:
        path.unlink(missing_ok=True)
    _tidy(store, recipe)
    return FeatureFile(store.path_of(recipe))


def classifier_of(sources: Sequence[FeatureFile]) -> OwnClassifier | None:
    """The classifier that files of one recipe carry. Raises CacheError if they carry different ones."""
    carried = {file.path: file.classifier for file in sources if file.classifier is not None}
    for path, classifier in list(carried.items())[1:]:
        first = next(iter(carried))
        if not classifier.equals(carried[first]):
            raise CacheError(f"{first} and {path} carry different classifiers, or name its classes differently: "
                             "extract one of them again with the other's weights and class order")
    return next(iter(carried.values()), None)


def retired(store: Store, recipe: Recipe) -> int:
    """How many rows are kept of faces that are no longer in the manifest."""
    return sum(FeatureFile(path).rows for path in store.parts_of(recipe).glob(f"{RETIRED}*.h5"))


def _whole(path: Path, recipe: Recipe, *, deep: bool) -> FeatureFile | None:
    """The file if it is there and reads back whole and belongs to the recipe; else it is set aside."""
    while path.exists():
        file = FeatureFile(path)
        try:
            if file.recipe != recipe:
                raise CacheError(f"{path}: belongs to another recipe")
            if deep:
                file.check()
            _ = file.keys
            return file
        except FileGone:
            continue  # removed by another process, or replaced: look again
        except CacheError as error:
            with contextlib.suppress(FileNotFoundError):
                aside = path.rename(path.with_name(f"{path.name}.damaged"))
                log.warning("set aside as %s, its rows are computed again: %s", aside, error)
    return None


def _retire(store: Store, recipe: Recipe, dim: int, held: Holdings, keys: list[str]) -> None:
    for start in range(0, len(keys), BLOCK_ROWS):
        some = keys[start:start + BLOCK_ROWS]
        publish_part(store, recipe, dim, Rows(keys=some, sha256=[held.sha256(key) for key in some],
                                              features=next(held.blocks(some))), prefix=RETIRED)


def _tidy(store: Store, recipe: Recipe) -> None:
    remove_leftovers(store.path)
    for folder in (store.parts_of(recipe), store.parts_of(recipe).parent):
        if folder.is_dir():
            remove_leftovers(folder)
            with contextlib.suppress(OSError):  # not empty: retired rows, or files set aside
                folder.rmdir()

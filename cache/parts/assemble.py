"""From parts to the finished file, in one step that no other process can overtake.

Everything slow happens without the lock. It is held while three things are done: what was read is found to be what is
there still, the new file is renamed into its place, and the parts that went into it are removed, the oldest first.
Whatever of this a crash leaves undone, what counts of every key is the same: a part says no more than the file that
it went into, until a newer one does.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from twofold.cache.atomic import alone, put_in_place, remove, remove_empty_folder, remove_leftovers, sync, temporary_in
from twofold.cache.errors import CacheError, DamagedFile, FileGone
from twofold.cache.format.classifier import OwnClassifier
from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.format.write import fill_featurefile
from twofold.cache.parts.parts import RETIRED, FileState, add_part, file_state
from twofold.cache.parts.rows import CachedRows
from twofold.cache.recipe import Recipe
from twofold.cache.store import PARTS, Store

Result = TypeVar("Result")
log = logging.getLogger(__name__)
ATTEMPTS = 50  #: each that fails is one that another process has made


def assemble(
    store: Store, recipe: Recipe, dim: int, keys: Sequence[str], *, classifier: OwnClassifier | None = None,
) -> FeatureFile | None:
    """Make the finished file, rows in the order of `keys`, from all that is cached; then remove the parts.

    Cached rows of other keys stay in a part, so that a face taken out of the manifest costs nothing to put back.
    Returns None if a key is neither cached nor known to fail. Several processes may do this at once, and publish parts
    meanwhile: who finds that another was quicker looks again.
    """
    for _ in range(ATTEMPTS):
        state = file_state(store, recipe, deep=False)  # what goes into the new file is checked as it is read
        if state.is_complete(keys, classifier=classifier):
            return state.finished
        if not state.rows.covers(keys):
            return None
        with suppress(FileGone):
            try:
                if file := replace_finished(store, recipe, dim, keys, state, state.rows, classifier=classifier):
                    _ = file.failures  # read now: what is asked of it later may find another process's file there
                    return file
            except DamagedFile:
                file_state(store, recipe)  # sets it aside
    raise busy(store)


def busy(store: Store) -> CacheError:
    return CacheError(f"{store.path}: other processes keep changing it: run the same command again once they are done")


def replace_finished(
    store: Store, recipe: Recipe, dim: int, keys: Sequence[str], state: FileState, rows: CachedRows, *,
    classifier: OwnClassifier | None = None,
) -> FeatureFile | None:
    """Make `rows` the finished file, in the order of `keys` (those not among them are left out).

    state: what the store held when `rows` was looked up; all of it is in `rows`. classifier: the backbone's own; by
    default that of the files. Returns None, and changes nothing, if another process has changed the finished file or
    removed parts since.
    """
    classifier = classifier or classifier_of(rows.files)
    if classifier is None and any(file.logits() for file in rows.files):
        log.warning("%s: logits are not stored any more: extract with the weights to add the classifier they came from",
                    store.path_of(recipe))
    path = store.path_of(recipe)
    staying, retiring = _unwanted(state, rows, set(keys))
    with ExitStack() as stack:
        temporary = stack.enter_context(temporary_in(store.path))
        _write(temporary, recipe, dim, rows, [key for key in keys if key in rows.place],
               [key for key in keys if key in rows.failures], classifier=classifier)
        retired = stack.enter_context(temporary_in(store.path)) if any(retiring) else None
        if retired:
            _write(retired, recipe, dim, rows, *retiring)
        stack.enter_context(alone(store.lock_path))
        if not state.is_current(store, recipe):
            return None
        if retired:
            add_part(store, recipe, retired, prefix=RETIRED)
        put_in_place(temporary, path)
        for part in (*state.retired, *state.parts):
            if part not in staying:
                remove(part.path)
        _tidy(store, recipe)
    return FeatureFile(path)


def change(store: Store, recipe: Recipe, make: Callable[[FileState], Result | None]) -> Result:
    """What `make` returns once it has replaced the finished file (as `replace_finished`), anew while others do."""
    for _ in range(ATTEMPTS):
        with suppress(FileGone):
            result = make(file_state(store, recipe, deep=False))
            if result is not None:
                return result
    raise busy(store)


def classifier_of(files: Sequence[FeatureFile]) -> OwnClassifier | None:
    """The classifier that files of one recipe carry. Raises CacheError if they carry different ones."""
    carried = {file.path: file.classifier for file in files if file.classifier is not None}
    for path, classifier in list(carried.items())[1:]:
        first = next(iter(carried))
        if not classifier.equals(carried[first]):
            raise CacheError(f"{first} and {path} carry different classifiers, or name its classes differently: "
                             "extract one of them again with the other's weights and class order")
    return next(iter(carried.values()), None)


def _unwanted(
    state: FileState, rows: CachedRows, wanted: set[str],
) -> tuple[list[FeatureFile], tuple[list[str], list[str]]]:
    """Retired parts that may stay as they are; keys of the rows that retire with this file, and of the failures."""
    staying = [file for number, file in enumerate(rows.files) if file in state.retired and not file.failures
               and all(key not in wanted and rows.place.get(key, (-1, -1))[0] == number for key in file.keys)]
    kept = [number for number, file in enumerate(rows.files) if file in staying]
    retiring = [key for key, (number, _) in rows.place.items() if key not in wanted and number not in kept]
    return staying, (retiring, [key for key in rows.failures if key not in wanted])


def _write(
    temporary: Path, recipe: Recipe, dim: int, rows: CachedRows, keys: Sequence[str], failed: Sequence[str], *,
    classifier: OwnClassifier | None = None,
) -> None:
    fill_featurefile(temporary, recipe=recipe, dim=dim, keys=keys, sha256=[rows.sha256(key) for key in keys],
                     features=rows.blocks(keys), failures={key: rows.failures[key] for key in failed},
                     classifier=classifier)
    sync(temporary)


def _tidy(store: Store, recipe: Recipe) -> None:
    """Remove what crashes have left, and folders without parts; under the lock, where parts are added, too."""
    remove_leftovers(store.path)
    for folder in (store.parts_of(recipe), store.path / PARTS):
        remove_leftovers(folder)
        remove_empty_folder(folder)

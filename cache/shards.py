"""Shards: small whole feature files that a run leaves behind as it goes, and the finished file made from them.

Everything slow happens without the store's lock. It is held while three things are done: check that the files that
were read are still there, rename the new file into its place, remove the shards that went into it, the oldest first.
Whatever of this a crash leaves undone, the newest value of every key is the same: a shard holds nothing newer than the
file that it went into. Only wrong bytes count as damage; a file that cannot be read just now is an error.
"""

import logging
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from twofold.cache.classifier import BackboneClassifier
from twofold.cache.errors import CacheError, DamagedFile, FileGone
from twofold.cache.feature_file import FeatureFile, block_rows
from twofold.cache.feature_writer import write_feature_file
from twofold.cache.recipe import Recipe
from twofold.cache.store import RETIRED, SHARDS, Store, h5_files, is_retired
from twofold.data.utils import atomic
from twofold.data.utils.atomic import file_exists, file_lock, temporary_file

Result = TypeVar("Result")
log = logging.getLogger(__name__)
SHARD_NAME = re.compile(r"(?:retired-)?(\d{8})-[0-9a-f]{32}\.h5")
ATTEMPTS = 50  #: each that fails is one at which another process succeeded


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one recipe to be written: keys, image hashes, features (N, D), and failures (key to reason)."""

    keys: Sequence[str]
    sha256: Sequence[str | bytes]
    features: np.ndarray
    failures: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CachedRows:
    """All rows of one recipe in some files. place: key to (index of its file, row in it)."""

    files: list[FeatureFile]
    place: dict[str, tuple[int, int]]
    failures: dict[str, str]

    def sha256(self, key: str) -> str:
        """Hex SHA-256 of the image that the row of this key was made from."""
        file, row = self.place[key]
        return self.files[file].sha256[row].decode()

    def blocks(self, keys: Sequence[str]) -> Iterator[np.ndarray]:
        """Blocks of at most `block_rows(D)` rows, (n, D), as stored, in the order of `keys`; each file is read once per
        block."""
        count = block_rows(self.files[0].dim) if self.files else 1
        for start in range(0, len(keys), count):
            places = np.array([self.place[key] for key in keys[start:start + count]])
            first = self.files[places[0, 0]]
            block = np.empty((len(places), first.dim), first.recipe.dtype)
            for number in np.unique(places[:, 0]):
                here = np.flatnonzero(places[:, 0] == number)
                block[here] = self.files[number].read_rows(places[here, 1], dtype=block.dtype)
            yield block


def cached_rows(files: Sequence[FeatureFile]) -> CachedRows:
    """All rows of these files of one recipe; of a key in several files the last one counts."""
    place: dict[str, tuple[int, int]] = {}
    failures: dict[str, str] = {}
    for number, file in enumerate(files):
        place |= {key: (number, row) for row, key in enumerate(file.keys)}
        failures |= file.failures
        for key in file.failures:  # its image was changed, and can no longer be encoded
            place.pop(key, None)
    return CachedRows(list(files), place, {key: reason for key, reason in failures.items() if key not in place})


def common_classifier(files: Sequence[FeatureFile]) -> BackboneClassifier | None:
    """The classifier that files of one recipe carry. Raises CacheError if they carry different ones."""
    carried = [(file.path, file.classifier) for file in files if file.classifier is not None]
    for path, classifier in carried[1:]:
        if not classifier.equals(carried[0][1]):
            raise CacheError(f"{carried[0][0]} and {path} carry different classifiers, or name its classes "
                             "differently: extract one of them again with the other's weights and class order")
    return carried[0][1] if carried else None


@dataclass(frozen=True)
class FileState:
    """What a store holds of one recipe at one moment: its finished file, if any, and its shards, the oldest first. Rows
    of samples that have left the manifest are as old as the finished file, so these shards precede the others."""

    finished: FeatureFile | None
    shards: list[FeatureFile]

    @cached_property
    def rows(self) -> CachedRows:
        """All that is cached; of a key in several files the newest row."""
        return cached_rows([*([self.finished] if self.finished else []), *self.shards])

    def is_complete(self, keys: Sequence[str], *, classifier: BackboneClassifier | None = None) -> bool:
        """True if the finished file holds exactly these keys, in this order but for failures, and no shards are left.

        classifier: require that the file carries this one, too.
        """
        file = self.finished
        return (file is not None and all(is_retired(shard.path) for shard in self.shards)
                and len(file.keys) + len(file.failures) == len(keys)
                and (classifier is None or classifier.equals(file.classifier))
                and [key for key in keys if key not in file.failures] == file.keys.tolist())

    def is_current(self, store: Store, recipe: Recipe) -> bool:
        """True if all these files are still in place and no other rows have retired; newer shards do not matter."""
        same = self.finished.is_current() if self.finished else not file_exists(store.path_of(recipe))
        paths = [shard.path for shard in self.shards]
        return (same and all(map(file_exists, paths))
                and list(filter(is_retired, paths)) == list(filter(is_retired, shard_paths(store, recipe))))


def file_state(store: Store, recipe: Recipe, *, deep: bool = True) -> FileState:
    """What is cached of a recipe. Verifies shards (`deep`: the finished file, too); damaged files are set aside. Raises
    CacheError or OSError for a file that cannot be read though nothing shows that it is damaged."""
    while True:
        paths = shard_paths(store, recipe)
        files = [_verified(store, path, recipe, deep=True) for path in paths]
        finished = _verified(store, store.path_of(recipe), recipe, deep=deep)  # last: has what removed shards held
        if {*filter(is_retired, shard_paths(store, recipe))} <= {*paths}:  # else it lacks what has retired meanwhile
            return FileState(finished, [file for file in files if file is not None])


def shard_paths(store: Store, recipe: Recipe) -> list[Path]:
    """The shards of a recipe, the newest last: retired rows first, then by number."""
    return sorted(h5_files(store.shard_folder(recipe)), key=lambda path: (not is_retired(path), path.name))


def retired_rows(store: Store, recipe: Recipe) -> int:
    """Number of rows that are kept of samples that are no longer in the manifest."""
    rows = 0
    for path in filter(is_retired, shard_paths(store, recipe)):
        with suppress(FileGone):
            rows += FeatureFile(path).rows
    return rows


def _verified(store: Store, path: Path, recipe: Recipe, *, deep: bool) -> FeatureFile | None:
    """The file if it exists, is sound and belongs to the recipe; a damaged one is set aside."""
    def checked() -> FeatureFile:
        file = FeatureFile(path)
        if file.recipe != recipe:
            raise DamagedFile(f"{path}: belongs to another recipe")
        if deep:
            file.check()
        _ = file.keys
        return file

    while file_exists(path):
        with suppress(FileGone):  # removed by another process, or replaced: look again
            try:
                return checked()
            except DamagedFile:
                with file_lock(store.lock_path):
                    try:
                        return checked()  # another process may have replaced it by a sound one
                    except DamagedFile as error:
                        aside = path.with_name(f"{path.name}.damaged")
                        atomic.publish(path, aside)
                        log.warning("set aside as %s, its rows are computed again: %s", aside, error)
    return None


def publish_shard(store: Store, recipe: Recipe, dim: int, rows: Rows) -> Path:
    """Write rows as one shard of the store; once this returns they survive a crash."""
    atomic.make_folder(store.path)
    with temporary_file(store.path) as temporary:
        write_feature_file(temporary, recipe=recipe, dim=dim, keys=rows.keys, sha256=rows.sha256,
                           features=rows.features, failures=rows.failures)
        atomic.fsync(temporary)
        with file_lock(store.lock_path):
            return _add_shard(store, recipe, temporary)


def _add_shard(store: Store, recipe: Recipe, temporary: Path, *, prefix: str = "") -> Path:
    """Rename a whole feature file to be the newest shard, under the store's lock: numbers are unique."""
    folder = store.shard_folder(recipe)
    atomic.make_folder(folder)
    numbers = [int(named[1]) for path in h5_files(folder) if (named := SHARD_NAME.fullmatch(path.name))]
    path = folder / f"{prefix}{1 + max(numbers, default=0):08d}-{uuid.uuid4().hex}.h5"
    atomic.publish(temporary, path)
    return path


def assemble(
    store: Store, recipe: Recipe, dim: int, keys: Sequence[str], *, classifier: BackboneClassifier | None = None,
) -> FeatureFile | None:
    """Make the finished file, rows in the order of `keys`, from all that is cached; then remove the shards.

    Cached rows of other keys stay in a shard, so that a sample that returns to the manifest is not computed again.
    Returns None if a key is neither cached nor a recorded failure. Several processes may do this at once, and publish
    shards meanwhile: one that was overtaken starts again.
    """
    def make(state: FileState) -> FeatureFile | None:
        if state.is_complete(keys, classifier=classifier):
            remove_leftovers(store, recipe)
            return state.finished
        if not all(key in state.rows.place or key in state.rows.failures for key in keys):
            return None
        try:
            file = replace_finished(store, recipe, dim, keys, state, state.rows, classifier=classifier)
        except DamagedFile:
            file_state(store, recipe)  # sets it aside
            raise FileGone("a damaged file has been set aside") from None
        _ = file.failures  # read now: later another process's file may stand there
        return file

    return retry_replace(store, recipe, make)


def retry_replace(store: Store, recipe: Recipe, make: Callable[[FileState], Result]) -> Result:
    """Call `make` with the current state; again where another process was quicker, so that it raises FileGone."""
    for _ in range(ATTEMPTS):
        with suppress(FileGone):
            return make(file_state(store, recipe, deep=False))  # what goes into a new file is checked as it is read
    raise CacheError(f"{store.path}: other processes keep changing it: run the same command again once they are done")


def replace_finished(
    store: Store, recipe: Recipe, dim: int, keys: Sequence[str], state: FileState, rows: CachedRows, *,
    classifier: BackboneClassifier | None = None,
) -> FeatureFile:
    """Make `rows` the finished file, in the order of `keys` (those not among them are left out).

    state: what the store held when `rows` was read; all of it is in `rows`. classifier: by default that of the files.
    Raises FileGone, and changes nothing, if another process has changed the finished file or removed shards since.
    """
    wanted = set(keys)
    finished = [key for key in keys if key in rows.place], [key for key in keys if key in rows.failures]
    retiring = [key for key in rows.place if key not in wanted], [key for key in rows.failures if key not in wanted]
    with ExitStack() as stack:
        def write(written: list[str], failed: list[str], classifier: BackboneClassifier | None = None) -> Path:
            path = stack.enter_context(temporary_file(store.path))
            write_feature_file(path, recipe=recipe, dim=dim, keys=written, sha256=[rows.sha256(key) for key in written],
                               features=rows.blocks(written), failures={key: rows.failures[key] for key in failed},
                               classifier=classifier)
            atomic.fsync(path)
            return path

        temporary = write(*finished, classifier or common_classifier(rows.files))
        retired = write(*retiring) if any(retiring) else None
        stack.enter_context(file_lock(store.lock_path))
        if not state.is_current(store, recipe):
            raise FileGone(f"{store.path}: changed by another process")
        if retired:
            _add_shard(store, recipe, retired, prefix=RETIRED)
        atomic.publish(temporary, store.path_of(recipe))
        for shard in state.shards:
            atomic.remove(shard.path)
        atomic.remove_stale_files(store.path)
    remove_leftovers(store, recipe)
    return FeatureFile(store.path_of(recipe))


def remove_leftovers(store: Store, recipe: Recipe) -> None:
    """Remove temporary files of dead processes and the folder of shards if it is empty, also after a writer that was
    killed between publishing the finished file and tidying up; a read-only store keeps them."""
    if (store.path / SHARDS).is_dir():
        with suppress(OSError), file_lock(store.lock_path):
            atomic.remove_stale_files(store.path)
            for folder in (store.shard_folder(recipe), store.path / SHARDS):
                atomic.remove_stale_files(folder)
                atomic.remove_empty_folder(folder)

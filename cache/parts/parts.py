"""Parts: small whole feature files that a run leaves behind as it goes.

What is done is what reads back whole: a part or file that does not is set aside with its reason and computed again.
Only what was read and is wrong counts as damage; a file that cannot be read just now is an error.
"""

import contextlib
import logging
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from twofold.cache.atomic import alone, is_there, make_folder, put_in_place, sync, temporary_in
from twofold.cache.errors import DamagedFile, FileGone
from twofold.cache.format.classifier import OwnClassifier
from twofold.cache.format.featurefile import FeatureFile
from twofold.cache.format.write import fill_featurefile
from twofold.cache.parts.rows import CachedRows, Rows, rows_in
from twofold.cache.recipe import Recipe
from twofold.cache.store import Store, h5_files

log = logging.getLogger(__name__)
RETIRED = "retired-"  #: starts the name of a part with rows of faces that are no longer in the manifest
PART_NAME = re.compile(r"(?:retired-)?(\d{8})-[0-9a-f]{32}\.h5")


@dataclass(frozen=True)
class FileState:
    """What a store holds of one recipe at one moment: its finished file, if any, and its parts, the oldest first.

    Rows of faces that have left the manifest (`retired`) are as old as the finished file, so they stand before others.
    """

    finished: FeatureFile | None
    retired: tuple[FeatureFile, ...]
    parts: tuple[FeatureFile, ...]

    @cached_property
    def rows(self) -> CachedRows:
        """All that is cached; of a key in several files the newest row."""
        return rows_in([*([self.finished] if self.finished else []), *self.retired, *self.parts])

    def is_complete(self, keys: Sequence[str], *, classifier: OwnClassifier | None = None) -> bool:
        """True if the finished file holds exactly these keys, in this order but for failures, and no parts are left.

        classifier: and if it carries this one, too.
        """
        file = self.finished
        if file is None or self.parts or len(file.keys) + len(file.failures) != len(keys):
            return False
        if classifier is not None and not classifier.equals(file.classifier):
            return False
        return [key for key in keys if key not in file.failures] == file.keys.tolist()

    def is_current(self, store: Store, recipe: Recipe) -> bool:
        """True if all these files still stand there, the finished one is the same, and no other rows have retired.

        Parts that came since are newer than all of it, and stay.
        """
        same = self.finished.is_current() if self.finished else not is_there(store.path_of(recipe))
        return (same and all(is_there(part.path) for part in self.parts)
                and [part.path for part in self.retired] == list(filter(is_retired, part_paths(store, recipe))))


def file_state(store: Store, recipe: Recipe, *, deep: bool = True) -> FileState:
    """What is cached of a recipe. Parts are read back whole (`deep`: the finished file, too); damage is set aside.

    Raises CacheError or OSError for a file that cannot be read though nothing shows that it is damaged.
    """
    while True:
        paths = part_paths(store, recipe)
        parts = [_whole(store, path, recipe, deep=True) for path in paths]
        finished = _whole(store, store.path_of(recipe), recipe, deep=deep)  # last: it has what parts were removed for
        if {*filter(is_retired, part_paths(store, recipe))} <= {*paths}:  # else it lacks what has retired meanwhile
            break
    sound = [part for part in parts if part is not None]
    return FileState(finished, tuple(part for part in sound if is_retired(part.path)),
                     tuple(part for part in sound if not is_retired(part.path)))


def publish_part(store: Store, recipe: Recipe, dim: int, rows: Rows) -> Path:
    """Write rows as one part of the store; once this returns they survive a crash."""
    with written(store, recipe, dim, rows) as temporary, alone(store.lock_path):
        return add_part(store, recipe, temporary)


@contextlib.contextmanager
def written(store: Store, recipe: Recipe, dim: int, rows: Rows) -> Iterator[Path]:
    """Rows as a feature file, safe on the disk, that has no name in the store yet and goes unless it gets one."""
    make_folder(store.path)
    with temporary_in(store.path) as temporary:
        fill_featurefile(temporary, recipe=recipe, dim=dim, keys=rows.keys, sha256=rows.sha256,
                         features=rows.features, failures=rows.failures)
        sync(temporary)
        yield temporary


def add_part(store: Store, recipe: Recipe, temporary: Path, *, prefix: str = "") -> Path:
    """Give a whole feature file its place as the newest part. The caller holds the store's lock: numbers are unique."""
    folder = store.parts_of(recipe)
    make_folder(folder)
    number = 1 + max(map(_number, h5_files(folder)), default=0)
    path = folder / f"{prefix}{number:08d}-{uuid.uuid4().hex}.h5"
    put_in_place(temporary, path)
    return path


def part_paths(store: Store, recipe: Recipe) -> list[Path]:
    """The parts of a recipe in the order in which what they say counts, the newest last."""
    keyed = []
    for path in h5_files(store.parts_of(recipe)):
        with contextlib.suppress(FileNotFoundError):  # another process has assembled and removed it
            age = 0 if PART_NAME.fullmatch(path.name) else path.stat().st_mtime_ns  # before parts were numbered
            keyed.append(((not is_retired(path), _number(path), age, path.name), path))
    return [path for _, path in sorted(keyed)]


def retired_rows(store: Store, recipe: Recipe) -> int:
    """How many rows are kept of faces that are no longer in the manifest."""
    rows = 0
    for path in filter(is_retired, part_paths(store, recipe)):
        with contextlib.suppress(FileGone):  # it has just come back into a finished file
            rows += FeatureFile(path).rows
    return rows


def is_retired(path: Path) -> bool:
    return path.name.startswith(RETIRED)


def _number(path: Path) -> int:
    numbered = PART_NAME.fullmatch(path.name)
    return int(numbered[1]) if numbered else 0


def _whole(store: Store, path: Path, recipe: Recipe, *, deep: bool) -> FeatureFile | None:
    """The file if it is there, reads back whole and belongs to the recipe; damage is set aside."""
    while True:
        try:
            return _checked(path, recipe, deep=deep)
        except FileGone:  # removed by another process, or replaced: look again
            if not is_there(path):
                return None
        except DamagedFile:
            _set_aside(store, path, recipe, deep=deep)


def _checked(path: Path, recipe: Recipe, *, deep: bool) -> FeatureFile:
    file = FeatureFile(path)
    if file.recipe != recipe:
        raise DamagedFile(f"{path}: belongs to another recipe")
    if deep:
        file.check()
    _ = file.keys
    return file


def _set_aside(store: Store, path: Path, recipe: Recipe, *, deep: bool) -> None:
    """Give a damaged file another name; looked at again, since another process may have put a sound one there."""
    with alone(store.lock_path), contextlib.suppress(FileGone):
        try:
            _checked(path, recipe, deep=deep)
        except DamagedFile as error:
            aside = path.with_name(f"{path.name}.damaged")
            put_in_place(path, aside)
            log.warning("set aside as %s, its rows are computed again: %s", aside, error)

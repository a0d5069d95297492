"""Rows that a run lacks, dealt out in shares to workers that come and go; what a lost worker has left is dealt again.

Shares begin large and become smaller (guided self-scheduling: Polychronopoulos and Kuck, IEEE Transactions on
Computers C-36, 1987), so that few of them are needed and yet all workers end at about the same time.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from twofold.cache.errors import CacheError
from twofold.cache.feature_file import FeatureFile
from twofold.cache.recipe import Recipe
from twofold.cache.shards import shard_paths
from twofold.cache.store import Store
from twofold.data.utils.errors import InputError
from twofold.extract.assignment import Assignment, MissingRows
from twofold.extract.engine.tally import Tally

LEAST_FACES = 128  #: of a share, where there are as many: the last batch of a share may be partly padding
ATTEMPTS = 3  #: at one share of which nothing is published
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Share:
    """Some faces of the run and what is to be computed of them; attempt: how often it was tried without progress."""

    assignment: Assignment
    attempt: int = 1

    @property
    def faces(self) -> int:
        return len(self.assignment.keys)


class Shares:
    """All shares of a run. workers: how many there will be at most."""

    def __init__(self, assignment: Assignment, *, workers: int):
        self._all, self._workers = assignment, workers
        self._rows = _faces_of(assignment.files)
        self._dealt, self._closed = 0, False
        self._returned: list[Share] = []
        self._store = Store(assignment.store, new=True)
        self._before = {file.recipe.fingerprint: set(shard_paths(self._store, file.recipe))
                        for file in assignment.files}

    @property
    def faces(self) -> int:
        """That the run is to decode."""
        return len(self._rows)

    @property
    def left(self) -> bool:
        """True if there are faces that nobody has been given."""
        return bool(self._returned) or self._dealt < len(self._rows)

    def close(self) -> None:
        """Nothing more is dealt."""
        self._returned, self._dealt, self._closed = [], len(self._rows), True

    def deal(self) -> Share:
        """The next share; there must be some left."""
        if self._returned:
            return self._returned.pop()
        left = len(self._rows) - self._dealt
        count = left if self._workers == 1 else max(LEAST_FACES, left // (2 * self._workers))
        rows = self._rows[self._dealt:self._dealt + count]
        self._dealt += len(rows)
        return Share(_part_of(self._all, rows))

    def take_back(self, share: Share, *, reason: str) -> Tally:
        """Of a worker that was lost: what it had published, and the rest is to be dealt again.

        Raises InputError if a share has been taken back too often with nothing published.
        """
        done, left = self._published(share.assignment)
        if left is None:
            return done
        progress = sum(done.rows.values()) + sum(map(len, done.failures.values()))
        attempt = 1 if progress else share.attempt + 1
        if attempt > ATTEMPTS:
            raise InputError(f"{ATTEMPTS} workers were lost, one after the other, at the same {len(left.keys)} faces, "
                             f"the first of them {left.keys[0]!r} ({reason}); what was computed is kept")
        self._returned += [] if self._closed else [Share(left, attempt)]
        return done

    def _published(self, share: Assignment) -> tuple[Tally, Assignment | None]:
        """What is in the store of a share, and what is left of it."""
        done, files, keys = Tally(), [], np.array(share.keys)
        for file in share.files:
            rows, failures = self._new_in_store(file.recipe)
            wanted = keys[file.rows]
            sound = np.fromiter((key in rows for key in wanted), bool, len(wanted))
            fails = np.fromiter((key in failures for key in wanted), bool, len(wanted))
            done.rows[file.recipe.fingerprint] += int(sound.sum())
            done.failures[file.recipe.fingerprint] = {key: failures[key] for key in wanted[fails].tolist()}
            if not (sound | fails).all():
                files.append(replace(file, rows=file.rows[~(sound | fails)]))
        left = _faces_of(files)
        done.faces = len(share.keys) - len(left)
        return done, _part_of(replace(share, files=files), left) if files else None

    def _new_in_store(self, recipe: Recipe) -> tuple[set[str], dict[str, str]]:
        """Keys that have features in the parts that came since the run began, and those that failed, with reasons."""
        rows: set[str] = set()
        failures: dict[str, str] = {}
        for path in shard_paths(self._store, recipe):
            if path not in self._before[recipe.fingerprint]:
                try:
                    part = FeatureFile(path)
                    rows |= {*part.keys.tolist()}
                    failures |= part.failures
                except CacheError as error:
                    log.warning("%s", error)
        return rows, failures


def _faces_of(files: Sequence[MissingRows]) -> np.ndarray:
    """Places of all faces that any file lacks, sorted."""
    return np.unique(np.concatenate([file.rows for file in files])) if files else np.empty(0, int)


def _part_of(assignment: Assignment, rows: np.ndarray) -> Assignment:
    """These faces of an assignment, by their sorted places in it; the keys of no others are sent along."""
    keys = [str(assignment.keys[row]) for row in rows]
    files = [replace(file, rows=np.searchsorted(rows, np.intersect1d(file.rows, rows, assume_unique=True)))
             for file in assignment.files]
    return replace(assignment, keys=keys, files=[file for file in files if len(file.rows)])

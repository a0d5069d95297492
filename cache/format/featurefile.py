"""FeatureFile v1: the embeddings of one backbone and one view, with the recipe that made them.

The features are guarded by HDF5's fletcher32 (and by checks that every chunk stands where it should); all else, the
keys, image hashes, failures and attributes, by a SHA-256 of its own. What is read is what was written, or an error.
"""

import json
import stat
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from twofold.cache.errors import DamagedFile, FileGone
from twofold.cache.format.checked_chunks import Chunks, NotFinite
from twofold.cache.format.classifier import OwnClassifier, read_classifier
from twofold.cache.format.header import Checked, check_header, identity
from twofold.cache.format.index import TABLES, brief, check_keys, decoded, digest_of, passing, read_texts
from twofold.cache.format.layout import CHUNK_ROWS
from twofold.cache.recipe import Recipe

BLOCK_ROWS = 8192


class FeatureFile:
    """A feature file, opened anew for each read, so that it pickles and works in any process and on read-only mounts.

    The header is read and checked on first use; `CacheError` says why a file is refused, `DamagedFile` (a kind of
    it) that its bytes are not those that were written.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"FeatureFile({str(self.path)!r})"

    def __getstate__(self) -> dict:
        return {"path": self.path}

    # ------------------------------------------------------------------------------------------------ header
    @cached_property
    def _checked(self) -> Checked:
        with self._open() as file:
            return check_header(file)

    @property
    def header(self) -> dict[str, str | int]:
        """The root attributes, checked against each other and against the recipe."""
        return self._checked.header

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe.from_json(self.header["recipe"])

    @property
    def fingerprint(self) -> str:
        return self.header["fingerprint"]

    @property
    def backbone(self) -> str:
        return self.header["backbone"]

    @property
    def view(self) -> str:
        return self.header["view"]

    @property
    def dim(self) -> int:
        return self.header["dim"]

    @property
    def rows(self) -> int:
        return self.header["rows"]

    @property
    def failed(self) -> int:
        """How many faces could not be encoded."""
        return self.header["failed"]

    # ------------------------------------------------------------------------------------------------- index
    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        with self._open_again() as file:
            keys, hashes, failed, reasons = (read_texts(file[name]) for name in TABLES)
        if digest_of(self.header, (keys, hashes, failed, reasons)) != self.header["index_sha256"]:
            raise DamagedFile(f"{self.path}: keys, hashes or attributes were altered: delete it and extract again")
        check_keys(keys, failed, self.path)
        failures = dict(zip(decoded(failed), decoded(reasons), strict=True))
        return decoded(keys), hashes, failures

    @property
    def keys(self) -> np.ndarray:
        """(N,) object array of str: the keys in the order of the rows."""
        return self._index[0]

    @property
    def sha256(self) -> np.ndarray:
        """(N,) array of 64-character hex bytes (`S64`): SHA-256 of each image file."""
        return self._index[1]

    @property
    def failures(self) -> dict[str, str]:
        """Key to reason, for faces that could not be encoded."""
        return self._index[2]

    @cached_property
    def position(self) -> dict[str, int]:
        """Key to row."""
        return {key: row for row, key in enumerate(self.keys)}

    # ---------------------------------------------------------------------------------------------- features
    def read(self, keys: Sequence[str] | None = None, *, dtype: np.dtype | type = np.float32) -> np.ndarray:
        """(N, D) array of `dtype`: all rows, or those of `keys` in their order.

        Reads each chunk at most once however scattered the keys are, and holds no second copy.
        Raises KeyError for a key that is not in the file, DamagedFile where a checksum does not hold.
        """
        if keys is None:
            return self.read_rows(None, dtype=dtype)
        return self.read_rows(np.fromiter((self.position[key] for key in keys), np.int64, len(keys)), dtype=dtype)

    def read_rows(self, rows: np.ndarray | None, *, dtype: np.dtype | type = np.float32) -> np.ndarray:
        """(M, D) array of `dtype`: the rows at these positions, in the order given; all of them if None."""
        wanted = self.rows if rows is None else len(rows)
        out = np.empty((wanted, self.dim), dtype)
        with self._open_again() as file:
            chunks = Chunks(file.id.get_vfd_handle(), self._checked.offsets, self.rows, self.dim,
                            np.dtype(self.recipe.dtype))
            try:
                if rows is None:
                    _read_all(chunks, out)
                else:
                    _gather(chunks, np.asarray(rows), out)
            except OSError as error:
                raise passing(error, self.path) or DamagedFile(
                    f"{self.path}: the features do not read back ({brief(error)})") from None
            except NotFinite as error:
                raise DamagedFile(f"{self.path}: the features of {self.keys[error.row]!r} are not finite numbers, as "
                                  f"they were when they were written: delete it and extract again") from None
        return out

    @cached_property
    def classifier(self) -> OwnClassifier | None:
        """The classifier that the backbone brought along; None if it has none here."""
        with self._open_again() as file:
            return read_classifier(file)

    def logits(self) -> tuple[tuple[str, ...], np.ndarray] | None:
        """The backbone's own classes and logits (N, C) float32, in the order of the keys, as files had them before
        they carried the classifier itself; None if it has none."""
        with self._open_again() as file:
            if "logits" not in file:
                return None
            try:
                classes, values = _read_classes(file["logits"]), file["logits"][...].astype(np.float32, copy=False)
            except OSError as error:
                raise passing(error, self.path) or DamagedFile(
                    f"{self.path}: the logits do not read back ({brief(error)})") from None
        if not np.isfinite(values).all():
            raise DamagedFile(f"{self.path}: some logits are not finite numbers: delete it and extract again")
        return classes, values

    def blocks(
        self, rows: int = BLOCK_ROWS, *, dtype: np.dtype | type = np.float32,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(keys, features) of `rows` rows at a time, in order: for what exceeds memory."""
        for start in range(0, self.rows, rows):
            stop = min(start + rows, self.rows)
            yield self.keys[start:stop], self.read_rows(np.arange(start, stop), dtype=dtype)

    def is_current(self) -> bool:
        """True if the file that was read stands there still. Raises OSError if that cannot be told."""
        try:
            self._open_again().close()
        except (FileGone, DamagedFile):
            return False
        return True

    def check(self) -> None:
        """Read everything back; raises DamagedFile or CacheError at the first thing that is wrong."""
        _ = self._index, self.recipe, self.logits(), self.classifier
        for _ in self.blocks(dtype=self.recipe.dtype):
            pass

    def _open_again(self) -> h5py.File:
        """The file that was checked: rows would be looked up in another one's order. Raises FileGone if it is not."""
        expected = self._checked.identity
        file = self._open()
        try:
            same = identity(file) == expected
        except (OSError, RuntimeError) as error:
            file.close()
            if broken := passing(error, self.path):
                raise broken from None
            same = False
        if not same:
            file.close()
            raise FileGone(f"{self.path}: replaced by another process while it was read: try again")
        return file

    def _open(self) -> h5py.File:
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):  # opening a pipe would wait for ever
                raise DamagedFile(f"{self.path}: not a file")
            return h5py.File(self.path, "r", locking=False)
        except FileNotFoundError:
            raise FileGone(f"{self.path}: no such feature file") from None
        except (OSError, RuntimeError) as error:
            raise passing(error, self.path) or DamagedFile(
                f"{self.path}: not a whole HDF5 file ({brief(error)})") from None


def _read_classes(logits: h5py.Dataset) -> tuple[str, ...]:
    try:
        classes = tuple(json.loads(logits.attrs["classes"]))
    except (KeyError, TypeError, ValueError):
        classes = ()
    if len(classes) != logits.shape[1] or not all(isinstance(name, str) for name in classes):
        raise DamagedFile(f"{logits.file.filename}: /logits does not say what its classes are")
    return classes


def _read_all(chunks: Chunks, out: np.ndarray) -> None:
    same = out.dtype == chunks.dtype

    def place(number: int) -> np.ndarray | None:
        here = out[number * CHUNK_ROWS:(number + 1) * CHUNK_ROWS]
        return here if same and len(here) == CHUNK_ROWS else None

    def use(number: int, values: np.ndarray) -> None:
        if place(number) is None:
            out[number * CHUNK_ROWS:(number + 1) * CHUNK_ROWS] = values

    chunks.each(range(len(chunks.offsets)), use, place)


def _gather(chunks: Chunks, rows: np.ndarray, out: np.ndarray) -> None:
    order = np.argsort(rows, kind="stable")
    numbers, starts = np.unique(rows[order] // CHUNK_ROWS, return_index=True)
    wanted = dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)) if len(rows) else {}

    def use(number: int, values: np.ndarray) -> None:
        here = wanted[number]
        out[here] = values[rows[here] - number * CHUNK_ROWS]

    chunks.each(list(wanted), use)

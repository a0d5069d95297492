"""Feature files of version 1, read for us by a process with limits (see `version1_child`), which one file may end."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import cache, cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np

from twofold.cache.child import child
from twofold.cache.errors import CacheError, DamagedFile, FileGone
from twofold.cache.format.classifier import BIAS, FLOAT, GROUPS, SHA256, WEIGHT, OwnClassifier, classifier_from
from twofold.cache.format.finite import first_not_finite
from twofold.cache.format.header import (
    BLOCK_OF_CHECKSUM,
    FORMAT,
    VERSION1_ATTRIBUTES,
    Header,
    refuse_version,
    require_agreement,
)
from twofold.cache.format.index import TABLES
from twofold.cache.format.version2 import open_plain

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SERVE = "from twofold.cache.format.version1_child import serve; serve(int(sys.argv[1]))"
OF_THE_FILE = (signal.SIGXCPU, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


class Reader:
    """The process, and the line to it; one request at a time."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(child(SERVE, theirs.fileno()), pass_fds=[theirs.fileno()],
                                            stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.connection, self.lock = Connection(ours.detach()), threading.Lock()

    def died_of(self) -> int:
        """The signal that ended it, or 0."""
        self.connection.close()
        return max(0, -self.process.wait())


@cache
def _reader(process: int) -> Reader:
    """One for each of our processes: a fork must not share its parent's."""
    return Reader()


@contextlib.contextmanager
def _asking(path: Path, request: dict) -> Iterator[tuple[dict, Connection]]:
    """Send a request; gives the answer, and the line on which its arrays come. Raises what is wrong with the file."""
    reader = _reader(os.getpid())
    with reader.lock:
        done = False
        try:
            reader.connection.send_bytes(json.dumps({"path": str(path)} | request).encode())
            yield _received(json.loads(reader.connection.recv_bytes()), path), reader.connection
            done = True
        except (EOFError, ConnectionError):
            died_of = reader.died_of()
            if died_of in OF_THE_FILE:
                raise DamagedFile(f"{path}: HDF5 does not come to an end with it: it is damaged, or made to do harm: "
                                  "delete it and extract again") from None
            raise CacheError(f"{path}: the process that reads it was stopped: try again") from None
        finally:
            if not done:  # what is still on the line belongs to nobody
                reader.process.kill()
                reader.died_of()
                _reader.cache_clear()


def _received(answer: dict, path: Path) -> dict:
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]), str(path))
    if "gone" in answer:
        raise FileGone(f"{path}: replaced by another process while it was read: try again")
    if "refused" in answer:
        raise CacheError(f"{path}: {answer['refused']}")
    if "damaged" in answer:
        raise DamagedFile(f"{path}: {answer['damaged']}: delete it and extract again")
    return answer


class Version1:
    """An open door to one file: header and index are checked; its values are asked for anew each time."""

    def __init__(self, path: Path):
        self.path = path
        descriptor = open_plain(path)
        try:
            self.size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
        with _asking(path, {"rows": None}) as (answer, connection):
            self._arrays = {name: _array(connection, shape, kind, path) for name, shape, kind in answer.pop("arrays")}
        self._classifier, self._logits = answer.pop("classifier"), answer.pop("logits")
        if (answer["format"], answer["format_version"]) != (FORMAT, 1):
            refuse_version(path, answer["format"], answer["format_version"])
        self.header = cast(Header, answer)
        try:
            require_agreement(self.header)
        except CacheError as error:
            raise type(error)(f"{path}: {error}") from None

    def tables(self) -> tuple[np.ndarray, ...]:
        tables = tuple(self._arrays[name] for name in TABLES)
        if digest_of(self.header, tables) != self.header["index_sha256"]:
            raise DamagedFile(f"{self.path}: keys, hashes or attributes were altered: delete it and extract again")
        return tables

    def classifier(self) -> OwnClassifier | None:
        if self._classifier is None:
            return None
        names = {WEIGHT, BIAS, SHA256, GROUPS} & set(self._arrays)
        try:
            classifier = classifier_from(self._classifier, {name: self._arrays[name] for name in names},
                                         self.header["dim"])
        except DamagedFile as error:
            raise DamagedFile(f"{self.path}: {error}") from None
        if classifier is None or _classifier_digest(self.header, classifier) != self._classifier["sha256"]:
            raise DamagedFile(f"{self.path}: the classifier was altered, or belongs to another file: delete the file "
                              "and extract again")
        return classifier

    def logits(self) -> tuple[tuple[str, ...], np.ndarray] | None:
        """The backbone's own classes and logits (N, C) float32, as files had them before they carried classifiers."""
        if self._logits is None:
            return None
        numbers = range(-(-self.header["rows"] // BLOCK_OF_CHECKSUM))
        blocks = [rows.astype(np.float32) for _, rows in self._chunks("logits", numbers, len(self._logits))]
        values = np.concatenate(blocks) if blocks else np.empty((0, len(self._logits)), np.float32)
        if not np.isfinite(values).all():
            raise DamagedFile(f"{self.path}: some logits are not finite numbers: delete it and extract again")
        return tuple(map(str, self._logits)), values

    def blocks(self, numbers: Iterator[int] | range | list[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(number, rows as stored) of each chunk that is asked for."""
        return self._chunks("features", list(numbers), self.header["dim"])

    def is_current(self) -> bool:
        try:
            return Version1(self.path).header["index_sha256"] == self.header["index_sha256"]
        except (FileGone, DamagedFile):
            return False

    @cached_property
    def _dtype(self) -> np.dtype:
        return np.dtype(json.loads(self.header["recipe"])["dtype"]).newbyteorder("<")

    def _chunks(self, dataset: str, numbers: Any, columns: int) -> Iterator[tuple[int, np.ndarray]]:
        request = {"rows": list(numbers), "dataset": dataset, "index_sha256": self.header["index_sha256"]}
        if not request["rows"]:
            return
        with _asking(self.path, request) as (answer, connection):
            kind = self._dtype if dataset == "features" else np.dtype(answer["dtype"])
            for number in request["rows"]:
                count = min(BLOCK_OF_CHECKSUM, self.header["rows"] - number * BLOCK_OF_CHECKSUM)
                content = _content(connection, count * columns * kind.itemsize, self.path)
                rows = np.frombuffer(content, kind).reshape(count, columns)
                if first_not_finite(rows) is not None:
                    raise DamagedFile(f"{self.path}: the {dataset} of {count} faces from row "
                                      f"{number * BLOCK_OF_CHECKSUM} on are not finite numbers, as they were when they "
                                      "were written: delete it and extract again")
                yield number, rows


def _array(connection: Connection, shape: list[int], kind: str, path: Path) -> np.ndarray:
    """An array that comes in slices."""
    values = np.empty(shape, np.dtype(kind))
    content, place = values.reshape(-1).view(np.uint8), 0
    while place < content.size:
        data = _content(connection, None, path)
        content[place:place + len(data)] = np.frombuffer(data, np.uint8)
        place += len(data)
    return values


def _content(connection: Connection, size: int | None, path: Path) -> bytes:
    """The next array's bytes; or, in their place, what went wrong."""
    data = connection.recv_bytes()
    if data.startswith(b'{"') and (size is None or len(data) != size):
        try:
            answer = json.loads(data)
        except ValueError:
            return data  # an array that begins like an answer
        _received(answer, path)
    return data


def digest_of(header: Header, tables: tuple[np.ndarray, ...]) -> str:
    """SHA-256 over all that fletcher32 does not guard well: attributes, keys, hashes, failures."""
    digest = hashlib.sha256(json.dumps([header.get(name) for name in VERSION1_ATTRIBUTES[:-1]]).encode())
    for table in tables:
        digest.update(f"{len(table)},{table.itemsize};".encode())
        digest.update(np.ascontiguousarray(table).data.cast("B") if table.size else b"")
    return digest.hexdigest()


def _classifier_digest(header: Header, classifier: OwnClassifier) -> str:
    """SHA-256 over the file's fingerprint, the classes and the numbers: of this file and no other."""
    digest = hashlib.sha256(json.dumps([header["fingerprint"], *classifier.classes]).encode("ascii"))
    for values in (classifier.weight, classifier.bias):
        digest.update(np.ascontiguousarray(values, FLOAT).data.cast("B"))
    if taught := classifier.taught:
        digest.update(json.dumps([taught.fold, taught.folds, taught.training]).encode("ascii"))
        digest.update(taught.sha256.tobytes() + b"\0" + taught.groups.tobytes())
    return digest.hexdigest()

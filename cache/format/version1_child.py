"""The process that reads feature files of version 1 for us, with the HDF5 library, within limits of time and memory.

One wrong bit in such a file makes the library loop for ever or ask for gigabytes; here that ends this process only.
It answers on a socket, a request after the other: JSON first, then the arrays that the JSON announces.
"""

import json
import os
import resource
import socket
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from twofold.cache.errors import CacheError, DamagedFile
from twofold.cache.format.classifier import BIAS, GROUPS, SHA256, WEIGHT
from twofold.cache.format.header import VERSION1_ATTRIBUTES
from twofold.cache.format.index import TABLES
from twofold.cache.format.version1_layout import CHUNK_ROWS, MAX_ATTRIBUTE_BYTES, TAUGHT, check_layout

SLICE_ROWS = 1 << 14  #: of a table that are in memory at once
MEMORY = 512 << 20  #: bytes that a file may make this process ask for
CPU_SECONDS = 5  #: of the processor for one request, and
BYTES_A_SECOND = 20 << 20  #: one more for so many bytes of the file


def serve(descriptor: int) -> None:
    """Answer requests until the other side hangs up."""
    _limit(resource.RLIMIT_AS, _address_space() + MEMORY)
    connection = Connection(socket.socket(fileno=descriptor).detach())
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except EOFError:
            return
        path = Path(request["path"])
        used = sum(os.times()[:2])
        _limit(resource.RLIMIT_CPU, int(used + CPU_SECONDS + path.stat().st_size / BYTES_A_SECOND) + 1)
        try:
            with h5py.File(path, "r", locking=False) as file:
                if request["rows"] is None:
                    _send_header(connection, file)
                elif request["index_sha256"] == _text(file, "index_sha256"):
                    _send_rows(connection, _dataset(file, request["dataset"]), request["rows"])
                else:
                    connection.send_bytes(json.dumps({"gone": True}).encode())
        except (CacheError, OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError,
                MemoryError, RecursionError) as error:
            connection.send_bytes(json.dumps(_failure(error)).encode())


def _limit(kind: int, value: int) -> None:
    _, most = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))


def _address_space() -> int:
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else 1 << 40


def _failure(error: Exception) -> dict:
    text = " ".join(str(error).split("\n")[0].split())[:200] or type(error).__name__
    if isinstance(error, OSError) and error.errno:  # of the system, not of the file
        return {"errno": error.errno}
    if not isinstance(error, CacheError):
        text = f"not a whole HDF5 file ({text})"
    return {"refused" if isinstance(error, CacheError) and not isinstance(error, DamagedFile) else "damaged": text}


def _send_header(connection: Connection, file: h5py.File) -> None:
    """What the file says of itself, then the arrays that it announces. A failure may come in the place of any."""
    header = _header(file)
    arrays = {name: _dataset(file, name) for name in (*TABLES, WEIGHT, BIAS, SHA256, GROUPS) if name in file}
    header["arrays"] = [[name, list(array.shape), array.dtype.str] for name, array in arrays.items()]
    connection.send_bytes(json.dumps(header).encode())
    for array in arrays.values():
        for start in range(0, array.shape[0], SLICE_ROWS):
            connection.send_bytes(np.ascontiguousarray(array[start:start + SLICE_ROWS]).tobytes())


def _send_rows(connection: Connection, rows: Any, numbers: list[int]) -> None:
    """The type of the rows, then the chunks of these numbers."""
    connection.send_bytes(json.dumps({"dtype": rows.dtype.str}).encode())
    for number in numbers:
        connection.send_bytes(rows[number * CHUNK_ROWS:(number + 1) * CHUNK_ROWS].tobytes())


def _header(file: h5py.File) -> dict:
    check_layout(file)
    values: dict[str, Any] = {name: file.attrs[name] for name in VERSION1_ATTRIBUTES}
    header = {name: value if isinstance(value, str) else int(value) for name, value in values.items()}
    if any(isinstance(value, str) and len(value) > MAX_ATTRIBUTE_BYTES for value in header.values()):
        raise DamagedFile("an attribute is absurdly long")
    return header | {"failed": _dataset(file, "failures/keys").shape[0], "classifier": _classifier(file),
                     "logits": _classes_of_logits(file)}


def _classifier(file: h5py.File) -> dict | None:
    group: Any = file.get("classifier")
    if group is None:
        return None
    record = {"classes": json.loads(_text(group, "classes")), "sha256": _text(group, "sha256")}
    if not any(name in group for name in TAUGHT):
        return record
    return record | {"fold": int(group.attrs["fold"]), "folds": int(group.attrs["folds"]),
                     "training": _text(group, "training") if "training" in group.attrs else ""}


def _classes_of_logits(file: h5py.File) -> list | None:
    logits: Any = file.get("logits")
    if logits is None:
        return None
    classes = json.loads(logits.attrs["classes"])
    if not isinstance(classes, list) or len(classes) != logits.shape[1]:
        raise DamagedFile("/logits does not say what its classes are")
    return classes


def _text(place: Any, name: str) -> str:
    value = place.attrs[name]
    text = value.decode("ascii") if isinstance(value, bytes) else value
    if not isinstance(text, str) or len(text) > MAX_ATTRIBUTE_BYTES:
        raise DamagedFile(f"the attribute {name!r} is not one short text")
    return text


def _dataset(file: h5py.File, name: str) -> Any:
    return file[name]

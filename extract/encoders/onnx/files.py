"""What belongs to an ONNX model on disk: the file itself and the data files that its tensors lie in.

Read from the protobuf by the field numbers of onnx.proto (https://onnx.ai/onnx/api/classes.html), without the package
`onnx`: a running model needs onnxruntime alone.
"""

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from twofold.data.utils.errors import InputError

#: for each message, its fields that hold messages in which a tensor may stand
FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"}, "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"}, "node": {5: "attribute"}, "function": {7: "node", 11: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"}, "tensor": {13: "entry"}, "entry": {},
}
KEY, VALUE = 1, 2  #: fields of an entry


def data_files(path: Path) -> list[Path]:
    """The files beside a model that its tensors lie in, in order of their names.

    Raises InputError for a model that is cut off, or that names a file which is not there or not in its folder.
    """
    try:  # an empty file cannot be mapped
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            names = sorted(set(_locations(content)))
    except (IndexError, ValueError):
        raise InputError(f"{path} is not an ONNX model that can be read: it is cut off, or no model") from None
    return [_beside(path, name) for name in names]


def digest_of(path: Path) -> str:
    """`sha256:<hex>` of the model and of its data files. Raises InputError as `data_files`."""
    files = data_files(path)
    with path.open("rb") as stream:
        total = hashlib.file_digest(stream, "sha256")
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return f"sha256:{total.hexdigest()}"


def _beside(path: Path, name: bytes) -> Path:
    """A data file. Nothing outside of the model's folder is looked at, not even to see whether it is there."""
    text = name.decode("utf-8", "replace")
    plain = PurePosixPath(text)
    if plain.is_absolute() or ".." in plain.parts or "\\" in text or "\0" in text or not plain.parts:
        raise InputError(f"{path} keeps numbers in {text[:200]!r}, which is not in its own folder: refused")
    file = path.parent / plain
    if not file.is_file() or not file.resolve().is_relative_to(path.parent.resolve()):
        raise InputError(f"{path} keeps numbers in {text[:200]!r}, which is not there: put that file beside it")
    return file


def _locations(content: mmap.mmap) -> Iterator[bytes]:
    """The `location` of every tensor whose data is external."""
    pending = [("model", 0, len(content))]
    while pending:
        message, start, stop = pending.pop()
        if message == "entry":
            entry = {field: content[begin:end] for field, begin, end in _fields(content, start, stop)}
            if entry.get(KEY) == b"location":
                yield entry.get(VALUE, b"")
            continue
        kinds = FIELDS[message]
        pending += [(kinds[field], begin, end) for field, begin, end in _fields(content, start, stop) if field in kinds]


def _fields(content: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(number, begin, end) of each field with a length. Raises ValueError or IndexError where the bytes are none."""
    while start < stop:
        tag, start = _varint(content, start)
        kind = tag & 7
        if kind == 2:
            length, start = _varint(content, start)
            if start + length > stop:
                raise ValueError("a field is longer than its message")
            yield tag >> 3, start, start + length
            start += length
        elif kind == 0:
            _, start = _varint(content, start)
        elif kind in (1, 5):
            start += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(content: mmap.mmap, start: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = content[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
    raise ValueError("a number without an end")

"""Reading any published weights file as data: nothing in it is run, and what is wrong with it is said."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from twofold.data.utils.errors import InputError
from twofold.extract.weights.safe_pickle import PLAIN, Bounded, DataUnpickler, LazyTensor, Storage, TooMuch, names_in
from twofold.extract.weights.tensors_in import best_accuracy, entries_in, weights_in, why_none, without_prefixes

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what torch wrote before 1.6 starts with this number, pickled
MOST_HEADER = 8 << 20  #: bytes of the list of tensors in a safetensors file, or of the files in a zip archive
AGAIN = "download it again"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The weights of a file and what else was in it.

    container: the entry that the weights were under, "" for the file itself; entries: top-level entries and what
    each is; dropped: names of classes and functions that were left unread, with how often; best_acc: as stored.
    """

    path: Path
    format: str
    tensors: dict[str, torch.Tensor] = field(repr=False)
    container: str = ""
    entries: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    best_acc: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """What there is to say of the file, its numbers left out."""
        parameters = sum(tensor.numel() for tensor in self.tensors.values() if tensor.is_floating_point())
        return {"format": self.format, "container": self.container, "tensors": len(self.tensors),
                "parameters": parameters, "entries": self.entries, "dropped": self.dropped, "best_acc": self.best_acc}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read safetensors, torch files new and old, and plain pickles of arrays, all as data.

    Raises InputError that says what the file is instead: an error page, a Git LFS pointer, a cut-off download, an
    optimizer's state, a whole pickled model, or something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such weights file")
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(512)
    refuse_other_files(path, start, size)
    try:
        return _reader(path, start)(path, size)
    except InputError:
        raise
    except TooMuch as error:
        raise InputError(f"{path} was made to overwhelm its reader ({error}): it was refused") from None
    except Exception as error:  # whatever reading trips over is the file's fault: it is data that we were given
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise InputError(f"{path} is cut off or damaged, at {size} bytes ({reason}): {AGAIN}") from None


def _reader(path: Path, start: bytes) -> Callable[[Path, int], Checkpoint]:
    """Which kind of file it is, by its first bytes."""
    if start[4:9] == b"\0\0\0\0{":  # the length of a header as 64 bits, and its first character
        return _read_safetensors
    if start[:4] == b"PK\x03\x04":
        return _read_zip
    if start[:1] == b"\x80":
        return _read_pickle
    if path.suffix == ".onnx":
        raise InputError(f"{path} is an ONNX model: name it as a backbone, onnx:{path}")
    raise InputError(f"{path} is not a weights file: it starts with {start[:8]!r}")


def refuse_other_files(path: Path, start: bytes, size: int) -> None:
    """Raises InputError if the first bytes of a file are those of what people get instead of weights."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not size:
        raise InputError(f"{path} is empty: {AGAIN}")
    if text.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git LFS pointer, not the weights themselves: run `git lfs pull` where it "
                         f"comes from, or {AGAIN} from the page's download link")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(f"{path} is a web page, not weights: the download was answered with a login, quota or error "
                         f"page; open it in a browser, then {AGAIN}")
    if text.startswith(b"{"):
        raise InputError(f"{path} is a JSON text, not weights: {AGAIN}")
    if start.startswith(b"\x89HDF\r\n"):
        raise InputError(f"{path} is an HDF5 file, as Keras writes: PyTorch weights are needed")


def safetensors_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself, its tensors unread; empty for every other file. Raises OSError."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= MOST_HEADER:
            return {}
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError):
            return {}
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def _read_safetensors(path: Path, _size: int) -> Checkpoint:
    from safetensors import safe_open

    with path.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    if header > MOST_HEADER:
        raise InputError(f"{path} lists its tensors in {header} bytes, more than any network needs: it was refused")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        return Checkpoint(path=path, format="safetensors", tensors=without_prefixes(tensors),
                          metadata=file.metadata() or {}, entries={"": f"{len(tensors)} tensors"})


# -------------------------------------------------------------------------------------------------- torch.save
def _read_zip(path: Path, size: int) -> Checkpoint:
    """What torch has written since 1.6: a zip of a pickle and raw storages, uncompressed."""
    _require_short_listing(path)
    with zipfile.ZipFile(path) as archive:
        folder = _folder(path, archive, size)
        length = archive.getinfo(f"{folder}data.pkl").file_size
        with archive.open(f"{folder}data.pkl") as stream:
            names = names_in(Bounded(stream, length))
        with archive.open(f"{folder}data.pkl") as stream:
            unpickler = DataUnpickler(Bounded(stream, length))
            tree = unpickler.load()
        for storage in unpickler.storages:  # torch, mapping the file, would read on into what follows
            if archive.getinfo(f"{folder}data/{storage.key}").file_size != storage.count * storage.dtype.itemsize:
                raise ValueError(f"storage {storage.key} is declared with {storage.count} numbers")
        if names is not None and names <= PLAIN:
            return _read_plain(path)
        return _checkpoint(path, "torch", tree, unpickler.dropped,
                           lambda storage: bytearray(archive.read(f"{folder}data/{storage.key}")))


def _require_short_listing(path: Path) -> None:
    """Raises InputError for a zip archive of more files than a network has tensors: Python lists them all at once.

    Its last record (PK 5 6) says how long the list is; where that does not fit, another before it (PK 6 6) does.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        stream.seek(max(0, size - (1 << 16) - 256))
        tail = stream.read()
    last = tail.rfind(b"PK\x05\x06")
    length = int.from_bytes(tail[last + 12:last + 16], "little") if last >= 0 else 0
    if length == 0xFFFFFFFF:
        large = tail.rfind(b"PK\x06\x06", 0, last)
        length = int.from_bytes(tail[large + 40:large + 48], "little") if large >= 0 else length
    if length > MOST_HEADER:
        raise InputError(f"{path} lists its files in {length} bytes, more than any network needs: it was refused")


def _folder(path: Path, archive: zipfile.ZipFile, size: int) -> str:
    """The folder inside of the zip that holds `data.pkl`. Raises InputError if this is another kind of zip."""
    names = archive.namelist()
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or len({name.lower() for name in names}) != len(names):
        raise InputError(f"{path} is a zip archive, but not one that torch.save wrote")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise InputError(f"{path} is a TorchScript program, which would have to be run: "
                         "save the model's state_dict() instead")
    if sum(info.file_size for info in archive.infolist()) > 2 * size + 2**20:
        raise InputError(f"{path} unpacks to far more than its size: it was refused unread")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big":
        raise InputError(f"{path} was written on a big-endian machine: convert it there")
    return folder


def _read_plain(path: Path) -> Checkpoint:
    """A file whose pickle names nothing but tensors and containers: torch's own reader, mapped, not copied."""
    tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return _checkpoint(path, "torch", tree, {}, None)


def _read_pickle(path: Path, size: int) -> Checkpoint:
    """A pickle: of the tree itself, or the row of five that torch wrote before 1.6, storages behind them."""
    with path.open("rb") as file:
        stream = Bounded(file, size)

        def load() -> tuple[Any, DataUnpickler]:
            start = file.tell()
            names_in(stream)
            file.seek(start)
            unpickler = DataUnpickler(stream)
            return unpickler.load(), unpickler

        tree, unpickler = load()
        if tree != LEGACY_MAGIC:
            return _checkpoint(path, "pickle", tree, unpickler.dropped, None)
        _protocol, _system, (tree, unpickler), (keys, _) = (load() for _ in range(4))
        where = _legacy_storages(file, unpickler.storages, keys, size)

        def content(storage: Storage) -> bytearray:
            file.seek(where[storage.key])
            return bytearray(stream.read(storage.count * storage.dtype.itemsize))

        return _checkpoint(path, "torch before 1.6", tree, unpickler.dropped, content)


def _legacy_storages(file: IO[bytes], storages: list[Storage], keys: list[str], size: int) -> dict[str, int]:
    """Where in the file each storage starts: each is a 64-bit count and that many numbers, in order of `keys`."""
    declared = {storage.key: storage for storage in storages}
    where: dict[str, int] = {}
    for key in map(str, keys):
        count = int.from_bytes(file.read(8), "little")
        where[key] = file.tell()
        if count != declared[key].count or file.seek(count * declared[key].dtype.itemsize, 1) > size:
            raise EOFError("it ends within a tensor")
    return where


def _checkpoint(path: Path, form: str, tree: Any, dropped: dict[str, int],
                content: Callable[[Storage], bytearray] | None) -> Checkpoint:
    contents: dict[str, bytearray] = {}  # tensors may share a storage

    def once(storage: Storage) -> bytearray:
        if content is None:
            raise ValueError("it names tensors that it does not hold")
        if storage.key not in contents:
            contents[storage.key] = content(storage)
        return contents[storage.key]

    def read(tensor: LazyTensor) -> torch.Tensor:
        return tensor.read(once)

    weights = weights_in(tree, read)
    if weights is None:
        classes = f" (it also names {', '.join(list(dropped)[:3])}; none of that was run)" if dropped else ""
        raise InputError(f"{path} {why_none(tree)}{classes}")
    container, tensors = weights
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > 4 * path.stat().st_size + 2**20:
        raise InputError(f"{path} declares far more numbers than it holds: it was refused")
    return Checkpoint(path=path, format=form, tensors=tensors, container=container, entries=entries_in(tree),
                      dropped=dropped, best_acc=best_accuracy(tree, read))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Read what torch.save or pickle wrote as data: nothing that the file names is imported or called.

torch's own reader (`weights_only=True`) builds tensors and containers; whatever else a file names becomes an inert
stand-in. Memory is bounded by the size of the file.
"""

import contextlib
import io
import pickle
import pickletools
import re
import resource
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import torch
from torch._utils import _rebuild_tensor_v2

from twofold.data.utils.errors import InputError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch before 1.6: five pickles, the first is this number; storages behind them
#: of one pickle; the state of a network and its optimizer takes some ten thousand steps. Python's hash of tuples and of
#: numbers above 2^61 can be chosen to collide, and it recurses where one tuple lies in another
LIMITS = {"steps": 500_000, "tuples": 20_000, "numbers of 2^61 and more": 1_000}
SPARE_MEMORY = 384 << 20  #: bytes, besides four times the file
BLOCKED = re.compile(r"(os|posix|nt|sys|subprocess|importlib|runpy|pty|shutil|ctypes)\..*|"
                     r"(builtins|__builtin__|io|_io)\.(eval|exec|compile|open|__import__|breakpoint|input|bytearray)")
DTYPES = re.compile(r"[<>|=]?[biuf][1248]")  #: plain numpy types


class TooMuch(pickle.UnpicklingError):
    """A pickle that was made to fill the memory, to keep the reader busy, or to run something."""


# ---------------------------------------------------------------------------------------------------- stand-ins
class StandIn:
    """Takes the place of an object whose class is not loaded. state: what the object was pickled with."""

    state: Any = None

    def __new__(cls, *_: object, **__: object) -> Any:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, *state: Any) -> None:  # without it, a pickle could write into the class itself
        if state:
            self.state = state[0]

    def append(self, *_: object) -> None: ...

    __setitem__ = extend = append


class DType(StandIn):
    """A plain numpy type (booleans, integers, floats); the value of any other is None."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.value = np.dtype(name) if isinstance(name, str) and DTYPES.fullmatch(name) else None

    def __setstate__(self, *state: Any) -> None:
        if self.value is not None and state[0][1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[0][1])


class Array(StandIn):
    """A numpy array; its value is None where it does not hold plain numbers."""

    value: np.ndarray | None = None

    def __setstate__(self, *state: Any) -> None:
        _, shape, dtype, fortran, raw = state[0]
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # written by Python 2
        if isinstance(dtype, DType) and dtype.value is not None and isinstance(raw, bytes | bytearray):
            self.value = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if fortran else "C")


def _array(raw: Any, dtype: object, shape: Any, order: str) -> Array:
    """What pickle protocol 5 calls for an array."""
    array = Array()
    array.__setstate__((1, shape, dtype, order == "F", raw))
    return array


def _scalar(dtype: Any, raw: Any) -> object:
    array = _array(raw, dtype, (), "C")
    return array if array.value is None else array.value.item()


NUMPY: dict[str, Any] = {"numpy.dtype": DType, "numpy.ndarray": StandIn}
for core in ("numpy.core", "numpy._core"):
    NUMPY |= {f"{core}.multiarray._reconstruct": Array, f"{core}.multiarray.scalar": _scalar,
              f"{core}.numeric._frombuffer": _array}
#: what torch's reader brings itself, for pickles that it does not take
CONTAINERS = NUMPY | {
    "collections.OrderedDict": OrderedDict, "builtins.set": set, "__builtin__.set": set,
    "_codecs.encode": lambda text, codec: text.encode("latin1") if codec == "latin1" else StandIn(),  # bytes
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor}
READ_BY_TORCH = re.compile(
    r"torch\.(\w+|_utils\._rebuild_\w+|_tensor\._rebuild_\w+|storage\.\w+|nn\.parameter\.Parameter)|_codecs\.encode|"
    r"(builtins|__builtin__)\.(set|complex)|collections\.\w+")


class StandInUnpickler(pickle.Unpickler):
    """Python's unpickler that finds CONTAINERS and stand-ins; `names` counts what it was asked for."""

    def __init__(self, stream: IO[bytes], **_: Any) -> None:
        super().__init__(stream, encoding="latin1")  # as Python 2 needs it
        self.names: Counter[str] = Counter()

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        require_harmless(path)
        self.names[path] += 1
        # A new class each time, since a pickle may write into what it names.
        stand_in = CONTAINERS.get(path, StandIn)
        if stand_in is OrderedDict or stand_in is set:
            return stand_in
        return type(name, (stand_in,), {}) if isinstance(stand_in, type) else lambda *arguments: stand_in(*arguments)


PICKLE = SimpleNamespace(__name__="pickle", Unpickler=StandInUnpickler,
                         load=lambda stream, **options: StandInUnpickler(stream, **options).load())


# -------------------------------------------------------------------------------------------------------- checks
def require_harmless(name: str) -> None:
    """Raise TooMuch for a function that only an attack puts into a weights file."""
    if BLOCKED.fullmatch(name):
        raise TooMuch(f"it names {name}, which no weights need; none of that was run")


def scan(stream: IO[bytes]) -> Counter[str]:
    """What a pickle names, without building anything; moves to its end.

    Raises TooMuch for a pickle made to overwhelm its reader, ValueError for none.
    """
    names: Counter[str] = Counter()
    count: Counter[str] = Counter()
    argument: Any
    for opcode, argument, _ in pickletools.genops(stream):
        count["steps"] += 1
        count["tuples"] += opcode.name.startswith("TUPLE")
        if isinstance(argument, int):
            count["numbers of 2^61 and more"] += abs(argument) >= 2**61 - 1
        elif opcode.name == "GLOBAL":
            names[argument.replace(" ", ".", 1)] += 1
        for what, most in LIMITS.items():
            if count[what] > most:
                raise TooMuch(f"it has more than {most} {what}")
    for path in names:
        require_harmless(path)
    return names


@contextlib.contextmanager
def bounded_memory(size: int) -> Iterator[None]:
    """Inside, this process may take four times `size` and SPARE_MEMORY more of address space; then MemoryError."""
    status, (soft, hard) = Path("/proc/self/statm"), resource.getrlimit(resource.RLIMIT_AS)
    if not status.exists():  # not Linux
        yield
        return
    taken = int(status.read_text().split()[0]) * resource.getpagesize()
    most = taken + 4 * size + SPARE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most if soft < 0 else min(soft, most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# ------------------------------------------------------------------------------------------------------- reading
def read_zip(path: Path, size: int) -> tuple[Any, Counter[str]]:
    """The objects of a file of torch 1.6 and later, its tensors mapped, and the names of what was left out."""
    with zipfile.ZipFile(path) as archive:
        entries, folder = archive.infolist(), _folder(path, archive, size)
        names = scan(io.BytesIO(archive.read(f"{folder}data.pkl")))
    tree, storages = _load(path, names, mmap=True)
    if sorted(storages) != sorted(entry.file_size for entry in entries if entry.filename.startswith(f"{folder}data/")):
        # a mapped storage that is said to be longer reads on into what follows
        raise ValueError("its tensors are declared with other sizes than they have")
    return tree, _left_out(names)


def read_pickle(path: Path) -> tuple[str, Any, Counter[str]]:
    """The same of a file of torch before 1.6, or of a pickle of arrays; first the name of the format."""
    with path.open("rb") as stream:
        names = scan(stream)
        stream.seek(0)
        unpickler = StandInUnpickler(stream)
        tree = unpickler.load()
        if tree != LEGACY_MAGIC:
            return "pickle", tree, _left_out(unpickler.names)
        for _ in range(4):
            names += scan(stream)
    return "torch before 1.6", _load(path, names, mmap=False)[0], _left_out(names)


def _load(path: Path, names: Counter[str], *, mmap: bool) -> tuple[Any, list[int]]:
    """The objects, and how many bytes each storage has."""
    storages: list[int] = []

    def to_cpu(storage: Any, _location: str) -> Any:
        storages.append(storage.nbytes())
        return storage

    stand_ins: Any = [(NUMPY.get(name, StandIn), name) for name in names]
    options: dict[str, Any] = {"map_location": to_cpu, "mmap": mmap}
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings(action="ignore"):
            tree = torch.load(path, weights_only=True, **options)
    except pickle.UnpicklingError:  # subclasses of dict or list, or another protocol than torch's: the same stand-ins
        storages.clear()
        tree = torch.load(path, weights_only=False, pickle_module=PICKLE, **options)
    return tree, storages


def _left_out(names: Counter[str]) -> Counter[str]:
    """Those of the names that neither torch nor this module reads."""
    return Counter({name: count for name, count in names.items()
                    if name not in NUMPY and not READ_BY_TORCH.fullmatch(name)})


def _folder(path: Path, archive: zipfile.ZipFile, size: int) -> str:
    """The folder inside of the zip that holds `data.pkl`. Raises InputError if this is another kind of zip."""
    entries, names = archive.infolist(), archive.namelist()
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or len({name.lower() for name in names}) != len(names):
        raise InputError(f"{path} is a zip archive, but not one that torch.save wrote")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in names:
        raise InputError(f"{path} is a TorchScript program, which would have to be run: "
                         "save the model's state_dict() instead")
    if sum(entry.file_size for entry in entries) > 2 * size + 2**20:
        raise InputError(f"{path} unpacks to far more than its size: it was refused unread")
    if any(entry.compress_type for entry in entries):
        raise InputError(f"{path} is a compressed zip archive: torch.save writes none, so save it again")
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") == b"big":
        raise InputError(f"{path} was written on a big-endian machine: convert it there")
    return folder

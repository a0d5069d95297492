"""Read what torch.save or pickle wrote as data: nothing that the file names is imported or called.

torch's own reader (`weights_only=True`) builds tensors and containers; whatever else a file names becomes an inert
stand-in. Sizes are checked before memory is allocated.
"""

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import Counter, OrderedDict, deque
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import torch
from torch._utils import _rebuild_tensor_v2

from twofold.data.utils.errors import InputError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch before 1.6: five pickles, the first is this number; storages behind them
MAX_LISTING = 8 << 20  #: bytes of the list of files in a zip archive, or of tensors in a safetensors file
MAX_STEPS = 500_000  #: of one pickle; the state of a network and its optimizer takes some ten thousand
MAX_TUPLES = 20_000  #: Python's hash of tuples can be chosen to collide, and it recurses where one lies in another
MAX_LARGE = 1_000  #: numbers of 2^61 - 1 and more: their hash can be chosen to collide, too
MAX_NAMES = 1_000  #: of classes and functions
BLOCKED = re.compile(r"(os|posix|nt|sys|subprocess|importlib|runpy|pty|shutil|ctypes)\..*|"
                     r"(builtins|__builtin__|io|_io)\.(eval|exec|compile|open|__import__|breakpoint|input|bytearray)")
DTYPES = re.compile(r"[<>|=]?[biuf][1248]")  #: plain numpy types


class TooMuch(pickle.UnpicklingError):
    """A pickle that was made to fill the memory or to keep the reader busy."""


# ---------------------------------------------------------------------------------------------------- stand-ins
class StandIn:
    """Takes the place of an object whose class is not loaded; holds nothing but the state that was pickled."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:  # without it, a pickle could write into the class itself
        self.state = state

    def __setitem__(self, *_: object) -> None: ...

    def append(self, _: object) -> None: ...

    def extend(self, _: object) -> None: ...


class DType(StandIn):
    """A plain numpy type (booleans, integers, floats); the value of any other is None."""

    def __init__(self, name: object = "", *_: object) -> None:
        self.value = np.dtype(name) if isinstance(name, str) and DTYPES.fullmatch(name) else None

    def __setstate__(self, state: Any) -> None:
        if self.value is not None and state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])

    def read(self, raw: Any) -> np.ndarray | None:
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # written by Python 2
        plain = self.value is not None and isinstance(raw, bytes | bytearray)
        return np.frombuffer(raw, self.value) if plain else None


class Array(StandIn):
    """A numpy array; its value is None where it does not hold plain numbers."""

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        flat = dtype.read(raw) if isinstance(dtype, DType) else None
        self.value = None if flat is None else flat.reshape(shape, order="F" if fortran else "C")


class FramedArray(Array):
    """The same as pickle protocol 5 writes it."""

    def __init__(self, raw: Any, dtype: object, shape: Any, order: str) -> None:
        self.__setstate__((1, shape, dtype, order == "F", raw))


class Scalar(StandIn):
    """A numpy number becomes Python's."""

    def __new__(cls, dtype: Any = None, raw: object = b"") -> Any:
        flat = dtype.read(raw) if isinstance(dtype, DType) else None
        return StandIn() if flat is None else flat[0].item()


class Encoded(StandIn):
    """Bytes that protocol 2 writes as a text."""

    def __new__(cls, text: str = "", codec: str = "latin1") -> Any:
        return text.encode("latin1") if codec == "latin1" else StandIn()


class Rebuilt(StandIn):
    def __new__(cls, *arguments: Any) -> Any:
        return _rebuild_tensor_v2(*arguments)


class Parameter(StandIn):
    def __new__(cls, tensor: Any = None, *_: object) -> Any:
        return tensor


NUMPY: dict[str, type] = {"numpy.dtype": DType, "numpy.ndarray": StandIn}
for core in ("numpy.core", "numpy._core"):
    NUMPY |= {f"{core}.multiarray._reconstruct": Array, f"{core}.multiarray.scalar": Scalar,
              f"{core}.numeric._frombuffer": FramedArray}
#: what torch's reader brings itself, for pickles that it does not take
CONTAINERS = NUMPY | {
    "collections.OrderedDict": OrderedDict, "builtins.set": set, "__builtin__.set": set, "_codecs.encode": Encoded,
    "torch._utils._rebuild_tensor_v2": Rebuilt, "torch._utils._rebuild_parameter": Parameter}


class StandInUnpickler(pickle.Unpickler):
    """Python's unpickler that finds CONTAINERS and stand-ins; `names` counts what it was asked for."""

    def __init__(self, stream: IO[bytes], **_: Any) -> None:
        super().__init__(stream, encoding="latin1")  # as Python 2 needs it
        self.names: Counter[str] = Counter()

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        require_harmless(path)
        self.names[path] += 1
        if len(self.names) > MAX_NAMES:
            raise TooMuch(f"it names more than {MAX_NAMES} classes")
        return CONTAINERS.get(path) or type("StandIn", (StandIn,), {})  # of its own: a pickle may write into a class


PICKLE = SimpleNamespace(__name__="pickle", Unpickler=StandInUnpickler,
                         load=lambda stream, **options: StandInUnpickler(stream, **options).load())


def require_harmless(name: str) -> None:
    """Raises TooMuch for a function that only an attack puts into a weights file."""
    if BLOCKED.fullmatch(name):
        raise TooMuch(f"it names {name}, which no weights need; none of that was run")


# -------------------------------------------------------------------------------------------------------- checks
def scan(stream: IO[bytes], size: int) -> Counter[str]:
    """What a pickle names, without building anything; moves to its end.

    size: bytes of the whole file. Raises TooMuch for a pickle made to overwhelm its reader, ValueError for none.
    """
    names: Counter[str] = Counter()
    recent: deque[tuple[str, Any]] = deque([("", None)] * 3, maxlen=3)
    memo: dict[int, tuple[str, int]] = {}
    count: Counter[str] = Counter()
    file: Any = _Bounded(stream, size)  # it has what pickletools reads with
    argument: Any
    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if argument is None else argument
            if index > step + 256:  # Python would make a table of that length
                raise TooMuch(f"it asks for a table of {index} objects")
            before, value = recent[-1]
            memo[index] = (before, len(value) if isinstance(value, str | bytes) else step)
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            before, value = memo.get(argument, ("", 0))
            count["copies"] += step - value if before in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET") else \
                value if before == "TUPLE" or before.endswith(("UNICODE", "STRING", "BYTES")) else 0
        elif name == "GLOBAL":
            names[argument.replace(" ", ".", 1)] += 1
        elif name == "BINPERSID":  # ("storage", type, key, location, numbers[, None])
            declared = [value for before, value in recent if before in ("BININT", "BININT1", "BININT2", "LONG1")]
            count["numbers"] += declared[-1] if declared else 0
        elif name in ("REDUCE", "NEWOBJ"):  # an argument that was used before makes another copy
            count["calls"] += recent[-1][0].endswith("GET")
        elif name.startswith("TUPLE"):
            count["tuples"] += 1
        elif isinstance(argument, int):
            count["large"] += abs(argument) >= 2**61 - 1
        recent.append((name, argument))
        _require_bounds(step, count, names, size)
    for path in names:
        require_harmless(path)
    return names


def _require_bounds(step: int, count: Counter[str], names: Counter[str], size: int) -> None:
    limits = (("steps", step, MAX_STEPS), ("tuples", count["tuples"], MAX_TUPLES),
              ("numbers of 2^61 and more", count["large"], MAX_LARGE), ("classes", len(names), MAX_NAMES),
              ("calls with the same arguments", count["calls"], MAX_NAMES),
              ("copies of its own content", count["copies"], 8 * size + (1 << 20)))
    for what, value, most in limits:
        if value > most:
            raise TooMuch(f"it has more than {most} {what}")
    if count["numbers"] > size:
        raise EOFError(f"{count['numbers']} numbers are declared")


class _Bounded:
    """A stream that refuses a request for more bytes than the file has, before making room for them."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream, self.size, self.readline = stream, size, stream.readline

    def read(self, count: int = -1) -> bytes:
        if count > self.size:
            raise EOFError("it asks for more bytes than the file has")
        return self.stream.read(count)


# ------------------------------------------------------------------------------------------------------- reading
def read_zip(path: Path, size: int) -> tuple[Any, Counter[str]]:
    """The objects of a file of torch 1.6 and later, its tensors mapped, and the names of what was left out."""
    _require_short_listing(path, size)
    with zipfile.ZipFile(path) as archive:
        folder = _folder(path, archive, size)
        pickled = archive.read(f"{folder}data.pkl")
        sizes = sorted(entry.file_size for entry in archive.infolist() if entry.filename.startswith(f"{folder}data/"))
    names = scan(io.BytesIO(pickled), size)
    tree, storages = _load(path, names, mmap=True)
    if sorted(storages) != sizes:  # a mapped storage that is said to be longer reads on into what follows
        raise ValueError("its tensors are declared with other sizes than they have")
    return tree, names


def read_pickle(path: Path, size: int) -> tuple[str, Any, Counter[str]]:
    """The same of a file of torch before 1.6, or of a pickle of arrays; first the name of the format."""
    with path.open("rb") as stream:
        names = scan(stream, size)
        stream.seek(0)
        unpickler = StandInUnpickler(stream)
        tree = unpickler.load()
        if tree != LEGACY_MAGIC:
            return "pickle", tree, unpickler.names
        for _ in range(4):
            names += scan(stream, size)
    return "torch before 1.6", _load(path, names, mmap=False)[0], names


def _load(path: Path, names: Counter[str], *, mmap: bool) -> tuple[Any, list[int]]:
    """The objects, and how many bytes each storage has."""
    storages: list[int] = []

    def to_cpu(storage: Any, _location: str) -> Any:
        storages.append(storage.nbytes())
        return storage

    stand_ins: Any = [(NUMPY.get(name) or type("StandIn", (StandIn,), {}), name) for name in names]
    options: dict[str, Any] = {"map_location": to_cpu, "mmap": mmap}
    try:
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings(action="ignore"):
            tree = torch.load(path, weights_only=True, **options)
    except pickle.UnpicklingError:  # subclasses of dict or list, or another protocol than torch's: the same stand-ins
        storages.clear()
        tree = torch.load(path, weights_only=False, pickle_module=PICKLE, **options)
    return tree, storages


def left_out(names: Counter[str]) -> dict[str, int]:
    """Those of the names that neither torch nor this module reads."""
    plain = re.compile(r"torch\.(\w+|_utils\._rebuild_\w+|_tensor\._rebuild_\w+|storage\.\w+|nn\.parameter\.Parameter)|"
                       r"_codecs\.encode|(builtins|__builtin__)\.(set|complex|bytearray)|collections\.\w+")
    return {name: count for name, count in names.items() if name not in NUMPY and not plain.fullmatch(name)}


def _require_short_listing(path: Path, size: int) -> None:
    """Raises InputError for a zip archive of more files than a network has tensors: Python lists them all at once.

    Its last record (PK 5 6) says how long the list is; where that does not fit, another before it (PK 6 6) does.
    """
    with path.open("rb") as stream:
        stream.seek(max(0, size - (1 << 16) - 256))
        tail = stream.read()
    last = tail.rfind(b"PK\x05\x06")
    length = int.from_bytes(tail[last + 12:last + 16], "little") if last >= 0 else 0
    if length == 0xFFFFFFFF:
        large = tail.rfind(b"PK\x06\x06", 0, last)
        length = int.from_bytes(tail[large + 40:large + 48], "little") if large >= 0 else length
    if length > MAX_LISTING:
        raise InputError(f"{path} lists its files in {length} bytes, more than any network needs: it was refused")


def _folder(path: Path, archive: zipfile.ZipFile, size: int) -> str:
    """The folder inside of the zip that holds `data.pkl`. Raises InputError if this is another kind of zip."""
    entries = archive.infolist()
    names = [entry.filename for entry in entries]
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

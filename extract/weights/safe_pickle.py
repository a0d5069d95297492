"""Reading pickles as data: tensors, containers and plain arrays come back, every other thing stays a placeholder.

Nothing that a pickle names is imported or called. What it may make us build is bounded by the size of the file.
"""

import pickle
import pickletools
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch

from twofold.extract.weights.pickle_keys import MOST_KEYS, KeyCounter, unsafe_keys

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}
MOST_STEPS = 500_000  #: of one pickle; the state of a network and its optimizer takes some ten thousand
MOST_TUPLES = 50_000  #: in one pickle: Python ends where one lies twice as many deep in others
MOST_NAMES = 1_000  #: of classes and functions that one pickle may name
MOST_LARGE = 1_000  #: numbers of 2^61 - 1 and more in one pickle: Python's hash of them can be chosen to collide
PLAIN_TYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")  #: of numpy arrays
PLAIN = {"collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"}
PLAIN |= {f"torch.{name}" for name in STORAGES}


class TooMuch(pickle.UnpicklingError):
    """A pickle that was made to fill the memory or to keep the reader busy."""


class Placeholder:
    """Stands for an object of a class that is not ours to run; holds nothing of it."""

    def __new__(cls, *_: object, **__: object) -> "Placeholder":
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...

    def __setitem__(self, *_: object) -> None: ...

    def append(self, _: object) -> None: ...

    def extend(self, _: object) -> None: ...


def sealed(_self: object, _state: object) -> None:
    """As `__setstate__`: without it, a pickle could write into our own objects, for the files read after it too."""
    raise pickle.UnpicklingError("it writes into an object of the reader")


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers somewhere in the file."""

    dtype: torch.dtype
    key: str
    count: int

    __setstate__ = sealed


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor whose numbers have not been read yet."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    __setstate__ = sealed

    def read(self, content: Callable[[Storage], bytearray]) -> torch.Tensor:
        """Build it from the bytes of its storage. Raises ValueError if it does not lie within them."""
        shape = (*self.size, *self.stride, self.offset)
        if len(self.size) != len(self.stride) or not all(type(n) is int and 0 <= n < 2**62 for n in shape):
            raise ValueError("a tensor has no proper shape")
        count = int(np.prod([int(n) for n in self.size], dtype=object)) if self.size else 1
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if not count:
            return torch.empty(self.size, dtype=self.storage.dtype)
        if count > self.storage.count or last >= self.storage.count:
            raise ValueError(f"a tensor of {count} numbers is declared over {self.storage.count}")
        flat = torch.frombuffer(content(self.storage), dtype=self.storage.dtype, count=self.storage.count)
        return flat.as_strided(self.size, self.stride, self.offset)


class Array:
    """A plain numpy array on its way through a pickle."""

    __slots__ = ("value",)

    def __init__(self, *_: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # written by Python 2
        plain = isinstance(dtype, DType) and dtype.value is not None
        if plain and isinstance(raw, bytes | bytearray):
            self.value = np.frombuffer(raw, dtype.value).reshape(shape, order="F" if fortran else "C")


class DType:
    """A plain numpy type (booleans, integers, floats); any other has no value."""

    __slots__ = ("value",)

    def __init__(self, name: object = "", *_: object) -> None:
        self.value: np.dtype | None = None
        if isinstance(name, str) and name.lstrip("<>|=") in PLAIN_TYPES:
            self.value = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        if self.value is not None and state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class Call:
    """One of the few functions that a pickle may call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> Any:
        return self._function(*arguments)

    __setstate__ = sealed


def _tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *_: object) -> LazyTensor | Placeholder:
    if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        return Placeholder()
    return LazyTensor(storage, offset, size, stride)


def _scalar(dtype: DType, raw: bytes | str) -> object:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    plain = isinstance(dtype, DType) and dtype.value is not None
    return np.frombuffer(raw, dtype.value)[0].item() if plain else Placeholder()


def _framed(raw: bytes | bytearray, dtype: DType, shape: tuple, order: str) -> Array:
    array = Array()
    array.__setstate__((1, shape, dtype, order == "F", raw))
    return array


def _encoded(text: str, codec: str = "latin1") -> object:
    return text.encode("latin1") if codec == "latin1" else Placeholder()


#: what makes a copy of its argument; a pickle may hand in the same one again and again
_COPIES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": OrderedDict, "torch.Size": tuple, "_codecs.encode": _encoded,
    **{f"{module}.set": set for module in ("builtins", "__builtin__")},  # the latter: written by protocol 2
}
_CALLS: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": Call(_tensor),
    "torch._utils._rebuild_tensor": Call(_tensor),
    "torch._utils._rebuild_parameter": Call(lambda tensor, *_: tensor),
    "numpy.dtype": DType,
    **{f"numpy.{core}.multiarray._reconstruct": Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": Call(_scalar) for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": Call(_framed) for core in ("core", "_core")},
    **{f"torch.{name}": dtype for name, dtype in STORAGES.items()},
    "torch.storage.UntypedStorage": torch.uint8,
}


def _odd_keys(function: Callable[..., Any], content: Any) -> int:
    """How many keys of what is to become a set or an OrderedDict are neither texts nor numbers."""
    if function is set or isinstance(content, dict):
        return unsafe_keys(content)
    return unsafe_keys(pair[0] for pair in content if isinstance(pair, list | tuple) and pair)


class DataUnpickler(pickle.Unpickler):
    """Builds `_CALLS` and containers; `dropped` counts the names of everything else, which stays a placeholder."""

    def __init__(self, stream: "Bounded") -> None:
        super().__init__(stream, encoding="latin1")
        self.room = 8 * stream.size + (1 << 20)  #: bytes that copies may still take
        self.dropped: dict[str, int] = {}
        self.placeholders: dict[str, type[Placeholder]] = {}
        self.storages: list[Storage] = []  # all that the pickle names, also those of placeholders

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _CALLS:
            return _CALLS[full]
        if full in _COPIES:
            return Call(lambda *arguments: self._copied(_COPIES[full], arguments))
        if full != "numpy.ndarray":  # only ever named as the kind of an Array
            self.dropped[full] = self.dropped.get(full, 0) + 1
        if full not in self.placeholders:  # a class of its own: a pickle may write into a class
            self.placeholders[full] = type("Placeholder", (Placeholder,), {})
        if len(self.placeholders) > MOST_NAMES:
            raise TooMuch(f"it names more than {MOST_NAMES} classes")
        return self.placeholders[full]

    def _copied(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if any(hasattr(argument, "__len__") and len(argument) > self.room for argument in arguments):
            raise TooMuch("it makes copies of copies")
        if function in (set, OrderedDict) and arguments and _odd_keys(function, arguments[0]) > MOST_KEYS:
            raise TooMuch(f"it has more than {MOST_KEYS} keys that are neither texts nor numbers")
        copy = function(*arguments)
        self.room -= sys.getsizeof(copy)
        return copy

    def persistent_load(self, identity: Any) -> Any:
        kind, dtype, key, _, count = identity[:5]
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0:
            return Placeholder()
        self.storages.append(Storage(dtype, str(key), count))
        return self.storages[-1]


class Bounded:
    """A stream that answers a request for more bytes than there are with EOFError, before making room for them."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream, self.size = stream, size

    def read(self, count: int = -1) -> bytes:
        if count > self.size - self.stream.tell():
            raise EOFError("it asks for more bytes than the file has")
        return self.stream.read(count)

    def readline(self) -> bytes:
        return self.stream.readline()


def names_in(stream: Bounded) -> set[str] | None:
    """What the pickle at the stream's position names, or None if that takes running it; moves to its end.

    Raises ValueError if it is no pickle, or one made to fill the memory.
    """
    names: set[str] | None = set()
    large = tuples = 0
    keys = KeyCounter()
    file: Any = stream  # it reads with the two methods that Bounded has
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if number == MOST_STEPS:
            raise TooMuch(f"it is made of more than {MOST_STEPS} steps")
        keys.step(opcode, argument)
        if keys.count > MOST_KEYS:
            raise TooMuch(f"it has more than {MOST_KEYS} keys that are neither texts nor numbers")
        if opcode.name == "GLOBAL" and names is not None:
            names.add(str(argument).replace(" ", "."))
        elif opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            names = None
        elif opcode.name.startswith("TUPLE"):
            tuples += 1
            if tuples > MOST_TUPLES:
                raise TooMuch(f"it holds more than {MOST_TUPLES} tuples")
        elif isinstance(argument, int):
            large += abs(argument) >= sys.hash_info.modulus
            if large > MOST_LARGE:
                raise TooMuch(f"it holds more than {MOST_LARGE} numbers of 2^61 and more")
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > number + 256:
                raise TooMuch(f"it asks for a table of {argument} objects")  # Python would make it at once
    return names

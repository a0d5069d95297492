"""Chunks of a feature matrix, read in several threads, each held against the checksum that HDF5 stored with it.

HDF5 itself verifies in one thread, under one lock, at a fifth of the speed of memory. Here a thread reads a chunk to
where it belongs and sums it up while it is still in the processor's cache.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from twofold.cache.format.layout import CHUNK_ROWS

CHECKSUM_BYTES = 4
CHUNKS_A_THREAD = 8  #: fewer are not worth a thread of their own
INFINITE = 0x7C00  #: the exponent of infinities, and of what is not a number, in float16
EVEN_WORDS, HALF = np.uint64(0x0000_FFFF_0000_FFFF), np.uint64(16)


class NotFinite(ValueError):
    """A number that no backbone gives; or a chunk that HDF5's index has lost, which reads as `FILL`, without a word."""

    def __init__(self, row: int):
        super().__init__(f"row {row} is not finite")
        self.row = row


@dataclass(frozen=True)
class Chunks:
    """The chunks of a (rows, dim) dataset in an open file; offsets: the byte at which each of them begins."""

    descriptor: int
    offsets: Sequence[int]
    rows: int
    dim: int
    dtype: np.dtype

    def each(self, numbers: Sequence[int], use: Callable[[int, np.ndarray], None],
             place: Callable[[int], np.ndarray | None] = lambda number: None) -> None:
        """Read chunks by number and hand each, as (number, (rows, D) values as stored), to `use`, in several threads.

        place: an array (CHUNK_ROWS, D) to read that chunk into, or None for one that lives until `use` returns.
        Raises OSError if a checksum does not hold, NotFinite for a value that is no finite number.
        """
        def work(some: Sequence[int]) -> None:
            spare = np.empty((CHUNK_ROWS, self.dim), self.dtype)
            reader = _Reader(self, spare)
            for number in some:
                values = place(number)
                values = reader.read(number, spare if values is None else values)
                values = values[:self.rows - number * CHUNK_ROWS]
                if not reader.all_finite(values):
                    raise NotFinite(number * CHUNK_ROWS + int((~np.isfinite(values)).any(axis=1).argmax()))
                use(number, values)

        threads = max(1, min(os.cpu_count() or 1, len(numbers) // CHUNKS_A_THREAD))
        if threads == 1:
            work(numbers)
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(work, np.array_split(np.asarray(numbers), threads)))


class _Reader:
    """What one thread needs to read chunks and sum them up: room for a copy of the even and the odd 16-bit words."""

    def __init__(self, chunks: Chunks, like: np.ndarray):
        self.chunks, self.spare = chunks, np.empty(like.size, np.uint16)
        self.even = np.empty(words_of(like).shape, np.uint64)
        self.odd = np.empty_like(self.even)
        self.stored = bytearray(CHECKSUM_BYTES)

    def read(self, number: int, values: np.ndarray) -> np.ndarray:
        """Fill `values` with a chunk. Raises OSError if it is cut off or its checksum does not hold."""
        got = os.preadv(self.chunks.descriptor, [values, self.stored], self.chunks.offsets[number])
        if got != values.nbytes + CHECKSUM_BYTES:
            raise OSError(f"chunk {number} is cut off")
        if self.checksum(values) != self.expected():
            raise OSError(f"the checksum of chunk {number} does not hold")
        return values

    def all_finite(self, values: np.ndarray) -> bool:
        """True if they are numbers; float16 is looked at as bits, since the processor has no arithmetic for it."""
        if values.dtype != np.float16:
            return bool(np.isfinite(values).all())
        exponents = np.bitwise_and(values.view(np.uint16).reshape(-1), INFINITE, out=self.spare[:values.size])
        return exponents.size == 0 or int(exponents.max()) < INFINITE

    def expected(self) -> tuple[int, int]:
        """The two sums that are stored behind the chunk read last."""
        both = int.from_bytes(self.stored, "little")
        return (both & 0xFFFF) % 65535, (both >> 16) % 65535

    def checksum(self, values: np.ndarray) -> tuple[int, int]:
        """HDF5's Fletcher-32: the sum of all 16-bit words, and the sum of its running totals, modulo 65535.

        Of n words the i-th, counted from 0, is in n - i running totals. With the words laid out in rows, the sums of
        rows and of columns are enough to weigh them so. Words are summed four at a time, as lanes of 64-bit numbers,
        the even and the odd ones apart, so that no lane runs over. HDF5 takes a word's bytes in the other order, which
        is 256 times the word, modulo 65535.
        """
        words = words_of(values)
        np.bitwise_and(words, EVEN_WORDS, out=self.even)
        np.right_shift(words, HALF, out=self.odd)
        np.bitwise_and(self.odd, EVEN_WORDS, out=self.odd)
        lanes = np.stack([self.even.sum(axis=0), self.odd.sum(axis=0)], axis=1).view(np.uint32)
        columns = lanes[:, [0, 2, 1, 3]].reshape(-1).astype(np.uint64)  # even, even, odd, odd -> as they stand
        self.even += self.odd
        rows = self.even.sum(axis=1).view(np.uint32).reshape(-1, 2).astype(np.uint64).sum(axis=1)
        total = int(columns.sum())
        running = rows.size * columns.size * total - columns.size * _weighted(rows) - _weighted(columns)
        return 256 * total % 65535, 256 * running % 65535


def words_of(values: np.ndarray) -> np.ndarray:
    """A chunk seen as a matrix of 64-bit words, wide enough that sums of rows and of columns are both quick."""
    words = values.reshape(-1).view(np.uint64)
    return words.reshape(-1, math.gcd(words.size, 512))


def _weighted(sums: np.ndarray) -> int:
    return int((sums * np.arange(sums.size, dtype=np.uint64)).sum())

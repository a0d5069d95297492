"""What a gzip file holds, read at any place: the decompressor's state is kept every few megabytes of one pass."""

import io
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GZIP = 31  #: zlib's name for a gzip header with the largest window
INPUT_BYTES = 1 << 18  #: of the compressed file read at once
SPAN_BYTES = 4 << 20  #: of contents between two kept states, at first; doubled whenever there are too many
MOST_STATES = 1024  #: some 45 kB each
SPANS_KEPT = 8  #: decompressed and kept, for faces that lie side by side
MOST_RATIO, FREE_BYTES = 100, 1 << 30  #: images hardly compress: past a gigabyte, more than this is a bomb


@dataclass
class State:
    """A place in the contents, and all that is needed to go on from there."""

    place: int
    file_place: int  #: of what the decompressor has not been given yet
    decompressor: "zlib._Decompress"
    waiting: bytes  #: given to it, but not taken yet


class GzipStream:
    """The contents of a gzip file by offset; threads may share it. One pass through the file builds the index."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = threading.Lock()
        self.span = SPAN_BYTES
        self.states: list[State] = []
        self.size = 0
        self.spans: OrderedDict[int, bytes] = OrderedDict()

    def open(self) -> io.BufferedReader:
        """The contents as a file that is read forwards, which builds the index."""
        return io.BufferedReader(Contents(self))

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from there. Raises zlib.error if the file is damaged or ends early."""
        with self.lock:
            pieces = []
            while size > 0 and offset < self.size:
                number = offset // self.span
                piece = self._span(number)[offset - number * self.span:][:size]
                if not piece:
                    break
                pieces.append(piece)
                offset, size = offset + len(piece), size - len(piece)
            return b"".join(pieces)

    def _span(self, number: int) -> bytes:
        if number not in self.spans:
            state = self.states[number]
            self.spans[number] = b"".join(self.contents_from(State(
                state.place, state.file_place, state.decompressor.copy(), state.waiting), self.span))
            if len(self.spans) > SPANS_KEPT:
                self.spans.popitem(last=False)
        self.spans.move_to_end(number)
        return self.spans[number]

    def contents_from(self, state: State, size: int) -> Iterator[bytes]:
        """The next `size` bytes of contents in pieces, moving the state on."""
        with self.path.open("rb") as file:
            file.seek(state.file_place)
            while size > 0:
                ended = state.decompressor.eof  # one of several gzip members, as bgzip writes them, or the last
                waiting = state.decompressor.unused_data if ended else state.waiting
                if not waiting:
                    waiting = file.read(INPUT_BYTES)
                    state.file_place += len(waiting)
                if ended:
                    if not waiting.strip(b"\0"):  # the end, or zeros that fill up a tape's block
                        return
                    state.decompressor = zlib.decompressobj(GZIP)
                piece = state.decompressor.decompress(waiting, size)
                state.waiting = state.decompressor.unconsumed_tail
                if not piece and not waiting:
                    return
                state.place += len(piece)
                size -= len(piece)
                yield piece


class Contents(io.RawIOBase):
    """What a gzip file holds, read from start to end; states are kept on the way."""

    def __init__(self, stream: GzipStream):
        self.stream = stream
        self.state = State(0, 0, zlib.decompressobj(GZIP), b"")
        self.block = b""
        self.taken = 0  #: of the block
        self.place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Forwards only: what lies between is decompressed on the way."""
        if whence != io.SEEK_SET or place < self.place:
            raise OSError("a gzip stream is read forwards")
        while self.place < place and self.read(min(1 << 20, place - self.place)):
            pass
        return self.place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with what comes next, at most to the end of a block; 0 at the end."""
        if self.taken == len(self.block):
            self._next_block()
        piece = self.block[self.taken:self.taken + len(buffer)]
        buffer[:len(piece)] = piece
        self.taken += len(piece)
        self.place += len(piece)
        return len(piece)

    def _next_block(self) -> None:
        stream, state = self.stream, self.state
        if state.place > FREE_BYTES and state.place > MOST_RATIO * max(1, state.file_place - len(state.waiting)):
            raise ValueError(f"it expands more than {MOST_RATIO} times: these are no images")
        if state.place % stream.span == 0:
            stream.states.append(State(state.place, state.file_place, state.decompressor.copy(), state.waiting))
            if len(stream.states) > MOST_STATES:
                stream.span *= 2
                del stream.states[1::2]
        step = SPAN_BYTES - state.place % SPAN_BYTES
        self.block, self.taken = b"".join(stream.contents_from(state, step)), 0
        stream.size = state.place
        if not self.block and not state.decompressor.eof:
            raise EOFError("it ends in the middle")

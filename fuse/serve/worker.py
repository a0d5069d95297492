"""Finding faces in processes that can be ended: what decodes a stranger's file may hang or crash, the server not.

Encoders need no such process: they are given only files that were decoded here within the time and the limits of
`data/images/decode.py`, and faces of a bounded number and size.
"""

import contextlib
import queue
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from twofold.data.faces.in_memory import FaceFinder, Picture, open_detection, sample_kind
from twofold.data.faces.settings import Sampling
from twofold.data.images.decode import ImageError
from twofold.data.utils.errors import InputError
from twofold.data.utils.processes import CONTEXT

START_SECONDS = 120  #: until a new process has loaded its detector


def open_finder(crops: Sequence[str], detector: Path | None, cropped: bool) -> FaceFinder:
    """A finder that crops as the run's samples were cropped. Raises InputError where no detector is to be had."""
    if cropped:
        return FaceFinder(None)
    try:
        return FaceFinder(open_detection(crops, detector=detector, sampling=Sampling()), sample_kind(crops))
    except InputError as error:
        raise InputError(f"{error}; or --cropped takes every picture for one face as it is") from None


class FinderPool:
    """Several processes that find faces; each image takes one, which is replaced where it takes too long or crashes.

    open_finder: picklable, makes the finder there; workers: images at once, for which there is a process more, so that
    none waits while another starts; seconds: for an image; detects: whether faces are detected, or whole
    images taken. Raises InputError where a finder cannot be made.
    """

    def __init__(self, open_finder: Callable[[], FaceFinder], *, workers: int, seconds: float, detects: bool):
        self.detects, self._open_finder, self._seconds, self._closed = detects, open_finder, seconds, False
        self._processes: dict[Any, SpawnProcess] = {}  # by our end of its pipe, of another class on Windows
        self._ready: set[Any] = set()
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(workers):
            self._start()
        try:
            for connection in self._processes:
                self._wait_until_ready(connection)
        except InputError:
            self.close()
            raise
        self._start()

    def _start(self) -> None:
        ours, theirs = CONTEXT.Pipe()
        self._processes[ours] = process = CONTEXT.Process(target=_find_faces, args=(theirs, self._open_finder),
                                                          daemon=True)
        process.start()
        theirs.close()
        self._idle.put(ours)

    def find(self, content: bytes, *, most: int) -> Picture:
        """As `FaceFinder.find`, from several threads at once."""
        connection = self._take()
        try:
            self._wait_until_ready(connection)
            with contextlib.suppress(OSError):  # the process has ended: nothing is received
                connection.send((content, most))
            answer = self._receive(connection, self._seconds)
        except (ImageError, InputError):
            self._end(self._processes.pop(connection))
            self._ready.discard(connection)
            connection.close()
            if not self._closed:
                self._start()
            raise
        self._idle.put(connection)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _take(self) -> Any:
        """A process that is free; one that is ready, if there is one. Raises ImageError once all were ended."""
        connection = self._idle.get()
        for _ in range(self._idle.qsize()):
            if connection is None or connection in self._ready or connection.poll():
                break
            self._idle.put(connection)
            connection = self._idle.get()
        if self._closed:
            self._idle.put(None)  # for the next one
            raise ImageError("the server ends")
        return connection

    def _wait_until_ready(self, connection: Any) -> None:
        """Wait for the first message of a process: that its finder is made, or the InputError why not."""
        if connection in self._ready:
            return
        try:
            error = self._receive(connection, START_SECONDS)
        except ImageError:
            error = InputError(f"the process that finds faces ended, or did not start within {START_SECONDS} seconds")
        if error is not None:
            raise error
        self._ready.add(connection)

    @staticmethod
    def _receive(connection: Any, seconds: float) -> Any:
        """What a process sends. Raises ImageError where it ends, or sends nothing for so long."""
        try:
            if connection.poll(seconds):
                return connection.recv()
        except (EOFError, OSError):
            raise ImageError("reading it ended the process that does it") from None
        raise ImageError(f"reading it takes more than {seconds:g} seconds")

    def close(self) -> None:
        """End all processes, whatever they are at."""
        self._closed = True
        self._idle.put(None)
        for process in list(self._processes.values()):
            self._end(process)

    @staticmethod
    def _end(process: SpawnProcess) -> None:
        process.kill()
        process.join()


def _find_faces(connection: Connection, open_finder: Callable[[], FaceFinder]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the server ends this one
    try:
        finder = open_finder()
    except InputError as error:
        connection.send(error)
        return
    connection.send(None)
    with contextlib.suppress(EOFError):  # the server has ended
        while True:
            content, most = connection.recv()
            try:
                connection.send(finder.find(content, most=most))
            except (ImageError, InputError) as error:
                connection.send(error)
            except MemoryError:
                connection.send(ImageError("it takes too much memory"))

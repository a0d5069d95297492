"""Finding faces in processes that can be ended: what decodes a stranger's file may hang or crash, the server not.

Encoders need no such process: they are given only files that were decoded here within the time and the limits of
`data/images/decode.py`, and faces of a bounded number and size.
"""

import queue
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

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
    """Several processes that find faces; each image takes one of them. open_finder: picklable, makes the finder there.

    detects: whether they detect faces, or take whole images; seconds: for an image. Raises InputError where a finder
    cannot be made.
    """

    def __init__(self, open_finder: Callable[[], FaceFinder], *, workers: int, seconds: float, detects: bool):
        self.detects = detects
        self._processes = [FinderProcess(open_finder, seconds) for _ in range(workers)]
        self._idle: queue.SimpleQueue[FinderProcess] = queue.SimpleQueue()
        try:
            for process in self._processes:
                process.wait_until_ready()
                self._idle.put(process)
        except InputError:
            self.close()
            raise

    def find(self, content: bytes, *, most: int) -> Picture:
        """As `FaceFinder.find`, from several threads at once."""
        process = self._idle.get()
        try:
            return process.find(content, most=most)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End all processes, whatever they are at."""
        for process in self._processes:
            process.close()


class FinderProcess:
    """A FaceFinder in a process of its own, which is ended and started again where an image takes too long."""

    def __init__(self, open_finder: Callable[[], FaceFinder], seconds: float):
        self._open_finder, self._seconds, self._closed = open_finder, seconds, False
        self._start()

    def _start(self) -> None:
        self._connection, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_find_faces, args=(theirs, self._open_finder), daemon=True)
        self._process.start()
        theirs.close()
        self._ready = False

    def wait_until_ready(self) -> None:
        """Raises InputError where the process cannot make its finder."""
        if self._ready:
            return
        try:
            error = self._connection.recv() if self._connection.poll(START_SECONDS) else InputError(
                f"finding faces did not start within {START_SECONDS} seconds")
        except (EOFError, OSError):
            error = InputError("the process that finds faces ended at its start")
        if error is not None:
            raise error
        self._ready = True

    def find(self, content: bytes, *, most: int) -> Picture:
        """As `FaceFinder.find`; ends the process, and starts a new one, if that takes too long or crashes it."""
        try:
            self.wait_until_ready()
            self._connection.send((content, most))
            result = self._connection.recv() if self._connection.poll(self._seconds) else None
            reason = f"reading it takes more than {self._seconds:g} seconds"
        except (EOFError, OSError):
            result, reason = None, "reading it ended the process that does it"
        if isinstance(result, Picture):
            return result
        if isinstance(result, Exception):
            raise result
        self._end()
        if not self._closed:
            self._start()
        raise ImageError(reason)

    def close(self) -> None:
        """End the process for good."""
        self._closed = True
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.join()


def _find_faces(connection: Connection, open_finder: Callable[[], FaceFinder]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the server ends this one
    try:
        finder = open_finder()
    except InputError as error:
        connection.send(error)
        return
    connection.send(None)
    while True:
        try:
            content, most = connection.recv()
        except EOFError:
            return
        try:
            connection.send(finder.find(content, most=most))
        except (ImageError, InputError) as error:
            connection.send(error)
        except MemoryError:
            connection.send(ImageError("it takes too much memory"))

"""A queue of images: a bounded number, held in memory only, answered one after another."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from twofold.data.images.decode import ImageError
from twofold.data.utils.errors import InputError
from twofold.fuse.serve.recogniser import ImageResult

log = logging.getLogger(__name__)


class RequestError(Exception):
    """Why a request is not answered: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the server. bytes: of an image file; faces: of an image, the largest; places: images being received,
    waiting or worked on; workers: images worked on at once; upload_seconds, wait_seconds, find_seconds: until an image
    has arrived, until it is worked on, and until its faces are found.

    Memory is bounded by bytes x places, and by one image that is worked on (see `data/images/decode.py`).
    """

    bytes: int = 32 << 20
    faces: int = 32
    places: int = 8
    workers: int = 2
    upload_seconds: float = 30.0
    wait_seconds: float = 4.0  #: "try again" comes within the 5 seconds that a person waits
    find_seconds: float = 10.0


class RequestQueue:
    """Receives images and has them answered, a few at a time.

    recognise: (bytes, waited=seconds) to the result, from `limits.workers` threads; raises ImageError. counts: of
    images (pictures), of their faces, and of refused images (unreadable, too large or too many), counted on here.
    """

    def __init__(self, recognise: Callable[..., ImageResult], limits: Limits, counts: dict[str, int]):
        self.recognise, self.limits, self.counts = recognise, limits, counts
        self._occupied = 0
        self._turn = asyncio.Semaphore(limits.workers)
        self._threads = ThreadPoolExecutor(limits.workers, "recognise")

    async def answer(self, announced: str | None, stream: AsyncIterator[bytes]) -> ImageResult:
        """The answer for the image file that comes in `stream`. announced: its size, as the header Content-Length says.

        Raises RequestError where it cannot be had.
        """
        try:
            if announced and announced.isdecimal() and (len(announced) > 12 or int(announced) > self.limits.bytes):
                raise self._too_large()
            if self._occupied >= self.limits.places:
                raise RequestError(503, f"{self._occupied} other pictures are waiting already: try again in a moment")
            self._occupied += 1
            try:
                answer = await self._recognise(await self._read(stream))
            finally:
                self._occupied -= 1
        except RequestError:
            self.counts["refused"] += 1
            raise
        self.counts["pictures"] += 1
        self.counts["faces"] += len(answer.faces)
        return answer

    async def _read(self, stream: AsyncIterator[bytes]) -> bytes:
        content, seconds = bytearray(), self.limits.upload_seconds
        try:
            async with asyncio.timeout(seconds):
                async for chunk in stream:
                    content += chunk
                    if len(content) > self.limits.bytes:
                        raise self._too_large()
        except TimeoutError:
            raise RequestError(408, f"the picture did not arrive within {seconds:g} seconds") from None
        if not content:
            raise RequestError(422, "nothing was sent: the file is empty")
        return bytes(content)

    async def _recognise(self, content: bytes) -> ImageResult:
        """Wait for this picture's turn and answer for it in a thread."""
        began, seconds = time.perf_counter(), self.limits.wait_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise RequestError(503, f"the picture's turn did not come within {seconds:g} seconds: try again in a moment"
                               ) from None
        try:
            work = partial(self.recognise, content, waited=time.perf_counter() - began)
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ImageError as error:
            raise RequestError(422, _sentence(str(error))) from None
        except InputError as error:  # an encoder does not fit into a device's memory
            raise RequestError(500, str(error)) from None
        except Exception as error:
            log.error("no answer, by a defect of Twofold: %s: %s", type(error).__name__, error)
            log.debug("the defect", exc_info=error)
            raise RequestError(500, "the answer failed by a defect of Twofold: its terminal says more") from None
        finally:
            self._turn.release()

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the file has more than {self.limits.bytes >> 20} MB: make it smaller")

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)


def _sentence(reason: str) -> str:
    """What a decoder's reason means to a person who has chosen the file."""
    if reason == "not an image":
        return "this is not a picture that can be read: take JPEG, PNG, WebP, BMP, GIF, TIFF or JPEG 2000"
    return f"the picture has {reason}: make it smaller" if reason.startswith("more than") else (
        f"the picture cannot be used: {reason}")

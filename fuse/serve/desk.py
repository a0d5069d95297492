"""Pictures as they come in: a bounded number, read into memory alone, answered one after another."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from twofold.data.images.decode import ImageError
from twofold.data.utils.errors import InputError
from twofold.fuse.serve.access import Refusal
from twofold.fuse.serve.answer import Answer

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the server takes. bytes: of an image file; faces: of a picture, the largest; places: pictures being read,
    waiting or worked on; upload_seconds, wait_seconds: for a picture to come in, and to have its turn.

    Memory is bounded by bytes x places, and by one picture that is worked on (see `data/images/decode.py`).
    """

    bytes: int = 32 << 20
    faces: int = 32
    places: int = 8
    upload_seconds: float = 30.0
    wait_seconds: float = 60.0


@dataclass
class Tally:
    """What was done. faces: answered for; refused: pictures that could not be read, were too large or too many."""

    pictures: int = 0
    faces: int = 0
    refused: int = 0


@dataclass
class Desk:
    """Takes pictures and has them answered, one at a time: all cores work on each."""

    recognise: Callable[..., Answer]  #: (bytes, waited=seconds) to the answer; raises ImageError
    bounds: Bounds
    tally: Tally = field(default_factory=Tally)
    _occupied: int = 0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "recognise"))

    async def answer(self, announced: str | None, stream: AsyncIterator[bytes]) -> Answer:
        """The answer for the image file that comes in `stream`. announced: its size, as the header Content-Length says.

        Raises Refusal where it cannot be had.
        """
        try:
            return await self._answer(announced, stream)
        except Refusal:
            self.tally.refused += 1
            raise

    async def _answer(self, announced: str | None, stream: AsyncIterator[bytes]) -> Answer:
        if announced and announced.isdecimal() and int(announced) > self.bounds.bytes:
            raise self._too_large()
        if self._occupied >= self.bounds.places:
            raise Refusal(503, f"{self._occupied} other pictures are waiting already: try again in a moment")
        self._occupied += 1
        try:
            content = await self._read(stream)
            waited = await self._wait()
            try:
                work = partial(self.recognise, content, waited=waited)
                answer = await asyncio.get_running_loop().run_in_executor(self._worker, work)
            except ImageError as error:
                raise Refusal(422, _sentence(error)) from None
            except InputError as error:  # an encoder does not fit into a device's memory
                raise Refusal(500, str(error)) from None
            except Exception as error:
                log.error("no answer, by a defect of Twofold: %s: %s", type(error).__name__, error)
                log.debug("the defect", exc_info=error)
                raise Refusal(500, "the answer failed by a defect of Twofold: its terminal says more") from None
            finally:
                self._turn.release()
        finally:
            self._occupied -= 1
        self.tally.pictures += 1
        self.tally.faces += len(answer.faces)
        return answer

    async def _read(self, stream: AsyncIterator[bytes]) -> bytes:
        content = bytearray()
        try:
            async with asyncio.timeout(self.bounds.upload_seconds):
                async for chunk in stream:
                    content += chunk
                    if len(content) > self.bounds.bytes:
                        raise self._too_large()
        except TimeoutError:
            raise Refusal(408, f"the picture did not arrive within {self.bounds.upload_seconds:g} seconds") from None
        if not content:
            raise Refusal(422, "nothing was sent: the file is empty")
        return bytes(content)

    async def _wait(self) -> float:
        """Wait for this picture's turn; the seconds that it took."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self.bounds.wait_seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise Refusal(503, f"the picture's turn did not come within {self.bounds.wait_seconds:g} seconds: try "
                               "again in a moment") from None
        return time.perf_counter() - began

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the file has more than {self.bounds.bytes >> 20} MB: make it smaller")

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)


def _sentence(error: ImageError) -> str:
    """What a decoder's reason means to a person who has chosen the file."""
    reason = str(error)
    if reason == "not an image":
        return "this is not a picture that can be read: take JPEG, PNG, WebP, BMP, GIF, TIFF or JPEG 2000"
    if reason.startswith("more than"):
        return f"the picture has {reason}: make it smaller"
    return f"the picture cannot be used: {reason}"

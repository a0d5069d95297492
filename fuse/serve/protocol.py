"""HTTP connections that cost little: idle ones are closed, the longest idle one first where there are too many."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from twofold.fuse.serve.app import HEADERS

IDLE_SECONDS = 10  #: without a complete request head
MAX_CONNECTIONS = 500
TICK = 2  #: seconds between looks at a connection


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a deadline for each request head, a bound on connections, and headers on errors."""

    _since: float
    _timer: asyncio.TimerHandle
    _seen: object = None  #: the last request that was looked at

    @property
    def _waiting(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._since = self.loop.time()
        self._timer = self.loop.call_later(TICK, self._look)
        if len(self.connections) > MAX_CONNECTIONS:
            idle = [each for each in self.connections if isinstance(each, Protocol) and each._waiting]
            min(idle, key=lambda each: each._since, default=self).transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        if not self._waiting or self.cycle is not self._seen:
            self._seen, self._since = self.cycle, self.loop.time()
        if self.loop.time() - self._since > IDLE_SECONDS:
            self.transport.close()
        else:
            self._timer = self.loop.call_later(TICK, self._look)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except ValueError:  # a number with too many digits, where h11 looks at it
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        lines = [f"{name}: {value}" for name, value in HEADERS.items()]
        text = "\r\n".join(["HTTP/1.1 400 Bad Request", "content-type: text/plain; charset=utf-8", "connection: close",
                            f"content-length: {len(msg)}", *lines, "", msg])
        self.transport.write(text.encode("ascii"))
        self.transport.close()

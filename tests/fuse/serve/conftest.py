"""A run on drawn faces, and servers of it that are real but for the terminal: a socket, uvicorn, a thread."""

import http.client
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import twofold
from tests.data.faces.films import BLOBS, still
from twofold.data.faces.detect import DetectionConfig
from twofold.data.faces.in_memory import FaceFinder
from twofold.data.faces.settings import CropSettings, Sampling
from twofold.data.labels import builtin_taxonomy
from twofold.data.manifest import write_manifest
from twofold.data.synthetic.dataset import draw_dataset
from twofold.extract.streams import MatchingEncoders
from twofold.fuse.runs.read import Run, read_run
from twofold.fuse.serve.app import application, make_server
from twofold.fuse.serve.queue import Limits, RequestQueue
from twofold.fuse.serve.recogniser import Recogniser
from twofold.fuse.serve.serve import describe_run

NETWORKS = {"timm:test_resnet": "random:0", "timm:test_vit": "random:0"}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A folder with `faces/`, their manifest, `store/` and runs of two untrained encoders: `gated/` and `paper/`."""
    folder = tmp_path_factory.mktemp("drawn")
    table = draw_dataset(folder / "faces", taxonomy=builtin_taxonomy("cexpr7"), per_class=10, size=48, seed=3)
    write_manifest(table, folder / "faces.csv")
    store = twofold.Dataset(folder / "faces.csv", root=folder / "faces").extract(
        folder / "store", backbones=list(NETWORKS), weights=NETWORKS, device="cpu", precision="fp32")
    for head in ("gated", "paper"):
        store.fuse(out=folder / head, head=head, epochs=2, hidden=16, projection=8, seeds=2, batch_size=64, lr=3e-3)
    return folder


@pytest.fixture(scope="session")
def recogniser(drawn) -> Recogniser:
    """Takes every picture for one face."""
    return Recogniser(read_run(drawn / "gated"), FaceFinder(None), embed_of(read_run(drawn / "gated")), 8)


@pytest.fixture(scope="session")
def finding(recogniser) -> Recogniser:
    """Finds red and green heads."""
    search = DetectionConfig(BLOBS, CropSettings(size=48), Sampling())
    return replace(recogniser, finder=FaceFinder(search))


def embed_of(run: Run) -> Callable:
    return MatchingEncoders([recipe for _, _, recipe in run.streams], device="cpu",
                            dims=run.head.spec.dims).load_all().embed


def picture(*heads: tuple, width: int = 160, height: int = 96, kind: str = "PNG") -> bytes:
    """An image file with heads as `still` draws them."""
    return encoded(Image.fromarray(still(*heads, width=width, height=height)), kind)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@dataclass(frozen=True)
class Served:
    """A server that runs. stats: what it did so far."""

    port: int
    stats: dict[str, int]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict, bytes]:
        """Status, headers and body of the answer; `_` in a header's name stands for a hyphen."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named, encode_chunked=not isinstance(body, bytes | None))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def recognise(self, content: Any, **headers: str) -> tuple[int, dict]:
        status, _, body = self.ask("POST", "/recognise", content, **headers)
        return status, json.loads(body)


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    """Start a server of a recogniser, which ends with the test."""
    servers = []

    def start(recogniser: Recogniser, *, limits: Limits | None = None, token: str | None = None,
              examples: Sequence[Path] = (), threshold: float = 0.5) -> Served:
        stats = dict.fromkeys(("pictures", "faces", "refused"), 0)
        queue = RequestQueue(recogniser.recognise, limits or Limits(workers=1), stats)
        description = describe_run(recogniser.run, queue.limits, threshold, recogniser.second, detects=True)
        server = make_server(application(queue, examples, description, token=token))
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        servers.append((server, thread, queue))
        return Served(listener.getsockname()[1], stats)

    yield start
    for server, thread, queue in servers:
        server.should_exit = True
        thread.join()
        queue.close()


def resident() -> int:
    """Bytes of memory that this process takes."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        pytest.skip("this system does not tell how much memory a process takes")

"""What hostile clients do to the server: idle connections, files that hang or crash a decoder, odd numbers."""

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.data.faces.films import RED
from tests.fuse.serve.conftest import picture, resident
from tests.fuse.serve.finders import open_moody, open_nothing, open_sleeping
from twofold.data.images.decode import ImageError
from twofold.data.utils.errors import InputError
from twofold.fuse.serve import app
from twofold.fuse.serve.queue import Limits
from twofold.fuse.serve.worker import FinderPool

FACE = picture((RED, 20, 30))


@pytest.fixture
def pool():
    with contextlib.closing(FinderPool(open_moody, workers=2, seconds=3, detects=False)) as pool:
        yield pool


def test_a_file_that_hangs_or_crashes_costs_one_answer_and_reaches_no_encoder(pool, recogniser):
    embedded = []
    watched = replace(recogniser, finder=pool, embed=lambda files: embedded.extend(files) or recogniser.embed(files))
    for content, reason in ((b"hang", "more than 3 seconds"), (b"crash", "ended the process"), (b"x", "not an image")):
        with pytest.raises(ImageError, match=reason):
            watched.recognise(content)
        assert watched.recognise(FACE).width == 160
    assert embedded == [FACE] * 3
    with pytest.raises(InputError, match="no detector"):
        FinderPool(open_nothing, workers=1, seconds=3, detects=True)


def test_closing_does_not_wait_for_a_file_that_hangs():
    pool = FinderPool(open_moody, workers=1, seconds=600, detects=False)
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(pool.find, b"hang", most=1)
        time.sleep(0.5)
        pool.close()
        with pytest.raises(ImageError):
            found.result(timeout=10)
        with pytest.raises(ImageError, match="the server ends"):
            threads.submit(pool.find, FACE, most=1).result(timeout=10)


def test_no_image_waits_for_a_process_that_starts(monkeypatch):
    with contextlib.closing(FinderPool(open_moody, workers=1, seconds=600, detects=False)) as pool:
        pool._wait_until_ready(list(pool._processes)[-1])
        monkeypatch.setattr(pool, "_open_finder", open_sleeping)
        with pytest.raises(ImageError, match="ended the process"):
            pool.find(b"crash", most=1)
        began = time.monotonic()
        assert [pool.find(FACE, most=1).width for _ in range(3)] == [160] * 3 and time.monotonic() - began < 30
        assert len(pool._processes) == 2 and len(pool._ready) == 1  # nothing of the ended one is kept


def test_three_hundred_requests_two_hundred_idle_connections_and_a_slow_image(pool, recogniser, served):
    """All are answered, "try again" (eight images are taken at a time) at once; 5 s is what people wait on a quiet
    machine, 30 s what a busy one is granted here."""
    server = served(replace(recogniser, finder=pool), limits=Limits(workers=2))
    assert server.recognise(FACE)[0] == 200
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    slow = threading.Thread(target=server.recognise, args=(b"hang",))
    slow.start()

    def ask(_):
        status, seconds = 503, 0.0
        while status == 503:
            began = time.monotonic()
            status = server.recognise(FACE)[0]
            seconds = max(seconds, time.monotonic() - began)
            time.sleep(0.05 * (status == 503))
        return status, seconds

    with ThreadPoolExecutor(20) as clients:
        answers = list(clients.map(ask, range(100)))
        slow.join()
        before = resident()  # threads and their buffers are there by now
        answers += clients.map(ask, range(200))
    assert {status for status, _ in answers} == {200} and max(seconds for _, seconds in answers) < 30
    assert resident() - before < 60 << 20
    assert server.recognise(FACE)[0] == 200
    for connection in idle:
        connection.close()


def test_idle_connections_are_closed_and_too_many_push_out_the_oldest(recogniser, served, monkeypatch):
    monkeypatch.setattr(app, "MAX_CONNECTIONS", 10)
    monkeypatch.setattr(app, "IDLE_SECONDS", 1)
    server = served(recogniser)
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(12)]
    idle[-1].sendall(b"GET /run HTTP/1.1\r\nHost: ")  # a head that never ends
    assert idle[0].recv(1) == b"" and server.recognise(FACE)[0] == 200
    assert all(connection.recv(1) == b"" for connection in idle)


@pytest.mark.parametrize(("line", "statuses"), [
    (b"Origin: http://[", (403,)), (b"Origin: x" + b"\xff" * 99, (403,)),
    (b"Content-Length: " + b"9" * 5000, (400, 413)),
    (b"Cookie: \xff=;=", (200,)), (b"no header at all", (400,)),
])
def test_a_strange_header_is_no_defect(recogniser, served, line, statuses, caplog):
    server = served(recogniser)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(b"GET /run HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + line + b"\r\n\r\n")
        text = b""
        while more := connection.recv(65536):
            text += more
    status = int(text.split()[1])
    assert status in statuses and b"content-security-policy" in text and b"nosniff" in text
    assert "Traceback" not in caplog.text and not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("path", ["/examples/" + "9" * 5000, "/examples/%D9%A1", "/examples/-1/small"])
def test_a_strange_number_is_not_found(recogniser, served, path):
    status, headers, _ = served(recogniser).ask("GET", path)
    assert status == 404 and "content-security-policy" in headers


def test_examples_are_images_by_content_and_what_is_left_out_is_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(app, "MAX_EXAMPLES", 2)
    for name, content in {"a.JFIF": FACE, "b": FACE, "c.png": FACE, "d.png": FACE + bytes(1 << 20), "e.txt": b"a",
                          ".f.png": FACE}.items():
        (tmp_path / name).write_bytes(content)
    assert [path.name for path in app.find_examples(tmp_path, max_bytes=1 << 20)] == ["a.JFIF", "b"]
    assert "1 files are no images and are left out (1 .txt)" in caplog.text
    assert "of 4 pictures the first 2 of at most 1 MB are offered" in caplog.text

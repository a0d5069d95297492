"""What the server refuses, each with a status and a sentence: files, floods, strangers."""

import itertools
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.data.faces.films import RED
from tests.fuse.serve.conftest import encoded, picture
from twofold.fuse.serve.app import is_loopback
from twofold.fuse.serve.queue import Limits

FACE = picture((RED, 20, 30))


@pytest.mark.parametrize("content, sentence", [
    (b"Dear Sir or Madam,\n" * 9, "not a picture that can be read"),
    (b"", "the file is empty"),
    (FACE[:200], "cannot be used: truncated image"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
])
def test_a_file_that_is_no_picture(finding, served, content, sentence):
    server = served(finding)
    status, answer = server.recognise(content)
    assert status == 422 and sentence in answer["error"] and set(answer) == {"error"}
    assert server.stats["refused"] == 1 and server.recognise(FACE)[0] == 200


def test_a_hundred_megapixels_are_refused_by_the_header(finding, served, monkeypatch):
    content = encoded(Image.new("1", (10_000, 10_000)))
    assert len(content) < 100_000
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    status, answer = served(finding).recognise(content)
    assert (status, answer["error"]) == (422, "the picture has more than 64000000 pixels: make it smaller")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_file_with_too_many_bytes(finding, served, chunked):
    server = served(finding, limits=Limits(bytes=1 << 20))
    content = bytes(3 << 20)
    sent = (content[start:start + 65536] for start in range(0, len(content), 65536)) if chunked else content
    try:
        status, answer = server.recognise(sent)
        assert status == 413 and answer["error"] == "the file has more than 1 MB: make it smaller"
    except (BrokenPipeError, ConnectionResetError):  # it need not read all before it says so
        pass
    assert server.recognise(FACE)[0] == 200 and server.stats["refused"] == 1


def test_twenty_at_once_are_answered_or_told_to_wait(finding, served):
    server = served(finding, limits=Limits(places=4))
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: server.recognise(FACE), range(20)))
    assert {status for status, _ in answers} <= {200, 503}
    assert sum(status == 200 for status, _ in answers) >= 4
    assert all("other pictures are waiting" in answer["error"] for status, answer in answers if status == 503)
    assert len({json.dumps(answer["faces"]) for status, answer in answers if status == 200}) == 1
    assert server.recognise(FACE)[0] == 200


def test_a_full_queue_says_so(finding, served):
    """Two pictures that never come to an end have both places: the third is told, and has one once they have left."""
    server = served(finding, limits=Limits(places=2, upload_seconds=1.0))
    start = b"POST /recognise HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc"
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
    for connection in slow:
        connection.sendall(start)
    statuses = {server.recognise(FACE)[0] for _ in range(3)}
    texts = [all_of(connection) for connection in slow]
    assert all(b" 408 " in text and b"did not arrive within 1 seconds" in text for text in texts)
    assert 503 in statuses and server.recognise(FACE)[0] == 200
    for connection in slow:
        connection.close()


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server has said its sentence."""
    text = b""
    while not text.endswith(b"}") and (more := connection.recv(65536)):
        text += more
    return text


def test_a_turn_that_does_not_come(finding, served):
    release, begun = threading.Event(), threading.Event()

    def embed(images):
        begun.set()
        release.wait(30)
        return finding.embed(images)

    server = served(replace(finding, embed=embed), limits=Limits(workers=1, wait_seconds=0.2))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.recognise, FACE)
        begun.wait(30)
        status, answer = server.recognise(FACE)
        release.set()
        assert first.result()[0] == 200
    assert status == 503 and "turn did not come within 0.2 seconds" in answer["error"]


def test_a_sender_who_leaves_gives_the_place_back(finding, served):
    server = served(finding, limits=Limits(places=1))
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /recognise HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    assert next(status for _ in itertools.count() if (status := server.recognise(FACE)[0]) != 503) == 200


def test_a_defect_is_a_sentence(finding, served, caplog):
    def embed(images):
        raise KeyError("secret")

    status, answer = served(replace(finding, embed=embed)).recognise(FACE)
    assert status == 500 and "defect" in answer["error"] and "secret" not in answer["error"]
    assert "KeyError: 'secret'" in caplog.text and "Traceback" not in caplog.text


def test_loopback_answers_to_its_own_names_and_pages_only(finding, served):
    server = served(finding)
    own = f"127.0.0.1:{server.port}"
    for host in (own, f"localhost:{server.port}", "localhost", "[::1]:80", "127.1.2.3"):
        assert server.ask("GET", "/", Host=host)[0] == 200
    for host in ("evil.test", f"evil.test:{server.port}", "127.0.0.1.evil.test", "localhost.evil.test", "", "[::"):
        status, _, body = server.ask("GET", "/", Host=host)
        assert status == 403 and b"localhost only" in body  # DNS rebinding
    for origin in ("http://evil.test", "null", "http://localhost:3000", f"http://127.0.0.1:{server.port + 1}"):
        status, answer = server.recognise(FACE, Origin=origin)
        assert status == 403 and "only this server's own page" in answer["error"]
    assert server.recognise(FACE, Sec_Fetch_Site="cross-site")[0] == 403
    assert server.recognise(FACE, Sec_Fetch_Site="same-site")[0] == 403
    assert server.ask("GET", "/run", Sec_Fetch_Site="cross-site")[0] == 403
    assert server.ask("GET", "/", Sec_Fetch_Site="cross-site")[0] == 200  # a link to the page
    assert server.recognise(FACE, Origin=f"http://{own}", Sec_Fetch_Site="same-origin")[0] == 200
    assert server.stats["pictures"] == 1


def test_a_token_is_asked_for_everything(finding, served):
    server = served(finding, token="the-right-one", examples=[Path(__file__)])
    for path in ("/", "/run", "/page.js", "/examples/0", "/?token=wrong", "/?token=", "/run?token=the-right-on",
                 "/?token=%ff%fe"):
        status, headers, body = server.ask("GET", path)
        assert status == 401 and b"the token is missing or wrong: open the address" in body
        assert "set-cookie" not in headers
    assert server.recognise(FACE)[0] == server.recognise(FACE, Cookie="twofold-token=wrong")[0] == 401
    assert server.recognise(FACE, Authorization="Bearer wrong")[0] == 401
    status, headers, _ = server.ask("GET", "/?token=the-right-one")
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=lax" in headers["set-cookie"]
    cookie = headers["set-cookie"].partition(";")[0]
    assert server.ask("GET", "/", Cookie=cookie)[0] == 200
    assert server.ask("GET", "/run", Cookie=cookie, Host="lab.test")[0] == 200
    assert server.recognise(FACE, Cookie=cookie)[0] == 200
    assert server.recognise(FACE, Cookie=cookie, Origin="http://evil.test")[0] == 403
    assert server.recognise(FACE, Authorization="Bearer the-right-one")[0] == 200


def test_only_loopback_goes_without_a_token():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "example.test", "localhost.example.test")))


def test_what_is_not_there_is_a_sentence(finding, served, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"?")
    server = served(finding, examples=[tmp_path / "broken.png", tmp_path / "gone.png"])
    for method, path, status in (("GET", "/nothing", 404), ("GET", "/../pyproject.toml", 404), ("PUT", "/", 405),
                                 ("GET", "/recognise", 405), ("GET", "/examples/2", 404), ("GET", "/examples/1", 404),
                                 ("GET", "/examples/0/small", 404), ("GET", "/examples/-1", 404)):
        code, headers, body = server.ask(method, path)
        assert code == status and json.loads(body)["error"] and "Traceback" not in str(body)
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"

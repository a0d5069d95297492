"""The page in a real browser: what it shows, by whatever way a picture comes, and that it asks nobody else."""

import json
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.data.faces.films import GREEN, RED, film, still
from tests.fuse.serve.browser import CHROMIUM, Browser
from tests.fuse.serve.conftest import embed_of, encoded, picture
from twofold.fuse.runs.read import read_run
from twofold.fuse.serve.app import find_examples

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"), "--use-fake-device-for-media-stream",
                      "--use-fake-ui-for-media-stream")
    yield browser
    browser.close()


@pytest.fixture
def files(tmp_path):
    """A picture of two people, one of nobody, a letter, a picture of a hundred megapixels."""
    (tmp_path / "two.png").write_bytes(picture((RED, 20, 30), (GREEN, 100, 40)))
    (tmp_path / "none.png").write_bytes(picture())
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam,")
    (tmp_path / "huge.png").write_bytes(encoded(Image.new("1", (10_000, 10_000))))
    return tmp_path


def opened(browser, url):
    browser.requests.clear()
    browser.messages.clear()
    browser.look(width=1280, height=900)
    browser.open(url)
    browser.until("document.body.dataset.ready")


def shown(browser) -> int:
    return browser.run("[...document.querySelectorAll('.face')].filter(card => !card.hidden).length")


def status(browser, start: str) -> str:
    browser.until(f"document.querySelector('#status').textContent.startsWith({json.dumps(start)})")
    return browser.text("#status")


def test_pictures_are_shown_with_their_faces(browser, finding, served, files):
    server = served(finding, threshold=0.0)
    opened(browser, server.url)
    assert "7 expressions (cexpr7), head gated" in browser.text("#about")
    assert "UNTRAINED weights (timm:test_resnet, timm:test_vit)" in browser.text("#untrained")
    _, answer = server.recognise((files / "two.png").read_bytes())
    browser.choose("#files", files / "two.png")
    assert status(browser, "two.png: ") == "two.png: 2 faces"
    assert shown(browser) == browser.run("document.querySelectorAll('.box').length") == 2
    best = max(answer["faces"][0]["expressions"])
    title, likely = browser.text(".face h2"), browser.text(".face header p")
    assert title.startswith("1 ") and title.endswith("d") and likely == f"{100 * best:.0f} % likely"
    assert browser.run("document.querySelectorAll('.face table:not(details table) tr').length") == 14
    name = title[2:].strip()
    assert f"2 faces: 1 {name}, {100 * best:.0f} %" in browser.run("document.querySelector('#picture').alt")
    place = browser.run("(b => [b.left, b.top, b.width, b.height])(document.querySelector('.box').style)")
    assert [float(text.removesuffix("%")) for text in place] == pytest.approx([12.5, 31.25, 20, 33.333], abs=0.01)
    assert "2 faces" not in browser.text("#latency") and "160 × 96 pixels" in browser.text("#latency")
    with_slider(browser, 95)
    assert browser.text(".face h2").split() == ["1", "uncertain"] and "at most" in browser.text(".face header p")
    assert browser.run("document.querySelectorAll('.box.uncertain').length") == 2
    browser.choose("#files", files / "none.png", files / "letter.txt", files / "huge.png")
    assert "more than 64000000 pixels" in status(browser, "huge.png: ")
    assert browser.run("document.querySelector('#result').hidden")
    buttons = browser.run("[...document.querySelectorAll('#history button')].map(button => button.title)")
    assert len(buttons) == 4 and buttons[1:3] == [
        "none.png: no face in it",
        "letter.txt: this is not a picture that can be read: take JPEG, PNG, WebP, BMP, GIF, TIFF or JPEG 2000"]
    browser.run("document.querySelectorAll('#history button')[1].click()")
    assert status(browser, "none.png") == "none.png: no face in it" and shown(browser) == 0
    browser.run("document.querySelectorAll('#history button')[0].click()")
    assert status(browser, "two.png") == "two.png: 2 faces" and shown(browser) == 2
    assert not [text for text in browser.messages if "422" not in text]  # the refusals, and nothing of ours
    assert_nobody_else_was_asked(browser, server)


def with_slider(browser, value):
    browser.run(f"document.querySelector('#threshold').value = {value}")
    browser.run("document.querySelector('#threshold').dispatchEvent(new Event('input'))")


def assert_nobody_else_was_asked(browser, server):
    assert browser.requests
    hosts = {urlsplit(url.removeprefix("blob:")).netloc for url in browser.requests if not url.startswith("data:")}
    assert hosts == {f"127.0.0.1:{server.port}"}


@pytest.mark.parametrize("event", ["new DragEvent('drop', { dataTransfer: carried, cancelable: true })",
                                   "new ClipboardEvent('paste', { clipboardData: carried })"])
def test_pictures_that_are_dropped_or_pasted(browser, finding, served, files, event):
    server = served(finding)
    opened(browser, server.url)
    numbers = list((files / "two.png").read_bytes())
    browser.run("carried = new DataTransfer(); carried.items.add(new File("
                f"[new Uint8Array({numbers})], 'two.png', {{ type: 'image/png' }})); 0")
    browser.run(f"document.dispatchEvent({event})")
    assert status(browser, "two.png") == "two.png: 2 faces"


def test_examples_are_a_click_away(browser, finding, served, files):
    server = served(finding, examples=find_examples(files, max_bytes=1 << 20))
    opened(browser, server.url)
    assert browser.run("[...document.querySelectorAll('#examples img')].map(image => image.alt)") == [
        "huge.png", "none.png", "two.png"]
    browser.run("document.querySelectorAll('#examples button')[2].click()")
    assert status(browser, "two.png") == "two.png: 2 faces"


def test_the_camera_and_its_end(browser, recogniser, served):
    server = served(recogniser)
    opened(browser, server.url)
    browser.run("document.querySelector('#camera').click()")
    browser.until("document.querySelector('.face') && !document.querySelector('#video').hidden")
    assert browser.text("#status") == "Camera: Stop or the Escape key ends it"
    before = server.stats["pictures"]
    browser.until("performance.getEntriesByType('resource').filter(entry => entry.name.endsWith('recognise'))"
                  f".length > {before + 1}")
    assert shown(browser) == 1 and server.stats["pictures"] > before
    assert browser.run("document.querySelector('#picture').hidden && document.querySelector('#camera').hidden")
    browser.run("document.dispatchEvent(new KeyboardEvent('keydown', { key: 'Escape' }))")
    browser.until("document.querySelector('#video').hidden && document.querySelector('#stop').hidden")
    assert not browser.messages
    assert_nobody_else_was_asked(browser, server)


def test_a_video_file_is_looked_at_frame_by_frame(browser, finding, served, tmp_path):
    frames = [still((RED, 16 + 2 * number, 32), width=160, height=96) for number in range(40)]
    film(tmp_path / "one.webm", frames, codec="libvpx")
    server = served(finding)
    opened(browser, server.url)
    browser.choose("#files", tmp_path / "one.webm")
    browser.until("document.querySelector('#video').ended")
    assert server.stats["pictures"] >= 2 and server.stats["faces"] == server.stats["pictures"]
    assert shown(browser) == 1
    (tmp_path / "no.mp4").write_bytes(b"Dear Sir or Madam,")
    browser.choose("#files", tmp_path / "no.mp4")
    assert "cannot play no.mp4" in status(browser, "this browser")


def test_the_token_does_not_stay_in_the_address(browser, finding, served, files):
    server = served(finding, token="right")
    browser.open(f"{server.url}?token=wrong")
    assert "the token is missing or wrong" in browser.text("body")
    opened(browser, f"{server.url}?token=right")
    assert browser.run("location.search") == "" and browser.run("document.cookie") == ""  # a script does not see it
    browser.choose("#files", files / "two.png")
    assert status(browser, "two.png") == "two.png: 2 faces"


def test_what_goes_wrong_on_the_way_is_said(browser, finding, served, files):
    server = served(finding)
    opened(browser, server.url)
    browser.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    browser.choose("#files", files / "two.png")
    try:
        assert "the server does not answer: start twofold serve again" in status(browser, "two.png: ")
    finally:
        browser.send("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1,
                     uploadThroughput=-1)


def test_a_face_without_a_compound_is_none_of_these(browser, drawn, finding, served, files):
    run = read_run(drawn / "paper")
    server = served(replace(finding, run=run, embed=embed_of(run), second=1.0), threshold=0.0)
    opened(browser, server.url)
    browser.choose("#files", files / "two.png")
    assert status(browser, "two.png: ") == "two.png: 2 faces" and browser.text(".face h2") == "1 none of these"
    assert "nearest: " in browser.text(".face header p") and "less than 100 %" in browser.text(".face header p")
    assert browser.run("document.querySelector('.box b').textContent") == "1 none of these"
    assert "2 none of these, the nearest is " in browser.run("document.querySelector('#picture').alt")

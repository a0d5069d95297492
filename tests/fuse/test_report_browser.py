"""The page in a real browser: what it shows is what metrics.json holds, and it asks nothing of anyone."""

import json
import os
import shutil
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix

from twofold.fuse.fuse import fuse
from twofold.fuse.report.report import report
from twofold.fuse.settings import resolve

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine (Debian: apt install chromium)")


@pytest.fixture
def reported(make_store, tmp_path):
    settings = resolve(changes={"epochs": 2, "lr": 3e-3, "hidden": 16, "seeds": 2, "batch_size": 64, "head": "gated"})
    fuse([make_store(noise=1.0)], settings, out=tmp_path / "run")
    for line in (tmp_path / "run" / "predictions.csv").read_text(encoding="utf-8").splitlines()[1:]:
        path = tmp_path / "root" / line.partition(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (90, 80, 120)).save(path)
    report([tmp_path / "run"], out=tmp_path / "r.html", store=tmp_path / "store", root=tmp_path / "root")
    return tmp_path


@pytest.fixture
def proxy():
    """A proxy that writes down what it is asked for, and refuses it: its address, and the requests."""
    requests = []

    class Refusal(BaseHTTPRequestHandler):
        def refuse(self):
            requests.append(self.path)
            self.send_error(502)

        do_GET = do_POST = do_CONNECT = do_HEAD = refuse

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()
    thread.join()


def browse(url: str, folder: Path, *options: str) -> str:
    """The document as the browser has it once it is loaded."""
    process = subprocess.Popen(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={folder}",
         *options, "--dump-dom", url], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        text, _ = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0
    return text.decode("utf-8")


def tables(document: str) -> dict[str, list[list[str]]]:
    """The cells of the body of each table, by its caption; of a cell with two lines the first."""
    body = document[document.index("<main>"):document.index("</main>") + len("</main>")]
    for tag in ("br", "wbr", "img", "input"):  # a browser writes these open: XML wants them closed
        body = "<".join(part if not part.startswith((f"{tag}>", f"{tag} ")) else part.replace(">", "/>", 1)
                        for part in body.split("<"))
    root = ElementTree.fromstring(body.replace("&nbsp;", " "))
    return {table.findtext("caption"): [[(cell.text or "") for cell in row] for row in table.find("tbody")]
            for table in root.iter("table")}


def test_what_the_browser_shows_is_what_the_run_holds(reported):
    shown = tables(browse((reported / "r.html").as_uri(), reported / "profile"))
    metrics = json.loads((reported / "run" / "metrics.json").read_text(encoding="utf-8"))
    rounded = lambda share: "" if share is None else f"{100 * share:.2f}"  # noqa: E731
    assert len(shown["All systems"]) == len(metrics["systems"]) == 3
    for row, system in zip(shown["All systems"], metrics["systems"], strict=True):
        spans = ["[{:.1f}, {:.1f}]".format(*(100 * end for end in system[f"{kind}_interval"]))
                 for kind in ("accuracy", "macro_f1")]
        assert row == [system["name"], rounded(system["accuracy"]), spans[0], rounded(system["macro_f1"]), spans[1],
                       rounded(system["uar"])]
        confusion = shown[f"{system['name']}: faces of a row called as a column"]
        assert [[int(cell) for cell in row[1:]] for row in confusion] == system["confusion"]
    fused = metrics["systems"][-1]
    assert shown["Each class, by the fusion"] == [
        [name, str(of["n"]), *(rounded(of[kind]) for kind in ("precision", "recall", "f1"))]
        for name, of in fused["per_class"].items()]
    assert shown["Mean contribution of each stream"] == [
        [name, f"{share:.2f}"] for name, share in fused["contributions"].items()]
    lines = [line.split(",") for line in (reported / "run" / "predictions.csv").read_text().splitlines()[1:]]
    pairs = [(line[2], line[3]) for line in lines if line[1] == "test"]
    assert confusion_matrix(*zip(*pairs, strict=True), labels=metrics["classes"]).tolist() == fused["confusion"]


def test_no_request_leaves_the_page(reported, proxy):
    address, requests = proxy
    through = (f"--proxy-server=http://{address}", "--proxy-bypass-list=<-loopback>")
    foreign = reported / "foreign.html"
    foreign.write_text('<p>Hello</p><img src="http://elsewhere.test/x.png">')
    assert "Hello" in browse(foreign.as_uri(), reported / "profile", *through)
    assert "http://elsewhere.test/x.png" in requests  # so a request would be seen
    requests.clear()
    document = browse((reported / "r.html").as_uri(), reported / "other-profile", *through)
    assert "<svg" in document and "data:image/jpeg" in document
    hosts = {urlsplit(asked if "://" in asked else f"//{asked}").hostname for asked in requests}
    # the browser asks its makers for updates and the time; without a script, what a page asks for stands in it
    assert not [host for host in hosts if host in document or not host.endswith((".google.com", ".googleapis.com"))]

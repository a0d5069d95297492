"""`weights get` against servers on this machine: a web server that breaks off, and one that imitates the hub."""

import hashlib
import http.server
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from tests.cache.servers import serve_web
from twofold.extract.encoders import presets

CONTENT = save({"numbers": torch.arange(600_000, dtype=torch.float32)})


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web server with `w.h5`, the address of the preset resnet50; an empty weights folder."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/w.h5").write_bytes(CONTENT)
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path / "weights"))
    for site in serve_web(tmp_path / "site"):
        changed = [replace(entry, url=f"{site.url}/w.h5") if entry.name == "resnet50" else entry
                   for entry in presets.PRESETS]
        monkeypatch.setattr(presets, "PRESETS", tuple(changed))
        yield site


def test_a_download_that_breaks_off_goes_on(cli, site, tmp_path):
    site.break_after = 1 << 20
    broken = cli("weights", "get", "resnet50")
    assert broken.returncode == 1 and "it goes on from 1.0 MB" in broken.stderr, broken.stderr
    assert "licence not stated" in broken.stderr.splitlines()[0]
    assert [path.name[:6] for path in (tmp_path / "weights").iterdir() if path.suffix == ".pth"] == [".part-"]
    site.break_after = None
    done = cli("weights", "get", "resnet50", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["sha256"] == hashlib.sha256(CONTENT).hexdigest() and not said["verified"]
    assert len(CONTENT) <= site.sent["w.h5"] < len(CONTENT) + (1 << 18)  # what was on its way when it broke comes twice
    assert Path(said["path"]).read_bytes() == CONTENT
    assert "is here already" in cli("weights", "get", "resnet50").stdout


@pytest.mark.parametrize("digest, content, said", [
    ("00ff", CONTENT, "not 00ff"), ("", b"<!DOCTYPE html><html>Sign in</html>", "is a web page, not weights")])
def test_nothing_is_kept_of_another_file(site, tmp_path, digest, content, said):
    from twofold.data.utils.errors import InputError
    from twofold.extract.download import fetch

    (tmp_path / "site/w.h5").write_bytes(content)
    with pytest.raises(InputError, match=said):
        fetch(f"{site.url}/w.h5", tmp_path / "weights/w.pth", sha256=digest)
    assert not list((tmp_path / "weights").glob("*w.pth*"))
    fetch(f"{site.url}/w.h5", tmp_path / "weights/w.pth", sha256=hashlib.sha256(CONTENT).hexdigest()[:8]) \
        if content == CONTENT else None


def test_what_no_program_can_fetch_names_the_page(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path))
    done = cli("weights", "get", "posterv2")
    assert done.returncode == 2 and "https://github.com/Talented-Q/POSTER_V2" in done.stderr
    done = cli("weights", "get", "resnet19")
    assert done.returncode == 2 and "unknown backbone" in done.stderr
    assert "or a face detector: yunet" in done.stderr
    assert "is here already" in cli("weights", "get", "starter").stdout


# --------------------------------------------------------------------------------------------------- an imitated hub
class Hub(http.server.BaseHTTPRequestHandler):
    """/ORG/NAME/resolve/REVISION/FILE from a folder; `gated` and unknown repositories answer as the hub does."""

    folder: Path

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        org, name, _, _, *file = self.path.strip("/").split("/")
        repository, path = self.folder / org / name, self.folder / org / name / "/".join(file)
        code, error = (401, "RepoNotFound") if not repository.is_dir() else (403, "GatedRepo") if org == "gated" else \
            (404, "EntryNotFound") if not path.is_file() else (200, "")
        content = path.read_bytes() if code == 200 else b"{}"
        self.send_response(code)
        for header, value in {"X-Repo-Commit": "0" * 40, "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                              "Content-Length": str(len(content)), "X-Error-Code": error}.items():
            if value:
                self.send_header(header, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of an imitated hub, which this process takes for the hub."""
    handler = type("Here", (Hub,), {"folder": tmp_path / "hub"})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {"ENDPOINT": address, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": str(tmp_path / "cache"),
                        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}"}.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path / "weights"))
    yield tmp_path / "hub"
    server.shutdown()
    server.server_close()


def test_models_of_a_hub(hub, cli, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    from PIL import Image

    from tests.test_zero_shot import SEVEN, saved

    for name in ("org/good", "org/nothing", "gated/model", "org/bin"):
        saved(hub / name, SEVEN)
    (hub / "org/good/README.md").write_text("---\nlicense: apache-2.0\n---\n")
    (hub / "org/nothing/preprocessor_config.json").unlink()
    (hub / "org/bin/model.safetensors").unlink()
    Image.new("RGB", (32, 32), (200, 90, 10)).save(tmp_path / "face.png")

    def predict(name):
        return cli("predict", "--zero-shot", f"hf:{name}", tmp_path / "face.png", "--cropped")

    for name, said in (("org/none", "there is no such repository"), ("gated/model", "it is gated"),
                       ("org/bin", "model.safetensors: the repository has no such file"),
                       ("org/nothing", "preprocessor_config.json: the repository has no such file")):
        done = predict(name)
        assert done.returncode == 2 and said in done.stderr, done.stderr
    got = cli("weights", "get", "hf:org/good")
    assert got.returncode == 0 and "licence apache-2.0" in got.stderr and "(as published)" in got.stdout, got.stderr
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = predict("org/good")
    assert done.returncode == 0 and "whole picture" in done.stdout, done.stderr

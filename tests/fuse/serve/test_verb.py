"""The verb itself: what it says at its start and at its end, and that it leaves nothing behind."""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuse.conftest import edit_record
from tests.fuse.serve.conftest import picture
from twofold.data.utils.errors import InputError
from twofold.fuse.serve.worker import open_finder

ROOT = Path(__file__).resolve().parents[3]


def test_from_start_to_ctrl_c_nothing_is_written(drawn, tmp_path):
    """The real command, a free port, a large upload, Ctrl-C."""
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "TWOFOLD_CACHE": str(tmp_path / "tmp/cache")}
    content = picture(width=1500, height=1500, kind="BMP")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "pipeline.py"), "serve", str(drawn / "gated"), "--cropped", "--port", "0",
         "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    try:
        port = None
        for line in process.stderr:
            if match := re.match(r"open http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)", line):
                port = int(match[1])
                break
        assert port
        written = {path for path in (tmp_path / "tmp").rglob("*") if path.is_file()}  # facts about encoders
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/recognise", content)
        answer = connection.getresponse()
        assert answer.status == 200 and b'"faces"' in answer.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0 and out == "served 1 pictures with 1 faces\n" and err == ""
    assert {path for path in (tmp_path / "tmp").rglob("*") if path.is_file()} == written
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]


@pytest.mark.parametrize("words, sentence", [
    (["--threshold", "2"], "--threshold 2 is not a probability"),
    (["--port", "70000"], "--port 70000 is not between 0 (a free one) and 65535"),
    (["--cropped", "--detector", "x.onnx"], "leave out --detector"),
    (["--cropped", "--examples", "nowhere"], "--examples nowhere: no such folder"),
    (["--cropped", "--examples", "."], "no pictures in it"),
    (["--detector", "nowhere.onnx"], "nowhere.onnx is not a file; or --cropped takes every picture for one face"),
    (["--cropped", "--host", "no.such.host.invalid"], "--host no.such.host.invalid: "),
])
def test_what_cannot_be_is_said_before_anything_is_served(cli, drawn, tmp_path, words, sentence):
    done = cli("serve", drawn / "gated", "--port", "0", *words, cwd=tmp_path)
    assert done.returncode == 2 and sentence in done.stderr and "open http" not in done.stderr and done.stdout == ""


def test_a_port_that_is_taken(cli, drawn):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = cli("serve", drawn / "gated", "--cropped", "--port", port)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port} (Address already in use): choose another --port" in done.stderr


def test_weights_that_are_not_there(cli, drawn, tmp_path, monkeypatch):
    """A run on published weights, on a machine without them: a sentence at the start, not at the first picture."""
    monkeypatch.setenv("TWOFOLD_WEIGHTS", str(tmp_path))
    run = tmp_path / "run"
    shutil.copytree(drawn / "gated", run)
    edit_record(run, lambda record: [stream["recipe"].update(weights="sha256:" + "5" * 64)
                                     for stream in record["streams"]])
    done = cli("serve", run, "--cropped", "--port", "0")
    assert done.returncode == 2 and "timm:test_resnet" in done.stderr and "--weights" in done.stderr


@pytest.mark.parametrize("module", ["uvicorn", "starlette.applications"])
def test_a_library_that_is_not_there(cli, drawn, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "twofold.fuse.serve.app", raising=False)
    done = cli("serve", drawn / "gated", "--port", "0")
    assert done.returncode == 2 and "pip install 'twofold[serve]'" in done.stderr


@pytest.mark.parametrize("module", ["cv2", "isal"])
def test_no_opencv_is_a_sentence(tmp_path, monkeypatch, module):
    (tmp_path / "yunet.onnx").touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"footage.*or --cropped takes every picture for one face"):
        open_finder((), tmp_path / "yunet.onnx", False)

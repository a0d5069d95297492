"""Faces that are detected while others are used."""

import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace

from twofold.data.faces import in_memory
from twofold.data.faces.in_memory import FaceStream
from twofold.data.faces.settings import CropSettings
from twofold.data.faces.sources import Source


def test_a_stream_ends_when_told_to_whatever_is_being_decoded(monkeypatch):
    """Detection hangs in a picture; who takes faces is told to stop a moment later."""
    hangs, over = Event(), Event()

    def detect(*_):
        hangs.set()
        over.wait(60)
        yield from ()

    monkeypatch.setattr(in_memory, "detect_faces", detect)
    config = SimpleNamespace(settings=CropSettings())
    stream = FaceStream([Source("a.jpg", Path("a.jpg"), video=False)], config)
    try:
        began = time.monotonic()
        assert list(stream.chunks(hangs.is_set)) == [] and hangs.is_set() and time.monotonic() - began < 30
    finally:
        over.set()
